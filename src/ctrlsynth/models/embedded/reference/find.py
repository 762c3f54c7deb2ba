"""Finds the drawn or photographed things in a picture: the first half of the `reference` tagger (2a).

It tries two ways in turn. Stickers: a closed white rim separates each thing from its surroundings, so the
background is what the border reaches without crossing white, and a thing is what remains without its rim.
Plain backgrounds: a thing is what differs from the colours along the border. Nothing here knows names."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..regions import Box, Labels, Mask, boxes, hull, label, outside, widen

WORKING = 384  # pixels of the longer side to which every picture is resized
_WHITE = 212.0
_LEAST = 14  # pixels of the longer side of the smallest thing
_PARTS = 6  # most parts of one heap that are compared; the smallest join their neighbours
Bytes = NDArray[np.uint8]


@dataclass(slots=True)
class Heap:
    """One thing, or several that touch. `labels`: its parts, which white separates from each other, as 1..n;
    `parts`: their boxes in the picture."""

    box: Box
    labels: Labels
    parts: list[Box]


@dataclass(slots=True)
class Found:
    """A picture at working size with its paper made white, its heaps, and the rim's likely width in
    pixels."""

    rgb: Bytes
    heaps: list[Heap]
    rim: int


def find(image: Image.Image) -> Found:
    """Heaps of an RGB picture of any size, in reading order; none if nothing stands out."""
    scale = WORKING / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    rgb = np.asarray(image)
    rim = max(2, round(0.012 * min(size)))
    found = stickers(rgb, rim)
    return found if found.heaps else _on_plain(rgb, rim)


def stickers(rgb: Bytes, rim: int) -> Found:
    """Heaps by their white rims."""
    low, high = extremes(rgb)
    white = (low > _WHITE) & (high - low < 48)
    solid = ~outside(widen(white, 1))
    labels, count = label(solid)
    paper = white & solid
    level = np.median(rgb[paper], 0) if paper.any() else np.full(3, 255.0)
    plain = np.clip(rgb * (255.0 / np.maximum(level, 200.0)), 0, 255).astype(np.uint8)
    low, high = extremes(plain)
    soft = (low > 228) & (high - low < 60)
    heaps = []
    for number, box in enumerate(boxes(labels, count), 1):
        if box.longer < _LEAST + rim or min(box.width, box.height) < 2 * rim:
            continue
        corner = (max(0, box.left - 1), max(0, box.top - 1))
        window = Box(*corner, box.right + 1, box.bottom + 1).window
        mine = labels[window] == number
        beyond = widen(~mine, rim // 2)  # the blurred edge between rim and background is background
        rimmed = outside(~(beyond | soft[window]), beyond)
        if (mine & soft[window]).sum() >= 0.04 * mine.sum():  # else it is no sticker
            heaps.append(_heap(mine & ~rimmed, corner, plain[window]))
    return Found(plain, [heap for heap in heaps if heap is not None], rim)


def extremes(rgb: Bytes) -> tuple[Bytes, Bytes]:
    """The least and the greatest channel of each pixel; much faster than numpy's reduction over three."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)


def _heap(inner: Mask, corner: tuple[int, int], rgb: Bytes | None = None) -> Heap | None:
    """A heap of the mask's parts, without specks; the smallest parts join their nearest larger neighbour if
    there are too many. None if the largest part is too small.

    With `rgb`, parts of one even tone are dropped as well: they are background that shows between stickers,
    since every drawing has lines."""
    labels, count = label(inner)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    found = dict(enumerate(boxes(labels, count), 1))
    keep = [k for k, box in found.items() if sizes[k] >= 12 and box.longer >= 4]
    if rgb is not None and len(keep) > 1:
        light = rgb[..., 1].astype(np.float32)
        keep = [k for k in keep if sizes[k] < 40 or _has_lines(light[labels == k])]
    keep.sort(key=lambda k: -int(sizes[k]))
    if not keep or found[keep[0]].longer < _LEAST - 4:
        return None
    main = [k for k in keep[:_PARTS] if sizes[k] >= 0.004 * sizes.sum() or k == keep[0]]
    to = np.zeros(count + 1, np.int32)
    to[main] = np.arange(1, len(main) + 1)
    for k in keep:
        if k not in main:
            to[k] = to[min(main, key=lambda m: _gap(found[m], found[k]))]
    merged = to[labels]
    parts = boxes(merged, len(main))
    box = hull(parts)
    return Heap(box.moved(*corner), merged[box.window], [part.moved(*corner) for part in parts])


def _has_lines(light: NDArray[np.float32]) -> bool:
    return float(np.std(light)) > 20 or float(np.quantile(light, 0.1)) < 30


def _gap(one: Box, two: Box) -> int:
    return max(0, -one.overlap(two, 0)) + max(0, -one.overlap(two, 1))


def _on_plain(rgb: Bytes, rim: int) -> Found:
    """Heaps that differ from a plain border; none if the border itself is not plain."""
    edge = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.float32)
    middle = np.median(edge, 0)
    if float(np.mean(np.abs(edge - middle).max(-1) < 32)) < 0.8:
        return Found(rgb, [], rim)
    labels, count = label(~outside(np.abs(rgb.astype(np.float32) - middle).max(-1) > 34))
    found = (
        _heap(labels[box.window] == number, (box.left, box.top))
        for number, box in enumerate(boxes(labels, count), 1)
        if box.longer >= _LEAST
    )
    return Found(rgb, [heap for heap in found if heap is not None], rim)
