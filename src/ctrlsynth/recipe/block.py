"""The base of every block of a recipe, and how a block is found behind a field's annotation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Block(BaseModel):
    """Base of all blocks: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def block_of(annotation: Any) -> type[BaseModel] | None:
    """The block that a field holds (alone, optional, or in a list), or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for arg in getattr(annotation, "__args__", ()):
        found = block_of(arg)
        if found is not None:
            return found
    return None
