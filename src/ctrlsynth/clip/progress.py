"""Reports of a training run: log.jsonl, TensorBoard if it is installed, and a watcher for a display."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..models.installed import installed
from ..storage.files import remove_leftovers, replacing

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
        remove_leftovers(out)
        with replacing(path) as made:
            made.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
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
