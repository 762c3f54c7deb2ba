"""Sources without images: captions (1b) as txt, csv, tsv or jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import UserError
from ..sample import range_name
from .records import Table, merge_cuts
from .rows import (
    CAPTION_NAMES,
    MAX_PARTS,
    Keys,
    SourcePart,
    SourceRow,
    clean_caption,
    file_digest,
    file_facts,
    file_prefixes,
    find_column,
    fingerprint,
    safe_key,
)


class TextSource:
    """Text files cut into parts of `part_rows` records. A csv row's other columns become its metadata."""

    has_images = False

    def __init__(
        self,
        files: Sequence[str],
        *,
        caption_column: str | None,
        key_column: str | None,
        part_rows: int,
        licence: str | None,
        limit: int | None,
    ) -> None:
        self.licence = licence
        self._tables = [Table(f) for f in files]
        self._captions = [_caption_of(t, caption_column) for t in self._tables]
        self._prefixes = file_prefixes(files)
        self._key = key_column
        for table in self._tables:
            if key_column is not None and table.kind != "jsonl":
                find_column(table.columns, (), key_column, "key_column", table.path)
        self._parts = self._cut(part_rows, limit)
        if not self._parts:
            raise UserError(f"{files[0]}: holds no rows")

    def _cut(self, part_rows: int, limit: int | None) -> list[SourcePart]:
        out: list[SourcePart] = []
        left = limit
        for number, table in enumerate(self._tables):
            if left == 0:
                break
            cuts = merge_cuts(table.cuts(part_rows, left), MAX_PARTS // len(self._tables))
            facts = file_facts(table.path)
            start = 0
            for offset, rows in cuts:
                mark = fingerprint(*facts, offset, rows, self._captions[number], self._key)
                out.append(SourcePart(len(out), range_name(len(out)), mark, (number, offset, start), rows))
                start += rows
            left = None if left is None else left - sum(n for _, n in cuts)
        return out

    def parts(self) -> list[SourcePart]:
        return self._parts

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        number, offset, start = part.locator
        table, caption, prefix = self._tables[number], self._captions[number], self._prefixes[number]
        found = table.read(offset, part.rows or 0)
        if self._key is None and table.kind in ("csv", "tsv"):
            yield from _table_rows(table, found, caption, prefix, start)
            return
        keys = Keys()
        for index, (value, reason) in enumerate(found, start):
            row = SourceRow(f"{prefix}{index}")
            data = table.asdict(value)
            if reason is None:
                text = value if table.kind == "txt" else as_caption(data.pop(caption, None))
                row.caption = clean_caption(text)
                row.metadata = data
                if row.caption is None:
                    row.drop("empty_caption")
            else:
                bad(row, table, value, reason, index)
            if self._key is not None:
                given = data.get(self._key)
                row.key = safe_key(str(given)) if given not in (None, "") else row.key
                keys.admit(row)
            yield row

    def describe(self) -> str:
        rows = sum(p.rows or 0 for p in self._parts)
        return f"{rows:,} captions in {len(self._tables)} text file{'s' * (len(self._tables) != 1)}"

    def verify_fingerprint(self, part: SourcePart) -> str:
        table = self._tables[part.locator[0]]
        return fingerprint(
            file_digest(table.path), part.locator[1], part.rows, self._captions[part.locator[0]], self._key
        )


def _table_rows(
    table: Table, found: Iterator[tuple[Any, str | None]], caption: str, prefix: str, start: int
) -> Iterator[SourceRow]:
    """The usual case, kept short for speed: csv and tsv without a key column."""
    at = table.columns.index(caption)
    others = [(i, c) for i, c in enumerate(table.columns) if i != at]
    for index, (value, reason) in enumerate(found, start):
        row = SourceRow(f"{prefix}{index}")
        if reason is None:
            row.caption = clean_caption(value[at]) if at < len(value) else None
            if others:
                row.metadata = {c: value[i] for i, c in others if i < len(value)}
            if row.caption is None:
                row.drop("empty_caption")
        else:
            bad(row, table, value, reason, index)
        yield row


def bad(row: SourceRow, table: Table, value: Any, reason: str, index: int) -> None:
    """Sets a record aside that could not be read, with where it stands."""
    row.metadata = {
        "file": table.path,
        "record": index,
        "raw": str(value)[:200] if value is not None else None,
    }
    if reason == "empty_row":
        row.drop("empty_caption")
    else:
        row.fail(reason)


def as_caption(value: Any) -> str | None:
    """A cell as text: of a list its first, numbers as written, null as none."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if value is None or isinstance(value, str) else str(value)


def _caption_of(table: Table, given: str | None) -> str:
    if table.kind == "txt":
        return ""
    return find_column(table.columns, CAPTION_NAMES, given, "caption_column", table.path) or ""
