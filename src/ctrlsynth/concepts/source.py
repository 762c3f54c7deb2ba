"""The concepts of a bank as a source (SynthCLIP's route): any bank file that `concepts.bank` reads, one row
per entry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.captions import clean_caption
from ..data.rows import MAX_PARTS, OpenSource, SourcePart, SourceRow, fingerprint, normal_path
from ..errors import UserError
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
        table = read_bank(path)
        table = table.slice(0, limit) if limit is not None else table
        if not table.num_rows:
            raise UserError(f"{path}: holds no rows")
        self._entries: list[str | None] = table["entry"].to_pylist()
        self._about: list[dict[str, Any]] = table.drop_columns(["entry"]).to_pylist()
        plain = [_plain(entry) for entry in self._entries]
        self._first = {entry: number for number, entry in reversed(list(enumerate(plain)))}
        unfit = {entry for entry, about in zip(plain, self._about, strict=True) if about["flagged"]}
        for entry, about in zip(plain, self._about, strict=True):
            about["flagged"] = entry in unfit or about["flagged"]
        self.bank = f"{path.name} {digest_of([e or '' for e in self._entries])}"
        step = max(source.part_rows, -(-len(self._entries) // MAX_PARTS))
        for start in range(0, len(self._entries), step):
            rows = [e or "" for e in self._entries[start : start + step]]
            flags = [a["flagged"] for a in self._about[start : start + step]]
            self.add_part(fingerprint(start, digest_of(rows), flags), start, len(rows))

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        for number in range(part.locator, part.locator + (part.rows or 0)):
            entry = _plain(self._entries[number])
            row = SourceRow(
                str(number),
                caption=entry,
                metadata={k: v for k, v in self._about[number].items() if v is not None},
            )
            if entry is None:
                row.drop("empty_caption")
            elif not any(c.isalnum() for c in entry):
                row.drop("no_words")
            elif len(entry) > LONGEST:
                row.drop("too_long")
            elif self._about[number]["flagged"]:
                row.drop("flagged")
            elif self._first[entry] != number:
                row.drop("duplicate_concept")
            yield row

    def describe(self) -> str:
        return f"{len(self._entries):,} concepts in {self._path}"


def _plain(entry: str | None) -> str | None:
    """The entry on one line, without control characters; None where nothing is left."""
    text = clean_caption(entry)
    return " ".join(text.split()) if text else None
