"""Connected regions of a mask and their boxes, with numpy alone: for the `reference` tagger (2a) and for
cutting out the drawings of `scenes` (2c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]


class Box(NamedTuple):
    """A rectangle in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.bottom - self.top

    @property
    def longer(self) -> int:
        """Pixels of the longer side."""
        return max(self.width, self.height)

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the box in an array (height, width, ...)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def moved(self, x: int, y: int) -> Box:
        """The box further right and down."""
        return Box(self.left + x, self.top + y, self.right + x, self.bottom + y)

    def overlap(self, other: Box, axis: int) -> int:
        """Pixels that two boxes share along an axis (0: x, 1: y); negative for a gap."""
        return min(self[axis + 2], other[axis + 2]) - max(self[axis], other[axis])


def hull(group: Sequence[Box]) -> Box:
    """The smallest box around all of a group."""
    left, top, right, bottom = zip(*group, strict=True)
    return Box(min(left), min(top), max(right), max(bottom))


def label(mask: Mask) -> tuple[Labels, int]:
    """Labels the 4-connected components of a (height, width) mask: 1..n in reading order of their first
    pixel, 0 outside. Returns the labels and n.

    Works on runs of pixels: overlapping runs of neighbouring rows take the lower number of the two, with
    pointer jumping, until nothing changes (Shiloach and Vishkin, 1982)."""
    height, width = mask.shape
    step = width + 1  # a column of False separates the rows in the flat view
    flat = np.zeros(height * step + 1, np.int8)
    flat[1:].reshape(height, step)[:, :width] = mask
    change = np.diff(flat, append=np.int8(0))
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    count = len(starts)
    low = np.searchsorted(ends, starts + step, "right")
    high = np.searchsorted(starts, ends + step, "left")
    touching = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(count), touching)
    lower = (
        np.arange(len(upper)) - np.repeat(np.cumsum(touching) - touching, touching) + np.repeat(low, touching)
    )
    root = np.arange(count)
    while True:
        least = np.minimum(root[upper], root[lower])
        joined = root.copy()
        np.minimum.at(joined, root[upper], least)
        np.minimum.at(joined, root[lower], least)
        joined = joined[joined]
        if np.array_equal(joined, root):
            break
        root = joined
    roots, numbers = np.unique(root, return_inverse=True)
    labels = np.zeros((height, width), np.int32)
    labels[mask] = np.repeat(numbers + 1, ends - starts)
    return labels, len(roots)


def outside(blocked: Mask, start: Mask | None = None) -> Mask:
    """Mask of the pixels that a path of unblocked pixels connects to the border, or to the pixels of
    `start`."""
    labels, _ = label(~blocked)
    edge = [labels[0], labels[-1], labels[:, 0], labels[:, -1]] if start is None else [labels[start]]
    reached = np.unique(np.concatenate(edge))
    return np.isin(labels, reached[reached > 0])


def widen(mask: Mask, by: int) -> Mask:
    """Dilates the mask by a square of 2 * by + 1 pixels: sets a pixel if the sum over its window grows."""
    for _ in ("rows", "columns"):
        sums = np.cumsum(np.pad(mask, ((by + 1, by), (0, 0))), 0, np.int32)
        mask = (sums[2 * by + 1 :] != sums[: len(mask)]).T
    return mask


def boxes(labels: Labels, count: int) -> list[Box]:
    """Boxes of the labels 1..count."""
    where = np.nonzero(labels)
    of = labels[where]
    low, high = np.full((2, count + 1), max(labels.shape)), np.zeros((2, count + 1), int)
    for axis in (0, 1):
        np.minimum.at(low[axis], of, where[axis])
        np.maximum.at(high[axis], of, where[axis] + 1)
    corners = zip(*low[::-1, 1:].tolist(), *high[::-1, 1:].tolist(), strict=True)
    return [Box(*corner) for corner in corners]
