"""Reports of a training run: log.jsonl, TensorBoard if it is installed, and a watcher for a display."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..models.installed import installed

LOG = "log.jsonl"


class Watcher(Protocol):
    """Receives the progress of a run: its first step and its length, then each line of the log."""

    def start(self, step: int, steps: int) -> None: ...
    def line(self, facts: Mapping[str, Any]) -> None: ...


class NullWatcher:
    """Ignores everything."""

    def start(self, step: int, steps: int) -> None:
        """Ignores the length."""

    def line(self, facts: Mapping[str, Any]) -> None:
        """Ignores the line."""


class Log:
    """Writes log.jsonl and the same numbers to TensorBoard. A resumed run first removes the lines after its
    checkpoint."""

    def __init__(self, out: Path, step: int) -> None:
        path = out / LOG
        before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in before if (facts := _facts(line)) is not None and facts["step"] <= step]
        made = path.with_name(f".{LOG}~{os.getpid()}")
        made.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(made, path)
        self._out = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed in close)
        self._board: Any = None
        if installed("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def line(self, facts: Mapping[str, Any]) -> None:
        """Writes one line."""
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()
        if self._board is not None:
            for name, value in facts.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._board.add_scalar(f"train/{name}", value, facts["step"])

    def close(self) -> None:
        """Closes the files."""
        self._out.close()
        if self._board is not None:
            self._board.close()


def _facts(line: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):  # a killed run may leave half a line
        facts = json.loads(line)
        return facts if isinstance(facts, dict) and "step" in facts else None
    return None


@contextlib.contextmanager
def live(quiet: bool = False) -> Iterator[Watcher]:
    """A line on standard error with the bar, loss, learning rate, pairs/s and the share of time that waited
    for data."""
    if quiet:
        yield NullWatcher()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(), TextColumn("step"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(
        *columns, console=Console(stderr=True), transient=True
    ) as bars:  # an error is one line, without a bar above it
        yield _Bar(bars)


class _Bar:
    def __init__(self, bars: Any) -> None:
        self._bars, self._task = bars, bars.add_task("train", total=None, note="")

    def start(self, step: int, steps: int) -> None:
        """Sets the bar's length."""
        self._bars.reset(self._task, total=steps, completed=step, note="")

    def line(self, facts: Mapping[str, Any]) -> None:
        """Shows the newest numbers."""
        note = (
            f"loss {facts['loss']:.4f}, lr {facts['lr']:.2e}, {facts['pairs_per_s']:,.0f} pairs/s, data " f"wait " f"{facts['data_wait']:.0%}"
            + (f", {facts['skipped']:,} skipped" if facts["skipped"] else "")
        )  # fmt: skip
        self._bars.update(self._task, completed=facts["step"], note=note)
