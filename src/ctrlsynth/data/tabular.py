"""Parquet files (1a, 1b) with image bytes, `struct{bytes, path}` or paths, and Hugging Face data sets on
disk, read without `datasets`."""

import json
import os
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
    find_column,
    fingerprint,
    normal_path,
    path_below,
    safe_key,
)
from .tables import BAD_UTF8, UNREADABLE, Columnar, RowCursor, cut_blocks, open_columnar

# Sizes of what is decoded at once: images are large, captions are not.
_IMAGES, _TEXTS = 32, 4096


class TableSource(OpenSource):
    """Columnar files in parts of about `part_rows` rows along their row groups. Other plain columns become
    metadata."""

    def __init__(self, source: Source, base: Path, limit: int | None = None) -> None:
        super().__init__(source)
        self._what = "parquet" if source.hf is None else "arrow"
        self._files = (
            expand(source.parquet or "", base, (".parquet",), "source.parquet")
            if source.hf is None
            else hf_files(normal_path(base, source.hf))
        )
        self._key = source.key_column
        self._prefixes = dict(zip(self._files, file_prefixes(self._files), strict=True))
        self._cursor: tuple[str, RowCursor, Columnar] | None = None
        self._image: str | None = None
        self._caption: str | None = None
        blocks = self._look(source.image_column, source.caption_column)
        self.has_images = self._image is not None
        total = sum(sum(b) for b in blocks.values())
        self._cut(blocks, max(source.part_rows, -(-min(total, limit or total) // MAX_PARTS)), limit)

    def _look(self, image: str | None, caption: str | None) -> dict[str, list[int]]:
        """Opens each file once: row groups, and that the columns are there. A file that can't be read has no
        groups."""
        blocks: dict[str, list[int]] = {}
        first: str | None = None
        fault = ""
        for path in self._files:
            try:
                file = open_columnar(path)
            except UNREADABLE as error:
                blocks[path] = []
                fault = fault or f"{path}: not a readable {self._what} file ({first_line(error)})"
                continue
            if first is None:
                first = path
                self._image, self._caption = _columns(file.schema, image, caption, path)
            for column in (self._image, self._caption, self._key):
                if column is not None and column not in file.schema.names:
                    raise UserError(
                        f"{path}: no column {column!r}, which {first} has; columns: "
                        f"{', '.join(file.schema.names)}"
                    )
            blocks[path] = file.blocks or [0]
            file.close()
        if first is None:
            raise UserError(fault)
        return blocks

    def _cut(self, blocks: dict[str, list[int]], rows: int, limit: int | None) -> None:
        look = FileStats()
        for path, counts in blocks.items():
            facts = look.of(path)
            for start, count in cut_blocks(counts, rows) if counts else [(0, 1)]:
                if limit == 0:
                    return
                if limit is not None:
                    count = min(count, limit)
                    limit -= count
                mark = fingerprint(*facts, start, count, self._image, self._caption, self._key)
                self.add_part(mark, (path, start, not counts), count)
        if not self._parts:
            raise UserError(f"{self._files[0]}: holds no rows")

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        path, start, broken = part.locator
        if broken:
            yield SourceRow("file", metadata={"file": path}).fail("unreadable_file")
            return
        keys = Keys()
        index = 0
        try:
            for index, data in enumerate(self._open(path).read(start, part.rows or 0)):
                yield keys.admit(self._row(data, path, start + index))
        except UNREADABLE as error:
            fault = {"file": path, "row": start + index, "error": first_line(error)}
            yield keys.admit(SourceRow(f"row{start + index}", metadata=fault).fail("unreadable_file"))

    def _open(self, path: str) -> RowCursor:
        if self._cursor is None or self._cursor[0] != path:
            if self._cursor is not None:
                self._cursor[2].close()
            file = open_columnar(path)
            wanted = [
                f.name
                for f in file.schema
                if f.name in (self._image, self._caption, self._key) or _plain(f.type)
            ]
            self._cursor = (path, RowCursor(file, wanted, _IMAGES if self.has_images else _TEXTS), file)
        return self._cursor[1]

    def _row(self, data: dict[str, Any], path: str, number: int) -> SourceRow:
        row = SourceRow(f"{self._prefixes[path]}{number}")
        if data.pop(BAD_UTF8, False):
            row.fail("bad_utf8")
        image = data.pop(self._image, None) if self._image else None
        row.caption = clean_caption(as_caption(data.pop(self._caption, None))) if self._caption else None
        if self._key is not None and data.get(self._key) not in (None, ""):
            row.key = safe_key(str(data[self._key]))
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
        files = f"{len(self._files):,} {self._what} file{'s' * (len(self._files) != 1)}"
        return (
            f"{self.total:,} rows in {files}; image column: {self._image or 'none'}, caption column: "
            f"{self._caption or 'none'}"
        )


def _plain(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_date(kind)
        or types.is_timestamp(kind)
    )


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    )


def _columns(
    schema: pa.Schema, image: str | None, caption: str | None, where: str
) -> tuple[str | None, str | None]:
    """(image column, caption column). Bytes go before paths: `image` and `file_name` side by side are no
    riddle."""
    by_type = [f.name for f in schema if _is_image(f.type)]
    texts = [f.name for f in schema if f.name not in by_type]
    found = find_column(schema.names, (), image, "image_column", where, required=False)
    if image is None:
        usual = [n for n in by_type if n.lower() in IMAGE_NAMES or n.lower() in FILE_NAMES]
        if len(by_type) == 1:
            found = by_type[0]
        elif by_type:
            found = find_column(
                usual or by_type, [n.lower() for n in usual or by_type], None, "image_column", where
            )
        else:
            strings = [
                f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
            ]
            found = find_column(
                strings, (*FILE_NAMES, *IMAGE_NAMES), None, "image_column", where, required=False
            )
    words = find_column(
        schema.names if caption else texts, CAPTION_NAMES, caption, "caption_column", where, required=False
    )
    if found is None and words is None:
        raise UserError(
            f"{where}: no column looks like an image or a caption; columns: "
            f"{', '.join(schema.names) or 'none'}; "
            "name one with source.image_column or source.caption_column"
        )
    return found, words


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
    names = [str(f.get("filename")) for f in state.get("_data_files") or []]
    files = []
    for name in names:
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
