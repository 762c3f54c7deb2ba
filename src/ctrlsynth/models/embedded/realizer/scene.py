"""Parses tags into a scene (2b): nouns with modifiers and number, clauses between them, and the rest.

`speech.py` turns a scene into sentences; `small_llm/grammar.py` turns it into a grammar."""

from dataclasses import dataclass, field
from functools import lru_cache

from ....lang.phrases import end_form, split_attribute, split_relation
from ....lang.words import PREPOSITIONS, article, plural, singular
from ....sample import Tags
from .vocabulary import COUNTS, MASS, ONLY_ONE, PARTICIPLES, PLURAL_ONLY

_FINITE = {
    form: pair for pair in (("has", "have"), ("is", "are"), ("was", "were"), ("does", "do")) for form in pair
}


@dataclass(slots=True)
class Noun:
    """An object with its modifiers in order, a count first. `known`: earlier text has named it, so it is
    `the` dog."""

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

    def first(self) -> str:
        """`a brown dog`, `two dogs`, `the sky`, `white snow`"""
        modifier = self.modifiers[0] if self.modifiers else None
        lead = "the" if self.known else determiner(self.name, self.many, modifier)
        return f"{lead} {self.full()}".strip()


@dataclass(slots=True)
class Clause:
    """`dog` `on` `sofa`: nouns by number; a missing subject or object is None."""

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
    """Whether a name is in the plural as it is: `sunglasses`, `tigers`."""
    return name.rpartition(" ")[2] in PLURAL_ONLY or (
        singular(name) != name and plural(singular(name)) == name
    )


@lru_cache(maxsize=65536)
def determiner(name: str, many: bool, modifier: str | None) -> str:
    """The article of a noun at its first mention."""
    last = name.rpartition(" ")[2]
    if last in ONLY_ONE and modifier is None:
        return "the"
    if many or last in MASS or last in PLURAL_ONLY:
        return ""
    if name[:1].isupper():
        return "the" if " " in name else ""
    if modifier is not None and modifier.partition(" ")[0] in ("one", "another", "each", "every", "no"):
        return ""
    return article(modifier if modifier is not None else name)


def plan(tags: Tags) -> Scene:
    """Parses tags into a scene, which holds every phrase of them."""
    objects = tags.objects
    nouns = [Noun(name, [], is_plural(name)) for name in objects]
    where: dict[str | None, int] = {name: i for i, name in enumerate(objects)}
    clauses: list[Clause] = []
    loose: list[str] = []
    for attribute in tags.attributes:
        modifier, owner = split_attribute(attribute, objects)
        if owner is None:  # `dog running` is a clause of the object `dog`, others describe the scene
            subject, words, target = split_relation(attribute, objects)
            if subject is not None and words and target is None:
                clauses.append(Clause(where[subject], words, None))
            elif attribute not in where:
                loose.append(attribute)
            continue
        noun, counts = nouns[where[owner]], modifier in COUNTS
        noun.many |= counts or attribute[len(modifier) + 1 :].lower() != owner.lower()
        noun.many |= modifier.isdigit() and modifier != "1"
        if modifier not in noun.modifiers:
            noun.modifiers.insert(0 if counts or modifier.isdigit() else len(noun.modifiers), modifier)
    for relation in tags.relations:
        subject, words, target = split_relation(relation, objects)
        if subject is not None:
            nouns[where[subject]].many |= end_form(relation, subject, at_start=True) != subject
        if target is not None:
            nouns[where[target]].many |= end_form(relation, target) != target
            words = _without_modifiers(words, nouns[where[target]])
        if words:
            clauses.append(Clause(where.get(subject), words, where.get(target)))
    used = {i for clause in clauses for i in (clause.subject, clause.object)}
    return Scene(nouns, clauses, [i for i in range(len(nouns)) if i not in used], loose)


def with_subjects(scene: Scene) -> list[Clause]:
    """The clauses with missing subjects filled in: by the previous subject, or else by the first noun that
    is not the clause's own object. None if there is no such noun, or if a clause relates a noun to
    itself."""
    out: list[Clause] = []
    for clause in scene.clauses:
        others = (i for i in range(len(scene.nouns)) if i != clause.object)
        subject = clause.subject
        if subject is None and out:
            subject = out[-1].subject
        if subject is None or subject == clause.object:
            subject = next(others, None) if clause.subject is None else None
        out.append(Clause(subject, clause.words, clause.object))
    return out


def _without_modifiers(words: str, noun: Noun) -> str:
    """Drops trailing articles and modifiers that the noun has anyway: `on red` before a red sofa -> `on`."""
    parts = words.split()
    known = {part for modifier in noun.modifiers for part in modifier.split()}
    known |= {"a", "an", "the", "its", "his", "her", "their"}
    while len(parts) > 1 and parts[-1] in known:
        parts.pop()
    return " ".join(parts)


@lru_cache(maxsize=65536)
def predicate(words: str, many: bool) -> str:
    """A relation's words as a finite predicate: `riding` -> `is riding`, `on` -> `are on`; `chases` ->
    `chase` if the subject is plural."""
    head, _, rest = words.partition(" ")
    tail = f" {rest}" if rest else ""
    if head in _FINITE:
        return _FINITE[head][many] + tail
    if _is_third_person(head):
        # `lies` -> `lie`, `carries` -> `carry`
        several = head[:-1] if len(head) == 4 and head.endswith("ies") else singular(head)
        return (several if many else head) + tail
    return f"{'are' if many else 'is'} {words}"


def _is_third_person(head: str) -> bool:
    other = head.endswith(("ing", "ed", "ss")) or head in PREPOSITIONS or head in PARTICIPLES
    return head.endswith("s") and len(head) > 3 and not other


@lru_cache(maxsize=65536)
def reduced(words: str) -> str | None:
    """A relation's words as they follow their noun (`a man riding`, `a dog on`), or None for a finite verb,
    which needs `that`."""
    head = words.partition(" ")[0]
    return None if head in _FINITE or _is_third_person(head) else words
