"""Writes docs/recipe.md, every key of a recipe with its type, default and meaning, from the models in `ctrlsynth.recipe`.

python scripts/recipe_reference.py > docs/recipe.md
"""

from __future__ import annotations

import re
import sys
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ctrlsynth.recipe import Recipe, block_of

HEAD = """# A recipe, key by key

Made by `python scripts/recipe_reference.py > docs/recipe.md` from `src/ctrlsynth/recipe.py`; a test compares the two. Keys that are
not listed are errors. Any key can be changed for one run: `ctrlsynth run recipe.yaml --set judge.threshold=0.3`.

Selectors of tags: an exact phrase (`red`), a glob (`"*mark"`), a regular expression (`"re:^blu"`), a WordNet class (`animal.n.01` and all below it).
"""


def kind_of(annotation: Any) -> str:
    """A type as a person would write it."""
    text = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    for noise in (r"typing\.|pathlib\.|ctrlsynth\.recipe\.", r"Annotated\[(\w+), .*?\)\]", r"<class '(\w+)'>"):
        text = re.sub(noise, lambda m: m[1] if m.lastindex else "", text)
    text = text.replace("Literal", "").replace(" | None", "").replace("NoneType", "null")
    return text.replace("|", "or")


def default_of(field: Any) -> str:
    """A default as YAML would show it; `required` without one."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "see below"
    return (
        {None: "none", True: "true", False: "false"}.get(value, str(value) or "''")
        if isinstance(value, (str, int, float, type(None)))
        else str(value)
    )


def section(model: type[BaseModel], name: str) -> list[str]:
    """A heading, the block's own sentence, a table of its keys, then the blocks inside it."""
    lines = [f"\n## {name}\n", " ".join((model.__doc__ or "").split()), "\n| key | type | default | meaning |", "|---|---|---|---|"]
    inner = []
    for key, field in model.model_fields.items():
        block = block_of(field.annotation)
        lines.append(f"| `{key}` | {'block' if block else kind_of(field.annotation)} | {default_of(field)} | {field.description or ''} |")
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
