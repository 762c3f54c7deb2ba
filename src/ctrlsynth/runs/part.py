"""How one part of one stage is made, by either engine.

`prepare` yields blocks of rows, `answer` calls the model for one (its faults: `faults.py`), `assemble` puts
its fresh and reused rows together in order; `local.Pipeline` runs the three side by side. Before the first
part of a barrier (balancing), `gather` looks at all parts upstream; its result is kept in
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
from ..storage.location import Location
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


def prepare(
    workshop: Workshop,
    run: RunFolder,
    folder: str,
    part: SourcePart,
    earlier: Sequence[Location],
    retry: bool,
) -> Iterator[Block]:
    """Does what can be done before the model is called: reads upstream rows, finds those that the files
    `earlier` hold already, decodes the rest."""
    plan, stage = workshop.plan, workshop.stages[folder]
    if isinstance(stage, Barrier) and stage.settled != plan.whole_digest(folder):
        _settle(stage, plan.whole_digest(folder), run, folder)
    up = _view(plan, run, folder, part)
    old = ReusableRows(earlier, stage.schema, skip_failed=retry) if earlier and stage.reuses else None
    for block in _blocks(stage.items(up), old or None, stage.batch):
        stage.load(block.fresh, up)
        yield block


def _view(plan: Plan, run: RunFolder, folder: str, part: SourcePart) -> PartView:
    return PartView(run, part.index, {f: plan.part_digest(f, part) for f in plan.lineage(folder)})


def _blocks(items: Iterator[Item], old: ReusableRows | None, size: int) -> Iterator[Block]:
    """Cuts the rows into blocks with `size` fresh rows each; never splits a group of candidates."""
    every: list[Item] = []
    fresh: list[Item] = [] if old is not None else every
    for item in items:
        if item.starts and (len(fresh) >= size or len(every) >= MAX_BLOCK):
            yield Block(every, fresh, old)
            every = []
            fresh = [] if old is not None else every
        every.append(item)
        if old is not None and (item.id, item.key) not in old:
            fresh.append(item)
    if every:
        yield Block(every, fresh, old)


def answer(model: GuardedModel, stage: Stage, block: Block) -> None:
    """Calls the model; rows at fault are marked as failed. Raises WorkFailed beyond the recipe's limits
    (`faults`)."""
    started = time.perf_counter()
    block.answers = model.ask(stage, block.fresh) if block.fresh else []
    block.seconds = time.perf_counter() - started


def assemble(stage: Stage, block: Block) -> tuple[pa.Table, int]:
    """Returns the block's rows in order, and how many were reused. Encodes images."""
    fresh = (
        stage.to_table(block.fresh, block.answers, block.seconds)
        if block.fresh
        else stage.schema.empty_table()
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
    if isinstance(stage, Barrier):
        wanted = plan.whole_digest(folder)
        stored = read_json(run.gathered_file(folder)) or {}
        if stored.get("whole") != wanted:
            views = [_view(plan, run, folder, part) for part in plan.parts]
            stored = {"whole": wanted, **stage.gather(views, each)}
            write_json(run.gathered_file(folder), stored)
        watch.gathered(folder, stored)


def _settle(stage: Barrier, wanted: str, run: RunFolder, folder: str) -> None:
    """Gives a barrier what was gathered for it, once per process."""
    stored = read_json(run.gathered_file(folder)) or {}
    if stored.get("whole") != wanted:
        raise WorkFailed(
            f"{run.root / folder}: another plan gathered here meanwhile; run the same command again"
        )
    stage.settle(stored)
    stage.settled = wanted
