"""The precision that training computes in: bf16 or fp16 by autocast, or float32."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from pathlib import Path
from typing import Any


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
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def autocast(precision: str, device: Any) -> Any:
    """torch's autocast for `bf16` and `fp16`, a null context for `float32`."""
    import torch

    if precision == "float32":
        return contextlib.nullcontext()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype)
