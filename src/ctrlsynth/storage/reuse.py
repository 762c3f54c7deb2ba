"""Rows that earlier versions of a part already hold: an update, a retry or a restart reuses them without
asking a model."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError, WorkFailed
from .files import open_part
from .location import Location

MOST_OPEN = 200
"""Files that are held open, so that they can be read even if another process finishes the part and removes
them."""


class ReusableRows:
    """Rows of superseded versions and chunks of a part, found by (id, key). Holds ids and keys only; rows are
    read when taken."""

    def __init__(self, files: Sequence[Location], schema: pa.Schema, skip_failed: bool = False) -> None:
        self._schema = schema
        self._files: list[tuple[Location, pq.ParquetFile | None]] = []
        self._open = ExitStack()
        self._where: dict[tuple[str, str], tuple[int, int]] = {}
        self._loaded: tuple[int, int, pa.Table] | None = None
        for path in files:
            with ExitStack() as opened:
                try:
                    file = opened.enter_context(open_part(path))
                    if not set(schema.names) - ADDED <= set(file.schema_arrow.names):
                        continue
                    self._index(file, len(self._files), skip_failed)
                except (
                    UserError,
                    pa.ArrowException,
                    OSError,
                ):  # a chunk of a killed writer may be cut: its rows are made again
                    continue
                held = len(self._files) < MOST_OPEN
                self._files.append((path, file if held else None))
                if held:
                    self._open.push(opened.pop_all())

    def _index(self, file: pq.ParquetFile, number: int, skip_failed: bool) -> None:
        row = 0
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for batch in file.iter_batches(columns=["id", "key", "status"], use_threads=False):
            for row_id, key, status in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                if key is not None and not (skip_failed and status == "failed"):
                    found.setdefault((row_id, key), (number, row))
                row += 1
        self._where = found | self._where

    def __bool__(self) -> bool:
        return bool(self._where)

    def __contains__(self, id_and_key: tuple[str, str]) -> bool:
        return id_and_key in self._where

    def take(self, ids_and_keys: Sequence[tuple[str, str]]) -> Iterator[pa.Table]:
        """These rows in order, as tables in today's schema: a table for each run of neighbours, since one a
        row would take long."""
        places = enumerate(self._where[k] for k in ids_and_keys)
        for (number, _), run in groupby(places, key=lambda at: (at[1][0], at[1][1] - at[0])):
            rows = [row for _, (_, row) in run]
            yield from self._rows(number, rows[0], len(rows))

    def _rows(self, number: int, row: int, count: int) -> Iterator[pa.Table]:
        """`count` rows of one file from `row` on; a table per row group."""
        while count:
            if (
                self._loaded is None
                or self._loaded[0] != number
                or not 0 <= row - self._loaded[1] < self._loaded[2].num_rows
            ):
                self._loaded = self._group(number, row)
            found = self._loaded[2].slice(row - self._loaded[1], count)
            yield found
            row, count = row + found.num_rows, count - found.num_rows

    def _group(self, number: int, row: int) -> tuple[int, int, pa.Table]:
        path, held = self._files[number]
        with ExitStack() as opened:
            try:
                file = held if held is not None else opened.enter_context(open_part(path))
            except UserError as error:
                raise _lost(path) from error
            start = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row < start + rows:
                    return number, start, self._read(path, file, group)
                start += rows
        raise WorkFailed(f"{path}: the file changed while it was read; run the same command again")

    def _read(self, path: Location, file: pq.ParquetFile, group: int) -> pa.Table:
        try:
            table = file.read_row_group(group, columns=self._schema.names)
            for name in ADDED & set(self._schema.names) - set(table.column_names):
                table = table.append_column(name, pa.nulls(table.num_rows, self._schema.field(name).type))
            return table.select(self._schema.names).cast(self._schema)
        except (
            FileNotFoundError
        ) as error:  # a store's file, once removed, is unreadable even where it is open
            raise _lost(path) from error
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: damaged ({error}); remove the file and run again") from error


def _lost(path: Location) -> WorkFailed:
    return WorkFailed(f"{path}: another process finished this part meanwhile; run the same command again")


ADDED = {"error", "chunks", "flagged", "dropped_phrases"}
"""Columns that older tables lack; they are read as null."""
