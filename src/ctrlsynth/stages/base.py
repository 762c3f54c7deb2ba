"""What all boxes of the figure share: a row on its way (`Item`) and the stage that moves it (`Stage`).

A stage turns the rows of its parent's table into the rows of its own, part by part, in four moves that an
engine may run side by side:

    items(up)                parent rows -> items with id and key, in order; calls no model, opens no image
    load(items, up)          loads what only rows that are really made need (decoded pixels)
    call(items)              calls the model once per batch, in the order of the items
    columns(items, answers)  items + answers -> the columns of the stage's own table
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..errors import ModelError
from ..recipe.paths import Step
from ..storage.parts import PartView
from .materials import Materials, Need

Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""`map`, here or on many machines: the functions are picklable, the results in the order of the jobs."""


@dataclass(slots=True)
class Item:
    """One row on its way. `status` and `reason` are set as soon as they are known without a model; `error` is
    the message of a fault. `starts`: a new group of candidates may begin here; a group is never split."""

    id: str
    parent: str | None
    source_key: str
    key: str
    payload: Any = None
    status: str = "ok"
    reason: str | None = None
    starts: bool = True
    error: str | None = None

    def fail(self, reason: str | None, error: str | None = None) -> None:
        """Marks the row as failed: a fault, which `--retry` tries again."""
        self.status, self.reason, self.error = "failed", reason, error

    def drop(self, reason: str | None) -> None:
        """Marks the row as dropped: a decision, which stays."""
        self.status, self.reason = "dropped", reason


class Stage:
    """One box of the figure at one step of a run; see the module's docstring.

    schema      the columns of its table
    version     changes when the same input gives another row
    batch       items per call
    reuses      whether rows of an earlier version of a part are worth looking up
    model_name  the id of its model, empty without one
    """

    schema: pa.Schema
    version: int = 1
    batch: int = 2048
    reuses: bool = False
    model_name: str = ""

    def __init__(self, step: Step, materials: Materials, model: Any = None) -> None:
        """Takes the loaded models that `needs` names, in its order."""
        self._parent, self._label, self._seed = str(step.parent), step.label, materials.recipe.seed
        self._rejects = [folder for role, folder in sorted(step.uses.items()) if role.startswith("gate ")]
        self._model = model
        if model is not None:
            self.model_name = model.id

    @classmethod
    def needs(cls, step: Step, materials: Materials) -> list[Need]:
        """Returns the models of a step: as the recipe names them, their role, the recipe's key."""
        return []

    def settings(self) -> dict[str, Any]:
        """Returns what the step's digest and plan.json hold of the stage."""
        return {}

    def policy(self) -> Any:
        """Returns the recipe settings that affect the rows, other than `settings`; part of the digest."""
        return None

    def example(self) -> str | None:
        """Returns what the model would read for a made-up row, if the model can say."""
        return None

    def items(self, up: PartView) -> Iterator[Item]:
        """Yields the items of one part, in order."""
        raise NotImplementedError

    def load(self, items: list[Item], up: PartView) -> None:
        """Loads what `call` needs for these items."""

    def call(self, items: list[Item]) -> list[Any]:
        """Returns one answer per item."""
        return [item.payload for item in items]

    def columns(self, items: list[Item], answers: list[Any]) -> dict[str, list[Any]]:
        """Returns the table's columns, other than the common ones; null where not given. Sets the status of
        items whose answer is no good."""
        raise NotImplementedError

    def finish(self, table: pa.Table) -> pa.Table:
        """Decides what needs several rows at once, fresh and reused ones (choosing among candidates)."""
        return table

    def close(self) -> None:
        """Lets the model free what it holds (processes, sessions); it may be called again later."""
        if self._model is not None:
            self._model.close()

    def parents(self, up: PartView, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yields (id, source key, *names) of the parent rows that are `ok` and pass all gates."""
        return kept_rows(up, self._parent, names, self._rejects)

    def ask(self, items: list[Item], model: Callable[[list[Item]], Sequence[Any]]) -> list[Any]:
        """Calls the model for the items that are `ok`, if there are any; returns its answer to each item,
        None for the others. Raises ModelError unless it returns as many outputs as it got inputs."""
        live = [i for i in items if i.status == "ok"]
        answers = model(live) if live else []
        if len(answers) != len(live):
            few = "too_few_outputs" if answers else "no_output"
            raise ModelError(
                few if len(answers) < len(live) else "too_many_outputs",
                f"{self.model_name} was given {len(live)} inputs and returned {len(answers)} outputs",
            )
        following = iter(answers)
        return [next(following) if i.status == "ok" else None for i in items]

    def to_table(self, items: list[Item], answers: list[Any], seconds: float) -> pa.Table:
        """Builds the table's rows; `seconds`, the time of the call, is shared among those that were not
        dropped."""
        columns, number = self.columns(items, answers), len(items)
        share = seconds / (sum(1 for i in items if i.status != "dropped") or 1)
        columns |= {
            "id": [i.id for i in items],
            "parent": [i.parent for i in items],
            "source_key": [i.source_key for i in items],
            "key": [i.key for i in items],
            "status": [i.status for i in items],
            "reason": [i.reason for i in items],
            "error": [i.error for i in items],
            "seconds": [share if i.status != "dropped" else 0.0 for i in items],
            "model": [self.model_name] * number,
        }
        arrays = [
            pa.array(columns[c.name], c.type) if c.name in columns else pa.nulls(number, c.type)
            for c in self.schema
        ]
        return pa.Table.from_arrays(arrays, schema=self.schema)


class Barrier(Stage):
    """A stage whose decision needs the whole set (balancing).

    Once all parts of its parents exist, and before its first part is made, `gather` looks at all of them;
    `settle` gives the result, plain JSON data, to every process that makes parts. `settled` names the parts
    that the result belongs to."""

    settled: str | None = None

    def gather(self, parts: Sequence[PartView], each: Each) -> dict[str, Any]:
        """Returns what the decision needs to know about all parts."""
        raise NotImplementedError

    def settle(self, state: Mapping[str, Any]) -> None:
        """Takes what `gather` returned."""
        raise NotImplementedError


def kept_rows(
    up: PartView, folder: str, names: Sequence[str], rejects: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Yields (id, source key, *names) of the rows of a folder that are `ok` and that no judge in `rejects`
    rejects."""
    rejected = set().union(*(up.rejected(judge) for judge in rejects))
    for statuses, *columns in up.columns(folder, ["status", "id", "source_key", *names]):
        for status, row in zip(statuses, zip(*columns, strict=True), strict=True):
            if status == "ok" and row[0] not in rejected:
                yield row


class PaintedImages:
    """Reads painted images by id in the table's order: one walk over a part, 32 images in memory."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._up: PartView | None = None
        self._rows: Iterator[tuple[str, Any]] = iter(())

    def read(self, up: PartView, row_id: str) -> bytes:
        """Returns an image's encoded bytes."""
        if up is not self._up:
            batches = up.columns(self._folder, ["id", "image"], 32)
            self._up = up
            self._rows = (row for ids, images in batches for row in zip(ids, images, strict=True))
        for found, image in self._rows:
            if found == row_id:
                return bytes(image["bytes"])
        raise KeyError(row_id)
