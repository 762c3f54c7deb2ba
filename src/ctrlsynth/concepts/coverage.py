"""Coverage (METHODS, section 2): how well a set of captions covers a bank. Entries seen at least 1, 5 and 25
times, the mean count of those seen 25 times, what is never seen, and which few entries hold half of all
matches; before and after balancing, or any two sets."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from ..storage.files import open_part
from . import balance
from .bank import load_bank
from .folder import BATCH, MatchFolder, of_lists
from .match import Array, Each

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
        for batch in file.iter_batches(BATCH, columns=["entries"], use_threads=False):
            found = of_lists(batch["entries"])
            counts += balance.counts([found], entries)
            texts += len(found)
            matched += int(np.count_nonzero(found.lengths()))
    return counts, texts, matched


def coverage(counted: Counted) -> dict[str, Any]:
    """One line of the concept table.

    seen       level -> entries seen at least that often
    mean       mean count of the entries seen at least 25 times; None if there are none
    half       the fewest entries that together hold half of all matches: the over-represented ones
    """
    c = counted.counts
    often = c[c >= LEVELS[-1]]
    total = int(c.sum())
    return {
        "name": counted.name,
        "mode": counted.mode,
        "texts": counted.texts,
        "matched": counted.matched,
        "matches": total,
        "entries": len(c),
        "seen": {level: int((c >= level).sum()) for level in LEVELS},
        "mean": float(often.mean()) if len(often) else None,
        "half": int(np.searchsorted(np.cumsum(np.sort(c)[::-1]) * 2, total)) + 1 if total else 0,
    }


def never_seen(counted: Counted) -> list[int]:
    """The entries that no text holds, in the bank's order."""
    return [int(i) for i in np.flatnonzero(counted.counts == 0)]


def over_represented(counted: Counted) -> list[tuple[int, int]]:
    """(entry, count) of the fewest entries that hold half of all matches, the most frequent first."""
    order = np.argsort(-counted.counts, kind="stable")[: coverage(counted)["half"]]
    return [(int(i), int(counted.counts[i])) for i in order]


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


def names_of(paths: Sequence[Path], bank: Path | None, digest: str) -> Sequence[str]:
    """The bank's entries: of `bank`, else of the first folder of matches among `paths`. UserError when none
    is at hand or it is another."""
    at = bank or next((p / "bank.parquet" for p in paths if p.is_dir()), None)
    if at is None:
        raise UserError(
            "a subset names its bank by digest alone; say where the bank is with --bank, or compare with "
            "its folder of matches"
        )
    found = load_bank(at)
    if found.digest != digest:
        raise UserError(f"{at} is the bank {found.digest}; the captions were matched with {digest}")
    return found.entries


def report(sets: Sequence[Counted], names: Sequence[str], top: int) -> dict[str, Any]:
    """The concept table with the first `top` entries of each list; of two sets also the entries whose share
    rose and fell most.

    A change is the ratio of an entry's share among the texts of the second set to that of the first. So that
    none is zero, both shares are raised by that of half a text of the smaller set."""
    lines = [
        {
            **coverage(one),
            "never_seen": len(never := never_seen(one)),
            "never_seen_first": [names[i] for i in never[:top]],
            "over_represented": [[names[i], count] for i, count in over_represented(one)[:top]],
        }
        for one in sets
    ]
    moved = []
    if len(sets) == 2:
        check_same_matching(*sets)
        half = 0.5 / max(1, min(one.texts for one in sets))
        before, after = (one.counts / max(1, one.texts) + half for one in sets)
        change = np.log2(after / before)
        for sign, word in ((-1, "rose"), (1, "fell")):
            some = [i for i in np.argsort(sign * change, kind="stable")[:top] if sign * change[i] < 0]
            entries = [[names[i], float(2 ** change[i])] for i in some]
            moved.append({"what": f"share of texts {word} most", "entries": entries})
    return {"bank": sets[0].bank_digest, "sets": lines, "changes": moved}


def check_new(sets: int, plot: Path | None, lists: Path | None) -> None:
    """Raises UserError for a plot or a list of this many sets that already exists."""
    wanted = [plot] if plot is not None else []
    if lists is not None:
        wanted += [path for number in range(1, sets + 1) for path in _list_files(lists, number)]
    for path in wanted:
        if path.exists():
            raise UserError(f"{path}: already exists; give another name")


def _list_files(folder: Path, number: int) -> tuple[Path, Path]:
    """Never seen and over-represented, of the set with this number (from 1)."""
    tail = "" if number == 1 else f"-{number}"
    return folder / f"never-seen{tail}.txt", folder / f"over-represented{tail}.csv"


def write_lists(sets: Sequence[Counted], names: Sequence[str], folder: Path) -> None:
    """`never-seen.txt` and `over-represented.csv` (entry, texts, share of texts) of each set; the second
    set's names end in `-2`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(sets, 1):
        never, most = _list_files(folder, number)
        never.write_text("".join(f"{names[i]}\n" for i in never_seen(one)), encoding="utf-8")
        with open(most, "w", encoding="utf-8", newline="") as handle:
            rows = csv.writer(handle, lineterminator="\n")
            rows.writerow(["entry", "texts", "share"])
            rows.writerows(
                [names[i], count, f"{count / max(one.texts, 1):.6f}"] for i, count in over_represented(one)
            )
