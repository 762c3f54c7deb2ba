"""Reads a text or a phrase for comparison: words by their noun and verb forms. The rules are in
`rules.py`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, pairwise
from typing import TypeVar

from .. import wordnet
from ..nouns import COLOURS, KEEP_APART, multiword, multiword_starts, noun_form
from ..words import ARTICLES, LINKING, NUMBERS, singular

_V = TypeVar("_V")
_WORD = re.compile(r"[^\W_]+(?:'(?!s\b)[^\W_]+)*|[^\w\s'’`\"-]")
MAX_WORDS = 1_000  # of a text that are read: no caption is longer, and what loops must not take long
_LONGEST = 48  # characters of a run without blanks that are remembered
_LONGEST_READ = 1_000  # and that are read
_REMEMBERED = 65_536
_DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)}
_FUNCTION = (LINKING - frozenset("wearing holding riding carrying".split())) | frozenset(
    "and or but nor is are was were be been being am has have had do does did can could will would shall "
    "should may might must not no "
    "i you he she it we they me him us them who whom which that this these those while as when where "
    "because if than then there".split()
)
_BE = frozenset("is are was were be been being am".split())
_AUXILIARIES = frozenset(
    "is are was were am has have had do does did can could will would shall should may might must".split()
)  # the finite ones
_CLAUSE_JOINERS = frozenset((",", "and", "or", "but", "while", "as", "when", "where", "because"))
RELATIVE = frozenset(("who", "which", "that"))
_PLURALS_FIRST = frozenset(
    "leaves drops hooks sprinkles scrubs flies".split()
)  # rather nouns in captions, though verbs in prose
DESCRIBING = (
    COLOURS | KEEP_APART | _DIGITS.keys() | set(_DIGITS.values()) | set("full half empty bright dark".split())
)
OPEN, FUNCTION, MARK = 0, 1, 2
Span = tuple[int, int]


@dataclass(slots=True, eq=False)
class Key:
    """A word as it is compared: noun form, verb form, class, and the noun compounds that may begin with
    it."""

    low: str
    noun: str
    verb: str
    kind: int
    start: str  # the first three letters
    longest: int = 0  # words of the longest compound that begins with it
    seconds: frozenset[str] = frozenset()  # how its compounds' second words begin
    finite: bool = False  # a verb that a clause has one of: `is`, `can`, `sits`
    names: bool = False  # a noun that can be the subject of a clause


@lru_cache(maxsize=32768)
def _key(low: str) -> Key:
    start = low[:3]
    if not low[0].isalnum():
        return Key(low, low, low, MARK, start)
    if low in _FUNCTION:
        return Key(low, low, "be" if low in _BE else low, FUNCTION, start, finite=low in _AUXILIARIES)
    own = noun_form(low)
    noun = _DIGITS.get(low) or own or singular(low)
    verb = wordnet.morphy(low, "v") or noun
    longest, seconds = multiword_starts().get(low, (0, set()))
    return Key(
        low,
        noun,
        verb,
        OPEN,
        start,
        longest,
        frozenset(seconds),
        finite(low),
        own is not None and low not in DESCRIBING,
    )


def finite(low: str) -> bool:
    """Whether a word in -s is a verb (`sits`): one that WordNet's texts use at least twice as often as the
    noun (`trees`)."""
    verb = wordnet.morphy(low, "v") if low.endswith("s") and low not in _PLURALS_FIRST else None
    if verb is None or verb == low:
        return False
    often = wordnet.count(verb, "v")
    return often >= 5 and often >= 2 * wordnet.count(noun_form(low) or verb, "n")


class Memo(dict[str, _V]):
    """Cache of what `make` returns for short strings: a dictionary takes half the time of `lru_cache`."""

    def __init__(self, make: Callable[[str], _V]) -> None:
        self._make = make

    def __missing__(self, text: str) -> _V:
        made = self._make(text)
        if len(text) <= _LONGEST:
            if len(self) >= _REMEMBERED:  # a bound on memory: the next texts fill it again
                self.clear()
            self[text] = made
        return made


def _read(piece: str) -> tuple[Key, ...]:
    plain = piece[:_LONGEST_READ].lower().replace("’", "'")
    return tuple(_key(w) for w in _WORD.findall(plain) if w not in ARTICLES)


PIECES = Memo(_read)
"""The text between two blanks -> its keys, without articles."""
_PARTS = frozenset("top middle center centre edge bottom side".split())


def _parts(keys: list[Key], nouns: list[str]) -> set[int]:
    """Where `side of` and its like stand that are left out: `on the side of the road` is read as `on road`;
    `left side of` stays."""
    gone: set[int] = set()
    for i in [i for i, noun in enumerate(nouns) if noun == "of"]:
        if i > 1 and keys[i - 1].low in _PARTS and keys[i - 2].kind == FUNCTION and keys[i - 2].low != "and":
            gone |= {i - 1, i}
    return gone


class Text:
    """A text read for comparing: its keys in order, their noun forms, and what was found so far."""

    __slots__ = ("_breaks", "keys", "known_compounds", "last", "meanings", "narrow", "nouns", "wide")

    def __init__(self, text: str) -> None:
        keys = list(chain.from_iterable(map(PIECES.__getitem__, text.split(None, MAX_WORDS)[:MAX_WORDS])))
        nouns = [key.noun for key in keys]
        if "of" in nouns and (gone := _parts(keys, nouns)):
            keys = [key for i, key in enumerate(keys) if i not in gone]
            nouns = [key.noun for key in keys]
        self.keys, self.nouns = keys, nouns
        self.last = dict(zip(nouns, count(), strict=False))  # noun form -> its last position
        self.known_compounds: list[tuple[int, int, str]] | None = None
        self._breaks: list[int] | None = None
        self.meanings: list[tuple[int, int, int]] | None = (
            None  # (begin, end, row of the first sense), for the `wordnet` matcher
        )
        self.narrow: dict[
            str, list[Span]
        ] = {}  # lemma of an object -> where it was found, by the `lemma` matcher
        self.wide: dict[str, list[Span]] = {}  # and by the `wordnet` matcher

    def compounds(self) -> list[tuple[int, int, str]]:
        """(begin, end, lemma) of the nouns of several words, left to right, the longest first, without
        overlap."""
        if self.known_compounds is None:
            self.known_compounds = found = []
            keys, past = self.keys, 0
            for i in [i for i, (key, after) in enumerate(pairwise(keys)) if after.start in key.seconds]:
                if i >= past:
                    for size in range(min(keys[i].longest, len(keys) - i), 1, -1):
                        lemma = multiword(" ".join([k.low for k in keys[i : i + size]]), False)
                        if lemma is not None:
                            found.append((i, i + size, lemma))
                            past = i + size
                            break
        return self.known_compounds

    def broken(self, begin: int, end: int) -> bool:
        """Whether a new clause with a subject of its own begins between two places."""
        if self._breaks is None:
            self._breaks = _breaks(self.keys)
        return bool(self._breaks) and any(begin <= at < end for at in self._breaks)


def _breaks(keys: list[Key]) -> list[int]:
    """Where new clauses begin: at a comma or conjunction between two finite verbs of a sentence, if a noun
    stands after it and before the second verb. Verbs of relative clauses (`that is`) do not count."""
    if [key.finite for key in keys].count(True) < 2:
        return []
    breaks = []
    joiner, verb, noun = -1, False, False
    for i, key in enumerate(keys):
        if key.low in _CLAUSE_JOINERS:
            if joiner < 0 or noun:
                joiner, noun = i, False
        elif key.kind == MARK:
            joiner, verb, noun = -1, False, False
        elif key.finite:
            if i and keys[i - 1].low in RELATIVE:
                continue
            if joiner >= 0 and noun and verb:
                breaks.append(joiner)
            joiner, verb, noun = -1, True, False
        elif key.names:
            noun = True
    return breaks
