"""The concepts of a bank as a source (SynthCLIP's route): any bank file that `concepts.bank` reads, one row
per entry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.captions import clean_caption
from ..data.rows import MAX_PARTS, OpenSource, SourcePart, SourceRow, fingerprint, normal_path
from ..recipe.schema import Source
from .bank import LONGEST, digest_of, read_bank


class ConceptSource(OpenSource):
    """A bank cut into parts of `part_rows` entries. Entries that nothing is written about are rows with a
    reason: `empty_caption`, `no_words`, `too_long`, `duplicate_concept`, and `flagged` (`ctrlsynth concepts
    flag`, on this entry or one that differs in blanks only); the bank keeps them."""

    has_images = False

    def __init__(self, source: Source, base: Path, limit: int | None = None) -> None:
        super().__init__(source)
        assert source.concepts is not None
        path = self._path = normal_path(base, source.concepts)
        table = read_bank(path).slice(0, limit)
        entries = [entry or "" for entry in table["entry"].to_pylist()]
        about: list[dict[str, Any]] = table.drop_columns(["entry"]).to_pylist()
        plain = [_plain(entry) for entry in entries]
        unfit = {entry for entry, facts in zip(plain, about, strict=True) if facts["flagged"]}
        for entry, facts in zip(plain, about, strict=True):
            facts["flagged"] = entry in unfit or facts["flagged"]
        self._rows = list(zip(plain, about, strict=True))
        self._first = {entry: number for number, entry in reversed(list(enumerate(plain)))}
        self.bank = f"{path.name} {digest_of(entries)}"
        step = max(source.part_rows, -(-len(entries) // MAX_PARTS))
        for start in range(0, len(entries), step):
            rows, flags = entries[start : start + step], [f["flagged"] for f in about[start : start + step]]
            self.add_part(fingerprint(start, digest_of(rows), flags), start, len(rows))

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        for number in range(part.locator, part.locator + (part.rows or 0)):
            entry, about = self._rows[number]
            faults = {
                "empty_caption": not entry,
                "no_words": not any(map(str.isalnum, entry)),
                "too_long": len(entry) > LONGEST,
                "flagged": about["flagged"],
                "duplicate_concept": self._first[entry] != number,
            }
            row = SourceRow(str(number), entry or None, {k: v for k, v in about.items() if v is not None})
            for reason, holds in faults.items():
                if holds:
                    row.drop(reason)  # the first reason stays
            yield row

    def describe(self) -> str:
        return f"{len(self._rows):,} concepts in {self._path}"


def _plain(entry: str) -> str:
    """The entry on one line, without control characters."""
    return " ".join((clean_caption(entry) or "").split())
