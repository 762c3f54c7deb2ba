"""Turns the named things of the `reference` tagger (2a) into tags: objects, colours, counts and relations."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np

from ....lang.words import NUMBERS, plural
from ....sample import Tags, unique
from ..regions import Box, hull
from ..scenes.vocabulary import CLOTHES, COLOURS, PEOPLE
from .index import Floats
from .match import FARTHEST, Thing

_MAIN = 0.6  # share of a thing's filled area that its colour must cover


def tags_of(things: Sequence[Thing]) -> Tags:
    """Tags of the things, the largest first: objects, each name once with its best score; attributes such as
    `red ball` and `two dogs`; relations in both directions."""
    things = sorted(things, key=lambda t: -t.area)
    scores: dict[str, float] = {}
    for thing in things:
        scores[thing.name] = max(scores.get(thing.name, 0.0), round(1.0 - thing.distance / FARTHEST, 4))
    colours = [(t.colour or (None if t.name in PEOPLE else main_colour(t.pixels)), t.name) for t in things]
    attributes = [f"{colour} {name}" for colour, name in colours if colour is not None]
    attributes += [
        f"{NUMBERS[n] if n < len(NUMBERS) else n} {plural(name)}"
        for name, n in Counter(t.name for t in things).items()
        if n > 1
    ]
    return Tags(tuple(scores), unique(attributes), unique(_relations(things)), tuple(scores.values()))


def main_colour(pixels: Floats) -> str | None:
    """The basic colour nearest in hue to at least 60% of the pixels that are neither line nor paper, or
    None."""
    fill = pixels[pixels.mean(1) > 60]
    if len(fill) < 20:
        return None
    palette = np.array(list(COLOURS.values()), np.float32)
    chroma = fill - fill.mean(1, keepdims=True)
    of_palette = palette - palette.mean(1, keepdims=True)
    lightness = (fill.mean(1)[:, None] - palette.mean(1)[None]) ** 2
    away = ((chroma[:, None] - of_palette[None]) ** 2).sum(-1) + 0.35 * lightness
    share = np.bincount(away.argmin(1), minlength=len(COLOURS)) / len(fill)
    return list(COLOURS)[int(share.argmax())] if share.max() >= _MAIN else None


def _relations(things: Sequence[Thing]) -> list[str]:
    found: list[str] = []
    groups = list(range(len(things)))  # things that touch have the same number,
    columns = list(groups)  # and here also those above one another
    for a, b in combinations(range(len(things)), 2):
        one, two = things[a], things[b]
        # one is before or on the other; things that white separates count by their boxes alone
        shared = min(one.box.overlap(two.box, 0), one.box.overlap(two.box, 1))
        touch, upper = shared >= (-6 if one.heap == two.heap else 6), _upper(one, two)
        if touch:
            found += _touching(one, two) if one.name != two.name else []
            groups = [groups[a] if g == groups[b] else g for g in groups]
        elif upper is not None and one.name != two.name:
            lower = two if upper is one else one
            found += [f"{upper.name} above {lower.name}", f"{lower.name} under {upper.name}"]
        if touch or upper is not None:
            columns = [columns[a] if c == columns[b] else c for c in columns]
    return [*found, *_beside(things, groups), *_beside(things, columns)]


def _touching(one: Thing, two: Thing) -> list[str]:
    """Relations of two things that overlap: wearing, holding, on, in front of."""
    for item, person in ((one, two), (two, one)):
        if person.name in PEOPLE and item.name not in PEOPLE:
            middle = (item.box.left + item.box.right) / 2
            if item.name in CLOTHES and person.box.left <= middle <= person.box.right:
                return [f"{person.name} wearing {item.name}"]
            if _in_hand(item.box, person.box):
                return [f"{person.name} holding {item.name}"]
    upper, lower = (one, two) if one.box.bottom < two.box.bottom else (two, one)
    above = upper.box.bottom <= lower.box.top + 0.55 * lower.box.height
    if above and _shared(upper.box, lower.box, 0) > 0.3:
        return [f"{upper.name} on {lower.name}", f"{lower.name} under {upper.name}"]
    return [f"{lower.name} in front of {upper.name}", f"{upper.name} behind {lower.name}"]


def _in_hand(item: Box, person: Box) -> bool:
    """Whether a thing that touches a person is where a hand is: beside the body, mostly clear of it, its
    middle at arm's height, and not larger than the person.

    Things in front of or behind a person share a ground line instead: their foot is there, not their
    middle."""
    middle = ((item.left + item.right) / 2, (item.top + item.bottom) / 2)
    aside = not person.left + 0.1 * person.width <= middle[0] <= person.right - 0.1 * person.width
    at_arm = 0.62 <= (middle[1] - person.top) / max(1, person.height) <= 0.76
    clear = item.overlap(person, 0) <= 0.34 * item.width
    return aside and at_arm and clear and item.longer <= 1.1 * person.longer


def _upper(one: Thing, two: Thing) -> Thing | None:
    """The upper one of two things that are above one another at a small distance; None if they are not."""
    upper, lower = (one, two) if one.box.top < two.box.top else (two, one)
    gap = lower.box.top - upper.box.bottom
    near = -6 <= gap <= 0.45 * max(one.box.height, two.box.height)
    return upper if near and _shared(one.box, two.box, 0) >= 0.5 else None


def _beside(things: Sequence[Thing], group_of: Sequence[int]) -> list[str]:
    """Left and right for things of neighbouring groups, which share a row with no third group between
    them."""
    groups: dict[int, list[Thing]] = {}
    for number, thing in zip(group_of, things, strict=True):
        groups.setdefault(number, []).append(thing)
    box = {n: hull([t.box for t in group]) for n, group in groups.items()}
    found: list[str] = []
    for a, b in combinations(box, 2):
        left, right = (a, b) if box[a].left + box[a].right < box[b].left + box[b].right else (b, a)
        if not _in_row(box[left], box[right]) or any(
            _in_row(box[left], third)
            and _in_row(third, box[right])
            and box[left].right - 8 <= third.left
            and third.right <= box[right].left + 8
            for c, third in box.items()
            if c not in (a, b)
        ):
            continue
        for one, two in product((t.name for t in groups[left]), (t.name for t in groups[right])):
            if one != two:
                found += [f"{one} left of {two}", f"{two} right of {one}"]
                found += [f"{one} next to {two}", f"{two} next to {one}"]
    return found


def _in_row(left: Box, right: Box) -> bool:
    ends = right.left + 0.25 * min(left.width, right.width)
    return left.right <= ends and _shared(left, right, 1) >= 0.25


def _shared(one: Box, two: Box, axis: int) -> float:
    """The overlap of two boxes along an axis (0: x, 1: y) as a share of the shorter one's length."""
    shorter = min(one[axis + 2] - one[axis], two[axis + 2] - two[axis])
    return max(0, one.overlap(two, axis)) / max(1, shorter)
