"""Webdataset tars as a source (1a, 1b), img2dataset's output among them. The images stay where they are."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ..errors import UserError, first_line
from ..recipe.schema import Source
from ..storage.location import FileStats, is_url, local_copy
from .captions import MAX_TEXT, as_caption, caption_key, clean_caption, parse_object
from .images import IMAGE_SUFFIXES
from .rows import (
    Keys,
    OpenSource,
    SourcePart,
    SourceRow,
    examine,
    expand,
    fingerprint,
    part_names,
    safe_key,
)
from .streams import is_packed
from .tables import UNREADABLE, ParquetFile
from .tar import Member, TarSample, samples


class TarSource(OpenSource):
    """A shard is a part. `image_column` and `caption_column` name members by suffix (`png`) or a key of the
    .json."""

    def __init__(self, source: Source, base: Path, limit: int | None = None) -> None:
        super().__init__(source)
        self._image, self._caption = source.image_column, source.caption_column
        self._files = expand(source.webdataset or "", base, (".tar",), "source.webdataset")
        names = part_names(os.path.basename(f).partition(".")[0] for f in self._files)
        look = FileStats()
        self._size = sum(look.of(f)[1] for f in self._files)
        for path, name in zip(self._files, names, strict=True):
            if limit == 0:
                break
            if not is_url(path) or not self._parts:  # in a store each look is a request, and shards are alike
                _refuse_compressed(path)
            beside = os.path.splitext(path)[0] + ".parquet"
            table = beside if look.has(beside) else None
            rows = None
            if limit is not None:  # a limit needs the count, which costs one look at the headers
                rows = min(limit, _count(path, table))
                limit -= rows
            facts = (*look.of(path), *(look.of(table) if table else ()))
            mark = fingerprint(*facts, self._image, self._caption, rows)
            self.add_part(mark, (path, table), rows, name)

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        return islice(self._rows(*part.locator), part.rows)

    def _rows(self, path: str, beside: str | None) -> Iterator[SourceRow]:
        keys, listed = Keys(), _downloads(beside)
        with local_copy(path) as local, open(local, "rb") as stream:
            for sample in samples(local):
                row = SourceRow(safe_key(sample.key), metadata=listed.pop(os.path.basename(sample.key), {}))
                keys.admit(row)
                if row.status == "ok":
                    self._fill(row, sample, stream, path)
                yield row
        for key, metadata in listed.items():
            status = str(metadata.get("status", "")) or "not_downloaded"
            caption = clean_caption(as_caption(metadata.pop("caption", None)))
            row = SourceRow(safe_key(key), caption, metadata)
            yield keys.admit(row.drop(status if status != "success" else "missing_file"))

    def _fill(self, row: SourceRow, sample: TarSample, stream: IO[bytes], path: str) -> None:
        if sample.reason is not None:
            row.metadata["name"] = ascii(sample.key)
            row.fail(sample.reason)
            return
        self._describe(row, sample.members, stream)
        suffix = self._image or next((s for s in sample.members if s in IMAGE_SUFFIXES), None)
        image = sample.members.get(suffix) if suffix is not None else None
        if image is not None:
            row.file, row.member, row.offset, row.length = path, *image[:3]
            stream.seek(image.offset)
            examine(row, stream.read(image.size))
        elif row.caption is None and row.status == "ok":
            row.fail("empty_row")

    def _describe(self, row: SourceRow, members: dict[str, Member], stream: IO[bytes]) -> None:
        """Fills caption and metadata: from the .txt, else the .json's key, else the parquet's column."""
        if "json" in members:
            text = _text(row, members["json"], stream)
            found = parse_object(text) if text else {}
            row.metadata |= {"json": "unreadable"} if found is None else found
        key = caption_key(row.metadata, self._caption)
        caption = as_caption(row.metadata.pop(key)) if key else None
        if beside := members.get(self._caption or "txt"):
            caption = _text(row, beside, stream)
        row.caption = clean_caption(caption)

    def describe(self) -> str:
        return f"{len(self._files):,} tar shard{'s' * (len(self._files) != 1)}, {self._size / 1e6:,.1f} MB"


def _text(row: SourceRow, member: Member, stream: IO[bytes]) -> str | None:
    if member.size > MAX_TEXT:
        row.fail("text_too_large")
        return None
    stream.seek(member.offset)
    try:
        return stream.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError:
        row.fail("bad_utf8")
        return None


def _count(path: str, beside: str | None) -> int:
    """The rows of a shard: its samples, and what its parquet says was never downloaded."""
    listed, rows = _downloads(beside), 0
    with local_copy(path) as local:
        for rows, sample in enumerate(samples(local), 1):  # noqa: B007  (used after the loop)
            listed.pop(os.path.basename(sample.key), None)
    return rows + len(listed)


def _refuse_compressed(path: str) -> None:
    try:
        packed = is_packed(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    if packed:
        raise UserError(
            f"{path}: is a compressed tar, in which images can't be found by offset; unpack it (gunzip, xz "
            f"-d, ...) first"
        )


def _downloads(path: str | None) -> dict[str, dict[str, Any]]:
    """Key -> metadata from img2dataset's parquet beside a shard, which also lists what was never downloaded;
    empty where there is none."""
    rows: dict[str, dict[str, Any]] = {}
    if path is None:
        return rows
    try:
        file, types = ParquetFile(path), pa.types
        plain = [f.name for f in file.schema if not (types.is_nested(f.type) or types.is_binary(f.type))]
        for batch in file.batches(0, plain, 4096) if {"key", "status"} <= set(plain) else ():
            for row in batch.to_pylist():
                rows[str(row["key"])] = {k: v for k, v in row.items() if v is not None}
    except UNREADABLE as error:
        raise UserError(
            f"{path}: not a readable parquet file ({first_line(error)}); remove it or repair it"
        ) from error
    return rows
