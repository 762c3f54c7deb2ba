"""Frozen image features and labels of a split, for the linear probe, few-shot and long-tailed heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        return Split(
            np.concatenate([self.features, other.features]), np.concatenate([self.labels, other.labels])
        )

    def part(self, start: int, stop: int) -> Split:
        return Split(self.features[start:stop], self.labels[start:stop])


def encode_split(
    model: Encoder, folder: Path, split: str, classes: int, tick: Callable[[int], None] | None = None
) -> Split:
    """Encodes `folder/split` in the shards' order."""
    labels: list[int] = []

    def images() -> Iterator[tuple[bytes, str]]:
        for sample in layout.samples(folder, split, classes):
            labels.append(int(sample.label or 0))
            yield sample.image, sample.where

    features = encode_images(model, images(), tick=tick)
    return Split(features, np.array(labels, dtype=np.int64))
