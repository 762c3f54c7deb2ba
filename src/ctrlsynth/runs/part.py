"""How one part of one stage is made, whatever engine asks for it: reuse, model calls with their faults,
tables.

`prepare` yields what has to be done, `answer` calls the model (what it does about faults: `faults.py`),
`assemble` puts fresh and reused rows together in order. The local engine runs the three side by side;
`run_part` runs them one after the other, for an engine that spreads parts itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa

from ..errors import WorkFailed
from ..stages.base import Item, Stage
from ..storage.parts import PartView, PartWriter, RunFolder
from ..storage.reuse import ReusableRows
from .barrier import settle
from .faults import Caller
from .plan import Plan

MAX_BLOCK = 1024
"""Rows in a block at most, when most of them are taken over."""


@dataclass(slots=True)
class Block:
    """Consecutive rows of a part: those that the model is asked for, once, and those that are taken over from
    `old`."""

    items: list[Item]
    fresh: list[Item]
    old: ReusableRows | None
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
) -> Iterator[Begin | Block | End]:
    """Everything that can be done before the model is asked: read upstream rows, find what is taken over,
    decode the rest."""
    stage = plan.stages[folder]
    settle(plan, run, folder)
    digest = plan.part_digest(folder, part)
    superseded = run.superseded(folder, part.index, digest, versions)
    yield Begin(part.index, digest, superseded)
    digests = {f: plan.part_digest(f, part) for f in plan.lineage(folder)}
    up = PartView(run, part.index, digests)
    old = ReusableRows(superseded, stage.schema, skip_failed=retry) if superseded and stage.reuses else None
    for block in _blocks(stage.items(up), old or None, stage.batch):
        stage.load(block.fresh, up)
        yield block
    yield End(part.index)


def _blocks(batches: Iterator[list[Item]], old: ReusableRows | None, size: int) -> Iterator[Block]:
    """Cuts the rows so that each block asks the model for `size` rows and no group of candidates is torn."""
    block = Block([], [], old)
    for items in batches:
        if old is None and len(items) <= size and not block.items:
            yield Block(items, items, None)
            continue
        for item in items:
            if item.starts and (len(block.fresh) >= size or len(block.items) >= MAX_BLOCK):
                yield block
                block = Block([], [], old)
            block.items.append(item)
            if old is None or (item.id, item.key) not in old:
                block.fresh.append(item)
        if len(block.fresh) >= size:
            yield block
            block = Block([], [], old)
    if block.items:
        yield block


def caller_of(plan: Plan, folder: str) -> Caller:
    """Who calls the models of this stage in this process: one a stage, so that what it has learned of them
    outlives a part."""
    if folder not in plan.callers:
        plan.callers[folder] = Caller(folder, plan.recipe.faults)
    caller: Caller = plan.callers[folder]
    return caller


def answer(caller: Caller, stage: Stage, block: Block) -> None:
    """Calls the model; rows at fault are set aside. Raises WorkFailed when the stage passes the recipe's
    limits (`faults`)."""
    started = time.perf_counter()
    block.answers = caller.ask(stage, block.fresh) if block.fresh else []
    block.seconds = time.perf_counter() - started


def assemble(stage: Stage, block: Block) -> tuple[pa.Table, int]:
    """The block's rows in order, and how many were taken over. Images are encoded here."""
    fresh = (
        stage.rows(block.fresh, block.answers, block.seconds) if block.fresh else stage.schema.empty_table()
    )
    block.answers = []
    if len(block.fresh) == len(block.items):
        return stage.finish(fresh), 0
    old = block.old
    assert old is not None
    pieces: list[pa.Table] = []
    at = 0
    for known, items in groupby(block.items, key=lambda item: (item.id, item.key) in old):
        keys = [(item.id, item.key) for item in items]
        if known:
            pieces += old.take(keys)
        else:
            pieces.append(fresh.slice(at, len(keys)))
            at += len(keys)
    return stage.finish(pa.concat_tables(pieces).combine_chunks()), len(block.items) - len(block.fresh)


def run_part(
    plan: Plan, run: RunFolder, folder: str, part: Any, versions: Sequence[str] = (), retry: bool = False
) -> dict[str, Any]:
    """Makes one part from beginning to end in the calling thread; returns its counts. Stopped or failed,
    finished rows are kept."""
    stage, caller = plan.stages[folder], caller_of(plan, folder)
    writer: PartWriter | None = None
    try:
        for step in prepare(plan, run, folder, part, versions, retry):
            if isinstance(step, Begin):
                writer = PartWriter(run, folder, step.index, step.digest, stage.schema, step.old)
            elif isinstance(step, Block) and writer is not None:
                answer(caller, stage, step)
                writer.add(*assemble(stage, step))
    except BaseException:
        if writer is not None:
            with contextlib.suppress(OSError, WorkFailed):  # does not hide the first fault
                writer.keep()
        raise
    assert writer is not None
    return writer.finish()
