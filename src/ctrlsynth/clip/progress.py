"""Reports of a training run: log.jsonl, TensorBoard if it is installed, and a callback for a display."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..data.captions import parse_object
from ..models.installed import installed
from ..storage.files import remove_leftovers, replacing

Watch = Callable[[int, Mapping[str, Any]], None]
"""Called with the length of the run in steps, and with each line of the log; first with the `step` at which
the run starts."""


class Log:
    """Writes log.jsonl and the same numbers to TensorBoard. A resumed run first removes the lines after its
    checkpoint."""

    def __init__(self, out: Path, step: int) -> None:
        path = out / "log.jsonl"
        before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        remove_leftovers(out)
        with replacing(path) as made:  # without half a line, which a killed run may leave
            kept = [line for line in before if (parse_object(line) or {}).get("step", math.inf) <= step]
            made.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
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
