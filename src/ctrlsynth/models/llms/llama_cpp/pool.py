"""Runs single-threaded llama.cpp engines (2b) as processes that share one queue; answers keep the tasks'
order.

Processes of one thread are faster than one process of several, and their texts do not affect each other.
`ProcessPoolExecutor` would not do: it breaks as a whole when a worker dies."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
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
            env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )

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
        """Waits for the answer to the oldest task; None if the process died. Raises
        `ModelError("engine_failed")` if it could not load the model."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        answer: dict[str, Any] = json.loads(line)
        if "fatal" in answer:
            raise ModelError("engine_failed", f"llama.cpp could not load the model: {answer['fatal']}")
        return answer

    def close(self) -> None:
        """Kills the process and waits for its end."""
        self._process.kill()
        self._process.communicate()


class EnginePool:
    """Spreads tasks over the engines as they become free. Engines start at first use, and end with this
    process, which closes their standard input.

    An engine that dies is restarted and its task retried, at most `MAX_RESTARTS` times per task; then the
    task's answer is {error: {type: engine_died}}."""

    def __init__(self, path: str, context: int, processes: int) -> None:
        self._start = partial(EngineProcess, path, context)
        self._engines: list[EngineProcess | None] = [None] * processes
        self._lock = threading.Lock()
        self.restarts = 0

    def pids(self) -> list[int]:
        """Ids of the running processes."""
        return [engine.pid for engine in self._engines if engine is not None]

    def ask(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """Returns one answer per task, in order. Raises `ModelError("engine_failed")` if the model cannot be
        loaded."""
        job = _Job(tasks)
        with self._lock, ThreadPoolExecutor(len(self._engines)) as threads:
            try:
                served = [
                    threads.submit(self._serve, i, job) for i in range(min(len(self._engines), len(tasks)))
                ]
                for future in as_completed(served):
                    future.result()
            except BaseException:  # Ctrl-C or a fault: the engines stop now, not after the queue
                job.stop.set()
                self.close()
                raise
        return [job.answers[number] for number in range(len(tasks))]

    def _serve(self, i: int, job: "_Job") -> None:
        """Lets engine i work until no task waits; the body of its thread."""
        sent: deque[int] = deque()  # tasks sent and not answered, oldest first
        while not job.stop.is_set():
            self._feed(i, job, sent)
            if not sent:
                return
            engine, number = self._engines[i], sent.popleft()
            answer = engine.receive() if engine is not None else None
            if answer is None and not job.stop.is_set():
                self._end(i)
                job.deaths[number] += 1
                if job.deaths[number] > MAX_RESTARTS:
                    answer = {"error": {"type": "engine_died", "message": _DIED}}
                else:
                    self.restarts += 1
                    sent.appendleft(number)
                job.waiting.extendleft(reversed(sent))
                sent.clear()
            if answer is not None:
                job.answers[number] = answer

    def _feed(self, i: int, job: "_Job", sent: deque[int]) -> None:
        """Sends tasks so that a second one is always queued in the engine; not at the end, when another
        engine may be free."""
        while len(sent) < (2 if len(job.waiting) > len(self._engines) else 1):
            try:
                sent.append(job.waiting.popleft())
            except IndexError:
                return
            engine = self._engines[i] = self._engines[i] or self._start()
            if not engine.send(job.tasks[sent[-1]]):
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
        self.tasks, self.stop = tasks, threading.Event()
        # sorted, so that engines seldom change their head
        self.waiting = deque(sorted(range(len(tasks)), key=lambda n: json.dumps(tasks[n]["head"])))
        self.answers: dict[int, dict[str, Any]] = {}
        self.deaths: Counter[int] = Counter()
