"""Runs single-threaded llama.cpp engines (2b) as processes that share one queue; answers keep the tasks'
order.

Processes of one thread are faster than one process of several, and their texts do not affect each other.
`ProcessPoolExecutor` would not do: it breaks as a whole when a worker dies."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from ....errors import ModelError

Task = dict[str, Any]
MAX_RESTARTS = 3
_DIED = f"the engine died {MAX_RESTARTS + 1} times on this request"
_START = (
    "import sys; sys.path[:] = sys.argv[2].split('\\n'); from ctrlsynth.models.llms.llama_cpp.worker "
    "import main; main(sys.argv[1])"
)


class EngineProcess:
    """An engine process behind two pipes; it answers tasks in order."""

    def __init__(self, path: str, context: int) -> None:
        options = json.dumps({"path": path, "context": context})
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, options, "\n".join(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, task: Task) -> bool:
        """Sends a task, which the engine queues. Returns False if the process has ended."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """Waits for the answer to the oldest task; None if the process died."""
        if not self._ready:
            first = self._read()
            if first is None:
                return None
            if "fatal" in first:
                raise ModelError("engine_failed", f"llama.cpp could not load the model: {first['fatal']}")
            self._ready = True
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return answer

    def close(self) -> None:
        """Kills the process and waits for its end."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()


class EnginePool:
    """Spreads tasks over the engines as they become free. Engines start at first use.

    An engine that dies is restarted and its task retried, at most `MAX_RESTARTS` times per task; then the
    task's answer is {error: {type: engine_died}}."""

    def __init__(self, path: str, context: int, processes: int) -> None:
        self._path, self._context = path, context
        self._engines: list[EngineProcess | None] = [None] * processes
        self._lock = threading.Lock()
        self.restarts = 0
        _open_pools.add(self)

    def pids(self) -> list[int]:
        """Ids of the running processes."""
        return [engine.pid for engine in self._engines if engine is not None]

    def ask(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """Returns one answer per task, in order. Raises `ModelError("engine_failed")` if the model cannot be
        loaded."""
        with self._lock:
            job = _Job(tasks)
            threads = [
                threading.Thread(target=self._serve, args=(i, job), daemon=True)
                for i in range(min(len(self._engines), len(tasks)))
            ]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except BaseException:  # Ctrl-C: the engines stop now, not after the queue
                job.stop.set()
                self.close()
                raise
            if job.faults:
                self.close()
                raise job.faults[0]
            assert len(job.answers) == len(tasks), "an engine left a task without an answer"
            return [job.answers[number] for number in range(len(tasks))]

    def _serve(self, i: int, job: _Job) -> None:
        """Lets engine i work until no task waits; the body of its thread."""
        asked: deque[tuple[int, Task]] = deque()  # sent and not answered, oldest first
        died: Counter[int] = Counter()
        try:
            while not job.stop.is_set():
                self._feed(i, job.waiting, asked)
                if not asked:
                    return
                engine = self._engines[i]
                answer = engine.receive() if engine is not None else None
                number, task = asked.popleft()
                if answer is None and not job.stop.is_set():
                    self._end(i)
                    died[number] += 1
                    if died[number] <= MAX_RESTARTS:
                        self.restarts += 1
                        asked.appendleft((number, task))
                    else:
                        answer = {"error": {"type": "engine_died", "message": _DIED}}
                    job.waiting.extendleft(reversed(asked))
                    asked.clear()
                if answer is not None:
                    job.answers[number] = answer
        except (ModelError, OSError, ValueError) as error:  # raised again in the caller's thread
            job.faults.append(error)
            job.stop.set()

    def _feed(self, i: int, waiting: deque[tuple[int, Task]], asked: deque[tuple[int, Task]]) -> None:
        """Sends tasks so that a second one is always queued in the engine; not at the end, when another
        engine may be free."""
        while len(asked) < (2 if len(waiting) > len(self._engines) else 1):
            try:
                asked.append(waiting.popleft())
            except IndexError:
                return
            engine = self._engines[i]
            if engine is None:
                engine = self._engines[i] = EngineProcess(self._path, self._context)
            if not engine.send(asked[-1][1]):
                return

    def _end(self, i: int) -> None:
        engine, self._engines[i] = self._engines[i], None
        if engine is not None:
            engine.close()

    def close(self) -> None:
        """Ends all engines; a later `ask` starts them again."""
        for i in range(len(self._engines)):
            self._end(i)


class _Job:
    """The tasks of one call of `ask`, shared by the threads that serve the engines."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        # sorted, so that engines seldom change their head
        self.waiting = deque(sorted(enumerate(tasks), key=lambda pair: json.dumps(pair[1]["head"])))
        self.answers: dict[int, dict[str, Any]] = {}
        self.faults: list[BaseException] = []
        self.stop = threading.Event()


_open_pools: weakref.WeakSet[EnginePool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for pool in list(_open_pools):
        pool.close()
