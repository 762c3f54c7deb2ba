"""The folder of matches that `concepts match` writes; balancing and coverage read it, so that nothing is
matched twice.

    DIR/match.json              the bank's digest, the mode, and the parts of the corpus with their files'
                                size and date
    DIR/bank.parquet            the bank as it was given
    DIR/matches-00000.parquet   a part: `id`, `text`, `entries` (numbers of entries of the bank); in its
                                footer what was counted

Parts appear atomically, so the same command continues after an interruption. Another bank, mode or corpus is
refused."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError, unknown
from ..storage.files import (
    SCHEMA,
    disk_errors,
    open_part,
    publish,
    read_json,
    remove_leftovers,
    temporary,
    write_json,
)
from .bank import Bank, load_bank, read_bank, write_bank
from .corpus import Part, read
from .match import MODES, Matcher, Matches, Mode, offsets_of

COLUMNS = pa.schema([("id", pa.string()), ("text", pa.large_string()), ("entries", pa.list_(pa.int32()))])
BATCH = 65_536
FIRST = 20
"""Rows per part that are named among those set aside."""
Tick = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Counts:
    """Captions of a part or a whole folder: `rows` = `texts` + set aside by reason. `matched` hold an entry,
    `pairs` with all of them.

    first    file, row and reason of the first rows that were set aside
    """

    rows: int
    texts: int
    matched: int
    pairs: int
    aside: Mapping[str, int]
    first: tuple[tuple[str, int, str], ...]

    @classmethod
    def of(cls, footers: Sequence[Mapping[str, Any]]) -> Counts:
        """The sum of what the parts' footers say."""
        sums = {key: sum(one[key] for one in footers) for key in ("rows", "texts", "matched", "pairs")}
        aside = sum((Counter(one["aside"]) for one in footers), Counter[str]())
        first = [(str(f), int(r), str(why)) for one in footers for f, r, why in one["first"]]
        return cls(**sums, aside=dict(sorted(aside.items())), first=tuple(first[:FIRST]))


@dataclass(frozen=True, slots=True)
class MatchFolder:
    """A finished folder of matches, read only."""

    root: Path
    bank_digest: str
    entries: int
    mode: str
    parts: tuple[Path, ...]

    @classmethod
    def open(cls, root: Path) -> MatchFolder:
        """Raises UserError for a folder without matches, or whose matching has not finished."""
        plan = read_json(root / "match.json") if root.is_dir() else None
        if plan is None:
            raise UserError(
                f"{root}: no matches there; make them with: ctrlsynth concepts match CAPTIONS --bank BANK "
                f"--out {root}"
            )
        parts = tuple(part_path(root, i) for i in range(len(plan["parts"])))
        missing = sum(not p.is_file() for p in parts)
        if missing:
            raise UserError(
                f"{root}: {missing} of {len(parts)} parts are not matched yet; run the same `concepts "
                f"match` again"
            )
        return cls(root, plan["bank"], plan["entries"], plan["mode"], parts)

    def bank(self) -> Bank:
        """The bank that was matched."""
        return load_bank(self.root / "bank.parquet")

    def counts(self) -> Counts:
        """What all parts counted."""
        footers = []
        for path in self.parts:
            with open_part(path) as file:
                footers.append(json.loads(file.metadata.metadata[b"ctrlsynth"]))
        return Counts.of(footers)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The columns of all captions in order, some ten thousand rows at a time; every pass cuts them the
        same way."""
        for path in self.parts:
            with open_part(path) as file:
                yield from file.iter_batches(BATCH, columns=list(names), use_threads=False)


def part_path(root: Path, index: int) -> Path:
    """Where a part's matches are."""
    return root / f"matches-{index:05d}.parquet"


def of_lists(column: pa.Array) -> Matches:
    """An arrow column of `as_lists` as matches."""
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return Matches(offsets_of(lengths), column.flatten().to_numpy(zero_copy_only=False))


def as_lists(matches: Matches) -> pa.Array:
    """Matches as an arrow column."""
    return pa.ListArray.from_arrays(pa.array(matches.offsets.astype(np.int32)), pa.array(matches.entries))


def prepare(parts: Sequence[Part], bank: Path, mode: Mode, root: Path) -> tuple[Bank, list[Part]]:
    """Makes or checks the folder; returns the bank and the parts that are still to do.

    Raises UserError where the folder was made with another bank (both digests), mode or corpus.
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    loaded = load_bank(bank)
    plan: dict[str, Any] = {
        "bank": loaded.digest,
        "entries": len(loaded.entries),
        "mode": mode,
        "parts": [[p.file, p.row, p.fingerprint] for p in parts],
    }
    remove_leftovers(root)
    old = read_json(root / "match.json") if root.is_dir() else None
    if old is None:
        begun = root / "bank.parquet"  # by a command that was stopped here, if it is the same bank
        if root.is_dir() and any(p != begun and not p.name.startswith(".tmp-") for p in root.iterdir()):
            raise UserError(f"{root}: is not empty and holds no matches; give another folder")
        if begun.exists() and (held := load_bank(begun).digest) != loaded.digest:
            raise UserError(
                f"{root}: holds no matches, but the bank {held}; {bank} is {loaded.digest}; give another "
                f"folder"
            )
        with disk_errors(root / "match.json"):
            root.mkdir(parents=True, exist_ok=True)
            if not begun.exists():
                write_bank(read_bank(bank), begun)
        write_json(root / "match.json", plan)
        old = plan
    differences = {
        "bank": f"the bank {old['bank']}, {bank} is {loaded.digest}",
        "mode": f"--mode {old['mode']}, not {mode}",
        "parts": f"other captions ({_difference(old['parts'], plan['parts'])})",
    }
    for key, what in differences.items():
        if old[key] != plan[key]:
            raise UserError(f"{root}: was matched with {what}; give another folder")
    return loaded, [p for p in parts if not part_path(root, p.index).is_file()]


def _difference(old: Sequence[Any], new: Sequence[Any]) -> str:
    if len(old) != len(new):
        return f"{len(old)} parts, now {len(new)}"
    changed = ((a[0], b[0]) for a, b in zip(old, new, strict=True) if a != b)
    was, now = next(changed, ("", ""))
    return f"{now} has changed" if was == now else f"{was}, now {now}"


def match_part(part: Part, matcher: Matcher, root: Path, tick: Tick = lambda rows: None) -> Counts:
    """Matches one part and publishes its file. Any process may call it: two writers make equal files, and the
    first one stays."""
    final = part_path(root, part.index)
    made = temporary(final)
    counts, aside = Counter(rows=0, texts=0, matched=0, pairs=0), Counter[str]()
    first: list[tuple[str, int, str]] = []
    started = time.monotonic()
    options: Any = {"compression": "zstd", "compression_level": 1, "write_statistics": False}
    with disk_errors(final):
        try:
            with pq.ParquetWriter(made, COLUMNS, **options) as writer:
                for batch in read(part):
                    found, rows = matcher.match(batch.texts), len(batch.texts) + len(batch.aside)
                    matched = int(np.count_nonzero(found.lengths()))
                    counts.update(rows=rows, texts=len(found), matched=matched, pairs=len(found.entries))
                    aside.update(reason for _, reason in batch.aside)
                    first += [(part.file, row, reason) for row, reason in batch.aside[: FIRST - len(first)]]
                    columns = [batch.ids, batch.texts, as_lists(found)]
                    writer.write_batch(pa.record_batch(columns, schema=COLUMNS))
                    tick(rows)
                footer = {"schema": SCHEMA, **counts, "aside": dict(aside), "first": first}
                footer["seconds"] = round(time.monotonic() - started, 3)
                writer.add_key_value_metadata({"ctrlsynth": json.dumps(footer)})
            publish(made, final)
        finally:
            made.unlink(missing_ok=True)
    return Counts.of([footer])


def match_local(
    parts: Sequence[Part], matcher: Matcher, root: Path, workers: int = 1, tick: Tick = lambda rows: None
) -> None:
    """Matches parts in threads of this process; the kernel and arrow release the interpreter's lock."""
    with ThreadPoolExecutor(workers) as pool:
        each = map if workers == 1 else pool.map  # one worker stops at once on Ctrl-C
        list(each(lambda part: match_part(part, matcher, root, tick), parts))


def match_ray(
    parts: Sequence[Part], bank: Path, mode: Mode, root: Path, tick: Tick = lambda rows: None
) -> None:
    """Matches parts as tasks of the cluster that this process is in (`engines.ray.connected`); every worker
    builds the matcher once. `bank`, `root` and the corpus are on a shared file system."""
    import ray

    task = ray.remote(_match_remote)
    there = [replace(part, file=os.path.abspath(part.file)) for part in parts]  # workers run in other folders
    left = [task.remote(part, str(bank.absolute()), mode, str(root.absolute())) for part in there]
    while left:
        done, left = ray.wait(left)
        for counts in ray.get(done):
            tick(counts.rows)


def _match_remote(part: Part, bank: str, mode: Mode, root: str) -> Counts:
    return match_part(part, _matcher(bank, mode), Path(root))


@lru_cache(maxsize=1)
def _matcher(bank: str, mode: Mode) -> Matcher:
    return Matcher(load_bank(Path(bank)).entries, mode)
