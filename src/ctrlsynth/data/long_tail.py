"""A long-tailed split file (lines `path label`) as a source: the images of the classes that lack them,
repeated until a multiplier is met.

CtrlSynth, section 4.3 and A.2: ImageNet-LT and Places-LT. The groups are counted on this very file and never
again: head over 100 images, medium 20..100, tail under 20. The paper's "7 per tail class" fits its totals
only as 7 per image of all classes up to 100 images (METHODS, section 1), so `groups`, `per` and `multiplier`
are settings."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..recipe.schema import LongTail, Source
from ..storage.location import FileStats
from .rows import (
    MAX_PARTS,
    OpenSource,
    SourcePart,
    SourceRow,
    examine_file,
    fingerprint,
    normal_path,
    path_below,
    safe_key,
)

HEAD_OVER, TAIL_UNDER = 100, 20


def group_of(images: int) -> str:
    """The papers' group of a class with that many images."""
    return "head" if images > HEAD_OVER else "medium" if images >= TAIL_UNDER else "tail"


_Row = tuple[str, int, int]
"""(path, label, number of the copy)."""


class LongTailSource(OpenSource):
    """Rows in the split's order, copies of an image together. The caption is the class's name; metadata:
    label, group, copy."""

    def __init__(self, source: Source, base: Path, limit: int | None = None) -> None:
        super().__init__(source)
        assert source.long_tail is not None
        settings = self._settings = source.long_tail
        self._split, self._root, names = (
            normal_path(base, path) for path in (settings.split, settings.images, settings.classnames)
        )
        self.names = _lines(names)
        rows = read_split(self._split, len(self.names))
        self.counts = Counter(label for _, label in rows)
        wanted = [(p, label) for p, label in rows if group_of(self.counts[label]) in settings.groups]
        if not wanted:
            raise UserError(f"source.long_tail: no class of {self._split} is {' or '.join(settings.groups)}")
        self._rows = _copies(wanted, self.counts, settings)[:limit]
        size = max(source.part_rows, -(-len(self._rows) // MAX_PARTS))
        facts = [fact for path in (self._split, names) for fact in FileStats().of(str(path))]
        for start in range(0, len(self._rows), size):
            mark = fingerprint(*facts, self._root, settings.model_dump_json(), size, start)
            self.add_part(mark, start, min(size, len(self._rows) - start))

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        """The rows of a part; an image that is missing or broken is a row with its reason."""
        for name, label, copy in self._rows[part.locator : part.locator + (part.rows or 0)]:
            meta = {"label": label, "group": group_of(self.counts[label]), "copy": copy}
            made = SourceRow(safe_key(f"{name}#{copy}"), self.names[label], meta)
            path, reason = path_below(str(self._root), name)
            yield made.fail(reason or "missing_file") if path is None else examine_file(made, path)

    def describe(self) -> str:
        """For `plan`: what was chosen and how often."""
        chosen = {label for _, label, _ in self._rows}
        groups = ", ".join(self._settings.groups)
        per = f"{self._settings.multiplier} per {self._settings.per}"
        return f"{len(self._rows):,} rows of {len(chosen):,} classes ({groups}; {per}) in {self._split}"


def _copies(rows: list[tuple[str, int]], counts: Counter[int], settings: LongTail) -> list[_Row]:
    """per image: every image `multiplier` times. per class: `multiplier` rows a class, its images in turn."""
    if settings.per == "image":
        return [(path, label, n) for path, label in rows for n in range(settings.multiplier)]
    seen: Counter[int] = Counter()
    out = []
    for path, label in rows:
        turns = range(seen[label], settings.multiplier, counts[label])
        out += [(path, label, n) for n in range(len(turns))]
        seen[label] += 1
    return out


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: expected lines of a split or of class names; cannot read it ({error})"
        ) from error


def read_split(path: Path, classes: int) -> list[tuple[str, int]]:
    """(path, label) of every line `path label`; the path may hold spaces."""
    out = []
    for number, line in enumerate(_lines(path), 1):
        name, _, label = line.strip().rpartition(" ")
        if name and label.isdigit() and int(label) < classes:
            out.append((name, int(label)))
        elif line.strip():
            raise UserError(
                f"{path}:{number}: expected 'path label' with a label of 0..{classes - 1}, found "
                f"{line[:80]!r}"
            )
    if not out:
        raise UserError(f"{path}: names no image")
    return out
