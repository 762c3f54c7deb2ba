"""What the caption tagger knows of single words: closed classes as lists, everything else from the WordNet
table, once a word.

A word's entry (`Word`) says what it can be; `wordnet_tokens.py` decides what it is in its place.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from ....lang import wordnet
from ....lang.nouns import COLOURS, MODERN, multiword_starts, noun_form
from .lists import (
    ADVERBS,
    AUXILIARIES,
    BE,
    COORDINATORS,
    DETERMINERS,
    HARDLY_THINGS,
    LOOSE_PREPOSITIONS,
    META,
    NOUN_ING,
    NUMBERS,
    PICTURES,
    PREPOSITIONS,
    PRONOUNS,
    SHORT_NOUNS,
    SUBORDINATORS,
    VISIBLE_ANYWAY,
    VISIBLE_FILES,
    VISIBLE_GROUPS,
)

_NO_WORDS: set[str] = set()


class Word:
    """One word form: its closed class (`kind`, '' for open words) and what it can be as noun, verb and
    adjective."""

    __slots__ = tuple(
        "adj adj_count form is_name is_thing kind low meta noun noun_count noun_ing plural seconds starts "
        "verb verb_count".split()
    )

    def __init__(self, low: str) -> None:
        self.low = low
        self.kind = _kind(low)
        plain = _ascii(low)
        self.noun = None if self.kind else noun_form(plain)
        if self.noun is not None and _kind(self.noun):
            self.noun = None  # `ins`, `ats`: plurals of function words
        self.is_name = self.noun is not None and any(
            s.is_instance for s in wordnet.synsets(self.noun, "n")[:1]
        )
        self.meta = low in META or (self.noun in META if self.noun else False)
        self.plural = self.noun is not None and self.noun != plain and not plain.endswith(("'s", "'"))
        self.verb = None if self.kind else wordnet.morphy(plain, "v")
        self.form = _form(plain, self.verb)
        self.adj = not self.kind and (
            wordnet.morphy(plain, "a") is not None or _hyphenated_adjective(plain) or plain in COLOURS
        )
        self.is_thing = self.noun is not None and not self.meta and is_thing(self.noun)
        self.noun_count = wordnet.count(self.noun, "n") if self.noun else 0
        self.verb_count = wordnet.count(self.verb, "v") if self.verb else 0
        self.adj_count = wordnet.count(plain, "a") if self.adj else 0
        self.noun_ing = self.form == "ing" and (plain in NOUN_ING or self.meta)
        self.starts, self.seconds = (
            (0, _NO_WORDS) if self.kind else multiword_starts().get(plain, (0, _NO_WORDS))
        )


@lru_cache(maxsize=32768)
def look_up(low: str) -> Word:
    """The entry of a word in lower case; `.` and `,` are their own classes."""
    return Word(low)


def _ascii(low: str) -> str:
    return low if low.isascii() else unicodedata.normalize("NFKD", low).encode("ascii", "ignore").decode()


def _kind(low: str) -> str:
    """D determiner or possessor, # number, P preposition, L loose preposition, T to, C and/or, S while/as, B
    be, M auxiliary, R pronoun, X other; '' for open words."""
    if low in NUMBERS:
        return "#"
    if low in (".", ","):
        return low
    for kind, members in _KINDS:
        if low in members:
            return kind
    if low.endswith(("'s", "s'")):
        return "D"
    if low == "to":
        return "T"
    if len(low) < 3 and low not in SHORT_NOUNS and low not in META:
        return "X"
    return ""


_KINDS = (
  ("D", DETERMINERS), ("B", BE), ("C", COORDINATORS), ("M", AUXILIARIES), ("R", PRONOUNS), ("P",
  PREPOSITIONS), ("L", LOOSE_PREPOSITIONS),
  ("S", SUBORDINATORS), ("X", ADVERBS),
)  # fmt: skip


def _form(plain: str, verb: str | None) -> str:
    """The form of a verb: `base`, `s`, `ing`, or `ed` (past or participle); '' when it is no verb."""
    if verb is None:
        return ""
    if plain == verb:
        return "base"
    if plain.endswith("ing"):
        return "ing"
    return "s" if plain.endswith("s") and not plain.endswith("ss") else "ed"


def _hyphenated_adjective(plain: str) -> bool:
    """`snow-capped`, `hand-drawn`, `black-and-white`: the last part is a participle or an adjective."""
    if "-" not in plain:
        return False
    last = plain.rpartition("-")[2]
    verb = wordnet.morphy(last, "v")
    return (verb is not None and _form(last, verb) in ("ed", "ing")) or (
        wordnet.morphy(last, "a") is not None and wordnet.count(last, "a") > 0
    )


@lru_cache(maxsize=32768)
def is_thing(lemma: str) -> bool:
    """Whether a noun names something that a picture can show: by the lexicographer file of its first sense
    that is not a name, and for names only landmarks (artifacts and natural objects), with lists for what the
    files cannot tell."""
    last = lemma.rpartition(" ")[2]
    if lemma in META or lemma in HARDLY_THINGS or last in PICTURES:
        return False
    if lemma in VISIBLE_ANYWAY or lemma in VISIBLE_GROUPS or lemma in MODERN:
        return True
    sense = wordnet.first_sense(lemma)
    if sense is None:
        return False
    file = sense.lexfile.removeprefix("noun.")
    if " " in lemma and any(
        s.is_instance and s.lexfile in ("noun.artifact", "noun.object") for s in wordnet.synsets(lemma, "n")
    ):
        return True
    if sense.is_instance or (file == "phenomenon" and last in HARDLY_THINGS):
        return False
    if file in ("communication", "group") and last != lemma:
        return last in VISIBLE_ANYWAY or last in VISIBLE_GROUPS or last == "light"
    return file in VISIBLE_FILES


def display(lemma: str) -> str:
    """The form in which an object is written: lower case, a name as WordNet writes it (`Eiffel Tower`)."""
    if " " in lemma:
        for sense in wordnet.synsets(lemma, "n"):
            if sense.is_instance:
                return next((w for w in sense.words if w.lower() == lemma), lemma)
    return lemma


@lru_cache(maxsize=32768)
def progressive(verb: str) -> str:
    """`sit` -> `sitting`, `ride` -> `riding`: the spelling that WordNet's rules and exceptions lead back to
    the verb."""
    head, _, tail = verb.partition(" ")
    stem = (
        head[:-2] + "y"
        if head.endswith("ie")
        else head[:-1]
        if head.endswith("e") and not head.endswith(("ee", "oe", "ye"))
        else head
    )
    doubled = head + head[-1] + "ing"
    form = doubled if wordnet.morphy(doubled, "v") == head and head[-1] not in "aeiouy" else stem + "ing"
    return f"{form} {tail}" if tail else form
