"""What `eval` and `compare` show on a terminal: progress on standard error, tables on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..evaluate.compare import Comparison, show
from ..evaluate.results import Result
from .terminal import clean


@contextmanager
def watching(quiet: bool = False) -> Iterator[Callable[[str, int, int, int], None]]:
    """A bar over tasks with the images encoded of the one under way and their rate."""
    if quiet:
        yield lambda task, number, of, images: None
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("tasks"),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(
        *columns, console=Console(stderr=True), transient=True
    ) as bars:  # an error is one line, without a bar above it
        bar = bars.add_task("eval", total=None, note="")
        started: dict[str, float] = {}

        def watch(task: str, number: int, of: int, images: int) -> None:
            now = bars.get_time()
            begun = started.setdefault(task, now)
            rate = f", {images / (now - begun):,.0f}/s" if now - begun > 1 else ""
            bars.update(
                bar,
                description=escape(clean(task)),
                completed=number,
                total=of,
                note=f"{images:,} images{rate}",
            )

        yield watch


def show_results(results: Sequence[Result], averages: Mapping[str, float]) -> None:
    """One model's results: main metric with interval, chance, rows, protocol."""
    table = Table(title=escape(clean(f"{results[0].model} {results[0].model_digest}")), title_justify="left")
    for column in ("task", "metric", "score %", "95%", "chance %", "rows", "protocol", "notes"):
        table.add_column(
            column, justify="right" if column.endswith("%") or column == "rows" else "left", overflow="fold"
        )
    for result in results:
        score = result.scores[result.main]
        interval = (
            f"{100 * score.low:.1f} to {100 * score.high:.1f}"
            if score.low is not None and score.high is not None
            else ""
        )
        protocol = ", ".join(
            f"{k}={v}"
            for k, v in result.protocol.items()
            if k in ("templates", "val", "head", "loss", "episodes")
        )
        chance = f"{100 * result.chance:.1f}" if result.chance else ""
        cells = (
            result.task,
            result.main,
            f"{100 * score.value:.1f}",
            interval,
            chance,
            f"{result.rows:,}",
            protocol,
            "; ".join(result.notes),
        )
        table.add_row(*(escape(clean(str(c))) for c in cells))
    console = Console()
    console.print(table)
    for group, value in averages.items():
        console.print(
            escape(
                f"{group}: unweighted average of {sum(r.group == group for r in results)} tasks: "
                f"{100 * value:.1f}"
            )
        )


def show_comparison(found: Comparison) -> None:
    """Runs as columns where there are few of them, else as rows; notes below."""
    table = Table()
    turned = len(found.rows) <= 6
    heads = [clean(n) for n in found.rows] if turned else [clean(c.title) for c in found.columns]
    table.add_column("task" if turned else "run", overflow="fold")
    for head in heads:
        table.add_column(escape(head), justify="right", overflow="fold")
    if turned:
        for column in found.columns:
            table.add_row(
                escape(clean(column.title)), *(show(cells.get(column)) for cells in found.rows.values())
            )
    else:
        for name, cells in found.rows.items():
            table.add_row(escape(clean(name)), *(show(cells.get(column)) for column in found.columns))
    console = Console()
    console.print(table)
    for note in found.notes:
        console.print(escape(clean(f"- {note}")))
