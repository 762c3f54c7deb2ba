"""What commands print to standard output: text that is safe for a terminal, and JSON for programs.

Captions and replies are data and may hold escape sequences, so nothing is printed before it is cleaned.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

# C0 and C1 controls, DEL, line and paragraph separators, and marks that reorder or hide their neighbours.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
# The part of these that `json.dumps` leaves as it is. A lone surrogate would not be UTF-8.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def say(*texts: str) -> None:
    """Prints texts line by line with unsafe characters escaped."""
    sys.stdout.write("".join(clean(line) + "\n" for text in texts for line in text.split("\n")))


def print_json(value: Any) -> None:
    """Prints a value as JSON; dataclasses become mappings, other objects their text."""
    text = json.dumps(value, ensure_ascii=False, indent=1, default=plain)
    sys.stdout.write(_UNSAFE_IN_JSON.sub(lambda m: f"\\u{ord(m.group()):04x}", text) + "\n")


def answer(as_json: bool, facts: Any, *shown: str | Callable[[], None]) -> None:
    """Prints the result of a command: `facts` as JSON, or else the texts in `shown` and what its functions
    print."""
    if as_json:
        print_json(facts)
        return
    for part in shown:
        if callable(part):
            part()
        else:
            say(part)


def plain(value: Any) -> Any:
    """Returns a dataclass as a mapping and anything else as text, for `json.dumps(default=...)`."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def ledger_rows(run: Any) -> list[dict[str, Any]]:
    """Returns a run's ledger for JSON, each row with whether it adds up."""
    return [{**plain(row), "adds_up": row.adds_up} for row in run.ledger()]


def clean(text: str) -> str:
    """Returns one line with unsafe characters as `\\x1b` or `\\u202e` and tabs as spaces."""
    return _UNSAFE.sub(_escape, text.replace("\t", " "))


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def cells(text: str) -> int:
    """Returns how many terminal columns a text takes: two per wide character, none per combining one."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def wrap(text: str, width: int) -> list[str]:
    """Returns cleaned lines of at most `width` columns (at least 8). Keeps line ends; cuts words that are too
    long."""
    width = max(width, 8)
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        current = ""
        for word in clean(line).split(" "):
            for piece in _pieces(word, width):
                if current and cells(current) + 1 + cells(piece) > width:
                    lines.append(current)
                    current = piece
                else:
                    current = f"{current} {piece}" if current else piece
        lines.append(current)
    return lines


def _pieces(word: str, width: int) -> Iterator[str]:
    piece, used = "", 0
    for character in word:
        wide = cells(character)
        if used + wide > width:
            yield piece
            piece, used = "", 0
        piece += character
        used += wide
    yield piece
