"""Reads the original images that a run's rows point at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ..storage.location import is_url, open_binary
from .images import ImageFault
from .tables import UNREADABLE, Columnar, open_columnar


class ImageReader:
    """Random access to original images by their locator, for one thread. Holds one open file and, of a
    columnar file, one batch of rows: rows read in order cost one pass."""

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
        self._open(file)
        if self._file is not None:
            return self._cell(self._file, member, offset)
        self._stream.seek(offset)
        return bytes(self._stream.read(length))

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

    def _cell(self, file: Columnar, column: str, row: int) -> bytes:
        near = 8 * self._batch.num_rows if self._batch is not None else 0
        if (
            column != self._column or not self._first <= row < self._first + near
        ):  # else it is read on the way
            self._column, self._first = column, row
            self._batches = file.batches(row, [column], 32)
            self._batch = next(self._batches, None)
        while self._batch is not None and row >= self._first + self._batch.num_rows:
            self._first += self._batch.num_rows
            self._batch = next(self._batches, None)
        if self._batch is None:
            raise ImageFault("original_changed", f"{file.path}: has no row {row} any more")
        value = self._batch.column(0)[row - self._first].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ImageFault("original_changed", f"{file.path}: row {row} holds no image any more")
        return data

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
