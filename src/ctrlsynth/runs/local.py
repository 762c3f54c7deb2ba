"""The local engine: stage by stage over the plan, parts in order, the model loaded once per stage.

One thread reads ahead and decodes, one writes behind, so that the model in the calling thread does not wait
for either. `ray` shares `Ledger` and `Pipeline`."""

import contextlib
import gc
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..data.rows import SourcePart
from ..errors import WorkFailed
from ..storage.parts import PartWriter, RunFolder
from .build import Workshop
from .ledger import Ledger
from .part import Block, answer, assemble, gather, prepare
from .watch import Watcher

AHEAD = 3
"""Model calls whose inputs are decoded ahead, and calls whose outputs wait to be written."""
COLLECT_AFTER = 10_000
"""Objects between two garbage collections; few enough that a model whose images are in reference cycles does
not fill the memory."""
Target = tuple[int, str, PartWriter]
"""A part's number, digest and writer."""


def execute(workshop: Workshop, run: RunFolder, watcher: Watcher | None = None, retry: bool = False) -> None:
    """Makes every missing part. Raises WorkFailed with the first cause when a stage has no usable row
    left."""
    watch = watcher or Watcher()
    with fewer_collections():
        for number, step in enumerate(workshop.plan.steps):
            ledger = Ledger(workshop.plan, run, step.folder, watch)
            if todo := ledger.begin(number):
                gather(workshop, run, step.folder, watch)
                try:
                    Pipeline(workshop, run, step.folder, ledger, retry).run(todo)
                except BaseException:
                    with contextlib.suppress(OSError, WorkFailed):  # it does not hide the first fault
                        ledger.save()
                    raise
                workshop.stages[step.folder].close()
            ledger.complete()


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


class Pipeline:
    """Read ahead -> model -> write behind, over missing parts of a stage."""

    def __init__(self, workshop: Workshop, run: RunFolder, folder: str, watch: Watcher, retry: bool) -> None:
        self._workshop, self._run, self._folder = workshop, run, folder
        self._watch, self._retry = watch, retry
        self._stage, self._model = workshop.stages[folder], workshop.guarded(folder)
        self._writer: PartWriter | None = None
        self._behind: deque[Future[None]] = deque()
        self._broken = False

    def run(self, todo: list[tuple[SourcePart, list[str]]]) -> None:
        steps = ahead(self._steps(todo), AHEAD)
        with ThreadPoolExecutor(1, thread_name_prefix="write-behind") as pool:
            try:
                for target, block in steps:
                    if block is not None:
                        answer(self._model, self._stage, block)
                    self._behind.append(pool.submit(self._write, target, block))
                    while len(self._behind) > 2 * AHEAD:
                        self._behind.popleft().result()
                while self._behind:
                    self._behind.popleft().result()
            except BaseException:  # saves the finished rows of the unfinished part
                steps.close()
                while self._behind:
                    self._behind.popleft().exception()
                if self._writer is not None:
                    pool.submit(self._writer.keep).exception()  # does not hide the first fault
                raise
            finally:
                if self._model.first_error is not None:
                    self._watch.error(self._folder, self._model.first_error)

    def _steps(self, todo: list[tuple[SourcePart, list[str]]]) -> Iterator[tuple[Target, Block | None]]:
        """Yields the blocks of each part, and None for its end."""
        for part, versions in todo:
            digest = self._workshop.plan.part_digest(self._folder, part)
            if not self._run.part(self._folder, part.index, digest).exists():  # else made by another process
                old = self._run.superseded(self._folder, part.index, digest, versions)
                writer = PartWriter(self._run, self._folder, part.index, digest, self._stage.schema, old)
                target = part.index, digest, writer
                for block in prepare(self._workshop, self._run, self._folder, part, old, self._retry):
                    yield target, block
                yield target, None

    def _write(self, target: Target, block: Block | None) -> None:
        """Runs in the writing thread. Writes nothing more after a fault: a part that lacks a block must not
        be published."""
        if self._broken:
            return
        self._broken = True
        index, digest, self._writer = target
        if block is not None:
            table, reused = assemble(self._stage, block)
            self._writer.add(table, reused)
            self._watch.rows(self._folder, table.num_rows, table.num_rows - reused)
        else:
            counts = {"digest": digest, **self._writer.finish()}
            self._writer = None
            self._watch.part(self._folder, index, counts)
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
