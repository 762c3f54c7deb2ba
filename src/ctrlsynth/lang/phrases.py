"""Tags as phrases: the owner and modifier of an attribute, the ends of a relation, and where a text
holds a phrase."""

import re
from collections.abc import Iterator, Sequence

from .words import plural, singular


def split_attribute(attribute: str, objects: Sequence[str]) -> tuple[str, str | None]:
    """`red soccer ball` with objects [`soccer ball`] -> (`red`, `soccer ball`); unbound -> (`red`, None). The
    longest object wins."""
    name, size = _longest(objects, attribute.lower(), at_start=False)
    return (attribute[: -size - 1], name) if name is not None else (attribute, None)


def split_relation(relation: str, objects: Sequence[str]) -> tuple[str | None, str, str | None]:
    """`dog on red sofa` with objects [`dog`, `sofa`] -> (`dog`, `on red`, `sofa`); an end that names no
    object is None."""
    low = relation.lower()
    subject, start = _longest(objects, low, at_start=True)
    object_, end = _longest(objects, low, at_start=False)
    middle = relation[start : len(relation) - end].strip()
    if not middle and subject is not None and object_ is not None:  # one object fills the whole phrase
        return subject, "", None
    return subject, middle, object_


def _longest(objects: Sequence[str], low: str, at_start: bool) -> tuple[str | None, int]:
    """The longest object with which a phrase in lower case begins (or ends), in the singular or plural, and
    the length of that form; (None, 0) without one."""
    best, size = None, 0
    for name in objects:
        if best is None or len(name) > len(best):
            for form in (name, plural(name)):
                whole = form.lower()
                if low.startswith(whole + " ") if at_start else low.endswith(" " + whole):
                    best, size = name, len(form)
    return best, size


def end_form(phrase: str, name: str, *, at_start: bool = False) -> str:
    """The form, singular or plural, in which a relation ends (or begins) with an object."""
    low, many = phrase.lower(), plural(name)
    found = low.startswith(f"{many} ".lower()) if at_start else low.endswith(f" {many}".lower())
    return many if found else name


def holds(text: str, phrase: str) -> bool:
    """Whether a text has a phrase as whole words, singular or plural, whatever its case."""
    return next(places(text, phrase), None) is not None


def places(text: str, phrase: str) -> Iterator[tuple[int, int]]:
    """Where a text has a phrase, as `holds` finds it: first character and the one after the last; of several
    forms the longest."""
    low, name = text.lower(), phrase.lower()
    if len(low) != len(text):  # a letter whose small form is two characters would move all that follows
        low = "".join(small if len(small := c.lower()) == 1 else c for c in text)
    forms = sorted(
        (form for form in {name, plural(name), singular(name)} if form in low),
        key=lambda form: (-len(form), form),
    )
    if forms:
        any_form = "|".join(map(re.escape, forms))
        yield from (m.span() for m in re.finditer(rf"(?<!\w)(?:{any_form})(?!\w)", low))
