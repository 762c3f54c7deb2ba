"""What the command line draws with rich: progress with rate, yield and time left; plan, ledger, sweep and
models as tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..report.facts import Fact
from ..report.sweep import gate_note
from ..runs.ledger import LedgerRow
from ..runs.reader import RunReader
from ..runs.watch import NullWatcher, Watcher
from .terminal import cells, clean, wrap


class _Bars:
    """A bar a stage: parts done, rows a second, share of rows that came through."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._seen: dict[str, list[float]] = {}

    def stage(self, folder: str, number: int, parts: int, done: int) -> None:
        self._tasks[folder] = self._bars.add_task(_safe(folder), total=parts, completed=done, note="")
        self._seen[folder] = [0.0, 0.0, 0.0]

    def gathered(self, folder: str, found: dict[str, Any]) -> None:
        self._bars.console.print(
            _safe(_balance_line({"folder": folder, **found})), highlight=False, soft_wrap=True
        )

    def rows(self, folder: str, rows: int, made: int) -> None:
        self._seen[folder][0] += rows
        task = self._bars.tasks[self._tasks[folder]]
        elapsed = task.elapsed or 0.0
        rate = self._seen[folder][0] / elapsed if elapsed > 0 else 0.0
        self._bars.update(
            self._tasks[folder], note=f"{self._seen[folder][0]:,.0f} rows, {rate:,.1f}/s{self._yield(folder)}"
        )

    def _yield(self, folder: str) -> str:
        _, rows, ok = self._seen[folder]
        return f", yield {ok / rows:.0%}" if rows else ""

    def part(self, folder: str, index: int, counts: dict[str, Any]) -> None:
        self._seen[folder][1] += counts["rows"]
        self._seen[folder][2] += counts["ok"]
        self._bars.advance(self._tasks[folder])
        self.rows(folder, 0, 0)

    def finished(self, folder: str) -> None:
        self._bars.stop_task(self._tasks[folder])


@contextmanager
def progress(quiet: bool = False) -> Iterator[Watcher]:
    """Bars on standard error while a run works; nothing with `quiet`."""
    if quiet:
        yield NullWatcher()
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("parts"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(bars)


@contextmanager
def counting(what: str, total: int | None = None, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """A line on standard error that counts: call what it yields once a sample, or with a number of samples.
    With `total` it tells the time left."""
    if quiet:
        yield lambda number=1: None
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(escape(what), total=total, note="")

        def tick(number: int = 1) -> None:
            bars.advance(task, number)
            elapsed = bars.tasks[0].elapsed or 0.0
            if elapsed > 0:
                bars.update(task, note=f"{bars.tasks[0].completed / elapsed:,.1f}/s")

        yield tick


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 150))
    console.print(table)


def _table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(title=_safe(title), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return table


def show_ledger(run: RunReader) -> None:
    """The ledger: rows into a stage = ok + dropped + failed."""
    rows = run.ledger()
    right = ("in", "ok", "dropped", "failed", "reused", "seconds", "tokens", "MB")
    table = _table(
        str(run.root),
        "stage",
        "paths",
        "parts",
        "in",
        "ok",
        "dropped",
        "failed",
        "reused",
        "seconds",
        "tokens",
        "MB",
        "reasons",
        right=right,
    )
    for r in rows:
        reasons = ", ".join(f"{name} {count:,}" for name, count in sorted({**r.dropped, **r.failed}.items()))
        table.add_row(
            r.folder, _safe(", ".join(r.paths)), f"{r.parts}/{r.parts_wanted}", f"{r.rows:,}", f"{r.ok:,}",
            f"{sum(r.dropped.values()):,}",
            f"{sum(r.failed.values()):,}", f"{r.reused:,}", f"{r.seconds:,.1f}", f"{r.tokens:,}",
            f"{r.bytes / 1e6:,.1f}", _safe(reasons),
        )  # fmt: skip
    _print(table)
    for r in rows:
        if r.first_error is not None:
            _say(f"{r.folder}: first error: {r.first_error}")
    for r in rows:
        if r.cost is not None:
            _say(f"{r.folder}: {r.cost:,.4f} US dollars by the recipe's prices")
    _say(_sum_line(rows))
    for r in rows:
        if r.folder.startswith("judge") and r.rows and not r.ok and r.parts == r.parts_wanted:
            reasons = ", ".join(
                f"{name} {count:,}" for name, count in sorted({**r.dropped, **r.failed}.items())
            )
            _say(
                f"{r.folder} kept none of {r.rows:,} rows ({reasons}), so {', '.join(r.paths)} gives "
                f"nothing: "
                f"`ctrlsynth explain {run.root}` tells one sample, `ctrlsynth sweep {run.root}` all "
                f"thresholds"
            )
    for b in run.balances():
        _say(_balance_line(b))
    note = gate_note(run)
    if note is not None:
        _say(note)
    for product in run.products():
        _say(
            f"{product['kind']}: {product['path']}"
            + (" (stale: the run has gone on since)" if product["stale"] else "")
        )


def _balance_line(b: Mapping[str, Any]) -> str:
    """What a balance found over all parts, of `Run.balances` or as it was just gathered."""
    told = f"{b['captions']:,} captions, {b['duplicates']:,} of them duplicates; {b['pool']:,} could go on"
    rule = f"t = {b['t']:,.4g} (concepts held: {b['entries_seen']:,})" if "t" in b else "at random"
    return f"{b['folder']}: {told}; {rule}, {b['expected']:,.0f} expected"


def _sum_line(rows: Sequence[LedgerRow]) -> str:
    wrong = [r.folder for r in rows if not r.adds_up]
    partial = [r.folder for r in rows if r.parts < r.parts_wanted]
    if wrong:
        return f"does not add up: {', '.join(wrong)}"
    if partial:
        return f"unfinished: {', '.join(partial)}; what is there adds up"
    return "adds up: rows into every stage = rows kept upstream x variants = ok + dropped + failed"


def show_plan(plan: dict[str, Any]) -> None:
    """Stages, parts, rows, models and digests, estimates, and what is done."""
    right = ("rows", "MB", "tokens", "device-s")
    table = _table(
        f"{plan['recipe']}: {plan['source']}",
        "stage",
        "paths",
        "model",
        "digest",
        "parts",
        "rows",
        "MB",
        "tokens",
        "device-s",
        "rate",
        right=right,
    )
    for s in plan["stages"]:
        done = f"{s['parts_done']}/{s['parts']} done" if s["parts_done"] else f"{s['parts']}"
        parts = done + (f", {s['parts_to_update']} to update" if s["parts_to_update"] else "")
        table.add_row(
            s["folder"], _safe(", ".join(s["paths"])), _safe(s["model"]), s["digest"], parts,
            _count(s["rows"]), _count(s["bytes"], 1e6),
            _count(s["tokens"]), _count(s["device_seconds"]), s["rate"],
        )  # fmt: skip
    _print(table)
    for s in plan["stages"]:
        if s["example"]:
            _say(
                f"{s['folder']}: what its model reads, with tags and a caption made up for "
                f"show:\n{s['example']}"
            )
    total = plan["total"]
    cost = (
        f"{total['bytes'] / 1e6:,.1f} MB, {total['tokens']:,} tokens, {total['device_seconds']:,.0f} "
        f"device-seconds"
    )
    _say(f"at most {cost} to go -> {plan['run']}")
    if plan["problems"]:
        _say("in the way of a run:\n  " + "\n  ".join(plan["problems"]))
    if plan["differences"]:
        _say(
            "this folder was made by another plan (run --update to go on):\n  "
            + "\n  ".join(plan["differences"])
        )


def _count(value: float | None, unit: float = 1) -> str:
    return "?" if value is None else f"{value / unit:,.1f}" if unit > 1 else f"{value:,.0f}"


def show_sweep(head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    """One line a threshold; `<` marks the recipe's own."""
    table = _table("p_f sweep, from the stored scores", *head, right=head)
    for row in rows:
        table.add_row(*map(_safe, row))
    _print(table)
    for note in notes:
        _say(note)


def show_diversity(found: Mapping[str, Any]) -> None:
    """How varied caption sets are, a line each (`concepts.diversity`)."""
    head = (
        "captions",
        "n",
        "words",
        "vocabulary",
        "distinct 1 2 3",
        "repeated",
        "similarity",
        "self-BLEU",
        "openings",
        "concepts",
    )
    table = _table("diversity", *head, right=head[1:])
    for name, d in found.items():
        distinct = " ".join(f"{x:.2f}" for x in d.distinct)
        held = "-" if d.concepts is None else f"{d.concepts:.1f}"
        shares = (f"{d.repeated:.1%}", f"{d.similarity:.3f}", f"{d.self_bleu:.2f}", f"{d.openings:.1%}")
        table.add_row(
            _safe(name), f"{d.captions:,}", f"{d.words:.1f}", f"{d.vocabulary:,}", distinct, *shares, held
        )
    _print(table)
    _say(
        "vocabulary and distinct n-grams fall with the number of captions, so compare sets of one size; low "
        "similarity is varied"
    )


def show_models(entries: Sequence[Any]) -> None:
    """What can be used, what is installed, and under which licence."""
    table = _table(
        "models, drawings and data", "name", "role", "installed", "licence", "weights from", "what"
    )
    for e in entries:
        table.add_row(
            *(_safe(str(getattr(e, n))) for n in ("name", "role")),
            _safe(e.state),
            *(_safe(str(getattr(e, n))) for n in ("licence", "source", "what")),
        )
    _print(table)


def show_coverage(report: dict[str, Any]) -> None:
    """The concept table of one or two sets, with the head of their lists; `report` is
    `concepts.coverage.report`'s."""
    right = (
        "texts",
        "matched",
        "a text",
        "entries",
        "seen 1",
        "seen 5",
        "seen 25",
        "mean of these",
        "half of all in",
    )
    table = _table("concepts", "set", *right, right=right)
    for s in report["sets"]:
        mean = "-" if s["mean"] is None else f"{s['mean']:,.1f}"
        seen = [f"{n:,}" for n in s["seen"].values()]
        a_text = f"{s['matches'] / max(s['texts'], 1):.2f}"
        counts = [f"{s[n]:,}" for n in ("texts", "matched", "entries", "half")]
        table.add_row(_safe(s["name"]), *counts[:2], a_text, counts[2], *seen, mean, counts[3])
    _print(table)
    for s in report["sets"]:
        first = s["never_seen_first"]
        more = ["..."] if first and len(first) < s["never_seen"] else []
        _say(
            f"{s['name']}: never seen {s['never_seen']:,}"
            + (f": {', '.join([*first, *more])}" if first else "")
        )
        if s["over_represented"]:
            _say(
                f"{s['name']}: seen most: "
                f"{', '.join(f'{entry} {count:,}' for entry, count in s['over_represented'])}"
            )
        if s["mode"] is None and len(report["sets"]) == 2:
            _say(
                f"{s['name']}: was written before subsets kept their mode; whether it is the other set's is "
                f"not known"
            )
    for change in report["changes"]:
        if change["entries"]:
            _say(
                f"{change['what']}: "
                + ", ".join(f"{entry} x{ratio:.2g}" for entry, ratio in change["entries"])
            )


def _say(text: str) -> None:
    Console(soft_wrap=True).print(_safe(text), highlight=False)


def _safe(text: str) -> str:
    """Data as rich shows it literally: no markup, nothing that a terminal obeys."""
    return escape("\n".join(map(clean, text.split("\n"))))


def as_text(run: RunReader, row_id: str, width: int | None = None) -> str:
    """The story for a terminal: nothing in it can drive one, no markup is read in it. `width` in columns, the
    terminal's unless given."""
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
    column = max((cells(clean(f.label)) for f in facts), default=0)
    column = min(max(column, 10), 24) + 2
    for fact in facts:
        label = clean(fact.label)
        values = fact.value if isinstance(fact.value, tuple) else (fact.value,)
        first = margin + label + " " * max(1, column - cells(label))
        rest = margin + " " * column
        for number, value in enumerate(values):
            for more, line in enumerate(wrap(value, width - cells(rest))):
                yield (
                    (first if number == 0 and more == 0 else rest)
                    + ("  " if more and len(values) > 1 else "")
                    + line
                )
