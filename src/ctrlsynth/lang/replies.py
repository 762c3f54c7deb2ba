"""Reads the replies of language models: a caption about a concept, plain text, JSON, or named lists.

Captions about a concept (SynthCLIP, section 3.1; METHODS, section 2): large models explain, apologise, repeat
the instruction, or write a paragraph. No image fits such a reply, so it is dropped and counted, never
repaired by guessing. Only what surrounds a caption is removed and counted: quotes, a label or opening such as
`Sure, here is a caption:`, numbering, Markdown, a word count at the end. METHODS drops captions with a line
break before it strips; here white space around the reply goes first, since a reply that ends its one line has
no second one.

Named lists (the answer to CtrlSynth's A.4, box 2a): strict about content, so a list that is missing, repeated
or unknown, or any other text, makes the reply invalid; tolerant of form, so lists may come in any order,
numbered, with bullets or bold names, or one phrase per line."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST = 30
"""Words of a caption at most where the recipe bounds no length: twice what the template asks for. The paper
names no limit."""
ECHO = 7
"""Words in a row that a caption shares with its instruction (other than the concept's own) to be an echo of
it."""
REASONS = ("line_break", "refusal", "echo", "too_long", "no_words")
"""What `clean` gives as reasons, beside `empty_reply`."""
SAMPLING = {"temperature": 0.7, "top_p": 0.95, "presence_penalty": 1.0, "frequency_penalty": 1.0}
"""How the paper's model chooses its words (METHODS, section 2), by the names of the options of every backend
that samples."""

_KIND = r"(?:caption|sentence|description|prompt|example|answer|output|response)"
_YES = r"(?:sure|certainly|of course|absolutely|okay|ok)(?: thing)?\s*"
# What is removed from a caption (all but a last group), in this order, repeated until nothing matches.
_AROUND = {
    "quotes": re.compile('["“”„«»]'),
    "marks": re.compile(r"\*\*|__|^#+\s+|^[-*•]\s+|^([*_`])(.+)\1$"),
    "numbering": re.compile(r"^(?:\d{1,3}[.)]|\(\d{1,3}\))\s+(?=\S)"),
    "labels": re.compile(
        rf"(?i)^(?:{_YES}[,.!:]\s*)?"
        rf"(?:(?:here(?:'|’)?s|here (?:is|are))\b[^:.!?]*\b{_KIND}s?\b[^:.!?]*:"
        rf"|(?:(?:your|the|a|my) )?(?:image |photo )?{_KIND}(?: \d+)?\s*:)\s*"
        rf"|^{_YES}[!:]\s*"
    ),
    "word counts": re.compile(
        r"(?i)\s*[(\[]\s*(?:word count:?\s*\d+|(?:total:?\s*|exactly\s+)?\d+[ -]words?)(?: "
        r"words?)?\s*[)\]]\s*\.?$"
    ),
}
_SERVE = (
    r"(?:assist|provide|create|write|generate|produce|fulfil+|comply|describe|caption"
    r"|answer|respond|offer|engage|discuss"
    r"|help(?! but\b| \w+ing\b)|do (?:that|this|so)|(?:see|view) (?:the |any "
    r")?(?:images?|photos?|photographs?|pictures?))\b"
)
_CANNOT = (
    r"(?:can(?:not|(?:'|’)?t| not)|(?:am|(?:'|’)m) (?:not able|unable) to|won(?:'|’)?t|will "
    r"not|(?:must|have to) (?:decline|refuse) to)"
)
_REFUSAL = re.compile(
    r"(?i)(?:^|[.!?]\s+)(?:unfortunately,? )?(?:"
    r"i(?:(?:'|’)?m| am) (?:\w+ )?sorry\b|i (?:sincerely )?apologi[sz]e\b|(?:my "
    r")?apologies\b|sorry(?:[,.!]|,? but\b| i\b)"
    r"|(?:i, )?as an? (?:ai|artificial intelligence|(?:\w+ )?assistant)\b.*\b(?:i|i(?:'|’)m|my)\b"
    r"|i must (?:decline|refuse)\b"
    rf"|(?:cannot|can(?:'|’)t|unable to|not able to) {_SERVE}"
    rf"(?: you\b| (?:with|about) (?:this|that|your)\b| this\b| that\b|.*\b{_KIND}s?\b|[.!]?$)"
    r"|(?:it|this|that) (?:is|goes|would (?:be|go)) against (?:the )?(?:guidelines|polic(?:y|ies))\b"
    r"|(?:it|this|that) (?:is|would) not (?:be )?appropriate to\b"
    r")"
    rf"|(?:^|[.!?,;:]\s*|\b(?:but|so|and|however|unfortunately|because)\s+)i ?(?:\w+ly )?{_CANNOT} (?:\w+ly "
    rf")?{_SERVE}"
    r"|\bas an? (?:ai |large )?language model\b|\bagainst (?:my|our) (?:\w+ )?(?:guidelines|polic(?:y|ies))\b"
)
_WORD = re.compile(r"\w+")


def clean(
    reply: str, concept: str, instruction: str, most: int | None = None, cut: bool = False
) -> tuple[str, str | None]:
    """(caption, None), or ("", reason): `line_break`, `empty_reply`, `no_words`, `refusal`, `echo`,
    `too_long`, the first that holds.

    most   words at most, LONGEST unless given        cut   the model was stopped by its limit: the caption is
           not whole (`too_long`)
    """
    text, _ = strip_wrapping(reply)
    faults = {
        "line_break": len(reply.strip().splitlines()) > 1,
        "empty_reply": not text,
        "no_words": not any(c.isalnum() for c in text),
        "refusal": refuses(text),
        "echo": echoes(text, instruction, concept),
        "too_long": cut or len(text.split()) > (most or LONGEST),
    }
    reason = next((reason for reason, wrong in faults.items() if wrong), None)
    return ("", reason) if reason else (text, None)


def strip_wrapping(reply: str) -> tuple[str, tuple[str, ...]]:
    """The caption of a reply of one line without what surrounds it, and what that was: `quotes`, `marks`,
    `numbering`, `labels`, `word counts`, each once."""
    text, found = reply.strip(), set()
    while True:
        before = text
        for name, what in _AROUND.items():
            less = what.sub(lambda m: m[m.lastindex] if m.lastindex else "", text).strip()
            if less != text:
                text = less
                found.add(name)
        if text == before:
            return text, tuple(name for name in _AROUND if name in found)


def taken_off(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """What `strip_wrapping` finds -> number of captions that had it, of the rows that are ok in a `write`
    table (`status`, `raw`)."""
    found = Counter(
        what for row in rows if row["status"] == "ok" and row["raw"] for what in strip_wrapping(row["raw"])[1]
    )
    return {what: found[what] for what in _AROUND if what in found}


def refuses(text: str) -> bool:
    """Whether the model speaks of itself and declines. A caption may have people who are unable to do
    something, or an `I` who is."""
    return _REFUSAL.search(text) is not None


def echoes(text: str, instruction: str, concept: str) -> bool:
    """Whether a text repeats ECHO words in a row of the instruction, in which the concept's own words do not
    count."""
    asked = " ".join(_WORD.findall(instruction.replace(concept, "\n\n") if concept else instruction)).lower()
    said = _WORD.findall(text.lower())
    runs = (" ".join(said[n : n + ECHO]) for n in range(len(said) - ECHO + 1))
    return any(f" {run} " in f" {asked} " for run in runs)


LINES = ("attributes", "objects", "relations")


LISTS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "array", "items": {"type": "string"}} for name in LINES},
    "required": list(LINES),
    "additionalProperties": False,
}
"""What the mode `json` asks of the model."""


_MARK = r"(?:[-*•‣·]|\(?\d{1,2}[.)])\s+"  # a bullet or a number
_NAMED = re.compile(rf"(?:{_MARK})?[*_`#\s]*(attributes|objects|relations)[*_`\s]*:[*_`]*(.*)", re.IGNORECASE)
_LISTED = re.compile(rf"{_MARK}(.+)")


def named_lists(text: str) -> dict[str, list[str]] | None:
    """Reads `attributes: a, b`, `objects: ...` and `relations: ...`, each once and nothing else, as phrases
    by name; None if the reply is not that."""
    out: dict[str, list[str]] = {}
    name, listed = "", False
    for line in unfenced(text).splitlines():
        line = line.strip()
        if not line:
            continue
        named, item = _NAMED.fullmatch(line), _LISTED.fullmatch(line)
        if named:
            name = named[1].lower()
            if name in out:
                return None
            out[name] = [_phrase(phrase) for phrase in named[2].split(",")]
            listed = out[name] == [""]
        elif item and listed:  # one phrase a line below a name with nothing behind it
            out[name] += [_phrase(phrase) for phrase in item[1].split(",")]
        else:
            return None
    return out if len(out) == len(LINES) else None


def named_lists_json(text: str) -> dict[str, list[str]] | None:
    """Reads a JSON object of the three lists of phrases; None if the reply is not one."""
    try:
        found = read_json(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or set(found) != set(LINES):
        return None
    lists = [found[name] for name in LINES]
    if not all(isinstance(x, list) and all(isinstance(p, str) for p in x) for x in lists):
        return None
    return {name: [_phrase(phrase) for phrase in found[name]] for name in LINES}


def _phrase(phrase: str) -> str:
    """Without numbering, quotes, emphasis and the full stop at its end."""
    phrase = re.sub(rf"^{_MARK}", "", " ".join(phrase.split()))
    return phrase.strip(" .\"'“”‘’*_`")


_QUOTES = {'"': '"', "“": "”", "'": "'"}
_FENCE = re.compile(r"```\w*\s*\n(.*?)\n?\s*```", re.DOTALL)


def unfenced(text: str) -> str:
    """The reply without the Markdown fence around all of it."""
    fenced = _FENCE.fullmatch(text.strip())
    return fenced[1] if fenced else text.strip()


def read_json(text: str) -> Any:
    """The JSON value that the reply is, fenced or not. ValueError if it is no JSON or nested too deeply."""
    try:
        return json.loads(unfenced(text), parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def unquoted(text: str) -> str:
    """The text without a pair of quotes around all of it."""
    if (
        len(text) > 1
        and _QUOTES.get(text[0]) == text[-1]
        and text[0] not in text[1:-1]
        and text[-1] not in text[1:-1]
    ):
        return text[1:-1].strip()
    return text
