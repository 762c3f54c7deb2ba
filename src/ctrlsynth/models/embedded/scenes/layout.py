"""Positions everything in a scene of `scenes` (2c): relations first, then rows of groups that don't touch.

Things bound by a relation (on, under, above, in, in front of, behind, holding, wearing) form a group with
fixed positions. Groups that are left of, right of or next to one another form a line, and lines fill rows.
Only bound things may overlap. Units inside a group: 1 is a sofa's longer side; y grows downwards."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .read import Mention
from .vocabulary import HEADGEAR

GAP = 0.14  # between neighbours, in units
_HELD = frozenset({"holding", "wearing"})
_BINDING = _HELD | {"on", "under", "above", "in", "in front of", "behind"}
_EYES = frozenset({"glasses", "sunglasses", "goggles"})
Relation = tuple[int, str, int]  # subject, predicate, object; both ends by their mention's index


@dataclass(slots=True)
class Item:
    """One drawing of the picture: its mention, size and position in units. Higher layers cover lower ones."""

    mention: int
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    layer: float = 0.0

    def scale(self, factor: float) -> None:
        """Multiplies the size; the position stays."""
        self.width, self.height = self.width * factor, self.height * factor


class Group:
    """Items with fixed positions; the top left corner of their bounding box is at (0, 0)."""

    def __init__(self, items: list[Item]) -> None:
        left, top = min(i.x for i in items), min(i.y for i in items)
        for item in items:
            item.x, item.y = item.x - left, item.y - top
        self.items = items
        self.width = max(i.x + i.width for i in items)
        self.height = max(i.y + i.height for i in items)


Line = list[Group]  # side by side, from left to right


def arrange(
    mentions: Sequence[Mention],
    sizes: Sequence[tuple[float, float]],
    relations: Sequence[Relation],
    area: tuple[float, float],
    chance: random.Random,
) -> list[Item]:
    """Returns items with position and size in pixels of an area (width, height), the bottom layer first.

    `sizes` holds each mention's (width, height) in units. A mention with a count gives that many items; each
    item that carries or wears something gets its own copy of it. Where relations contradict each other, the
    first one holds."""
    if not mentions:
        return []
    groups = _groups(mentions, sizes, _bound(relations), chance)
    return _rows(_lines(groups, mentions, relations, chance), area, chance)


def _groups(
    mentions: Sequence[Mention],
    sizes: Sequence[tuple[float, float]],
    bound: dict[int, tuple[str, int]],
    chance: random.Random,
) -> list[Group]:
    """One group for each item that is not bound to another, with everything bound to it."""

    def attached(base: Item) -> list[Item]:
        """Positions what is bound to `base`, and what is bound to that in turn."""
        by_way: dict[str, list[Item]] = {}
        for child, (how, parent) in bound.items():
            if parent == base.mention:
                way, name = how, mentions[child].name
                if how == "wearing":
                    way = "head" if name in HEADGEAR else "eyes" if name in _EYES else "body"
                count = 1 if how in _HELD else mentions[child].count
                by_way.setdefault(way, []).extend(
                    Item(child, *sizes[child], layer=base.layer + _LAYER_OF[way]) for _ in range(count)
                )
        placed = []
        for way, items in by_way.items():
            _put(way, base, items, chance)
            placed += [one for item in items for one in (item, *attached(item))]
        return placed

    groups = []
    for index, mention in enumerate(mentions):
        carries = any(parent == index and how not in _HELD for how, parent in bound.values())
        for copy in range(mention.count if index not in bound else 0):
            item = Item(index, *sizes[index])
            groups.append(Group([item, *(attached(item) if copy == 0 or not carries else ())]))
    return groups


def _bound(relations: Sequence[Relation]) -> dict[int, tuple[str, int]]:
    """Mention -> (how, the mention it is bound to). A thing is bound once, and never in a circle."""
    bound: dict[int, tuple[str, int]] = {}
    for subject, predicate, object_ in relations:
        if predicate in _BINDING:
            child, parent = (object_, subject) if predicate in (*_HELD, "behind") else (subject, object_)
            above = parent
            while above != child and above in bound:
                above = bound[above][1]
            if child not in bound and above != child:
                bound[child] = ("in front of" if predicate == "behind" else predicate, parent)
    return bound


def _put(way: str, base: Item, items: list[Item], chance: random.Random) -> None:
    """Positions items relative to the one they are bound to."""
    if way == "in front of":
        _in_front(base, items, chance.choice((-1, 1)))
    elif way == "holding":
        _hold(base, items)
    elif way in ("head", "eyes", "body"):
        _wear(base, items, way)
    else:
        _abreast(base, items)
        for item in items:
            item.y = _Y_OF[way](base, item)


_LAYER_OF = {
    "in": -1, "above": 0, "under": 0, "on": 1, "in front of": 1, "holding": 1, "body": 1, "head": 2,
    "eyes": 2,
}  # relative to the base's layer  # fmt: skip
_Y_OF: dict[str, Callable[[Item, Item], float]] = {
    "on": lambda base, item: base.y - item.height + min(0.22 * base.height, 0.3 * item.height),
    "above": lambda base, item: base.y - item.height - GAP * 1.3,
    "under": lambda base, item: base.y + base.height + GAP,
    "in": lambda base, item: base.y - 0.62 * item.height,  # looks out over the edge, behind the front
}


def _abreast(base: Item, items: list[Item]) -> None:
    """Sets x so that the items are side by side, centred on the base; for many items the base grows and they
    shrink."""
    gap = GAP * 0.9
    crowd = (sum(i.width for i in items) + gap * (len(items) - 1)) / (1.2 * base.width)
    if crowd > 1 and len(items) > 1:
        factor = min(1.5, crowd)
        middle, foot = base.x + base.width / 2, base.y + base.height
        base.scale(factor)
        base.x, base.y = middle - base.width / 2, foot - base.height
        for item in items:
            item.width, item.height = item.width / factor, item.height / factor
        gap /= factor
    x = base.x + base.width / 2 - (sum(i.width for i in items) + gap * (len(items) - 1)) / 2
    for item in items:
        item.x = x
        x += item.width + gap


def _in_front(base: Item, items: list[Item], side: int) -> None:
    """Lower and to a side (-1 left, 1 right, in turn), so that both stay easy to see."""
    for number, item in enumerate(items):
        out = item.width - 0.36 * min(item.width, base.width) + (number // 2) * (item.width + GAP)
        right = (side if number % 2 == 0 else -side) > 0
        item.x = base.x + base.width - item.width + out if right else base.x - out
        item.y = base.y + base.height - item.height + 0.16 * item.height + 0.06


def _hold(base: Item, items: list[Item]) -> None:
    """At arm's height, in the hands in turn."""
    for number, item in enumerate(items):
        right = (number + (base.mention % 2)) % 2 == 0
        item.x = base.x + base.width - 0.22 * item.width if right else base.x - 0.78 * item.width
        item.y = base.y + 0.72 * base.height - item.height / 2 - 0.3 * (number // 2)


def _wear(base: Item, items: list[Item], way: str) -> None:
    """Hats upwards from the head, glasses over the eyes, clothes downwards from the neck."""
    y = base.y + {"head": 0.1, "eyes": 0.36, "body": 0.8}[way] * base.height
    for item in items:
        if way != "body":
            item.scale((0.62 if way == "head" else 0.78) * base.width / item.width)
        y -= 0.72 * item.height if way == "head" else 0.0
        item.x = base.x + (base.width - item.width) / 2
        item.y = y - item.height / 2 if way == "eyes" else y
        y += 0.85 * item.height if way == "body" else 0.0


def _lines(
    groups: list[Group], mentions: Sequence[Mention], relations: Sequence[Relation], chance: random.Random
) -> list[Line]:
    """Groups that must be side by side as lines; the lines by the sides that the text names, else at
    random."""
    of = {item.mention: number for number, group in reversed(list(enumerate(groups))) for item in group.items}
    ends = [(of[a], predicate, of[b]) for a, predicate, b in relations if of[a] != of[b]]
    before = {(b, a) if p == "right of" else (a, b) for a, p, b in ends if p in ("left of", "right of")}
    beside = [(a, b) for a, p, b in ends if p == "next to"]
    lines = [[number] for number in range(len(groups))]
    for a, b in [*sorted(before), *beside]:
        one, two = next(line for line in lines if a in line), next(line for line in lines if b in line)
        if one is not two:
            lines.remove(two)
            one.extend(two)
    lines = [_ordered(line, before, beside, chance) for line in lines]
    chance.shuffle(lines)

    def side(line: list[int]) -> int:
        """-1 left, 1 right, 0 anywhere: the first side that is named for one of the line's items."""
        named = (mentions[item.mention].side for number in line for item in groups[number].items)
        return next((-1 if name == "left" else 1 for name in named if name in ("left", "right")), 0)

    return [[groups[number] for number in line] for line in sorted(lines, key=side)]


def _ordered(
    line: list[int], before: set[tuple[int, int]], beside: list[tuple[int, int]], chance: random.Random
) -> list[int]:
    """The line in the best order of those tried: `before` holds where it can, and neighbours are close."""
    if len(line) < 2:
        return line

    def cost(order: Sequence[int]) -> float:
        place = {number: position for position, number in enumerate(order)}
        broken = sum(place[a] > place[b] for a, b in before if a in place and b in place)
        far = sum(abs(place[a] - place[b]) - 1 for a, b in [*before, *beside] if a in place and b in place)
        return 100.0 * broken + far

    best, least = list(line), cost(line)
    for _ in range(40 * len(line)):
        order = list(best)
        a, b = chance.randrange(len(order)), chance.randrange(len(order))
        order[a], order[b] = order[b], order[a]
        if cost(order) < least or (cost(order) == least and chance.random() < 0.3):
            best, least = order, cost(order)
    return best


def _rows(lines: list[Line], area: tuple[float, float], chance: random.Random) -> list[Item]:
    """Packs the lines into the number of rows that lets everything be largest. Items stand on their row's
    ground; spare room is shared at random."""
    unit, rows = _largest(lines, area)
    heights = [max(g.height for g in row) + GAP for row in rows]
    spare_y = max(0.0, area[1] / unit - sum(heights) - GAP)
    between = spare_y / (len(rows) + 1)
    y = GAP / 2 + (between if len(rows) > 1 else spare_y * (0.55 + 0.25 * chance.random()))
    items: list[Item] = []
    for row, height in zip(rows, heights, strict=True):
        spare = max(0.0, area[0] / unit - sum(g.width for g in row) - GAP * (len(row) + 1))
        cuts = sorted(chance.random() for _ in row)
        x = 0.0
        for group, cut, used in zip(row, cuts, [0.0, *cuts], strict=False):
            x += GAP + spare * (cut - used)
            room = height - GAP - group.height
            lift = chance.random() * min(0.25, room) if room > 0 else 0.0
            top = y + height - group.height - lift
            for i in group.items:
                box = (i.width * unit, i.height * unit, (x + i.x) * unit, (top + i.y) * unit)
                items.append(Item(i.mention, *box, i.layer))
            x += group.width
        y += height + between
    return sorted(items, key=lambda i: i.layer)


def _largest(lines: list[Line], area: tuple[float, float]) -> tuple[float, list[Line]]:
    """Pixels per unit and the rows, for the number of rows (1 to 4) with the largest drawings."""
    best: tuple[float, list[Line]] = (0.0, [])
    for count in range(1, min(4, len(lines)) + 1):
        rows = _split(lines, count)
        wide = max(sum(g.width for g in row) + GAP * (len(row) + 1) for row in rows)
        high = sum(max(g.height for g in row) + GAP for row in rows) + GAP
        unit = min(area[0] / wide, area[1] / high)
        if unit > best[0] * 1.08:
            best = (unit, rows)
    return min(best[0], 0.52 * min(area)), best[1]


def _split(lines: list[Line], count: int) -> list[Line]:
    """The lines in `count` rows of about equal width, in order; a line is never broken."""
    widths = [sum(g.width for g in line) + GAP * len(line) for line in lines]
    rows: list[Line] = [[]]
    filled = 0.0
    for number, (line, width) in enumerate(zip(lines, widths, strict=True)):
        full = filled + width / 2 > sum(widths) * len(rows) / count
        if rows[-1] and len(rows) < count and (full or len(lines) - number <= count - len(rows)):
            rows.append([])
        rows[-1].extend(line)
        filled += width
    return rows
