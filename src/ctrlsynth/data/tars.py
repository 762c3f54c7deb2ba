"""Webdataset tars (1a, 1b), img2dataset's output among them: neighbours with one key are a sample; the image
stays where it is.

Nothing is unpacked. Links, devices and names that leave the archive are never followed.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError, first_line
from ..storage.location import Facts, Remote, is_url, local_copy, open_binary
from .records import sound
from .rows import (
    CAPTION_NAMES,
    IMAGE_SUFFIXES,
    Keys,
    SourcePart,
    SourceRow,
    clean_caption,
    examine,
    file_digest,
    fingerprint,
    is_text,
    part_names,
    safe_key,
)
from .text import as_caption

MAX_TEXT = 1 << 24
"""A .txt or .json member larger than this many bytes is refused."""


@dataclass(slots=True)
class _Sample:
    """Members that share a key. `parts`: suffix -> (member's name, offset, size)."""

    key: str
    parts: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    reason: str | None = None


class TarSource:
    """A shard is a part. `image_column` and `caption_column` name members by suffix (`png`) or a key of the
    .json."""

    has_images = True

    def __init__(
        self,
        files: Sequence[str],
        *,
        image_column: str | None,
        caption_column: str | None,
        licence: str | None,
        limit: int | None,
    ) -> None:
        self.licence = licence
        self._image, self._caption = image_column, caption_column
        self._files = list(files)
        names = part_names(os.path.basename(f).partition(".")[0] for f in files)
        self._parts: list[SourcePart] = []
        left, look = limit, Facts()
        self._size = sum(look.of(f)[1] for f in files)
        for index, path in enumerate(files):
            if left == 0:
                break
            if not is_url(path) or index == 0:  # in a store each look is a request, and shards are alike
                _refuse_compressed(path)
            rows = None
            if left is not None:  # a limit needs the count; one look at the headers
                rows = min(left, _count(path))
                left -= rows
            table = _beside(path, look)
            facts = (*look.of(path), *(look.of(table) if table else ()))
            mark = fingerprint(*facts, image_column, caption_column, rows)
            self._parts.append(SourcePart(index, names[index], mark, path, rows))

    def parts(self) -> list[SourcePart]:
        return self._parts

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        for count, row in enumerate(self._rows(part.locator)):
            if part.rows is not None and count >= part.rows:
                return
            yield row

    def _rows(self, path: str) -> Iterator[SourceRow]:
        keys = Keys()
        table = _Downloads(_beside(path))
        with local_copy(path) as local, open(local, "rb") as stream:
            for sample in _scan(local):
                row = SourceRow(safe_key(sample.key), metadata=table.take(sample.key))
                keys.admit(row)
                if row.status == "ok":
                    self._fill(row, sample, stream, path)
                yield row
        for key, status, metadata in table.rest():
            row = SourceRow(
                safe_key(key), clean_caption(as_caption(metadata.pop("caption", None))), metadata
            ).drop(status)
            yield keys.admit(row)

    def _fill(self, row: SourceRow, sample: _Sample, stream: IO[bytes], path: str) -> None:
        if sample.reason is not None:
            row.metadata["name"] = ascii(sample.key)
            row.fail(sample.reason)
            return
        self._describe(row, sample, stream)
        suffix = self._image_suffix(sample)
        if suffix is not None:
            member, offset, size = sample.parts[suffix]
            row.file, row.member, row.offset, row.length = path, member, offset, size
            stream.seek(offset)
            examine(row, stream.read(size))
        elif row.caption is None and row.status == "ok":
            row.fail("empty_row")

    def _image_suffix(self, sample: _Sample) -> str | None:
        if self._image is not None:
            return self._image if self._image in sample.parts else None
        return next((s for s in sample.parts if s in IMAGE_SUFFIXES), None)

    def _describe(self, row: SourceRow, sample: _Sample, stream: IO[bytes]) -> None:
        """Caption and metadata: the .txt, else the .json's key, else the parquet's column."""
        if "json" in sample.parts:
            text = _text(row, sample.parts["json"], stream)
            try:
                data = json.loads(text) if text else {}
            except (ValueError, RecursionError):
                data = None
            if isinstance(data, dict):
                row.metadata |= sound(data)
            else:
                row.metadata["json"] = "unreadable"
        from_json = next(
            (n for n in ([self._caption] if self._caption else CAPTION_NAMES) if row.metadata.get(n)), None
        )
        caption = as_caption(row.metadata.pop(from_json)) if from_json else None
        wanted = (
            self._caption if self._caption in sample.parts else ("txt" if self._caption is None else None)
        )
        if wanted is None and self._caption is None:
            wanted = next((s for s in ("caption", "text") if s in sample.parts), None)
        if wanted in sample.parts:
            caption = _text(row, sample.parts[wanted], stream)
        row.caption = clean_caption(caption)

    def describe(self) -> str:
        return f"{len(self._files):,} tar shard{'s' * (len(self._files) != 1)}, {self._size / 1e6:,.1f} MB"

    def verify_fingerprint(self, part: SourcePart) -> str:
        table = _beside(part.locator)
        return fingerprint(
            file_digest(part.locator),
            file_digest(table) if table else "",
            self._image,
            self._caption,
            part.rows,
        )


def _text(row: SourceRow, member: tuple[str, int, int], stream: IO[bytes]) -> str | None:
    _, offset, size = member
    if size > MAX_TEXT:
        row.fail("text_too_large")
        return None
    stream.seek(offset)
    try:
        return stream.read(size).decode("utf-8-sig")
    except UnicodeDecodeError:
        row.fail("bad_utf8")
        return None


def _scan(path: str) -> Iterator[_Sample]:
    """The samples of a tar in order, by its headers alone. What can't be used is a sample with its reason."""
    size = os.path.getsize(path)
    sample: _Sample | None = None
    try:
        with tarfile.open(path, "r:", encoding="utf-8") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                if member.isdir():
                    continue
                key, suffix = _split(member.name)
                if sample is None or key != sample.key:
                    if sample is not None:
                        yield sample
                    sample = _Sample(key)
                sample.reason = sample.reason or _refusal(member, size)
                if sample.reason == "truncated_archive":
                    sample.key = member.name
                    yield sample
                    return
                sample.parts.setdefault(suffix, (member.name, member.offset_data, member.size))
            end = tar.offset
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        if sample is not None:
            yield sample
        yield _Sample(
            os.path.basename(path), reason="truncated_archive" if sample is not None else "unreadable_file"
        )
        del error
        return
    if sample is not None:
        yield sample
    with open(path, "rb") as stream:
        stream.seek(end)
        tail = stream.read(tarfile.BLOCKSIZE)
    if len(tail) < tarfile.BLOCKSIZE or tail.strip(b"\0"):
        yield _Sample(f"{os.path.basename(path)}@{end}", reason="truncated_archive")


def _count(path: str) -> int:
    """The rows of a shard: its samples, and what its parquet says was never downloaded."""
    table, rows = _Downloads(_beside(path)), 0
    with local_copy(path) as local:
        for sample in _scan(local):
            table.take(sample.key)
            rows += 1
    return rows + sum(1 for _ in table.rest())


def _refuse_compressed(path: str) -> None:
    try:
        with contextlib.ExitStack() as opened:
            magic = (
                Remote(path).beginning(6) if is_url(path) else opened.enter_context(open(path, "rb")).read(6)
            )
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    if magic.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise UserError(
            f"{path}: is a compressed tar, in which images can't be found by offset; unpack it (gunzip, xz "
            f"-d, ...) first"
        )


def _split(name: str) -> tuple[str, str]:
    """Webdataset's rule: the key ends at the first dot of the last path element; the suffix is the rest, in
    lower case."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _refusal(member: tarfile.TarInfo, size: int) -> str | None:
    if not member.isreg() or member.issparse():
        return "unsafe_member"
    if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
        return "unsafe_member"
    if not is_text(member.name):
        return "bad_utf8"
    return "truncated_archive" if member.offset_data + member.size > size else None


def _beside(path: str, look: Facts | None = None) -> str | None:
    table = os.path.splitext(path)[0] + ".parquet"
    if look is None and is_url(table):
        return table if Remote(table).is_file() else None
    return table if (look or Facts()).has(table) else None


class _Downloads:
    """img2dataset's parquet beside a shard: metadata by key, and what was never downloaded. Holds one shard's
    rows at most."""

    def __init__(self, path: str | None) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        try:
            file = pq.ParquetFile(open_binary(path))
            if {"key", "status"} <= set(file.schema_arrow.names):
                plain = [
                    f.name
                    for f in file.schema_arrow
                    if not pa.types.is_nested(f.type) and not pa.types.is_binary(f.type)
                ]
                for batch in file.iter_batches(4096, columns=plain):
                    self._rows |= {
                        str(r["key"]): {k: v for k, v in r.items() if v is not None}
                        for r in batch.to_pylist()
                    }
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{path}: not a readable parquet file ({first_line(error)}); remove it or repair it"
            ) from error

    def take(self, key: str) -> dict[str, Any]:
        return self._rows.pop(key.rpartition("/")[2], {})

    def rest(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(key, img2dataset's status, metadata) of the rows that the tar lacks."""
        for key, row in self._rows.items():
            status = str(row.get("status", "")) or "not_downloaded"
            yield key, status if status != "success" else "missing_file", row
