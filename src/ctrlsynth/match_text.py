"""A text, or a phrase, read for comparing: words by their noun and verb forms. By what rules they match: `matching.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from . import wordnet
from .nouns import COLOURS, KEEP_APART, multiword, multiword_starts, noun_form
from .words import singular

_WORD = re.compile(r"[^\W_]+(?:'(?!s\b)[^\W_]+)*|[^\w\s'’`\"-]")
MAX_WORDS = 1_000  # of a text that are read: no caption is longer, and what loops must not take long
_LONGEST = 48  # characters of a run without blanks that are remembered
_LONGEST_READ = 1_000  # and that are read
_REMEMBERED = 65_536
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {w: str(i) for i, w in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())}
PREPOSITIONS = frozenset(
    "on in at under over above below behind beside near by with of into onto through across along around against between among inside "
    "outside toward towards down up atop beneath underneath off upon amid past from to for without wearing holding riding carrying".split()
)
_FUNCTION = (PREPOSITIONS - frozenset("wearing holding riding carrying".split())) | frozenset(
    "and or but nor is are was were be been being am has have had do does did can could will would shall should may might must not no "
    "i you he she it we they me him us them who whom which that this these those while as when where because if than then there".split()
)
_BE = frozenset("is are was were be been being am".split())
_AUXILIARIES = frozenset(
    "is are was were am has have had do does did can could will would shall should may might must".split()
)  # the finite ones
_CLAUSE_JOINERS = frozenset((",", "and", "or", "but", "while", "as", "when", "where", "because"))
RELATIVE = frozenset(("who", "which", "that"))
_PLURALS_FIRST = frozenset("leaves drops hooks sprinkles scrubs flies".split())  # rather nouns in captions, though verbs in prose
DESCRIBING = COLOURS | KEEP_APART | _NUMBERS.keys() | set(_NUMBERS.values()) | set("full half empty bright dark".split())
OPEN, FUNCTION, MARK = 0, 1, 2
Span = tuple[int, int]


@dataclass(slots=True, eq=False)
class Key:
    """A word as it is compared: noun form, verb form, class, and the noun compounds that may begin with it."""

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
    noun = _NUMBERS.get(low) or own or singular(low)
    verb = wordnet.morphy(low, "v") or noun
    longest, seconds = multiword_starts().get(low, (0, set()))
    return Key(low, noun, verb, OPEN, start, longest, frozenset(seconds), finite(low), own is not None and low not in DESCRIBING)


def finite(low: str) -> bool:
    """Whether a word in -s is a verb (`sits`): one that WordNet's texts use at least twice as often as the noun (`trees`)."""
    verb = wordnet.morphy(low, "v") if low.endswith("s") and low not in _PLURALS_FIRST else None
    if verb is None or verb == low:
        return False
    often = wordnet.count(verb, "v")
    return often >= 5 and often >= 2 * wordnet.count(noun_form(low) or verb, "n")


class _Pieces(dict[str, tuple[Key, ...]]):
    """What stands between two blanks -> its keys, without articles. Read once: words recur; a dictionary's look-up is the cheapest."""

    def __missing__(self, piece: str) -> tuple[Key, ...]:
        plain = piece[:_LONGEST_READ].lower().replace("’", "'")
        keys = tuple(_key(w) for w in _WORD.findall(plain) if w not in _ARTICLES)
        if len(piece) <= _LONGEST:
            if len(self) >= _REMEMBERED:  # a bound on memory: the next texts fill it again
                self.clear()
            self[piece] = keys
        return keys


PIECES = _Pieces()
_PARTS = frozenset("top middle center centre edge bottom side".split())


def _without_parts(keys: list[Key]) -> list[Key]:
    """`on the side of the road` as `on road`; `left side of` stays."""
    gone: set[int] = set()
    for i, key in enumerate(keys):
        if key.low == "of" and i > 1 and keys[i - 1].low in _PARTS and keys[i - 2].kind == FUNCTION and keys[i - 2].low != "and":
            gone |= {i - 1, i}
    return [key for i, key in enumerate(keys) if i not in gone] if gone else keys


class Text:
    """A text read for comparing: its keys in order, their noun forms, and what was found so far."""

    __slots__ = ("_breaks", "_compounds", "keys", "meanings", "narrow", "nouns", "present", "wide")

    def __init__(self, text: str) -> None:
        keys: list[Key] = []
        for piece in text.split(None, MAX_WORDS)[:MAX_WORDS]:
            keys += PIECES[piece]
        if "of" in text or "OF" in text:
            keys = _without_parts(keys)
        self.keys = keys
        self.nouns = [key.noun for key in keys]
        self.present = set(self.nouns)
        self._compounds: list[tuple[int, int, str]] | None = None
        self._breaks: list[int] | None = None
        self.meanings: list[tuple[int, int, int]] | None = None  # (begin, end, row of the first sense), for the `wordnet` matcher
        self.narrow: dict[str, list[Span]] = {}  # lemma of an object -> where it was found, by the `lemma` matcher
        self.wide: dict[str, list[Span]] = {}  # and by the `wordnet` matcher

    def compounds(self) -> list[tuple[int, int, str]]:
        """(begin, end, lemma) of the nouns of several words, left to right, the longest first, without overlap."""
        if self._compounds is None:
            self._compounds = found = []
            keys, past = self.keys, 0
            for i, (key, after) in enumerate(pairwise(keys)):
                if after.start in key.seconds and i >= past:
                    for count in range(min(key.longest, len(keys) - i), 1, -1):
                        lemma = multiword(" ".join([k.low for k in keys[i : i + count]]), False)
                        if lemma is not None:
                            found.append((i, i + count, lemma))
                            past = i + count
                            break
        return self._compounds

    def broken(self, begin: int, end: int) -> bool:
        """Whether a new clause with a subject of its own begins between two places."""
        if self._breaks is None:
            self._breaks = _breaks(self.keys)
        return bool(self._breaks) and any(begin <= at < end for at in self._breaks)


def _breaks(keys: list[Key]) -> list[int]:
    """Where new clauses begin: at a comma or conjunction between two finite verbs of a sentence, if a noun stands after it and before
    the second verb. Verbs of relative clauses (`that is`) do not count."""
    if sum([key.finite for key in keys]) < 2:
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
