"""A text, or a phrase, read for comparing: words by their noun and verb forms. By what rules they match: `matching.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from . import wordnet
from .nouns import multiword, multiword_starts, noun_form
from .words import singular

_WORD = re.compile(r"[^\W_]+(?:'(?!s\b)[^\W_]+)*|[^\w\s'’`\"-]")
MAX_WORDS = 1_000  # of a text that are read: no caption is longer, and what loops must not take long
_LONGEST = 48  # characters of a run without blanks that are remembered
_LONGEST_READ = 1_000  # and that are read
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
_BE = frozenset("is are was were been being am".split())
OPEN, FUNCTION, MARK = 0, 1, 2
Span = tuple[int, int]


@dataclass(slots=True, eq=False)
class Key:
    """A word as it is compared: noun form, verb form, class, and the noun compounds that may begin with it."""

    low: str
    noun: str
    verb: str
    kind: int
    longest: int
    seconds: set[str]


@lru_cache(maxsize=32768)
def _key(low: str) -> Key:
    if not low[0].isalnum():
        return Key(low, low, low, MARK, 0, set())
    if low in _FUNCTION:
        return Key(low, low, "be" if low in _BE else low, FUNCTION, 0, set())
    noun = _NUMBERS.get(low) or noun_form(low) or singular(low)
    longest, seconds = multiword_starts().get(low, (0, set()))
    return Key(low, noun, wordnet.morphy(low, "v") or noun, OPEN, longest, seconds)


@lru_cache(maxsize=32768)
def read_piece(piece: str) -> tuple[Key, ...]:
    """The keys of what stands between two blanks, without articles."""
    return tuple(_key(w) for w in _WORD.findall(piece.lower().replace("’", "'")) if w not in _ARTICLES)


_PARTS = frozenset("top middle center centre edge bottom side".split())


def _without_parts(keys: list[Key]) -> list[Key]:
    """`on the side of the road` as `on road`; `left side of` stays."""
    gone = {
        i
        for i, key in enumerate(keys[:-1])
        if key.low in _PARTS and keys[i + 1].low == "of" and i and keys[i - 1].kind == FUNCTION and keys[i - 1].low != "and"
    }
    return [key for i, key in enumerate(keys) if i not in gone and i - 1 not in gone] if gone else keys


class Text:
    """A text read for comparing: its keys in order, where each noun form and verb form stands, and what was found so far."""

    __slots__ = ("_compounds", "_verbs", "keys", "meanings", "narrow", "nouns", "wide")

    def __init__(self, text: str) -> None:
        self.keys: list[Key] = []
        for piece in text.split(None, MAX_WORDS)[:MAX_WORDS]:
            self.keys += read_piece(piece) if len(piece) <= _LONGEST else read_piece.__wrapped__(piece[:_LONGEST_READ])
        if "of" in text or "OF" in text:
            self.keys = _without_parts(self.keys)
        self.nouns: dict[str, list[int]] = {}
        for i, key in enumerate(self.keys):
            self.nouns.setdefault(key.noun, []).append(i)
        self._verbs: dict[str, list[int]] | None = None
        self._compounds: list[tuple[int, int, str]] | None = None
        self.meanings: list[tuple[int, int, int]] | None = None  # (begin, end, row of the first sense), for the `wordnet` matcher
        self.narrow: dict[str, list[Span]] = {}  # lemma of an object -> where it was found, by the `lemma` matcher
        self.wide: dict[str, list[Span]] = {}  # and by the `wordnet` matcher

    def places(self, key: Key) -> list[int]:
        """Where a word of a modifier or predicate stands, by noun form or by verb form."""
        if self._verbs is None:
            self._verbs = {}
            for i, word in enumerate(self.keys):
                self._verbs.setdefault(word.verb, []).append(i)
        found = self.nouns.get(key.noun)
        verbal = self._verbs.get(key.verb)
        if found is None or found == verbal:
            return verbal or []
        return found if verbal is None else sorted({*verbal, *found})

    def compounds(self) -> list[tuple[int, int, str]]:
        """(begin, end, lemma) of the nouns of several words, left to right, the longest first, without overlap."""
        if self._compounds is None:
            self._compounds = found = []
            keys, i = self.keys, 0
            while i < len(keys) - 1:
                step = 1
                if keys[i].longest > 1 and keys[i + 1].low[:3] in keys[i].seconds:
                    for count in range(min(keys[i].longest, len(keys) - i), 1, -1):
                        lemma = multiword(" ".join(k.low for k in keys[i : i + count]), False)
                        if lemma is not None:
                            found.append((i, i + count, lemma))
                            step = count
                            break
                i += step
        return self._compounds
