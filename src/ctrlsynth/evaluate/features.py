"""Image features and labels of a split, for all kinds that classify images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import layout
from .encode import Array, Encoder, encode_images
from .metrics import Ints


@dataclass(frozen=True, slots=True)
class Split:
    """features (N, D), L2-normalised; labels (N,)."""

    features: Array
    labels: Ints

    def __add__(self, other: Split) -> Split:
        features = np.concatenate([self.features, other.features])
        return Split(features, np.concatenate([self.labels, other.labels]))

    def part(self, start: int, stop: int) -> Split:
        """The rows from `start` to before `stop`."""
        return Split(self.features[start:stop], self.labels[start:stop])


def encode_labelled(model: Encoder, rows: Iterable[tuple[bytes, str, int]]) -> Split:
    """Encodes (image, where it is, label), in order."""
    labels: list[int] = []

    def images() -> Iterator[tuple[bytes, str]]:
        for image, where, label in rows:
            labels.append(label)
            yield image, where

    features = encode_images(model, images())
    return Split(features, np.array(labels, dtype=np.int64))


def encode_split(model: Encoder, folder: Path, split: str, classes: int) -> Split:
    """Encodes `folder/split`, whose labels are 0 to classes-1, in the order of its shards."""
    found = layout.samples(folder, split, classes)
    return encode_labelled(model, ((s.image, s.where, s.label or 0) for s in found))
