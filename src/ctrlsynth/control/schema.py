"""JSON schemas for the JSON style of 3a: a plain subset, checked when the recipe is read and again on every
reply.

Known: type, properties, required, additionalProperties (true or false), items, enum, minLength, maxLength,
minItems, maxItems, minimum, maximum; title, description and default are passed over. Any other keyword is an
error: to ignore it would claim a check that nobody makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UserError, unknown

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_SIZES = ("minLength", "maxLength", "minItems", "maxItems")
_KNOWN = frozenset(
    "type properties required additionalProperties items enum minLength maxLength minItems maxItems minimum "
    "maximum "
    "title description default $schema".split()
)


def check_schema(schema: Any, where: str) -> None:
    """Refuses, with the key's path, what `problem` could not check."""
    if not isinstance(schema, Mapping):
        raise UserError(f"{where}: a schema is a mapping, not {schema!r}")
    for key in schema:
        if key not in _KNOWN:
            raise unknown("schema keyword", str(key), _KNOWN, where)
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in _TYPES:
            raise unknown("type", str(kind), _TYPES, f"{where}.type")
    for key in _SIZES:
        if key in schema and (
            not isinstance(schema[key], int) or isinstance(schema[key], bool) or schema[key] < 0
        ):
            raise UserError(f"{where}.{key}: a number of 0 or more, not {schema[key]!r}")
    for key in ("minimum", "maximum"):
        if key in schema and not _is(schema[key], "number"):
            raise UserError(f"{where}.{key}: a number, not {schema[key]!r}")
    if not isinstance(schema.get("additionalProperties", True), bool):
        raise UserError(f"{where}.additionalProperties: true or false")
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        raise UserError(f"{where}.enum: a list of values, and at least one")
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        raise UserError(f"{where}.properties: a mapping of names to schemas")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise UserError(f"{where}.required: a list of names")
    for name in required:
        if properties and name not in properties:
            raise unknown("property", name, properties, f"{where}.required")
    for name, inner in properties.items():
        check_schema(inner, f"{where}.properties.{name}")
    if "items" in schema:
        check_schema(schema["items"], f"{where}.items")


def _is(value: Any, kind: str) -> bool:
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()  # JSON knows one kind of number: 2.0 is an integer
    return isinstance(value, _TYPES[kind]) and not (isinstance(value, bool) and kind in ("integer", "number"))


def _same(a: Any, b: Any) -> bool:
    """Equality as JSON has it: true is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def problem(value: Any, schema: Mapping[str, Any], at: str = "$") -> str | None:
    """The first thing in which a value breaks the schema, with its place (`$.objects[2]: ...`); None when it
    fulfils it."""
    kinds = schema.get("type")
    wanted = kinds if isinstance(kinds, list) else [kinds] if kinds is not None else []
    if wanted and not any(_is(value, kind) for kind in wanted):
        return f"{at}: not of type {' or '.join(wanted)}"
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        return f"{at}: not one of {schema['enum']}"
    if isinstance(value, str):
        return _size(len(value), schema, "Length", f"{at}: {len(value)} characters")
    if isinstance(value, list):
        inner = schema.get("items")
        found = _size(len(value), schema, "Items", f"{at}: {len(value)} items")
        each = (
            (problem(item, inner, f"{at}[{i}]") for i, item in enumerate(value)) if inner is not None else ()
        )
        return found or next((p for p in each if p), None)
    if isinstance(value, dict):
        return _object(value, schema, at)
    if _is(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"{at}: {value} is out of range"
    return None


def _size(size: int, schema: Mapping[str, Any], what: str, said: str) -> str | None:
    least, most = schema.get(f"min{what}", 0), schema.get(f"max{what}", size)
    if size < least:
        return f"{said}, at least {least} wanted"
    return f"{said}, at most {most} wanted" if size > most else None


def _object(value: dict[str, Any], schema: Mapping[str, Any], at: str) -> str | None:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            return f"{at}: {name!r} is missing"
    for name, item in value.items():
        if name in properties:
            found = problem(item, properties[name], f"{at}.{name}")
            if found:
                return found
        elif schema.get("additionalProperties", True) is False:
            return f"{at}: {name!r} is not allowed"
    return None
