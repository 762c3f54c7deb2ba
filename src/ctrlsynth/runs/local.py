"""The local engine: stage by stage over the plan, parts in order, the model loaded once a stage. One thread
reads ahead and decodes, one writes behind, so that the model in the calling thread does not wait for either.
What it shares with `ray`: parts that are missing, the pipeline of a part, the ledger."""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from ..errors import WorkFailed
from ..storage.files import part_counts, read_json, write_json
from ..storage.parts import PartWriter, RunFolder, drop
from .barrier import gather
from .part import Begin, Block, End, answer, assemble, caller_of, prepare
from .plan import Plan

AHEAD = 3
"""How many model calls' inputs wait decoded, and how many calls' outputs wait to be written."""
COLLECT_AFTER = 10_000
"""Objects between two searches for cycles; few enough that a model whose images stand in cycles does not fill
the memory."""


class Watcher(Protocol):
    """Is told what happens; the command line draws bars from it."""

    def stage(self, folder: str, number: int, parts: int, done: int) -> None: ...
    def gathered(self, folder: str, found: dict[str, Any]) -> None: ...
    def rows(self, folder: str, rows: int, made: int) -> None: ...
    def part(self, folder: str, index: int, counts: dict[str, Any]) -> None: ...
    def finished(self, folder: str) -> None: ...


class Silent:
    """A watcher that looks away."""

    def stage(self, folder: str, number: int, parts: int, done: int) -> None: ...
    def gathered(self, folder: str, found: dict[str, Any]) -> None: ...
    def rows(self, folder: str, rows: int, made: int) -> None: ...
    def part(self, folder: str, index: int, counts: dict[str, Any]) -> None: ...
    def finished(self, folder: str) -> None: ...


def execute(plan: Plan, run: RunFolder, watcher: Watcher | None = None, retry: bool = False) -> None:
    """Makes every part that is not there yet. Raises WorkFailed when a stage has no usable row left, with the
    first cause."""
    watch = watcher or Silent()
    parts = plan.parts()
    with fewer_collections():
        for number, step in enumerate(plan.steps):
            run_stage(plan, run, step.folder, number, parts, watch, retry)


@contextlib.contextmanager
def fewer_collections() -> Iterator[None]:
    """Rows are thousands of small objects without cycles: looking for cycles after every 700 of them costs an
    eighth of a run of text."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], COLLECT_AFTER) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run_stage(
    plan: Plan, run: RunFolder, folder: str, number: int, parts: list[Any], watch: Watcher, retry: bool
) -> None:
    """One stage: the parts that are missing, then `_stage.json` with the counts of all."""
    ledger = Ledger(plan, run, folder)
    todo = missing(plan, run, folder, parts)
    watch.stage(folder, number, len(parts), len(parts) - len(todo))
    if todo:
        gather(plan, run, folder, parts, watch.gathered)
        Pipeline(plan, run, folder, watch, retry, ledger).run(todo)
        plan.stages[folder].close()
    ledger.complete(parts, changed=bool(todo))
    watch.finished(folder)


def missing(plan: Plan, run: RunFolder, folder: str, parts: Sequence[Any]) -> list[tuple[Any, list[str]]]:
    """The parts of a stage that are to be made, each with the digests of its earlier versions. Drops what
    whole parts supersede, and what the source no longer has."""
    listing = run.listing(folder)
    todo = []
    for part in parts:
        versions = listing.get(part.index, [])
        wanted = plan.part_digest(folder, part)
        if wanted in versions:
            drop([run.part(folder, part.index, d) for d in versions if d != wanted])
        else:
            todo.append((part, versions))
    there = {p.index for p in parts}
    drop(
        [
            run.part(folder, index, d)
            for index, digests in listing.items()
            if index not in there
            for d in digests
        ]
    )
    return todo


class Ledger:
    """Counts of a stage's parts, kept in `_stage.json` so that no footer is opened to tell them again."""

    def __init__(self, plan: Plan, run: RunFolder, folder: str) -> None:
        self._plan, self._run, self._folder = plan, run, folder
        self._path = run.stage_file(folder)
        stored = read_json(self._path) or {}
        self.parts: dict[str, Any] = dict(stored.get("parts", {}))
        self.first_error: str | None = stored.get("first_error")

    def add(self, index: int, digest: str, counts: dict[str, Any]) -> None:
        self.parts[str(index)] = {"digest": digest, **counts}

    def note(self, error: str | None) -> None:
        """The stage's first error, if none is known yet."""
        self.first_error = self.first_error or error

    def complete(self, parts: list[Any], changed: bool) -> None:
        """Fills in what an interrupted run has left out, writes the file, and stops the run when nothing is
        left to go on with."""
        wanted = {str(p.index): self._plan.part_digest(self._folder, p) for p in parts}
        for index, digest in wanted.items():
            if self.parts.get(index, {}).get("digest") != digest:
                changed = True
                self.parts[index] = {
                    "digest": digest,
                    **part_counts(self._run.part(self._folder, int(index), digest)),
                }
        if changed or self.parts.keys() != wanted.keys():
            self.parts = {i: self.parts[i] for i in wanted}
            if not any(p["failed"] for p in self.parts.values()):
                self.first_error = None
            self.save()
        self._stop_if_empty()

    def save(self) -> None:
        digest = self._plan.digests[self._folder]
        write_json(
            self._path,
            {"folder": self._folder, "digest": digest, "first_error": self.first_error, "parts": self.parts},
        )

    def _stop_if_empty(self) -> None:
        total = totals(self.parts.values())
        if total["rows"] and not total["ok"] and (total["failed"] or not self._folder.startswith("judge")):
            reasons = sorted({**total["dropped"], **total["failed"]}.items(), key=lambda r: -r[1])
            causes = ", ".join(f"{reason} x {count}" for reason, count in reasons)
            first = f"; first error: {self.first_error}" if self.first_error else ""
            raise WorkFailed(
                f"{self._folder}: none of {total['rows']} rows came through ({causes}){first}; later stages "
                f"were not run"
            )


def totals(parts: Any) -> dict[str, Any]:
    """Adds up the counts of parts: rows, ok, dropped and failed by reason, seconds, tokens, reused."""
    out: dict[str, Any] = {"rows": 0, "ok": 0, "dropped": {}, "failed": {}, "seconds": 0.0, "reused": 0}
    for part in parts:
        for name, value in part.items():
            if name in ("dropped", "failed"):
                for reason, count in value.items():
                    out[name][reason] = out[name].get(reason, 0) + count
            elif isinstance(value, (int, float)):
                out[name] = out.get(name, 0) + value
    return out


class Notes(Protocol):
    """What a pipeline tells of the parts it has made (`Ledger`)."""

    def add(self, index: int, digest: str, counts: dict[str, Any]) -> None: ...
    def note(self, error: str | None) -> None: ...
    def save(self) -> None: ...


class Pipeline:
    """Read ahead -> model -> write behind, over missing parts of a stage."""

    def __init__(
        self, plan: Plan, run: RunFolder, folder: str, watch: Watcher, retry: bool, ledger: Notes
    ) -> None:
        self._plan, self._run, self._folder, self._watch, self._retry, self._ledger = (
            plan,
            run,
            folder,
            watch,
            retry,
            ledger,
        )
        self._stage, self._caller = plan.stages[folder], caller_of(plan, folder)
        self._writer: PartWriter | None = None
        self._digest = ""
        self._behind: deque[Future[None]] = deque()
        self._broken = False

    def run(self, todo: list[tuple[Any, list[str]]]) -> None:
        steps = ahead(lambda: self._steps(todo), AHEAD)
        with ThreadPoolExecutor(1, thread_name_prefix="write-behind") as pool:
            try:
                for step in steps:
                    if isinstance(step, Block):
                        answer(self._caller, self._stage, step)
                    self._behind.append(pool.submit(self._write, step))
                    while len(self._behind) > 2 * AHEAD:
                        self._behind.popleft().result()
                self._drain()
                self._ledger.note(self._caller.first_error)
            except BaseException:
                steps.close()
                self._ledger.note(self._caller.first_error)
                self._rescue(pool)
                raise

    def _steps(self, todo: list[tuple[Any, list[str]]]) -> Iterator[Any]:
        for part, versions in todo:
            if self._run.part(self._folder, part.index, self._plan.part_digest(self._folder, part)).exists():
                continue  # another process has made it since
            yield from prepare(self._plan, self._run, self._folder, part, versions, self._retry)

    def _drain(self) -> None:
        while self._behind:
            self._behind.popleft().result()

    def _rescue(self, pool: ThreadPoolExecutor) -> None:
        """Ctrl-C or a fault: finished rows of the unfinished part are saved; a second fault on the way does
        not hide the first."""
        while self._behind:
            self._behind.popleft().exception()
        if self._writer is not None:
            pool.submit(self._writer.keep).exception()
        with contextlib.suppress(OSError, WorkFailed):
            self._ledger.save()

    def _write(self, step: Begin | Block | End) -> None:
        """In the writing thread. After a fault nothing more is written: the rest of a part that lacks a block
        must not become whole."""
        if self._broken:
            return
        self._broken = True
        self._write_step(step)
        self._broken = False

    def _write_step(self, step: Begin | Block | End) -> None:
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
            self._ledger.add(step.index, self._digest, counts)
            self._watch.part(self._folder, step.index, counts)


class ahead:
    """Runs a generator in a thread, at most `depth` items in front of who reads it. An error arrives where it
    would have been raised."""

    def __init__(self, make: Callable[[], Iterator[Any]], depth: int) -> None:
        self._items = make()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next: deque[Future[Any]] = deque(
            self._pool.submit(next, self._items, _END) for _ in range(depth)
        )

    def __iter__(self) -> Iterator[Any]:
        try:
            while (item := self._next.popleft().result()) is not _END:
                self._next.append(self._pool.submit(next, self._items, _END))
                yield item
        finally:
            self.close()

    def close(self) -> None:
        """Lets the thread end; what it has prepared is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


_END = object()
