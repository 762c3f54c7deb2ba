"""Captions in bulk: parquet, jsonl, txt, csv, tsv, webdataset tars, all packed or not, and the texts of a run of ours. Streams.

A corpus is cut into parts that any process can read; ids do not depend on the cut. An id is the row's number in its file (0 is the first),
after `stem.` where there are several files; with a key column the key's value; in a tar the sample's key; in a run the row's id.

What can't be used is set aside with its row and a reason: `bad_utf8`, `bad_row`, `empty_caption`, `damaged_file` (the file ends here).
"""

from __future__ import annotations

import glob
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data.records import records, sound
from ..data.rows import CAPTION_NAMES, braces, file_facts, file_prefixes, find_column, fingerprint
from ..errors import UserError
from ..store import RunFolder
from . import streams

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".txt", ".csv", ".tsv", ".tar")
PART_BYTES, PART_ROWS = 64 << 20, 250_000
_BLOCK, _ROWS = 4 << 20, 32_768
_MAX_MEMBER = 1 << 24


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a file: the bytes begin..end of plain lines, the row groups begin..end of a parquet file, or a whole file (end None)."""

    index: int
    file: str
    kind: str
    begin: int
    end: int | None
    row: int
    prefix: str
    caption: str
    key: str | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Captions as arrow columns (ids and valid UTF-8, no nulls), and what was set aside: (row in the file, reason)."""

    ids: pa.Array
    texts: pa.Array
    aside: list[tuple[int, str]]


def open_corpus(
    given: Sequence[str | Path], caption: str | None = None, key: str | None = None, rows: int = PART_ROWS, size: int = PART_BYTES
) -> list[Part]:
    """The parts of files, globs (`*`, `{000..099}`), folders of such files, and runs, in order. Looks at headers and counts lines.

    Raises UserError for what is not there, of another kind, or without the column.
    """
    files = _expand(given)
    prefixes = file_prefixes([f for f, _ in files])
    parts: list[Part] = []
    for (file, kind), prefix in zip(files, prefixes, strict=True):
        column, pieces = _pieces(file, kind, caption, key, rows, size)
        facts = file_facts(file)
        for begin, end, row in pieces:
            mark = fingerprint(*facts, begin, end, column, key, prefix)
            parts.append(Part(len(parts), file, kind, begin, end, row, prefix, column, key, mark))
    return parts


def _expand(given: Sequence[str | Path]) -> list[tuple[str, str]]:
    """(file, kind), each once."""
    found: dict[str, str] = {}
    for pattern in given:
        for name in braces(os.path.expanduser(str(pattern))):
            path = Path(name)
            if (path / "plan.json").is_file() or (path.is_dir() and (path.parent / "plan.json").is_file()):
                found.update(dict.fromkeys(_run_parts(path), "run"))
                continue
            if path.is_dir():
                files = sorted(str(p) for p in path.iterdir() if p.is_file() and _kind(p) and not p.name.startswith("."))
            else:
                files = [name] if path.is_file() else sorted(glob.glob(name, recursive=True))
            if not files:
                raise UserError(f"{name}: no captions there ({', '.join(SUFFIXES)}, also packed as {', '.join(streams.PACKED)})")
            for file in files:
                kind = _kind(file)
                if kind is None:
                    raise UserError(f"{file}: captions are {', '.join(SUFFIXES)} files, also packed as {', '.join(streams.PACKED)}")
                found[file] = kind
    if not found:
        raise UserError("no caption files given")
    return list(found.items())


def _kind(path: str | Path) -> str | None:
    name = streams.plain_name(path)
    kind = next((s[1:] for s in SUFFIXES if name.endswith(s)), None)
    return "jsonl" if kind == "ndjson" else kind


def _run_parts(path: Path) -> list[str]:
    """The newest version of each part of a run's write folder, given the run or the folder."""
    folders = [path] if not (path / "plan.json").is_file() else sorted(p for p in path.glob("write*") if p.is_dir())
    if len(folders) != 1:
        raise UserError(f"{path}: {'has no texts yet' if not folders else 'name one of ' + ', '.join(map(str, folders))}")
    folder = folders[0]
    run = RunFolder(folder.parent)
    found = [str(run.part(folder.name, index, digests[-1])) for index, digests in sorted(run.listing(folder.name).items())]
    if not found:
        raise UserError(f"{folder}: holds no finished part")
    return found


def _pieces(
    file: str, kind: str, caption: str | None, key: str | None, rows: int, size: int
) -> tuple[str, list[tuple[int, int | None, int]]]:
    """The caption's column and (begin, end, first row) of the parts of one file."""
    if kind in ("parquet", "run"):
        return _row_groups(file, kind, caption, key, rows)
    if kind == "tar":
        return caption or "", [(0, None, 0)]
    column = ""
    if kind != "txt":
        with streams.open_stream(file) as stream:
            columns = _head(file, kind, stream)
        column = find_column(columns, CAPTION_NAMES, caption, "caption_column", file) or ""
        if kind != "jsonl":
            find_column(columns, (), key, "key_column", file, required=False)
    if kind in ("csv", "tsv") or _is_packed(file):
        return column, [(0, None, 0)]
    return column, list(_line_ranges(file, size))


def _row_groups(file: str, kind: str, caption: str | None, key: str | None, rows: int) -> tuple[str, list[tuple[int, int | None, int]]]:
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            counts = [table.metadata.row_group(i).num_rows for i in range(table.metadata.num_row_groups)]
            column = "text" if kind == "run" else find_column(names, CAPTION_NAMES, caption, "caption_column", file) or ""
            find_column(names, (), key, "key_column", file, required=False)
            of = table.schema_arrow.field(column).type
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{file}: not a readable parquet file ({str(error).splitlines()[0]})") from error
    if not any(is_(of) for is_ in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)):
        raise UserError(f"{file}: column {column!r} holds {of}, not text")
    out: list[tuple[int, int | None, int]] = []
    begin = row = first = 0
    for i, count in enumerate(counts):
        row += count
        if row - first >= rows or i == len(counts) - 1:
            out.append((begin, i + 1, first))
            begin, first = i + 1, row
    return column, out


def _is_packed(file: str) -> bool:
    with open(file, "rb") as stream:
        return stream.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def _head(file: str, kind: str, stream: IO[bytes]) -> list[str]:
    """The column names: of the header, or of the first line that is a JSON object."""
    try:
        for _, value, reason in records(stream, cast(Any, kind), 0):
            if reason is None and value:
                return [str(c).strip() if kind != "jsonl" else c for c in value]
            if kind != "jsonl":
                break
    except streams.BROKEN as error:
        raise UserError(f"{file}: damaged or cut ({error})") from error
    raise UserError(f"{file}: {'no line is a JSON object' if kind == 'jsonl' else 'has no header'}")


def _line_ranges(file: str, size: int) -> Iterator[tuple[int, int | None, int]]:
    """Ranges of about `size` bytes that end with a line."""
    begin = at = row = first = 0
    with open(file, "rb") as stream:
        while block := stream.read(min(size, 8 << 20)):
            cut = block.rfind(b"\n") + 1
            if cut and at + cut - begin >= size:
                row += block.count(b"\n", 0, cut)
                yield begin, at + cut, first
                begin, first = at + cut, row
                row += block.count(b"\n", cut)
            else:
                row += block.count(b"\n")
            at += len(block)
    if at > begin:
        yield begin, at, first


def read(part: Part) -> Iterator[Batch]:
    """The part's captions, some thousands at a time; memory is that of one batch."""
    if part.kind in ("parquet", "run"):
        yield from _read_parquet(part)
        return
    row = part.row
    try:
        with streams.open_stream(part.file) as stream:
            readers: dict[str, Callable[[Part, IO[bytes]], Iterator[tuple[int, Batch]]]] = {
                "txt": _read_lines,
                "jsonl": _read_lines,
                "tar": _read_tar,
            }
            for row, batch in readers.get(part.kind, _read_records)(part, stream):  # noqa: B007  (told when it breaks)
                yield batch
    except (tarfile.TarError, *streams.BROKEN):  # type: ignore[misc]  # a tuple that grows
        yield Batch(pa.array([], pa.string()), pa.array([], pa.string()), [(row, "damaged_file")])


def _read_parquet(part: Part) -> Iterator[Batch]:
    key = "id" if part.kind == "run" else part.key
    columns = [part.caption, *([key] if key else []), *(["status"] if part.kind == "run" else [])]
    row = part.row
    try:
        with pq.ParquetFile(part.file) as table:
            for batch in table.iter_batches(_ROWS, range(part.begin, part.end or 0), columns, use_threads=False):
                numbers: Any = range(row, row + batch.num_rows)
                row += batch.num_rows
                if part.kind == "run":
                    ok = pc.equal(batch["status"], "ok")
                    batch, numbers = batch.filter(ok), pc.indices_nonzero(ok).to_pylist()
                    numbers = [part.row + n for n in numbers]
                yield _batch(part, batch[part.caption], batch[key] if key else None, numbers)
    except (pa.ArrowException, OSError):
        yield Batch(pa.array([], pa.string()), pa.array([], pa.string()), [(row, "damaged_file")])


def _read_lines(part: Part, stream: IO[bytes]) -> Iterator[tuple[int, Batch]]:
    stream.seek(part.begin)
    row, at = part.row, part.begin
    while lines := stream.readlines(_BLOCK if part.end is None else max(1, min(_BLOCK, part.end - at))):
        at += sum(map(len, lines))
        if row == 0 and lines[0].startswith(b"\xef\xbb\xbf"):
            lines[0] = lines[0][3:]
        numbers = range(row, row + len(lines))
        row += len(lines)
        yield row, _json_lines(part, lines, numbers) if part.kind == "jsonl" else _text_lines(part, lines, numbers)
        if part.end is not None and at >= part.end:
            return


def _text_lines(part: Part, lines: list[bytes], numbers: range) -> Batch:
    return _batch(part, pa.array([line.rstrip(b"\r\n") for line in lines], pa.binary()), None, numbers)


def _json_lines(part: Part, lines: list[bytes], numbers: range) -> Batch:
    """Arrow's parser where every line is an object with a text; line by line, with reasons, where one is not."""
    if part.key is None:
        import pyarrow.json as arrow_json

        schema = pa.schema([(part.caption, pa.string())])
        options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        block = b"".join(lines)
        try:
            source = pa.BufferReader(block)
            table = arrow_json.read_json(source, arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 64), options)
            column = table[part.caption].combine_chunks()
            if len(column) == len(lines) and column.null_count == 0:
                return _batch(part, column, None, numbers)
        except pa.ArrowException:
            pass
    return _rows(part, (_json_row(part, line) for line in lines), numbers)


def _json_row(part: Part, line: bytes) -> tuple[Any, Any, str | None]:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        return None, None, "bad_utf8"
    except (ValueError, RecursionError):
        return None, None, "bad_row" if line.strip() else "empty_caption"
    if not isinstance(value, dict):
        return None, None, "bad_row"
    value = sound(value)
    text = value.get(part.caption)
    return text, value.get(part.key) if part.key else None, None if text is None or isinstance(text, str) else "bad_row"


def _read_records(part: Part, stream: IO[bytes]) -> Iterator[tuple[int, Batch]]:
    head = _head(part.file, part.kind, stream)
    at, key = head.index(part.caption), head.index(part.key) if part.key else None
    found = islice(records(stream, cast(Any, part.kind), 0, len(head)), 1, None)

    def row(record: tuple[int, Any, str | None]) -> tuple[Any, Any, str | None]:
        _, value, reason = record
        if reason in ("bad_gzip", "unreadable_file"):
            reason = "damaged_file"
        cells = value if reason is None and isinstance(value, list) else []
        return cells[at] if at < len(cells) else None, cells[key] if key is not None and key < len(cells) else None, reason

    number = 0
    while some := list(islice(found, _ROWS)):
        numbers = range(number, number + len(some))
        number += len(some)
        yield number, _rows(part, map(row, some), numbers)


def _read_tar(part: Part, stream: IO[bytes]) -> Iterator[tuple[int, Batch]]:
    number = 0
    samples = _samples(part, stream)
    while some := list(islice(samples, 4096)):
        numbers = range(number, number + len(some))
        number += len(some)
        yield number, _rows(part, iter(some), numbers)


def _samples(part: Part, stream: IO[bytes]) -> Iterator[tuple[Any, Any, str | None]]:
    """(caption, key, reason) of each sample: the member of the asked-for suffix or .txt, else the .json's caption."""
    key: str | None = None
    held: dict[str, bytes] = {}
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            folder, slash, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            if not member.isreg():
                continue
            if key is not None and folder + slash + stem != key:
                yield _sample(part, key, held)
                held = {}
            key = folder + slash + stem
            if suffix.lower() in (part.caption, "txt", "json") and member.size <= _MAX_MEMBER:
                data = tar.extractfile(member)
                held[suffix.lower()] = data.read() if data is not None else b""
    if key is not None:
        yield _sample(part, key, held)


def _sample(part: Part, key: str, held: dict[str, bytes]) -> tuple[Any, Any, str | None]:
    raw = held.get(part.caption or "txt")
    try:
        if raw is not None:
            return raw.decode("utf-8-sig"), key, None
        value = json.loads(held["json"].decode()) if "json" in held else {}
    except UnicodeDecodeError:
        return None, key, "bad_utf8"
    except (ValueError, RecursionError):
        return None, key, "bad_row"
    found = sound(value) if isinstance(value, dict) else {}
    text = next((found[n] for n in ([part.caption] if part.caption else CAPTION_NAMES) if isinstance(found.get(n), str)), None)
    return text, key, None


def _rows(part: Part, rows: Iterable[tuple[Any, Any, str | None]], numbers: Sequence[int]) -> Batch:
    """A batch of (text, key, reason) rows."""
    texts, keys, kept, aside = [], [], [], []
    for number, (text, key, reason) in zip(numbers, rows, strict=True):
        if reason is not None:
            aside.append((number, reason))
        else:
            texts.append(text)
            keys.append(None if key is None else str(key))
            kept.append(number)
    keyed = part.key is not None or part.kind == "tar"
    batch = _batch(part, pa.array(texts, pa.string()), pa.array(keys, pa.string()) if keyed else None, kept)
    return Batch(batch.ids, batch.texts, sorted(aside + batch.aside))


def _batch(part: Part, column: pa.Array, keys: pa.Array | None, numbers: Sequence[int]) -> Batch:
    """A column of texts (strings or bytes) with its rows' numbers: invalid UTF-8, nulls and blank texts are set aside."""
    aside: list[tuple[int, str]] = []
    wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    try:
        texts = column.cast(pa.large_binary() if wide else pa.binary()).cast(
            pa.large_string() if wide else pa.string()
        )  # looks at every byte
    except pa.ArrowInvalid:
        cells = [_decoded(cell) for cell in column.cast(pa.large_binary()).to_pylist()]
        aside = [(n, "bad_utf8") for n, cell in zip(numbers, cells, strict=True) if cell is False]
        texts = pa.array([cell or None for cell in cells], pa.large_string())
    blank = pc.fill_null(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0), True)
    ids = pa.array(numbers, pa.int64()).cast(pa.string())
    if keys is not None:
        ids = pc.coalesce(keys.cast(pa.string()), ids)
    if part.prefix and part.kind != "run":
        ids = pc.binary_join_element_wise(pa.scalar(part.prefix), ids, "")
    if pc.any(blank).as_py():
        bad = {n for n, _ in aside}
        empty = [numbers[i] for i in pc.indices_nonzero(blank).to_pylist()]
        aside += [(n, "empty_caption") for n in empty if n not in bad]
        ids, texts = ids.filter(pc.invert(blank)), texts.filter(pc.invert(blank))
    return Batch(ids, texts, aside)


def _decoded(cell: bytes | None) -> str | bool | None:
    try:
        return None if cell is None else cell.decode()
    except UnicodeDecodeError:
        return False
