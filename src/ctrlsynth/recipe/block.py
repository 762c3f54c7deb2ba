"""The base of every block of a recipe, and how a block is found behind a field's annotation."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]


class Block(BaseModel):
    """Base of all blocks: frozen; an unknown key is an error, and so is more or less than one of `one_of`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    one_of: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = [name for name in self.one_of if getattr(self, name) is not None]
        if self.one_of and len(given) != 1:
            names = ", ".join(self.one_of)
            raise ValueError(f"takes exactly one of {names}; given: {', '.join(given) or 'none'}")
        return self


def block_of(annotation: Any) -> type[BaseModel] | None:
    """The block that a field holds (alone, optional, or in a list), or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for arg in getattr(annotation, "__args__", ()):
        found = block_of(arg)
        if found is not None:
            return found
    return None
