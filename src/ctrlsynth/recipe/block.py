"""The base of every block of a recipe, and how a block is found behind a field's annotation."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict


class Block(BaseModel):
    """Base of all blocks: frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def check_one(block: BaseModel, names: Collection[str], what: str) -> None:
    """Raises ValueError unless exactly one of these keys is given."""
    given = [name for name in names if getattr(block, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"{what} takes exactly one of {', '.join(names)}; given: {', '.join(given) or 'none'}"
        )


def block_of(annotation: Any) -> type[BaseModel] | None:
    """The block that a field holds (alone, optional, or in a list), or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for arg in getattr(annotation, "__args__", ()):
        found = block_of(arg)
        if found is not None:
            return found
    return None
