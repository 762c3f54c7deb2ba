"""Which phrases a text or another model's tags hold: the comparison at the heart of the judge (closed loop of section 3.2).

Three matchers, by name. Texts are read as words: case folded, split at hyphens, possessive 's and articles dropped, numbers up to twelve
as digits; a word is known by its noun form (`dogs` -> `dog`) and its verb form (`rides`, `riding` -> `ride`). Marks are breaks.

`substring`  the phrase, case folded and with single blanks, is contained in the text. `cow` is in `cowboy`.

`lemma`, by what a phrase is (its objects are given beside it):
- An object's words stand side by side, by noun form. Words that together are another noun of WordNet's do not count as its parts: there
  is no `dog` in `hot dog` and none in `dog house`, but a `ball` in `tennis ball`, whose last word it is and whose kind it belongs to.
- An attribute `M O` (modifier M, object O) is there when M's words stand side by side and O begins after at most 2 other words, none of
  which is a function word or a mark, but that the first may be `and`, `or` or a comma (`red and white ball`, `red soccer ball`). Or when O
  is followed, after at most 2 other words, by a linking verb (`is`, `looks`, ...) and M after at most 2 other words, none of them a
  function word or a full stop, `and` and comma aside (`the ball is big and red`). Or when M is one participle and O is directly followed
  by a form of its verb (`woman smiling`, `the woman smiles`). M matches by noun or verb form.
- A relation `S P O` is there when P's words (by noun or verb form) follow each other with at most 1 other word between, S ends at
  most 5 other words before P, and O begins at most 3 other words after it, or 12 as a later member of a list whose members have at
  most 3 words each. No mark but commas stands between; between P and O no function word but `and` and `or` (`a dog sits on the green
  sofa` holds `dog on sofa`). `on top of`, `on the side of` and their like are read as `on`. An end that is left out is not asked for.
- Any other phrase: its words in order, each after at most 2 other words, by an attribute's rule for what may stand between.

`wordnet`    as `lemma`, and an object (the object of an attribute, the ends of a relation) is also any noun of the text whose first sense
is the same synset, or an ancestor or descendant of its first sense within 3 hypernym steps: `puppy` and `animal` for `dog`.

Tags are compared kind with kind, each phrase of the one with each of the other by the same rules; a bare attribute (`red`) is there when
it stands among a modifier's words (`red ball`). Of a text the first 1,000 words are read (`substring`: all). Pure functions; words and
parts of phrases are remembered, texts are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from . import wordnet
from .errors import unknown
from .match_text import MARK, OPEN, PREPOSITIONS, Key, Span, Text, read_piece
from .nouns import multiword, noun_form
from .sample import KINDS, Tags, split_attribute
from .words import plural

MATCHERS = ("substring", "lemma", "wordnet")
STEPS = 3  # hypernym steps that the `wordnet` matcher allows
_LINKING = frozenset("be look seem appear become turn remain stay".split())
_JOINERS = frozenset(("and", "or", ","))


@dataclass(frozen=True, slots=True)
class _Object:
    """An object as it is looked for: the noun forms of its words, and the rows of the meanings that it is used in."""

    words: tuple[str, ...]
    lemma: str
    row: int  # of its first sense; -1 without one

    def spans(self, text: Text, wide: bool) -> list[Span]:
        """(begin, end) of every place where the text holds it."""
        spans = text.wide if wide else text.narrow
        found = spans.get(self.lemma)
        if found is not None:
            return found
        words = self.words
        first = text.nouns.get(words[0])
        if first is None:
            found = []
        elif len(words) == 1:
            found = [(i, i + 1) for i in first]
        else:
            n, forms = len(words), [key.noun for key in text.keys]
            found = [(i, i + n) for i in first if tuple(forms[i : i + n]) == words]
        if found and text.compounds():
            found = [s for s in found if all(_counts(self.lemma, s, c) for c in text.compounds())]
        if wide and self.row >= 0:
            found += [(a, b) for a, b, row in _meanings(text) if _near(self.row, row) and (a, b) not in found]
        spans[self.lemma] = found
        return found


def _counts(lemma: str, span: Span, compound: tuple[int, int, str]) -> bool:
    """Whether a place counts beside a compound: outside it, all of it, or its last words and a kind of it."""
    begin, end, whole = compound
    if span[1] <= begin or end <= span[0] or (span[0] <= begin and end <= span[1]):
        return True
    return span[1] == end and _kind_of(whole, lemma)


@lru_cache(maxsize=32768)
def _kind_of(whole: str, lemma: str) -> bool:
    """Whether a compound (`tennis ball`) is a kind of its last word, in a sense that is its first or a twentieth of its use."""
    sense = wordnet.first_sense(whole)
    if sense is None:
        return False
    counts = wordnet.sense_counts(lemma, "n")
    above = wordnet.steps_up(sense.row)
    senses = wordnet.synsets(lemma, "n")
    return any(s.row in above for i, s in enumerate(senses) if i == 0 or (i < len(counts) and counts[i] * 20 > sum(counts)))


def _meanings(text: Text) -> list[tuple[int, int, int]]:
    """(begin, end, row of the first sense) of every noun of the text: compounds whole, other open words alone."""
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


@dataclass(slots=True, eq=False)
class Phrase:
    """A phrase ready to be looked for: `kind` is object, attribute, relation or words (any other phrase)."""

    text: str
    kind: Literal["object", "attribute", "relation", "words", "none"]
    subject: _Object | None = None
    middle: tuple[Key, ...] = ()
    object: _Object | None = None

    @property
    def action(self) -> bool:
        """Whether an attribute's modifier is one participle (`smiling`)."""
        return len(self.middle) == 1 and self.middle[0].verb != self.middle[0].low and self.middle[0].verb != self.middle[0].noun


@lru_cache(maxsize=32768)
def _keys(phrase: str) -> tuple[Key, ...]:
    return tuple(key for piece in phrase.split() for key in read_piece(piece))


@lru_cache(maxsize=32768)
def _object(phrase: str) -> _Object | None:
    words = tuple(k.noun for k in _keys(phrase) if k.kind != MARK)
    return _Object(words, " ".join(words), _sense(" ".join(words))) if words else None


@lru_cache(maxsize=32768)
def _ends(name: str) -> tuple[tuple[str, str, str], ...]:
    """(`dog `, ` dog`, object) in lower case, for an object's singular and plural: how phrases about it begin and end."""
    return tuple((f"{form} ".lower(), f" {form}".lower(), name) for form in dict.fromkeys((name, plural(name))))


@lru_cache(maxsize=64)
def _forms(objects: tuple[str, ...]) -> tuple[frozenset[str], list[tuple[str, str, str]]]:
    """The objects in lower case, and their `_ends`, the longest object first. Objects differ from row to row: few rows are remembered."""
    return frozenset(o.lower() for o in objects), [end for o in sorted(objects, key=len, reverse=True) for end in _ends(o)]


def compiled(phrase: str, objects: tuple[str, ...]) -> Phrase:
    """What a phrase is beside these objects, split as `sample.split_relation` and `sample.split_attribute` do. `wearing hat` is a relation
    without a subject (its middle holds a preposition, or a verb such as wearing, holding, riding), `red ball` an attribute."""
    low = phrase.lower()
    lows, forms = _forms(objects)
    if low in lows:
        bare = _object(phrase)
        return Phrase(phrase, "object", None, (), bare) if bare else Phrase(phrase, "none")
    subject = end = None
    start = stop = 0
    for prefix, suffix, name in forms if " " in low else ():
        if subject is None and low.startswith(prefix):
            subject, start = name, len(prefix)
        if end is None and low.endswith(suffix):
            end, stop = name, len(suffix)
    if subject is not None and (keys := _keys(phrase[start : len(phrase) - stop])):
        return Phrase(phrase, "relation", _object(subject), keys, _object(end) if end else None)
    keys = _keys(phrase[: len(phrase) - stop])
    if end is not None and keys:
        lone = any(k.low in PREPOSITIONS for k in keys)
        return Phrase(phrase, "relation" if lone else "attribute", None, keys, _object(end))
    keys = tuple(k for k in keys if k.kind != MARK)
    return Phrase(phrase, "words", None, keys) if keys else Phrase(phrase, "none")


def _passes(keys: Sequence[Key], begin: int, end: int) -> bool:
    """What may stand between a modifier and its noun: at most 2 open words, the first may be a joiner."""
    if not 0 <= end - begin <= 2:
        return False
    return begin == end or all(k.kind == OPEN or (i == 0 and k.low in _JOINERS) for i, k in enumerate(keys[begin:end]))


def _same(key: Key, word: Key) -> bool:
    """A word of a modifier or predicate against a word of the text: the same noun form or the same verb form."""
    return key.noun == word.noun or key.verb == word.verb


def _middle_spans(middle: Sequence[Key], text: Text, slack: int) -> list[Span]:
    """Where the middle's words follow each other with at most `slack` other words between two: (begin, end), the nearest ends."""
    keys = text.keys
    starts = text.places(middle[0])
    if len(middle) == 1:
        return [(i, i + 1) for i in starts]
    spans = []
    for begin in starts:
        at = begin + 1
        for word in middle[1:]:
            at = next((i + 1 for i in range(at, min(at + slack + 1, len(keys))) if _same(word, keys[i])), 0)
            if not at:
                break
        if at:
            spans.append((begin, at))
    return spans


def _attribute_in(phrase: Phrase, text: Text, wide: bool) -> bool:
    assert phrase.object is not None
    places = phrase.object.spans(text, wide)
    modifiers = _middle_spans(phrase.middle, text, 0) if places else []
    keys = text.keys
    for begin, end in places if modifiers else ():
        for first, past in modifiers:
            if _passes(keys, past, begin):
                return True
            if first == end and phrase.action:
                return True
            for verb in range(end, min(end + 3, first)):
                if keys[verb].verb in _LINKING and _predicative(keys, verb + 1, first):
                    return True
    return False


def _predicative(keys: Sequence[Key], begin: int, end: int) -> bool:
    """What may stand between a linking verb and the modifier: at most 2 words, open ones, `and`, comma."""
    return 0 <= end - begin <= 2 and all(k.kind == OPEN or k.low in _JOINERS for k in keys[begin:end])


def _relation_in(phrase: Phrase, text: Text, wide: bool) -> bool:
    subjects = phrase.subject.spans(text, wide) if phrase.subject is not None else None
    objects = phrase.object.spans(text, wide) if phrase.object is not None else None
    if subjects == [] or objects == []:
        return False
    keys = text.keys
    for begin, end in _middle_spans(phrase.middle, text, 1):
        for _, before in subjects if subjects is not None else ((0, begin),):
            if before == begin or (0 < begin - before <= 5 and _flows(keys[before:begin])):
                for after, _ in objects if objects is not None else ((end, 0),):
                    if after == end or (0 < after - end <= 12 and _leads(keys[end:after])):
                        return True
    return False


def _flows(between: Sequence[Key]) -> bool:
    """No mark but commas."""
    return all(key.kind != MARK or key.low == "," for key in between)


def _leads(between: Sequence[Key]) -> bool:
    """At most 3 open words, counted anew after `and`, `or` or a comma; nothing else."""
    since = 0
    for key in between:
        if key.low in _JOINERS:
            since = 0
        elif key.kind != OPEN or since == 3:
            return False
        else:
            since += 1
    return True


def _words_in(middle: Sequence[Key], keys: Sequence[Key], start: int = 0) -> bool:
    """The words in order, each by `_same`, with what `_passes` lets stand between; every beginning and every way is tried."""
    ends = {i + 1 for i in range(start, len(keys)) if _same(middle[0], keys[i])}
    for word in middle[1:]:
        ends = {i + 1 for e in ends for i in range(e, min(e + 3, len(keys))) if _same(word, keys[i]) and _passes(keys, e, i)}
    return bool(ends)


def _holds(text: Text, phrase: Phrase, wide: bool) -> bool:
    if phrase.kind == "object" and phrase.object is not None:
        return bool(phrase.object.spans(text, wide))
    if phrase.kind == "attribute":
        return _attribute_in(phrase, text, wide)
    if phrase.kind == "relation":
        return _relation_in(phrase, text, wide)
    return phrase.kind == "words" and _words_in(phrase.middle, text.keys)


def _squeezed(text: str) -> str:
    return " ".join(text.casefold().split())


def _check(matcher: str) -> None:
    if matcher not in MATCHERS:
        raise unknown("matcher", matcher, MATCHERS)


def in_text(phrases: Sequence[str], text: str, matcher: str = "lemma", objects: Sequence[str] = ()) -> list[bool]:
    """Which phrases a text holds, in their order. `objects`: the objects that attributes and relations among them are bound to.

    A phrase without a word (an emoji) is compared as `substring`. An unknown matcher is a UserError.
    """
    _check(matcher)
    if matcher == "substring":
        squeezed = _squeezed(text)
        return [_squeezed(p) in squeezed for p in phrases]
    read, bound, wide = Text(text), tuple(objects), matcher == "wordnet"
    ready = [compiled(p, bound) for p in phrases]
    return [_holds(read, p, wide) if p.kind != "none" else _squeezed(p.text) in _squeezed(text) for p in ready]


def in_tags(reference: Tags, found: Tags, matcher: str = "lemma") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(found, missed): the reference's phrases that another model's tags hold and those that they lack, objects first, kind with kind."""
    _check(matcher)
    have: list[str] = []
    missed: list[str] = []
    for kind in KINDS:
        phrases: tuple[str, ...] = getattr(reference, kind)
        for phrase, hit in zip(phrases, _in_kind(phrases, kind, found, matcher, reference.objects), strict=True):
            (have if hit else missed).append(phrase)
    return tuple(have), tuple(missed)


def _in_kind(phrases: Sequence[str], kind: str, found: Tags, matcher: str, objects: Sequence[str]) -> list[bool]:
    """Which phrases of one kind the tags of that kind hold: the tags are read as one text with full stops between them."""
    there: tuple[str, ...] = getattr(found, kind)
    if not phrases or not there:
        return [False] * len(phrases)
    if matcher == "substring":
        squeezed = [_squeezed(t) for t in there]
        return [any(_squeezed(p) in t for t in squeezed) for p in phrases]
    hits = in_text(phrases, " . ".join(there), matcher, (*objects, *phrases) if kind == "objects" else objects)
    if kind == "attributes":
        modifiers: str | None = None
        for i, phrase in enumerate(phrases):
            if " " not in phrase.strip():
                modifiers = " . ".join(split_attribute(t, found.objects)[0] for t in there) if modifiers is None else modifiers
                hits[i] = in_text((phrase,), modifiers, matcher)[0]
    return hits


def violations_in_text(removed: Iterable[str], text: str, matcher: str = "lemma", objects: Sequence[str] = ()) -> tuple[str, ...]:
    """The removed phrases that a text holds after all. `objects` as in `in_text`."""
    gone = tuple(removed)
    return tuple(p for p, hit in zip(gone, in_text(gone, text, matcher, _bound(gone, objects)), strict=True) if hit)


def violations_in_tags(removed: Iterable[str], found: Tags, matcher: str = "lemma", objects: Sequence[str] = ()) -> tuple[str, ...]:
    """The removed phrases that another model's tags hold after all, of whatever kind they were."""
    _check(matcher)
    gone = tuple(removed)
    bound = _bound(gone, objects)
    hits = [_in_kind(gone, kind, found, matcher, bound) for kind in KINDS]
    return tuple(p for i, p in enumerate(gone) if any(h[i] for h in hits))


def _bound(phrases: Iterable[str], objects: Sequence[str]) -> tuple[str, ...]:
    """The objects given, and the nouns that phrases consist of, end with, or, as relations, begin with: what removed phrases hang on."""
    found = list(objects)
    for phrase in phrases:
        words = phrase.lower().split()
        found += [tail for i in range(len(words)) if (tail := " ".join(words[i:])) and _is_noun(tail)][:1]
        if any(word in PREPOSITIONS for word in words[1:-1]):
            found += [head for i in range(len(words) - 1, 0, -1) if _is_noun(head := " ".join(words[:i]))][:1]
    return tuple(dict.fromkeys(found))


def _is_noun(phrase: str) -> bool:
    return (multiword(phrase, True) if " " in phrase else noun_form(phrase)) is not None
