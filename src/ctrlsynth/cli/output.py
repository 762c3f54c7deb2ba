"""What the command line prints to standard output: text that a terminal cannot obey, and JSON for
machines."""

from __future__ import annotations

import json
import re
import sys
from typing import Any


def say(text: str) -> None:
    """Prints text, a line for each line; control characters are shown, not sent."""
    from .terminal import clean

    sys.stdout.write("\n".join(map(clean, text.split("\n"))) + "\n")


def print_json(value: Any) -> None:
    """Prints a value as JSON; data classes as mappings."""
    text = json.dumps(value, ensure_ascii=False, indent=1, default=plain)
    # Inside JSON strings the same characters; a terminal obeys none of them, and a lone surrogate would not
    # be UTF-8.
    sys.stdout.write(_OBEYED.sub(lambda m: f"\\u{ord(m.group()):04x}", text) + "\n")


_OBEYED = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(value: Any) -> Any:
    """A data class as a mapping, anything else as text: for `json.dumps(default=...)`."""
    from dataclasses import asdict, is_dataclass

    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
