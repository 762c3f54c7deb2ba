"""Columnar files: parquet, and the arrow files that Hugging Face `datasets` saves. Rows by number, a few at a
time in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from ..storage.location import is_url, open_binary

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
