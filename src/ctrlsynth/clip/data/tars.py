"""Webdataset tars read by row number: an index of three places a row (image, .txt, .json), made by one look
at the headers.

The index can be kept in a file, which all processes and workers map into memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import uuid
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...data.images import IMAGE_SUFFIXES
from ...errors import UserError, first_line
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


class _Handles:
    """Open files by path, a few at a time, opened again in every process that reads."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, path: str, offset: int, size: int) -> bytes:
        if self._pid != os.getpid():  # a forked worker: its parent's descriptors are not its own to close
            self._pid, self._open = os.getpid(), OrderedDict()
        handle = self._open.get(path)
        if handle is None:
            try:
                handle = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise RowFault("unreadable_file") from error
            self._open[path] = handle
            if len(self._open) > _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        data = os.pread(handle, size, offset)
        if len(data) != size:
            raise RowFault("truncated_archive")
        return data


class TarShards:
    """Webdataset tars: neighbours with one key are a sample of an image, a .txt and a .json."""

    def __init__(
        self,
        files: Sequence[str],
        captions: Sequence[str] | None,
        cache: Path | None,
        where: str = "train.data",
    ) -> None:
        self.name = files[0] if len(files) == 1 else os.path.dirname(files[0])
        self._files, self._handles = list(files), _Handles()
        self._fields = list(captions or ["text"])
        self.left_out, self.keep_rows = Counter[str](), 0
        try:
            self._index = _cached(cache, self._files, self._fields, self.left_out)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        self.rows = len(self._index)
        if not self.rows:
            found = ", ".join(f"{n:,} {r}" for r, n in sorted(self.left_out.items())) or "no samples at all"
            raise UserError(
                f"{where}: {self.name}: no sample with an image and a caption "
                f"({' or '.join(self._fields)}); found {found}"
            )
        starts = np.flatnonzero(np.diff(self._index["shard"], prepend=-1))
        ends = [*starts[1:], self.rows]
        self._starts = np.zeros(len(files), dtype=np.int64)
        self._starts[self._index["shard"][starts]] = starts
        cuts = [np.arange(a, b, BLOCK) for a, b in zip(starts, ends, strict=True)]
        self.blocks = np.concatenate([*cuts, [self.rows]]).astype(np.int64)

    def id(self, row: int) -> str:
        shard = int(self._index["shard"][row])
        return f"{os.path.splitext(os.path.basename(self._files[shard]))[0]}:{row - int(self._starts[shard])}"

    def read(self, row: int) -> Pair:
        entry = self._index[row]
        path = self._files[int(entry["shard"])]

        def member(name: str) -> bytes:
            return self._handles.read(path, int(entry[name]), int(entry[f"{name}_size"]))

        values: dict[str, Any] = {}
        if any(f != "text" for f in self._fields) and entry["json_size"]:
            with contextlib.suppress(ValueError):
                loaded = json.loads(member("json"))
                values = loaded if isinstance(loaded, dict) else {}
        if entry["text_size"]:
            values["text"] = member("text").decode("utf-8", "replace")
        return Pair(self.id(row), member("image"), captions_of(values, self._fields))


def _cached(
    cache: Path | None, files: Sequence[str], fields: Sequence[str], left_out: Counter[str]
) -> np.ndarray[Any, Any]:
    """The index of the tars, from `cache` when files and fields are the same (path, size, time)."""
    if cache is None:
        return _scan_all(files, fields, left_out)
    facts = [[f, s.st_size, s.st_mtime_ns] for f in files for s in [os.stat(f)]]
    mark = hashlib.blake2b(json.dumps([1, facts, sorted(fields)]).encode(), digest_size=8).hexdigest()
    path = cache / f"{mark}.npy"
    if not path.exists():
        rows = _scan_all(files, fields, left_out)
        cache.mkdir(parents=True, exist_ok=True)
        made = cache / f".{mark}~{uuid.uuid4().hex[:8]}.npy"
        _save(made, rows)
        (cache / f"{mark}.json").write_text(json.dumps(left_out), encoding="utf-8")
        os.replace(made, path)
    with contextlib.suppress(OSError, ValueError):
        left_out.update(
            json.loads((cache / f"{mark}.json").read_text(encoding="utf-8")) if not left_out else {}
        )
    loaded: np.ndarray[Any, Any] = np.load(path, mmap_mode="r")
    return loaded


def _save(path: Path, rows: np.ndarray[Any, Any]) -> None:
    """As `np.save`, whose own writer does not say that the disk is full."""
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(rows))
        stream.write(rows.view(np.uint8).data)


def _scan_all(files: Sequence[str], fields: Sequence[str], left_out: Counter[str]) -> np.ndarray[Any, Any]:
    tables = []
    for number, path in enumerate(files):
        rows = list(_scan(path, number, fields, left_out))
        tables.append(np.array(rows, dtype=_INDEX))
    return np.concatenate(tables) if tables else np.empty(0, _INDEX)


@dataclass(slots=True)
class _Sample:
    key: str
    image: tuple[int, int] | None = None
    text: tuple[int, int] | None = None
    json: tuple[int, int] | None = None
    seen: set[str] = field(default_factory=set)


def _scan(path: str, number: int, fields: Sequence[str], left_out: Counter[str]) -> Iterator[tuple[int, ...]]:
    """The usable samples of one tar, in its order."""
    size = os.path.getsize(path)
    sample: _Sample | None = None
    try:
        for name, offset, length in _members(path, size):
            folder, slash, base = name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key, suffix = folder + slash + stem, suffix.lower()
            if sample is None or sample.key != key or suffix in sample.seen:
                yield from _entry(sample, number, fields, left_out)
                sample = _Sample(key)
            if offset + length > size:
                left_out["truncated_archive"] += 1
                return
            sample.seen.add(suffix)
            if suffix in IMAGE_SUFFIXES and sample.image is None:
                sample.image = (offset, length)
            elif suffix in ("txt", "json"):
                setattr(sample, "text" if suffix == "txt" else "json", (offset, length))
    except tarfile.TarError as error:
        raise UserError(
            f"{path}: not a readable tar ({first_line(error)}); fetch or write it again"
        ) from error
    yield from _entry(sample, number, fields, left_out)


def _entry(
    sample: _Sample | None, number: int, fields: Sequence[str], left_out: Counter[str]
) -> Iterator[tuple[int, ...]]:
    if sample is None:
        return
    told = ("text" in fields and sample.text is not None) or (
        any(f != "text" for f in fields) and sample.json is not None
    )
    if sample.image is None or not told:
        left_out["no_image" if sample.image is None else "no_caption"] += 1
        return
    yield (number, *sample.image, *(sample.text or (0, 0)), *(sample.json or (0, 0)))


def _members(path: str, size: int) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the data, length) of the regular members. Plain headers are read here; `tarfile` takes
    over at the first other kind."""
    with open(path, "rb", buffering=0) as stream:
        offset = 0
        while offset + 512 <= size:
            head = os.pread(stream.fileno(), 512, offset)
            if not head.strip(b"\0"):
                return
            if head[156:157] not in (b"0", b"\0", b"5") or head[124] & 0x80 or head[257:262] != b"ustar":
                break
            length = int(head[124:136].strip(b"\0 ") or b"0", 8)
            if head[156:157] != b"5":
                prefix = head[345:500].partition(b"\0")[0] if head[257:263] == b"ustar\0" else b""
                name = head[:100].partition(b"\0")[0]
                yield (
                    (prefix + b"/" + name if prefix else name).decode("utf-8", "replace"),
                    offset + 512,
                    length,
                )
            offset += 512 + -(-length // 512) * 512
        else:
            return
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if member.offset >= offset and member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size
