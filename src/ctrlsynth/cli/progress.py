"""The progress display on standard error: bars with count, rate, yield and time left.

With `quiet` every display works the same and draws nothing.
"""

from collections.abc import Callable, Iterator, Mapping
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

from ..runs.watch import Watcher
from .output import clean
from .show import balance_line


def _bars(unit: str, quiet: bool, transient: bool = False) -> Progress:
    """The layout of every bar. `transient` removes the bars at the end, so that an error is one line."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn(unit), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True, quiet=quiet), disable=quiet, transient=transient)


def _rate(number: float, seconds: float | None) -> str:
    return f"{number / seconds:,.1f}/s" if seconds else ""


class RunBars(Watcher):
    """Shows a run: a bar per stage with parts, rows per second and the share of ok rows."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._seen: dict[str, list[int]] = {}
        """Folder -> rows seen, rows of finished parts, ok rows of finished parts."""

    def stage(self, folder: str, number: int, parts: int, done: int) -> None:
        self._tasks[folder] = self._bars.add_task(escape(folder), total=parts, completed=done, note="")
        self._seen[folder] = [0, 0, 0]

    def gathered(self, folder: str, found: dict[str, Any]) -> None:
        line = balance_line({"folder": folder, **found})
        self._bars.console.print(escape(clean(line)), highlight=False, soft_wrap=True)

    def rows(self, folder: str, rows: int, made: int) -> None:
        seen = self._seen[folder]
        seen[0] += rows
        rate = _rate(seen[0], self._bars.tasks[self._tasks[folder]].elapsed)
        share = f", yield {seen[2] / seen[1]:.0%}" if seen[1] else ""
        self._bars.update(self._tasks[folder], note=f"{seen[0]:,} rows, {rate}{share}")

    def part(self, folder: str, index: int, counts: dict[str, Any]) -> None:
        self._seen[folder][1] += counts["rows"]
        self._seen[folder][2] += counts["ok"]
        self._bars.advance(self._tasks[folder])
        self.rows(folder, 0, 0)

    def finished(self, folder: str) -> None:
        self._bars.stop_task(self._tasks[folder])


@contextmanager
def run_bars(quiet: bool = False) -> Iterator[RunBars]:
    """Shows the stages of a run."""
    with _bars("parts", quiet) as bars:
        yield RunBars(bars)


@contextmanager
def passes(total: int | None, quiet: bool = False, **totals: int) -> Iterator[Callable[[str, int], None]]:
    """Yields `tick(name, number)`: adds to the bar of that name, which appears when it is first used.
    `totals` gives the length of single bars, `total` that of all others (None: unknown)."""
    with _bars("", quiet) as bars:
        tasks: dict[str, TaskID] = {}

        def tick(name: str, number: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(escape(name), total=totals.get(name, total), note="")
            bars.advance(tasks[name], number)
            task = bars.tasks[tasks[name]]
            bars.update(tasks[name], note=_rate(task.completed, task.elapsed))

        yield tick


@contextmanager
def counting(what: str, total: int | None = None, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Yields `tick(number=1)`, which counts samples in one bar."""
    with passes(total, quiet) as tick:
        tick(what, 0)
        yield lambda number=1: tick(what, number)


@contextmanager
def eval_bars(quiet: bool = False) -> Iterator[Callable[[str, int, int, int], None]]:
    """Yields `watch(task, number, of, images)`: a bar over tasks with the images encoded for the current
    task and their rate."""
    with _bars("tasks", quiet, transient=True) as bars:
        bar = bars.add_task("eval", total=None, note="")
        started: dict[str, float] = {}

        def watch(task: str, number: int, of: int, images: int) -> None:
            rate = _rate(images, bars.get_time() - started.setdefault(task, bars.get_time()))
            name, note = escape(clean(task)), f"{images:,} images, {rate}"
            bars.update(bar, description=name, completed=number, total=of, note=note)

        yield watch


@contextmanager
def train_bars(quiet: bool = False) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    """Shows a training run: steps, loss, learning rate, pairs per second, share of time spent waiting for
    data."""
    with _bars("steps", quiet, transient=True) as bars:
        task = bars.add_task("train", total=None, note="")

        def watch(steps: int, line: Mapping[str, Any]) -> None:
            if "loss" not in line:
                bars.reset(task, total=steps, completed=line["step"], note="")
                return
            note = (
                f"loss {line['loss']:.4f}, lr {line['lr']:.2e}, {line['pairs_per_s']:,.0f} pairs/s, "
                f"data wait {line['data_wait']:.0%}, {line['skipped']:,} skipped"
            )
            bars.update(task, completed=line["step"], note=note)

        yield watch
