"""`ctrlsynth concepts caption, flag, diversity`: what asks a language model about concepts, and how varied
the answers are."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from .concepts import concepts
from .options import Json
from .output import plain, print_json, say

__all__ = ["concepts"]

BankFile = Annotated[Path, typer.Argument(help="a bank: .parquet, .txt, .csv or .json", metavar="BANK")]
Llm = Annotated[
    str,
    typer.Option(
        "--llm",
        help="as models.llm in a recipe: smollm2, or '{vllm: NAME, temperature: 0.7}'",
        metavar="SPEC",
    ),
]


@concepts.command()
def caption(
    bank: BankFile,
    llm: Llm,
    out: Annotated[
        Path, typer.Option("--out", help="the run's folder; the same command goes on with it", metavar="DIR")
    ],
    n: Annotated[int, typer.Option("--n", help="captions a concept", metavar="N", min=1)] = 1,
    limit: Annotated[
        int | None, typer.Option("--limit", help="only the first N concepts", metavar="N", min=1)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="all chance hangs on it")] = 0,
    as_json: Json = False,
) -> None:
    """Write captions about every concept of a bank: a run of the path concept, text*, cleaned and counted. A
    model that samples does it as the paper's (temperature 0.7, top_p 0.95, both penalties 1.0), unless --llm
    says otherwise."""
    from ..api.run import run
    from ..lang.replies import taken_off
    from ..recipe.file import parse_recipe
    from .show import progress, show_ledger

    source = {"concepts": str(bank.absolute())}
    data = {
        "name": "captions",
        "source": source,
        "models": {"llm": _sampled(_spec(llm))},
        "paths": {"captions": ["concept", "text*"]},
    }
    recipe = parse_recipe({**data, "variants": {"write": n}, "judge": None, "seed": seed}, "concepts caption")
    with progress(quiet=as_json) as watcher:
        made = run(recipe, out, limit=limit, watcher=watcher)
    off = taken_off(made.rows("write", ["status", "raw"]))
    if as_json:
        print_json(
            {
                "run": str(made.root),
                "ledger": [{**plain(r), "adds_up": r.adds_up} for r in made.ledger()],
                "taken_off": off,
            }
        )
        return
    show_ledger(made)
    if off:
        say(
            "taken off captions that stay: "
            + ", ".join(f"{what} of {number:,}" for what, number in off.items())
        )


@concepts.command()
def flag(
    bank: BankFile,
    out: Annotated[
        Path, typer.Option("--out", help="the bank with its flags, .parquet; new", metavar="FILE")
    ],
    llm: Annotated[
        str | None,
        typer.Option(
            "--llm", help="as models.llm in a recipe; without it only the lists decide", metavar="SPEC"
        ),
    ] = None,
    blocklist: Annotated[
        Path | None, typer.Option("--blocklist", help="words and phrases, one a line", metavar="FILE")
    ] = None,
    allow: Annotated[
        Path | None,
        typer.Option("--allow", help="entries that are never flagged, one a line", metavar="FILE"),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work", help="where the answers are kept, to go on with; FILE.run unless given", metavar="DIR"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a language model which concepts are unfit for everyone's eyes, and take a block list. Flagged ones
    stay in the bank, unused."""
    from ..api.run import run
    from ..concepts import safety
    from ..concepts.bank import read_bank, write_bank
    from .show import progress

    if out.suffix != ".parquet":
        raise UserError(f"{out}: flags are kept in a .parquet bank")
    if out.exists():
        raise UserError(f"{out}: is there already; give another name")
    if llm is None and blocklist is None:
        raise UserError("concepts flag: name a model with --llm, or words with --blocklist, or both")
    lists = [safety.read_words(path) if path is not None else [] for path in (blocklist, allow)]
    told: Any = ()
    if llm is not None:
        with progress(quiet=as_json) as watcher:
            made = run(
                safety.question(bank, _spec(llm)), work or out.with_name(out.name + ".run"), watcher=watcher
            )
        told = safety.answers(made.rows("write", ["source_key", "status", "reason", "fields"]))
    table, flags = safety.flag(read_bank(bank), told, *lists)
    write_bank(table, out)
    if as_json:
        print_json({**plain(flags), "share": flags.share, "out": str(out)})
        return
    by = (
        f"{flags.by_model:,} by {llm or 'earlier flags'}, {flags.by_list:,} by the block list; "
        f"{flags.allowed:,} allowed"
    )
    number = f"{flags.by_model + flags.by_list:,} of {flags.entries:,} concepts are flagged"
    say(f"{number} ({flags.share:.2%}; the paper: {safety.PAPER:.2%}): {by}")
    if flags.unanswered:
        say(
            "not answered, so not flagged: "
            + ", ".join(f"{n:,} {why}" for why, n in flags.unanswered.items())
        )
    if llm is not None:
        say(
            "A model's answers are no judgement to rely on, a small one's least of all: look through the "
            "column `reason`."
        )
    say(f"{out}")


@concepts.command()
def diversity(
    places: Annotated[list[Path], typer.Argument(help="runs, or files of captions", metavar="RUN|FILE...")],
    bank: Annotated[
        Path | None,
        typer.Option("--bank", help="count the concepts of this bank in the captions", metavar="BANK"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how varied captions are: distinct n-grams, self-similarity, concepts a caption. Several sets
    stand side by side."""
    from ..concepts.diversity import measure_place
    from .show import show_diversity

    found = {str(place): measure_place(place, bank) for place in places}
    if as_json:
        print_json({name: plain(d) for name, d in found.items()})
        return
    show_diversity(found)


def _sampled(spec: Any) -> Any:
    """The model with the paper's sampling: those of its options that the backend takes, where the spec names
    none of them."""
    from ..lang.replies import SAMPLING
    from ..models.registry import model_class, parse_spec

    named = parse_spec(spec, "llm", "--llm")
    if SAMPLING.keys() & named.options.keys():
        return spec
    takes = inspect.signature(model_class(named, "llm", "--llm")).parameters
    return {
        named.backend: named.model,
        **named.options,
        **{name: value for name, value in SAMPLING.items() if name in takes},
    }


def _spec(text: str) -> Any:
    """`smollm2`, `naive:clip7`, or a mapping in YAML."""
    if not text.lstrip().startswith("{"):
        return text
    from ..recipe.file import read_yaml

    return read_yaml(text, "--llm")
