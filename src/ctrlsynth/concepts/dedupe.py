"""Captions that stand in a set more than once: found over any number of parts in bounded memory, in any order
with the same result.

Every caption has a digest and a rank, both numbers. Digests go to bucket files by their first byte; one
bucket after the other is sorted, and of equal digests the lowest rank stays. Near duplicates use the same
buckets with a digest for each band of a MinHash signature."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BUCKETS = 256
"""Memory is that of one bucket: 100 million captions take 40 bytes each on disk (nine times that with bands),
16 MB at a time in memory (140 MB)."""
BANDS, BAND = 8, 8
"""Near duplicates share one of 8 bands of 8 MinHash values: of pairs with 84% of their runs of two words in
common 9 in 10 are found."""
_WORD = re.compile(r"\w+")
_RECORD = np.dtype(
    [
        ("high", "<u8"),
        ("low", "<u8"),
        ("rank", "<u8"),
        ("part", "<i4"),
        ("row", "<i4"),
        ("kind", "<i4"),
        ("pad", "<i4"),
    ]
)
_PRIME = np.uint64((1 << 31) - 1)

Found = dict[int, dict[str, NDArray[np.int32]]]
"""Part -> `duplicate` and `near_duplicate`: the rows, in order, that another caption stands for."""


def digests(texts: Sequence[str]) -> NDArray[np.uint64]:
    """128 bits a text, shape (texts, 2): equal for equal texts only."""
    raw = b"".join(
        hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=16).digest() for t in texts
    )
    return np.frombuffer(raw, "<u8").reshape(-1, 2)


def bands(texts: Sequence[str]) -> NDArray[np.uint64]:
    """128 bits a band, shape (texts, BANDS, 2): near duplicates share one. Runs of two words, in lower case;
    one word alone is its own."""
    out = np.empty((len(texts), BANDS, 2), "<u8")
    for n, text in enumerate(texts):
        words = _WORD.findall(text.lower()) or [text]
        runs = {" ".join(pair) for pair in pairwise(words)} or {words[0]}
        codes = np.array(
            [int.from_bytes(hashlib.blake2b(r.encode(), digest_size=4).digest(), "big") >> 1 for r in runs],
            np.uint64,
        )
        least = ((codes[:, None] * _FACTORS + _SHIFTS) % _PRIME).min(axis=0).reshape(BANDS, BAND)
        for b in range(BANDS):
            out[n, b] = np.frombuffer(
                hashlib.blake2b(bytes([b]) + least[b].tobytes(), digest_size=16).digest(), "<u8"
            )
    return out


_CHANCE = np.random.Generator(np.random.PCG64(20240201))
_FACTORS = _CHANCE.integers(1, 1 << 31, BANDS * BAND, dtype=np.uint64)
_SHIFTS = _CHANCE.integers(0, 1 << 31, BANDS * BAND, dtype=np.uint64)


def find(
    parts: Iterable[tuple[int, NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64] | None]],
) -> Found:
    """`parts`: (part, digests, ranks, bands or None) of each. Equal captions first; near duplicates among
    what that leaves.

    A caption that shares a band with one of a lower rank goes, whether that one stays or not: so the order of
    the parts does not matter."""
    with tempfile.TemporaryDirectory(prefix="ctrlsynth-") as folder:
        files = [Path(folder) / f"{n:03d}" for n in range(BUCKETS)]
        near = False
        for part, exact, ranks, signature in parts:
            rows = np.arange(len(exact), dtype=np.int32)
            _spread(files, part, exact, ranks, rows, 0)
            if signature is not None:
                near = True
                for b in range(BANDS):
                    _spread(files, part, signature[:, b], ranks, rows, 1)
        gone = _losers(files, 0)
        found = {part: {"duplicate": np.sort(rows)} for part, rows in _by_part(gone)}
        if near:
            for part, rows in _by_part(_losers(files, 1, gone)):
                found.setdefault(part, {})["near_duplicate"] = np.unique(rows)
    return found


def _spread(
    files: Sequence[Path],
    part: int,
    keys: NDArray[np.uint64],
    ranks: NDArray[np.uint64],
    rows: NDArray[np.int32],
    kind: int,
) -> None:
    records = np.zeros(len(keys), _RECORD)
    records["high"], records["low"], records["rank"], records["row"] = keys[:, 0], keys[:, 1], ranks, rows
    records["part"], records["kind"] = part, kind
    bucket = (keys[:, 0] >> np.uint64(56)).astype(np.intp)
    order = np.argsort(bucket, kind="stable")
    ends = np.searchsorted(bucket[order], np.arange(BUCKETS), side="right")
    start = 0
    for number, end in enumerate(ends):
        if end > start:
            with open(files[number], "ab") as handle:
                handle.write(records[order[start:end]].tobytes())
        start = int(end)


def _losers(files: Sequence[Path], kind: int, without: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """part << 32 | row of every record that has an equal of lower rank, bucket by bucket; rows in `without`
    take no part."""
    out = [np.empty(0, np.int64)]
    for file in files:
        if not file.exists():
            continue
        records = np.fromfile(file, _RECORD)
        records = records[records["kind"] == kind]
        if without is not None:
            records = records[~np.isin(_place(records), without)]
        records = records[np.lexsort((_place(records), records["rank"], records["low"], records["high"]))]
        same = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
        out.append(_place(records[1:][same]))
    return np.concatenate(out)


def _place(records: NDArray[np.void]) -> NDArray[np.int64]:
    return np.asarray((records["part"].astype(np.int64) << 32) | records["row"], np.int64)


def _by_part(places: NDArray[np.int64]) -> Iterable[tuple[int, NDArray[np.int32]]]:
    parts = places >> 32
    for part in np.unique(parts):
        yield int(part), (places[parts == part] & 0xFFFFFFFF).astype(np.int32)
