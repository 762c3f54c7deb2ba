"""Where and how models compute: threads of native libraries, the torch device, out-of-memory faults, and a
batch size that adapts.

On a shared machine OpenMP threads that spin while they wait make two threads ten times slower than one.
So waiting is passive, and the embedded models run one thread per image (or one process per language model)
and several of them at once, rather than many threads on one."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ModelError, UserError, first_line
from .installed import need
from .options import check_whole

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
_ours: set[str] = set()  # variables that this process set, not its user
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "not enough memory",
)
_DEAD = ("cuda error", "hip error", "device-side assert", "cudnn_status_execution_failed", "nccl error")
PATIENCE = 8
"""Successful calls before `AdaptiveBatch` tries a larger one. Doubled after each failed try, since another
process may hold the GPU's memory for good."""
_MOST_PATIENCE = 4096


def quiet_native_threads() -> None:
    """Sets the environment variables that native libraries read on loading; keeps what the user has set.
    Call it before models load."""
    new = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(new)
    _ours.update(new)


def cores() -> int:
    """Number of cores that this process may use (its affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_threads() -> int:
    """Default number of threads (or one-thread engines): OMP_NUM_THREADS if the user, or the cluster that
    started this process, set it; else every core that this process may use."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    given = "OMP_NUM_THREADS" not in _ours and value.isdecimal() and int(value) > 0
    return int(value) if given else cores()


def thread_count(value: int | None, where: str) -> int:
    """Checks an option `threads`; None means `free_threads`."""
    check_whole(where, threads=value)
    return value or free_threads()


def in_threads(work: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """Calls `work` on each item, `threads` at a time; answers in the order of the items."""
    with ThreadPoolExecutor(max(1, min(threads, len(items))), "model") as pool:
        return list(pool.map(work, items))


def session_options(threads: int = 1) -> onnxruntime.SessionOptions:
    """onnxruntime options of a session whose runs use `threads` threads that sleep while they wait."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


@lru_cache(maxsize=1)
def set_threads() -> None:
    """Sets torch's threads to `free_threads`, once per process."""
    quiet_native_threads()
    import torch

    torch.set_num_threads(free_threads())


@lru_cache(maxsize=1)
def make_torchvision_importable(extra: str = "transformers") -> None:
    """Repairs the import of torchvision beside a torch build that its compiled operators do not fit. Call it
    before anything that imports torchvision (timm, open_clip, image processors of transformers).

    On some installations (torch for the CPU from one index, torchvision from another) torchvision's C++
    library cannot load, and its Python part then fails with "operator torchvision::nms does not exist".
    timm and open_clip need neither of its two detection operators, so declaring their schemas is enough;
    calling them still fails. Where torchvision imports, nothing changes.

    UserError with the pip line, naming `extra`, if torch or torchvision is not installed."""
    need("torch", extra)
    need("torchvision", extra)
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        import torchvision  # noqa: F401


_kept: list[Any] = []  # a torch.library.Library removes its operators when it is collected


def choose_device(name: str, where: str = "models") -> str:
    """A torch device by name; `auto` is cuda, else xpu, else mps, else cpu. UserError if the machine lacks
    it."""
    import torch

    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
    }
    if name == "auto":
        return next(kind for kind in ("cuda", "xpu", "mps", "cpu") if there[kind])
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not there.get(kind) or (number and not (number.isdecimal() and int(number) < count)):
        raise UserError(
            f"{where}.device: {name} is not on this machine; it has "
            f"{', '.join(k for k, v in there.items() if v)}"
        )
    return name


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the GPU or the main memory is full."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)
    )


def engine_died(error: BaseException) -> bool:
    """Whether an error leaves the GPU unusable for this process, so that the model must restart in
    another."""
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _DEAD)


@contextmanager
def memory_faults(name: str) -> Iterator[None]:
    """Turns a full memory into `ModelError("out_of_memory")` and a dead GPU into `ModelError("engine_died")`;
    other errors pass. Frees what the failed call still held, so that a smaller batch can succeed."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = "out_of_memory" if out_of_memory(error) else "engine_died" if engine_died(error) else None
        if reason is None:
            raise
        message = f"{name}: {first_line(error)[:300]}"
        traceback.clear_frames(error.__traceback__)
        if reason == "out_of_memory":
            give_back()
        raise ModelError(reason, message) from None


def give_back() -> None:
    """Returns cached GPU memory of torch to the GPU."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class AdaptiveBatch:
    """The size of a model's next call: halved when memory runs out, doubled after some successes, never above
    `most`."""

    def __init__(self, most: int, patience: int = PATIENCE) -> None:
        self.most = self.size = most
        self._patience = patience
        self._successes = 0
        self._grew = False

    def run(self, rows: Sequence[T], call: Callable[[Sequence[T]], Sequence[R]]) -> list[R | None]:
        """Calls `call` on pieces of the rows that fit into memory. Returns one answer per row, in order; None
        for a row that does not fit alone. Raises any error but `ModelError("out_of_memory")`."""
        done: list[R | None] = []
        while len(done) < len(rows):
            piece = rows[len(done) : len(done) + self.size]
            try:
                answers = call(piece)
            except ModelError as error:
                if error.reason != "out_of_memory":
                    raise
                if len(piece) == 1:
                    done.append(None)
                self._shrink(len(piece))
            else:
                done += answers
                self._grow(len(piece))
        return done

    def _shrink(self, tried: int) -> None:
        self.size = max(1, tried // 2)
        self._successes = 0
        if self._grew:
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._grew = False

    def _grow(self, tried: int) -> None:
        self._grew &= tried < self.size
        if self.size == self.most or tried < self.size:  # a short last piece proves nothing
            return
        self._successes += 1
        if self._successes >= self._patience:
            self.size, self._successes, self._grew = min(2 * self.size, self.most), 0, True


def pick_precision(name: str, device: Any) -> str:
    """Resolves `auto`: bf16 on a GPU or processor that computes in it (fp16 on older GPUs), else float32.
    A processor that only emulates bf16 is many times slower with it than with float32."""
    import torch

    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _processor() & {"avx512_bf16", "amx_bf16"} else "float32"


@lru_cache(maxsize=1)
def _processor() -> frozenset[str]:
    """The processor's flags as Linux lists them; empty elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def autocast(precision: str, device: Any) -> Any:
    """torch's autocast for `bf16` and `fp16`, a disabled one for `float32`."""
    import torch

    dtypes = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, dtype=dtypes[precision], enabled=precision != "float32")
