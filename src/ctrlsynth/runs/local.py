"""The local engine: stage by stage over the plan, parts in order, the model loaded once per stage.

One thread reads ahead and decodes, one writes behind, so that the model in the calling thread does not wait
for either. `ray` shares `missing` and `Pipeline`."""

import contextlib
import gc
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from ..data.rows import SourcePart
from ..errors import WorkFailed
from ..storage.parts import PartWriter, RunFolder, drop
from .build import Workshop
from .ledger import Ledger
from .part import Begin, Block, End, answer, assemble, gather, prepare
from .plan import Plan
from .watch import Watcher

AHEAD = 3
"""Model calls whose inputs are decoded ahead, and calls whose outputs wait to be written."""
COLLECT_AFTER = 10_000
"""Objects between two garbage collections; few enough that a model whose images are in reference cycles does
not fill the memory."""


def execute(workshop: Workshop, run: RunFolder, watcher: Watcher | None = None, retry: bool = False) -> None:
    """Makes every missing part. Raises WorkFailed with the first cause when a stage has no usable row
    left."""
    watch = watcher or Watcher()
    with fewer_collections():
        for number, step in enumerate(workshop.plan.steps):
            run_stage(workshop, run, step.folder, number, watch, retry)


@contextlib.contextmanager
def fewer_collections() -> Iterator[None]:
    """Collects garbage less often: rows are thousands of small objects without cycles, and collecting after
    every 700 of them takes an eighth of the time of a run of texts."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], COLLECT_AFTER) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run_stage(
    workshop: Workshop, run: RunFolder, folder: str, number: int, watch: Watcher, retry: bool
) -> None:
    """Makes the missing parts of one stage, then `_stage.json` with the counts of all."""
    plan = workshop.plan
    ledger, todo = Ledger(plan, run, folder), missing(plan, run, folder)
    watch.stage(folder, number, len(plan.parts), len(plan.parts) - len(todo))
    if todo:
        gather(workshop, run, folder, watch)
        Pipeline(workshop, run, folder, watch, retry, ledger).run(todo)
        workshop.stages[folder].close()
    ledger.complete(changed=bool(todo))
    watch.finished(folder)


def missing(plan: Plan, run: RunFolder, folder: str) -> list[tuple[SourcePart, list[str]]]:
    """Returns the parts of a stage that are to be made, each with the digests of its earlier versions.

    Removes what finished parts supersede, and what the source no longer has."""
    listing = run.listing(folder)
    todo = []
    for part in plan.parts:
        versions = listing.pop(part.index, [])
        wanted = plan.part_digest(folder, part)
        if wanted in versions:
            drop([run.part(folder, part.index, d) for d in versions if d != wanted])
        else:
            todo.append((part, versions))
    drop([run.part(folder, index, d) for index, digests in listing.items() for d in digests])
    return todo


class Notes(Protocol):
    """Receives the counts of finished parts (`Ledger`)."""

    def add(self, index: int, digest: str, counts: dict[str, Any]) -> None: ...
    def note(self, error: str | None) -> None: ...
    def save(self) -> None: ...


class Pipeline:
    """Read ahead -> model -> write behind, over missing parts of a stage."""

    def __init__(
        self, workshop: Workshop, run: RunFolder, folder: str, watch: Watcher, retry: bool, notes: Notes
    ) -> None:
        self._workshop, self._run, self._folder = workshop, run, folder
        self._watch, self._retry, self._notes = watch, retry, notes
        self._stage, self._model = workshop.stages[folder], workshop.guarded(folder)
        self._writer: PartWriter | None = None
        self._digest = ""
        self._behind: deque[Future[None]] = deque()
        self._broken = False

    def run(self, todo: list[tuple[Any, list[str]]]) -> None:
        steps = ahead(self._steps(todo), AHEAD)
        with ThreadPoolExecutor(1, thread_name_prefix="write-behind") as pool:
            try:
                for step in steps:
                    if isinstance(step, Block):
                        answer(self._model, self._stage, step)
                    self._behind.append(pool.submit(self._write, step))
                    while len(self._behind) > 2 * AHEAD:
                        self._behind.popleft().result()
                while self._behind:
                    self._behind.popleft().result()
                self._notes.note(self._model.first_error)
            except BaseException:
                steps.close()
                self._notes.note(self._model.first_error)
                self._rescue(pool)
                raise

    def _steps(self, todo: list[tuple[Any, list[str]]]) -> Iterator[Any]:
        for part, versions in todo:
            digest = self._workshop.plan.part_digest(self._folder, part)
            if not self._run.part(self._folder, part.index, digest).exists():  # else made by another process
                yield from prepare(self._workshop, self._run, self._folder, part, versions, self._retry)

    def _rescue(self, pool: ThreadPoolExecutor) -> None:
        """After Ctrl-C or a fault: saves the finished rows of the unfinished part. A second fault does not
        hide the first."""
        while self._behind:
            self._behind.popleft().exception()
        if self._writer is not None:
            pool.submit(self._writer.keep).exception()
        with contextlib.suppress(OSError, WorkFailed):
            self._notes.save()

    def _write(self, step: Begin | Block | End) -> None:
        """Runs in the writing thread. Writes nothing more after a fault: a part that lacks a block must not
        be published."""
        if self._broken:
            return
        self._broken = True
        if isinstance(step, Begin):
            self._writer = PartWriter(
                self._run, self._folder, step.index, step.digest, self._stage.schema, step.old
            )
            self._digest = step.digest
        elif isinstance(step, Block):
            table, reused = assemble(self._stage, step)
            assert self._writer is not None
            self._writer.add(table, reused)
            self._watch.rows(self._folder, table.num_rows, table.num_rows - reused)
        else:
            assert self._writer is not None
            counts = self._writer.finish()
            self._writer = None
            self._notes.add(step.index, self._digest, counts)
            self._watch.part(self._folder, step.index, counts)
        self._broken = False


def ahead(items: Iterator[Any], depth: int) -> Generator[Any, None, None]:
    """Yields the items of an iterator that a thread runs, at most `depth` items ahead. An error is raised
    where the item would have been yielded. `close` ends the thread and drops what it has prepared."""
    pool, end = ThreadPoolExecutor(1, thread_name_prefix="read-ahead"), object()
    waiting = deque(pool.submit(next, items, end) for _ in range(depth))
    try:
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
