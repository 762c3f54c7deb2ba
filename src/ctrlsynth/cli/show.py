"""Tables and texts that commands print: plan, ledger, sweep, models, coverage, diversity, evaluation results,
and the story of one sample."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .output import cells, clean, say, wrap

if TYPE_CHECKING:
    from ..evaluate.compare import Comparison
    from ..evaluate.results import Result
    from ..report.facts import Fact
    from ..report.sweep import Sweep
    from ..runs.ledger import LedgerRow
    from ..runs.reader import RunReader


def _print(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str]) -> None:
    """Prints a table; columns named in `right` are aligned right and not wrapped."""
    table = Table(title=_safe(title), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            _safe(column), justify="right" if column in right else "left", no_wrap=column in right
        )
    for row in rows:
        table.add_row(*map(_safe, row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 150))
    console.print(table)


def _safe(text: str) -> str:
    """Data as rich shows it literally: no markup, nothing that a terminal obeys."""
    return escape("\n".join(map(clean, text.split("\n"))))


def show_ledger(run: RunReader) -> None:
    """Shows the ledger: rows into a stage = ok + dropped + failed."""
    from ..report.sweep import gate_note

    rows = run.ledger()
    right = ("in", "ok", "dropped", "failed", "reused", "seconds", "tokens", "MB")
    _print(str(run.root), ("stage", "paths", "parts", *right, "reasons"), map(_ledger_cells, rows), right)
    stale = {True: " (stale: the run has changed since)", False: ""}
    say(
        *(f"{r.folder}: first error: {r.first_error}" for r in rows if r.first_error is not None),
        *(f"{r.folder}: {r.cost:,.4f} US dollars by the recipe's prices" for r in rows if r.cost is not None),
        _sum_line(rows),
        *(
            f"{r.folder} kept none of {r.rows:,} rows ({_reasons(r)}), so {', '.join(r.paths)} gives "
            f"nothing: "
            f"`ctrlsynth explain {run.root}` shows one sample, `ctrlsynth sweep {run.root}` all thresholds"
            for r in rows
            if r.folder.startswith("judge") and r.rows and not r.ok and r.parts == r.parts_wanted
        ),
        *map(balance_line, run.balances()),
        *filter(None, [gate_note(run)]),
        *(f"{p['kind']}: {p['path']}{stale[p['stale']]}" for p in run.products()),
    )


def _ledger_cells(r: LedgerRow) -> Sequence[str]:
    dropped, failed = sum(r.dropped.values()), sum(r.failed.values())
    counts = [f"{n:,}" for n in (r.rows, r.ok, dropped, failed, r.reused)]
    costs = (f"{r.seconds:,.1f}", f"{r.tokens:,}", f"{r.bytes / 1e6:,.1f}")
    return (r.folder, ", ".join(r.paths), f"{r.parts}/{r.parts_wanted}", *counts, *costs, _reasons(r))


def _reasons(r: LedgerRow) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted({**r.dropped, **r.failed}.items()))


def balance_line(b: Mapping[str, Any]) -> str:
    """Returns what a balance found over all parts, from `Run.balances` or a watcher's `gathered`."""
    counts = f"{b['captions']:,} captions, {b['duplicates']:,} of them duplicates; {b['pool']:,} eligible"
    rule = f"t = {b['t']:,.4g} (concepts held: {b['entries_seen']:,})" if "t" in b else "at random"
    return f"{b['folder']}: {counts}; {rule}, {b['expected']:,.0f} expected"


def _sum_line(rows: Sequence[LedgerRow]) -> str:
    wrong = [r.folder for r in rows if not r.adds_up]
    partial = [r.folder for r in rows if r.parts < r.parts_wanted]
    if wrong:
        return f"does not add up: {', '.join(wrong)}"
    if partial:
        return f"unfinished: {', '.join(partial)}; the finished parts add up"
    return "adds up: rows into every stage = rows kept upstream x variants = ok + dropped + failed"


def show_plan(plan: dict[str, Any]) -> None:
    """Shows stages, parts, rows, models and digests, estimates, and what is done."""
    right = ("rows", "MB", "tokens", "device-s")
    columns = ("stage", "paths", "model", "digest", "parts", *right, "rate")
    _print(f"{plan['recipe']}: {plan['source']}", columns, map(_plan_cells, plan["stages"]), right)
    total = plan["total"]
    say(
        *(
            f"{s['folder']}: what its model reads, shown with made-up tags and caption:\n{s['example']}"
            for s in plan["stages"]
            if s["example"]
        ),
        f"at most {total['bytes'] / 1e6:,.1f} MB, {total['tokens']:,} tokens, "
        f"{total['device_seconds']:,.0f} device-seconds to go -> {plan['run']}",
    )
    if plan["problems"]:
        say("problems that stop a run:\n  " + "\n  ".join(plan["problems"]))
    if plan["differences"]:
        head = "this folder was made by another plan (continue with run --update):\n  "
        say(head + "\n  ".join(plan["differences"]))


def _plan_cells(s: Mapping[str, Any]) -> Sequence[str]:
    parts = f"{s['parts_done']}/{s['parts']} done" if s["parts_done"] else f"{s['parts']}"
    parts += f", {s['parts_to_update']} to update" if s["parts_to_update"] else ""
    counts = (_count(s["rows"]), _count(s["bytes"], 1e6), _count(s["tokens"]), _count(s["device_seconds"]))
    return (s["folder"], ", ".join(s["paths"]), s["model"], s["digest"], parts, *counts, s["rate"])


def _count(value: float | None, unit: float = 1) -> str:
    return "?" if value is None else f"{value / unit:,.1f}" if unit > 1 else f"{value:,.0f}"


def show_sweep(found: Sweep) -> None:
    """Shows one line per threshold; `<` marks the recipe's own."""
    from ..report.sweep import as_table

    head, rows = as_table(found)
    _print("p_f sweep, from the stored scores", head, rows, head)
    say(*found.notes)


def show_diversity(found: Mapping[str, Any]) -> None:
    """Shows how varied caption sets are, one line each (`concepts.diversity`)."""
    right = (
        "n", "words", "vocabulary", "distinct 1 2 3", "repeated", "similarity", "self-BLEU", "openings",
        "concepts",
    )  # fmt: skip
    rows = [
        (
            name, f"{d.captions:,}", f"{d.words:.1f}", f"{d.vocabulary:,}",
            " ".join(f"{x:.2f}" for x in d.distinct), f"{d.repeated:.1%}", f"{d.similarity:.3f}",
            f"{d.self_bleu:.2f}", f"{d.openings:.1%}", "-" if d.concepts is None else f"{d.concepts:.1f}",
        )
        for name, d in found.items()
    ]  # fmt: skip
    _print("diversity", ("captions", *right), rows, right)
    say(
        "vocabulary and distinct n-grams fall with the number of captions, so compare sets of one size; low "
        "similarity is varied"
    )


def show_models(entries: Sequence[Any]) -> None:
    """Shows the models and data that recipes can use, what is installed, and the licences."""
    columns = ("name", "role", "installed", "licence", "weights from", "what")
    rows = [(e.name, e.role, e.state, e.licence, e.source, e.what) for e in entries]
    _print("models, drawings and data", columns, rows, ())


def show_coverage(report: dict[str, Any], files: Sequence[str]) -> None:
    """Shows the concept table of one or two sets, the head of their lists (`concepts.coverage.report`)
    and the files written."""
    right = (
        "texts", "matched", "a text", "entries", "seen 1", "seen 5", "seen 25", "mean of these",
        "half of all in",
    )  # fmt: skip
    _print("concepts", ("set", *right), map(_coverage_cells, report["sets"]), right)
    for s in report["sets"]:
        first = s["never_seen_first"]
        more = ["..."] if first and len(first) < s["never_seen"] else []
        listed = f": {', '.join([*first, *more])}" if first else ""
        say(f"{s['name']}: never seen {s['never_seen']:,}{listed}")
        if s["over_represented"]:
            most = ", ".join(f"{entry} {count:,}" for entry, count in s["over_represented"])
            say(f"{s['name']}: seen most: {most}")
        if s["mode"] is None and len(report["sets"]) == 2:
            say(
                f"{s['name']}: was written before subsets recorded their mode, which may differ from the "
                f"other set's"
            )
    changes = {c["what"]: [f"{e} x{ratio:.2g}" for e, ratio in c["entries"]] for c in report["changes"]}
    say(*(f"{what}: {', '.join(entries)}" for what, entries in changes.items() if entries), *files)


def _coverage_cells(s: Mapping[str, Any]) -> Sequence[str]:
    texts, matched, entries, half = (f"{s[n]:,}" for n in ("texts", "matched", "entries", "half"))
    per_text = f"{s['matches'] / max(s['texts'], 1):.2f}"
    mean = "-" if s["mean"] is None else f"{s['mean']:,.1f}"
    return (s["name"], texts, matched, per_text, entries, *(f"{n:,}" for n in s["seen"].values()), mean, half)


def show_results(results: Sequence[Result], averages: Mapping[str, float]) -> None:
    """Shows one model's results: main metric with its interval, chance, rows, protocol."""
    right = ("score %", "95%", "chance %", "rows")
    columns = ("task", "metric", *right, "protocol", "notes")
    _print(f"{results[0].model} {results[0].model_digest}", columns, map(_result_cells, results), right)
    tasks = Counter(r.group for r in results)
    say(*(f"{g}: unweighted average of {tasks[g]} tasks: {100 * v:.1f}" for g, v in averages.items()))


def _result_cells(result: Result) -> Sequence[str]:
    score = result.scores[result.main]
    known = score.low is not None and score.high is not None
    interval = f"{100 * score.low:.1f} to {100 * score.high:.1f}" if known else ""  # type: ignore[operator]
    chance = f"{100 * result.chance:.1f}" if result.chance else ""
    shown = ("templates", "val", "head", "loss", "episodes")
    protocol = ", ".join(f"{k}={v}" for k, v in result.protocol.items() if k in shown)
    numbers = (f"{100 * score.value:.1f}", interval, chance, f"{result.rows:,}")
    return (result.task, result.main, *numbers, protocol, "; ".join(result.notes))


def show_comparison(found: Comparison) -> None:
    """Shows runs as columns if there are few of them, else as rows; notes below."""
    from ..evaluate.compare import show

    titles = [c.title for c in found.columns]
    grid = [[show(row.get(column)) for column in found.columns] for row in found.rows.values()]
    names, heads, corner = list(found.rows), titles, "run"
    if len(names) <= 6:
        names, heads, corner = titles, names, "task"
        grid = [list(column) for column in zip(*grid, strict=True)]
    table = Table()
    table.add_column(corner, overflow="fold")
    for head in heads:
        table.add_column(_safe(head), justify="right", overflow="fold")
    for name, row in zip(names, grid, strict=True):
        table.add_row(_safe(name), *map(_safe, row))
    Console().print(table)
    say(*(f"- {note}" for note in found.notes))


def as_text(run: RunReader, row_id: str, width: int | None = None) -> str:
    """Returns the story of one sample as plain text. `width` is in columns, the terminal's by default."""
    from ..report.explain import explain

    story = explain(run, row_id)
    width = max(40, min(width or shutil.get_terminal_size((100, 24)).columns, 140))
    lines = [clean(story.asked), ""]
    for section in story.sections:
        margin = "  " * min(section.depth, 6)
        lines += [margin + line for line in wrap(section.title, width - len(margin))]
        lines += _facts(section.facts, margin + "  ", width)
        lines.append("")
    if story.fates:
        lines += ["verdict", *_facts(story.fates, "  ", width)]
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _facts(facts: tuple[Fact, ...], margin: str, width: int) -> Iterator[str]:
    """Lines of `label  value`, values aligned and wrapped; a wrapped line of a list is indented."""
    column = max((cells(clean(f.label)) for f in facts), default=0)
    column = min(max(column, 10), 24) + 2
    rest = margin + " " * column
    for fact in facts:
        label = clean(fact.label)
        start = margin + label + " " * max(1, column - cells(label))
        values = fact.value if isinstance(fact.value, tuple) else (fact.value,)
        for value in values:
            for more, line in enumerate(wrap(value, width - cells(rest))):
                yield start + ("  " if more and len(values) > 1 else "") + line
                start = rest
