"""Token ids for CLIP's text tower, cut to what the captions of a batch need: captions of 12 tokens do not pay
for 77.

Everything behind a caption's end token is padding. A tower with a causal mask that is read at the end token
never looks at it, so cutting the batch behind its longest caption changes no embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import UserError, first_line
from ...lang.clip_tokens import END, encode

_STEP = 8
Array = np.ndarray[Any, Any]


class Tokenizer:
    """Texts -> ids, int64 [n, length]: length is that of the longest text rounded up to a multiple of 8, at
    most `context`.

    CLIP's own byte-pair table is read here, with the ids of open_clip's tokenizer; `other` is a tokenizer of
    open_clip for models with another one. `crop=False` pads to `context`, for towers that see the padding.
    """

    def __init__(
        self, context: int = 77, other: Callable[[list[str]], Any] | None = None, crop: bool = True
    ) -> None:
        self.context, self._other, self._crop = context, other, crop

    def __call__(self, texts: Sequence[str]) -> Array:
        if self._other is not None:
            ids = np.asarray(self._other(list(texts)))
            return crop(ids) if self._crop else ids
        rows = [encode(text) for text in texts]
        longest = max((len(row) for row in rows), default=1)
        out = np.zeros(
            (len(rows), _length(longest, self.context) if self._crop else self.context), dtype=np.int64
        )
        for at, row in enumerate(rows):
            if len(row) > self.context:
                row = [*row[: self.context - 1], END]
            out[at, : len(row)] = row
        return out


def tokenizer_of(config: Mapping[str, Any], name: str, cropped: bool) -> Tokenizer:
    """The tokenizer of a model: `config` is its open_clip configuration, `name` what open_clip's
    `get_tokenizer` knows it by."""
    text = config["text_cfg"]
    context = int(text.get("context_length", 77))
    if (
        text.get("hf_tokenizer_name")
        or text.get("tokenizer_kwargs")
        or ("siglip" in name.lower() and not name.startswith("local-dir:"))
    ):
        import open_clip

        try:
            return Tokenizer(context, open_clip.get_tokenizer(name), cropped)
        except (OSError, ValueError) as error:
            told = first_line(error)
            raise UserError(
                f"{name}: its tokenizer {text.get('hf_tokenizer_name', '')} cannot be loaded: {told}"
            ) from error
    return Tokenizer(context, crop=cropped)


def crop(ids: Array) -> Array:
    """Cuts the columns that are padding (0) in every row, to a multiple of 8."""
    used = np.flatnonzero(ids.any(axis=0))
    return np.ascontiguousarray(ids[:, : _length(int(used[-1]) + 1 if len(used) else 1, ids.shape[1])])


def _length(longest: int, context: int) -> int:
    return min(-(-longest // _STEP) * _STEP, context)
