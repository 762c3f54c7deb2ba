"""Commands of `ctrlsynth concepts` that need no language model: build, match, balance, coverage."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from ..errors import UserError
from .options import Address, Bank, Engine, Json, Plot, Seed
from .output import answer, plain, say
from .progress import counting, passes
from .show import show_coverage

Files = list[Path] | None
Names = list[str] | None


def build(
    ctx: typer.Context,
    *,
    out: Annotated[Path, Option(help="the new bank: .parquet (keeps all facts), .txt, .json or .csv")],
    source: Annotated[
        Names, Option(help="only this source: list, numbers, wordnet, unigrams, bigrams or titles")
    ] = None,
    add: Annotated[Files, Option(help="a list or bank of your own; comes first", metavar="FILE")] = None,
    unigrams: Annotated[Files, Option(help="'word count' lines", metavar="FILE")] = None,
    bigrams: Annotated[Files, Option(help="'first second count' lines; needs --unigrams")] = None,
    pageviews: Annotated[Files, Option(help="hourly or daily pageviews files", metavar="FILE")] = None,
    titles: Annotated[Files, Option(help="all-titles list: only these titles", metavar="FILE")] = None,
    min_count: Annotated[int, Option(help="lowest count of a unigram")] = 100,
    min_pmi: Annotated[
        float | None, Option(help="lowest PMI of a bigram (default: 30, or 8 with symspellpy's counts)")
    ] = None,
    min_views: Annotated[int, Option(help="lowest number of views of a title")] = 70,
    cap: Annotated[int, Option(help="most entries; earlier sources have priority", min=1)] = 500_000,
    from_: Annotated[Path | None, Option("--from", help="cut a part of this bank instead")] = None,
    found_in: Annotated[Path | None, Option(help="keep entries found by this folder of matches")] = None,
    random: Annotated[int | None, Option(help="keep N entries at random", metavar="N", min=1)] = None,
    under: Annotated[str | None, Option(help="keep a WordNet class and all below it: animal.n.01")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Build a bank of concepts, or cut a part from a bank.

    The sources are WordNet, frequent words, word pairs, titles and numbers.
    Without --unigrams, symspellpy's word counts replace Wikipedia's.
    """
    from ..concepts import bank, gather

    if out.exists():
        raise UserError(f"{out}: already exists; give another name")
    added: list[Any] = []
    if from_ is not None:
        _check_cut(ctx)
        table = bank.distinct(bank.read_bank(from_))
    else:
        wanted = gather.Wanted(
            tuple(source or bank.SOURCES), add or (), unigrams or (), bigrams or (),
            pageviews or (), titles or (), min_count=min_count, min_pmi=min_pmi, min_views=min_views,
        )  # fmt: skip
        table, added = bank.build(gather.gather(wanted), cap)
    part = _part_of_bank(table, found_in, random, under, seed)
    bank.write_bank(part, out)
    _show_bank(out, added, table.num_rows, as_json)


def _check_cut(ctx: typer.Context) -> None:
    """UserError for options that say how to build a bank, given together with --from."""
    cuts = {"out", "from_", "found_in", "random", "under", "seed", "as_json"}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name not in cuts and source is not None and source.name == "COMMANDLINE":
            raise UserError(f"{parameter.opts[0]}: builds a bank, but --from cuts an existing one")


def _part_of_bank(table: Any, found_in: Path | None, random: int | None, under: str | None, seed: int) -> Any:
    from ..concepts import bank, coverage, folder

    if found_in is not None:
        entries = folder.MatchFolder.open(found_in).bank().entries
        table = bank.found_part(table, entries, coverage.count_set(found_in).counts.tolist())
    if under is not None:
        table = bank.subtree(table, under)
    return bank.random_part(table, random, seed) if random is not None else table


def _show_bank(out: Path, added: list[Any], whole: int, as_json: bool) -> None:
    from ..concepts.bank import load_bank

    made = load_bank(out)
    facts = {"bank": str(out), "entries": len(made.entries), "digest": made.digest}
    lines = []
    for one in added:
        dropped = "".join(f", {n:,} {reason}" for reason, n in one.dropped.items())
        over = f", {one.over_cap:,} over the cap" if one.over_cap else ""
        lines.append(
            f"{one.source:9} {one.new:9,} new of {one.given:,}; {one.repeats:,} known already{dropped}{over}"
        )
    if len(made.entries) < whole:
        lines.append(f"part of a bank: {len(made.entries):,} of {whole:,} entries")
    lines.append(f"{len(made.entries):,} entries, digest {made.digest}: {out}")
    answer(as_json, {**facts, "sources": [plain(one) for one in added]}, *lines)


def match(
    captions: Annotated[
        list[str],
        Argument(
            help="parquet, jsonl, txt, csv, tsv or tar files (also .gz .bz2 .xz .zst), a folder of them, or "
            "a run"
        ),
    ],
    *,
    bank: Bank,
    out: Annotated[Path, Option(help="folder for the matches", metavar="DIR")],
    mode: Annotated[
        Literal["exact", "lower", "lemma"],
        Option(help="exact: MetaCLIP's rule, case-sensitive; lower and lemma differ from it"),
    ] = "exact",
    caption_column: Annotated[
        str | None, Option(help="column with the captions (default: by its usual names)")
    ] = None,
    key_column: Annotated[str | None, Option(help="column with unique ids of the captions")] = None,
    workers: Annotated[int, Option(help="threads", min=1)] = 1,
    engine: Engine = "local",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Find the entries of a bank in each caption.

    If it was interrupted, the same command continues. The matches serve for any number of subsets.
    """
    from ..concepts import corpus, folder
    from ..concepts.match import Matcher

    _check_address(engine, address)
    parts = corpus.open_corpus(captions, caption_column, key_column)
    loaded, left = folder.prepare(parts, bank, mode, out)
    rows = [p.rows for p in left]
    total = sum(n for n in rows if n is not None) if None not in rows else None
    with counting("captions", total, quiet=as_json) as tick:
        if left and engine == "ray":
            with _on_ray([out], address):
                folder.match_ray(left, bank, mode, out, tick)
        elif left:
            folder.match_local(left, Matcher(loaded.entries, mode), out, workers, tick)
    _show_matches(out, loaded, as_json)


def _show_matches(out: Path, bank: Any, as_json: bool) -> None:
    from ..concepts.folder import MatchFolder

    counts = MatchFolder.open(out).counts()
    facts = {"matches": str(out), "bank": bank.digest, "dropped": bank.dropped, "noted": bank.noted}
    per_caption = f"{counts.pairs / max(counts.texts, 1):.2f} entries per caption"
    answer(
        as_json,
        {**facts, **plain(counts)},
        *_reasons("left out of the bank", bank.dropped),
        *_reasons("noted in the bank", bank.noted),
        f"{counts.texts:,} captions, {counts.matched:,} hold an entry, {per_caption}: {out}",
        *_reasons("skipped", counts.aside),
        *(f"  {file} row {row}: {reason}" for file, row, reason in counts.first),
    )


def _reasons(what: str, counts: Mapping[str, int]) -> list[str]:
    """A line with the reasons and their counts, if there are any."""
    return [f"{what}: " + ", ".join(f"{n:,} {reason}" for reason, n in counts.items())] if counts else []


def _check_address(engine: str, address: str | None) -> None:
    if address is not None and engine != "ray":
        raise UserError(f"--address {address}: needs --engine ray")


@contextmanager
def _on_ray(folders: Sequence[Path], address: str | None) -> Iterator[Any]:
    """Connects to a cluster whose nodes all see these folders; yields a `map` that runs on it."""
    from ..models.installed import need

    need("ray", "ray", "--engine ray")
    from ..runs.ray import connected, every_node_sees, spread

    with connected(address):
        for folder in folders:
            every_node_sees(folder)
        yield spread


def balance(
    matches: Annotated[Path, Argument(help="a folder of matches", metavar="DIR")],
    *,
    out: Annotated[
        Path,
        Option(
            help=".parquet (ids, texts, entries), .jsonl, .csv (concepts as JSON) or .txt", metavar="FILE"
        ),
    ],
    size: Annotated[int | None, Option(help="expected number of captions", metavar="M")] = None,
    t: Annotated[
        float | None, Option("--t", help="the threshold t instead of a size; SynthCLIP uses 10", metavar="T")
    ] = None,
    random: Annotated[
        bool, Option("--random", help="ablation: draw --size captions at random, whatever they hold")
    ] = False,
    keep_duplicates: Annotated[
        bool, Option("--keep-duplicates", help="keep captions that occur more than once")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw a balanced subset: few captions of each frequent concept, all captions of rare ones.

    With one seed a smaller subset is a part of a larger one.
    """
    from ..concepts import balance as balancing
    from ..concepts.folder import MatchFolder

    folder = MatchFolder.open(matches)
    balancing.check_out(out)
    captions = folder.counts().texts
    with passes(captions, quiet=as_json, sizes=captions * (5 if t is None else 1)) as tick:
        plan = balancing.plan(
            folder, size=size, t=t, random=random, seed=seed, duplicates=keep_duplicates, say=tick
        )
    facts = plan.told
    if not as_json:
        rule = "at random" if facts.t is None else f"t = {facts.t:g}"
        say(
            f"{facts.captions:,} captions, {facts.duplicates:,} duplicates, {facts.pool:,} in the pool; "
            f"{rule}: {facts.expected:,.0f} expected"
        )
    with passes(captions, quiet=as_json) as tick:
        facts = balancing.sample(plan, out, say=tick)
    answer(as_json, {"subset": str(out), **plain(facts)}, f"{facts.kept:,} kept: {out}")


def coverage(
    set_: Annotated[Path, Argument(help="a folder of matches, or a .parquet subset", metavar="SET")],
    *,
    vs: Annotated[
        Path | None, Option(help="a second set, matched with the same bank, to compare", metavar="SET")
    ] = None,
    bank: Annotated[
        Path | None, Option(help="the bank of a subset; a folder of matches has its own", metavar="BANK")
    ] = None,
    plot: Plot = None,
    lists: Annotated[
        Path | None,
        Option(help="also write never-seen.txt and over-represented.csv of each set here", metavar="DIR"),
    ] = None,
    top: Annotated[int, Option(help="entries to show of each list", min=0)] = 10,
    engine: Engine = "local",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Show how well captions cover a bank: entries seen never, 1, 5 and 25 times, and most often."""
    from ..concepts import coverage as cover
    from ..report.figures import head_tail_figure, write_figure

    _check_address(engine, address)
    paths = [set_] if vs is None else [set_, vs]
    cover.check_new(len(paths), plot, lists)
    folders = [p if p.is_dir() else p.absolute().parent for p in paths]
    with _on_ray(folders, address) if engine == "ray" else nullcontext(map) as each:
        sets = [cover.count_set(path, each) for path in paths]
    if vs is not None:
        cover.check_same_matching(*sets)
    names = cover.names_of(paths, bank, sets[0].bank_digest)
    if plot is not None:
        write_figure(head_tail_figure(sets), plot)
    if lists is not None:
        cover.write_lists(sets, names, lists)
    found = cover.report(sets, names, top)
    made = [str(path) for path in (plot, lists) if path is not None]
    answer(as_json, found, lambda: show_coverage(found, made))
