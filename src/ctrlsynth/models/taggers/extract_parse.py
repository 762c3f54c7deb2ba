"""How a language model's answer to A.4's instruction is read (2a): three named lists of phrases, as lines or
as a JSON object.

Strict: a name that is missing, that comes twice or that is none of the three, or any other text, and the
answer is no answer. Tolerant of what chat models put around the same content: any order, numbering, bullets,
bold names, a list written one phrase a line."""

from __future__ import annotations

import json
import re
from typing import Any

LINES = ("attributes", "objects", "relations")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "array", "items": {"type": "string"}} for name in LINES},
    "required": list(LINES),
    "additionalProperties": False,
}
"""What the mode `json` asks of the model."""
_MARK = r"(?:[-*•‣·]|\(?\d{1,2}[.)])\s+"  # a bullet or a number
_NAMED = re.compile(rf"(?:{_MARK})?[*_`#\s]*(attributes|objects|relations)[*_`\s]*:[*_`]*(.*)", re.IGNORECASE)
_LISTED = re.compile(rf"{_MARK}(.+)")
_FENCE = re.compile(r"```(?:\w+)?\s*\n(.*?)\n?\s*```", re.DOTALL)


def parse(text: str) -> dict[str, list[str]] | None:
    """`attributes: a, b`, `objects: ...`, `relations: ...` in any order, each once, nothing else -> phrases
    by line; else None."""
    out: dict[str, list[str]] = {}
    name, listed = "", False
    for line in _unfenced(text).splitlines():
        line = line.strip()
        if not line:
            continue
        named, item = _NAMED.fullmatch(line), _LISTED.fullmatch(line)
        if named:
            name = named[1].lower()
            if name in out:
                return None
            out[name] = [_clean(phrase) for phrase in named[2].split(",")]
            listed = out[name] == [""]
        elif item and listed:  # one phrase a line below a name with nothing behind it
            out[name] += [_clean(phrase) for phrase in item[1].split(",")]
        else:
            return None
    return out if len(out) == len(LINES) else None


def parse_json(text: str) -> dict[str, list[str]] | None:
    """A JSON object of three lists of texts -> phrases by name; else None."""
    try:
        found = json.loads(_unfenced(text))
    except ValueError:
        return None
    if not isinstance(found, dict) or set(found) != set(LINES):
        return None
    if not all(
        isinstance(found[name], list) and all(isinstance(p, str) for p in found[name]) for name in LINES
    ):
        return None
    return {name: [_clean(phrase) for phrase in found[name]] for name in LINES}


def _unfenced(text: str) -> str:
    fenced = _FENCE.fullmatch(text.strip())
    return fenced[1] if fenced else text.strip()


def _clean(phrase: str) -> str:
    """Without numbering, quotes, emphasis and the full stop at its end."""
    phrase = re.sub(rf"^{_MARK}", "", " ".join(phrase.split()))
    return phrase.strip(" .\"'“”‘’*_`")
