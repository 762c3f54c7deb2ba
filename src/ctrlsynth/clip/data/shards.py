"""Training data read by row number: webdataset tars, parquet, imagefolder, csv (what `export` writes).

Nothing is unpacked, and only an index is kept: for a tar seven numbers per row, which can be memory-mapped
and shared by all workers. Because any row can be read at any time, order, resume and the split over nodes and
workers are plain arithmetic (`order.py`)."""

import os
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...data.captions import CAPTION_NAMES
from ...data.rows import FILE_NAMES, IMAGE_NAMES, expand
from ...data.tables import UNREADABLE, ParquetFile, Table
from ...errors import UserError, first_line, unknown
from .rows import BLOCK, Pair, RowFault, Shards, captions_of
from .tars import TarShards


def open_shards(
    path: str | Sequence[str],
    base: Path,
    *,
    captions: Sequence[str] | None = None,
    cache: Path | None = None,
    where: str = "train.data",
) -> Shards:
    """Opens a folder that `export` wrote, or files (paths, globs, brace ranges) of one form; relative paths
    start at `base`.

    `captions`: the fields that a caption is drawn from: for tars `text` is the .txt and other names are keys
    of the .json, elsewhere they are columns; a field may hold a list. `cache`: a folder that keeps the index
    of tars. Raises UserError in one line that names the path."""
    files = _files(path, base, where)
    try:
        form = _suffix(files[0])
        if form == ".tar":
            shards: Shards = TarShards(files, captions, cache)
        else:
            shards = ParquetShards(files, captions) if form == ".parquet" else FileShards(files, captions)
        if not shards.rows:
            fields = f" ({' or '.join(captions)})" if captions else ""
            found = ", ".join(f"{n:,} {r}" for r, n in sorted(shards.left_out.items())) or "none at all"
            raise UserError(f"{shards.name}: no sample with an image and a caption{fields}; found {found}")
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return shards


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _files(path: str | Sequence[str], base: Path, where: str) -> list[str]:
    """The files that the setting names, all of one form."""
    names = [path] if isinstance(path, str) else list(path)
    if len(names) == 1 and (folder := base / Path(names[0]).expanduser()).is_dir():
        for pattern in ("[!.]*.tar", "[!.]*.parquet", "metadata.jsonl", "metadata.csv", "data.csv"):
            if found := sorted(map(str, folder.glob(pattern))):
                return found
        raise UserError(
            f"{where}: {folder} holds no .tar, .parquet, metadata.jsonl or data.csv (`ctrlsynth export` "
            f"writes such folders)"
        )
    forms = (".tar", ".parquet", ".csv", ".jsonl")
    files = expand(names, base, forms, where)
    suffixes = sorted(set(map(_suffix, files)))
    if len(suffixes) > 1:
        raise UserError(f"{where}: all files of a source have one form; found {', '.join(suffixes)}")
    if suffixes[0] not in forms:
        raise UserError(
            f"{where}: {files[0]}: expected .tar, .parquet, .csv or .jsonl, found "
            f"{suffixes[0] or 'no suffix'}"
        )
    return files


class ParquetShards:
    """Parquet files with an image column (struct of bytes and path, bytes, or file names). Row groups are
    read whole, and the latest are kept: up to `keep_rows` rows, which the loader sets to the width of its
    shuffle."""

    def __init__(self, files: Sequence[str], captions: Sequence[str] | None) -> None:
        self.name = files[0] if len(files) == 1 else os.path.dirname(files[0])
        self.left_out, self.keep_rows = Counter[str](), 0
        self._groups: list[tuple[str, int, int, int]] = []
        self.rows, names = 0, list[str]()
        for path in files:
            try:
                table = ParquetFile(path)
            except UNREADABLE as error:
                raise UserError(f"{path}: not a readable parquet file ({first_line(error)})") from error
            names, first = names or table.schema.names, self.rows
            for group, rows in enumerate(table.blocks):
                self._groups.append((path, first, group, self.rows))
                self.rows += rows
            table.close()
        self.blocks = np.array([*(start for *_, start in self._groups), self.rows], dtype=np.int64)
        self._image = _column(names, IMAGE_NAMES + FILE_NAMES, files[0], "image")
        self._fields = _chosen(names, captions, files[0])
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()

    def _locate(self, row: int) -> tuple[str, int, int, int]:
        """(file, its first row, the group's number in the file, the group's first row)."""
        return self._groups[int(np.searchsorted(self.blocks, row, side="right")) - 1]

    def id(self, row: int) -> str:
        path, first, _, _ = self._locate(row)
        return f"{os.path.splitext(os.path.basename(path))[0]}:{row - first}"

    def read(self, row: int) -> Pair:
        path, _, group, start = self._locate(row)
        if start not in self._kept:
            file = ParquetFile(path)
            self._kept[start] = file.block(group, [self._image, *self._fields])
            file.close()
            while len(self._kept) > 1 and sum(t.num_rows for t in self._kept.values()) > self.keep_rows:
                self._kept.popitem(last=False)
        self._kept.move_to_end(start)
        values = {n: self._kept[start].column(n)[row - start].as_py() for n in (self._image, *self._fields)}
        image = values[self._image]
        if isinstance(image, dict):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str):
            image = _read_file(Path(path).parent / image)
        if not image:
            raise RowFault("no_image")
        return Pair(self.id(row), image, captions_of(values, self._fields))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RowFault("unreadable_file") from error


class FileShards:
    """An imagefolder (metadata.jsonl or .csv) or open_clip's csv. File names and captions are kept in
    memory."""

    def __init__(self, files: Sequence[str], captions: Sequence[str] | None) -> None:
        self.name = files[0]
        self.left_out, self.keep_rows = Counter[str](), 0
        self._rows: list[tuple[str, tuple[str, ...]]] = []
        for path in files:
            table = Table(path)
            file = _column(table.columns, FILE_NAMES, path, "file name")
            fields = _chosen(table.columns, captions, path)
            for record, reason in table.read(table.start):
                if reason == "empty_row":
                    continue
                row = table.asdict(record)
                try:
                    if reason or not row.get(file):
                        raise RowFault(reason or "no_image")
                    image = os.path.join(os.path.dirname(path), row[file])
                    self._rows.append((image, captions_of(row, fields)))
                except RowFault as fault:
                    self.left_out["no_caption" if fault.reason == "empty_caption" else fault.reason] += 1
        self.rows = len(self._rows)
        self.blocks = np.append(np.arange(0, self.rows, BLOCK), self.rows).astype(np.int64)

    def id(self, row: int) -> str:
        return os.path.relpath(self._rows[row][0], os.path.dirname(self.name))

    def read(self, row: int) -> Pair:
        path, captions = self._rows[row]
        return Pair(self.id(row), _read_file(Path(path)), captions)


class Subset:
    """A selection of the rows of other shards, in their order (what decontamination keeps)."""

    def __init__(self, inner: Shards, rows: np.ndarray[Any, Any], left_out: Counter[str]) -> None:
        self.name, self.rows, self.left_out = inner.name, len(rows), inner.left_out + left_out
        self._inner, self._rows = inner, rows
        firsts = np.flatnonzero(np.diff(np.searchsorted(inner.blocks, rows, side="right"), prepend=-1))
        self.blocks = np.append(firsts, len(rows)).astype(np.int64)

    @property
    def keep_rows(self) -> int:
        """See `Shards`."""
        return self._inner.keep_rows

    @keep_rows.setter
    def keep_rows(self, rows: int) -> None:
        self._inner.keep_rows = rows

    def id(self, row: int) -> str:
        return self._inner.id(int(self._rows[row]))

    def read(self, row: int) -> Pair:
        return self._inner.read(int(self._rows[row]))


def _column(names: Sequence[str], usual: Sequence[str], where: str, what: str) -> str:
    low = {n.lower(): n for n in reversed(names)}
    found = next((low[name] for name in usual if name in low), None)
    if found is None:
        raise UserError(
            f"{where}: no column with the {what}; expected one of {', '.join(usual[:4])} ..., found "
            f"{', '.join(names)}"
        )
    return found


def _chosen(names: Sequence[str], captions: Sequence[str] | None, where: str) -> list[str]:
    if captions is None:
        return [_column(names, ("title", *CAPTION_NAMES), where, "caption")]
    for name in captions:
        if name not in names:
            raise unknown("caption column", name, names, where)
    return list(captions)
