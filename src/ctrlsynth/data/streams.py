"""Opens local files of any size as a stream of bytes: plain, .gz, .bz2, .xz or .zst, recognised by their
first bytes, not by name."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from ..errors import UserError
from ..storage.location import open_binary

PACKED = (".gz", ".bz2", ".xz", ".zst")
BROKEN: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged or truncated file raises."""
_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda stream: io.BufferedReader(_Zstandard(stream), 1 << 18),
}


def open_stream(path: str | Path) -> IO[bytes]:
    """Opens a file and unpacks it as it is read. Offsets count unpacked bytes; .zst seeks forward only.

    Raises UserError for a file that cannot be opened, a pipe, and UTF-16 text.
    """
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
    for mark, unpack in _OPENERS.items():
        if magic.startswith(mark):
            return cast(IO[bytes], unpack(stream))
    if magic[:2] in (b"\xff\xfe", b"\xfe\xff"):
        stream.close()
        raise UserError(f"{path}: is UTF-16; save it as UTF-8")
    return stream


class _Zstandard(io.RawIOBase):
    """Unpacks a .zst stream; seeks forward only, by reading."""

    def __init__(self, stream: IO[bytes]) -> None:
        import pyarrow as pa  # not needed for the other formats

        self._stream, self._at = pa.input_stream(stream, compression="zstd"), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        left = offset - self._at if whence == 0 else offset
        if whence == 2 or left < 0:
            raise io.UnsupportedOperation("a .zst file is only read forward")
        while left > 0 and (skipped := self.read(min(left, 1 << 20))):
            left -= len(skipped)
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = int(self._stream.readinto(buffer))
        self._at += count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def is_packed(path: str | Path) -> bool:
    """Returns whether `open_stream` would unpack the file, which may be in a store."""
    with open_binary(path) as stream:
        return stream.read(6).startswith(tuple(_OPENERS))


def plain_name(path: str | Path) -> str:
    """The file's name in lower case, without a packer's suffix: `a.jsonl` for `A.jsonl.zst`."""
    name = Path(path).name.lower()
    return next((name.removesuffix(s) for s in PACKED if name.endswith(s)), name)


def text_lines(path: str | Path, errors: str = "strict") -> Iterator[str]:
    """The lines of a text file, with their ends; `errors` as for `bytes.decode`.

    Raises UserError for a damaged file, and for one that is not UTF-8 (with the line)."""
    number = 0
    with open_stream(path) as stream:
        try:
            for number, line in enumerate(stream, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line)") from error
        except BROKEN as error:
            raise UserError(f"{path}: damaged or cut ({error})") from error
