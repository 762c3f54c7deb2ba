"""Reads the original images that a run's rows point at."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pyarrow as pa

from ..storage.location import open_binary
from .images import ImageFault
from .tables import UNREADABLE, Columnar, open_columnar

_BATCH, _NEAR = 32, 256
"""Rows of a columnar file that are read at once, and how far ahead a row may be to be read on the way."""


class ImageReader(AbstractContextManager["ImageReader"]):
    """Random access to original images by their locator, for one thread. Holds one open file and, of a
    columnar file, one batch of rows: rows read in order cost one pass."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._path: str | None = None
        self._stream: Any = None
        self._file: Columnar | None = None
        self._column, self._first = "", 0
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._cells: Any = ()

    def read(self, file: str, member: str | None, offset: int | None, length: int | None) -> bytes:
        """The image's encoded bytes, unchanged. `member`, `offset`, `length`: see the read table.

        Raises ImageFault: original_missing (the file no longer exists), original_changed (it holds other
        bytes there), unreadable_file."""
        try:
            data = self._read(file, member, offset or 0, length or 0)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ImageFault("original_missing", f"{file}: the source is no longer there") from error
        except UNREADABLE as error:
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
        if file != self._path:
            self.close()
            self._stream = self._opened.enter_context(open_binary(file))
            self._file, self._column = None, ""
            if self._stream.read(6).startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
                self._file = open_columnar(file)
                self._opened.callback(self._file.close)
            self._path = file
        if self._file is not None:
            return self._cell(self._file, member, offset)
        self._stream.seek(offset)
        return bytes(self._stream.read(length))

    def _cell(self, file: Columnar, column: str, row: int) -> bytes:
        if column != self._column or not self._first <= row < self._first + _NEAR:
            self._column, self._first, self._cells = column, row, ()
            self._batches = file.batches(row, [column], _BATCH)
        while row >= self._first + len(self._cells):
            batch = next(self._batches, None)
            if batch is None:
                raise ImageFault("original_changed", f"{file.path}: has no row {row} any more")
            self._first, self._cells = self._first + len(self._cells), batch.column(0)
        value = self._cells[row - self._first].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ImageFault("original_changed", f"{file.path}: row {row} holds no image any more")
        return data

    def close(self) -> None:
        """Closes what is open. The reader can be used again."""
        self._opened.close()
        self._path = None

    def __exit__(self, *_: object) -> None:
        self.close()
