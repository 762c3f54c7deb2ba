"""Where everything stands in a scene of `scenes` (2c): relations first, then rows of groups that don't touch.

Things that belong together (on, under, above, in, in front of, behind, holding, wearing) form a group with
places of its own; groups that stand left or right of or next to one another form a line; lines fill rows.
Only relations let drawings overlap. Units inside a group: 1 is a sofa's longer side; y grows downwards."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from .read import Mention
from .vocabulary import HEADGEAR

GAP = 0.14  # between neighbours, in units
BINDING = frozenset({"on", "under", "above", "in", "in front of", "behind", "holding", "wearing"})
_EYES = frozenset({"glasses", "sunglasses", "goggles"})


@dataclass(slots=True)
class Item:
    """One drawing of the picture: whose it is, its size in units and its place; `layer` tells what covers
    what."""

    mention: int
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    layer: float = 0.0


@dataclass(slots=True)
class Group:
    """Items with fixed places to one another; x and y of the box's corner are 0 once `_settle` has run."""

    items: list[Item] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0


def _settle(group: Group) -> Group:
    left, top = min(i.x for i in group.items), min(i.y for i in group.items)
    for item in group.items:
        item.x -= left
        item.y -= top
    group.width = max(i.x + i.width for i in group.items)
    group.height = max(i.y + i.height for i in group.items)
    return group


def arrange(
    mentions: Sequence[Mention],
    sizes: Sequence[tuple[float, float]],
    relations: Sequence[tuple[int, str, int]],
    area: tuple[float, float],
    chance: random.Random,
) -> list[Item]:
    """Items with x, y, width and height in pixels of an area (width, height), bottom layer first.

    `sizes` are the mentions' (width, height) in units. A mention that is counted gives as many items; those
    that carry or wear something give it to each of them. Relations that contradict what stands already are
    left as they fall."""
    if not mentions:
        return []
    groups = _groups(mentions, sizes, relations, chance)
    lines = _lines(groups, mentions, relations, chance)
    return _rows(lines, mentions, area, chance)


def _groups(
    mentions: Sequence[Mention],
    sizes: Sequence[tuple[float, float]],
    relations: Sequence[tuple[int, str, int]],
    chance: random.Random,
) -> list[Group]:
    """One group for each item that nothing carries; what is bound to it hangs on it."""
    hangs: dict[int, tuple[str, int]] = {}
    for subject, predicate, object_ in relations:
        if predicate not in BINDING:
            continue
        child, parent, how = (
            (object_, subject, predicate)
            if predicate in ("holding", "wearing")
            else (subject, object_, predicate)
        )
        if predicate == "behind":
            child, parent, how = object_, subject, "in front of"
        if child not in hangs and not _above(parent, child, hangs):
            hangs[child] = (how, parent)
    groups = []
    for index, mention in enumerate(mentions):
        if index in hangs:
            continue
        copies = (
            mention.count
            if not any(p == index and h not in ("holding", "wearing") for h, p in hangs.values())
            else 1
        )
        for _ in range(copies):
            group = Group([Item(index, *sizes[index])])
            _hang(group, group.items[0], hangs, mentions, sizes, chance)
            groups.append(_settle(group))
        groups += [_settle(Group([Item(index, *sizes[index])])) for _ in range(mention.count - copies)]
    return groups


def _above(start: int, goal: int, hangs: dict[int, tuple[str, int]]) -> bool:
    at: int | None = start
    while at is not None:
        if at == goal:
            return True
        at = hangs[at][1] if at in hangs else None
    return False


def _hang(
    group: Group,
    base: Item,
    hangs: dict[int, tuple[str, int]],
    mentions: Sequence[Mention],
    sizes: Sequence[tuple[float, float]],
    chance: random.Random,
) -> None:
    """Places what is bound to `base`, and what is bound to that."""
    by_way: dict[str, list[Item]] = {}
    for child, (how, parent) in hangs.items():
        if parent != base.mention:
            continue
        way = (
            how
            if how != "wearing"
            else "head"
            if mentions[child].name in HEADGEAR
            else "eyes"
            if mentions[child].name in _EYES
            else "body"
        )
        many = 1 if how in ("wearing", "holding") else mentions[child].count
        by_way.setdefault(way, []).extend(Item(child, *sizes[child]) for _ in range(many))
    for way, items in by_way.items():
        _PLACE[way](base, items, chance)
        for item in items:
            inner = Group([item])
            _hang(inner, item, hangs, mentions, sizes, chance)
            group.items.extend(inner.items)


def _abreast(base: Item, items: list[Item]) -> None:
    """x for items side by side, centred on the base's middle."""
    gap = GAP * 0.9
    crowd = (sum(i.width for i in items) + gap * (len(items) - 1)) / (1.2 * base.width)
    if crowd > 1 and len(items) > 1:  # room for many: what carries them grows, they shrink
        middle, foot = base.x + base.width / 2, base.y + base.height
        base.width, base.height = base.width * min(1.5, crowd), base.height * min(1.5, crowd)
        base.x, base.y = middle - base.width / 2, foot - base.height
        for item in items:
            item.width, item.height = item.width / min(1.5, crowd), item.height / min(1.5, crowd)
        gap /= min(1.5, crowd)
    x = base.x + base.width / 2 - (sum(i.width for i in items) + gap * (len(items) - 1)) / 2
    for item in items:
        item.x = x
        x += item.width + gap


def _on(base: Item, items: list[Item], chance: random.Random) -> None:
    _abreast(base, items)
    for item in items:
        item.y = base.y - item.height + min(0.22 * base.height, 0.3 * item.height)
        item.layer = base.layer + 1


def _over(base: Item, items: list[Item], chance: random.Random) -> None:
    _abreast(base, items)
    for item in items:
        item.y, item.layer = base.y - item.height - GAP * 1.3, base.layer


def _below(base: Item, items: list[Item], chance: random.Random) -> None:
    _abreast(base, items)
    for item in items:
        item.y, item.layer = base.y + base.height + GAP, base.layer


def _front(base: Item, items: list[Item], chance: random.Random) -> None:
    """Lower and to a side, so that both stay plain to see."""
    side = chance.choice((-1, 1))
    for number, item in enumerate(items):
        way = side if number % 2 == 0 else -side
        out = item.width - 0.36 * min(item.width, base.width) + (number // 2) * (item.width + GAP)
        item.x = base.x + base.width - item.width + out if way > 0 else base.x - out
        item.y = base.y + base.height - item.height + 0.16 * item.height + 0.06
        item.layer = base.layer + 1


def _inside(base: Item, items: list[Item], chance: random.Random) -> None:
    """Looking out over the upper edge, behind its front."""
    _abreast(base, items)
    for item in items:
        item.y, item.layer = base.y - 0.62 * item.height, base.layer - 1


def _hold(base: Item, items: list[Item], chance: random.Random) -> None:
    for number, item in enumerate(items):
        right = (number + (base.mention % 2)) % 2 == 0
        item.x = base.x + base.width - 0.22 * item.width if right else base.x - 0.78 * item.width
        item.y = base.y + 0.72 * base.height - item.height / 2 - 0.3 * (number // 2)
        item.layer = base.layer + 1


def _head(base: Item, items: list[Item], chance: random.Random) -> None:
    y = base.y + 0.1 * base.height
    for item in items:
        factor = 0.62 * base.width / item.width
        item.width, item.height = item.width * factor, item.height * factor
        item.x, item.y, item.layer = (
            base.x + (base.width - item.width) / 2,
            y - 0.72 * item.height,
            base.layer + 2,
        )
        y = item.y


def _eyes(base: Item, items: list[Item], chance: random.Random) -> None:
    for item in items:
        factor = 0.78 * base.width / item.width
        item.width, item.height = item.width * factor, item.height * factor
        item.x, item.y, item.layer = (
            base.x + (base.width - item.width) / 2,
            base.y + 0.36 * base.height - item.height / 2,
            base.layer + 2,
        )


def _body(base: Item, items: list[Item], chance: random.Random) -> None:
    y = base.y + 0.8 * base.height
    for item in items:
        item.x, item.y, item.layer = base.x + (base.width - item.width) / 2, y, base.layer + 1
        y += 0.85 * item.height


_PLACE = {
    "on": _on, "above": _over, "under": _below, "in front of": _front, "in": _inside,
    "holding": _hold, "head": _head, "eyes": _eyes, "body": _body,
}  # fmt: skip


def _lines(
    groups: list[Group],
    mentions: Sequence[Mention],
    relations: Sequence[tuple[int, str, int]],
    chance: random.Random,
) -> list[list[Group]]:
    """Groups that must stand side by side, each list from left to right; the lists by the text's sides, else
    at random."""
    of = {item.mention: number for number, group in reversed(list(enumerate(groups))) for item in group.items}
    before: set[tuple[int, int]] = set()
    beside: list[tuple[int, int]] = []
    for subject, predicate, object_ in relations:
        a, b = of.get(subject), of.get(object_)
        if a is None or b is None or a == b or predicate not in ("left of", "right of", "next to"):
            continue
        if predicate == "next to":
            beside.append((a, b))
        else:
            before.add((a, b) if predicate == "left of" else (b, a))
    lines = [[number] for number in range(len(groups))]
    for a, b in [*sorted(before), *beside]:
        one, two = next(line for line in lines if a in line), next(line for line in lines if b in line)
        if one is not two:
            lines.remove(two)
            one.extend(two)
    for line in lines:
        _sort(line, before, beside, chance)
    chance.shuffle(lines)
    rank = {"left": 0, None: 1, "back": 1, "front": 1, "right": 2}
    lines.sort(
        key=lambda line: min(
            (rank[mentions[i.mention].side] for n in line for i in groups[n].items), key=lambda r: -abs(r - 1)
        )
    )
    return [[groups[number] for number in line] for line in lines]


def _sort(
    line: list[int], before: set[tuple[int, int]], beside: list[tuple[int, int]], chance: random.Random
) -> None:
    """Orders a line so that `before` holds where it can, and neighbours stay close: the least broken of the
    orders tried."""
    if len(line) < 2:
        return

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
    line[:] = best


def _rows(
    lines: list[list[Group]], mentions: Sequence[Mention], area: tuple[float, float], chance: random.Random
) -> list[Item]:
    """Packs the lines into the number of rows that lets everything be largest, bottoms on each row's ground,
    slack shared at random."""
    best: tuple[float, list[list[Group]]] = (0.0, [])
    for count in range(1, min(4, len(lines)) + 1):
        rows = _split(lines, count)
        wide = max(sum(g.width for g in row) + GAP * (len(row) + 1) for row in rows)
        high = sum(max(g.height for g in row) + GAP for row in rows) + GAP
        unit = min(area[0] / wide, area[1] / high)
        if unit > best[0] * 1.08:
            best = (unit, rows)
    unit, rows = min(best[0], 0.52 * min(area)), best[1]
    heights = [max(g.height for g in row) + GAP for row in rows]
    spare_y = max(0.0, area[1] / unit - sum(heights) - GAP)
    items: list[Item] = []
    y = (
        GAP / 2 + spare_y * (0.55 + 0.25 * chance.random()) / max(1, len(rows))
        if len(rows) == 1
        else GAP / 2 + spare_y / (len(rows) + 1)
    )
    for row, height in zip(rows, heights, strict=True):
        spare = max(0.0, area[0] / unit - sum(g.width for g in row) - GAP * (len(row) + 1))
        cuts = sorted(chance.random() for _ in row)
        x, used = 0.0, 0.0
        for group, cut in zip(row, cuts, strict=True):
            x += GAP + spare * (cut - used)
            used = cut
            lift = (
                chance.random() * min(0.25, (height - GAP - group.height))
                if height - GAP > group.height
                else 0.0
            )
            for item in group.items:
                items.append(_pixels(item, x + item.x, y + height - group.height - lift + item.y, unit))
            x += group.width
        y += height + (spare_y / (len(rows) + 1) if len(rows) > 1 else 0.0)
    return sorted(items, key=lambda i: i.layer)


def _pixels(item: Item, x: float, y: float, unit: float) -> Item:
    return Item(item.mention, item.width * unit, item.height * unit, x * unit, y * unit, item.layer)


def _split(lines: list[list[Group]], count: int) -> list[list[Group]]:
    """The lines in `count` rows, in order, each about as wide as the others; a line is never broken."""
    total = sum(sum(g.width for g in line) + GAP * len(line) for line in lines)
    rows: list[list[Group]] = [[]]
    filled = 0.0
    for number, line in enumerate(lines):
        width = sum(g.width for g in line) + GAP * len(line)
        left = len(lines) - number
        if (
            rows[-1]
            and len(rows) < count
            and (filled + width / 2 > total * len(rows) / count or left <= count - len(rows))
        ):
            rows.append([])
        rows[-1].extend(line)
        filled += width
    return rows
