"""The grammar of tag extraction (2a by 2b, appendix A.4): three lines whose phrases may only be spans of the
caption, from left to right."""

from __future__ import annotations

import re

from ..realizer.vocabulary import PREPOSITIONS
from .grammar import quote

MAX_WORDS = 60  # of a caption; what stands after is not read
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_STOP = frozenset(
    """
    a an the this that these those of in on at by for to from with without and or but as is are was were be
    been being am has have had do does did can could will would shall should may might must not no it its he
    she they we i you his her their our your my him them us me who what when where which why how there here
    into onto over under near next behind front up down out off about all some any each every very
    """.split()
)


def words_of(caption: str) -> list[list[str]]:
    """The caption's words, in runs between marks: a phrase does not reach over a comma or a full stop."""
    runs, count = [], 0
    for run in re.split(r"[^\w\s'’-]+|\s[-–—]+\s", caption):
        words = _TOKEN.findall(run)[: MAX_WORDS - count]
        count += len(words)
        if words:
            runs.append(words)
    return runs


def extraction(caption: str, order: tuple[str, str, str] = ("attributes", "objects", "relations")) -> str:
    """A grammar for `attributes:`, `objects:` and `relations:`, each a list of spans in the caption's order,
    without overlap inside a line: an object has up to 3 words, an attribute 2 to 4, a relation 2 to 5 with a
    verb form or preposition; articles and function words stand at no end of the first two."""
    flat = [(words, i) for words in words_of(caption) for i in range(len(words))]
    rules = ["root ::= " + ' "\\n" '.join(f'"{name}:" l{name[0]}' for name in order)]
    for kind, least, most in (("a", 2, 4), ("o", 1, 3), ("r", 2, 5)):
        later = False  # whether any phrase begins at or behind this word: a comma asks for one
        for at in range(len(flat) - 1, -1, -1):
            words, i = flat[at]
            spans = [
                words[i:j] for j in range(i + least, min(i + most, len(words)) + 1) if _fits(kind, words[i:j])
            ]
            forms = [f"{quote(' ' + ' '.join(span))} m{kind}{at + len(span)}" for span in spans]
            if later:
                forms.append(f"k{kind}{at + 1}")
            later = later or bool(spans)
            if later:
                rules.append(f"k{kind}{at} ::= {' | '.join(forms)}")
            rules.append(f'm{kind}{at} ::= ("," k{kind}{at})?' if later else f'm{kind}{at} ::= ""')
        rules.append(f'm{kind}{len(flat)} ::= ""')
        rules.append(f"l{kind} ::= k{kind}0?" if later else f'l{kind} ::= ""')
    return "\n".join(rules)


def _fits(kind: str, words: list[str]) -> bool:
    low = [word.lower() for word in words]
    if kind == "r":
        verbal = any(word in PREPOSITIONS or word.endswith(("ing", "ed", "s")) for word in low[:-1])
        return verbal and low[-1] not in _STOP and low[0] not in ("a", "an", "the", "and", "or", "but")
    if all(word.isdigit() for word in low):
        return False
    return low[0] not in _STOP and low[-1] not in _STOP and not set(low[1:-1]) & (_STOP - {"and", "of"})
