"""As many single-thread llama.cpp engines (2b) as there are cores, fed from one queue; answers come back in
the order of the tasks.

Two processes of one thread answer twice as fast as one of two threads, and their text does not depend on each
other."""

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
_START = (
    "import sys; sys.path[:] = sys.argv[2].split('\\n'); from ctrlsynth.models.llms.llama_cpp.worker "
    "import main; main(sys.argv[1])"
)


class EngineProcess:
    """One engine behind two pipes: tasks go in, answers come out in the same order."""

    def __init__(self, path: str, context: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _START,
                json.dumps({"path": path, "context": context}),
                "\n".join(sys.path),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, task: Task) -> bool:
        """Hands a task over; the engine queues it. False when the process is gone."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """The answer to the oldest task that was sent; None when the process died."""
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
        if not line.endswith(b"\n"):
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process, whatever it is doing, and waits for it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()


class EnginePool:
    """`ask(tasks)` spreads tasks over the engines as they become free. An engine that dies is started again
    and its task asked again, at most `MAX_RESTARTS` times a task; then that task's answer is {error: {type:
    engine_died}}. Engines start at first use."""

    def __init__(self, path: str, context: int, processes: int) -> None:
        self._path, self._context = path, context
        self._engines: list[EngineProcess | None] = [None] * processes
        self._lock = threading.Lock()
        self.restarts = 0
        _open_pools.add(self)

    def pids(self) -> list[int]:
        """The processes that run now."""
        return [engine.pid for engine in self._engines if engine is not None]

    def ask(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """One answer a task, in order. Raises `ModelError("engine_failed")` where the model cannot be
        loaded."""
        with self._lock:
            stop = threading.Event()
            waiting = deque(
                sorted(enumerate(tasks), key=lambda pair: json.dumps(pair[1]["head"]))
            )  # an engine seldom changes its head
            answers: list[dict[str, Any] | None] = [None] * len(tasks)
            faults: list[BaseException] = []
            threads = [
                threading.Thread(target=self._serve, args=(i, waiting, answers, faults, stop), daemon=True)
                for i in range(min(len(self._engines), len(tasks)))
            ]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except BaseException:  # Ctrl-C: the engines stop now, not after the queue
                stop.set()
                self.close()
                raise
            if faults:
                self.close()
                raise faults[0]
            done = [answer for answer in answers if answer is not None]
            assert len(done) == len(tasks), "an engine left a task without an answer"
            return done

    def _serve(
        self,
        i: int,
        waiting: deque[tuple[int, Task]],
        answers: list[dict[str, Any] | None],
        faults: list[BaseException],
        stop: threading.Event,
    ) -> None:
        asked: deque[tuple[int, Task]] = deque()  # sent and not answered, oldest first
        died: Counter[int] = Counter()
        try:
            while not stop.is_set():
                self._feed(i, waiting, asked)
                if not asked:
                    return
                engine = self._engines[i]
                answer = engine.receive() if engine is not None else None
                number, task = asked.popleft()
                if answer is None and not stop.is_set():
                    answer = self._bury(i, number, died)
                    waiting.extendleft(reversed(asked if answer is not None else [(number, task), *asked]))
                    asked.clear()
                if answer is not None:
                    answers[number] = answer
        except (ModelError, OSError, ValueError) as error:  # handed to the caller's thread, which raises it
            faults.append(error)
            stop.set()

    def _feed(self, i: int, waiting: deque[tuple[int, Task]], asked: deque[tuple[int, Task]]) -> None:
        """Keeps a second task queued in the engine, so that it never waits for us; not at the end, when
        another engine may be free."""
        while len(asked) < (2 if len(waiting) > len(self._engines) else 1):
            try:
                pair = waiting.popleft()
            except IndexError:
                return
            asked.append(pair)
            engine = self._engines[i]
            if engine is None:
                engine = self._engines[i] = EngineProcess(self._path, self._context)
            if not engine.send(pair[1]):
                return

    def _bury(self, i: int, number: int, died: Counter[int]) -> dict[str, Any] | None:
        """Ends a dead engine; the task that it died on gets an answer of its own once it has cost
        `MAX_RESTARTS` engines more."""
        engine = self._engines[i]
        self._engines[i] = None
        if engine is not None:
            engine.close()
        died[number] += 1
        if died[number] <= MAX_RESTARTS:
            self.restarts += 1
            return None
        return {
            "error": {
                "type": "engine_died",
                "message": f"the engine died {MAX_RESTARTS + 1} times on this request",
            }
        }

    def close(self) -> None:
        """Ends all engines; a later `ask` starts them again."""
        for i, engine in enumerate(self._engines):
            if engine is not None:
                self._engines[i] = None
                engine.close()


_open_pools: weakref.WeakSet[EnginePool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for pool in list(_open_pools):
        pool.close()
