"""The small data that flows through every box of the figure: tags (1e), row ids and keys, and the randomness
that derives from an id.

A row's id is its source key plus one step per stage: `00012:dog7/tag/write.1.3/paint.0` is the image painted
from candidate 3 of variant 1 of the text written from the tags of `dog7` in part `00012`. A source key may
hold slashes, so a prefix of an id is an ancestor only if a table says so. Identity is never content: prompts
repeat by design."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

KINDS: tuple[Kind, ...] = ("objects", "attributes", "relations")
Kind = Literal["objects", "attributes", "relations"]


@dataclass(frozen=True, slots=True)
class Tags:
    """Visual tags of one image or text (node 1e): phrases in order, without repeats, in lower case unless
    they are names.

    objects      noun phrases in the singular, without article: `dog`, `soccer ball`
    attributes   `red ball` (a modifier bound to one of the objects, which may be plural: `two
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

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Tags:
        """The tags in a table's row or struct, from its columns `objects`, `attributes` and `relations`."""
        objects, attributes, relations = row.get("objects"), row.get("attributes"), row.get("relations")
        return cls(tuple(objects or ()), tuple(attributes or ()), tuple(relations or ()))

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
    """64 bits from BLAKE2b over seed, id and purpose. Leaves out the name of a range of rows, so that cutting
    the source into other parts changes nothing; a shard's name stays in."""
    found = _RANGE.match(row_id)
    data = f"{seed}\0{row_id[found.end() :] if found else row_id}\0{purpose}"
    return int.from_bytes(
        hashlib.blake2b(data.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def range_name(index: int) -> str:
    """The name of a part that is a range of rows, not a shard: `r00012`. Keys are numbered through the whole
    file, and `hash_int` ignores this name, so the size of parts changes nothing that a model is asked."""
    return f"r{index:05d}"


T = TypeVar("T")
_RANGE = re.compile(r"r[0-9]{5}:")
_TEXT_STEP = re.compile(r"/write(?:\+text)?\.([0-9]+)(?:\.[0-9]+)?(?=/|\Z)")


def child(row_id: str, label: str, *numbers: int) -> str:
    """The id of a row made from `row_id`: `child("7/tag", "write", 1, 3)` is `7/tag/write.1.3`."""
    made = f"{row_id}/{label}"
    for number in numbers:
        made += f".{number}"
    return made


def parent(row_id: str) -> str:
    """The id without its last step; empty if it has only one."""
    return row_id.rpartition("/")[0]


def last_step(row_id: str) -> str:
    """The last step of an id, with its numbers: `write.1.3`."""
    return row_id.rpartition("/")[2]


def stem(row_id: str) -> str:
    """The id without a candidate's number: all candidates for one text share it."""
    head, slash, last = row_id.rpartition("/")
    return head + slash + ".".join(last.split(".")[:2])


def variant(row_id: str) -> int:
    """The variant of the text that an id descends from: 1 for `.../write.1` and `.../write.1.3/paint.0`. The
    last text counts; 0 for texts without a number."""
    numbers = _TEXT_STEP.findall(row_id)
    return int(numbers[-1]) if numbers else 0


def lineage(row_id: str) -> Iterator[str]:
    """The id and every id that it may descend from, longest first."""
    while row_id:
        yield row_id
        row_id = parent(row_id)


def ancestor(row_id: str, table: Mapping[str, T]) -> T | None:
    """The entry of the nearest row in `table` that an id descends from (or is), or None."""
    return next((table[found] for found in lineage(row_id) if found in table), None)


def digest_of(*parts: Any) -> str:
    """128 bits over the JSON of the parts, as 32 hex digits: the digest of a stage or a plan."""
    return key_of(json.dumps(parts, ensure_ascii=False, separators=(",", ":"), default=str))


def key_of(prefix: str, *parts: str) -> str:
    """A row's key: a digest of strings that must not run together. `prefix` is the stage's digest of
    everything that is the same for all rows."""
    text = prefix + "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
