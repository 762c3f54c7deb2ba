"""Models made of models (a hybrid, a captioner with its language model): absent parts, preflight, full hash,
end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UserError


def make_all(makers: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each of `makers` makes. UserError with all that is missing, a line each, not with the first
    alone."""
    made, problems = [], list[str]()
    for make in makers:
        try:
            made.append(make())
        except UserError as error:
            problems += str(error).splitlines()
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return made


def check_all(parts: Sequence[Any]) -> None:
    """`check()` of each part that has one: raises UserError in one line for what the user can mend, and loads
    no weights."""
    for part in parts:
        check = getattr(part, "check", None)
        if check is not None:
            check()


def contents_of(parts: Sequence[Any]) -> str:
    """One hash over the `content_digest()` of each part; a part without one counts with its digest."""
    found = [getattr(part, "content_digest", lambda part=part: part.digest)() for part in parts]
    return hashlib.sha256("\0".join(found).encode()).hexdigest()


def close_all(parts: Sequence[Any]) -> None:
    """`close()` of each part that has one; it may be asked again later."""
    for part in parts:
        close = getattr(part, "close", None)
        if close is not None:
            close()
