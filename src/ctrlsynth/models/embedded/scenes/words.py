"""The words that `scenes` (2c) reads besides the names of drawings (`data/words.yaml`), and stand-ins by
WordNet.

A noun without a drawing is drawn as its nearest WordNet ancestor that has one; the reading says so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from ....lang import wordnet
from .vocabulary import CLOTHES, COLOUR_WORDS, PEOPLE, vocabulary

_FILE = Path(__file__).parent / "data" / "words.yaml"
_FARTHEST = 8  # hypernym steps: a more distant ancestor says too little about the noun
# The sense of a drawing where WordNet's first sense is another thing.
_SENSES = {"cap": "cap.n.01", "bow": "bow.n.04", "record": "phonograph_record.n.01", "fly": "fly.n.01",
"crane": "crane.n.04",
           "slide": "slide.n.05",
           "cricket bat": "cricket_bat.n.01", "mouse": "mouse.n.01", "glasses": "spectacles.n.01",
           "chick": "chick.n.01"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Words:
    """Phrases by meaning. `phrases`: phrase -> (kind, value); the kinds are relation, side, place, weather,
    count, size, colour and function."""

    phrases: dict[str, tuple[str, Any]]
    styles: dict[str, str]
    style_pattern: re.Pattern[str]
    generic: dict[str, str]


@cache
def words() -> Words:
    """Reads `data/words.yaml` and inverts it: from phrase to meaning."""
    data: dict[str, Any] = yaml.safe_load(_FILE.read_text("utf-8"))
    phrases: dict[str, tuple[str, Any]] = {
        word: ("function", word) for word in data["function_words"].split()
    }
    phrases |= {word: ("colour", name) for word, name in COLOUR_WORDS.items()}
    phrases |= {word: ("size", factor) for word, factor in data["sizes"].items()}
    phrases |= {word: ("count", number) for word, number in data["counts"].items()}
    for kind in ("weather", "place", "relation", "side"):
        for value, forms in data[kind if kind == "weather" else f"{kind}s"].items():
            phrases |= dict.fromkeys(forms, (kind, value))
    styles = {phrase: style for style, group in data["styles"].items() for phrase in group}
    longest_first = sorted(styles, key=len, reverse=True)
    pattern = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![\w-])")
    return Words(phrases, styles, pattern, data["generic"])


@cache
def _drawn_senses() -> dict[int, str]:
    """WordNet row -> the drawing that shows it; names of drawings first, then wide classes, then other
    words."""
    found: dict[int, str] = {}
    named = ((name, name) for name in vocabulary().drawings)
    for word, name in [*named, *words().generic.items(), *vocabulary().words.items()]:
        if wordnet.morphy(word, "n") is None:
            continue
        sense = wordnet.synset(_SENSES[word]) if word in _SENSES else wordnet.first_sense(word)
        if sense is not None and wordnet.is_a(sense, "physical_entity.n.01"):
            found.setdefault(sense.row, name)
    return found


@lru_cache(maxsize=65536)
def nearest(noun: str) -> str | None:
    """The drawing of a noun's nearest WordNet ancestor (or itself) that has one, at most 8 steps up, or
    None."""
    sense = wordnet.first_sense(noun)
    if sense is None or not wordnet.is_a(sense, "physical_entity.n.01"):
        return None
    drawn = _drawn_senses()
    steps = wordnet.steps_up(sense.row)
    near = [(far, row) for row, far in steps.items() if row in drawn and far <= _FARTHEST]
    return drawn[min(near)[1]] if near else None


@lru_cache(maxsize=65536)
def is_noun(word: str) -> bool:
    """Whether an unknown word is mostly a noun: WordNet counts it as a noun at least as often as anything
    else."""
    lemma = wordnet.morphy(word, "n")
    if lemma is None or len(word) < 3:
        return False
    others = [wordnet.count(base, pos) for pos in "var" if (base := wordnet.morphy(word, pos)) is not None]
    return not others or wordnet.count(lemma, "n") > max(others)


@lru_cache(maxsize=65536)
def is_adjective(word: str) -> bool:
    """Whether WordNet lists the word as an adjective or a verb's participle, which may precede a noun."""
    return wordnet.morphy(word, "a") is not None or (
        word.endswith(("ing", "ed", "en")) and wordnet.morphy(word, "v") is not None
    )


def disambiguated(predicate: str, who: str, what: str) -> str:
    """What a predicate means between two drawings: `with` and `in` mean wearing before clothes, `with` means
    holding before small things, and large things are not held but next to someone."""
    person = who in PEOPLE
    small = vocabulary().drawings[what].scale <= 0.75 and what not in PEOPLE
    if predicate in ("with", "in", "wearing") and what in CLOTHES and (person or predicate != "in"):
        return "wearing"
    if predicate in ("with", "wearing"):
        return "holding" if person and small else "next to"
    if predicate == "holding" and not small and vocabulary().drawings[what].scale > 0.8:
        return "next to"
    return predicate
