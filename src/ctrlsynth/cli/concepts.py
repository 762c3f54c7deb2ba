"""`ctrlsynth concepts ...`: SynthCLIP's route on the command line. As in `cli.py`, every command imports what
it needs when it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from .options import Engine, Json
from .output import plain, print_json, say

concepts = typer.Typer(
    no_args_is_help=True,
    help="From concepts to captions (SynthCLIP): a bank of concepts, which of them captions hold, a "
    "balanced subset, its coverage.\n\n"
    "concepts build --out bank.parquet; concepts match captions.txt --bank bank.parquet --out matches/;\n"
    "concepts balance matches/ --size 100000 --out subset.parquet; concepts coverage matches/ --vs "
    "subset.parquet",
)

Bank = Annotated[
    Path,
    typer.Option(
        "--bank", help="a bank: .parquet, .txt, .csv, or .json as MetaCLIP's metadata.json", metavar="BANK"
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="what the draw hangs on, beside the ids")]
EngineOption = Annotated[
    Engine, typer.Option("--engine", help="ray: parts as tasks of a cluster; files must be shared")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="of the Ray cluster; else RAY_ADDRESS, one that runs here, or a Ray of this machine alone",
    ),
]
Files = list[Path] | None


class MatchMode(StrEnum):
    """How texts and entries are compared; see `match.py`."""

    EXACT = "exact"
    LOWER = "lower"
    LEMMA = "lemma"


@concepts.command()
def build(
    ctx: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="the bank to write: .parquet keeps all; .txt, .json, .csv", metavar="FILE"
        ),
    ],
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source", help="only these: list, numbers, wordnet, unigrams, bigrams, titles", metavar="NAME"
        ),
    ] = None,
    add: Annotated[
        Files, typer.Option("--add", help="a list of your own, or another bank; comes first", metavar="FILE")
    ] = None,
    unigrams: Annotated[Files, typer.Option("--unigrams", help="'word count' lines", metavar="FILE")] = None,
    bigrams: Annotated[
        Files, typer.Option("--bigrams", help="'first second count' lines, with --unigrams", metavar="FILE")
    ] = None,
    pageviews: Annotated[
        Files, typer.Option("--pageviews", help="hourly or daily pageviews files", metavar="FILE")
    ] = None,
    titles: Annotated[
        Files, typer.Option("--titles", help="all-titles list: only these titles", metavar="FILE")
    ] = None,
    min_count: Annotated[int, typer.Option("--min-count", help="least count of a unigram")] = 100,
    min_pmi: Annotated[
        float | None,
        typer.Option("--min-pmi", help="least PMI of a bigram; 30, or 8 with symspellpy's counts"),
    ] = None,
    min_views: Annotated[int, typer.Option("--min-views", help="least views of a title")] = 70,
    cap: Annotated[
        int, typer.Option("--cap", help="entries at most; earlier sources come first", min=1)
    ] = 500_000,
    from_: Annotated[
        Path | None, typer.Option("--from", help="cut a sub-bank from this bank instead", metavar="BANK")
    ] = None,
    found_in: Annotated[
        Path | None, typer.Option("--found-in", help="keep what a folder of matches has seen", metavar="DIR")
    ] = None,
    random: Annotated[
        int | None, typer.Option("--random", help="keep N entries drawn at random", metavar="N", min=1)
    ] = None,
    under: Annotated[
        str | None, typer.Option("--under", help="keep a WordNet class and what is below it: animal.n.01")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make a bank of concepts: WordNet, words, pairs and titles by count, numbers; or cut a sub-bank from
    one.

    Without --unigrams, symspellpy's counts stand in for Wikipedia's.
    """
    from ..concepts import bank as banks
    from ..concepts.gather import Wanted, gather

    if out.exists():
        raise UserError(f"{out}: is there already; give another name")
    told: list[Any] = []
    if from_ is not None:
        _only_cut(ctx)
        table = banks.distinct(banks.read_bank(from_))
    else:
        wanted = Wanted(
            tuple(source or banks.SOURCES), add or (), unigrams or (), bigrams or (),
            pageviews or (), titles or (),
            min_count=min_count, min_pmi=min_pmi, min_views=min_views,
        )  # fmt: skip
        table, told = banks.build(gather(wanted), cap)
    whole = table.num_rows
    table = _sub_bank(table, found_in, random, under, seed)
    banks.write_bank(table, out)
    made = banks.load_bank(out)
    if as_json:
        print_json(
            {
                "bank": str(out),
                "entries": len(made.entries),
                "digest": made.digest,
                "sources": [plain(t) for t in told],
            }
        )
        return
    for one in told:
        dropped = "".join(f", {n:,} {reason}" for reason, n in one.dropped.items())
        over = f", {one.over_cap:,} over the cap" if one.over_cap else ""
        say(f"{one.source:9} {one.new:9,} new of {one.given:,}; {one.repeats:,} stood already{dropped}{over}")
    if table.num_rows < whole:
        say(f"sub-bank: {table.num_rows:,} of {whole:,} entries")
    say(f"{len(made.entries):,} entries, digest {made.digest}: {out}")


def _only_cut(ctx: typer.Context) -> None:
    """UserError for options of `concepts build` that say how a bank is made, where one is cut."""
    cuts = {"out", "from_", "found_in", "random", "under", "seed", "as_json"}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name not in cuts and source is not None and source.name == "COMMANDLINE":
            raise UserError(f"{parameter.opts[0]}: says how a bank is made; --from cuts one that is there")


def _sub_bank(table: Any, found_in: Path | None, random: int | None, under: str | None, seed: int) -> Any:
    from ..concepts import bank as banks

    if found_in is not None:
        from ..concepts.coverage import count_set
        from ..concepts.folder import MatchFolder

        table = banks.found_part(
            table, MatchFolder.open(found_in).bank().entries, count_set(found_in).counts.tolist()
        )
    if under is not None:
        table = banks.subtree(table, under)
    return banks.random_part(table, random, seed) if random is not None else table


@concepts.command()
def match(
    captions: Annotated[
        list[str],
        typer.Argument(
            help="parquet, jsonl, txt, csv, tsv or tar files (.gz .bz2 .xz .zst too), a folder of them, or "
            "a run"
        ),
    ],
    bank: Bank,
    out: Annotated[Path, typer.Option("--out", help="the folder of matches", metavar="DIR")],
    mode: Annotated[
        MatchMode,
        typer.Option("--mode", help="exact: MetaCLIP's rule, case counts; lower, lemma: deviations"),
    ] = MatchMode.EXACT,
    caption_column: Annotated[
        str | None, typer.Option("--caption-column", help="found by its usual names unless given")
    ] = None,
    key_column: Annotated[
        str | None, typer.Option("--key-column", help="column whose value is the caption's id; unique")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="threads", min=1)] = 1,
    engine: EngineOption = Engine.local,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Find which entries of a bank each caption holds. Interrupted, the same command goes on; balancing again
    costs no matching."""
    from ..concepts.corpus import open_corpus
    from ..concepts.folder import MatchFolder, match_local, prepare
    from ..concepts.match import Matcher
    from .show import counting

    _check_address(engine, address)
    parts = open_corpus(captions, caption_column, key_column)
    loaded, left = prepare(parts, bank, mode.value, out)
    rows = [p.rows for p in left]
    total = sum(n for n in rows if n is not None) if None not in rows else None
    with counting("captions", total, quiet=as_json) as tick:
        if left and engine is Engine.ray:
            _match_on_ray(left, bank, mode.value, out, tick, address)
        elif left:
            match_local(left, Matcher(loaded.entries, mode.value), out, workers, tick)
    counts = MatchFolder.open(out).counts()
    if as_json:
        print_json(
            {
                "matches": str(out),
                "bank": loaded.digest,
                "dropped": loaded.dropped,
                "noted": loaded.noted,
                **plain(counts),
            }
        )
        return
    for what, why in (("left out of", loaded.dropped), ("noted in", loaded.noted)):
        if why:
            say(f"{what} the bank: " + ", ".join(f"{n:,} {reason}" for reason, n in why.items()))
    say(
        f"{counts.texts:,} captions, {counts.matched:,} hold an entry, "
        f"{counts.pairs / max(counts.texts, 1):.2f} entries a caption: {out}"
    )
    if counts.aside:
        say("set aside: " + ", ".join(f"{n:,} {reason}" for reason, n in counts.aside.items()))
        for file, row, reason in counts.first:
            say(f"  {file} row {row}: {reason}")


def _match_on_ray(parts: Any, bank: Path, mode: Any, out: Path, tick: Any, address: str | None) -> None:
    from ..concepts.folder import match_ray

    with _on_ray([out], address):
        match_ray(parts, bank, mode, out, tick)


def _check_address(engine: Engine, address: str | None) -> None:
    if address is not None and engine is not Engine.ray:
        raise UserError(f"--address {address}: goes with --engine ray")


@contextmanager
def _on_ray(folders: Sequence[Path], address: str | None) -> Iterator[Any]:
    """The cluster, whose nodes all see these folders; gives `map` on it."""
    from ..models.installed import need

    need("ray", "ray", "--engine ray")
    from ..runs.ray import connected, every_node_sees, spread

    with connected(address):
        for folder in folders:
            every_node_sees(folder)
        yield spread


@concepts.command()
def balance(
    matches: Annotated[Path, typer.Argument(help="a folder of matches", metavar="DIR")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help=".parquet (ids, texts, entries), .jsonl, .csv (concepts as a JSON list) or .txt",
            metavar="FILE",
        ),
    ],
    size: Annotated[
        int | None, typer.Option("--size", help="this many captions, as the expected number", metavar="M")
    ] = None,
    t: Annotated[
        float | None,
        typer.Option("--t", help="the threshold itself; SynthCLIP's sample uses 10", metavar="T"),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="the ablation: --size captions whatever they hold")
    ] = False,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="equal captions count each")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw a balanced subset: few captions of each frequent concept, all of the rare ones. A smaller size is
    a part of a larger one."""
    from ..concepts import balance as balancing
    from ..concepts.folder import MatchFolder

    folder = MatchFolder.open(matches)
    balancing.check_out(out)
    with _passes(folder.counts().texts, quiet=as_json, rounds=5 if t is None else 1) as tell:
        plan = balancing.plan(
            folder,
            size=size,
            t=t,
            random=random,
            seed=seed,
            duplicates=keep_duplicates,
            say=tell,
        )
    told = plan.told
    if not as_json:
        at = "at random" if told.t is None else f"t = {told.t:g}"
        lost = f"{told.duplicates:,} duplicates"
        say(
            f"{told.captions:,} captions, {lost}, {told.pool:,} in the pool; {at}: {told.expected:,.0f} "
            f"expected"
        )
    with _passes(folder.counts().texts, quiet=as_json) as tell:
        told = balancing.sample(plan, out, say=tell)
    if as_json:
        print_json({"subset": str(out), **plain(told)})
    else:
        say(f"{told.kept:,} kept: {out}")


@contextmanager
def _passes(captions: int, quiet: bool, rounds: int = 1) -> Iterator[Any]:
    """A counter a pass over all captions, one at a time; t is found in `rounds` passes."""
    from .show import counting

    open_: dict[str, Any] = {}

    def tell(name: str, rows: int) -> None:
        if name not in open_:
            close()
            manager = counting(name, captions * (rounds if name == "sizes" else 1), quiet=quiet)
            open_[name] = (manager, manager.__enter__())
        open_[name][1](rows)

    def close() -> None:
        for manager, _ in open_.values():
            manager.__exit__(None, None, None)
        open_.clear()

    try:
        yield tell
    finally:
        close()


@concepts.command()
def coverage(
    set_: Annotated[Path, typer.Argument(help="a folder of matches, or a .parquet subset", metavar="SET")],
    vs: Annotated[
        Path | None,
        typer.Option("--vs", help="another set matched with the same bank: after balancing", metavar="SET"),
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option("--bank", help="the names, for a subset alone; a folder has its own", metavar="BANK"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="write head and tail curves (.png or .svg)", metavar="FILE")
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(
            "--lists", help="write never-seen.txt and over-represented.csv of each set there", metavar="DIR"
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", help="entries to show of each list", min=0)] = 10,
    engine: EngineOption = Engine.local,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Show how well captions cover a bank: entries seen at least 1, 5 and 25 times, what is never seen and
    what is seen too often."""
    from ..concepts import coverage as cover
    from ..concepts.coverage import check_new, names_of, report, write_lists
    from ..report.figures import head_tail_figure, write_figure

    _check_address(engine, address)
    check_new(1 if vs is None else 2, plot, lists)
    paths = [set_] if vs is None else [set_, vs]
    with (
        _on_ray([p if p.is_dir() else p.absolute().parent for p in paths], address)
        if engine is Engine.ray
        else nullcontext(map) as each
    ):
        sets = [cover.count_set(path, each) for path in paths]
    if vs is not None:
        cover.check_same_matching(*sets)
    names = names_of([set_, *([vs] if vs else [])], bank, sets[0].bank_digest)
    if plot is not None:
        write_figure(head_tail_figure(sets), plot)
    if lists is not None:
        write_lists(sets, names, lists)
    if as_json:
        print_json(report(sets, names, top))
        return
    from .show import show_coverage

    show_coverage(report(sets, names, top))
    for path in (plot, lists):
        if path is not None:
            say(str(path))
