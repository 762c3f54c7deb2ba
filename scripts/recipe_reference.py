"""Writes docs/recipe.md, every key of a recipe with its type, default and meaning, from the models in
`ctrlsynth.recipe.schema`.

python scripts/recipe_reference.py > docs/recipe.md
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ctrlsynth.recipe.block import block_of
from ctrlsynth.recipe.schema import Recipe

HEAD = """# A recipe, key by key

Made by `python scripts/recipe_reference.py > docs/recipe.md` from `src/ctrlsynth/recipe/schema.py`; a test
compares the two. Keys that are not listed are errors. Any key can be changed for one run:
`ctrlsynth run recipe.yaml --set judge.threshold=0.3`.

Selectors of tags: an exact phrase (`red`), a glob (`"*mark"`), a regular expression (`"re:^blu"`), a WordNet
class (`animal.n.01` and all below it).
"""


NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    Any: "anything",
    type(None): "null",
}


def kind_of(annotation: Any) -> str:
    """A type as a person would say it."""
    if annotation in NAMES:
        return NAMES[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(arguments[0])
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(kind_of(a) for a in arguments if a is not type(None))
    inner = [kind_of(a) for a in arguments]
    if origin is dict:
        return (
            f"mapping of ({inner[0]}) to ({inner[1]})"
            if "," in inner[0] + inner[1]
            else f"mapping of {inner[0]} to {inner[1]}"
        )
    return (
        f"list of ({inner[0]})"
        if "," in inner[0]
        else f"list of {inner[0]}"
        if origin is list
        else "[" + ", ".join(inner) + "]"
    )


def default_of(field: Any) -> str:
    """A default as YAML would show it; `required` without one."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"


def section(model: type[BaseModel], name: str) -> list[str]:
    """A heading, the block's own sentence, a table of its keys, then the blocks inside it."""
    lines = [
        f"\n## {name}\n",
        " ".join((model.__doc__ or "").split()),
        "\n| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    inner = []
    for key, field in model.model_fields.items():
        block = block_of(field.annotation)
        lines.append(
            f"| `{key}` | {'block' if block else kind_of(field.annotation)} | {default_of(field)} | "
            f"{field.description or ''} |"
        )
        if block is not None:
            inner.append((block, f"{name}.{key}" if name != "The file" else key))
    for block, place in inner:
        lines += section(block, place)
    return lines


def reference() -> str:
    """The whole page."""
    return HEAD + "\n".join(section(Recipe, "The file")) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
