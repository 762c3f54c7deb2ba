"""Cleaning what an LLM writes about a concept (SynthCLIP, section 3.1; METHODS, section 2): a caption, or the reason why there is none.

Large models explain, apologise, repeat what they were asked, or go on for a paragraph. Such a reply makes no image that fits it, so it is
dropped and counted, never mended by guessing; only quotes, and a label such as `Caption:` in front, are taken off.
"""

from __future__ import annotations

import re

LONGEST = 30
"""Words of a caption at most where the recipe bounds no length: twice what the template asks for. The paper names no limit."""
ECHO = 7
"""Words in a row that a caption shares with its instruction (the concept's own aside) to be an echo of it."""
REASONS = ("line_break", "refusal", "echo", "too_long", "no_words")
"""What `clean` gives as reasons, beside `empty_reply`."""

_QUOTES = re.compile('["“”„«»]')
_LABEL = re.compile(r"(?i)^(?:(?:image |photo )?caption|sentence|prompt|output|answer|description)\s*:\s*")
_REFUSAL = re.compile(
    r"(?i)\b(?:i(?:'|’)?m sorry|i am sorry|i apologi[sz]e|my apologies|as an? (?:ai|artificial|language model|assistant)"
    r"|i (?:can(?:not|'t|’t| not)|am (?:not able|unable)|'m (?:not able|unable)|’m (?:not able|unable)|won(?:'|’)t|will not|must decline)\b"
    r"|(?:cannot|can't|can’t|unable to|not able to) (?:write|create|generate|provide|produce|fulfil+|help|assist|comply)"
    r"|against (?:my|the) (?:guidelines|policy|policies)|not appropriate to)"
)
_WORD = re.compile(r"\w+")


def clean(reply: str, concept: str, instruction: str, most: int | None = None, cut: bool = False) -> tuple[str, str | None]:
    """(caption, None), or ("", reason): `empty_reply`, `line_break`, `no_words`, `refusal`, `echo`, `too_long`.

    most   words at most, LONGEST unless given        cut   the model was stopped by its limit: the caption is not whole (`too_long`)
    """
    text = reply.strip()
    if len(text.splitlines()) > 1:
        return "", "line_break"
    text = _LABEL.sub("", _QUOTES.sub("", text).strip()).strip()
    if not text:
        return "", "empty_reply"
    if not any(c.isalnum() for c in text):
        return "", "no_words"
    if _REFUSAL.search(text):
        return "", "refusal"
    if echoes(text, instruction, concept):
        return "", "echo"
    if cut or len(text.split()) > (most or LONGEST):
        return "", "too_long"
    return text, None


def echoes(text: str, instruction: str, concept: str) -> bool:
    """Whether a text repeats ECHO words in a row of the instruction, in which the concept's own words do not count."""
    asked = " ".join(_WORD.findall(instruction.replace(concept, "\n\n") if concept else instruction)).lower()
    said = _WORD.findall(text.lower())
    runs = (" ".join(said[n : n + ECHO]) for n in range(len(said) - ECHO + 1))
    return any(f" {run} " in f" {asked} " for run in runs)
