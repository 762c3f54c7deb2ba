"""Text that is safe to print: captions and replies are data, and data may hold escapes that drive a
terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# C0 and C1 controls, DEL, line and paragraph separators, and the marks that reorder or hide what stands
# around them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """One line that a terminal shows and does not obey: unsafe characters stand as `\\x1b`, `\\u202e`. Tabs
    become a space."""
    return _UNSAFE.sub(_escape, text.replace("\t", " "))


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def cells(text: str) -> int:
    """Columns that a text takes in a terminal: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def wrap(text: str, width: int) -> list[str]:
    """Cleaned lines of at most `width` columns (at least 8); line ends of the text are kept, words that are
    too long are cut."""
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
