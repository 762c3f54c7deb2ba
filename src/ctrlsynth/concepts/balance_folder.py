"""`concepts balance`: a balanced (or, as the ablation, a random) subset of a folder of matches, in passes
over its parts.

Captions that stand more than once count once: equal ones are found in buckets on disk before anything is
counted, and which of them stays hangs on the ids alone. Memory: the counts (8 bytes an entry), a piece of
some ten thousand captions, one bucket, and 8 bytes a duplicate, however many captions there are."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from ..sample import hash_int
from ..storage.files import SCHEMA, disk_errors, publish, temporary
from . import balance, dedupe
from .match_folder import COLUMNS, MatchFolder, as_lists, of_lists
from .matches import Array, Matches

SUFFIXES = (".parquet", ".jsonl", ".csv", ".txt")
Say = Callable[[str, int], None]
"""Is told which pass works and how many captions it has just done."""


@dataclass(frozen=True, slots=True)
class Balanced:
    """How a subset was or will be drawn. `captions` = `duplicates` + `near_duplicates` + those without an
    entry (none with random sampling) + `pool`.

    t          None with random sampling
    expected   the mean size over all seeds
    kept       None before the sampling
    """

    captions: int
    duplicates: int
    near_duplicates: int
    pool: int
    t: float | None
    expected: float
    seed: int
    kept: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What one draw needs to know of all captions: the rows that are duplicates, a piece, and the counts of
    the others."""

    folder: MatchFolder
    gone: dict[int, Array]
    counts: Array
    told: Balanced


def plan(
    folder: MatchFolder, *, size: int | None = None, t: float | None = None, random: bool = False,
    seed: int = 0, duplicates: bool = False,
    near_duplicates: bool = False, say: Say = lambda name, rows: None,
) -> Plan:  # fmt: skip
    """Counts, and solves t for a wanted size. Exactly one of `size` and `t`; `random` goes with `size`;
    `duplicates` leaves them in, `near_duplicates` takes out what is nearly equal too, as the recipe's key
    does.

    Raises UserError for a t that is not above 0, a size under 1 and one above the pool.
    """
    if (size is None) == (t is None) or (random and size is None):
        raise UserError(
            "give the size of the subset (--size M) or the threshold (--t T), one of them; --random goes "
            "with --size"
        )
    if duplicates and near_duplicates:
        raise UserError("--keep-duplicates and --near-duplicates: one of them")
    if size is not None:
        balance.check_size(size)
    if t is not None:
        balance.check_t(t)
    captions = folder.counts().texts
    twice = {} if duplicates else _duplicates(folder, seed, near_duplicates, say)
    gone = {piece: np.concatenate(list(reasons.values())) for piece, reasons in twice.items()}
    lost = Counter[str]()
    for reasons in twice.values():
        lost.update({why: len(rows) for why, rows in reasons.items()})

    def pieces(name: str) -> Iterator[Matches]:
        for number, piece in enumerate(folder.pieces(["entries"])):
            say(name, len(piece))
            yield of_lists(piece["entries"]).select(_stay(len(piece), gone.get(number)))

    counts, pool = np.zeros(folder.entries, np.int64), 0
    for found in pieces("counts"):
        counts += balance.counts([found], folder.entries)
        pool += int(np.count_nonzero(found.lengths()))
    if not pool and not random:
        raise UserError(
            f"{folder.root}: no caption holds an entry of the bank: nothing to balance; is it the right bank?"
        )
    pool = captions - lost.total() if random else pool
    told = Balanced(captions, lost["duplicate"], lost["near_duplicate"], pool, t, float(size or 0), seed)
    if random:
        balance.random_mask(np.zeros(0), size or 0, told.pool)
        return Plan(folder, gone, counts, told)

    def sizes(grid: Sequence[float]) -> list[int]:
        total = [0] * len(grid)
        for found in pieces("sizes"):
            total = [a + b for a, b in zip(total, balance.expected_sizes(found, counts, grid), strict=True)]
        return total

    if size is not None:
        t = balance.solve_t(sizes, counts, size)
    assert t is not None
    return Plan(folder, gone, counts, replace(told, t=t, expected=sizes([t])[0] / balance.UNIT))


def _duplicates(folder: MatchFolder, seed: int, near: bool, say: Say) -> dedupe.Found:
    """The captions of each piece that another one stands for."""

    def scanned() -> Iterator[tuple[int, Any, Any, Any]]:
        for number, piece in enumerate(folder.pieces(["id", "text"])):
            say("duplicates", len(piece))
            ranks = np.array([hash_int(seed, i, "duplicate") for i in piece["id"].to_pylist()], np.uint64)
            texts = piece["text"].to_pylist()
            yield number, dedupe.digests(texts), ranks, dedupe.bands(texts) if near else None

    return dedupe.find(scanned())


def _stay(rows: int, gone: Array | None) -> Array:
    mask = np.ones(rows, bool)
    if gone is not None:
        mask[gone] = False
    return mask


def sample(made: Plan, out: Path, say: Say = lambda name, rows: None) -> Balanced:
    """Draws the subset and writes it, in the corpus' order: .parquet (`id`, `text`, `entries`), .jsonl and
    .csv (`id`, `text`, `concepts`; in csv as a JSON list, since an entry may hold any sign) or .txt (a text a
    line). Never over a file that is there."""
    check_out(out)
    told = made.told
    names = made.folder.bank().entries
    temp = temporary(out)
    kept = 0
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _Writer(temp, out.suffix, names, made) as writer:
                for number, piece in enumerate(made.folder.pieces(COLUMNS.names)):
                    kept += _sample_piece(made, number, piece, writer)
                    say("sample", len(piece))
            publish(temp, out)
        finally:
            temp.unlink(missing_ok=True)
    return replace(told, kept=kept)


def check_out(out: Path) -> None:
    """Raises UserError for a file that is there already or whose suffix is not known."""
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out}: a subset is written as {', '.join(SUFFIXES)}")
    if out.exists():
        raise UserError(f"{out}: is there already; give another name")


def _sample_piece(made: Plan, number: int, piece: pa.RecordBatch, writer: _Writer) -> int:
    told = made.told
    found = of_lists(piece["entries"])
    u = balance.draws(told.seed, piece["id"].to_pylist())
    if told.t is None:
        mask = balance.random_mask(u, int(told.expected), told.pool)
    else:
        mask = balance.keep_mask(found, made.counts, told.t, u)
    mask &= _stay(len(mask), made.gone.get(number))
    writer.write(piece["id"].filter(pa.array(mask)), piece["text"].filter(pa.array(mask)), found.select(mask))
    return int(mask.sum())


class _Writer:
    """A subset's file, of any of the formats."""

    def __init__(self, path: Path, suffix: str, names: Sequence[str], made: Plan) -> None:
        self._names, self._suffix = names, suffix
        meta = {
            k: getattr(made.told, k)
            for k in ("captions", "duplicates", "near_duplicates", "pool", "t", "expected", "seed")
        }
        bank = {
            "bank": made.folder.bank_digest,
            "entries_in_bank": made.folder.entries,
            "mode": made.folder.mode,
        }
        facts = json.dumps({"schema": SCHEMA, **bank, **meta})
        self._table: Any = None
        self._stream: IO[str] = io.StringIO()
        if suffix == ".parquet":
            self._table = pq.ParquetWriter(
                path,
                COLUMNS.with_metadata({b"ctrlsynth": facts.encode()}),
                compression="zstd",
                write_statistics=False,
            )
            return
        self._stream = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115  (closed by __exit__)
        self._rows = csv.writer(self._stream, lineterminator="\n")
        if suffix == ".csv":
            self._rows.writerow(["id", "text", "concepts"])

    def write(self, ids: pa.Array, texts: pa.Array, found: Matches) -> None:
        if self._table is not None:
            self._table.write_batch(pa.record_batch([ids, texts, as_lists(found)], schema=COLUMNS))
            return
        for one, text, entries in zip(ids.to_pylist(), texts.to_pylist(), found.lists(), strict=True):
            concepts = [self._names[e] for e in entries]
            if self._suffix == ".txt":
                self._stream.write(" ".join(text.split("\n")).replace("\r", " ") + "\n")
            elif self._suffix == ".csv":
                self._rows.writerow([one, text, json.dumps(concepts, ensure_ascii=False)])
            else:
                self._stream.write(
                    json.dumps({"id": one, "text": text, "concepts": concepts}, ensure_ascii=False) + "\n"
                )

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        (self._table if self._table is not None else self._stream).close()
