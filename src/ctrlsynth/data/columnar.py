"""Columnar files: parquet, and the arrow files that Hugging Face `datasets` saves. Rows by number, a few at a
time in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from ..storage.location import is_url, open_binary
from .images import ImageFault

BROKEN = (pa.ArrowException, OSError)


class ParquetFile:
    """One parquet file. `blocks` are the row counts of its row groups."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stream = open_binary(path) if is_url(path) else None
        self._file = pq.ParquetFile(path if self._stream is None else self._stream)
        self.schema: pa.Schema = self._file.schema_arrow
        meta = self._file.metadata
        self.blocks = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]

    def batches(self, start: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """The rows from `start` to the end in batches of at most `size`; row groups before it are not
        read."""
        group = 0
        while group < len(self.blocks) and start >= self.blocks[group]:
            start -= self.blocks[group]
            group += 1
        for at in range(
            group, len(self.blocks)
        ):  # one by one: a damaged group must not take the sound ones before it along
            for batch in self._file.iter_batches(
                size, row_groups=[at], columns=list(columns), use_threads=False
            ):
                if start >= batch.num_rows:
                    start -= batch.num_rows
                    continue
                yield batch.slice(start) if start else batch
                start = 0

    def close(self) -> None:
        self._file.close()
        if self._stream is not None:
            self._stream.close()


class ArrowFile:
    """One arrow file, stream format (what `save_to_disk` writes) or file format. `blocks` are the row counts
    of its record batches."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.blocks: list[int] = []
        self._starts: list[int] = []
        with open(path, "rb") as stream:
            self._random = stream.read(6) == b"ARROW1"
        if self._random:
            with pa.memory_map(path) as source:
                reader = pa.ipc.open_file(source)
                self.schema: pa.Schema = reader.schema
                self.blocks = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
        else:
            self._index()

    def _index(self) -> None:
        """Where each batch begins, from the message headers: mapped pages with the data are not touched."""
        with pa.memory_map(self.path) as source:
            self.schema = pa.ipc.read_schema(source)
            if any(pa.types.is_dictionary(f.type) for f in self.schema):
                raise UserError(
                    f"{self.path}: has dictionary-encoded columns; save the data set again with plain ones"
                )
            while True:
                start = source.tell()
                try:
                    message = pa.ipc.read_message(source)
                except EOFError:
                    return
                self._starts.append(start)
                self.blocks.append(pa.ipc.read_record_batch(message, self.schema).num_rows)

    def batches(self, start: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """As `ParquetFile.batches`. Read, not mapped, so that memory holds one record batch."""
        with pa.OSFile(self.path) as source:
            reader = pa.ipc.open_file(source) if self._random else None
            for block, rows in enumerate(self.blocks):
                if start >= rows:
                    start -= rows
                    continue
                batch = reader.get_batch(block) if reader is not None else self._block(source, block)
                batch = batch.select(list(columns))
                for at in range(start, rows, size):
                    yield batch.slice(at, size)
                start = 0

    def _block(self, source: Any, block: int) -> pa.RecordBatch:
        source.seek(self._starts[block])
        return pa.ipc.read_record_batch(pa.ipc.read_message(source), self.schema)

    def close(self) -> None:
        """Nothing stays open."""


Columnar = ParquetFile | ArrowFile


def open_columnar(path: str) -> Columnar:
    """Parquet or arrow by the first bytes. Raises pyarrow's errors or OSError for what is neither."""
    with open_binary(path) as stream:
        magic = stream.read(4)
    if is_url(path) and magic != b"PAR1":
        raise OSError("not a parquet file")
    return ParquetFile(path) if magic == b"PAR1" else ArrowFile(path)


def cut_blocks(blocks: Sequence[int], rows: int) -> list[tuple[int, int]]:
    """(first row, rows) of parts: whole blocks joined up to `rows`, larger blocks split into ranges of
    `rows`."""
    out: list[tuple[int, int]] = []
    begin = at = 0
    for count in blocks:
        if at > begin and at + count - begin > rows:
            out.append((begin, at - begin))
            begin = at
        at += count
        while at - begin >= 2 * rows:
            out.append((begin, rows))
            begin += rows
        if at - begin >= rows:
            out.append((begin, at - begin))
            begin = at
    if at > begin:
        out.append((begin, at - begin))
    return out


class RowCursor:
    """Rows of one file as dicts; ranges asked for in order go on where the last one ended, so nothing is
    decoded twice."""

    def __init__(self, file: Columnar, columns: Sequence[str], size: int) -> None:
        self._file, self._columns, self._size = file, list(columns), size
        self._kept: tuple[int, Iterator[dict[str, Any]]] | None = None

    def read(self, start: int, rows: int) -> Iterator[dict[str, Any]]:
        kept, self._kept = self._kept, None
        found = kept[1] if kept is not None and kept[0] == start else self._from(start)
        for done in range(rows):
            row = next(found, None)
            if row is None:
                raise OSError(f"{self._file.path}: ends after row {start + done}")
            yield row
        self._kept = (start + rows, found)

    def _from(self, start: int) -> Iterator[dict[str, Any]]:
        for batch in self._file.batches(start, self._columns, self._size):
            names = batch.schema.names
            bad: set[int] = set()
            columns = [_values(batch.column(i), bad) for i in range(batch.num_columns)]
            for index, values in enumerate(zip(*columns, strict=True)):
                row = dict(zip(names, values, strict=True))
                if index in bad:
                    row[BAD_UTF8] = True
                yield row


BAD_UTF8 = "\0bad_utf8"
"""Stands in a row whose strings were not UTF-8: files do not have to keep the promise that their schema
makes."""


def _values(column: pa.Array, bad: set[int]) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
        return values
    except UnicodeDecodeError:
        out: list[Any] = []
        for index, cell in enumerate(column):
            try:
                out.append(cell.as_py())
            except UnicodeDecodeError:
                out.append(None)
                bad.add(index)
        return out


class ImageReader:
    """Random access to original images by their locator. Holds one open file; for columnar files, the rows
    about the last one asked for.

    For one thread; rows asked for in order cost one pass.
    """

    def __init__(self) -> None:
        self._path: str | None = None
        self._stream: Any = None
        self._file: Columnar | None = None
        self._column = ""
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._first = 0

    def read(self, file: str, member: str | None, offset: int | None, length: int | None) -> bytes:
        """The image's encoded bytes, unchanged. `member`, `offset`, `length`: see the read table.

        Raises ImageFault: original_missing (no such file any more), original_changed (other bytes stand
        there), unreadable_file."""
        try:
            data = self._read(file, member, offset or 0, length or 0)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ImageFault("original_missing", f"{file}: the source is no longer there") from error
        except BROKEN as error:
            raise ImageFault("unreadable_file", f"{file}: {error}") from error
        if length is not None and len(data) != length:
            message = (
                f"{file}: {member or 'the image'} has {len(data)} bytes, expected {length}; the "
                f"source has changed since it was read"
            )
            raise ImageFault("original_changed", message)
        return data

    def _read(self, file: str, member: str | None, offset: int, length: int) -> bytes:
        if member is None:
            with open_binary(file) as stream:
                return stream.read()
        self._open(file)
        return self._cell(member, offset) if self._file is not None else self._slice(offset, length)

    def _open(self, file: str) -> None:
        if file == self._path:
            return
        self.close()
        if not is_url(file) and not os.path.isfile(file):
            raise FileNotFoundError(file)
        stream = open_binary(file)  # kept open for the next row
        magic = stream.read(6)
        if magic[:4] == b"PAR1" or magic == b"ARROW1" or magic[:4] == b"\xff\xff\xff\xff":
            stream.close()
            self._file = open_columnar(file)
        else:
            self._stream = stream
        self._path = file

    def _slice(self, offset: int, length: int) -> bytes:
        self._stream.seek(offset)
        data: bytes = self._stream.read(length)
        return data

    def _cell(self, column: str, row: int) -> bytes:
        assert self._file is not None
        if self._batch is None or column != self._column or row < self._first:
            self._restart(column, row)
        while self._batch is None or row >= self._first + self._batch.num_rows:
            if self._batch is not None and row >= self._first + 8 * self._batch.num_rows:
                self._restart(column, row)  # a jump: skip whole row groups
                continue
            self._first += self._batch.num_rows if self._batch is not None else 0
            self._batch = next(self._batches, None)
            if self._batch is None:
                raise ImageFault("original_changed", f"{self._file.path}: has no row {row} any more")
        value = self._batch.column(0)[row - self._first].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ImageFault("original_changed", f"{self._file.path}: row {row} holds no image any more")
        return data

    def _restart(self, column: str, row: int) -> None:
        assert self._file is not None
        self._column, self._first, self._batch = column, row, None
        self._batches = self._file.batches(row, [column], 32)

    def close(self) -> None:
        """Closes what is open. The reader can be used again."""
        if self._stream is not None:
            self._stream.close()
        if self._file is not None:
            self._file.close()
        self._path = self._stream = self._file = self._batch = None
        self._batches = iter(())

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
