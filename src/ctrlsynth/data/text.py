"""Sources without images: captions (1b) as txt, csv, tsv or jsonl."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..recipe.schema import Source
from ..storage.location import FileStats
from .captions import as_caption, clean_caption
from .rows import MAX_PARTS, Keys, OpenSource, SourcePart, SourceRow, expand, file_prefixes, fingerprint
from .tables import SUFFIXES, Table, find_column, merge_cuts


class TextSource(OpenSource):
    """Text files cut into parts of `part_rows` records. A csv row's other columns become its metadata."""

    has_images = False

    def __init__(self, source: Source, base: Path, limit: int | None = None) -> None:
        super().__init__(source)
        files = expand(source.text or "", base, SUFFIXES, "source.text", local=True)
        self._key = source.key_column
        self._files: list[tuple[Table, str, str]] = []
        left = limit or sys.maxsize
        for number, (path, prefix) in enumerate(zip(files, file_prefixes(files), strict=True)):
            table = Table(path)
            if table.kind == "txt":  # has no columns
                find_column((), (), self._key, "key_column", path, required=False)
            caption = table.caption_column(source.caption_column, self._key)
            self._files.append((table, caption, prefix))
            start = 0
            for offset, rows in merge_cuts(table.cuts(source.part_rows, left), MAX_PARTS // len(files)):
                mark = fingerprint(*FileStats().of(path), offset, rows, caption or None, self._key)
                self.add_part(mark, (number, offset, start), rows)
                start += rows
            left -= start

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        number, offset, start = part.locator
        table, caption, prefix = self._files[number]
        keys = Keys()
        for index, (value, reason) in enumerate(table.read(offset, part.rows), start):
            row, data = SourceRow(f"{prefix}{index}"), table.asdict(value)
            if reason is not None:
                row = bad_record(row.key, table.path, index, value, reason)
            else:
                row.caption = clean_caption(as_caption(data.pop(caption, None)))
                row.metadata = data
                if row.caption is None:
                    row.drop("empty_caption")
            yield keys.admit(row, data.get(self._key) if self._key else None)

    def describe(self) -> str:
        return f"{self.total:,} captions in {len(self._files)} text file{'s' * (len(self._files) != 1)}"


def bad_record(key: str, path: str, index: int, value: Any, reason: str) -> SourceRow:
    """The row of a record that could not be read, with its file and number."""
    raw = str(value)[:200] if value is not None else None
    row = SourceRow(key, metadata={"file": path, "record": index, "raw": raw})
    return row.drop("empty_caption") if reason == "empty_row" else row.fail(reason)
