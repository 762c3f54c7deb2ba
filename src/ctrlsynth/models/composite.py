"""Taggers made of other models (a hybrid, a captioner with its language model)."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import UserError
from .base import Model, VisionTagger


class Composite(VisionTagger):
    """A tagger that checks, hashes and closes the models in `parts` with itself."""

    parts: Sequence[Model] = ()

    def check(self) -> None:
        """Preflight of each part."""
        for part in self.parts:
            part.check()

    def content_digest(self) -> str:
        """One hash over the complete files of all parts."""
        return contents_of(self.parts)

    def close(self) -> None:
        """Closes each part."""
        for part in self.parts:
            part.close()


def contents_of(parts: Iterable[Any]) -> str:
    """One hash over the `content_digest()` of each part."""
    return hashlib.sha256("\0".join(part.content_digest() for part in parts).encode()).hexdigest()


def make_all(makers: Sequence[Callable[[], Any]]) -> list[Any]:
    """Calls each maker and returns the results. UserError lists everything that is missing, not only the
    first problem."""
    made, problems = [], list[str]()
    for make in makers:
        try:
            made.append(make())
        except UserError as error:
            problems += str(error).splitlines()
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return made
