"""Parquet files (1a, 1b) with image bytes, `struct{bytes, path}` or paths, and Hugging Face data sets on
disk, read without `datasets`."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import UserError, first_line
from ..recipe.schema import Source
from ..storage.location import FileStats
from .captions import CAPTION_NAMES, as_caption, clean_caption
from .rows import (
    FILE_NAMES,
    IMAGE_NAMES,
    MAX_PARTS,
    Keys,
    OpenSource,
    SourcePart,
    SourceRow,
    examine,
    examine_file,
    expand,
    file_prefixes,
    fingerprint,
    normal_path,
    path_below,
)
from .tables import BAD_UTF8, UNREADABLE, RowCursor, cut_blocks, find_column, open_columnar

# Sizes of what is decoded at once: images are large, captions are not.
_IMAGES, _TEXTS = 32, 4096


class TableSource(OpenSource):
    """Columnar files in parts of about `part_rows` rows along their row groups. Other plain columns become
    metadata."""

    def __init__(self, source: Source, base: Path, limit: int | None = None) -> None:
        super().__init__(source)
        self._what = "parquet" if source.hf is None else "arrow"
        files = (
            expand(source.parquet or "", base, (".parquet",), "source.parquet")
            if source.hf is None
            else hf_files(normal_path(base, source.hf))
        )
        self._key = source.key_column
        self._prefixes = dict(zip(files, file_prefixes(files), strict=True))
        self._cursor: RowCursor | None = None
        self._image: str | None = None
        self._caption: str | None = None
        blocks = self._blocks(source)
        self.has_images = self._image is not None
        total = sum(map(sum, blocks.values()))
        left, look = limit or sys.maxsize, FileStats()
        size = max(source.part_rows, -(-min(total, left) // MAX_PARTS))
        for path, counts in blocks.items():
            for start, rows in cut_blocks(counts, size) if counts else [(0, 1)]:
                if rows := min(rows, left):
                    mark = fingerprint(*look.of(path), start, rows, self._image, self._caption, self._key)
                    self.add_part(mark, (path, start, not counts), rows)
                left -= rows

    def _blocks(self, source: Source) -> dict[str, list[int]]:
        """Opens each file once: the rows of its row groups, none where it can't be read. Finds the columns,
        which every file must have."""
        blocks: dict[str, list[int]] = {}
        faults: list[str] = []
        first = ""
        for path in self._prefixes:
            blocks[path] = []
            try:
                file = open_columnar(path)
            except UNREADABLE as error:
                faults.append(f"{path}: not a readable {self._what} file ({first_line(error)})")
                continue
            file.close()
            if not first:
                first = path
                self._image, self._caption = _columns(file.schema, source, path)
            for column in (self._image, self._caption, self._key):
                if column is not None and column not in file.schema.names:
                    raise UserError(
                        f"{path}: no column {column!r}, which {first} has; columns: "
                        f"{', '.join(file.schema.names)}"
                    )
            blocks[path] = file.blocks or [0]
        if not first:
            raise UserError(faults[0])
        return blocks

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        path, start, broken = part.locator
        if broken:
            yield SourceRow("file", metadata={"file": path}).fail("unreadable_file")
            return
        keys = Keys()
        index = start
        try:
            for index, data in enumerate(self._open(path).read(start, part.rows or 0), start):
                row = self._row(data, path, index)
                yield keys.admit(row, self._key and row.metadata.get(self._key))
        except UNREADABLE as error:
            fault = {"file": path, "row": index, "error": first_line(error)}
            yield keys.admit(SourceRow(f"row{index}", metadata=fault).fail("unreadable_file"))

    def _open(self, path: str) -> RowCursor:
        if self._cursor is None or self._cursor.file.path != path:
            if self._cursor is not None:
                self._cursor.file.close()
            file = open_columnar(path)
            chosen = (self._image, self._caption, self._key)
            wanted = [f.name for f in file.schema if f.name in chosen or _is_plain(f.type)]
            self._cursor = RowCursor(file, wanted, _IMAGES if self.has_images else _TEXTS)
        return self._cursor

    def _row(self, data: dict[str, Any], path: str, number: int) -> SourceRow:
        row = SourceRow(f"{self._prefixes[path]}{number}")
        if data.pop(BAD_UTF8, False):
            row.fail("bad_utf8")
        image = data.pop(self._image, None) if self._image else None
        row.caption = clean_caption(as_caption(data.pop(self._caption, None))) if self._caption else None
        row.metadata = {k: v for k, v in data.items() if v is not None}
        if self._image is not None:
            self._see(row, image, path, number)
        elif row.caption is None:
            row.drop("empty_caption")
        return row

    def _see(self, row: SourceRow, image: Any, path: str, number: int) -> None:
        name: str | None = image if isinstance(image, str) else None
        if isinstance(image, dict):
            name = image.get("path")
            image = image.get("bytes")
        if isinstance(image, bytes):
            row.file, row.member, row.offset, row.length = path, self._image, number, len(image)
            if name:
                row.metadata.setdefault("path", name)
            examine(row, image)
        elif name:
            found, reason = path_below(os.path.dirname(path), name, absolute=True)
            if found is None:
                row.metadata["name"] = name
                row.fail(reason or "missing_file")
            else:
                examine_file(row, found)
        else:
            row.fail("no_image")

    def describe(self) -> str:
        count = len(self._prefixes)
        files = f"{count:,} {self._what} file{'s' * (count != 1)}"
        return (
            f"{self.total:,} rows in {files}; image column: {self._image or 'none'}, caption column: "
            f"{self._caption or 'none'}"
        )


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(_is_string(kind) or numbers or types.is_date(kind) or types.is_timestamp(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    )


def _columns(schema: pa.Schema, source: Source, where: str) -> tuple[str | None, str | None]:
    """(image column, caption column). Bytes are preferred to paths: `image` and `file_name` side by side are
    not ambiguous."""
    images = [f.name for f in schema if _is_image(f.type)]
    usual = [f.name for f in schema if f.name.strip().lower() in (*FILE_NAMES, *IMAGE_NAMES)]
    likely = (
        [n for n in usual if n in images] or images or [n for n in usual if _is_string(schema.field(n).type)]
    )
    image = find_column(
        schema.names if source.image_column else likely, [n.strip().lower() for n in likely],
        source.image_column, "image_column", where, required=False,
    )  # fmt: skip
    texts = [n for n in schema.names if source.caption_column or n not in images]
    caption = find_column(
        texts, CAPTION_NAMES, source.caption_column, "caption_column", where, required=False
    )
    if image is None and caption is None:
        raise UserError(
            f"{where}: no column looks like an image or a caption; columns: "
            f"{', '.join(schema.names) or 'none'}; "
            "name one with source.image_column or source.caption_column"
        )
    return image, caption


def hf_files(folder: Path) -> list[str]:
    """The arrow files of a data set saved with `save_to_disk`, in order. Raises UserError for a dict of
    splits, or anything else."""
    if not folder.is_dir():
        raise UserError(f"source.hf: {folder} is not a folder; give what save_to_disk wrote")
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = _json(splits).get("splits") or []
        if len(names) == 1:
            return hf_files(folder / str(names[0]))
        raise UserError(
            f"source.hf: {folder} holds the splits {', '.join(map(str, names))}; give one, as "
            f"{folder / 'train'}"
        )
    state = _json(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise UserError(f"source.hf: {folder} is a selection of rows; save it again after flatten_indices()")
    files = []
    for entry in state.get("_data_files") or []:
        name = str(entry.get("filename"))
        path, reason = path_below(str(folder), name)
        if path is None:
            raise UserError(f"source.hf: {folder / name}, which state.json names, can't be used ({reason})")
        files.append(path)
    if not files:
        raise UserError(f"source.hf: {folder / 'state.json'} names no data files")
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"source.hf: {path} is missing; give the folder that save_to_disk wrote") from error
    except ValueError as error:
        raise UserError(f"source.hf: {path} is not JSON: {error}") from error
    return data if isinstance(data, dict) else {}
