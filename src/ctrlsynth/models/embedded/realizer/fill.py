"""Fills the JSON object of a recipe's schema with a sentence and its tags (2b), for models that write plain
text only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ....sample import Tags


class Unsupported(Exception):
    """Raised if the schema requires a property that a caption and its tags cannot fill."""


def fill(schema: Mapping[str, Any], text: str, tags: Tags) -> str:
    """Returns the object as JSON. `text` fills the string property `caption` (or else the first required
    string property); tags fill the arrays of strings `objects`, `attributes`, `relations`, and `tags` or
    `phrases` (all of them). Raises `Unsupported` if the schema requires more."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    required = list(schema.get("required", ()))
    strings = [name for name in [*required, *properties] if _free_string(properties.get(name))]
    if schema.get("type", "object") != "object" or not strings:
        raise Unsupported("the schema is not an object with a string property for the caption")
    field = "caption" if "caption" in strings else strings[0]
    lists = {name: getattr(tags, name) for name in ("objects", "attributes", "relations")}
    lists |= dict.fromkeys(("tags", "phrases"), tags.phrases())
    out: dict[str, Any] = {}
    for name in dict.fromkeys([*properties, *required]):
        kind = properties.get(name, {})
        strings_only = kind.get("items", {}).get("type", "string") == "string"
        if name == field:
            out[name] = text
        elif name in lists and kind.get("type") == "array" and strings_only:
            out[name] = list(lists[name])
        elif name in required:
            raise Unsupported(f"required property {name!r} is neither the caption nor a list of tags")
    return json.dumps(out, ensure_ascii=False)


def _free_string(kind: Any) -> bool:
    return (
        isinstance(kind, Mapping)
        and kind.get("type") == "string"
        and not kind.keys() & {"enum", "const", "pattern", "format"}
    )
