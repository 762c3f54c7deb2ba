"""Where the rows of training data lie, and how one is read by its number: webdataset tars, parquet, imagefolder, csv (what `export` writes).

Nothing is unpacked and nothing kept but an index: for a tar five numbers a row, which can be memory-mapped and shared by all workers. Because
any row can be read at any time, order, resume and the split over nodes and workers are plain arithmetic (`mix.py`).
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import tarfile
import uuid
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.rows import CAPTION_NAMES, FILE_NAMES, IMAGE_NAMES, IMAGE_SUFFIXES, clean_caption, expand
from ..errors import UserError, unknown

_TAR_BLOCK = 64
"""Rows of a tar that stay together when rows are shuffled: neighbours on disk are read at about the same time."""
_INDEX = np.dtype([("shard", "<u4"), ("image", "<i8"), ("image_size", "<u4"), ("text", "<i8"), ("text_size", "<u4"), ("json", "<i8"), ("json_size", "<u4")])  # fmt: skip
_OPEN_FILES = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """One row as it is read: encoded image bytes, and every caption that it may be shown with."""

    id: str
    image: bytes
    captions: tuple[str, ...]


class RowFault(Exception):
    """A row that can't be used; `reason` is a short stable word (`empty_caption`, `no_image`, `unreadable_file`)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Shards(Protocol):
    """Rows 0 .. rows-1. `blocks` are the first rows of what lies together, ascending, and `rows` at the end; `left_out` counts by reason
    what the index already leaves out."""

    name: str
    rows: int
    blocks: np.ndarray[Any, Any]
    left_out: Counter[str]

    def id(self, row: int) -> str: ...
    def read(self, row: int) -> Pair: ...


def open_shards(
    path: str | Sequence[str], base: Path, *, captions: Sequence[str] | None = None, cache: Path | None = None, where: str = "train.data"
) -> Shards:
    """Opens a folder that `export` wrote, or files (paths, globs, brace ranges) of one form; relative paths start at `base`.

    `captions`: the fields that a caption is drawn from (`text` is the .txt of a tar, other names are keys of its .json; columns elsewhere; a
    field may hold a list). `cache`: a folder for the index of tars, so that it is made once. Raises UserError in one line that names the path.
    """
    files, form = _files(path, base, where)
    if form == "tar":
        return TarShards(files, captions, cache, where)
    if form == "parquet":
        return ParquetShards(files, captions, where)
    return FileShards(files, captions, where)


def _files(path: str | Sequence[str], base: Path, where: str) -> tuple[list[str], str]:
    names = [path] if isinstance(path, str) else list(path)
    if len(names) == 1 and (folder := base / Path(names[0]).expanduser()).is_dir():
        for suffix in (".tar", ".parquet"):
            found = sorted(str(p) for p in folder.iterdir() if p.suffix == suffix and not p.name.startswith("."))
            if found:
                return found, suffix[1:]
        for name in ("metadata.jsonl", "metadata.csv", "data.csv"):
            if (folder / name).is_file():
                return [str(folder / name)], "table"
        raise UserError(f"{where}: {folder} holds no .tar, .parquet, metadata.jsonl or data.csv (`ctrlsynth export` writes such folders)")
    try:
        files = expand(names, base, (".tar", ".parquet", ".csv", ".jsonl"), "data")
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('source.data: ')}") from error
    suffixes = {os.path.splitext(f)[1].lower() for f in files}
    if len(suffixes) > 1:
        raise UserError(f"{where}: one source is of one form; found {', '.join(sorted(suffixes))}")
    suffix = suffixes.pop()
    if suffix not in (".tar", ".parquet", ".csv", ".jsonl"):
        raise UserError(f"{where}: {files[0]}: training data is .tar, .parquet, .csv or .jsonl, not {suffix or 'a file without a suffix'!r}")
    return files, {".tar": "tar", ".parquet": "parquet"}.get(suffix, "table")


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

    def __init__(self, files: Sequence[str], captions: Sequence[str] | None, cache: Path | None, where: str = "train.data") -> None:
        self.name = files[0] if len(files) == 1 else os.path.dirname(files[0])
        self._files, self._handles = list(files), _Handles()
        self._fields = list(captions or ["text"])
        self.left_out: Counter[str] = Counter()
        self._index = _cached(cache, self._files, self._fields, self.left_out)
        self.rows = len(self._index)
        if not self.rows:
            found = ", ".join(f"{n:,} {r}" for r, n in sorted(self.left_out.items())) or "no samples at all"
            raise UserError(f"{where}: {self.name}: no sample with an image and a caption ({' or '.join(self._fields)}); found {found}")
        starts = np.flatnonzero(np.diff(self._index["shard"], prepend=-1))
        ends = [*starts[1:], self.rows]
        self._starts = np.zeros(len(files), dtype=np.int64)
        self._starts[self._index["shard"][starts]] = starts
        cuts = [np.arange(a, b, _TAR_BLOCK) for a, b in zip(starts, ends, strict=True)]
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
        return Pair(self.id(row), member("image"), _captions(values, self._fields))


def _captions(values: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, ...]:
    """All captions of a row in the order of `fields`, lists laid out, empty ones left out. RowFault if none is left."""
    found = []
    for name in fields:
        value = values.get(name)
        for text in value if isinstance(value, list) else [value]:
            clean = clean_caption(text) if isinstance(text, str) else None
            if clean:
                found.append(clean)
    if not found:
        raise RowFault("empty_caption")
    return tuple(found)


def _cached(cache: Path | None, files: Sequence[str], fields: Sequence[str], left_out: Counter[str]) -> np.ndarray[Any, Any]:
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
        np.save(made, rows)
        (cache / f"{mark}.json").write_text(json.dumps(left_out), encoding="utf-8")
        os.replace(made, path)
    with contextlib.suppress(OSError, ValueError):
        left_out.update(json.loads((cache / f"{mark}.json").read_text(encoding="utf-8")) if not left_out else {})
    loaded: np.ndarray[Any, Any] = np.load(path, mmap_mode="r")
    return loaded


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
        raise UserError(f"{path}: not a readable tar ({error}); fetch or write it again") from error
    yield from _entry(sample, number, fields, left_out)


def _entry(sample: _Sample | None, number: int, fields: Sequence[str], left_out: Counter[str]) -> Iterator[tuple[int, ...]]:
    if sample is None:
        return
    told = ("text" in fields and sample.text is not None) or (any(f != "text" for f in fields) and sample.json is not None)
    if sample.image is None or not told:
        left_out["no_image" if sample.image is None else "no_caption"] += 1
        return
    yield (number, *sample.image, *(sample.text or (0, 0)), *(sample.json or (0, 0)))


def _members(path: str, size: int) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the data, length) of the regular members. Plain headers are read here; `tarfile` takes over at the first other kind."""
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
                yield (prefix + b"/" + name if prefix else name).decode("utf-8", "replace"), offset + 512, length
            offset += 512 + -(-length // 512) * 512
        else:
            return
        stream.seek(0)
        with tarfile.open(fileobj=stream) as archive:
            for member in archive:
                if member.offset >= offset and member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size


class ParquetShards:
    """Parquet files with an image column (struct of bytes and path, bytes, or file names). A row group is read at once and kept for a while:
    `keep_rows` rows, which the loader sets to the width of its shuffle."""

    def __init__(self, files: Sequence[str], captions: Sequence[str] | None, where: str = "train.data") -> None:
        self.name = files[0] if len(files) == 1 else os.path.dirname(files[0])
        self.left_out: Counter[str] = Counter()
        self.keep_rows = 0
        self._files = list(files)
        self._groups: list[tuple[int, int, int]] = []
        starts, row = [], 0
        schema: pa.Schema = None
        for number, path in enumerate(files):
            try:
                meta = pq.ParquetFile(path)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{where}: {path}: not a readable parquet file ({str(error).splitlines()[0]})") from error
            schema = schema or meta.schema_arrow
            for group in range(meta.metadata.num_row_groups):
                starts.append(row)
                self._groups.append((number, group, row))
                row += meta.metadata.row_group(group).num_rows
        if not row:
            raise UserError(f"{where}: {self.name}: no rows")
        self.rows, self.blocks = row, np.array([*starts, row], dtype=np.int64)
        self._image = _column(schema.names, IMAGE_NAMES + FILE_NAMES, f"{where}: {files[0]}", "image")
        self._fields = _chosen(schema.names, captions, f"{where}: {files[0]}")
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()

    def _place(self, row: int) -> tuple[int, int, int, int]:
        """(group number, file, group in the file, row in the group)."""
        at = int(np.searchsorted(self.blocks, row, side="right")) - 1
        number, group, start = self._groups[at]
        return at, number, group, row - start

    def id(self, row: int) -> str:
        _, number, _, _ = self._place(row)
        first = next(start for n, _, start in self._groups if n == number)
        return f"{os.path.splitext(os.path.basename(self._files[number]))[0]}:{row - first}"

    def read(self, row: int) -> Pair:
        at, number, group, inner = self._place(row)
        table = self._kept.get(at)
        if table is None:
            with pq.ParquetFile(self._files[number]) as file:
                table = file.read_row_group(group, columns=[self._image, *self._fields], use_threads=False)
            self._kept[at] = table
            while len(self._kept) > 1 and sum(t.num_rows for t in self._kept.values()) > self.keep_rows:
                self._kept.popitem(last=False)
        self._kept.move_to_end(at)
        values = {name: table.column(name)[inner].as_py() for name in self._fields}
        image = table.column(self._image)[inner].as_py()
        if isinstance(image, dict):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str):
            image = _read_file(Path(self._files[number]).parent / image)
        if not image:
            raise RowFault("no_image")
        return Pair(self.id(row), image, _captions(values, self._fields))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RowFault("unreadable_file") from error


class FileShards:
    """An imagefolder (metadata.jsonl or .csv) or open_clip's csv: image files and captions, the latter all in memory."""

    def __init__(self, files: Sequence[str], captions: Sequence[str] | None, where: str = "train.data") -> None:
        self.name = files[0]
        self.left_out: Counter[str] = Counter()
        self._rows: list[tuple[str, tuple[str, ...]]] = []
        for path in files:
            self._load(path, captions, where)
        if not self._rows:
            found = ", ".join(f"{n:,} {r}" for r, n in sorted(self.left_out.items())) or "no rows"
            raise UserError(f"{where}: {self.name}: no row with a file and a caption; found {found}")
        self.rows = len(self._rows)
        self.blocks = np.append(np.arange(0, self.rows, _TAR_BLOCK), self.rows).astype(np.int64)

    def _load(self, path: str, captions: Sequence[str] | None, where: str) -> None:
        with open(path, encoding="utf-8", newline="") as stream:
            try:
                table: Any = csv.DictReader(stream) if path.endswith(".csv") else [json.loads(line) for line in stream if line.strip()]
                rows = list(table)
            except (ValueError, csv.Error) as error:
                raise UserError(f"{where}: {path}: {error}") from error
        names = list(rows[0]) if rows else []
        file = _column(names, FILE_NAMES, f"{where}: {path}", "file name") if rows else ""
        fields = _chosen(names, captions, f"{where}: {path}") if rows else []
        for row in rows:
            try:
                if not row.get(file):
                    raise RowFault("no_image")
                self._rows.append((os.path.join(os.path.dirname(path), row[file]), _captions(row, fields)))
            except RowFault as fault:
                self.left_out["no_caption" if fault.reason == "empty_caption" else fault.reason] += 1

    def id(self, row: int) -> str:
        return os.path.relpath(self._rows[row][0], os.path.dirname(self.name))

    def read(self, row: int) -> Pair:
        path, captions = self._rows[row]
        return Pair(self.id(row), _read_file(Path(path)), captions)


def _column(names: Sequence[str], usual: Sequence[str], where: str, what: str) -> str:
    low = {n.lower(): n for n in reversed(names)}
    for name in usual:
        if name in low:
            return low[name]
    raise UserError(f"{where}: no column of the {what}; expected one of {', '.join(usual[:4])} ..., found {', '.join(names)}")


def _chosen(names: Sequence[str], captions: Sequence[str] | None, where: str) -> list[str]:
    if captions is None:
        return [_column(names, ("title", *CAPTION_NAMES), where, "caption")]
    for name in captions:
        if name not in names:
            raise unknown("caption column", name, names, where)
    return list(captions)
