"""What counts as a caption: the usual names of its column, and how a cell, a JSON value or a file's bytes
become text."""

import json
import re
from collections.abc import Mapping
from typing import Any

CAPTION_NAMES = (
    "caption",
    "text",
    "alt",
    "alt_text",
    "caption_text",
    "captions",
    "description",
    "sentence",
    "prompt",
    "txt",
)
"""Usual names of a caption's column or key, in any case."""
MAX_TEXT = 1 << 24
"""A caption file or .json of more bytes is refused."""

# Control characters other than tab, line feed and carriage return (C0, DEL, C1).
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_text(text: str) -> bool:
    """Returns whether the text has no lone surrogates, so that it can be stored as UTF-8."""
    return text.isascii() or _SURROGATE.search(text) is None


def clean_caption(text: str | None) -> str | None:
    """The caption, stripped, or None when nothing is left.

    Control characters (but tab and line ends) become a space, lone surrogates U+FFFD, so that the text can be
    stored as UTF-8 and given to any model. Everything else stays as it is: right-to-left marks, emoji,
    quotes, braces, any length."""
    if text is None:
        return None
    return _CONTROL.sub(" ", _SURROGATE.sub("\ufffd", text)).strip() or None


def as_caption(value: Any) -> str | None:
    """A cell as text: the first item of a list, numbers as written, None for null."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if value is None or isinstance(value, str) else str(value)


def replace_surrogates(value: Any) -> Any:
    """A JSON value with U+FFFD for lone surrogates (`\\ud800` alone is legal there)."""
    if isinstance(value, str):
        return (
            value if is_text(value) else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
    if isinstance(value, list):
        return [replace_surrogates(v) for v in value]
    if isinstance(value, dict):
        return {replace_surrogates(k): replace_surrogates(v) for k, v in value.items()}
    return value


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` holds, or None if it holds none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return replace_surrogates(value) if isinstance(value, dict) else None


def caption_key(values: Mapping[str, Any], given: str | None) -> str | None:
    """The key of `values` that holds a caption: `given` alone, else the first usual name with a value."""
    return next((name for name in ([given] if given else CAPTION_NAMES) if values.get(name)), None)
