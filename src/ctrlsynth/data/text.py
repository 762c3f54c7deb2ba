"""Sources without images: captions (1b) as txt, csv, tsv or jsonl."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..recipe.schema import Source
from .captions import CAPTION_NAMES, as_caption, clean_caption
from .rows import (
    MAX_PARTS,
    Keys,
    OpenSource,
    SourcePart,
    SourceRow,
    expand,
    file_facts,
    file_prefixes,
    find_column,
    fingerprint,
    safe_key,
)
from .tables import SUFFIXES, Table, merge_cuts


class TextSource(OpenSource):
    """Text files cut into parts of `part_rows` records. A csv row's other columns become its metadata."""

    has_images = False

    def __init__(self, source: Source, base: Path, limit: int | None = None) -> None:
        super().__init__(source)
        files = expand(source.text or "", base, SUFFIXES, "source.text", local=True)
        self._tables = [Table(f) for f in files]
        self._captions = [
            find_column(t.columns, CAPTION_NAMES, source.caption_column, "caption_column", t.path)
            if t.kind != "txt"
            else None
            for t in self._tables
        ]
        self._prefixes = file_prefixes(files)
        self._key = source.key_column
        for table in self._tables:
            if self._key is not None and table.kind != "jsonl":
                find_column(table.columns, (), self._key, "key_column", table.path)
        for number, table in enumerate(self._tables):
            if limit == 0:
                break
            cuts = merge_cuts(table.cuts(source.part_rows, limit), MAX_PARTS // len(files))
            facts = file_facts(table.path)
            start = 0
            for offset, rows in cuts:
                mark = fingerprint(*facts, offset, rows, self._captions[number], self._key)
                self.add_part(mark, (number, offset, start), rows)
                start += rows
            if limit is not None:
                limit -= start
        if not self._parts:
            raise UserError(f"{files[0]}: holds no rows")

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        number, offset, start = part.locator
        table, caption, prefix = self._tables[number], self._captions[number], self._prefixes[number]
        found = table.read(offset, part.rows or 0)
        keys = Keys()
        for index, (value, reason) in enumerate(found, start):
            row = SourceRow(f"{prefix}{index}")
            data = table.asdict(value)
            if reason is not None:
                bad(row, table, value, reason, index)
            else:
                row.caption = clean_caption(
                    value if table.kind == "txt" else as_caption(data.pop(caption, None))
                )
                row.metadata = data
                if row.caption is None:
                    row.drop("empty_caption")
            if self._key is not None:
                given = data.get(self._key)
                row.key = safe_key(str(given)) if given not in (None, "") else row.key
                keys.admit(row)
            yield row

    def describe(self) -> str:
        return f"{self.total:,} captions in {len(self._tables)} text file{'s' * (len(self._tables) != 1)}"


def bad(row: SourceRow, table: Table, value: Any, reason: str, index: int) -> None:
    """Marks the row of a record that could not be read, with the record's position."""
    row.metadata = {
        "file": table.path,
        "record": index,
        "raw": str(value)[:200] if value is not None else None,
    }
    if reason == "empty_row":
        row.drop("empty_caption")
    else:
        row.fail(reason)
