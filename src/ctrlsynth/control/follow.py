"""How attributes and relations follow the objects that they name (3a): renamed and removed with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..lang.phrases import end_form, split_attribute, split_relation
from ..lang.words import article, plural
from ..sample import Kind, draw


@dataclass(frozen=True, slots=True)
class Orphan:
    """What happens to an object that only the end of a phrase names. `change` returns what the end becomes,
    or None if the object is removed; `possible` is a quick test whether a phrase has such an end."""

    possible: Callable[[str], bool]
    change: Callable[[str, Row], str | None]


# Changed objects in lower case -> what they became; None if removed.
Moved = Mapping[str, str | None]


def followed(
    kind: Kind, phrase: str, objects: Sequence[str], moved: Moved, orphan: Orphan | None, row: Row
) -> str | None:
    """What an attribute or relation becomes when objects change; None if it is removed with one."""
    if orphan is not None and not orphan.possible(phrase):
        orphan = None
    if orphan is None and not _mentions(phrase.lower(), moved):
        return phrase
    if kind == "relations":
        return _relation(phrase, objects, moved, orphan, row)
    modifier, bound = split_attribute(phrase, objects)  # `two dogs` becomes `two cats` with dog -> cat
    if bound is None:
        return phrase if orphan is None else _orphan(phrase, orphan, row)
    return _renamed(phrase, len(modifier) + 1, len(phrase), bound, moved)


def _relation(
    phrase: str, objects: Sequence[str], moved: Moved, orphan: Orphan | None, row: Row
) -> str | None:
    """`dog on sofa` becomes `dog on bench` with sofa -> bench, and None if an object that it names (at an end
    or between) is removed, or if both ends become the same."""
    subject, _, object_ = split_relation(phrase, objects)
    if subject is not None and object_ is not None and subject != object_:
        one, two = moved.get(subject.lower(), subject), moved.get(object_.lower(), object_)
        if one is not None and two is not None and one.lower() == two.lower():
            return None
    start = 0 if subject is None else len(end_form(phrase, subject, at_start=True))
    stop = len(phrase) if object_ is None else len(phrase) - len(end_form(phrase, object_))
    middle: str | None = _inside(phrase[start:stop], objects, moved)
    if orphan is not None and middle is not None and object_ is None:
        middle = _orphan(middle, orphan, row)
    if orphan is not None and middle is not None and subject is None:
        middle = _orphan(middle, orphan, row, start=True)
    head = _renamed(phrase[:start], 0, start, subject, moved) if subject is not None else ""
    if head is None or middle is None:
        return None
    whole = f"{head} {middle.strip()} ".lstrip() if middle.strip() else f"{head} "
    return (
        whole.rstrip()
        if object_ is None
        else _renamed(whole + phrase[stop:], len(whole), None, object_, moved)
    )


def exchanged(phrase: str, objects: Sequence[str]) -> str:
    """A relation with its ends exchanged, each keeping its number; unchanged without two different ends."""
    subject, predicate, object_ = split_relation(phrase, objects)
    if subject is None or object_ is None or subject == object_:
        return phrase
    start, end = end_form(phrase, subject, at_start=True), end_form(phrase, object_)
    return f"{phrase[len(phrase) - len(end) :]} {predicate} {phrase[: len(start)]}"


def _mentions(low: str, moved: Moved) -> bool:
    return any(name in low or plural(name).lower() in low for name in moved)


def _renamed(phrase: str, start: int, stop: int | None, name: str, moved: Moved) -> str | None:
    """The phrase with the object between two characters renamed; the plural stays a plural, an article before
    it fits."""
    if name.lower() not in moved:
        return phrase
    new = moved[name.lower()]
    if new is None:
        return None
    if phrase[start:stop].lower() != name.lower():
        new = plural(new)
    head = phrase[:start]
    if head.lower().split()[-1:] in (["a"], ["an"]):
        head = head.rstrip()
        head = head[: len(head) - len(head.split()[-1])] + article(new) + " "
    return head + new + ("" if stop is None else phrase[stop:])


def _orphan(phrase: str, orphan: Orphan, row: Row, *, start: bool = False) -> str | None:
    """Renames an object that only the end (or start) of a phrase names; None if it was removed. Tries every
    run of words there but the whole phrase, the shortest first."""
    words = phrase.split()
    for size in range(1, len(words)):
        old = " ".join(words[:size] if start else words[-size:])
        new = orphan.change(old, row)
        if new is None:
            return None
        if new != old:
            return " ".join([new, *words[size:]] if start else [*words[:-size], new])
    return phrase


def _inside(middle: str, objects: Sequence[str], moved: Moved) -> str | None:
    """Objects named inside a predicate (`dog with ball on grass`), the longest names first, so that `sofa
    bed` names no sofa."""
    if not _mentions(middle.lower(), moved):
        return middle
    forms = {form.lower(): (name, form) for name in objects for form in (plural(name), name)}
    words, new, at = middle.split(), [], 0
    while at < len(words):
        runs = (n for n in range(len(words) - at, 0, -1) if " ".join(words[at : at + n]).lower() in forms)
        n = next(runs, 0)
        if n == 0:
            new.append(words[at])
        else:
            name, form = forms[" ".join(words[at : at + n]).lower()]
            renamed = _renamed(form, 0, None, name, moved)
            if renamed is None:
                return None
            new.append(renamed)
        at += n or 1
    return " ".join(new)


@dataclass(frozen=True, slots=True)
class Row:
    """The row whose tags are edited; all draws depend on its seed and id. `taken` are words that no object
    may be drawn as, `drawn` the member that an edit (its number) drew for an object (in lower case)."""

    seed: int
    id: str
    taken: set[str] = field(default_factory=set)
    drawn: dict[tuple[int, str], str] = field(default_factory=dict)

    def draw(self, purpose: str) -> float:
        return draw(self.seed, self.id, purpose)
