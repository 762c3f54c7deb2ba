"""The only reader of tables: text files (csv, tsv, jsonl, and txt, whose lines are rows) and columnar ones
(parquet, and the arrow files that Hugging Face `datasets` saves).

Text is read record by record, with the byte offset behind each. The pass that cuts a file into parts and the
pass that reads a part use the same generator, so they cannot disagree about where a record is. Columnar files
are read by row number; a few batches are in memory at a time."""

import contextlib
import csv
import gzip
import io
import json
import lzma
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from ..storage.location import is_url, open_binary
from .captions import CAPTION_NAMES, replace_surrogates
from .streams import PACKED, open_stream, plain_name

Kind = Literal["txt", "csv", "tsv", "jsonl"]
Line = tuple[int, str, bool]
"""(offset behind the line, its text, whether bytes of it were not UTF-8 and became U+FFFD)."""
Record = tuple[int, Any, str | None]
"""(offset behind the record, its value, None) or (offset, what could be read of it or None, the reason why it
is bad)."""

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".txt.gz", ".csv.gz", ".tsv.gz", ".jsonl.gz")
"""What a folder of text files is searched for."""
# A field longer than this is a quote that was never closed.
MAX_FIELD = 1 << 22
csv.field_size_limit(MAX_FIELD)
TSV_LINES = 100
"""The most lines that one quoted row of a tsv file may span."""


def kind_of(path: str) -> Kind:
    """The format that the file's name says. Raises UserError for others."""
    suffix = Path(plain_name(path)).suffix.replace("ndjson", "jsonl")
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: expected .txt, .csv, .tsv or .jsonl (also {', '.join(PACKED)})")
    return cast(Kind, suffix[1:])


def records(stream: IO[bytes], kind: Kind, offset: int, width: int = 0) -> Iterator[Record]:
    """The records from byte `offset` on. Values: a str (txt), a list of str (csv, tsv), a dict (jsonl).
    `width`: columns of a tsv.

    Reasons: bad_utf8 (the value holds U+FFFD in the places), bad_row (csv that cannot be parsed; a line that
    is not a JSON object), bad_gzip."""
    try:
        stream.seek(offset)
        lines = _lines(stream, offset)
        if kind == "csv":
            yield from _csv(lines, offset)
        elif kind == "tsv":
            yield from _tsv(lines, width)
        else:
            for end, text, bad in lines:
                value, reason = (text, None) if kind == "txt" or bad else _json(text)
                yield end, value, "bad_utf8" if bad else reason
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield offset, None, "bad_gzip"
    except (OSError, lzma.LZMAError):
        yield offset, None, "unreadable_file"


def _lines(stream: IO[bytes], offset: int) -> Iterator[Line]:
    """The lines from byte `offset` on, without the mark of UTF-8 at the file's beginning."""
    for line in stream:
        start, offset = offset, offset + len(line)
        try:
            text, bad = line.decode(), False
        except UnicodeDecodeError:
            text, bad = line.decode("utf-8", "replace"), True
        yield offset, text.removeprefix("\ufeff") if start == 0 else text, bad


def _json(line: str) -> tuple[Any, str | None]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line, "bad_row" if line.strip() else "empty_row"
    if not isinstance(value, dict):
        return line, "bad_row"
    return replace_surrogates(value) if "\\u" in line else value, None


def _csv(lines: Iterator[Line], at: int) -> Iterator[Record]:
    bad = False

    def feed() -> Iterator[str]:
        nonlocal at, bad
        for end, text, is_bad in lines:
            at, bad = end, bad or is_bad
            yield text.replace("\0", " ")  # csv before Python 3.11 refuses it

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


def _tsv(lines: Iterator[Line], width: int) -> Iterator[Record]:
    """A line is a row, quotes are text (CC3M's files are so), unless csv's quoting explains the line, or it
    and the next lines, better."""
    ahead: deque[Line] = deque()
    while ahead or (ahead := deque(islice(lines, 1))):
        count, cells = _tsv_row(lines, ahead, width)
        used = [ahead.popleft() for _ in range(count)]
        if cells != [""]:
            yield used[-1][0], cells, "bad_utf8" if any(bad for _, _, bad in used) else None


def _tsv_row(lines: Iterator[Line], ahead: deque[Line], width: int) -> tuple[int, list[str]]:
    """The number of lines and the cells of the next row. Lines that are looked at are added to `ahead`."""
    text = ahead[0][1].replace("\0", " ")
    plain = text.rstrip("\r\n").split("\t")
    quoted, is_open = _quoted(text, "\t") if '"' in text else (None, False)
    if not is_open:
        return 1, quoted or plain
    for count in range(2, TSV_LINES + 1 if width else 2):
        if count > len(ahead):
            ahead.extend(islice(lines, 1))
        if count > len(ahead):
            break
        text += ahead[count - 1][1].replace("\0", " ")
        if '"' in ahead[count - 1][1]:
            quoted, is_open = _quoted(text, "\t")
            if not is_open:
                rows = all(line.count("\t") + 1 == width for _, line, _ in islice(ahead, count))
                return (count, quoted) if quoted and len(quoted) == width and not rows else (1, plain)
    return 1, plain


def _quoted(text: str, delimiter: str) -> tuple[list[str] | None, bool]:
    """(the one row of a text by csv's rules, False); (None, True) where a quote stays open, (None, False)
    where one is misplaced."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
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


def find_column(
    columns: Sequence[str],
    names: Sequence[str],
    given: str | None,
    key: str,
    where: str,
    required: bool = True,
) -> str | None:
    """The column that `given` names, or the one with a usual name (in any case). None only where it is not
    `required`.

    Raises UserError, with the columns that are there, when the named one is absent, none has a usual name, or
    more than one has."""
    listed = ", ".join(columns) or "none"
    if given is not None:
        if given in columns:
            return given
        raise UserError(f"{where}: no column {given!r} (source.{key}); columns: {listed}")
    found = [c for c in columns if c.strip().lower() in names]
    if len(found) > 1:
        raise UserError(
            f"{where}: columns {' and '.join(map(repr, found))} could both be it; say which with source.{key}"
        )
    if not found and required:
        raise UserError(
            f"{where}: no column looks like the {key.removesuffix('_column')}; columns: {listed}; name one "
            f"with source.{key}"
        )
    return found[0] if found else None


class Table:
    """One text file: its columns and its records. `columns` is empty for txt."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.kind = kind_of(path)
        self.start = 0
        self.columns: list[str] = []
        self._kept: tuple[int, Iterator[Record]] | None = None
        if self.kind == "txt":
            return
        found = self._from(0)
        if self.kind == "jsonl":
            first = next((value for _, value, reason in found if reason is None), None)
            if first is None:
                raise UserError(f"{path}: no line is a JSON object")
            self.columns = list(first)
        else:
            end, value, reason = next(found, (0, [], "the file is empty"))
            if reason is not None:
                raise UserError(f"{path}: the first line is not a header ({reason})")
            self.columns, header = headed(value)
            self.start = end if header else 0

    def _from(self, offset: int, kind: Kind | None = None) -> Iterator[Record]:
        with open_stream(self.path) as stream:
            yield from records(stream, kind or self.kind, offset, len(self.columns))

    def cuts(self, rows: int, limit: int | None) -> list[tuple[int, int]]:
        """(offset, rows) of consecutive ranges of `rows` records (the last may be shorter), in one pass. At
        most `limit` records."""
        out: list[tuple[int, int]] = []
        count, begin, before, last = 0, self.start, self.start, self.start
        kind: Kind = "txt" if self.kind == "jsonl" else self.kind  # a line of jsonl counts whatever it holds
        found = self._from(self.start, kind)
        for end, _, reason in islice(found, limit):
            if reason == "open_quote":
                raise self._open_quote(last)
            count += 1
            if count == rows:
                out.append((begin, count))
                begin, count = end, 0
            before, last = last, end
        if self.kind == "csv" and last > self.start and next(found, None) is None:
            with open_stream(self.path) as stream:  # does the last record open a quote that never closes?
                stream.seek(before)
                if _quoted(stream.read(last - before).decode("utf-8", "replace"), ",")[1]:
                    raise self._open_quote(before)
        return [*out, (begin, count)] if count else out

    def _open_quote(self, offset: int) -> UserError:
        line = 1
        with open_stream(self.path) as stream:
            while block := stream.read(min(1 << 20, offset)):
                line += block.count(b"\n")
                offset -= len(block)
        return UserError(
            f"{self.path}:{line}: a quoted field opens here and is never closed; close it, or double the "
            f"quote"
        )

    def read(self, offset: int, rows: int | None = None) -> Iterator[tuple[Any, str | None]]:
        """(value, reason) of `rows` records, or all, from byte `offset`. Consecutive ranges share one pass
        over the file."""
        kept, self._kept = self._kept, None
        found = kept[1] if kept is not None and kept[0] == offset else self._from(offset)
        end = offset
        for end, value, reason in islice(found, rows):  # noqa: B007  (used after the loop)
            yield value, reason
        self._kept = (end, found)

    def asdict(self, value: Any) -> dict[str, Any]:
        """A record as column -> value; a line of txt has the column ""."""
        if isinstance(value, list):
            return dict(zip(self.columns, value, strict=False))
        return value if isinstance(value, dict) else {"": value}

    def caption_column(self, caption: str | None, key: str | None) -> str:
        """The column of the captions, "" for txt. Raises UserError where it, or that of the keys, is
        absent."""
        if self.kind == "txt":
            return ""
        if self.kind != "jsonl":  # its objects may differ in their keys
            find_column(self.columns, (), key, "key_column", self.path, required=False)
        return find_column(self.columns, CAPTION_NAMES, caption, "caption_column", self.path) or ""


def merge_cuts(cuts: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Joins neighbours in pairs until there are at most `most`: parts stay few however long the file is."""
    while len(cuts) > max(1, most):
        cuts = [(cuts[i][0], sum(n for _, n in cuts[i : i + 2])) for i in range(0, len(cuts), 2)]
    return cuts


UNREADABLE = (pa.ArrowException, OSError)


class ParquetFile:
    """One parquet file. `blocks` are the row counts of its row groups."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = pq.ParquetFile(open_binary(path) if is_url(path) else path)
        self.schema: pa.Schema = self._file.schema_arrow
        meta = self._file.metadata
        self.blocks = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]

    def block(self, number: int, columns: Sequence[str]) -> pa.Table:
        """The rows of one row group."""
        return self._file.read_row_group(number, columns=list(columns), use_threads=False)

    def batches(self, start: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """The rows from `start` to the end in batches of at most `size`; row groups before it are not
        read."""
        for group, rows in enumerate(self.blocks):  # each alone, so that a damaged one does not lose others
            if start >= rows:
                start -= rows
                continue
            for batch in self._file.iter_batches(
                size, row_groups=[group], columns=list(columns), use_threads=False
            ):
                if start < batch.num_rows:
                    yield batch.slice(start)
                start = max(0, start - batch.num_rows)

    def close(self) -> None:
        self._file.close(force=True)


class ArrowFile:
    """One arrow file, stream format (what `save_to_disk` writes) or file format, which is a stream between a
    mark and an index. `blocks` are the row counts of its record batches."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.blocks: list[int] = []
        self._starts: list[int] = []
        with pa.memory_map(path) as source:  # headers alone: mapped pages with the data are not touched
            is_file = source.read(6) == b"ARROW1"
            if is_file:
                source.seek(source.size() - 6)
                if source.read(6) != b"ARROW1":
                    raise pa.ArrowInvalid("an arrow file without its end")
            source.seek(8 if is_file else 0)
            self.schema: pa.Schema = pa.ipc.read_schema(source)
            if any(pa.types.is_dictionary(f.type) for f in self.schema):
                raise UserError(
                    f"{path}: has dictionary-encoded columns; save the data set again with plain ones"
                )
            with contextlib.suppress(EOFError):
                while True:
                    start = source.tell()
                    message = pa.ipc.read_message(source)
                    self.blocks.append(pa.ipc.read_record_batch(message, self.schema).num_rows)
                    self._starts.append(start)

    def batches(self, start: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """As `ParquetFile.batches`. Read, not mapped, so that memory holds one record batch."""
        with pa.OSFile(self.path) as source:
            for begin, rows in zip(self._starts, self.blocks, strict=True):
                if start < rows:
                    source.seek(begin)
                    batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), self.schema)
                    for at in range(start, rows, size):
                        yield batch.select(list(columns)).slice(at, size)
                start = max(0, start - rows)

    def close(self) -> None:
        """Does nothing: each read opens the file."""


Columnar = ParquetFile | ArrowFile


def open_columnar(path: str) -> Columnar:
    """Parquet or arrow by the first bytes. Raises pyarrow's errors or OSError for what is neither."""
    with open_binary(path) as stream:
        magic = stream.read(4)
    if is_url(path) and magic != b"PAR1":
        raise OSError("not a parquet file")
    return ParquetFile(path) if magic == b"PAR1" else ArrowFile(path)


def cut_blocks(blocks: Sequence[int], rows: int) -> list[tuple[int, int]]:
    """(first row, rows) of parts: whole blocks joined up to `rows`, larger blocks split into ranges of
    `rows`."""
    cuts, at = [0], 0
    for count in blocks:
        if at > cuts[-1] and at + count - cuts[-1] > rows:
            cuts.append(at)
        at += count
        while at - cuts[-1] >= 2 * rows:
            cuts.append(cuts[-1] + rows)
        if at - cuts[-1] >= rows:
            cuts.append(at)
    if at > cuts[-1]:
        cuts.append(at)
    return [(start, end - start) for start, end in pairwise(cuts)]


class RowCursor:
    """Rows of one file as dicts. Consecutive ranges continue one pass, so nothing is decoded twice."""

    def __init__(self, file: Columnar, columns: Sequence[str], size: int) -> None:
        self.file, self._columns, self._size = file, list(columns), size
        self._kept: tuple[int, Iterator[dict[str, Any]]] | None = None

    def read(self, start: int, rows: int) -> Iterator[dict[str, Any]]:
        kept, self._kept = self._kept, None
        found = kept[1] if kept is not None and kept[0] == start else self._from(start)
        end = start
        for end, row in enumerate(islice(found, rows), start + 1):  # noqa: B007  (used after the loop)
            yield row
        if end < start + rows:
            raise OSError(f"{self.file.path}: ends after row {end}")
        self._kept = (end, found)

    def _from(self, start: int) -> Iterator[dict[str, Any]]:
        for batch in self.file.batches(start, self._columns, self._size):
            names = batch.schema.names
            bad: set[int] = set()
            columns = [_values(batch.column(i), bad) for i in range(batch.num_columns)]
            for index, values in enumerate(zip(*columns, strict=True)):
                row = dict(zip(names, values, strict=True))
                if index in bad:
                    row[BAD_UTF8] = True
                yield row


BAD_UTF8 = "\0bad_utf8"
"""Key that marks a row whose strings were not UTF-8, whatever the schema says."""


def _values(column: pa.Array, bad: set[int]) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        out: list[Any] = []
        for index, cell in enumerate(column):
            try:
                out.append(cell.as_py())
            except UnicodeDecodeError:
                out.append(None)
                bad.add(index)
        return out
