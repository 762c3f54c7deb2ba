"""Captions in bulk: parquet, jsonl, txt, csv, tsv, webdataset tars, all packed or not, and the texts of a run
of ours. Streams.

A corpus is cut into parts that any process can read; ids do not depend on the cut. An id is the row's number
in its file (0 is the first), after `stem.` where there are several files; with a key column the key's value
alone; in a tar the sample's key for the number; in a run the row's id.

`corpus_read.read` gives a part's captions. What can't be used is set aside with its row and a reason:
`bad_utf8`, `bad_row`, `empty_caption`, `damaged_file` (the file ends here)."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ..data import streams
from ..data.captions import CAPTION_NAMES
from ..data.records import headed, records
from ..data.rows import braces, file_facts, file_prefixes, find_column, fingerprint
from ..errors import UserError, first_line
from ..storage.parts import RunFolder

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".txt", ".csv", ".tsv", ".tar")
PART_BYTES, PART_ROWS = 64 << 20, 250_000
Piece = tuple[int, int | None, int, int | None]


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a file: the bytes begin..end of plain lines, the row groups begin..end of a parquet file,
    or a whole file (end None).

    row, rows    its first row, and how many it has where that is known without reading it
    """

    index: int
    file: str
    kind: str
    begin: int
    end: int | None
    row: int
    rows: int | None
    prefix: str
    caption: str
    key: str | None
    fingerprint: str


def open_corpus(
    given: Sequence[str | Path],
    caption: str | None = None,
    key: str | None = None,
    rows: int = PART_ROWS,
    size: int = PART_BYTES,
) -> list[Part]:
    """The parts of files, globs (`*`, `{000..099}`), folders of such files, and runs, in order. Looks at
    headers and counts lines.

    Raises UserError for what is not there, of another kind, or without the column.
    """
    files = _expand(given)
    prefixes = file_prefixes([f for f, _ in files])
    parts: list[Part] = []
    for (file, kind), prefix in zip(files, prefixes, strict=True):
        column, pieces = _pieces(file, kind, caption, key, rows, size)
        facts = file_facts(file)
        for begin, end, row, count in pieces:
            mark = fingerprint(*facts, begin, end, column, key, prefix)
            parts.append(Part(len(parts), file, kind, begin, end, row, count, prefix, column, key, mark))
    return parts


def _expand(given: Sequence[str | Path]) -> list[tuple[str, str]]:
    """(file, kind), each once."""
    found: dict[str, str] = {}
    for pattern in given:
        for name in braces(os.path.expanduser(str(pattern))):
            path = Path(name)
            if _is_run(path) or (path.is_dir() and _is_run(path.parent)):
                found.update(dict.fromkeys(_run_parts(path), "run"))
                continue
            if path.is_dir():
                files = sorted(
                    str(p) for p in path.iterdir() if p.is_file() and _kind(p) and not p.name.startswith(".")
                )
            else:
                files = [name] if path.is_file() else sorted(glob.glob(name, recursive=True))
            if not files:
                raise UserError(
                    f"{name}: no captions there ({', '.join(SUFFIXES)}, also packed as "
                    f"{', '.join(streams.PACKED)})"
                )
            for file in files:
                kind = _kind(file)
                if kind is None:
                    raise UserError(
                        f"{file}: captions are {', '.join(SUFFIXES)} files, also packed as "
                        f"{', '.join(streams.PACKED)}"
                    )
                found[file] = kind
    if not found:
        raise UserError("no caption files given")
    return list(found.items())


def _kind(path: str | Path) -> str | None:
    name = streams.plain_name(path)
    kind = next((s[1:] for s in SUFFIXES if name.endswith(s)), None)
    return "jsonl" if kind == "ndjson" else kind


def _is_run(path: Path) -> bool:
    return RunFolder(path).plan_file.exists()


def _run_parts(path: Path) -> list[str]:
    """The newest version of each part of a run's write folder, given the run or the folder."""
    folders = [path] if not _is_run(path) else sorted(p for p in path.glob("write*") if p.is_dir())
    if len(folders) != 1:
        raise UserError(
            f"{path}: {'has no texts yet' if not folders else 'name one of ' + ', '.join(map(str, folders))}"
        )
    folder = folders[0]
    found = [str(path) for path in RunFolder(folder.parent).newest(folder.name).values()]
    if not found:
        raise UserError(f"{folder}: holds no finished part")
    return found


def _pieces(
    file: str, kind: str, caption: str | None, key: str | None, rows: int, size: int
) -> tuple[str, list[Piece]]:
    """The caption's column and (begin, end, first row, rows) of the parts of one file."""
    if kind in ("parquet", "run"):
        return _row_groups(file, kind, caption, key, rows)
    if kind == "tar":
        return caption or "", [(0, None, 0, None)]
    column = ""
    if kind != "txt":
        with streams.open_stream(file) as stream:
            columns, _ = column_names(file, kind, stream)
        column = find_column(columns, CAPTION_NAMES, caption, "caption_column", file) or ""
        if kind != "jsonl":
            find_column(columns, (), key, "key_column", file, required=False)
    if kind in ("csv", "tsv") or _is_packed(file):
        return column, [(0, None, 0, None)]
    return column, list(_line_ranges(file, size))


def _row_groups(
    file: str, kind: str, caption: str | None, key: str | None, rows: int
) -> tuple[str, list[Piece]]:
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            counts = [table.metadata.row_group(i).num_rows for i in range(table.metadata.num_row_groups)]
            column = (
                "text"
                if kind == "run"
                else find_column(names, CAPTION_NAMES, caption, "caption_column", file) or ""
            )
            find_column(names, (), key, "key_column", file, required=False)
            of = table.schema_arrow.field(column).type
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{file}: not a readable parquet file ({first_line(error)})") from error
    if not any(
        is_(of)
        for is_ in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    ):
        raise UserError(f"{file}: column {column!r} holds {of}, not text")
    out: list[Piece] = []
    begin = row = first = 0
    for i, count in enumerate(counts):
        row += count
        if row - first >= rows or i == len(counts) - 1:
            out.append((begin, i + 1, first, row - first))
            begin, first = i + 1, row
    return column, out


def _is_packed(file: str) -> bool:
    with open(file, "rb") as stream:
        return stream.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def column_names(file: str, kind: str, stream: IO[bytes]) -> tuple[list[str], bool]:
    """The column names, and whether the first row is a header: by that row, or by the first line that is a
    JSON object."""
    try:
        for _, value, reason in records(stream, cast(Any, kind), 0):
            if reason is None and value:
                return headed(value) if kind != "jsonl" else (list(value), False)
            if kind != "jsonl":
                break
    except streams.BROKEN as error:
        raise UserError(f"{file}: damaged or cut ({error})") from error
    raise UserError(f"{file}: {'no line is a JSON object' if kind == 'jsonl' else 'has no header'}")


def _line_ranges(file: str, size: int) -> Iterator[Piece]:
    """Ranges of about `size` bytes that end with a line."""
    begin = at = row = first = 0
    block_end = b""
    with open(file, "rb") as stream:
        while block := stream.read(min(size, 8 << 20)):
            cut = block.rfind(b"\n") + 1
            if cut and at + cut - begin >= size:
                row += block.count(b"\n", 0, cut)
                yield begin, at + cut, first, row - first
                begin, first = at + cut, row
                row += block.count(b"\n", cut)
            else:
                row += block.count(b"\n")
            at += len(block)
            block_end = block[-1:]
    if at > begin:  # the last line may lack its end
        yield begin, at, first, row - first + (block_end != b"\n")
