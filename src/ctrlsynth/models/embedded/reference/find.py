"""Finds the drawn or photographed things in a picture, for the `reference` tagger (2a): the first half,
regions.

Two ways, tried in this order. Stickers: a closed white rim parts each thing from everything around it, so the
background is what the border reaches without crossing white, and a thing is what is left when the rim is
taken off. Plain backgrounds: a thing is what differs from the colours along the border. Nothing is known here
about names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..regions import Labels, Mask, boxes, label, outside, widen

WORKING = 384  # pixels of the longer side that every picture is brought to
_WHITE = 212.0
_LEAST = 14  # pixels: a thing's longer side
_PARTS = (
    6  # the most parts of one heap that are weighed against each other; the smallest join their neighbours
)
Box = tuple[int, int, int, int]
Bytes = NDArray[np.uint8]


@dataclass(slots=True)
class Heap:
    """Things that touch, or one that stands alone. `parts`: labels 1..n in `labels`, pieces that white parts
    from each other."""

    box: Box
    labels: Labels
    parts: list[Box]


@dataclass(slots=True)
class Found:
    """A picture at working size with white made white, its heaps, and the rim's likely width in pixels."""

    rgb: Bytes
    heaps: list[Heap]
    rim: int


def find(image: Image.Image) -> Found:
    """Heaps of an RGB picture of any size, in reading order; none where nothing stands out."""
    scale = WORKING / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    small = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    rgb = np.asarray(small)
    rim = max(2, round(0.012 * min(size)))
    found = stickers(rgb, rim)
    return found if found.heaps else _on_plain(rgb, rim)


def stickers(rgb: Bytes, rim: int) -> Found:
    """Heaps by their white rims."""
    low, high = extremes(rgb)
    white = (low > _WHITE) & (high - low < 48)
    solid = ~outside(widen(white, 1))
    labels, count = label(solid)
    heaps = []
    paper = white & solid
    level = np.median(rgb[paper], 0) if paper.any() else np.full(3, 255.0)
    plain = np.clip(rgb * (255.0 / np.maximum(level, 200.0)), 0, 255).astype(np.uint8)
    low, high = extremes(plain)
    soft = (low > 228) & (high - low < 60)
    for number, (left, top, right, bottom) in enumerate(boxes(labels, count), 1):
        if max(right - left, bottom - top) < _LEAST + rim or min(right - left, bottom - top) < 2 * rim:
            continue
        window = np.s_[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
        mine = labels[window] == number
        beyond = widen(
            ~mine, rim // 2
        )  # the blurred edge between rim and background goes with the background
        rimmed = outside(~(beyond | soft[window]), beyond)
        if (mine & soft[window]).sum() < 0.04 * mine.sum():  # no paper round it: not a sticker
            continue
        heap = _heap(mine & ~rimmed, (max(0, left - 1), max(0, top - 1)), plain[window])
        if heap is not None:
            heaps.append(heap)
    return Found(plain, heaps, rim)


def extremes(rgb: Bytes) -> tuple[Bytes, Bytes]:
    """The least and the greatest channel; much quicker than numpy's reduction over three."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)


def _heap(inner: Mask, corner: tuple[int, int], rgb: Bytes | None = None) -> Heap | None:
    """Parts of a mask, specks dropped; the smallest join their nearest larger neighbour when there are too
    many.

    With `rgb`, parts of one even tone are dropped as well: background that shows between stickers, since
    every drawing has lines."""
    labels, count = label(inner)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    found = boxes(labels, count)
    keep = [
        k
        for k in range(1, count + 1)
        if sizes[k] >= 12 and max(found[k - 1][2] - found[k - 1][0], found[k - 1][3] - found[k - 1][1]) >= 4
    ]
    if rgb is not None and len(keep) > 1:
        light = rgb[..., 1].astype(np.float32)
        keep = [
            k
            for k in keep
            if sizes[k] < 40
            or float(np.std(light[labels == k])) > 20
            or float(np.quantile(light[labels == k], 0.1)) < 30
        ]
    keep.sort(key=lambda k: -int(sizes[k]))
    if (
        not keep
        or max(found[keep[0] - 1][2] - found[keep[0] - 1][0], found[keep[0] - 1][3] - found[keep[0] - 1][1])
        < _LEAST - 4
    ):
        return None
    main = [k for k in keep[:_PARTS] if sizes[k] >= 0.004 * sizes.sum() or k == keep[0]]
    to = np.zeros(count + 1, np.int32)
    for number, k in enumerate(main, 1):
        to[k] = number
    for k in keep:
        if k not in main:
            to[k] = to[min(main, key=lambda m: _apart(found[m - 1], found[k - 1]))]
    merged = to[labels]
    left, top = corner
    parts = [(a + left, b + top, c + left, d + top) for a, b, c, d in boxes(merged, len(main))]
    box = (
        min(p[0] for p in parts),
        min(p[1] for p in parts),
        max(p[2] for p in parts),
        max(p[3] for p in parts),
    )
    return Heap(box, merged[box[1] - top : box[3] - top, box[0] - left : box[2] - left], parts)


def _apart(one: Box, two: Box) -> float:
    x = max(one[0] - two[2], two[0] - one[2], 0)
    y = max(one[1] - two[3], two[1] - one[3], 0)
    return float(x + y)


def _on_plain(rgb: Bytes, rim: int) -> Found:
    """Heaps that differ from a plain border; none when the border itself is not plain."""
    edge = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.float32)
    middle = np.median(edge, 0)
    if float(np.mean(np.abs(edge - middle).max(-1) < 32)) < 0.8:
        return Found(rgb, [], rim)
    differs = np.abs(rgb.astype(np.float32) - middle).max(-1) > 34
    solid = ~outside(differs)
    labels, count = label(solid)
    heaps = []
    for number, (left, top, right, bottom) in enumerate(boxes(labels, count), 1):
        if max(right - left, bottom - top) < _LEAST:
            continue
        heap = _heap(labels[top:bottom, left:right] == number, (left, top))
        if heap is not None:
            heaps.append(heap)
    return Found(rgb, heaps, rim)
