"""One row of training data, and what every form of shards offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...data.captions import clean_caption

BLOCK = 64
"""Rows that stay together when rows are shuffled, where a form has no groups of its own: neighbours on disk
are read at about one time."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One row as it is read: encoded image bytes, and every caption that it may be shown with."""

    id: str
    image: bytes
    captions: tuple[str, ...]


class RowFault(Exception):
    """A row that can't be used; `reason` is a short stable word (`empty_caption`, `no_image`,
    `unreadable_file`)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Shards(Protocol):
    """Rows 0 .. rows-1. `blocks` are the first rows of what lies together, ascending, and `rows` at the end;
    `left_out` counts by reason what the index already leaves out; `keep_rows` says how many rows to keep in
    memory where rows are read in groups."""

    name: str
    rows: int
    blocks: np.ndarray[Any, Any]
    left_out: Counter[str]
    keep_rows: int

    def id(self, row: int) -> str: ...
    def read(self, row: int) -> Pair: ...


def captions_of(values: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, ...]:
    """All captions of a row in the order of `fields`, lists laid out, empty ones left out. RowFault if none
    is left."""
    found = []
    for name in fields:
        value = values.get(name)
        for text in value if isinstance(value, list) else [value]:
            clean = clean_caption(text) if isinstance(text, str) else None
            if clean:
                found.append(clean)
    if not found:
        raise RowFault("empty_caption")
    return tuple(found)
