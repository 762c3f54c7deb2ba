"""Coverage (METHODS, section 2): how well a set of captions covers a bank. Entries seen at least 1, 5 and 25
times, the mean count of those seen 25 times, what is never seen, and which few entries hold half of all
matches; before and after balancing, or any two sets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from ..storage.files import open_part
from . import balance
from .match_folder import PIECE, MatchFolder, of_lists
from .matches import Array, Each

LEVELS = (1, 5, 25)


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """How often each entry of a bank is seen in one set of captions. `counts`: int64, one an entry. `mode`:
    the rule by which they were matched, None of a subset that was written before it was kept."""

    name: str
    bank_digest: str
    mode: str | None
    counts: Array
    texts: int
    matched: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """One line of the concept table.

    seen       level -> entries seen at least so often
    mean       mean count of the entries seen at least 25 times; None without any
    half       the fewest entries that together hold half of all matches: the over-represented ones
    """

    name: str
    mode: str | None
    texts: int
    matched: int
    matches: int
    entries: int
    seen: dict[int, int]
    mean: float | None
    half: int


def count_set(path: Path, each: Each = map) -> Counted:
    """The counts of a folder that `concepts match` made, or of a .parquet subset that `concepts balance`
    made. One pass; `each` may count a folder's parts on many machines.

    Raises UserError for anything else.
    """
    mode: str | None
    if path.is_dir():
        folder = MatchFolder.open(path)
        entries, digest, mode, parts = folder.entries, folder.bank_digest, folder.mode, list(folder.parts)
    else:
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{path}: neither a folder of matches nor a .parquet subset of `concepts balance`"
            ) from error
        facts = json.loads((file.schema_arrow.metadata or {}).get(b"ctrlsynth", b"{}"))
        if "entries_in_bank" not in facts:
            raise UserError(
                f"{path}: was not made by `concepts balance`; match its captions first: ctrlsynth concepts "
                f"match {path} ..."
            )
        entries, digest, mode, parts = facts["entries_in_bank"], facts["bank"], facts.get("mode"), [path]
    counts, texts, matched = np.zeros(entries, np.int64), 0, 0
    for one, rows, held in each(partial(_count_part, entries), [p.absolute() for p in parts]):
        counts += one
        texts += rows
        matched += held
    return Counted(str(path), digest, mode, counts, texts, matched)


def _count_part(entries: int, path: Path) -> tuple[Array, int, int]:
    """(count of each entry, captions, captions with an entry) of one file."""
    counts, texts, matched = np.zeros(entries, np.int64), 0, 0
    with open_part(path) as file:
        for piece in file.iter_batches(PIECE, columns=["entries"], use_threads=False):
            found = of_lists(piece["entries"])
            counts += balance.counts([found], entries)
            texts += len(found)
            matched += int(np.count_nonzero(found.lengths()))
    return counts, texts, matched


def coverage(counted: Counted) -> Coverage:
    """The table's line for one set."""
    c = counted.counts
    often = c[c >= LEVELS[-1]]
    total = int(c.sum())
    half = int(np.searchsorted(np.cumsum(np.sort(c)[::-1]) * 2, total)) + 1 if total else 0
    seen = {level: int((c >= level).sum()) for level in LEVELS}
    mean = float(often.mean()) if len(often) else None
    return Coverage(
        counted.name, counted.mode, counted.texts, counted.matched, total, len(c), seen, mean, half
    )


def never_seen(counted: Counted) -> list[int]:
    """The entries that no text holds, in the bank's order."""
    return [int(i) for i in np.flatnonzero(counted.counts == 0)]


def over_represented(counted: Counted) -> list[tuple[int, int]]:
    """(entry, count) of the fewest entries that hold half of all matches, the most frequent first."""
    order = np.argsort(-counted.counts, kind="stable")[: coverage(counted).half]
    return [(int(i), int(counted.counts[i])) for i in order]


def changes(one: Counted, other: Counted) -> Array:
    """How the share of each entry among a set's texts changes from one set to the other: log2 of the ratio.
    So that none is zero, both shares are raised by that of half a text of the smaller set; what neither holds
    has not changed. Raises UserError for sets that were matched with different banks (both digests) or by
    different rules."""
    check_same_matching(one, other)
    half = 0.5 / max(1, min(one.texts, other.texts))
    before, after = (s.counts / max(1, s.texts) + half for s in (one, other))
    return np.asarray(np.log2(after / before))


def check_same_matching(one: Counted, other: Counted) -> None:
    """Raises UserError for sets that were matched with different banks (both digests) or by different rules
    (both modes). A mode that is not known passes."""
    if one.bank_digest != other.bank_digest:
        raise UserError(
            f"{one.name} was matched with the bank {one.bank_digest}, {other.name} with "
            f"{other.bank_digest}: not comparable"
        )
    if None not in (one.mode, other.mode) and one.mode != other.mode:
        raise UserError(
            f"{one.name} was matched with --mode {one.mode}, {other.name} with --mode {other.mode}: not "
            f"comparable"
        )
