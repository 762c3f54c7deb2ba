"""Edits of tags, the first half of the text controller (3a): remove, add, replace, keep, sample, swap, call.

`compile_edits` reads and checks the edits of a recipe; `Edits.apply` edits one row's tags and records each
changed phrase. An edit sees the tags as the edit before it left them. Within one edit every phrase is looked
at once, so `{dog: cat, cat: dog}` exchanges the two.

Following. When an object is replaced, attributes that describe it and relations that name it are renamed, in
their own number (`two dogs` -> `two cats`); when it is removed (by remove, keep, sample), they are removed
with it. An object that only an attribute or a relation names (`brown dog` without `dog` among the objects) is
found there by remove and replace, if the selector is an exact phrase or a class. The modifier of another
object is not changed: to remove `glass` leaves `glass table`.

Phrases that become equal merge into the first, which keeps its score. A relation whose two ends become the
same object is removed. All draws depend on the run's seed, the row's id, the edit's number and the phrase, so
the other tags do not matter; except that an object drawn from a class skips members whose words the row
already has or drew, so that no two objects become one."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

from ..errors import UserError
from ..lang import wordnet
from ..lang.phrases import split_attribute
from ..lang.words import plural, singular
from ..recipe.code import call_code, load_code
from ..recipe.schema import Edit
from ..sample import KINDS, Kind, Tags, chance, unique
from . import follow
from .follow import Row
from .select import Selectors, is_class, members, parse


@dataclass(frozen=True, slots=True)
class EditRecord:
    """What one edit did to one phrase: the edit's number in the policy from 0, its name, the kind of tags,
    the phrase before (None: added) and after (None: removed). A phrase that only followed an object carries
    the number of the edit that it followed."""

    edit: int
    op: str
    kind: Kind
    before: str | None
    after: str | None


# (phrase, the row's tags, row) -> the new phrase, or None to remove it.
Change = Callable[[str, Tags, Row], str | None]
Step = Callable[[Tags, Row], tuple[Tags, list[EditRecord]]]


@dataclass(frozen=True, slots=True)
class Edits:
    """The edits of a policy, ready for rows."""

    steps: tuple[Step, ...]

    def apply(self, tags: Tags, seed: int, row_id: str) -> tuple[Tags, tuple[EditRecord, ...]]:
        """Returns one row's edited tags and the records of what was done to them, in order."""
        row = Row(seed, row_id)
        records: list[EditRecord] = []
        for step in self.steps:
            tags, done = step(tags, row)
            records += done
        return tags, tuple(records)


def compile_edits(edits: Sequence[Edit], where: str = "text_policy") -> Edits:
    """Reads the edits of a recipe. UserError names the key of one that cannot work, such as
    `text_policy.edits[2].remove.objects`."""
    return Edits(tuple(_compile(edit, n, f"{where}.edits[{n}]") for n, edit in enumerate(edits)))


def _compile(edit: Edit, n: int, where: str) -> Step:
    op, given = next((name, value) for name, value in edit if value is not None)
    where = f"{where}.{op}"
    if op == "call":
        return partial(_call, load_code(given, where), f"{where}: {given}", n)
    if not given:
        raise UserError(f"{where}: is empty; name what to {op}")
    if op == "add":
        return _add(given, n, where)
    if op == "replace":
        return _Rewrite(n, op, *_replacements(given, n, where))
    if op == "sample":
        return _Rewrite(n, op, {kind: _sampled(kind, share, n) for kind, share in given.items()})
    if given == "attributes":
        return partial(_swap_attributes, n)
    if given == "relations":
        return _Rewrite(n, op, {"relations": lambda phrase, tags, _: follow.exchanged(phrase, tags.objects)})
    if isinstance(given, list):
        return partial(_keep_kinds, given, n)
    found = {kind: Selectors(chosen, kind, f"{where}.{kind}") for kind, chosen in given.items()}
    orphan = None
    if op == "remove" and "objects" in found:
        named = found["objects"]
        orphan = follow.Orphan(named.naming, lambda end, row: None if named.names(end) >= 0 else end)
    return _Rewrite(n, op, {kind: _chosen(s, op == "keep") for kind, s in found.items()}, orphan)


def _chosen(selectors: Selectors, keeping: bool) -> Change:
    return lambda phrase, tags, _: (
        phrase if (selectors.find(phrase, tags.objects) is not None) == keeping else None
    )


def _sampled(kind: Kind, share: float, n: int) -> Change:
    return lambda phrase, tags, row: phrase if row.draw(f"edit.{n}.{kind}.{phrase.lower()}") < share else None


@dataclass(frozen=True, slots=True)
class _Rewrite:
    """Replaces, keeps or removes each phrase of some kinds; what names a changed object follows. `orphan`
    does so for an object that only the end of an attribute or relation names."""

    edit: int
    op: str
    changes: Mapping[Kind, Change]
    orphan: follow.Orphan | None = None

    def __call__(self, tags: Tags, row: Row) -> tuple[Tags, list[EditRecord]]:
        moved: dict[str, str | None] = {}
        records: list[EditRecord] = []
        if self.op == "replace":
            row.taken.update(_words(tags))
        new_tags = tags
        for kind in KINDS:
            change = self.changes.get(kind)
            before: tuple[str, ...] = getattr(tags, kind)
            after = [phrase if change is None else change(phrase, tags, row) for phrase in before]
            if kind == "objects":
                moved = {old.lower(): new for old, new in zip(before, after, strict=True) if new != old}
            elif moved or (self.orphan is not None and any(map(self.orphan.possible, before))):
                after = [
                    p if p is None else follow.followed(kind, p, tags.objects, moved, self.orphan, row)
                    for p in after
                ]
            new_tags, done = _settled(new_tags, kind, after, self.edit, self.op)
            records += done
        return new_tags, records


def _settled(
    tags: Tags, kind: Kind, after: Sequence[str | None], n: int, op: str
) -> tuple[Tags, list[EditRecord]]:
    """The tags with other phrases of one kind (None removes one), and the record of every change."""
    pairs = zip(getattr(tags, kind), after, strict=True)
    records = [EditRecord(n, op, kind, old, new) for old, new in pairs if new != old]
    return (_with(tags, kind, after) if records else tags), records


def _words(tags: Tags) -> set[str]:
    """The objects, and every word of every phrase, as given and in the singular."""
    words = {word for phrase in tags.phrases() for word in phrase.lower().split()}
    return words | {o.lower() for o in tags.objects} | {singular(word) for word in words}


def _with(tags: Tags, kind: Kind, after: Sequence[str | None]) -> Tags:
    """The tags with new phrases of one kind in the same order, without None and later repeats; scores are
    removed with their objects."""
    seen: dict[str, int] = {}
    for at, phrase in enumerate(after):
        if phrase is not None:
            seen.setdefault(phrase.lower(), at)
    kept = tuple(p for p in (after[at] for at in seen.values()) if p is not None)
    changed: dict[str, Any] = {kind: kept}
    if kind == "objects" and tags.scores:
        changed["scores"] = tuple(tags.scores[at] for at in seen.values())
    return replace(tags, **changed)


def _add(phrases: Mapping[Kind, Sequence[str]], n: int, where: str) -> Step:
    """Appends phrases that are missing. An added object gets the score 1 if the others have scores. Added
    attributes and relations may name objects that are missing."""
    for kind, added in phrases.items():
        if not added or any(not p.strip() for p in added):
            raise UserError(f"{where}.{kind}: a phrase is empty")

    def step(tags: Tags, row: Row) -> tuple[Tags, list[EditRecord]]:
        records = []
        for kind in KINDS:
            had: tuple[str, ...] = getattr(tags, kind)
            low = {p.lower() for p in had}
            new = [p for p in unique(phrases.get(kind, ())) if p.lower() not in low]
            records += [EditRecord(n, "add", kind, None, p) for p in new]
            if new:
                more = [1.0] * len(new) if kind == "objects" and tags.scores else ()
                tags = _with(replace(tags, scores=(*tags.scores, *more)), kind, (*had, *new))
        return tags, records

    return step


def _keep_kinds(kinds: Sequence[Kind], n: int, tags: Tags, _: Row) -> tuple[Tags, list[EditRecord]]:
    """The paper's Obj, Obj+Attr, Obj+Attr+Rel: empties the other kinds. `red ball` among kept attributes
    stays when `ball` is removed."""
    records: list[EditRecord] = []
    for kind in KINDS:
        if kind not in kinds:
            tags, done = _settled(tags, kind, [None] * len(getattr(tags, kind)), n, "keep")
            records += done
    return tags, records


def _replacements(
    maps: Mapping[Kind, Mapping[str, str]], n: int, where: str
) -> tuple[dict[Kind, Change], follow.Orphan | None]:
    changes: dict[Kind, Change] = {}
    orphan: follow.Orphan | None = None
    for kind, pairs in maps.items():
        spot = f"{where}.{kind}"
        if not pairs:
            raise UserError(f"{spot}: is empty; write selector: phrase")
        selectors = Selectors(list(pairs), kind, spot)
        fixed = frozenset(" ".join(text.lower().split()) for text in pairs.values())
        targets = tuple(
            _target(text, kind, n, f"{spot}.{selector}", fixed) for selector, text in pairs.items()
        )
        changes[kind] = _replaced(selectors, targets, kind)
        if kind == "objects":
            orphan = _orphan_replaced(selectors, targets)
    return changes, orphan


Target = Callable[[str, Row], str]


def _target(text: str, kind: Kind, n: int, where: str, fixed: frozenset[str]) -> Target:
    """The right side of a replacement: a phrase, or a class from which a member is drawn. Objects are drawn
    without replacement: the first member, from the drawn one on, that the row does not have. `fixed` are the
    replacements of other selectors."""
    if not is_class(text):
        clean = " ".join(text.split())
        if not clean:
            raise UserError(f"{where}: replaced by nothing; to drop tags use remove")
        return lambda phrase, row: clean
    quality = parse(text, where).quality
    words = members(" ".join(text.split()), quality)
    if not words:
        raise UserError(f"{where}: the class {text!r} has no members to draw from")

    def drawn(phrase: str, row: Row) -> str:
        old = phrase.lower() if quality else (wordnet.noun_lemma(phrase) or phrase.lower())
        at = int(row.draw(f"edit.{n}.{kind}.{phrase.lower()}") * len(words))
        if kind != "objects":
            return words[at] if words[at] != old else words[(at + 1) % len(words)]
        known = row.drawn.get((n, phrase.lower()))
        if known is not None:
            return known
        others = [word for word in (*words[at:], *words[:at]) if word != old]
        new = next(
            (word for word in others if word not in row.taken and word not in fixed),
            others[0] if others else old,
        )
        row.taken.add(new)
        row.drawn[n, phrase.lower()] = new
        return new

    return drawn


def _replaced(selectors: Selectors, targets: Sequence[Target], kind: Kind) -> Change:
    def change(phrase: str, tags: Tags, row: Row) -> str | None:
        span = selectors.find(phrase, tags.objects)
        if span is None:
            return phrase
        number, start, stop = span
        new = targets[number](phrase[start:stop], row)
        return (
            _as_many(phrase, new)
            if kind == "objects"
            else " ".join((phrase[:start] + new + phrase[stop:]).split())
        )

    return change


def _orphan_replaced(selectors: Selectors, targets: Sequence[Target]) -> follow.Orphan:
    def change(end: str, row: Row) -> str | None:
        number = selectors.names(end)
        return end if number < 0 else _as_many(end, targets[number](end, row))

    return follow.Orphan(selectors.naming, change)


def _as_many(old: str, new: str) -> str:
    """The new phrase in the number, singular or plural, of the old one."""
    one = singular(old.lower())
    return plural(new) if one != old.lower() and plural(one) == old.lower() else new


def _swap_attributes(n: int, tags: Tags, row: Row) -> tuple[Tags, list[EditRecord]]:
    """Exchanges what two objects are said to be: `red ball`, `blue car` -> `blue ball`, `red car`: a hard
    case for composition.

    Of all pairs of objects with different modifiers one is drawn; all modifiers of the two change sides, each
    in its number (`two dogs`). Without such a pair nothing happens and nothing is recorded."""
    bound = [split_attribute(a, tags.objects) for a in tags.attributes]
    modifiers: dict[str, set[str]] = {}
    for modifier, name in bound:
        if name is not None:
            modifiers.setdefault(name, set()).add(modifier.lower())
    names = [name for name in tags.objects if name in modifiers]
    pairs = [(a, b) for a, b in combinations(names, 2) if modifiers[a] != modifiers[b]]
    if not pairs:
        return tags, []
    one, two = min(pairs, key=lambda pair: row.draw(f"edit.{n}.swap.{pair[0]}\0{pair[1]}"))
    other = {one: two, two: one}
    after = list(tags.attributes)
    for at, (modifier, name) in enumerate(bound):
        if name in other:
            many = after[at].lower() != f"{modifier} {name}".lower()
            after[at] = f"{modifier} {plural(other[name]) if many else other[name]}"
    return _settled(tags, "attributes", after, n, "swap")


def _call(
    function: Callable[[Tags, random.Random], Any], name: str, n: int, tags: Tags, row: Row
) -> tuple[Tags, list[EditRecord]]:
    """A user's own edit. Its result loses blanks and repeats; the difference is recorded as removals and
    additions."""
    answer = call_code(function, name, row.id, Tags, tags, chance(row.seed, row.id, f"edit.{n}"))
    new = _checked(answer, f"{name} on row {row.id}")
    records = []
    for kind in KINDS:
        before, after = getattr(tags, kind), getattr(new, kind)
        records += [EditRecord(n, "call", kind, p, None) for p in before if p not in after]
        records += [EditRecord(n, "call", kind, None, p) for p in after if p not in before]
    return new, records


def _checked(tags: Tags, name: str) -> Tags:
    for kind in KINDS:
        phrases = getattr(tags, kind)
        if (
            isinstance(phrases, str)
            or not isinstance(phrases, Sequence)
            or not all(isinstance(p, str) for p in phrases)
        ):
            raise UserError(f"{name} returned {kind} that are not a sequence of phrases")
    if tags.scores and len(tags.scores) != len(tags.objects):
        raise UserError(f"{name} returned {len(tags.scores)} scores for {len(tags.objects)} objects")
    for kind in KINDS:
        tags = _with(tags, kind, [" ".join(p.split()) or None for p in getattr(tags, kind)])
    return tags
