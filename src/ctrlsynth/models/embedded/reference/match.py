"""Names the regions of a picture, for the `reference` tagger (2a): the second half, nearest neighbours.

A heap of parts that touch is split into things by trying: each small set of parts is compared with every
labelled picture, with the places that a neighbour may hide left out and the hidden edges guessed; the
division whose things fit best wins."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..regions import outside, widen
from .find import Box, Found, Heap
from .index import LOOK, LOOKS, SIDE, Index, coarsened, shape_of

_REACH = (0.0, 0.1, 0.2, 0.33, 0.5)  # how far a hidden edge may lie beyond what is seen, in shares of the box
_ASPECT = 0.10  # weight of the squared difference of log aspect
_LONG = 80  # candidates that are looked at on the fine grid
_SHORT = 20  # and of those in colour
_PLAIN = 0.014  # a fit this near needs no second thought
_DOUBT = 0.04  # a piece inside a settled thing must fit better than this to be a thing of its own
FARTHEST = 0.085  # beyond this distance a region is nothing that the labelled pictures show
Floats = NDArray[np.float32]


@dataclass(slots=True)
class Thing:
    """A named region: its box with hidden parts guessed, its colour if it is not the labelled picture's own,
    and how far it is off."""

    name: str
    colour: str | None
    box: Box
    distance: float
    heap: int
    area: int
    pixels: Floats  # (n, 3): the region's colours, for naming what it is by nature


@dataclass(slots=True)
class _Guess:
    """One way to box a set of parts: what is seen on the grid, and what is known (1) or may be hidden (0)."""

    box: Box
    look: Floats
    cover: Floats
    known: Floats


def name_all(found: Found, index: Index) -> list[Thing]:
    """Every heap of a picture divided and named; regions that fit nothing are left out."""
    things: list[Thing] = []
    for number, heap in enumerate(found.heaps):
        things += [thing for thing in _divide(heap, number, found, index) if thing.distance <= FARTHEST]
    return things


def _divide(heap: Heap, number: int, found: Found, index: Index) -> list[Thing]:
    """The best division of a heap's parts into things: least mean distance, weighted by the square root of
    area.

    Whatever fits well enough at once is settled at once: the whole heap first, then single parts; only the
    rest is tried in sets."""
    count = len(heap.parts)
    whole = _fit(tuple(range(count)), heap, number, found, index)
    if count == 1 or whole.distance < _PLAIN:
        return [whole]
    single = [_fit((part,), heap, number, found, index) for part in range(count)]
    settled = [thing for thing in single if thing.distance < _PLAIN]
    rest = tuple(part for part in range(count) if single[part].distance >= _PLAIN)
    fits: dict[tuple[int, ...], Thing] = {(part,): single[part] for part in rest}
    for size in (2, 3):
        for chosen in combinations(rest, size):
            fits[chosen] = _fit(chosen, heap, number, found, index)
    best: tuple[float, list[Thing]] = (float("inf"), [])
    for division in _divisions(rest, fits.keys()):
        things = [fits[s] for s in division]
        weight = [thing.area**0.5 for thing in things]
        cost = (
            sum(w * t.distance for w, t in zip(weight, things, strict=True)) / sum(weight)
            + 0.002 * len(things)
            if things
            else 0.0
        )
        if cost < best[0]:
            best = (cost, things)
    return [
        *settled,
        *(t for t in best[1] if t.distance < _DOUBT or not any(_within(t.box, s.box) for s in settled)),
    ]


def _within(inner: Box, outer: Box) -> bool:
    """Whether most of a box lies in another: a piece of a thing that is named already."""
    wide = min(inner[2], outer[2]) - max(inner[0], outer[0])
    high = min(inner[3], outer[3]) - max(inner[1], outer[1])
    return wide > 0 and high > 0 and wide * high > 0.7 * (inner[2] - inner[0]) * (inner[3] - inner[1])


def _divisions(parts: tuple[int, ...], allowed: Collection[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """All ways to divide the parts into allowed sets."""
    if not parts:
        return [[]]
    first, rest = parts[0], parts[1:]
    ways = []
    for size in range(len(rest) + 1):
        for others in combinations(rest, size):
            head = (first, *others)
            if head in allowed:
                ways += [
                    [head, *tail] for tail in _divisions(tuple(p for p in rest if p not in others), allowed)
                ]
    return ways


def _fit(chosen: tuple[int, ...], heap: Heap, number: int, found: Found, index: Index) -> Thing:
    """The nearest labelled picture of a set of parts."""
    guesses, area, pixels = _guesses(chosen, heap, found)
    shapes = np.stack([shape_of(g.look, g.cover) for g in guesses])
    known = np.stack([np.concatenate([g.known.ravel()] * 2) for g in guesses])
    aspect = np.array([np.log((g.box[2] - g.box[0]) / (g.box[3] - g.box[1])) for g in guesses], np.float32)
    stretch = _ASPECT * (aspect[:, None] - index.aspects[None]) ** 2 + 0.03 * (
        1 - known.mean(1, keepdims=True)
    )
    one, weight = coarsened(shapes), coarsened(known)
    apart = (
        (weight * one**2).sum(1, keepdims=True)
        - 2 * (weight * one) @ index.coarse[0]
        + weight @ index.coarse[1]
    )
    apart = apart / weight.sum(1, keepdims=True) + stretch
    flat = np.argpartition(apart, min(_LONG, apart.size - 1), axis=None)[:_LONG]
    of_guess, of_picture = np.unravel_index(flat, apart.shape)
    mask = known[of_guess]
    fine = (mask * (shapes[of_guess] - index.shapes[of_picture]) ** 2).sum(1) / mask.sum(1) + stretch[
        of_guess, of_picture
    ]
    near = np.argsort(fine, kind="stable")[:_SHORT]
    of_guess, of_picture, fine = of_guess[near], of_picture[near], fine[near]
    looks = index.looks[of_picture].astype(np.float32)  # (candidates, 12, LOOK, LOOK, 3)
    step = SIDE // LOOK
    seen = (
        np.stack([guesses[g].look for g in of_guess]).reshape(-1, 1, LOOK, step, LOOK, step, 3).mean((3, 5))
    )
    part = (
        np.stack([guesses[g].known for g in of_guess])
        .reshape(-1, 1, LOOK, step, LOOK, step)
        .mean((3, 5))[..., None]
    )
    colour = (
        (part * np.minimum(np.abs(looks - seen), 110.0) ** 2).sum((2, 3, 4))
        / (3 * part.sum((2, 3, 4)))
        / 255**2
    )
    cost = fine[:, None] * 0.5 + colour
    cost[:, 1:] += 0.0015  # its own colours are likelier than painted ones
    row, look = np.unravel_index(int(np.argmin(cost)), cost.shape)
    guess = guesses[int(of_guess[row])]
    return Thing(
        index.names[int(of_picture[row])],
        LOOKS[int(look)],
        guess.box,
        float(cost[row, look]),
        number,
        area,
        pixels,
    )


def _guesses(chosen: Sequence[int], heap: Heap, found: Found) -> tuple[list[_Guess], int, Floats]:
    """The boxes that a set of parts may have, seen and known on the grid."""
    height, width = found.rgb.shape[:2]
    left = min(heap.parts[p][0] for p in chosen)
    top = min(heap.parts[p][1] for p in chosen)
    right = max(heap.parts[p][2] for p in chosen)
    bottom = max(heap.parts[p][3] for p in chosen)
    wide, high = right - left, bottom - top
    reach = max(_REACH) if len(chosen) < len(heap.parts) else 0.0
    x0, y0 = max(0, left - int(reach * wide) - 1), max(0, top - int(reach * high) - 1)
    x1, y1 = min(width, right + int(reach * wide) + 1), min(height, bottom + int(reach * high) + 1)
    canvas = np.zeros((y1 - y0, x1 - x0), np.int32)
    a, b, c, d = heap.box
    u0, v0, u1, v1 = max(a, x0), max(b, y0), min(c, x1), min(d, y1)
    canvas[v0 - y0 : v1 - y0, u0 - x0 : u1 - x0] = heap.labels[v0 - b : v1 - b, u0 - a : u1 - a]
    mine = np.isin(canvas, [p + 1 for p in chosen])
    others = (canvas > 0) & ~mine
    mine = ~outside(mine) & ~others
    if others.any():
        filled = ~outside(others)
        hidden = widen(filled, found.rim + 1) & ~mine
    else:
        hidden = np.zeros_like(mine)
    window = found.rgb[y0:y1, x0:x1]
    look = Image.fromarray(np.where(mine[..., None], window, np.uint8(255)))
    cover, veil = Image.fromarray(mine.astype(np.uint8) * 255), Image.fromarray(hidden.astype(np.uint8) * 255)
    guesses: list[_Guess] = []
    for box in _edges((left - x0, top - y0, right - x0, bottom - y0), hidden):
        known = np.ones((SIDE, SIDE), np.float32)
        if hidden.any():
            known = np.asarray(1.0 - np.minimum(1.0, _grid(veil, box) / 100), np.float32)
        if known.sum() >= 0.2 * SIDE * SIDE or (
            not guesses and box == (left - x0, top - y0, right - x0, bottom - y0)
        ):
            known = np.maximum(known, np.float32(1e-3))
            guesses.append(
                _Guess(
                    (box[0] + x0, box[1] + y0, box[2] + x0, box[3] + y0),
                    _grid(look, box),
                    _grid(cover, box) / np.float32(255),
                    known,
                )
            )
    return guesses, int(mine.sum()), window[mine].astype(np.float32)


def _grid(image: Image.Image, box: Box) -> Floats:
    """A box of an image stretched to SIDE x SIDE."""
    wide = min(box[2] - box[0], box[3] - box[1]) >= 2 * SIDE
    return np.asarray(
        image.resize((SIDE, SIDE), Image.Resampling.BOX if wide else Image.Resampling.BILINEAR, box),
        np.float32,
    )


def _edges(box: Box, hidden: NDArray[np.bool_]) -> list[Box]:
    """The box itself, and with each edge that borders on something hidden moved outwards; at most two edges
    at a time."""
    left, top, right, bottom = box
    rows, columns = hidden.shape
    wide, high = right - left, bottom - top
    band = 3

    def touched(part: NDArray[np.bool_]) -> bool:
        return bool(part.size) and bool(part.any())

    ways = [
        _REACH if touched(hidden[top:bottom, max(0, left - band) : left]) else (0.0,),
        _REACH if touched(hidden[max(0, top - band) : top, left:right]) else (0.0,),
        _REACH if touched(hidden[top:bottom, right : right + band]) else (0.0,),
        _REACH if touched(hidden[bottom : bottom + band, left:right]) else (0.0,),
    ]
    found = []
    for moves in product(*ways):
        if sum(m > 0 for m in moves) <= (2 if sum(len(w) > 1 for w in ways) <= 2 else 1):
            moved = (
                max(0, left - round(moves[0] * wide)), max(0, top - round(moves[1] * high)),
                min(columns, right + round(moves[2] * wide)), min(rows, bottom + round(moves[3] * high)),
            )  # fmt: skip
            if moved not in found:
                found.append(moved)
    return found
