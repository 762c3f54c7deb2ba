"""Checks the values of models' options as a recipe gives them."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import UserError, unknown


class Options(BaseModel):
    """Base of the options that several models share. A field's `description` says what it takes, for
    messages."""

    model_config = ConfigDict(frozen=True, strict=True)

    @classmethod
    def read(cls, given: Mapping[str, Any], where: str, own: Iterable[str] = (), **defaults: Any) -> Self:
        """Checks a recipe's options; null means the default. UserError in one line for a wrong one.

        `where` names the model in errors (`models.tagger`); `own` are the model's further options, which the
        error for an unknown name lists too; `defaults` replace those of the class."""
        fields = cls.model_fields
        for name in given:
            if name not in fields:
                raise unknown("option", name, [*own, *fields], where)
        values = defaults | {name: value for name, value in given.items() if value is not None}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if not first["loc"]:  # a rule for several options
                raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
            name = str(first["loc"][0])
            raise UserError(f"{where}.{name}: {fields[name].description}, not {values[name]!r}") from error


def check_whole(where: str, *, least: int = 1, null: bool = True, **values: Any) -> None:
    """UserError unless each option is a whole number from `least` up, or None if that is allowed (`null`)."""
    for name, value in values.items():
        if (value is not None or not null) and (type(value) is not int or value < least):
            raise UserError(f"{where}.{name}: a whole number from {least} up, not {value!r}")


def check_number(where: str, least: float, most: float, /, *, null: bool = True, **values: Any) -> None:
    """UserError unless each option is a number from `least` to `most`, or None if `null` allows it."""
    for name, value in values.items():
        if value is None and null:
            continue
        if type(value) not in (int, float) or not least <= value <= most:
            raise UserError(f"{where}.{name}: a number from {least:g} to {most:g}, not {value!r}")


def image_size(size: Any, where: str, step: int = 1) -> tuple[int, int] | None:
    """Width and height in pixels of an option `size`: one edge or [width, height], multiples of `step`."""
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else size
    if (
        isinstance(sides, list | tuple)
        and [type(s) is int and s > 0 and s % step == 0 for s in sides] == [True] * 2
    ):
        return sides[0], sides[1]
    multiples = f", multiples of {step}" if step > 1 else ""
    raise UserError(f"{where}.size: one edge or [width, height] in pixels{multiples}, not {size!r}")
