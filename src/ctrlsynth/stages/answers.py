"""Checks what a model returns: a recipe may name any class, and a wrong answer should cost only its row.

Each function returns the answer in the types that the tables take, or None for one that cannot be used
(`bad_output` in the ledger)."""

import math
from collections.abc import Iterable
from dataclasses import replace
from numbers import Real
from typing import Any

from PIL import Image

from ..models.base import Painting, Reply
from ..sample import Tags

BAD = "bad_output"
"""The ledger's word for an answer of the wrong type."""


def tags_of(answer: Any) -> Tags | None:
    """Tags with phrases as tuples of text, finite scores (one an object or none) and a caption that is text;
    they may be anything where `error` is set."""
    if not isinstance(answer, Tags) or not _text(answer.error, optional=True):
        return None
    if answer.error:
        return Tags(caption=answer.caption if _text(answer.caption) else None, error=answer.error)
    kinds = [_phrases(k) for k in (answer.objects, answer.attributes, answer.relations)]
    scores = [unit(s) for s in answer.scores] if isinstance(answer.scores, (tuple, list)) else [None]
    if (
        None in kinds
        or None in scores
        or len(scores) not in (0, len(answer.objects))
        or not _text(answer.caption, optional=True)
    ):
        return None
    objects, attributes, relations = (k or () for k in kinds)
    dropped = answer.dropped if type(answer.dropped) is int and 0 <= answer.dropped < 2**31 else 0
    return Tags(
        objects, attributes, relations, tuple(s for s in scores if s is not None), answer.caption, dropped
    )


def reply_of(answer: Any) -> Reply | None:
    """A reply whose text is text (it may be anything where `error` is set) and whose counts are whole
    numbers."""
    if (
        not isinstance(answer, Reply)
        or not _text(answer.error, optional=True)
        or not _text(answer.raw, optional=True)
    ):
        return None
    if not _text(answer.text):
        return replace(answer, text="") if answer.error else None
    counts = (answer.prompt_tokens, answer.completion_tokens)
    return answer if all(c is None or _count(c) for c in counts) else None


def painting_of(answer: Any) -> Painting | None:
    """A painting whose image is one with pixels, or none, whose lists hold text and whose counts are whole
    numbers."""
    if not isinstance(answer, Painting) or not _text(answer.error, optional=True):
        return None
    image = answer.image
    lists = [_phrases(names) for names in (answer.drawn, answer.not_drawn, answer.weights_unused)]
    if (
        not (image is None or (isinstance(image, Image.Image) and min(image.size) > 0))
        or not all(f is None or isinstance(f, bool) for f in (answer.flagged, answer.truncated))
        or not all(c is None or _count(c) for c in (answer.tokens, answer.chunks))
        or None in lists
    ):
        return None
    drawn, missing, unused = (names or () for names in lists)
    return replace(answer, drawn=drawn, not_drawn=missing, weights_unused=unused)


def unit(value: Any) -> float | None:
    """A finite number, also one of numpy's, as a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**31


def _phrases(values: Any) -> tuple[str, ...] | None:
    """A tuple of text; a text itself is not taken for its letters."""
    if not isinstance(values, tuple) and (
        isinstance(values, (str, bytes)) or not isinstance(values, Iterable)
    ):
        return None
    found = tuple(values)
    return found if all(map(_text, found)) else None


def _text(value: Any, optional: bool = False) -> bool:
    """Whether a table takes it: text without lone surrogates."""
    if not isinstance(value, str):
        return optional and value is None
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)
