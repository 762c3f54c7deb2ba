"""Records of a text file with the byte where each ends: lines, csv and tsv with quoted line ends, jsonl;
plain or gzipped.

The pass that cuts a file into parts and the pass that reads a part use the same generator, so they can't
disagree about where a record is."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from ..errors import UserError
from .captions import CAPTION_NAMES, replace_surrogates
from .streams import open_stream

Kind = Literal["txt", "csv", "tsv", "jsonl"]
Record = tuple[int, Any, str | None]
"""(offset behind the record, its value, None) or (offset, what could be read of it or None, the reason why it
is bad)."""

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".txt.gz", ".csv.gz", ".tsv.gz", ".jsonl.gz")
# A field longer than this is a quote that was never closed.
MAX_FIELD = 1 << 22
csv.field_size_limit(MAX_FIELD)
TSV_LINES = 100
"""The most lines that one quoted row of a tsv file may span."""


def kind_of(path: str) -> Kind:
    """The kind that the file's name says. Raises UserError for others."""
    name = Path(path).name.lower().removesuffix(".gz")
    kinds: dict[str, Kind] = {
        ".txt": "txt",
        ".csv": "csv",
        ".tsv": "tsv",
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
    }
    kind = kinds.get(Path(name).suffix)
    if kind is None:
        raise UserError(f"{path}: expected .txt, .csv, .tsv or .jsonl (also .gz)")
    return kind


def records(stream: IO[bytes], kind: Kind, offset: int, width: int = 0) -> Iterator[Record]:
    """The records from byte `offset` on. Values: a str (txt), a list of str (csv, tsv), a dict (jsonl).
    `width`: columns of a tsv.

    Reasons: bad_utf8 (the value holds U+FFFD in the places), bad_row (csv that can't be parsed; a json line
    that is no object), bad_gzip."""
    try:
        stream.seek(offset)
        if kind == "csv":
            yield from _csv(stream, offset)
        elif kind == "tsv":
            yield from _tsv(stream, offset, width)
        else:
            yield from _lines(stream, offset, _text if kind == "txt" else _json)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield offset, None, "bad_gzip"
    except OSError:
        yield offset, None, "unreadable_file"


def _lines(
    stream: IO[bytes], offset: int, parse: Callable[[str], tuple[Any, str | None]]
) -> Iterator[Record]:
    for line in stream:
        start, offset = offset, offset + len(line)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            yield offset, line.decode("utf-8", "replace"), "bad_utf8"
            continue
        value, reason = parse(text.removeprefix("\ufeff") if start == 0 else text)
        yield offset, value, reason


def _text(line: str) -> tuple[str, None]:
    return line, None


def _json(line: str) -> tuple[Any, str | None]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line, "bad_row" if line.strip() else "empty_row"
    return (
        (value if "\\u" not in line else replace_surrogates(value), None)
        if isinstance(value, dict)
        else (line, "bad_row")
    )


def _csv(stream: IO[bytes], offset: int) -> Iterator[Record]:
    at, bad = offset, False

    def feed() -> Iterator[str]:
        nonlocal at, bad
        for line in stream:
            first = at == 0
            at += len(line)
            try:
                text = line.decode()
            except UnicodeDecodeError:
                text, bad = line.decode("utf-8", "replace"), True
            if "\0" in text:  # csv before Python 3.11 refuses it
                text = text.replace("\0", " ")
            yield text.removeprefix("\ufeff") if first else text

    reader = csv.reader(feed())
    while True:
        bad = False
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield at, None, "open_quote" if "field limit" in str(error) else "bad_row"
            continue
        if row:  # a blank line is no row
            yield at, row, "bad_utf8" if bad else None


def _tsv(stream: IO[bytes], offset: int, width: int) -> Iterator[Record]:
    """A line is a row, quotes are text (CC3M's files are so), unless csv's quoting explains the line, or it
    and the next lines, better."""
    waiting: deque[tuple[int, str, bool]] = deque()

    def take() -> tuple[int, str, bool] | None:
        nonlocal offset
        line = stream.readline()
        if not line:
            return None
        first = offset == 0
        offset += len(line)
        try:
            text, bad = line.decode(), False
        except UnicodeDecodeError:
            text, bad = line.decode("utf-8", "replace"), True
        return offset, (text.removeprefix("\ufeff") if first else text).replace("\0", " "), bad

    while (item := waiting.popleft() if waiting else take()) is not None:
        end, text, bad = item
        cells = text.rstrip("\r\n").split("\t")
        if '"' in text:
            quoted, more_wanted = _quoted(text)
            if more_wanted and width:
                run = [item]
                while len(run) < TSV_LINES and more_wanted:
                    more = waiting[len(run) - 1] if len(run) <= len(waiting) else take()
                    if more is None:
                        break
                    if len(run) > len(waiting):
                        waiting.append(more)
                    run.append(more)
                    if '"' in more[1]:
                        quoted, more_wanted = _quoted("".join(line for _, line, _ in run))
                if (
                    quoted
                    and len(quoted) == width
                    and any(line.count("\t") + 1 != width for _, line, _ in run)
                ):
                    for _ in run[1:]:
                        waiting.popleft()
                    end, bad = run[-1][0], any(b for _, _, b in run)
                else:
                    quoted = None
            cells = quoted or cells
        if cells != [""]:
            yield end, cells, "bad_utf8" if bad else None


def _quoted(text: str) -> tuple[list[str] | None, bool]:
    """(the one row of a text by csv's rules, False); (None, True) where a quote stays open, (None, False)
    where one stands wrongly."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))
    except csv.Error as error:
        return None, "unexpected end" in str(error)
    return rows[0] if len(rows) == 1 else None, False


def headed(first: Sequence[str]) -> tuple[list[str], bool]:
    """The columns of a csv or tsv file by its first row, and whether that row is a header.

    A row with a URL beside something else, and without a usual name of a caption column, is data (CC3M's and
    CC12M's files have no header). The first column that is no URL is then `caption`, the first that is one
    `url`; others are `column3` and so on, by their place."""
    names = [cell.strip() for cell in first]
    urls = [name.lower().startswith(("http://", "https://")) for name in names]
    if all(urls) or not any(urls) or any(name.lower() in CAPTION_NAMES for name in names):
        return names, True
    names = [f"column{number}" for number in range(1, len(names) + 1)]
    names[urls.index(False)], names[urls.index(True)] = "caption", "url"
    return names, False


def ends_in_quote(stream: IO[bytes], start: int, end: int) -> bool:
    """Whether the csv record in bytes start..end opens a quote and never closes it: it has swallowed the rest
    of the file."""
    stream.seek(start)
    text = stream.read(end - start).decode("utf-8", "replace")
    try:
        list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


class Table:
    """One text file: its columns and its records. `columns` is empty for txt."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.kind = kind_of(path)
        self.start = 0
        self.columns: list[str] = []
        self._kept: tuple[int, Iterator[Record], IO[bytes]] | None = None
        if self.kind == "txt":
            open_stream(path).close()
            return
        with open_stream(path) as stream:
            for end, value, reason in records(stream, self.kind, 0):
                if reason == "empty_row":
                    continue
                if reason is not None or not value:
                    raise UserError(
                        f"{path}: the first line is not a "
                        f"{'JSON object' if self.kind == 'jsonl' else 'header'} ({reason})"
                    )
                self.columns, header = headed(value) if self.kind != "jsonl" else (list(value), False)
                self.start = end if header else 0
                break
            else:
                raise UserError(f"{path}: is empty")

    def cuts(self, rows: int, limit: int | None) -> list[tuple[int, int]]:
        """(offset, rows) of consecutive ranges of `rows` records (the last may be shorter), in one pass. At
        most `limit` records."""
        out: list[tuple[int, int]] = []
        count, begin, last, end = 0, self.start, self.start, self.start
        left = limit if limit is not None else -1
        with open_stream(self.path) as stream:
            # a line of jsonl is a record whatever it says: it need not be parsed to be counted
            for end, _, reason in records(
                stream, "txt" if self.kind == "jsonl" else self.kind, self.start, len(self.columns)
            ):
                if left == 0:
                    return [*out, (begin, count)] if count else out
                if reason == "open_quote":
                    raise self._open_quote(last)
                count, left = count + 1, left - 1
                if count == rows:
                    out.append((begin, count))
                    begin, count = end, 0
                before, last = last, end
            if end > self.start and self.kind == "csv" and ends_in_quote(stream, before, end):
                raise self._open_quote(before)
        return [*out, (begin, count)] if count else out

    def _open_quote(self, offset: int) -> UserError:
        with open_stream(self.path) as stream:
            line = (
                sum(
                    block.count(b"\n")
                    for block in iter(lambda: stream.read(min(1 << 20, offset - stream.tell())), b"")
                )
                + 1
            )
        return UserError(
            f"{self.path}:{line}: a quoted field opens here and is never closed; close it, or double the "
            f"quote"
        )

    def read(self, offset: int, rows: int) -> Iterator[tuple[Any, str | None]]:
        """`rows` records from byte `offset`. Ranges in order go on where the last ended: gzip is unpacked
        once."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] == offset:
            _, found, stream = kept
        else:
            if kept is not None:
                kept[2].close()
            stream = open_stream(self.path)
            found = records(stream, self.kind, offset, len(self.columns))
        end = offset
        for _ in range(rows):
            item = next(found, None)
            if item is None:
                break
            end, value, reason = item
            yield value, reason
        self._kept = (end, found, stream)

    def asdict(self, value: Any) -> dict[str, Any]:
        """A record as column -> value."""
        if isinstance(value, dict):
            return value
        return dict(zip(self.columns, value, strict=False)) if isinstance(value, list) else {}


def merge_cuts(cuts: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Joins neighbours in pairs until there are at most `most`: parts stay few however long the file is."""
    while len(cuts) > max(1, most):
        cuts = [(cuts[i][0], sum(n for _, n in cuts[i : i + 2])) for i in range(0, len(cuts), 2)]
    return cuts
