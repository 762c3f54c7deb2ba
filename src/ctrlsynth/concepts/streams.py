"""Files of any size as a stream of bytes: plain, .gz, .bz2, .xz or .zst, told by their first bytes, whatever
their name says."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any, cast

from ..errors import UserError

PACKED = (".gz", ".bz2", ".xz", ".zst")
BROKEN: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged or cut file raises; with zstandard's own error once `open_stream` has met such a
file."""
_ZSTD = b"\x28\xb5\x2f\xfd"


def open_stream(path: str | Path) -> IO[bytes]:
    """The file's bytes, unpacked. Raises UserError for a file that can't be opened, and where .zst needs a
    package."""
    try:
        stream = open(path, "rb")  # noqa: SIM115  (handed to the caller)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    if not stream.seekable():
        stream.close()
        raise UserError(
            f"{path}: is a pipe; a file is read from its beginning more than once, so save it first"
        )
    magic = stream.read(6)
    stream.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if magic[:3] == b"BZh":
        return cast(IO[bytes], bz2.BZ2File(stream))
    if magic == b"\xfd7zXZ\x00":
        return cast(IO[bytes], lzma.LZMAFile(stream))
    if magic[:4] == _ZSTD:
        return _zstd(stream, path)
    if magic[:2] in (b"\xff\xfe", b"\xfe\xff"):
        stream.close()
        raise UserError(f"{path}: is UTF-16; save it as UTF-8")
    return stream


def _zstd(stream: IO[bytes], path: str | Path) -> IO[bytes]:
    global BROKEN
    try:
        import zstandard
    except ModuleNotFoundError as error:
        stream.close()
        raise UserError(f"{path}: zstandard is not installed; pip install 'ctrlsynth[concepts]'") from error
    if zstandard.ZstdError not in BROKEN:
        BROKEN = (*BROKEN, zstandard.ZstdError)
    return io.BufferedReader(_Zstd(stream, zstandard.ZstdDecompressor), 1 << 20)


class _Zstd(io.RawIOBase):
    """The bytes of a .zst file, frame after frame. The package's own reader takes a file that is cut for one
    that ends."""

    def __init__(self, stream: IO[bytes], decompressor: Any) -> None:
        self._stream, self._decompressor = stream, decompressor
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """To the beginning, or to where it stands."""
        if whence == 0 and offset == 0:
            self._stream.seek(0)
            self._frame: Any = None
            self._left = self._packed = b""
            self._at = 0
        elif whence != 1 or offset:
            raise io.UnsupportedOperation("a .zst file is read from its beginning")
        return self._at

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            self._packed = self._packed or self._stream.read(1 << 18)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a frame")
                return 0
            self._frame = self._frame or self._decompressor().decompressobj()
            self._left = self._frame.decompress(self._packed)
            self._packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        self._at += count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def plain_name(path: str | Path) -> str:
    """The file's name in lower case, without a packer's suffix: `a.jsonl` of `A.jsonl.zst`."""
    name = Path(path).name.lower()
    return next((name.removesuffix(s) for s in PACKED if name.endswith(s)), name)
