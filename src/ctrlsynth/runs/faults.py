"""Calls a model and handles its failures, for both engines.

An error bisects the batch down to the rows at fault; running out of memory halves it; an engine that died is
restarted; a stage that loses too many rows stops the run. A row's answer does not depend on any of this: the
model gets the same rows again, in smaller batches."""

import gc
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ModelError, UserError, WorkFailed
from ..recipe.schema import Faults
from ..stages.base import Item, Stage

CALM_CALLS = 64
"""Calls without a fault after which a batch that was halved for lack of memory is doubled; each halving after
that doubles the wait."""
LONGEST_PAUSE = 15.0
"""Most seconds before an engine is restarted: 0, then 1, 2, 4, ... while no call succeeds in between."""
MESSAGE = 500
"""Characters of an error's message that are kept with its row."""
WINDOW = 10
"""The error rate counts the last `WINDOW x after` rows, so that a server that breaks after a week is noticed
within minutes."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "failed to allocate memory", "cannot allocate memory")


Kind = Literal["memory", "died", "other"]
_KINDS: dict[str, Kind] = {"out_of_memory": "memory", "engine_died": "died", "server_down": "died"}


@dataclass(frozen=True, slots=True)
class Fault:
    """The exception of a call. `kind` decides how it is handled; `reason` is the ledger's word."""

    kind: Kind
    reason: str
    message: str


def fault_of(error: Exception) -> Fault:
    """Classifies an exception; by the name of its class where importing that would load torch or vLLM."""
    line = " ".join(str(error).split())
    cut = line if len(line) <= MESSAGE else line[: MESSAGE - 3] + "..."
    text = cut.encode("utf-8", "backslashreplace").decode()
    names = {c.__name__ for c in type(error).__mro__}
    message = f"{type(error).__name__}: {text}"
    if isinstance(error, ModelError):
        reason = error.reason
        message = text if text.startswith(reason) else f"{reason}: {text}"
    elif (
        isinstance(error, MemoryError)
        or "OutOfMemoryError" in names
        or ("RuntimeError" in names and any(w in text.lower() for w in _NO_MEMORY))
    ):
        reason = "out_of_memory"
    elif isinstance(error, (BrokenExecutor, ConnectionError)) or "EngineDeadError" in names:
        reason = "engine_died"
    else:
        reason = f"model_error:{type(error).__name__}"
    return Fault(_KINDS.get(reason, "other"), reason, message)


class GuardedModel:
    """Calls the model of one stage in one process, part after part; keeps the batch size that fits, the
    restarts and the error rate.

    first_error   `row id: message` of the first row that was set aside
    most          most rows per call since memory ran out; None: as many as the stage gives
    """

    def __init__(self, folder: str, limits: Faults, pause: Callable[[float], None] = time.sleep) -> None:
        self._folder, self._limits, self._pause = folder, limits, pause
        self.most: int | None = None
        self.first_error: str | None = None
        self._calm, self._patience, self._grown = 0, CALM_CALLS, False
        self._deaths = 0
        self._blocks: deque[list[int]] = deque()  # rows, failed and restarts of the last blocks

    def ask(self, stage: Stage, items: list[Item]) -> list[Any]:
        """Returns one answer per item, None where there is none; rows at fault are marked as failed.

        Raises WorkFailed when the stage's error rate or its engine's restarts pass the recipe's limits.
        UserError, WorkFailed and Ctrl-C pass through."""
        self._blocks.append(
            [sum(i.status != "dropped" for i in items), sum(i.status == "failed" for i in items), 0]
        )  # before they are answered, so that failures are a share of all of them
        while self._rows() - self._blocks[0][0] >= WINDOW * self._limits.after:
            self._blocks.popleft()
        answers = self._answers(stage, items)
        failed = [i for i in items if i.status == "failed"]
        self._blocks[-1][1] = len(failed)
        if failed and self.first_error is None:
            self.first_error = f"{failed[0].id}: {failed[0].reason}"
        self._check_rate()
        return answers

    def _call(self, stage: Stage, items: list[Item]) -> list[Any] | Fault:
        live = [i for i in items if i.status == "ok"]
        try:
            answers = stage.call(items)
        # a recipe may name any class, which may raise anything: that costs the rows at fault, not the run
        except Exception as error:
            if isinstance(error, (UserError, WorkFailed)):
                raise
            fault = fault_of(error)
            for item in live:  # reset: the same rows are tried again
                item.status, item.reason = "ok", None
            return fault
        if live:
            self._deaths = 0
            self._calm += self.most is not None and len(live) >= self.most
        if self.most is not None and self._calm >= self._patience:
            wider = 2 * self.most
            self.most, self._calm, self._grown = wider if wider < stage.batch else None, 0, True
        return answers

    def _answers(self, stage: Stage, items: list[Item]) -> list[Any]:
        """Calls the model with all rows and, after a fault, with smaller and smaller pieces of them. One
        faulty row in a batch of n costs about 2 log2(n) calls; k such rows k times as many."""
        out: list[Any] = [None] * len(items)
        todo, died = [list(range(len(items)))], False
        while todo:
            piece = todo.pop()
            if self.most is not None and len(piece) > self.most:
                todo += self._pieces(items, piece, self.most)[::-1]
                continue
            answers = self._call(stage, [items[n] for n in piece])
            if isinstance(answers, Fault):
                live = [n for n in piece if items[n].status == "ok"]
                if live and len(live) < len(piece):
                    todo.append([n for n in piece if items[n].status != "ok"])
                if live:
                    todo += self._next(stage, items, live, answers, again=not died)
                died = died or answers.kind == "died"
            else:
                for n, answer in zip(piece, answers, strict=True):
                    out[n] = answer
        return out

    def _pieces(self, items: list[Item], piece: list[int], most: int) -> list[list[int]]:
        """Cuts rows into pieces, those that are `ok` apart, so that a full piece is a full call."""
        live = [n for n in piece if items[n].status == "ok"]
        dead = [n for n in piece if items[n].status != "ok"]
        return [part[at : at + most] for part in (live, dead) for at in range(0, len(part), most)]

    def _next(
        self, stage: Stage, items: list[Item], piece: list[int], fault: Fault, again: bool
    ) -> list[list[int]]:
        """Returns the pieces to retry after a fault: the same piece, its two halves (a stack: the first half
        last), or none."""
        if fault.kind == "died":
            self._restart(stage, items[piece[0]].id, fault)
            if again:  # an engine may die of anything: its rows are suspected only the second time
                return [piece]
        if len(piece) == 1:
            item = items[piece[0]]
            item.fail(fault.reason, fault.message)
            self.first_error = self.first_error or f"{item.id}: {fault.message}"
            self._blocks[-1][1] += 1
            self._check_rate()
            return []
        half = (len(piece) + 1) // 2
        if fault.kind == "memory":
            self._shrink(half)
        return [piece[half:], piece[:half]]

    def _shrink(self, rows: int) -> None:
        if self._grown:
            self._patience = min(2 * self._patience, 64 * CALM_CALLS)
        self.most, self._calm, self._grown = rows, 0, False
        gc.collect()  # the failed call's tensors
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _restart(self, stage: Stage, row_id: str, fault: Fault) -> None:
        """Closes the model, which loads again when it is called; gives up when that happens too often."""
        self._blocks[-1][2] += 1
        if sum(b[2] for b in self._blocks) > self._limits.restarts:
            raise WorkFailed(
                f"{self._folder}: its engine died {self._limits.restarts + 1} times within {self._rows()} "
                f"rows "
                f"(faults.restarts is {self._limits.restarts}), last at {row_id}: {fault.message}; {_GO_ON}"
            )
        stage.close()
        if self._deaths:
            self._pause(min(2.0 ** (self._deaths - 1), LONGEST_PAUSE))
        self._deaths += 1

    def _rows(self) -> int:
        return sum(b[0] for b in self._blocks)

    def _check_rate(self) -> None:
        rows, failed = self._rows(), sum(b[1] for b in self._blocks)
        if rows >= self._limits.after and failed > self._limits.max_error_rate * rows:
            raise WorkFailed(
                f"{self._folder}: {failed} of the last {rows} rows failed, more than faults.max_error_rate "
                f"{self._limits.max_error_rate:g} allows; first error: {self.first_error}; {_GO_ON}"
            )


_GO_ON = "finished rows are kept; fix that and run again with --retry failed"
