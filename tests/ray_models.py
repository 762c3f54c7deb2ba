"""Models for the Ray tests: they tell who they are, wait to be killed, and fail on demand."""

import os
import time
from collections.abc import Sequence

from ctrlsynth.errors import UserError
from ctrlsynth.models.base import Reply, Request
from ctrlsynth.models.device import free_threads


def says(request: Request) -> str:
    """What a request is about."""
    return request.caption or ", ".join(request.tags.phrases())


class Writer:
    """Notes `process node row` for every request in the file `log`, and says what it was asked. `stops`:
    whoever notes that many rows in all leaves `log.stop-N` and waits to be killed, in the middle of its part.
    `log.threads`: how many threads an embedded model would use, a line a call."""

    id = "writer"
    digest = "1"
    batch = 2

    def __init__(self, log: str, stops: Sequence[int] = ()) -> None:
        self._log, self._stops = log, stops

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        import ray

        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "local"
        with open(self._log, "a", encoding="utf-8") as handle:
            handle.writelines(f"{os.getpid()} {node} {says(r)}\n" for r in requests)
        with open(f"{self._log}.threads", "a", encoding="utf-8") as handle:
            handle.write(f"{free_threads()}\n")
        with open(self._log, encoding="utf-8") as handle:
            noted = len(handle.readlines())
        for stop in self._stops:
            if noted >= stop and not os.path.exists(f"{self._log}.stop-{stop}"):
                with open(f"{self._log}.stop-{stop}", "x", encoding="utf-8") as handle:
                    handle.write(f"{os.getpid()} {node}")
                time.sleep(300)
        return [Reply(f"There is {says(r)}.") for r in requests]


class Crasher:
    """Takes its process down at the request that holds `when`, every time."""

    id = "crasher"
    digest = "1"
    batch = 1

    def __init__(self, when: str) -> None:
        self._when = when

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        if any(self._when in says(r) for r in requests):
            os._exit(3)
        return [Reply(f"There is {says(r)}.") for r in requests]


class WithFile:
    """Needs a file, as a model with weights does. `only`: the one process that has the file."""

    id = "with-file"
    digest = "1"
    batch = 4

    def __init__(self, model: str, only: int | None = None) -> None:
        if only not in (None, os.getpid()) or not os.path.exists(model):
            raise UserError(f"{model}: no such file")

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(f"There is {says(r)}.") for r in requests]
