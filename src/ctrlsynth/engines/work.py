"""How one part of one stage is made, whatever engine asks for it: reuse, model calls with their faults, tables.

`prepare` yields what has to be done, `answer` calls the model, `Assembly` puts fresh and reused rows together in order. The local
engine runs the three side by side; another engine may call `run_part`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ..errors import ModelError
from ..plan import Plan
from ..stages import Item, Stage
from ..store import OldRows, PartView, PartWriter, RunFolder

FAULTS = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
"""What a model's code may raise for a batch: its rows fail with the error's name, the run goes on. KeyboardInterrupt and our own
UserError and WorkFailed are not among them."""


@dataclass(slots=True)
class Block:
    """Consecutive rows of a part. `fresh` tables come in order, from one model call each; `old` holds the rows that are taken over."""

    items: list[Item]
    old: OldRows | None
    fresh: list[pa.Table] = field(default_factory=list)


@dataclass(slots=True)
class Call:
    """One model call's worth of items."""

    block: Block
    items: list[Item]
    answers: list[Any] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class Begin:
    """A part begins: its number, digest and the files that it will supersede."""

    index: int
    digest: str
    old: Sequence[Any]


@dataclass(slots=True)
class End:
    """A part is complete."""

    index: int


def prepare(
    plan: Plan, run: RunFolder, folder: str, part: Any, versions: Sequence[str], retry: bool
) -> Iterator[Begin | Call | Block | End]:
    """Everything that can be done before the model is asked: read upstream rows, find what is taken over, decode the rest."""
    stage = plan.stages[folder]
    digest = plan.part_digest(folder, part)
    superseded = run.superseded(folder, part.index, digest, versions)
    yield Begin(part.index, digest, superseded)
    digests = {f: plan.part_digest(f, part) for f in plan.lineage(folder)}
    up = PartView(run, part.index, digests)
    old = OldRows(superseded, stage.schema, skip_failed=retry) if superseded and stage.reuses else None
    for items in stage.items(up):
        block = Block(items, old or None)
        fresh = [i for i in items if (i.id, i.key) not in old] if old else items
        for start in range(0, len(fresh), stage.batch):
            call = Call(block, fresh[start : start + stage.batch])
            stage.load(call.items, up)
            yield call
        yield block
    yield End(part.index)


def answer(stage: Stage, call: Call) -> str | None:
    """Calls the model; a fault sets every live row of the call aside. Returns the fault's message, if any."""
    started = time.perf_counter()
    message = None
    try:
        call.answers = stage.call(call.items)
    except ModelError as error:
        message = f"{error.reason}: {error}"
        _fail(call, error.reason)
    except FAULTS as error:
        message = f"{type(error).__name__}: {error}"
        _fail(call, f"model_error:{type(error).__name__}")
    call.seconds = time.perf_counter() - started
    return message


def _fail(call: Call, reason: str) -> None:
    for item in call.items:
        if item.status == "ok":
            item.status, item.reason = "failed", reason
    call.answers = [None] * len(call.items)


def tabulate(stage: Stage, call: Call) -> None:
    """Answers to rows; encoding images happens here."""
    call.block.fresh.append(stage.rows(call.items, call.answers, call.seconds))
    call.answers = []


def assemble(stage: Stage, block: Block) -> tuple[pa.Table, int]:
    """The block's rows in order, and how many were taken over."""
    if block.old is None:
        table = pa.concat_tables(block.fresh) if block.fresh else stage.schema.empty_table()
        return stage.finish(table), 0
    fresh = pa.concat_tables(block.fresh) if block.fresh else stage.schema.empty_table()
    pieces: list[pa.Table] = []
    reused = at = 0
    run_start = 0
    for item in block.items:
        key = (item.id, item.key)
        if key in block.old:
            if at > run_start:
                pieces.append(fresh.slice(run_start, at - run_start))
                run_start = at
            pieces.append(block.old.take(key))
            reused += 1
        else:
            at += 1
    if at > run_start:
        pieces.append(fresh.slice(run_start, at - run_start))
    table = pa.concat_tables(pieces) if pieces else stage.schema.empty_table()
    return stage.finish(table.combine_chunks()), reused


def run_part(plan: Plan, run: RunFolder, folder: str, part: Any, versions: Sequence[str] = (), retry: bool = False) -> dict[str, Any]:
    """Makes one part from beginning to end in the calling thread; returns its counts."""
    stage = plan.stages[folder]
    writer: PartWriter | None = None
    for step in prepare(plan, run, folder, part, versions, retry):
        if isinstance(step, Begin):
            writer = PartWriter(run, folder, step.index, step.digest, stage.schema, step.old)
        elif isinstance(step, Call):
            answer(stage, step)
            tabulate(stage, step)
        elif isinstance(step, Block) and writer is not None:
            writer.add(*assemble(stage, step))
    assert writer is not None
    return writer.finish()
