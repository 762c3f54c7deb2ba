"""The threads of native libraries, set in this one place before any of them loads.

On a shared machine OpenMP's habit of spinning while it waits makes two threads ten times slower than one, so
waiting is passive, and the models here run one thread an image (or one process a language model) and do
several at once, rather than many threads on one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from ..errors import UserError

if TYPE_CHECKING:
    import onnxruntime

T = TypeVar("T")
R = TypeVar("R")
_QUIET = {
    "OMP_WAIT_POLICY": "PASSIVE",  # sleep while waiting
    "GOMP_SPINCOUNT": "0",  # GNU's OpenMP
    "KMP_BLOCKTIME": "0",  # LLVM's and Intel's OpenMP
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_ours: set[str] = set()  # names that this process set, not its user


def quiet_native_threads() -> None:
    """Sets the environment that native libraries read when they load; what the user has set already stays.
    Call it before models load."""
    for name, value in _QUIET.items():
        if name not in os.environ:
            os.environ[name] = value
            _ours.add(name)


def user_threads() -> int | None:
    """OMP_NUM_THREADS as the user (or the cluster that started this process) set it; None where nobody
    did."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if "OMP_NUM_THREADS" not in _ours and value.isdecimal() and int(value) > 0 else None


def cores() -> int:
    """The cores that this process may use (its affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_threads() -> int:
    """How many threads (or engines of one thread) to use where nobody says: OMP_NUM_THREADS where the user
    set it, or the engine `ray` to the CPUs of an actor; else every core that this process may use."""
    return user_threads() or cores()


def thread_count(value: int | None, where: str) -> int:
    """An option `threads`: None means `free_threads`. UserError unless it is a whole number from 1 up."""
    if value is None:
        return free_threads()
    if type(value) is not int or value < 1:
        raise UserError(
            f"{where}: threads is a whole number from 1 up, or left out for every core, not {value!r}"
        )
    return value


def in_threads(work: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """`work` done on each item, `threads` at a time, answers in the order of the items. Threads live no
    longer than the call."""
    if threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items)), "model") as pool:
        return list(pool.map(work, items))


def session_options(threads: int = 1) -> onnxruntime.SessionOptions:
    """onnxruntime's options for a session whose single run uses `threads` threads that sleep while they
    wait."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options
