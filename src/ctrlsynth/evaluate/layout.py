"""Reads the user's data sets in the public layout of DataComp's and clip_benchmark's test sets
(METHODS, section 3):

    SET/classnames.txt                            one class per line; an empty name is a name (CLEVR
                                                  distance has one)
    SET/zeroshot_classification_templates.txt     one template per line, {c} for the class
    SET/test/nshards.txt                          how many tars
    SET/test/0.tar ...                            members KEY.jpg|.png|.webp with KEY.cls (a number) or
                                                  KEY.txt (captions, one per line)

Nothing is fetched. Errors say in one line what was expected, what was found, and where.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data import tar
from ..errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: the encoded image, its class number or its captions, and where it is (for messages)."""

    image: bytes
    label: int | None
    captions: tuple[str, ...]
    where: str


def find_folder(data: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is a folder in `data`, or None."""
    return next((data / name for name in names if (data / name).is_dir()), None)


def classnames(folder: Path, expected: int | None) -> list[str]:
    """The lines of classnames.txt. UserError if their number is not the task's, where that is known."""
    names = _lines(folder / "classnames.txt", "the names of the classes, one per line")
    if expected is not None and len(names) != expected:
        raise UserError(f"{folder / 'classnames.txt'}: expected {expected} classes, found {len(names)}")
    return names


def templates(folder: Path) -> list[str]:
    """The data set's own templates; each must hold {c}."""
    path = folder / "zeroshot_classification_templates.txt"
    what = "templates such as 'a photo of a {c}.', one per line"
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
    return text.removesuffix("\n").split("\n") if text else []


def shards(folder: Path, split: str) -> list[Path]:
    """The tars of a split: as many as nshards.txt says, all of which must exist."""
    path = folder / split
    if not path.is_dir():
        there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        raise UserError(
            f"{path}: expected a folder with nshards.txt and 0.tar ...; found in {folder}: "
            f"{', '.join(there[:8]) or 'nothing'}"
        )
    count = _lines(path / "nshards.txt", "the number of tars")
    if len(count) != 1 or not count[0].strip().isdigit() or int(count[0]) < 1:
        raise UserError(
            f"{path / 'nshards.txt'}: expected one number from 1 on, found {' '.join(count)[:40]!r}"
        )
    files = [path / f"{n}.tar" for n in range(int(count[0]))]
    missing = [p.name for p in files if not p.is_file()]
    if missing:
        raise UserError(
            f"{path}: nshards.txt says {len(files)} tars, {len(missing)} of them are missing "
            f"({', '.join(missing[:5])})"
        )
    return files


def samples(folder: Path, split: str, classes: int | None = None) -> Iterator[Sample]:
    """Streams a split in the order of its shards. With `classes`, every sample needs a .cls of 0 to
    classes-1; without, captions in a .txt."""
    seen = 0
    for path in shards(folder, split):
        for sample in tar.samples(str(path), lambda suffix, _: suffix in (*IMAGES, "cls", "txt")):
            if sample.reason is not None:
                raise UserError(f"{path}: expected a tar, it is damaged ({sample.key}: {sample.reason})")
            parts = {suffix: member.data or b"" for suffix, member in sample.members.items()}
            image = next((parts[e] for e in IMAGES if e in parts), None)
            where = f"{path}: {sample.key}"
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


def inside(root: Path, name: str, by: Path) -> Path:
    """The path of an image that `by` names. UserError if it is outside `root`."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{by}: {name!r} is outside {root}")
    return path


def read_sample(path: Path, by: str, label: int | None = None, captions: Sequence[str] = ()) -> Sample:
    """The sample of an image file that `by` names."""
    try:
        return Sample(path.read_bytes(), label, tuple(captions), str(path))
    except OSError as error:
        raise UserError(
            f"{path}: expected an image that {by} names; cannot read it ({error.strerror})"
        ) from error


def _label(parts: dict[str, bytes], where: str, classes: int) -> int:
    if "cls" not in parts:
        raise UserError(f"{where}: expected a .cls with the class number, found {', '.join(sorted(parts))}")
    text = parts["cls"].decode("ascii", "replace").strip()
    if not text.isdigit() or int(text) >= classes:
        raise UserError(f"{where}: expected a class of 0..{classes - 1}, found {text[:40]!r}")
    return int(text)


def _captions(parts: dict[str, bytes], where: str) -> tuple[str, ...]:
    lines = parts.get("txt", b"").decode("utf-8", "replace").splitlines()
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        hint = " (a set with class numbers needs classnames.txt beside its test folder)"
        raise UserError(
            f"{where}: expected captions in a .txt, one per line; found {', '.join(sorted(parts))}"
            f"{hint if 'cls' in parts else ''}"
        )
    return found


def digest(files: Sequence[Path]) -> str:
    """16 hex digits over names, sizes and the first and last 64 KiB of files, to distinguish versions of a
    data set."""
    state = hashlib.blake2b(digest_size=8)
    for path in files:
        size = path.stat().st_size
        state.update(f"{path.name}\0{size}\0".encode())
        with open(path, "rb") as handle:
            state.update(handle.read(65536))
            handle.seek(max(65536, size - 65536))
            state.update(handle.read(65536))
    return state.hexdigest()
