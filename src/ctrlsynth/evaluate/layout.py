"""Data sets from folders that the user has, in the public layout of DataComp's and clip_benchmark's test sets
(METHODS, section 3):

    SET/classnames.txt                            one class a line; an empty name is a name (CLEVR distance
                                                  has one)
    SET/zeroshot_classification_templates.txt     one template a line, {c} stands for the class
    SET/test/nshards.txt                          how many tars
    SET/test/0.tar ...                            members KEY.jpg|.png|.webp with KEY.cls (a number) or
                                                  KEY.txt (captions, one a line)

Nothing is fetched. What is missing or wrong is one line: what was expected, what was found, where.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, first_line

IMAGES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True, slots=True)
class Sample:
    """One member of a shard: encoded image bytes, its class number or its captions, and where it stands (for
    messages)."""

    image: bytes
    label: int | None
    captions: tuple[str, ...]
    where: str


def find_folder(data: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is a folder in `data`, or None."""
    return next((data / name for name in names if (data / name).is_dir()), None)


def classnames(folder: Path, expected: int | None) -> list[str]:
    """The lines of classnames.txt; checked against the number of classes that the task has, if known."""
    names = _lines(folder / "classnames.txt", "the names of the classes, one a line")
    if expected is not None and len(names) != expected:
        raise UserError(f"{folder / 'classnames.txt'}: expected {expected} classes, found {len(names)}")
    return names


def templates(folder: Path) -> list[str]:
    """The data set's own templates; each must hold {c}."""
    path = folder / "zeroshot_classification_templates.txt"
    what = "templates such as 'a photo of a {c}.', one a line"
    found = [line for line in _lines(path, what) if line.strip()]
    if not found:
        raise UserError(f"{path}: expected {what}, found none")
    for number, line in enumerate(found, 1):
        if "{c}" not in line:
            raise UserError(f"{path}:{number}: expected a template with {{c}} for the class, found {line!r}")
    return found


def _lines(path: Path, what: str) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: expected {what}; cannot read it ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
    lines = text.split("\n")
    return [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def shards(folder: Path, split: str) -> list[Path]:
    """The tars of a split, as nshards.txt counts them; every one must be there."""
    place = folder / split
    if not place.is_dir():
        there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        raise UserError(
            f"{place}: expected a folder with nshards.txt and 0.tar ...; found in {folder}: "
            f"{', '.join(there[:8]) or 'nothing'}"
        )
    count = _lines(place / "nshards.txt", "the number of tars")
    if len(count) != 1 or not count[0].strip().isdigit() or int(count[0]) < 1:
        raise UserError(
            f"{place / 'nshards.txt'}: expected one number from 1 on, found {' '.join(count)[:40]!r}"
        )
    files = [place / f"{n}.tar" for n in range(int(count[0]))]
    gone = [p.name for p in files if not p.is_file()]
    if gone:
        raise UserError(
            f"{place}: nshards.txt says {len(files)} tars, {len(gone)} of them are missing "
            f"({', '.join(gone[:5])})"
        )
    return files


def samples(folder: Path, split: str, classes: int | None = None) -> Iterator[Sample]:
    """Streams a split in the shards' order. With `classes`, every sample needs a .cls of 0..classes-1;
    without, captions in a .txt."""
    seen = 0
    for path in shards(folder, split):
        for key, parts in _groups(path):
            image = next((parts[e] for e in IMAGES if e in parts), None)
            where = f"{path}: {key}"
            if image is None:
                raise UserError(
                    f"{where}: expected an image ({', '.join(IMAGES)}), found "
                    f"{', '.join(sorted(parts)) or 'nothing'}"
                )
            label = _label(parts, where, classes) if classes is not None else None
            captions = () if classes is not None else _captions(parts, where)
            seen += 1
            yield Sample(image, label, captions, where)
    if not seen:
        raise UserError(f"{folder / split}: the tars hold no sample")


def _groups(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Members that share a key (the name up to its last dot) and stand together."""
    key, parts = "", dict[str, bytes]()
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                stem, _, ending = member.name.rpartition(".")
                if stem != key and parts:
                    yield key, parts
                    parts = {}
                key = stem
                handle = tar.extractfile(member)
                parts[ending.lower()] = handle.read() if handle is not None else b""
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: expected a tar, it is damaged ({first_line(error)})") from error
    if parts:
        yield key, parts


def _label(parts: dict[str, bytes], where: str, classes: int) -> int:
    raw = parts.get("cls")
    if raw is None:
        raise UserError(f"{where}: expected a .cls with the class number, found {', '.join(sorted(parts))}")
    text = raw.decode("ascii", "replace").strip()
    if not text.isdigit() or int(text) >= classes:
        raise UserError(f"{where}: expected a class of 0..{classes - 1}, found {text[:40]!r}")
    return int(text)


def _captions(parts: dict[str, bytes], where: str) -> tuple[str, ...]:
    raw = parts.get("txt")
    found = tuple(
        line.strip() for line in (raw or b"").decode("utf-8", "replace").splitlines() if line.strip()
    )
    if not found:
        labelled = (
            " (a set with class numbers needs classnames.txt beside its test folder)"
            if "cls" in parts
            else ""
        )
        raise UserError(
            f"{where}: expected captions in a .txt, one a line; found {', '.join(sorted(parts))}{labelled}"
        )
    return found


def digest(files: Sequence[Path]) -> str:
    """16 hex digits over names, sizes and the first and last 64 KiB of files: tells two versions of a data
    set apart."""
    state = hashlib.blake2b(digest_size=8)
    for path in files:
        size = path.stat().st_size
        state.update(f"{path.name}\0{size}\0".encode())
        with open(path, "rb") as handle:
            state.update(handle.read(65536))
            if size > 65536:
                handle.seek(max(65536, size - 65536))
                state.update(handle.read(65536))
    return state.hexdigest()
