"""Webdataset tars read by row number: an index with offset and size of each row's image, .txt and .json, made
by one walk over the headers.

The index can be kept in a file, which all processes and workers map into memory.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...data.captions import parse_object
from ...data.images import IMAGE_SUFFIXES
from ...data.tar import samples
from ...errors import UserError
from ...storage.files import replacing
from ...storage.location import FileStats
from .rows import BLOCK, Pair, RowFault, captions_of

_INDEX = np.dtype(
    [
        ("shard", "<u4"),
        *(
            (name + end, kind)
            for name in ("image", "text", "json")
            for end, kind in (("", "<i8"), ("_size", "<u4"))
        ),
    ]
)
_OPEN_FILES = 64
Array = np.ndarray[Any, Any]


class TarShards:
    """The samples of webdataset tars that have an image and a caption (.txt, or keys of the .json)."""

    def __init__(self, files: Sequence[str], captions: Sequence[str] | None, cache: Path | None) -> None:
        self.name = files[0] if len(files) == 1 else os.path.dirname(files[0])
        self._files, self._fields = list(files), list(captions or ["text"])
        self._pid, self._open = os.getpid(), OrderedDict[str, int]()
        self.left_out, self.keep_rows = Counter[str](), 0
        self._index = _cached(cache, self._files, self._fields, self.left_out)
        self.rows = len(self._index)
        self._starts = np.searchsorted(self._index["shard"], np.arange(len(files)))
        cuts = [np.arange(a, b, BLOCK) for a, b in pairwise([*self._starts, self.rows])]
        self.blocks = np.concatenate([*cuts, [self.rows]]).astype(np.int64)

    def id(self, row: int) -> str:
        shard = int(self._index["shard"][row])
        return f"{os.path.splitext(os.path.basename(self._files[shard]))[0]}:{row - int(self._starts[shard])}"

    def read(self, row: int) -> Pair:
        entry = self._index[row]
        values: dict[str, Any] = {}
        if self._fields != ["text"]:
            with contextlib.suppress(UnicodeDecodeError):
                values = parse_object(self._member(entry, "json").decode("utf-8-sig")) or {}
        if entry["text_size"]:
            values["text"] = self._member(entry, "text").decode("utf-8", "replace")
        return Pair(self.id(row), self._member(entry, "image"), captions_of(values, self._fields))

    def _member(self, entry: Any, name: str) -> bytes:
        """The bytes of a row's image, text or json. Keeps a few tars open; every process opens its own."""
        path, size = self._files[int(entry["shard"])], int(entry[f"{name}_size"])
        if self._pid != os.getpid():  # a worker: its parent's descriptors are not its own to close
            self._pid, self._open = os.getpid(), OrderedDict()
        if path not in self._open:
            try:
                self._open[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise RowFault("unreadable_file") from error
            if len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        data = os.pread(self._open[path], size, int(entry[name]))
        if len(data) != size:
            raise RowFault("truncated_archive")
        return data


def _cached(cache: Path | None, files: Sequence[str], fields: Sequence[str], left_out: Counter[str]) -> Array:
    """The index of the tars, read from `cache` if it holds one for these fields and files (path, size,
    time)."""
    if cache is None:
        return _scan_all(files, fields, left_out)
    facts = [1, list(map(FileStats().of, files)), sorted(fields)]
    path = cache / f"{hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()}.npy"
    counts = path.with_suffix(".json")
    if not path.exists():
        rows = _scan_all(files, fields, left_out)
        cache.mkdir(parents=True, exist_ok=True)
        counts.write_text(json.dumps(left_out), encoding="utf-8")
        with replacing(path) as made:
            _save(made, rows)
    elif counts.is_file():
        left_out.update(json.loads(counts.read_text(encoding="utf-8")))
    loaded: Array = np.load(path, mmap_mode="r")
    return loaded


def _save(path: Path, rows: Array) -> None:
    """Writes the same bytes as `np.save`, whose own writer does not report a full disk."""
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(rows))
        stream.write(rows.view(np.uint8).data)


def _scan_all(files: Sequence[str], fields: Sequence[str], left_out: Counter[str]) -> Array:
    return np.concatenate(
        [np.array(list(_scan(f, n, fields, left_out)), dtype=_INDEX) for n, f in enumerate(files)]
    )


def _scan(path: str, number: int, fields: Sequence[str], left_out: Counter[str]) -> Iterator[tuple[int, ...]]:
    """The usable samples of one tar as rows of the index, in its order; counts the others."""
    for sample in samples(path):
        image = next((m for s, m in sample.members.items() if s in IMAGE_SUFFIXES), None)
        text, values = sample.members.get("txt"), sample.members.get("json")
        caption = ("text" in fields and text) or (values if any(f != "text" for f in fields) else None)
        if sample.reason == "unreadable_file":
            raise UserError(f"{path}: not a readable tar; fetch or write it again")
        if sample.reason or image is None or caption is None:
            left_out[sample.reason or ("no_image" if image is None else "no_caption")] += 1
            continue
        yield (number, *(n for m in (image, text, values) for n in ((m.offset, m.size) if m else (0, 0))))
