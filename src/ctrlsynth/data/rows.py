"""The parts and rows that every source gives to the `read` stage (1a, 1b), and the rules that all formats
share: keys, columns, paths, globs.

A row points at its image by (file, member, offset, length) and never carries its bytes. Keys are unique
within a part; the run's source key is `<part name>:<key>`."""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..recipe.schema import Source
from ..sample import range_name
from ..storage.location import FileStats, Location, Remote, locate
from .captions import is_text
from .images import ImageFault, probe

MAX_PARTS = 10_000

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "img_bytes")
FILE_NAMES = (
    "file",
    "file_name",
    "filename",
    "filepath",
    "file_path",
    "path",
    "image_path",
    "image_file",
    "img_path",
    "image_name",
)

_KEY_UNSAFE = re.compile("[%:\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SourcePart:
    """One part: a shard, or a range of rows. `rows` is the number of rows where it is known without reading
    the part."""

    index: int
    name: str
    fingerprint: str
    locator: Any
    rows: int | None = None


@dataclass(slots=True)
class SourceRow:
    """One row of a source. `key` is unique within its part, however the source is cut; `reason` says why the
    row is not `ok`.

    Reasons: empty_file, not_an_image, image_too_large, truncated_image, missing_file, unsafe_path,
    unsafe_link, unsafe_member, unreadable_file, truncated_archive, bad_utf8, bad_row, empty_caption,
    empty_row, duplicate_key, and img2dataset's own status words."""

    key: str
    caption: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    file: str | None = None
    member: str | None = None
    offset: int | None = None
    length: int | None = None
    status: Literal["ok", "dropped", "failed"] = "ok"
    reason: str | None = None

    def fail(self, reason: str, status: Literal["dropped", "failed"] = "failed") -> SourceRow:
        """Marks the row as failed; the first reason stays. Returns the row."""
        if self.status == "ok":
            self.status, self.reason = status, reason
        return self

    def drop(self, reason: str) -> SourceRow:
        """As `fail`, for rows that are valid but not wanted."""
        return self.fail(reason, "dropped")


def safe_key(text: str) -> str:
    """A key that is valid in an id: `/` becomes `:`, `:` and control characters are percent-encoded,
    overlong keys end in their digest."""
    key = _KEY_UNSAFE.sub(lambda m: f"%{ord(m.group()):02X}", text).replace("/", ":")
    if len(key) > 200:
        key = f"{key[:160]}~{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
    return key


class OpenSource(ABC):
    """Base of the sources. The constructor takes the recipe's block and adds the parts."""

    has_images = True

    def __init__(self, source: Source) -> None:
        self.licence = source.licence
        self._parts: list[SourcePart] = []

    def add_part(self, mark: str, locator: Any, rows: int | None, name: str | None = None) -> None:
        """Adds the next part, with its fingerprint; a range of rows is named by its number."""
        index = len(self._parts)
        self._parts.append(SourcePart(index, name or range_name(index), mark, locator, rows))

    def parts(self) -> list[SourcePart]:
        """The parts, in order; they do not change after opening."""
        return self._parts

    @property
    def total(self) -> int:
        """The rows of all parts, where they are known."""
        return sum(part.rows or 0 for part in self._parts)

    @abstractmethod
    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        """Streams the rows of a part; parts may be read in any order."""

    @abstractmethod
    def describe(self) -> str:
        """One line for `plan`."""


class Keys:
    """The keys of one part, to find repeats."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        # key -> the number that was given last, so that many equal keys cost no search
        self._last: dict[str, int] = {}

    def admit(self, row: SourceRow, given: Any = None) -> SourceRow:
        """Returns the row, with the `given` value of the key column, if any, as its key. A row whose key the
        part already has is dropped as `duplicate_key` and numbered."""
        if given not in (None, ""):
            row.key = safe_key(str(given))
        if row.key in self._seen:
            row.drop("duplicate_key")
            row.key = self.free(row.key)
        self._seen.add(row.key)
        return row

    def free(self, key: str) -> str:
        """`key`, or the first of `key~2`, `key~3`, ... that is not taken."""
        name, number = key, self._last.get(key, 1)
        while name in self._seen:
            number += 1
            name = f"{key}~{number}"
        self._last[key] = number
        return name

    def __contains__(self, key: str) -> bool:
        return key in self._seen


def examine(row: SourceRow, data: bytes) -> SourceRow:
    """Fills sha256, width and height from the image's bytes; the row fails if its header is not valid."""
    row.sha256 = hashlib.sha256(data).hexdigest()
    try:
        row.width, row.height = probe(data)
    except ImageFault as fault:
        row.fail(fault.reason)
    return row


def examine_file(row: SourceRow, path: str) -> SourceRow:
    """`examine` for an image that is a file of its own; fills the locator too."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return row.fail("missing_file")
    except OSError:
        return row.fail("unreadable_file")
    row.file, row.offset, row.length = path, 0, len(data)
    return examine(row, data)


def path_below(root: str, name: str, *, absolute: bool = False) -> tuple[str | None, str | None]:
    """The path of file `name` of a table beside or under `root` -> (path, None) or (None, reason).

    Names that leave `root` are refused (`unsafe_path`), so are links that do (`unsafe_link`). With
    `absolute`, an absolute path is allowed, because the user wrote it."""
    if not is_text(name) or "\0" in name:
        return None, "bad_utf8"
    if os.path.isabs(name) and absolute:
        return (name, None) if os.path.isfile(name) else (None, "missing_file")
    path = os.path.normpath(os.path.join(root, name))
    if not _inside(path, root):
        return None, "unsafe_path"
    if not os.path.isfile(path):
        other = name.replace("\\", "/")
        return path_below(root, other) if other != name else (None, "missing_file")
    if not _inside(os.path.realpath(path), os.path.realpath(root)):
        return None, "unsafe_link"
    return path, None


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def normal_path(base: Path, path: Path) -> Path:
    """A recipe's path, from `base` where it is relative."""
    return Path(os.path.normpath(base / path.expanduser()))


def fingerprint(*items: object) -> str:
    """A short digest of facts about a part."""
    return hashlib.blake2b(
        "\0".join(map(str, items)).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()


def file_prefixes(files: Sequence[str]) -> list[str]:
    """The prefix of row numbers in keys, per file: none for one file, else `stem.`, since numbers repeat."""
    if len(files) == 1:
        return [""]
    return [f"{name}." for name in part_names(os.path.basename(f).partition(".")[0] for f in files)]


def part_names(stems: Iterable[str]) -> list[str]:
    """A part's name is its shard's stem where all stems are unique and plain, else its number in five
    digits."""
    listed = list(stems)
    plain = all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", s) for s in listed)
    is_unique = len(set(listed)) == len(listed)
    return listed if plain and is_unique else [f"{i:05d}" for i in range(len(listed))]


def expand(
    patterns: str | Sequence[str], base: Path, suffixes: Sequence[str], key: str, local: bool = False
) -> list[str]:
    """Files that the setting `key` names: paths, URLs, globs (`*`, `?`, `**`), brace ranges
    (`{00000..00099}`, `{a,b}`), folders.

    In order, without repeats. Relative ones start at `base`. A folder means its files that end in
    one of `suffixes`. Raises UserError for what does not exist, and for a store where files must be `local`.
    """
    files: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if pattern.startswith(("pipe:", "http:", "https:")):
            raise UserError(f"{key}: {pattern!r} is not a path or a store; mount or download the data first")
        missing, facts = [], FileStats()
        for name in braces(pattern):
            where = locate(name)
            if isinstance(where, Remote) and local:
                raise UserError(
                    f"{key}: {name!r}: texts are read from this machine; mount or download the data first"
                )
            if isinstance(where, Path):
                where = normal_path(base, where)
            found = _find(where, tuple(suffixes), facts)
            if not found:
                missing.append(str(where))
            files.update(dict.fromkeys(found))
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{key}: nothing at {missing[0]}{more}; relative paths start at {base}")
    if not files:
        raise UserError(f"{key}: the list is empty")
    return list(files)


def _find(where: Location, suffixes: tuple[str, ...], facts: FileStats) -> list[str]:
    """The files that one path without braces names: a file, a folder's files, or those that match a glob."""
    if isinstance(where, Path) and where.is_dir():
        names = sorted(p.name for p in where.iterdir() if p.is_file())
    elif isinstance(where, Path):
        if where.is_file():
            return [str(where)]
        first = next((i for i, part in enumerate(where.parts) if set(part) & set("*?[")), None)
        root, pattern = Path(*where.parts[:first]), "/".join(where.parts[first:])
        found = root.glob(pattern) if first is not None and root.is_dir() else ()
        return sorted(str(p) for p in found if p.is_file())
    elif match := re.match(r"([^*?[]*)/(.*[*?[].*)", where.url):
        return [f.url for f in Remote(match[1]).glob(match[2]) if f.name.endswith(suffixes)]
    elif facts.has(where.url):
        return [where.url]
    else:
        names = sorted(facts.folder(where))
    return [str(where / name) for name in names if name.endswith(suffixes) and not name.startswith(".")]


def braces(pattern: str) -> list[str]:
    """`a{08..10}{x,y}` -> a08x a08y a09x ... : ranges keep their zeros, as shells do. Text without braces
    is returned as it is."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        return [pattern]
    if match[3] is not None:
        middle = match[3].split(",")
    else:
        low, high = int(match[1]), int(match[2])
        if abs(high - low) >= 10_000_000:
            raise UserError(f"{pattern!r}: the range is too long")
        numbers = range(low, high + 1) if high >= low else range(low, high - 1, -1)
        middle = [str(n).zfill(len(match[1])) for n in numbers]
    tails = braces(pattern[match.end() :])
    return [pattern[: match.start()] + m + t for m in middle for t in tails]
