"""Checks the values of models' options as a recipe gives them."""

from typing import Any

from ..errors import UserError


def check_whole(where: str, *, least: int = 1, **values: Any) -> None:
    """UserError unless each option is None or a whole number from `least` up."""
    for name, value in values.items():
        if value is not None and (type(value) is not int or value < least):
            raise UserError(f"{where}.{name}: a whole number from {least} up, not {value!r}")


def check_number(where: str, least: float, most: float, /, **values: Any) -> None:
    """UserError unless each option is None or a number from `least` to `most`."""
    for name, value in values.items():
        if value is not None and (type(value) not in (int, float) or not least <= value <= most):
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
