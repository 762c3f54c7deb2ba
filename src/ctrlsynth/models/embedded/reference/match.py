"""Names the regions of a picture by their nearest neighbours: the second half of the `reference` tagger (2a).

A heap of parts that touch is divided by trial: each small set of parts is compared with every labelled
picture, ignoring what a neighbour may hide and guessing the hidden edges; the division whose things fit best
wins."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from PIL import Image

from ..regions import Box, Mask, hull, outside, widen
from .find import Found, Heap
from .index import LOOK, LOOKS, SIDE, Floats, Index, coarsened, shape_of, to_grid

# how far a hidden edge may lie outside what is seen, as shares of the box
_REACH = (0.0, 0.1, 0.2, 0.33, 0.5)
_ASPECT = 0.10  # weight of the squared difference of log aspect
_LONG = 80  # candidates that are compared on the fine grid
_SHORT = 20  # and those of them that are compared in colour
_PLAIN = 0.014  # a fit this near is accepted at once
_DOUBT = 0.04  # a piece inside an accepted thing must fit better than this
FARTHEST = 0.085  # a region at a greater distance is none of the labelled things


@dataclass(slots=True)
class Thing:
    """A named region.

    colour    None if it is the labelled picture's own
    box       with hidden parts guessed
    distance  from the labelled picture, 0 is equal
    heap      number of its heap
    area      pixels that are seen
    pixels    (n, 3) their colours
    """

    name: str
    colour: str | None
    box: Box
    distance: float
    heap: int
    area: int
    pixels: Floats


@dataclass(slots=True)
class _Guess:
    """A possible box for a set of parts. On the grid: its look, its silhouette, and where it is known (1) or
    may be hidden (0)."""

    box: Box
    look: Floats
    cover: Floats
    known: Floats


def name_all(found: Found, index: Index) -> list[Thing]:
    """Divides and names every heap of a picture; leaves out regions that fit nothing."""
    return [
        thing
        for number, heap in enumerate(found.heaps)
        for thing in _divide(heap, number, found, index)
        if thing.distance <= FARTHEST
    ]


def _divide(heap: Heap, number: int, found: Found, index: Index) -> list[Thing]:
    """The best division of a heap into things: the least mean distance, weighted by the square root of area.

    What fits well enough is accepted at once, first the whole heap, then single parts; only the other parts
    are tried in sets."""

    def fit(*chosen: int) -> Thing:
        return _fit(chosen, heap, number, found, index)

    count = len(heap.parts)
    whole = fit(*range(count))
    if count == 1 or whole.distance < _PLAIN:
        return [whole]
    single = [fit(part) for part in range(count)]
    settled = [thing for thing in single if thing.distance < _PLAIN]
    rest = tuple(part for part in range(count) if single[part].distance >= _PLAIN)
    fits: dict[tuple[int, ...], Thing] = {(part,): single[part] for part in rest}
    fits |= {chosen: fit(*chosen) for size in (2, 3) for chosen in combinations(rest, size)}
    divided = ([fits[chosen] for chosen in division] for division in _divisions(rest, fits.keys()))
    return settled + [
        thing
        for thing in min(divided, key=_cost)
        if thing.distance < _DOUBT or not any(_within(thing.box, other.box) for other in settled)
    ]


def _cost(things: Sequence[Thing]) -> float:
    weights = [thing.area**0.5 for thing in things]
    total = sum(w * t.distance for w, t in zip(weights, things, strict=True))
    return total / sum(weights) + 0.002 * len(things) if things else 0.0


def _within(inner: Box, outer: Box) -> bool:
    """Whether most of a box lies in another."""
    wide, high = inner.overlap(outer, 0), inner.overlap(outer, 1)
    return wide > 0 and high > 0 and wide * high > 0.7 * inner.width * inner.height


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
                left = tuple(p for p in rest if p not in others)
                ways += [[head, *tail] for tail in _divisions(left, allowed)]
    return ways


def _fit(chosen: Sequence[int], heap: Heap, number: int, found: Found, index: Index) -> Thing:
    """The nearest labelled picture to a set of parts, searched in three steps: all pictures on a coarse
    grid, the best on a fine one, and the best of those in colour."""
    guesses, area, pixels = _guesses(chosen, heap, found)
    shapes = np.stack([shape_of(g.look, g.cover) for g in guesses])
    known = np.stack([np.concatenate([g.known.ravel()] * 2) for g in guesses])
    aspect = np.array([np.log(g.box.width / g.box.height) for g in guesses], np.float32)
    unknown = 0.03 * (1 - known.mean(1, keepdims=True))
    extra = _ASPECT * (aspect[:, None] - index.aspects[None]) ** 2 + unknown
    one, weight = coarsened(shapes), coarsened(known)
    squares = (weight * one**2).sum(1, keepdims=True) - 2 * (weight * one) @ index.coarse[0]
    apart = (squares + weight @ index.coarse[1]) / weight.sum(1, keepdims=True) + extra
    flat = np.argpartition(apart, min(_LONG, apart.size - 1), axis=None)[:_LONG]
    of_guess, of_picture = np.unravel_index(flat, apart.shape)
    mask = known[of_guess]
    fine = (mask * (shapes[of_guess] - index.shapes[of_picture]) ** 2).sum(1) / mask.sum(1)
    fine = fine + extra[of_guess, of_picture]
    near = np.argsort(fine, kind="stable")[:_SHORT]
    of_guess, of_picture, fine = of_guess[near], of_picture[near], fine[near]
    colour = _colour_distance([guesses[g] for g in of_guess], index.looks[of_picture].astype(np.float32))
    cost = fine[:, None] * 0.5 + colour
    cost[:, 1:] += 0.0015  # a thing's own colours are likelier than painted ones
    row, look = np.unravel_index(int(np.argmin(cost)), cost.shape)
    name, box = index.names[int(of_picture[row])], guesses[int(of_guess[row])].box
    return Thing(name, LOOKS[int(look)], box, float(cost[row, look]), number, area, pixels)


def _colour_distance(guesses: Sequence[_Guess], looks: Floats) -> Floats:
    """(candidates, 12) mean squared difference, in 0..1, of guesses from looks (candidates, 12, LOOK, LOOK,
    3)."""
    step = SIDE // LOOK
    blocks = (-1, 1, LOOK, step, LOOK, step)
    seen = np.stack([g.look for g in guesses]).reshape(*blocks, 3).mean((3, 5))
    part = np.stack([g.known for g in guesses]).reshape(blocks).mean((3, 5))[..., None]
    squares = (part * np.minimum(np.abs(looks - seen), 110.0) ** 2).sum((2, 3, 4))
    return np.asarray(squares / (3 * part.sum((2, 3, 4))) / 255**2, np.float32)


def _guesses(chosen: Sequence[int], heap: Heap, found: Found) -> tuple[list[_Guess], int, Floats]:
    """The boxes that a set of parts may have; the parts' area in pixels; their colours, (n, 3)."""
    height, width = found.rgb.shape[:2]
    seen = hull([heap.parts[p] for p in chosen])
    reach = max(_REACH) if len(chosen) < len(heap.parts) else 0.0
    aside, beyond = int(reach * seen.width) + 1, int(reach * seen.height) + 1
    area = Box(
        max(0, seen.left - aside),
        max(0, seen.top - beyond),
        min(width, seen.right + aside),
        min(height, seen.bottom + beyond),
    )
    labels = np.zeros((height, width), np.int32)
    labels[heap.box.window] = heap.labels
    canvas = labels[area.window]
    mine = np.isin(canvas, [p + 1 for p in chosen])
    others = (canvas > 0) & ~mine
    mine = ~outside(mine) & ~others
    hidden = np.zeros_like(mine)
    if others.any():
        hidden = widen(~outside(others), found.rim + 1) & ~mine
    window = found.rgb[area.window]
    look = Image.fromarray(np.where(mine[..., None], window, np.uint8(255)))
    cover, veil = Image.fromarray(mine.astype(np.uint8) * 255), Image.fromarray(hidden.astype(np.uint8) * 255)
    inner = seen.moved(-area.left, -area.top)
    guesses: list[_Guess] = []
    for box in _edges(inner, hidden):
        known = np.ones((SIDE, SIDE), np.float32)
        if hidden.any():
            known = np.asarray(1.0 - np.minimum(1.0, to_grid(veil, box) / 100), np.float32)
        if known.sum() >= 0.2 * SIDE * SIDE or (not guesses and box == inner):
            covered = to_grid(cover, box) / np.float32(255)
            guesses.append(
                _Guess(
                    box.moved(area.left, area.top),
                    to_grid(look, box),
                    covered,
                    np.maximum(known, np.float32(1e-3)),
                )
            )
    return guesses, int(mine.sum()), window[mine].astype(np.float32)


def _edges(box: Box, hidden: Mask) -> list[Box]:
    """The box itself, and versions with edges that border on something hidden moved outwards: two edges at a
    time at most, and one if three or more are hidden."""
    left, top, right, bottom = box
    touched = [
        bool(part.any())
        for part in (
            hidden[top:bottom, max(0, left - 3) : left],
            hidden[max(0, top - 3) : top, left:right],
            hidden[top:bottom, right : right + 3],
            hidden[bottom : bottom + 3, left:right],
        )
    ]
    most = 2 if sum(touched) <= 2 else 1
    found = (
        Box(
            max(0, left - round(moves[0] * box.width)),
            max(0, top - round(moves[1] * box.height)),
            min(hidden.shape[1], right + round(moves[2] * box.width)),
            min(hidden.shape[0], bottom + round(moves[3] * box.height)),
        )
        for moves in product(*(_REACH if touch else (0.0,) for touch in touched))
        if sum(move > 0 for move in moves) <= most
    )
    return list(dict.fromkeys(found))
