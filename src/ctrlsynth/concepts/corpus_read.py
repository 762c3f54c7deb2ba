"""Reads the parts that `corpus.py` cuts: captions as arrow columns, and what was set aside with its row and
reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, Literal, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data import streams, tar
from ..data.captions import MAX_TEXT, as_caption, caption_key, parse_object, replace_surrogates
from ..data.records import records
from .corpus import Part, column_names

_BLOCK, _ROWS = 4 << 20, 32_768


@dataclass(frozen=True, slots=True)
class Batch:
    """Captions as arrow columns (ids and valid UTF-8, no nulls), and what was set aside: (row in the file,
    reason)."""

    ids: pa.Array
    texts: pa.Array
    aside: list[tuple[int, str]]


Reader = Callable[[Part, IO[bytes]], Iterator[tuple[int, Batch]]]


def read(part: Part) -> Iterator[Batch]:
    """The part's captions, some thousands at a time; memory is that of one batch."""
    if part.kind in ("parquet", "run"):
        yield from _read_parquet(part)
        return
    row = part.row
    try:
        with streams.open_stream(part.file) as stream:
            readers: dict[str, Reader] = {"txt": _read_lines, "jsonl": _read_lines, "tar": _read_tar}
            for row, batch in readers.get(part.kind, _read_records)(part, stream):  # noqa: B007  (told when it breaks)
                yield batch
    except streams.BROKEN:
        yield Batch(pa.array([], pa.string()), pa.array([], pa.string()), [(row, "damaged_file")])


def _read_parquet(part: Part) -> Iterator[Batch]:
    key = "id" if part.kind == "run" else part.key
    columns = [part.caption, *([key] if key else []), *(["status"] if part.kind == "run" else [])]
    row = part.row
    try:
        with pq.ParquetFile(part.file) as table:
            for batch in table.iter_batches(
                _ROWS, range(part.begin, part.end or 0), columns, use_threads=False
            ):
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
    while lines := _some_lines(stream, _BLOCK if part.end is None else min(_BLOCK, part.end - at)):
        at += sum(map(len, lines))
        if row == 0 and lines[0].startswith(b"\xef\xbb\xbf"):
            lines[0] = lines[0][3:]
        numbers = range(row, row + len(lines))
        row += len(lines)
        yield (
            row,
            _json_lines(part, lines, numbers) if part.kind == "jsonl" else _text_lines(part, lines, numbers),
        )


def _some_lines(stream: IO[bytes], size: int) -> list[bytes]:
    """Whole lines of at least `size` bytes, and none more. (`readlines` stops when its hint is exceeded, and
    takes 0 for no limit.)"""
    return stream.readlines(size - 1) if size > 1 else [stream.readline()] if size == 1 else []


def _text_lines(part: Part, lines: list[bytes], numbers: range) -> Batch:
    return _batch(part, pa.array([line.rstrip(b"\r\n") for line in lines], pa.binary()), None, numbers)


def _json_lines(part: Part, lines: list[bytes], numbers: range) -> Batch:
    """Arrow's parser where every line is an object with a text; line by line, with reasons, where one is
    not."""
    if part.key is None:
        import pyarrow.json as arrow_json

        schema = pa.schema([(part.caption, pa.string())])
        options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        block = b"".join(lines)
        try:
            source = pa.BufferReader(block)
            table = arrow_json.read_json(
                source, arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 64), options
            )
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
    value = replace_surrogates(value)
    text = value.get(part.caption)
    return (
        text,
        value.get(part.key) if part.key else None,
        None if text is None or isinstance(text, str) else "bad_row",
    )


def _read_records(part: Part, stream: IO[bytes]) -> Iterator[tuple[int, Batch]]:
    head, header = column_names(part.file, part.kind, stream)
    at, key = head.index(part.caption), head.index(part.key) if part.key else None
    found = islice(records(stream, cast(Any, part.kind), 0, len(head)), int(header), None)

    def row(record: tuple[int, Any, str | None]) -> tuple[Any, Any, str | None]:
        _, value, reason = record
        if reason in ("bad_gzip", "unreadable_file"):
            reason = "damaged_file"
        cells = value if reason is None and isinstance(value, list) else []
        return (
            cells[at] if at < len(cells) else None,
            cells[key] if key is not None and key < len(cells) else None,
            reason,
        )

    number = 0
    while some := list(islice(found, _ROWS)):
        numbers = range(number, number + len(some))
        number += len(some)
        yield number, _rows(part, map(row, some), numbers)


def _read_tar(part: Part, stream: IO[bytes]) -> Iterator[tuple[int, Batch]]:
    number = 0
    samples = _samples(part)
    while some := list(islice(samples, 4096)):
        numbers = range(number, number + len(some))
        number += len(some)
        yield number, _rows(part, iter(some), numbers)


def _samples(part: Part) -> Iterator[tuple[Any, Any, str | None]]:
    """(caption, key, reason) of each sample: the member of the asked-for suffix or .txt, else the .json's
    caption."""
    suffix = part.caption or "txt"
    for sample in tar.samples(part.file, lambda s, size: s in (suffix, "json") and size <= MAX_TEXT):
        if sample.reason in ("truncated_archive", "unreadable_file"):
            raise EOFError(sample.reason)
        text, reason = None, sample.reason
        try:
            if suffix in sample.members:
                text = (sample.members[suffix].data or b"").decode("utf-8-sig")
            elif "json" in sample.members:
                values = parse_object((sample.members["json"].data or b"").decode("utf-8-sig"))
                reason = reason or ("bad_row" if values is None else None)
                key = caption_key(values or {}, part.caption or None)
                text = as_caption((values or {})[key]) if key else None
        except UnicodeDecodeError:
            reason = "bad_utf8"
        yield text, sample.key, reason


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
    """A column of texts (strings or bytes) with its rows' numbers: invalid UTF-8, nulls and blank texts are
    set aside."""
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
    if part.prefix and part.kind != "run" and not part.key:
        ids = pc.binary_join_element_wise(pa.scalar(part.prefix), ids, "")
    if pc.any(blank).as_py():
        bad = {n for n, _ in aside}
        empty = [numbers[i] for i in pc.indices_nonzero(blank).to_pylist()]
        aside = sorted(aside + [(n, "empty_caption") for n in empty if n not in bad])
        ids, texts = ids.filter(pc.invert(blank)), texts.filter(pc.invert(blank))
    return Batch(ids, texts, aside)


def _decoded(cell: bytes | None) -> str | Literal[False] | None:
    try:
        return None if cell is None else cell.decode()
    except UnicodeDecodeError:
        return False
