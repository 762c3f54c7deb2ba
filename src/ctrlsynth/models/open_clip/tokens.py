"""Token ids for CLIP's text tower, cut to the longest caption of a batch: captions of 12 tokens do not pay
for 77.

Everything after a caption's end token is padding. A tower with a causal mask that is read at the end token
never looks at it, so cutting a batch after its longest caption changes no embedding."""

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

    Uses CLIP's byte-pair table, with the same ids as open_clip's tokenizer; `other` is an open_clip tokenizer
    for models with another vocabulary. `crop=False` pads to `context`, for towers that see the padding.
    """

    def __init__(
        self, context: int = 77, other: Callable[[list[str]], Any] | None = None, crop: bool = True
    ) -> None:
        self.context, self._other, self._crop = context, other, crop

    def __call__(self, texts: Sequence[str]) -> Array:
        if self._other is not None:
            ids = np.asarray(self._other(list(texts)))
        else:
            ids = np.zeros((len(texts), self.context), dtype=np.int64)
            for at, row in enumerate(map(encode, texts)):
                if len(row) > self.context:
                    row = [*row[: self.context - 1], END]
                ids[at, : len(row)] = row
        if not self._crop:
            return ids
        used = np.flatnonzero(ids.any(axis=0))  # padding is 0
        longest = int(used[-1]) + 1 if len(used) else 1
        return np.ascontiguousarray(ids[:, : -(-longest // _STEP) * _STEP])


def tokenizer_of(config: Mapping[str, Any], name: str, cropped: bool) -> Tokenizer:
    """The tokenizer of a model with the open_clip configuration `config`; `name` is its name for open_clip's
    `get_tokenizer`."""
    text = config["text_cfg"]
    context = int(text.get("context_length", 77))
    siglip = "siglip" in name.lower() and not name.startswith("local-dir:")
    if not (text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs") or siglip):
        return Tokenizer(context, crop=cropped)
    import open_clip

    try:
        return Tokenizer(context, open_clip.get_tokenizer(name), cropped)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: its tokenizer {text.get('hf_tokenizer_name', '')} cannot be loaded: {first_line(error)}"
        ) from error
