"""Captions in bulk: parquet, jsonl, txt, csv, tsv, webdataset tars, all packed or not, and the texts of a run
of ours. Streams.

A corpus is cut into parts that any process can read; ids do not depend on the cut. An id is the row's number
in its file (0 is the first), after `stem.` where there are several files; with a key column the key's value
alone; in a tar the sample's key for the number; in a run the row's id.

What cannot be used is set aside with its row and a reason: `bad_utf8`, `bad_row`, `empty_caption`,
`unsafe_member`, `damaged_file` (the file ends here)."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as arrow_json

from ..data.captions import CAPTION_NAMES, MAX_TEXT, as_caption, caption_key, parse_object
from ..data.rows import expand, file_prefixes, fingerprint
from ..data.streams import BROKEN, PACKED, is_packed, open_stream, plain_name
from ..data.tables import UNREADABLE, ParquetFile, Table, find_column, records
from ..data.tar import samples
from ..errors import UserError, first_line
from ..storage.location import FileStats
from ..storage.parts import PLAN, RunFolder

KINDS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"} | {
    f".{kind}": kind for kind in ("txt", "csv", "tsv", "tar")
}
"""Suffix -> how a file of captions is read."""
PART_BYTES, PART_ROWS = 64 << 20, 250_000
_BLOCK, _ROWS = 4 << 20, 32_768
_REASONS = {"empty_row": "empty_caption", "bad_gzip": "damaged_file", "unreadable_file": "damaged_file"}
Range = tuple[int, int | None, int, int | None]
Row = tuple[Any, Any, str | None]
"""(text, key, reason): the reason why the row cannot be used, or None."""


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a file: the bytes begin..end of plain lines, the row groups begin..end of a parquet file, or
    a whole file (end None).

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


@dataclass(frozen=True, slots=True)
class Batch:
    """Captions as arrow columns (ids and valid UTF-8, no nulls), and what was set aside: (row in the file,
    reason)."""

    ids: pa.Array
    texts: pa.Array
    aside: list[tuple[int, str]]


def open_corpus(
    given: Sequence[str | Path],
    caption: str | None = None,
    key: str | None = None,
    rows: int = PART_ROWS,
    size: int = PART_BYTES,
) -> list[Part]:
    """The parts of files, globs (`*`, `{000..099}`), folders of such files, and runs, in order. Looks at
    headers and counts lines.

    Raises UserError for what does not exist, has another format, or lacks the column.
    """
    files = _files(given)
    parts: list[Part] = []
    for (file, kind), prefix in zip(files, file_prefixes([f for f, _ in files]), strict=True):
        column, ranges = _ranges(file, kind, caption, key, rows, size)
        facts = FileStats().of(file)
        for begin, end, row, count in ranges:
            mark = fingerprint(*facts, begin, end, column, key, prefix)
            by = "id" if kind == "run" else key
            parts.append(Part(len(parts), file, kind, begin, end, row, count, prefix, column, by, mark))
    return parts


def _files(given: Sequence[str | Path]) -> list[tuple[str, str]]:
    """(file, kind), each once."""
    found: dict[str, str] = {}
    for name in given:
        path = Path(name)
        if _is_run(path) or (path.is_dir() and _is_run(path.parent)):
            found.update(dict.fromkeys(_run_parts(path), "run"))
            continue
        suffixes = [s + pack for s in KINDS for pack in ("", *PACKED)]
        for file in expand(str(name), Path(), suffixes, "captions", local=True):
            suffix = Path(plain_name(file)).suffix
            if suffix not in KINDS:
                raise UserError(
                    f"{file}: captions are {', '.join(KINDS)} files, also packed as {', '.join(PACKED)}"
                )
            found[file] = KINDS[suffix]
    if not found:
        raise UserError("no caption files given")
    return list(found.items())


def _is_run(folder: Path) -> bool:
    return (folder / PLAN).is_file()


def _run_parts(path: Path) -> list[str]:
    """The newest version of each part of a run's write folder, given the run or the folder."""
    folders = [path]
    if _is_run(path):
        folders = sorted(p for p in path.glob("write*") if p.is_dir())
    if len(folders) != 1:
        raise UserError(
            f"{path}: {'name one of ' + ', '.join(map(str, folders)) if folders else 'has no texts yet'}"
        )
    folder = folders[0]
    run = RunFolder(folder.parent)
    listing = sorted(run.listing(folder.name).items())
    if not listing:
        raise UserError(f"{folder}: holds no finished part")
    return [str(run.part(folder.name, index, digests[-1])) for index, digests in listing]


def _ranges(
    file: str, kind: str, caption: str | None, key: str | None, rows: int, size: int
) -> tuple[str, list[Range]]:
    """The caption's column and (begin, end, first row, rows) of the parts of one file."""
    if kind in ("parquet", "run"):
        return _row_groups(file, "text" if kind == "run" else caption, key, rows)
    if kind == "tar":
        return caption or "", [(0, None, 0, None)]
    column = Table(file).caption_column(caption, key)
    if kind in ("csv", "tsv") or is_packed(file):
        return column, [(0, None, 0, None)]
    return column, list(_line_ranges(file, size))


def _row_groups(file: str, caption: str | None, key: str | None, rows: int) -> tuple[str, list[Range]]:
    try:
        table = ParquetFile(file)
        table.close()
    except UNREADABLE as error:
        raise UserError(f"{file}: not a readable parquet file ({first_line(error)})") from error
    names = table.schema.names
    column = find_column(names, CAPTION_NAMES, caption, "caption_column", file) or ""
    find_column(names, (), key, "key_column", file, required=False)
    kind = table.schema.field(column).type
    if kind not in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        raise UserError(f"{file}: column {column!r} holds {kind}, not text")
    out: list[Range] = []
    begin = row = first = 0
    for number, count in enumerate(table.blocks, 1):
        row += count
        if row - first >= rows or number == len(table.blocks):
            out.append((begin, number, first, row - first))
            begin, first = number, row
    return column, out


def _line_ranges(file: str, size: int) -> Iterator[Range]:
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


def read(part: Part) -> Iterator[Batch]:
    """The part's captions, some thousands at a time; memory is that of one batch."""
    row = part.row
    readers = {"parquet": _parquet, "run": _parquet, "txt": _lines, "jsonl": _lines}
    try:
        for count, batch in readers.get(part.kind, _rows_of_file)(part):
            row += count
            yield batch
    except (pa.ArrowException, *BROKEN):
        yield Batch(pa.array([], pa.string()), pa.array([], pa.large_string()), [(row, "damaged_file")])


def _parquet(part: Part) -> Iterator[tuple[int, Batch]]:
    row, end = part.row, part.row + (part.rows or 0)
    table = ParquetFile(part.file)
    columns = [name for name in (part.caption, part.key, "status" if part.kind == "run" else None) if name]
    for batch in table.batches(row, columns, _ROWS):
        if row >= end:
            break
        count = batch.num_rows
        numbers = pa.array(range(row, row + count))
        row += count
        if part.kind == "run":
            ok = pc.equal(batch["status"], "ok")
            batch, numbers = batch.filter(ok), numbers.filter(ok)
        yield count, _batch(part, batch[part.caption], batch[part.key] if part.key else None, numbers)
    table.close()


def _lines(part: Part) -> Iterator[tuple[int, Batch]]:
    row, at = part.row, part.begin
    with open_stream(part.file) as stream:
        stream.seek(at)
        while lines := _some_lines(stream, _BLOCK if part.end is None else min(_BLOCK, part.end - at)):
            at += sum(map(len, lines))
            if row == 0:
                lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
            if part.kind == "jsonl":
                yield len(lines), _json_lines(part, lines, row)
            else:
                column = pa.array([line.rstrip(b"\r\n") for line in lines], pa.binary())
                yield len(lines), _batch(part, column, None, pa.array(range(row, row + len(lines))))
            row += len(lines)


def _some_lines(stream: IO[bytes], size: int) -> list[bytes]:
    """Whole lines of at least `size` bytes, and none more. (`readlines` stops when its hint is exceeded, and
    takes 0 for no limit.)"""
    return stream.readlines(size - 1) if size > 1 else list(islice(stream, size))


def _json_lines(part: Part, lines: list[bytes], first: int) -> Batch:
    """Arrow's parser where every line is an object with a text; line by line, with reasons, where one is
    not. `first`: the number of the first line."""
    block = b"".join(lines)
    if part.key is None:
        schema = pa.schema([(part.caption, pa.string())])
        options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        reading = arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 64)
        with contextlib.suppress(pa.ArrowException):
            column = arrow_json.read_json(pa.BufferReader(block), reading, options)[part.caption]
            if len(column) == len(lines) and column.null_count == 0:
                numbers = pa.array(range(first, first + len(lines)))
                return _batch(part, column.combine_chunks(), None, numbers)
    rows: list[Row] = []
    for _, value, reason in records(io.BytesIO(block), "jsonl", 0):
        fields = value if reason is None else {}
        text = fields.get(part.caption)
        fault = None if text is None or isinstance(text, str) else "bad_row"
        rows.append((text, fields.get(part.key), reason or fault))
    return _rows(part, rows, first)


def _rows_of_file(part: Part) -> Iterator[tuple[int, Batch]]:
    """The batches of a csv, tsv or tar."""
    number, found = 0, _samples(part) if part.kind == "tar" else _records(part)
    while some := list(islice(found, _ROWS)):
        yield len(some), _rows(part, some, number)
        number += len(some)


def _records(part: Part) -> Iterator[Row]:
    table = Table(part.file)
    for value, reason in table.read(table.start):
        cells = table.asdict(value)
        yield cells.get(part.caption), cells.get(part.key or ""), reason


def _samples(part: Part) -> Iterator[Row]:
    """The rows of a tar: the member of the asked-for suffix or .txt, else the .json's caption."""
    suffix = part.caption or "txt"
    for sample in samples(part.file, lambda s, size: s in (suffix, "json") and size <= MAX_TEXT):
        if sample.reason in ("truncated_archive", "unreadable_file"):
            raise EOFError(sample.reason)
        text, reason = None, sample.reason
        try:
            if suffix in sample.members:
                text = (sample.members[suffix].data or b"").decode("utf-8-sig")
            elif "json" in sample.members:
                values = parse_object((sample.members["json"].data or b"").decode("utf-8-sig"))
                if values is None:
                    reason = reason or "bad_row"
                elif key := caption_key(values, part.caption or None):
                    text = as_caption(values[key])
        except UnicodeDecodeError:
            reason = "bad_utf8"
        yield text, sample.key, reason


def _rows(part: Part, rows: Sequence[Row], first: int) -> Batch:
    """A batch of rows; `first` is the number of the first."""
    aside = [(n, _REASONS.get(why, why)) for n, (_, _, why) in enumerate(rows, first) if why is not None]
    kept = [(text, key, n) for n, (text, key, why) in enumerate(rows, first) if why is None]
    texts = pa.array([text for text, _, _ in kept], pa.string())
    keys = None
    if part.key is not None or part.kind == "tar":
        keys = pa.array([None if key is None else str(key) for _, key, _ in kept], pa.string())
    batch = _batch(part, texts, keys, pa.array([n for _, _, n in kept], pa.int64()))
    return Batch(batch.ids, batch.texts, sorted(aside + batch.aside))


def _batch(part: Part, column: pa.Array, keys: pa.Array | None, numbers: pa.Array) -> Batch:
    """A column of texts (strings or bytes) with its rows' numbers: invalid UTF-8, nulls and blank texts are
    set aside."""
    aside: dict[int, str] = {}
    raw = column.cast(pa.large_binary())
    try:
        texts = raw.cast(pa.large_string())  # looks at every byte
    except pa.ArrowInvalid:
        cells = []
        for number, cell in zip(numbers.to_pylist(), raw.to_pylist(), strict=True):
            try:
                cells.append(cell and cell.decode())
            except UnicodeDecodeError:
                cells.append(None)
                aside[number] = "bad_utf8"
        texts = pa.array(cells, pa.large_string())
    ids = numbers.cast(pa.string())
    if keys is not None:
        ids = pc.coalesce(keys.cast(pa.string()), ids)
    if part.prefix and not part.key:
        ids = pc.binary_join_element_wise(pa.scalar(part.prefix), ids, "")
    blank = pc.fill_null(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0), True)
    if pc.any(blank).as_py():
        aside = dict.fromkeys(numbers.filter(blank).to_pylist(), "empty_caption") | aside
        ids, texts = ids.filter(pc.invert(blank)), texts.filter(pc.invert(blank))
    return Batch(ids, texts, sorted(aside.items()))
