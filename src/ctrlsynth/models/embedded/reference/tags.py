"""Turns the named regions of the `reference` tagger (2a) into tags: objects, colours and counts, and how
neighbours stand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ....lang.words import NUMBERS, plural
from ....sample import Tags, unique
from ..scenes.vocabulary import CLOTHES, COLOURS, PEOPLE
from .find import Box
from .match import FARTHEST, Floats, Thing

_MAIN = 0.6  # share of a thing's filled area that one colour must have to be the thing's colour


def tell(things: Sequence[Thing]) -> Tags:
    """The tags: objects by area, each name once with its best score; `red ball`, `two dogs`; relations both
    ways round."""
    things = sorted(things, key=lambda t: -t.area)
    scores: dict[str, float] = {}
    counts: dict[str, int] = {}
    for thing in things:
        counts[thing.name] = counts.get(thing.name, 0) + 1
        scores[thing.name] = max(scores.get(thing.name, 0.0), round(1.0 - thing.distance / FARTHEST, 4))
    painted = [
        f"{colour} {thing.name}"
        for thing in things
        if (colour := thing.colour or _natural(thing)) is not None
    ]
    counted = [
        f"{NUMBERS[n] if n < len(NUMBERS) else n} {plural(name)}" for name, n in counts.items() if n > 1
    ]
    return Tags(
        tuple(scores), unique([*painted, *counted]), unique(_relations(things)), tuple(scores.values())
    )


def _natural(thing: Thing) -> str | None:
    return None if thing.name in PEOPLE else main_colour(thing.pixels)


def main_colour(pixels: Floats) -> str | None:
    """The basic colour that covers at least 60% of what is neither line nor paper, by nearest colour in hue,
    or None."""
    light = pixels.mean(1)
    fill = pixels[light > 60]
    if len(fill) < 20:
        return None
    names = list(COLOURS)
    palette = np.array([COLOURS[n] for n in names], np.float32)
    chroma = fill - fill.mean(1, keepdims=True)
    of_palette = palette - palette.mean(1, keepdims=True)
    away = ((chroma[:, None] - of_palette[None]) ** 2).sum(-1) + 0.35 * (
        fill.mean(1)[:, None] - palette.mean(1)[None]
    ) ** 2
    share = np.bincount(away.argmin(1), minlength=len(names)) / len(fill)
    return names[int(share.argmax())] if share.max() >= _MAIN else None


def _relations(things: Sequence[Thing]) -> list[str]:
    found: list[str] = []
    groups, columns = (
        list(range(len(things))),
        list(range(len(things))),
    )  # by the least index: what touches, and what stands in a column
    for a, b in combinations(range(len(things)), 2):
        one, two = things[a], things[b]
        touch = _overlapping(one, two)
        way = None if touch else _stacked(one.box, two.box)
        if touch:
            found += _touching(one, two) if one.name != two.name else []
            groups = [groups[a] if g == groups[b] else g for g in groups]
        elif way is not None and one.name != two.name:
            upper, lower = (one, two) if way else (two, one)
            found += [f"{upper.name} above {lower.name}", f"{lower.name} under {upper.name}"]
        if touch or way is not None:
            columns = [columns[a] if c == columns[b] else c for c in columns]
    return [*found, *_beside(things, groups), *_beside(things, columns)]


def _overlapping(one: Thing, two: Thing) -> bool:
    """Whether one thing stands before or on the other: by their boxes alone when the drawing's white parted
    what is seen of them."""
    within = (
        min(one.box[2], two.box[2]) - max(one.box[0], two.box[0]),
        min(one.box[3], two.box[3]) - max(one.box[1], two.box[1]),
    )
    return _apart(one.box, two.box) <= 6 if one.heap == two.heap else min(within) >= 6


def _touching(one: Thing, two: Thing) -> list[str]:
    """Two things that overlap: worn, held, standing on, in front of."""
    for item, person in ((one, two), (two, one)):
        if person.name in PEOPLE and item.name not in PEOPLE:
            middle = (item.box[0] + item.box[2]) / 2
            if item.name in CLOTHES and person.box[0] <= middle <= person.box[2]:
                return [f"{person.name} wearing {item.name}"]
            if _in_hand(item.box, person.box):
                return [f"{person.name} holding {item.name}"]
    upper, lower = (one, two) if one.box[3] < two.box[3] else (two, one)
    if upper.box[3] <= lower.box[1] + 0.55 * _high(lower.box) and _shared(upper.box, lower.box, 0) > 0.3:
        return [f"{upper.name} on {lower.name}", f"{lower.name} under {upper.name}"]
    return [f"{lower.name} in front of {upper.name}", f"{upper.name} behind {lower.name}"]


def _in_hand(item: Box, person: Box) -> bool:
    """Whether a thing that touches a person is where a hand is: beside the body, most of it clear of it, its
    middle at arm's height.

    What stands in front of or behind a person has its foot, not its middle, near a common line; and nobody
    holds what is larger."""
    middle = ((item[0] + item[2]) / 2, (item[1] + item[3]) / 2)
    aside = not person[0] + 0.1 * _wide(person) <= middle[0] <= person[2] - 0.1 * _wide(person)
    at_arm = 0.62 <= (middle[1] - person[1]) / max(1, _high(person)) <= 0.76
    clear = min(item[2], person[2]) - max(item[0], person[0]) <= 0.34 * _wide(item)
    return (
        aside
        and at_arm
        and clear
        and max(_wide(item), _high(item)) <= 1.1 * max(_wide(person), _high(person))
    )


def _stacked(one: Box, two: Box) -> bool | None:
    """Whether the first is above the second (True) or below (False) at a small distance; None if neither."""
    if _shared(one, two, 0) < 0.5:
        return None
    gap = two[1] - one[3] if one[1] < two[1] else one[1] - two[3]
    if not -6 <= gap <= 0.45 * max(_high(one), _high(two)):
        return None
    return one[1] < two[1]


def _beside(things: Sequence[Thing], group_of: Sequence[int]) -> list[str]:
    """Left and right for things of neighbouring groups: the groups share a row and no third stands
    between."""
    groups: dict[int, list[Thing]] = {}
    for number, thing in zip(group_of, things, strict=True):
        groups.setdefault(number, []).append(thing)
    hull = {n: _hull([t.box for t in group]) for n, group in groups.items()}
    found: list[str] = []
    for a, b in combinations(hull, 2):
        left, right = (a, b) if hull[a][0] + hull[a][2] < hull[b][0] + hull[b][2] else (b, a)
        if not _in_row(hull[left], hull[right]):
            continue
        between = [
            c
            for c in hull
            if c not in (a, b) and _in_row(hull[left], hull[c]) and _in_row(hull[c], hull[right])
        ]
        if any(hull[left][2] - 8 <= hull[c][0] and hull[c][2] <= hull[right][0] + 8 for c in between):
            continue
        for one in groups[left]:
            for two in groups[right]:
                if one.name != two.name:
                    found += [
                        f"{one.name} left of {two.name}",
                        f"{two.name} right of {one.name}",
                        f"{one.name} next to {two.name}",
                    ]
                    found.append(f"{two.name} next to {one.name}")
    return found


def _in_row(left: Box, right: Box) -> bool:
    return _shared(left, right, 1) >= 0.25 and left[2] <= right[0] + 0.25 * min(_wide(left), _wide(right))


def _hull(group: Sequence[Box]) -> Box:
    return (
        min(b[0] for b in group),
        min(b[1] for b in group),
        max(b[2] for b in group),
        max(b[3] for b in group),
    )


def _wide(box: Box) -> int:
    return box[2] - box[0]


def _high(box: Box) -> int:
    return box[3] - box[1]


def _shared(one: Box, two: Box, axis: int) -> float:
    """The overlap of two boxes along an axis (0: x, 1: y) as a share of the shorter one's length."""
    overlap = min(one[axis + 2], two[axis + 2]) - max(one[axis], two[axis])
    return max(0, overlap) / max(1, min(one[axis + 2] - one[axis], two[axis + 2] - two[axis]))


def _apart(one: Box, two: Box) -> int:
    return max(one[0] - two[2], two[0] - one[2], one[1] - two[3], two[1] - one[3], 0)
