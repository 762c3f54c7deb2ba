"""How attributes and relations follow the objects that they name (3a): renamed with them, gone with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..sample import split_attribute, split_relation
from ..words import article, plural

if TYPE_CHECKING:
    from .edits import Row


@dataclass(frozen=True, slots=True)
class Orphan:
    """What happens to an object that only the end of a phrase names: `change` makes of the end itself, what it becomes, or None when the
    object is removed; `possible` says quickly whether a phrase has such an end at all."""

    possible: Callable[[str], bool]
    change: Callable[[str, Row], str | None]


Moved = Mapping[str, str | None]
"""Objects in lower case -> what they became; None when they are gone. Objects that stayed are not in it."""
Follow = Callable[[str, Sequence[str], Moved, Orphan | None, "Row"], str | None]


def attribute(phrase: str, objects: Sequence[str], moved: Moved, orphan: Orphan | None, row: Row) -> str | None:
    """`two dogs` with dog -> cat becomes `two cats`; with dog gone, None."""
    if orphan is not None and not orphan.possible(phrase):
        orphan = None
    if orphan is None and not _mentions(phrase.lower(), moved):
        return phrase
    modifier, bound = split_attribute(phrase, objects)
    if bound is None:
        return phrase if orphan is None else _orphan_end(phrase, orphan, row)
    return _renamed(phrase, len(modifier) + 1, len(phrase), bound, moved)


def relation(phrase: str, objects: Sequence[str], moved: Moved, orphan: Orphan | None, row: Row) -> str | None:
    """`dog on sofa` with sofa -> bench becomes `dog on bench`; with either gone, None. Ends first, then what is named between them."""
    if orphan is not None and not orphan.possible(phrase):
        orphan = None
    if orphan is None and not _mentions(phrase.lower(), moved):
        return phrase
    subject, predicate, object_ = split_relation(phrase, objects)
    new: str | None = phrase
    if object_ is not None:
        many = phrase.lower().endswith(" " + plural(object_).lower())
        new = _renamed(phrase, len(phrase) - len(plural(object_) if many else object_), len(phrase), object_, moved)
    elif orphan is not None:
        new = _orphan_end(phrase, orphan, row)
    if new is not None and subject is not None:
        new = _renamed(new, 0, len(subject_form(phrase, subject)), subject, moved)
    elif new is not None and orphan is not None:
        new = _orphan_start(new, orphan, row)
    return new if new is None else _between(new, predicate, objects, moved)


def exchanged(phrase: str, objects: Sequence[str]) -> str:
    """A relation with its ends exchanged, each in the number in which it stood; one without two different ends as it is."""
    subject, predicate, object_ = split_relation(phrase, objects)
    if subject is None or object_ is None or subject == object_:
        return phrase
    start = subject_form(phrase, subject)
    many = phrase.lower().endswith(" " + plural(object_).lower())
    end = phrase[len(phrase) - len(plural(object_) if many else object_) :]
    return " ".join(f"{end} {predicate} {phrase[: len(start)]}".split())


def subject_form(phrase: str, subject: str) -> str:
    """The form, singular or plural, in which a relation's subject stands at its beginning."""
    many = plural(subject)
    return many if phrase.lower().startswith(many.lower() + " ") else subject


def _mentions(low: str, moved: Moved) -> bool:
    return any(name in low or plural(name).lower() in low for name in moved)


def _renamed(phrase: str, start: int, stop: int, name: str, moved: Moved) -> str | None:
    """The phrase with the object between two characters renamed; the plural stays a plural, an article before it fits."""
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
    return head + new + phrase[stop:]


def _orphan_end(phrase: str, orphan: Orphan, row: Row) -> str | None:
    """Asks every ending but the whole, the shortest first."""
    words = phrase.split()
    for at in range(len(words) - 1, 0, -1):
        end = " ".join(words[at:])
        new = orphan.change(end, row)
        if new is None:
            return None
        if new != end:
            return " ".join([*words[:at], new])
    return phrase


def _orphan_start(phrase: str, orphan: Orphan, row: Row) -> str | None:
    words = phrase.split()
    for at in range(1, len(words)):
        start = " ".join(words[:at])
        new = orphan.change(start, row)
        if new is None:
            return None
        if new != start:
            return " ".join([new, *words[at:]])
    return phrase


def _between(phrase: str, predicate: str, objects: Sequence[str], moved: Moved) -> str | None:
    """Objects named inside the predicate (`dog with ball on grass`), unless as a part of a longer object's name."""
    low = f" {predicate.lower()} "
    for name, new in moved.items():
        for form in (name, plural(name)):
            if f" {form} " not in low or any(name in o.lower() and o.lower() != name and f" {o.lower()} " in low for o in objects):
                continue
            if new is None:
                return None
            at = f" {phrase.lower()} ".index(f" {form} ")
            phrase = phrase[:at] + (new if form == name else plural(new)) + phrase[at + len(form) :]
            break
    return phrase
