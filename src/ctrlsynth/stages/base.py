"""The figure, one file a box: `read` (1a, 1b), `tag` (2a), `write` (3a + 2b), `paint` (3b + 2c), `judge` (the
closed loop).

A stage turns the rows of its parent's table into the rows of its own, part by part, in four moves that an
engine may run side by side:

    items(up)             parent rows -> items with id and key, in order; cheap, calls no model and opens no
                          image
    load(items, up)       whatever only rows that are really made need (decoded pixels)
    call(items)           the model, once a batch, in the order of the items
    rows(items, answers)  items + answers -> the stage's table

The stage gets its model as an argument; it knows no engine and no path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from ..errors import ModelError


@dataclass(slots=True)
class Item:
    """One row on its way. `status` and `reason` are set as soon as its fate is known without a model; `error`
    is the message of a fault. `starts`: a new group of candidates may begin here; a group is never torn
    apart."""

    id: str
    parent: str | None
    source_key: str
    key: str
    payload: Any = None
    status: str = "ok"
    reason: str | None = None
    starts: bool = True
    error: str | None = None


class Upstream(Protocol):
    """What a stage may read while it makes one part: the same part of the stages before it
    (`store.PartView`)."""

    @property
    def index(self) -> int: ...

    def columns(self, folder: str, names: Sequence[str], rows: int = 2048) -> Iterator[list[list[Any]]]: ...
    def table(self, folder: str, names: Sequence[str]) -> dict[str, tuple[Any, ...]]: ...
    def rejected(self, folder: str) -> set[str]: ...
    def arrow(self, folder: str, names: Sequence[str], rows: int = 2048) -> Iterator[pa.RecordBatch]: ...


class Stage(Protocol):
    """See the module's docstring. `batch` is how many items one call gets; `version` changes when the same
    input gives another row; `reuses` says whether rows of an earlier version of the part are worth looking
    up."""

    schema: pa.Schema
    version: int
    batch: int
    model_name: str
    reuses: bool

    def settings(self) -> dict[str, Any]: ...
    def items(self, up: Upstream) -> Iterator[list[Item]]: ...
    def load(self, items: list[Item], up: Upstream) -> None: ...
    def call(self, items: list[Item]) -> list[Any]: ...
    def rows(self, items: list[Item], answers: list[Any], seconds: float) -> pa.Table: ...
    def finish(self, table: pa.Table) -> pa.Table: ...
    def close(self) -> None: ...


@runtime_checkable
class Barrier(Protocol):
    """A stage whose decision needs the whole set (balancing). Before its first part is made, and once all
    parts of its parents are there, `gather` looks at all of them; `settle` gives every process that makes
    parts what it found, as plain JSON data.

    `each(function, jobs)` is `map`, here or on many machines: the functions are picklable, their order is the
    jobs'."""

    barrier: bool
    settled: str | None

    def gather(
        self, parts: Sequence[Upstream], each: Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
    ) -> dict[str, Any]: ...
    def settle(self, state: Mapping[str, Any]) -> None: ...


def close_model(model: Any) -> None:
    """Lets a model free what it holds (processes, sessions); it may be asked again later."""
    close = getattr(model, "close", None)
    if close is not None:
        close()


def ask(name: str, number: int, answers: Sequence[Any]) -> None:
    """Every model call asserts as many outputs as inputs; identity is never content."""
    if len(answers) != number:
        reason = (
            "no_output" if not answers else "too_few_outputs" if len(answers) < number else "too_many_outputs"
        )
        raise ModelError(reason, f"{name} was given {number} inputs and returned {len(answers)} outputs")


def build(
    schema: pa.Schema, items: Sequence[Item], columns: Mapping[str, Sequence[Any]], model: str, seconds: float
) -> pa.Table:
    """The common columns from the items, the others as given; a column that is not given is null. Rows that
    failed or were dropped carry no time."""
    number = len(items)
    worked = sum(1 for i in items if i.status != "dropped") or 1
    share = seconds / worked
    common: dict[str, Sequence[Any]] = {
        "id": [i.id for i in items],
        "parent": [i.parent for i in items],
        "source_key": [i.source_key for i in items],
        "key": [i.key for i in items],
        "status": [i.status for i in items],
        "reason": [i.reason for i in items],
        "error": [i.error for i in items],
        "seconds": [share if i.status != "dropped" else 0.0 for i in items],
        "model": [model] * number,
    }
    arrays = []
    for column in schema:
        values = common.get(column.name, columns.get(column.name))
        arrays.append(pa.nulls(number, column.type) if values is None else pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)
