"""Commands of `ctrlsynth concepts` about captions: caption and flag ask a language model, diversity measures
the captions."""

import inspect
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ..errors import UserError
from .options import BankFile, Json, Seed
from .output import answer, ledger_rows, plain
from .progress import run_bars
from .show import show_diversity, show_ledger

LLM = "like models.llm in a recipe: smollm2, or '{vllm: NAME, temperature: 0.7}'"


def caption(
    bank: BankFile,
    *,
    llm: Annotated[str, Option(help=LLM, metavar="SPEC")],
    out: Annotated[Path, Option(help="folder of the run; the same command continues it", metavar="DIR")],
    n: Annotated[int, Option("--n", help="captions per concept", metavar="N", min=1)] = 1,
    limit: Annotated[int | None, Option(help="only the first N concepts", metavar="N", min=1)] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write captions about every concept of a bank.

    This is a run of the path [concept, text*]. Samples as the paper does (temperature 0.7, top_p 0.95, both
    penalties 1.0) if the model can, unless --llm says otherwise.
    """
    from ..api.run import run
    from ..lang.replies import taken_off
    from ..recipe.file import parse_recipe, read_yaml

    data = {
        "name": "captions", "source": {"concepts": str(bank.absolute())}, "seed": seed, "judge": None,
        "models": {"llm": _sampled(read_yaml(llm, "--llm"))}, "paths": {"captions": ["concept", "text*"]},
        "variants": {"write": n},
    }  # fmt: skip
    with run_bars(quiet=as_json) as watcher:
        made = run(parse_recipe(data, "concepts caption"), out, limit=limit, watcher=watcher)
    removed = taken_off(made.rows("write", ["status", "raw"]))
    facts = {"run": str(made.root), "ledger": ledger_rows(made), "taken_off": removed}
    counts = ", ".join(f"{what} of {number:,}" for what, number in removed.items())
    lines = [f"removed from captions that are kept: {counts}"] if removed else []
    answer(as_json, facts, lambda: show_ledger(made), *lines)


def flag(
    concepts: BankFile,
    *,
    out: Annotated[Path, Option(help="the new bank with its flags, .parquet", metavar="FILE")],
    llm: Annotated[
        str | None, Option(help=f"{LLM}; without it only the lists decide", metavar="SPEC")
    ] = None,
    blocklist: Annotated[
        Path | None, Option(help="words and phrases to flag, one per line", metavar="FILE")
    ] = None,
    allow: Annotated[Path | None, Option(help="entries never to flag, one per line", metavar="FILE")] = None,
    work: Annotated[
        Path | None, Option(help="folder for the model's answers (default: FILE.run)", metavar="DIR")
    ] = None,
    as_json: Json = False,
) -> None:
    """Flag concepts that are unsafe to show, by a language model, a block list, or both.

    Flagged concepts stay in the bank and are not used.
    """
    from ..api.run import run
    from ..concepts import bank, safety
    from ..recipe.file import read_yaml

    if out.suffix != ".parquet":
        raise UserError(f"{out}: flags are kept in a .parquet bank")
    if out.exists():
        raise UserError(f"{out}: already exists; give another name")
    if llm is None and blocklist is None:
        raise UserError("concepts flag: name a model with --llm, or words with --blocklist, or both")
    lists = [safety.read_words(path) if path is not None else [] for path in (blocklist, allow)]
    answers: Any = ()
    if llm is not None:
        with run_bars(quiet=as_json) as watcher:
            folder = work or out.with_name(out.name + ".run")
            made = run(safety.question(concepts, read_yaml(llm, "--llm")), folder, watcher=watcher)
        answers = safety.answers(made.rows("write", ["source_key", "status", "reason", "fields"]))
    table, flags = safety.flag(bank.read_bank(concepts), answers, *lists)
    bank.write_bank(table, out)
    facts = {**plain(flags), "share": flags.share, "out": str(out)}
    reasons = ", ".join(f"{n:,} {why}" for why, n in flags.unanswered.items())
    lines: list[str | None] = [
        f"{flags.by_model + flags.by_list:,} of {flags.entries:,} concepts are flagged ({flags.share:.2%}; "
        f"the paper: {safety.PAPER:.2%}): {flags.by_model:,} by {llm or 'earlier flags'}, {flags.by_list:,} "
        f"by the block list; {flags.allowed:,} allowed",
        f"not answered, so not flagged: {reasons}" if reasons else "",
        "Do not rely on a model's answers, least of all a small one's: check the column `reason`."
        if llm
        else "",
        str(out),
    ]
    answer(as_json, facts, *filter(None, lines))


def diversity(
    places: Annotated[list[Path], Argument(help="runs, or files of captions", metavar="RUN|FILE...")],
    bank: Annotated[
        Path | None, Option(help="also count the concepts of this bank in the captions", metavar="BANK")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how varied captions are: distinct n-grams, self-similarity, concepts per caption."""
    from ..concepts.diversity import measure_place

    found = {str(place): measure_place(place, bank) for place in places}
    answer(as_json, found, lambda: show_diversity(found))


def _sampled(spec: Any) -> Any:
    """Adds the paper's sampling options to a model spec: those that the backend takes, unless the spec
    names one of them."""
    from ..lang.replies import SAMPLING
    from ..models.registry import model_class, parse_spec

    named = parse_spec(spec, "llm", "--llm")
    if SAMPLING.keys() & named.options.keys():
        return spec
    takes = inspect.signature(model_class(named, "llm", "--llm")).parameters
    sampling = {name: value for name, value in SAMPLING.items() if name in takes}
    return {named.backend: named.model, **named.options, **sampling}
