"""JSON schemas for the JSON style of 3a, checked when the recipe is read and again on every reply.

Only the keywords of `_KEYWORDS` may be used: `jsonschema` ignores the ones that it does not know, and so
would claim a check that nobody makes; grammars of language models know few more."""

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from ..errors import UserError, unknown

_KEYWORDS = frozenset(
    "type properties required additionalProperties items enum minLength maxLength minItems maxItems minimum "
    "maximum title description default $schema".split()
)
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


def check_schema(schema: Any, where: str) -> None:
    """Raises UserError, with the key's path, unless this is a valid schema of supported keywords."""
    _check_names(schema, where)
    fault = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema))
    if fault is not None:
        raise UserError(f"{'.'.join([where, *map(str, fault.absolute_path)])}: {fault.message}")


def _check_names(schema: Any, where: str) -> None:
    """Checks keywords, types and required properties, naming the nearest right name."""
    if not isinstance(schema, Mapping):
        raise UserError(f"{where}: a schema is a mapping, not {schema!r}")
    for key in schema:
        if key not in _KEYWORDS:
            raise unknown("schema keyword", str(key), _KEYWORDS, where)
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _TYPES:
            raise unknown("type", str(kind), _TYPES, f"{where}.type")
    if "enum" in schema and not schema["enum"]:
        raise UserError(f"{where}.enum: lists no value")
    properties = schema.get("properties", {})
    if isinstance(properties, Mapping):
        for name in schema.get("required", []) if properties else []:
            if name not in properties:
                raise unknown("property", str(name), properties, f"{where}.required")
        for name, inner in properties.items():
            _check_names(inner, f"{where}.properties.{name}")
    if "items" in schema:
        _check_names(schema["items"], f"{where}.items")


def problem(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What breaks the schema in a value, with its place (`$.objects[2]: ...`); None if it is valid."""
    fault = best_match(Draft202012Validator(schema).iter_errors(value))
    return None if fault is None else f"{fault.json_path}: {fault.message}"
