"""Prepares phrases for matching and finds their objects in a text. The rules are in `rules.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from .. import wordnet
from ..words import LINKING, plural
from .text import DESCRIBING, MARK, OPEN, PIECES, Key, Memo, Span, Text

STEPS = 3  # hypernym steps that the `wordnet` matcher allows
_RARE = 5  # a word that WordNet's texts use less often: which of its senses are common is not known


@dataclass(frozen=True, slots=True)
class Thing:
    """An object prepared for matching: the noun forms of its words, and the row of its first sense."""

    words: tuple[str, ...]
    lemma: str
    row: int  # -1 without one


@dataclass(slots=True, eq=False)
class Phrase:
    """A phrase prepared for matching: `kind` is object, attribute, relation or words (any other phrase)."""

    text: str
    kind: Literal["object", "attribute", "relation", "words", "none"]
    subject: Thing | None = None
    middle: tuple[Key, ...] = ()
    object: Thing | None = None

    @property
    def action(self) -> bool:
        """Whether an attribute's modifier is one participle (`smiling`)."""
        return (
            len(self.middle) == 1
            and self.middle[0].verb != self.middle[0].low
            and self.middle[0].verb != self.middle[0].noun
        )


@dataclass(slots=True, eq=False)
class Names:
    """A row's objects: as they are, and by every form, singular or plural, in which a phrase may begin or end
    with them."""

    own: frozenset[str]
    forms: dict[str, str]


def names(objects: Sequence[str]) -> Names:
    """The objects that a row's phrases are bound to. What is one's name and another's plural means the
    first."""
    own = frozenset(objects)
    forms: dict[str, str] = {}
    for name in objects:
        one, many = _FORMS[name]
        forms[one] = name
        if many not in forms:
            forms[many] = name
    return Names(own, forms)


_FORMS: Memo[tuple[str, str]] = Memo(lambda name: (name.lower(), plural(name).lower()))


def compiled(phrase: str, bound: Names) -> Phrase:
    """Prepares a phrase that is bound to these objects, split as by `split_relation` and `split_attribute`.
    `wearing hat` is a relation without a subject (its middle holds a preposition, or a verb such as
    wearing, holding, riding), `red ball` an attribute."""
    if phrase in bound.own:
        return _BARE[phrase]
    forms = bound.forms
    low, heads, tails, known = _CUTS[phrase]
    if low in forms and _FORMS[forms[low]][0] == low:
        return _BARE[phrase]
    subject = end = None
    for head in heads:  # plain loops: this runs once per phrase and text
        if head in forms:
            subject = forms[head]
            break
    for tail in tails:
        if tail in forms:
            end = forms[tail]
            break
    made = known.get((subject, end))
    if made is None:
        made = known[subject, end] = _split(phrase, subject, end)
    return made


def _cuts(
    phrase: str,
) -> tuple[str, tuple[str, ...], tuple[str, ...], dict[tuple[str | None, str | None], Phrase]]:
    """The phrase in lower case, what comes before and after each of its blanks, the longest first, and
    a place for what it is between two objects: one or two entries, since few objects can be its ends."""
    low = phrase.lower()
    blanks = [i for i, c in enumerate(low) if c == " "]
    return low, tuple(low[:i] for i in reversed(blanks)), tuple(low[i + 1 :] for i in blanks), {}


_CUTS = Memo(_cuts)


def _bare(phrase: str) -> Phrase:
    found = thing(phrase)
    return Phrase(phrase, "object", None, (), found) if found else Phrase(phrase, "none")


_BARE = Memo(_bare)


def _split(phrase: str, subject: str | None, end: str | None) -> Phrase:
    """A phrase that begins with the one object and ends with the other. An object without a word (`a`) is no
    end."""
    subject, end = (name if name is not None and thing(name) else None for name in (subject, end))
    low = phrase.lower()
    start = (
        next((len(form) + 1 for form in _FORMS[subject] if low.startswith(form + " ")), 0)
        if subject is not None
        else 0
    )
    stop = (
        next((len(form) + 1 for form in _FORMS[end] if low.endswith(" " + form)), 0) if end is not None else 0
    )
    if subject is not None and (keys := _keys(phrase[start : len(phrase) - stop])):
        return Phrase(phrase, "relation", thing(subject), keys, thing(end) if end else None)
    keys = _keys(phrase[: len(phrase) - stop])
    if end is not None and keys:
        lone = any(k.low in LINKING for k in keys)
        return Phrase(phrase, "relation" if lone else "attribute", None, keys, thing(end))
    keys = tuple(k for k in keys if k.kind != MARK)
    return Phrase(phrase, "words", None, keys) if keys else Phrase(phrase, "none")


def _keys(phrase: str) -> tuple[Key, ...]:
    return tuple(key for piece in phrase.split() for key in PIECES[piece])


@lru_cache(maxsize=32768)
def thing(phrase: str) -> Thing | None:
    """An object prepared for matching; None for one without a word."""
    words = tuple(k.noun for k in _keys(phrase) if k.kind != MARK)
    return Thing(words, " ".join(words), _sense(" ".join(words))) if words else None


def places(thing: Thing, text: Text, wide: bool, own: Sequence[Phrase]) -> list[Span]:
    """(begin, end) of every place where a text holds an object. `own`: the row's phrases, whose words are no
    compounds to it."""
    spans = text.wide if wide else text.narrow
    found = spans.get(thing.lemma)
    if found is not None:
        return found
    words, nouns = thing.words, text.nouns
    first = words[0]
    at = text.last.get(first)
    if at is None:
        spans[thing.lemma] = found = []
        if not wide:
            return found
    elif len(words) > 1:
        n = len(words)
        found = [
            (i, i + n) for i, noun in enumerate(nouns) if noun == first and tuple(nouns[i : i + n]) == words
        ]
    elif len(text.last) == len(nouns) or nouns.count(first) == 1:
        found = [(at, at + 1)]
    else:
        found = [(i, i + 1) for i, noun in enumerate(nouns) if noun == first]
    compounds = text.known_compounds
    if found and (text.compounds() if compounds is None else compounds):
        found = [span for span in found if all(_counts(thing, span, c, text, own) for c in text.compounds())]
    if wide and thing.row >= 0:
        found += [(a, b) for a, b, row in _meanings(text) if _near(thing.row, row) and (a, b) not in found]
    spans[thing.lemma] = found
    return found


def _counts(
    thing: Thing, span: Span, compound: tuple[int, int, str], text: Text, own: Sequence[Phrase]
) -> bool:
    """Whether a place counts beside a compound: outside it, all of it, what it describes by its first word,
    its last words and a kind of it, or bound by the row itself to the compound's other words."""
    begin, end, whole = compound
    return (
        span[1] <= begin
        or end <= span[0]
        or (span[0] <= begin and end <= span[1])
        or (span[0] == begin + 1 and text.keys[begin].low in DESCRIBING)
        or (span[1] == end and _kind_of(whole, thing.lemma))
        or any(
            p.object == thing
            and _side_by_side(text.nouns[begin:end], [*(k.noun for k in p.middle), *thing.words])
            for p in own
            if p.middle
        )
    )


def _side_by_side(part: list[str], whole: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


@lru_cache(maxsize=32768)
def _kind_of(whole: str, lemma: str) -> bool:
    """Whether a compound (`tennis ball`) is a kind of its last word, in a sense that is its first or a
    twentieth of its use; in any sense of a word whose use is not known."""
    sense = wordnet.first_sense(whole)
    if sense is None:
        return False
    counts, above = wordnet.sense_counts(lemma, "n"), wordnet.steps_up(sense.row)
    return any(
        s.row in above
        for i, s in enumerate(wordnet.synsets(lemma, "n"))
        if i == 0 or sum(counts) < _RARE or (i < len(counts) and counts[i] * 20 > sum(counts))
    )


def _meanings(text: Text) -> list[tuple[int, int, int]]:
    """(begin, end, row of the first sense) of every noun of the text: compounds whole, other open words
    alone."""
    if text.meanings is None:
        compounds = text.compounds()
        inside = {i for a, b, _ in compounds for i in range(a, b)}
        alone = [(i, i + 1, k.noun) for i, k in enumerate(text.keys) if k.kind == OPEN and i not in inside]
        text.meanings = [(a, b, row) for a, b, noun in compounds + alone if (row := _sense(noun)) >= 0]
    return text.meanings


@lru_cache(maxsize=32768)
def _sense(noun: str) -> int:
    sense = wordnet.first_sense(noun) if wordnet.morphy(noun, "n") is not None else None
    return sense.row if sense is not None else -1


@lru_cache(maxsize=32768)
def _near(a: int, b: int) -> bool:
    """The same meaning, or one above the other by at most `STEPS`."""
    return wordnet.steps_up(a).get(b, STEPS + 1) <= STEPS or wordnet.steps_up(b).get(a, STEPS + 1) <= STEPS
