"""What a set of tags says, ready to be put into words (2b): nouns with their modifiers and number, clauses
between them, and the rest.

`realizer.py` speaks it, and `grammar.py` binds a small model's words to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from ....lang.phrases import split_attribute, split_relation
from ....lang.words import PREPOSITIONS, article, plural, singular
from ....sample import Tags
from .vocabulary import COUNTS, MASS, ONLY_ONE, PARTICIPLES, PLURAL_ONLY

FINITE = {"has": "have", "is": "are", "was": "were", "does": "do"}


@dataclass(slots=True)
class Noun:
    """An object with its modifiers in order; a count stands first. `known`: a text before has named it, so it
    is `the` dog."""

    name: str
    modifiers: list[str] = field(default_factory=list)
    many: bool = False
    known: bool = False

    def bare(self) -> str:
        """`dog`, `dogs`"""
        return plural(self.name) if self.many and not is_plural(self.name) else self.name

    def full(self) -> str:
        """`brown dog`, `two brown dogs`: without article."""
        return f"{' '.join(self.modifiers)} {self.bare()}" if self.modifiers else self.bare()

    def determiner(self) -> str:
        """What stands before `full` at its first mention: `a`, `an`, `the` or nothing."""
        return (
            "the"
            if self.known
            else determiner(self.name, self.many, self.modifiers[0] if self.modifiers else None)
        )

    def first(self) -> str:
        """`a brown dog`, `two dogs`, `the sky`, `white snow`"""
        word, full = self.determiner(), self.full()
        return f"{word} {full}" if word else full


@dataclass(slots=True)
class Clause:
    """`dog` `on` `sofa`: nouns by number; an end that the relation leaves open is None."""

    subject: int | None
    words: str
    object: int | None


@dataclass(slots=True)
class Scene:
    """Nouns in the tags' order, clauses, nouns of no clause, and attributes that belong to no object."""

    nouns: list[Noun]
    clauses: list[Clause]
    alone: list[int]
    loose: list[str]


@lru_cache(maxsize=65536)
def is_plural(name: str) -> bool:
    """`sunglasses`, `tigers`: a name that stands in the plural as it is."""
    return name.rpartition(" ")[2] in PLURAL_ONLY or (
        singular(name) != name and plural(singular(name)) == name
    )


@lru_cache(maxsize=65536)
def determiner(name: str, many: bool, modifier: str | None) -> str:
    """The article of a noun at its first mention."""
    last = name.rpartition(" ")[2]
    if many or last in MASS or last in PLURAL_ONLY:
        return "the" if modifier is None and last in ONLY_ONE else ""
    if last in ONLY_ONE and modifier is None:
        return "the"
    if name[:1].isupper():
        return "the" if " " in name else ""
    if modifier is not None and modifier.partition(" ")[0] in ("one", "another", "each", "every", "no"):
        return ""
    return article(modifier if modifier is not None else name)


def plan(tags: Tags) -> Scene:
    """Tags -> Scene. Every phrase of the tags is somewhere in it."""
    objects = tags.objects
    nouns = [Noun(name, [], is_plural(name)) for name in objects]
    where = {name: i for i, name in enumerate(objects)}
    clauses: list[Clause] = []
    loose: list[str] = []
    for attribute in tags.attributes:
        modifier, owner = split_attribute(attribute, objects)
        if owner is None:
            _loose(attribute, objects, where, clauses, loose)
            continue
        noun = nouns[where[owner]]
        if attribute[len(modifier) + 1 :].lower() != owner.lower() or modifier in COUNTS:
            noun.many = True
        _modify(noun, modifier)
    for relation in tags.relations:
        subject, words, target = split_relation(relation, objects)
        i = where[subject] if subject is not None else None
        j = where[target] if target is not None else None
        if (
            i is not None
            and relation.lower().startswith(plural(objects[i]).lower() + " ")
            and plural(objects[i]) != objects[i]
        ):
            nouns[i].many = True
        if j is not None:
            if (
                relation.lower().endswith(" " + plural(objects[j]).lower())
                and plural(objects[j]) != objects[j]
            ):
                nouns[j].many = True
            words = _without_modifiers(words, nouns[j])
        if words:
            clauses.append(Clause(i, words, j))
    used = {i for clause in clauses for i in (clause.subject, clause.object)}
    return Scene(nouns, clauses, [i for i in range(len(nouns)) if i not in used], loose)


def with_subjects(scene: Scene) -> list[Clause]:
    """An open subject is the subject before it, or else the first noun that is not the clause's own object;
    None without such a noun."""
    out: list[Clause] = []
    for clause in scene.clauses:
        subject = clause.subject
        if subject is None and out:
            subject = out[-1].subject
        if subject is None or subject == clause.object:
            subject = (
                next((i for i in range(len(scene.nouns)) if i != clause.object), None)
                if clause.subject is None
                else None
            )
        out.append(Clause(subject, clause.words, clause.object))
    return out


def _modify(noun: Noun, modifier: str) -> None:
    if modifier in noun.modifiers:
        return
    if modifier in COUNTS or modifier.isdigit():
        noun.modifiers.insert(0, modifier)
        noun.many = noun.many or (modifier.isdigit() and modifier != "1")
    else:
        noun.modifiers.append(modifier)


def _loose(
    attribute: str, objects: tuple[str, ...], where: dict[str, int], clauses: list[Clause], loose: list[str]
) -> None:
    """`dog running` with the object `dog` is a clause without object; anything else describes the scene."""
    subject, words, target = split_relation(attribute, objects)
    if subject is not None and words and target is None:
        clauses.append(Clause(where[subject], words, None))
    elif attribute not in where:
        loose.append(attribute)


def _without_modifiers(words: str, noun: Noun) -> str:
    """`on red` before a sofa that is red anyway -> `on`; articles go too."""
    parts = words.split()
    known = {part for modifier in noun.modifiers for part in modifier.split()}
    while len(parts) > 1 and (
        parts[-1] in known or parts[-1] in ("a", "an", "the", "its", "his", "her", "their")
    ):
        parts.pop()
    return " ".join(parts)


@lru_cache(maxsize=65536)
def predicate(words: str, many: bool) -> str:
    """`riding` -> `is riding`, `on` -> `are on`, `chases` -> `chase` where the subject is many, `has` ->
    `has`."""
    head, _, rest = words.partition(" ")
    tail = f" {rest}" if rest else ""
    if head in FINITE or head in FINITE.values():
        forms = {value: key for key, value in FINITE.items()}
        singular_form = head if head in FINITE else forms[head]
        return (FINITE[singular_form] if many else singular_form) + tail
    if head.endswith("ing") or head in PREPOSITIONS or head in PARTICIPLES or head.endswith("ed"):
        return f"{'are' if many else 'is'} {words}"
    if head.endswith("s") and not head.endswith("ss") and len(head) > 3:
        several = (
            head[:-1] if len(head) == 4 and head.endswith("ies") else singular(head)
        )  # `lies` -> `lie`, `carries` -> `carry`
        return (several if many else head) + tail
    return f"{'are' if many else 'is'} {words}"


@lru_cache(maxsize=65536)
def reduced(words: str) -> str | None:
    """The predicate as it follows its noun (`a man riding`, `a dog on`); None for a finite verb, which needs
    `that`."""
    head = words.partition(" ")[0]
    if head in FINITE or head in FINITE.values():
        return None
    if head.endswith(("ing", "ed")) or head in PREPOSITIONS or head in PARTICIPLES:
        return words
    return None if head.endswith("s") and not head.endswith("ss") and len(head) > 3 else words
