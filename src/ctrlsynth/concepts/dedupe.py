"""Captions that a set holds more than once, found over any number of parts in bounded memory, whatever their
order.

Every caption has a digest and a rank. Digests go to bucket files by their first byte; one bucket after the
other is sorted, and of equal digests the one with the lowest rank stays."""

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BUCKETS = 256
"""Memory holds one bucket: 100 million captions take 32 bytes each on disk, 13 MB at a time in memory."""
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("rank", "<u8"), ("at", "<i8")])


def digests(texts: Sequence[str]) -> NDArray[np.uint64]:
    """128 bits per text, shape (texts, 2): equal for equal texts only."""
    raw = b"".join(
        hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=16).digest() for t in texts
    )
    return np.frombuffer(raw, "<u8").reshape(-1, 2)


def find(
    parts: Iterable[tuple[int, NDArray[np.uint64], NDArray[np.uint64]]],
) -> dict[int, NDArray[np.int32]]:
    """Returns part -> its rows, in order, that equal a row of lower rank; `parts`: (part, digests, ranks)."""
    with tempfile.TemporaryDirectory(prefix="ctrlsynth-") as folder:
        files = [Path(folder) / f"{n:03d}" for n in range(BUCKETS)]
        for part, keys, ranks in parts:
            places = (part << 32) + np.arange(len(keys))
            records = np.rec.fromarrays([keys[:, 0], keys[:, 1], ranks, places], _RECORD)
            buckets = (keys[:, 0] >> np.uint64(56)).astype(np.intp)
            order = np.argsort(buckets, kind="stable")
            ends = np.searchsorted(buckets[order], np.arange(BUCKETS), side="right")
            for file, rows in zip(files, np.split(order, ends[:-1]), strict=True):
                if len(rows):
                    with open(file, "ab") as handle:
                        handle.write(records[rows].tobytes())
        found = [_repeats(np.fromfile(file, _RECORD)) for file in files if file.exists()]
    places = np.sort(np.concatenate([np.empty(0, np.int64), *found]))
    of = places >> 32
    return {int(part): (places[of == part] & 0xFFFFFFFF).astype(np.int32) for part in np.unique(of)}


def _repeats(records: NDArray[np.void]) -> NDArray[np.int64]:
    """part << 32 | row of the records that have an equal of lower rank."""
    records = records[np.lexsort((records["at"], records["rank"], records["low"], records["high"]))]
    same = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
    return np.asarray(records["at"][1:][same], np.int64)
