"""Lets torchvision be imported beside a build of torch that its compiled operators do not fit.

Some builds (torch for the CPU from one index beside torchvision from another) leave torchvision's C++ library
unloadable. Its Python part then fails at import, because it describes two detection operators,
`torchvision::nms` and `torchvision::qnms`, that nobody has declared: "operator torchvision::nms does not
exist". timm and open_clip import torchvision, and need none of the two. Declaring their schemas is enough;
calling them still fails, as it must. On an installation where torchvision imports, nothing is changed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from .installed import need

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[Any] = []  # a torch.library.Library takes its operators away when it is collected


@lru_cache(maxsize=1)
def make_torchvision_importable(extra: str = "transformers") -> None:
    """Call it before anything that imports torchvision (timm, open_clip, image processors of transformers);
    further calls cost nothing. UserError with the pip line where torch or torchvision is not installed.
    `extra` names the extra in that line."""
    need("torch", extra)
    need("torchvision", extra)
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare()
        import torchvision  # noqa: F401


def _declare() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + _SCHEMA)
    _kept.append(library)
