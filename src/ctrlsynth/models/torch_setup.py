"""torch as every backend here uses it: its threads set once, and its faults told as the two that an engine
can do something about."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from ..errors import ModelError, first_line
from .runtime import free_threads, quiet_native_threads

_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "not enough memory",
)
_DEAD = ("cuda error", "hip error", "device-side assert", "cudnn_status_execution_failed", "nccl error")


@lru_cache(maxsize=1)
def set_threads() -> None:
    """torch's threads: `free_threads`. Once a process."""
    quiet_native_threads()
    import torch

    torch.set_num_threads(free_threads())


def out_of_memory(error: BaseException) -> bool:
    """Whether a fault is the lack of memory, on a GPU or in main memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)
    )


def engine_died(error: BaseException) -> bool:
    """Whether a fault leaves the GPU unusable for this process, so that the model must be started again in
    another."""
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _DEAD)


@contextmanager
def memory_faults(name: str) -> Iterator[None]:
    """Around a model's work: lack of memory becomes `ModelError("out_of_memory")`, a dead GPU
    `ModelError("engine_died")`, with what the failed call still held let go, so that a smaller batch has the
    memory. Anything else passes through."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = "out_of_memory" if out_of_memory(error) else "engine_died" if engine_died(error) else None
        if reason is None:
            raise
        message = f"{name}: {first_line(error)}"
        traceback.clear_frames(error.__traceback__)
        if reason == "out_of_memory":
            give_back()
        raise ModelError(reason, message) from None


def give_back() -> None:
    """Hands memory that torch keeps for later back to the GPU, where one is used; for models that were
    closed."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
