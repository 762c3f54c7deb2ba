"""Models for the Ray tests: they tell who they are, work slowly, and fail on demand."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from ctrlsynth.errors import UserError
from ctrlsynth.models.base import Reply, Request


class SlowWriter:
    """Notes `process node row` for every request in the file `log`, 50 ms a row."""

    id = "slow-writer"
    digest = "1"
    batch = 2

    def __init__(self, log: str, seconds: float = 0.05) -> None:
        self._log, self._seconds = log, seconds

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        import ray

        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "local"
        with open(self._log, "a", encoding="utf-8") as handle:
            handle.writelines(f"{os.getpid()} {node} {r.tags.phrases()}\n" for r in requests)
        time.sleep(self._seconds * len(requests))
        return [Reply("There is " + ", ".join(r.tags.phrases()) + ".") for r in requests]


class Crasher:
    """Takes its process down at the request that holds `when`, every time."""

    id = "crasher"
    digest = "1"
    batch = 1

    def __init__(self, when: str) -> None:
        self._when = when

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        if any(self._when in p for r in requests for p in r.tags.phrases()):
            os._exit(3)
        return [Reply("There is " + ", ".join(r.tags.phrases()) + ".") for r in requests]


class WithFile:
    """Needs a file, as a model with weights does, and says what is in it. `only`: the one process that has the file."""

    id = "with-file"
    digest = "1"
    batch = 4

    def __init__(self, model: str, only: int | None = None) -> None:
        if only not in (None, os.getpid()) or not os.path.exists(model):
            raise UserError(f"{model}: no such file")
        with open(model, encoding="utf-8") as handle:
            self._says = handle.read()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(self._says) for _ in requests]
