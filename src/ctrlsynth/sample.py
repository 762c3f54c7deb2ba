"""The small data that flows through every box of the figure: tags (1e), ids, and the chance that hangs on an
id.

A row's id is its source key plus one step a stage with its number: `00012:dog7/tag/write.1/paint.0` (DESIGN,
section 2). Identity is never content: prompts repeat by design."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

KINDS: tuple[Kind, ...] = ("objects", "attributes", "relations")
Kind = Literal["objects", "attributes", "relations"]


@dataclass(frozen=True, slots=True)
class Tags:
    """Visual tags of one image or text (node 1e): phrases in order, without repeats, in lower case unless
    they are names.

    objects      noun phrases in the singular, without article: `dog`, `soccer ball`
    attributes   `red ball` (a modifier bound to one of the objects, which may stand in the plural: `two
                 dogs`) or a bare `red`
    relations    `dog on sofa` (subject, predicate, object, both ends among the objects), or with an end left
                 out: `wearing hat`
    scores       one number per object in 0..1 where the tagger gives them, else empty
    caption      the text that the tagger wrote on its way, if it is a captioner
    dropped      how many phrases a language model named that the caption lacks, and that were left out for it
    error        set: the tagger could not answer for this row, which has failed with this short stable word
    """

    objects: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    caption: str | None = None
    dropped: int = field(default=0, compare=False, repr=False)  # an observation, no part of what the tags say
    error: str | None = field(default=None, repr=False)

    def phrases(self) -> tuple[str, ...]:
        """All phrases, objects first: the order in which text templates list them."""
        return (*self.objects, *self.attributes, *self.relations)


def unique(phrases: Iterable[str]) -> tuple[str, ...]:
    """The phrases in order, without blanks and repeats (compared without regard to case)."""
    seen: dict[str, str] = {}
    for phrase in phrases:
        clean = " ".join(phrase.split())
        if clean:
            seen.setdefault(clean.lower(), clean)
    return tuple(seen.values())


def chance(seed: int, row_id: str, purpose: str = "") -> random.Random:
    """A generator that depends on the run's seed, the row's id and the purpose, and on nothing else."""
    return random.Random(hash_int(seed, row_id, purpose))


def draw(seed: int, row_id: str, purpose: str = "") -> float:
    """One number in [0, 1) as `chance` would give, ten times cheaper."""
    return hash_int(seed, row_id, purpose) / 2**64


def model_seed(seed: int, row_id: str) -> int:
    """The seed that a model gets for this row: 0 .. 2**31 - 1, the range that every engine takes."""
    return hash_int(seed, row_id, "model") >> 33


def hash_int(seed: int, row_id: str, purpose: str) -> int:
    """64 bits from BLAKE2b over seed, id and purpose. The name of a range of rows (`r00012:`) is left out, so
    that cutting the source into other parts changes nothing; a shard's name stays in."""
    if row_id[:1] == "r" and row_id[6:7] == ":" and row_id[1:6].isdigit():
        row_id = row_id[7:]
    return int.from_bytes(
        hashlib.blake2b(
            f"{seed}\0{row_id}\0{purpose}".encode("utf-8", "surrogatepass"), digest_size=8
        ).digest(),
        "big",
    )
