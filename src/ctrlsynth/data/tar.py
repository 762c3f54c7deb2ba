"""The only reader of tars: one walk over the headers gives the samples of a webdataset shard.

Webdataset's rule: neighbours with one key are a sample. A member's key is its name up to the first full stop
of the last path element; the rest, in lower case, is its suffix. Nothing is unpacked to disk, and links,
devices and names that leave the archive are never followed."""

import os
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from .captions import is_text
from .streams import BROKEN, is_packed, open_stream

_BLOCK = tarfile.BLOCKSIZE
_PLAIN, _FOLDER = b"0\x005", ord("5")
_DAMAGED: tuple[type[Exception], ...] = (tarfile.TarError, ValueError, *BROKEN)


class Member(NamedTuple):
    """A regular file in a tar: its `size` bytes begin at byte `offset`. `data`: those bytes, if asked for."""

    name: str
    offset: int
    size: int
    data: bytes | None = None


class TarSample:
    """The members that share a key, by suffix, in the order of the tar.

    `reason`: None, or why the sample cannot be used: unsafe_member, bad_utf8, truncated_archive (the key is
    then the cut member's name, or `FILE@OFFSET` where the archive lacks its end), or unreadable_file (not a
    tar; the key is the file's name). A sample with one of the last two is the tar's last."""

    __slots__ = ("key", "members", "reason")

    def __init__(self, key: str, reason: str | None = None) -> None:
        self.key, self.reason = key, reason
        self.members: dict[str, Member] = {}


def samples(path: str, wanted: Callable[[str, int], bool] | None = None) -> Iterator[TarSample]:
    """The samples of a local tar, in order; what is damaged is a sample with its reason.

    `wanted`: given a member's suffix and size, returns whether its bytes are read along the way; the tar may
    then be compressed. Without it only the headers of a plain tar are read. Raises OSError or UserError for a
    file that cannot be opened."""
    sample: TarSample | None = None
    packed = wanted is not None and is_packed(path)
    with open_stream(path) if packed else open(path, "rb", buffering=0) as stream:
        headers = _Headers(stream, None if packed else os.fstat(stream.fileno()).st_size)
        try:
            for name, offset, size, reason in headers:
                folder, slash, base = name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key, suffix = folder + slash + stem, suffix.lower()
                if sample is None or key != sample.key or suffix in sample.members:
                    if sample is not None:
                        yield sample
                    sample = TarSample(key)
                if reason is not None:
                    sample.reason = sample.reason or reason
                    continue
                data = None
                if wanted is not None and wanted(suffix, size):
                    stream.seek(offset)
                    data = stream.read(size)
                if (headers.size is not None and offset + size > headers.size) or (
                    data is not None and len(data) < size
                ):
                    sample.key, sample.reason = name, sample.reason or "truncated_archive"
                    break
                sample.members[suffix] = Member(name, offset, size, data)
        except _DAMAGED:
            damage = TarSample(os.path.basename(path), "unreadable_file")
            if sample is not None:
                yield sample
                damage = TarSample(f"{os.path.basename(path)}@{headers.offset}", "truncated_archive")
            sample = damage
        if sample is not None:
            yield sample


class _Headers:
    """(name, offset, size, reason) of everything in a tar but folders. Parses plain headers here, which is
    several times faster; `tarfile` takes over at the first other one, and reads compressed tars (no `size`).

    Raises ReadError for damage, at byte `offset`."""

    def __init__(self, stream: IO[bytes], size: int | None) -> None:
        self.stream, self.size, self.offset = stream, size, 0

    def __iter__(self) -> Iterator[tuple[str, int, int, str | None]]:
        if self.size is not None:
            descriptor = self.stream.fileno()
            while True:
                head = os.pread(descriptor, _BLOCK, self.offset)
                if (
                    head[257:262] != b"ustar"
                    or len(head) < _BLOCK
                    or head[124] & 0x80
                    or head[156] not in _PLAIN
                ):
                    break
                try:
                    size = int(head[124:136].strip(b"\0 ") or b"0", 8)
                except ValueError:
                    break
                begin = self.offset + _BLOCK
                self.offset = begin + -(-size // _BLOCK) * _BLOCK
                name = head[:100].partition(b"\0")[0]
                if head[345] and head[262] == 0:
                    name = head[345:500].partition(b"\0")[0] + b"/" + name
                if head[156] != _FOLDER and not name.endswith(b"/"):
                    text = name.decode("utf-8", "surrogateescape")
                    yield text, begin, size, _refusal(text)
            if self._ended(head):
                return
        yield from self._others()

    def _others(self) -> Iterator[tuple[str, int, int, str | None]]:
        self.stream.seek(self.offset)
        with tarfile.open(fileobj=self.stream, mode="r:", encoding="utf-8") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                self.offset = tar.offset
                if not member.isdir():
                    regular = member.isreg() and not member.issparse()
                    reason = _refusal(member.name) if regular else "unsafe_member"
                    yield member.name, member.offset_data, member.size, reason
        if self.size is not None and not self._ended(os.pread(self.stream.fileno(), _BLOCK, self.offset)):
            raise tarfile.ReadError("a header is damaged")

    def _ended(self, head: bytes) -> bool:
        if len(head) < _BLOCK:
            raise tarfile.ReadError("the archive lacks its end")
        return not head.strip(b"\0")


def _refusal(name: str) -> str | None:
    if name[0] in "/\\" or (".." in name and ".." in name.replace("\\", "/").split("/")):
        return "unsafe_member"
    return None if is_text(name) else "bad_utf8"
