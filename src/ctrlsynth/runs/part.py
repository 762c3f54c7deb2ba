"""How one part of one stage is made, by either engine.

`prepare` yields what has to be done, `answer` calls the model (its faults: `faults.py`), `assemble` puts
fresh and reused rows together in order; `local.Pipeline` runs the three side by side. Before the first part
of a barrier (balancing), `gather` looks at all parts upstream; its result is kept in
`FOLDER/_gathered.json`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa

from ..data.rows import SourcePart
from ..errors import WorkFailed
from ..stages.base import Barrier, Each, Item, Stage
from ..storage.files import read_json, write_json
from ..storage.parts import PartView, RunFolder
from ..storage.reuse import ReusableRows
from .build import Workshop
from .faults import GuardedModel
from .plan import Plan
from .watch import Watcher

MAX_BLOCK = 1024
"""Most rows in a block, when most of them are reused."""


@dataclass(slots=True)
class Block:
    """Consecutive rows of a part: `fresh` ones for one call of the model, and those reused from `old`."""

    items: list[Item]
    fresh: list[Item]
    old: ReusableRows | None
    answers: list[Any] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class Begin:
    """The start of a part: its number, its digest and the files that it will supersede."""

    index: int
    digest: str
    old: Sequence[Any]


@dataclass(slots=True)
class End:
    """The end of a part."""

    index: int


def prepare(
    workshop: Workshop, run: RunFolder, folder: str, part: SourcePart, versions: Sequence[str], retry: bool
) -> Iterator[Begin | Block | End]:
    """Does what can be done before the model is called: reads upstream rows, finds those to reuse, decodes
    the rest."""
    plan, stage = workshop.plan, workshop.stages[folder]
    _settle(plan, run, folder, stage)
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
    """Cuts the rows into blocks with `size` fresh rows each; never splits a group of candidates."""
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


def answer(model: GuardedModel, stage: Stage, block: Block) -> None:
    """Calls the model; rows at fault are marked as failed. Raises WorkFailed beyond the recipe's limits
    (`faults`)."""
    started = time.perf_counter()
    block.answers = model.ask(stage, block.fresh) if block.fresh else []
    block.seconds = time.perf_counter() - started


def assemble(stage: Stage, block: Block) -> tuple[pa.Table, int]:
    """Returns the block's rows in order, and how many were reused. Encodes images."""
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


def gather(workshop: Workshop, run: RunFolder, folder: str, watch: Watcher, each: Each = map) -> None:
    """Lets a barrier look at all parts upstream, unless its result for the same parts is stored; reports the
    result. Does nothing for other stages.

    Called once, by the process that drives the run."""
    stage, plan = workshop.stages[folder], workshop.plan
    if not isinstance(stage, Barrier):
        return
    wanted = plan.whole_digest(folder)
    stored = read_json(run.gathered_file(folder))
    if stored is None or stored.get("whole") != wanted:
        views = [
            PartView(run, p.index, {f: plan.part_digest(f, p) for f in plan.lineage(folder) if f != folder})
            for p in plan.parts
        ]
        stored = {"whole": wanted, **stage.gather(views, each)}
        write_json(run.gathered_file(folder), stored)
    watch.gathered(folder, stored)
    _settle(plan, run, folder, stage)


def _settle(plan: Plan, run: RunFolder, folder: str, stage: Stage) -> None:
    """Gives a barrier what was gathered for it, once per process."""
    if not isinstance(stage, Barrier) or stage.settled == plan.whole_digest(folder):
        return
    stored = read_json(run.gathered_file(folder))
    if stored is None or stored.get("whole") != plan.whole_digest(folder):
        raise WorkFailed(
            f"{run.root / folder}: another plan gathered here meanwhile; run the same command again"
        )
    stage.settle(stored)
    stage.settled = stored["whole"]
