"""Captions from every format: the same texts and ids however a file is packed and cut, and a reason with its
row for what can't be used."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrlsynth.concepts.corpus import open_corpus, read
from ctrlsynth.data.sources import open_source
from ctrlsynth.recipe.schema import Source
from helpers import assert_refused, write_tar

TEXTS = ["a dog", "two\tcats, one hat", "e\u0301a\u200bb 🐕", " edge ", "x" * 10_000, "last"]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}  # fmt: skip


def content(kind: str, texts: list[str]) -> bytes:
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.table({"n": range(len(texts)), "caption": texts}), sink, row_group_size=2)
        return sink.getvalue()
    if kind == "tar":
        members = []
        for i, text in enumerate(texts):
            data = text if i % 2 else json.dumps({"caption": text})
            members.append((f"shard/{i:04d}.jpg", b"no image is looked at"))
            members.append((f"shard/{i:04d}.{'txt' if i % 2 else 'json'}", data.encode()))
        with tempfile.TemporaryDirectory() as folder:
            return write_tar(Path(folder) / "a.tar", members).read_bytes()
    out = io.StringIO()
    if kind == "csv":
        csv.writer(out).writerows([["n", "caption"], *enumerate(texts)])
    elif kind == "tsv":
        out.writelines(["n\tcaption\n", *(f"{i}\t{t}\n" for i, t in enumerate(texts))])
    elif kind == "jsonl":
        for i, text in enumerate(texts):
            out.write(json.dumps({"n": i, "caption": text}, ensure_ascii=i % 2 == 0) + "\n")
    else:
        out.writelines(t + "\n" for t in texts)
    return out.getvalue().encode()


def rows(path: Path | str, **options: Any) -> tuple[list[str], list[str], list[tuple[int, str]]]:
    batches = [batch for part in open_corpus([path], **options) for batch in read(part)]
    for batch in batches:
        batch.texts.validate(full=True)
    return (
        [i for batch in batches for i in batch.ids.to_pylist()],
        [text for batch in batches for text in batch.texts.to_pylist()],
        [row for batch in batches for row in batch.aside],
    )


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv", "tar"])
def test_every_format_packed_or_not(tmp_path: Path, kind: str, pack: str) -> None:
    texts = [t.replace("\t", " ") for t in TEXTS] if kind == "tsv" else TEXTS
    path = tmp_path / f"captions.{kind}{pack}"
    path.write_bytes(PACKERS[pack](content(kind, texts)))
    ids, found, aside = rows(path)
    assert found == texts
    assert (ids, aside) == ([f"shard/{i:04d}" for i in range(6)] if kind == "tar" else list("012345"), [])


@pytest.mark.parametrize("pack", ["", ".gz"])
def test_a_table_of_captions_and_urls_needs_no_header(tmp_path: Path, pack: str) -> None:
    """CC3M's tsv: caption, URL; CC12M's the other way round. Both readers, and no caption is lost or taken
    for a name."""
    texts = [f'a dog {n}, "seen" here' if n % 7 == 3 else f"a dog {n}" for n in range(50)]
    links = [f"{'HTTP' if n % 2 else 'https'}://x.org/{n}.jpg" for n in range(50)]
    tables: dict[str, list[tuple[str, ...]]] = {
        "cc3m.tsv": list(zip(texts, links, strict=True)),
        "cc12m.tsv": list(zip(links, texts, strict=True)),
        "more.csv": list(zip(texts, links, links, strict=True)),
        "headed.tsv": [("caption", "https://x.org/list"), *zip(texts, links, strict=True)],
    }
    for name, table in tables.items():
        out = io.StringIO()
        if name.endswith("csv"):
            csv.writer(out).writerows(table)
        else:
            out.write("".join("\t".join(row) + "\n" for row in table))
        path = tmp_path / f"{name}{pack}"
        path.write_bytes(PACKERS[pack](out.getvalue().encode()))
        assert rows(path) == ([str(n) for n in range(50)], texts, [])
        for part_rows in (7, 100):
            source = open_source(Source(text=str(path), part_rows=part_rows), tmp_path)
            read_ = [row for part in source.parts() for row in source.rows(part)]
            assert [row.caption for row in read_] == texts
            assert name != "more.csv" or read_[3].metadata == {"url": links[3], "column3": links[3]}
    assert rows(tmp_path / f"more.csv{pack}", key="url")[0] == links
    for first in ("a dog\ta cat\n", "http://x\thttp://y\n"):
        (tmp_path / "none.tsv").write_text(first * 2)
        assert_refused(lambda: open_corpus([tmp_path / "none.tsv"]), "no column looks like the caption")


def test_parquet_with_its_string_types(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    path.write_bytes(content("parquet", TEXTS))
    assert rows(path) == (list("012345"), TEXTS, [])
    for kind in (pa.large_string(), pa.binary(), pa.large_binary()):
        raw = TEXTS if pa.types.is_large_string(kind) else [t.encode() for t in TEXTS]
        pq.write_table(pa.table({"text": pa.array(raw, kind)}), path)
        assert rows(path)[1] == TEXTS


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_the_cut_changes_nothing(tmp_path: Path, kind: str) -> None:
    texts = [f"caption {i} " + "é" * (i % 40) for i in range(500)]
    path = tmp_path / f"captions.{kind}"
    path.write_bytes(content(kind, texts).removesuffix(b"\n"))
    whole = rows(path)
    assert whole[1] == [t.rstrip("\n") for t in texts]
    for size in (1, 100, 999, 10_000):
        parts = open_corpus([path], rows=size, size=size)
        assert (sum(p.rows or 0 for p in parts), rows(path, rows=size, size=size)) == (500, whole)
    assert len(open_corpus([path], rows=2, size=100)) > 50


def test_several_files_keep_their_ids_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("one\ntwo\n")
    assert (
        rows(tmp_path)[0]
        == rows(tmp_path / "{a,b}.txt")[0]
        == rows(tmp_path / "*.txt")[0]
        == ["a.0", "a.1", "b.0", "b.1"]
    )


def test_a_key_column_gives_the_ids(tmp_path: Path) -> None:
    for kind in ("csv", "jsonl", "parquet"):
        path = tmp_path / f"captions.{kind}"
        path.write_bytes(content(kind, TEXTS[:3]))
        assert rows(path, key="n")[0] == ["0", "1", "2"]
        assert rows(path, caption="caption", key="n")[1] == TEXTS[:3]


def test_the_texts_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "write"
    folder.mkdir(parents=True)
    (tmp_path / "run" / "plan.json").write_text("{}")
    status, ids = ["ok", "failed", "ok"], ["k0/write.0", "k1/write.0", "k2/write.0"]
    pq.write_table(
        pa.table({"id": ids, "status": status, "text": ["a dog", None, "a cat"]}),
        folder / "00000-0123456789ab.parquet",
    )
    for path in (tmp_path / "run", folder):
        assert rows(path) == (["k0/write.0", "k2/write.0"], ["a dog", "a cat"], [])
    (tmp_path / "run" / "write.2").mkdir()
    assert_refused(lambda: open_corpus([tmp_path / "run"]), r"run: name one of .*write, .*write\.2")


def test_what_is_not_utf8_is_set_aside_with_its_row(tmp_path: Path) -> None:
    good, bad = b"a dog", b"a c\xe9t"
    (tmp_path / "a.txt").write_bytes(b"\n".join([good, bad, b"", good]))
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(b'{"caption": "%s"}' % t for t in (good, bad, b" ", good)))
    (tmp_path / "a.csv").write_bytes(b"caption\n" + b"\n".join([good, bad, b'" "', good]))
    column = pa.Array.from_buffers(pa.string(), 4, pa.array([good, bad, b"", good], pa.binary()).buffers())
    pq.write_table(pa.table({"caption": column}), tmp_path / "a.parquet")
    for kind in ("txt", "jsonl", "csv", "parquet"):
        assert rows(tmp_path / f"a.{kind}") == (
            ["0", "3"],
            ["a dog", "a dog"],
            [(1, "bad_utf8"), (2, "empty_caption")],
        ), kind
    write_tar(tmp_path / "a.tar", [("1.txt", good), ("2.txt", bad), ("3.json", b"{"), ("4.jpg", b"")])
    assert rows(tmp_path / "a.tar") == (
        ["1"],
        ["a dog"],
        [(1, "bad_utf8"), (2, "bad_row"), (3, "empty_caption")],
    )


def test_lines_that_are_no_objects_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        '{"caption": "one"}',
        "[1]",
        "{",
        "",
        '{"caption": 3}',
        '{"other": "x"}',
        '{"caption": null}',
        '{"caption": "\\ud800"}',
    ]
    path.write_text("\n".join(lines))
    reasons = ["bad_row", "bad_row", "empty_caption", "bad_row", "empty_caption", "empty_caption"]
    assert rows(path) == (["0", "7"], ["one", "\ufffd"], list(enumerate(reasons, 1)))


@pytest.mark.parametrize("pack", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "csv", "tar"])
def test_a_cut_file_is_counted_where_it_ends(tmp_path: Path, kind: str, pack: str) -> None:
    texts = [f"caption number {i * 7919 % 10007} {i}" for i in range(60_000 if kind != "tar" else 5_000)]
    whole = PACKERS[pack](content(kind, texts))
    (tmp_path / f"a.{kind}{pack}").write_bytes(whole[: len(whole) * 3 // 4])
    _, found, aside = rows(tmp_path / f"a.{kind}{pack}")
    assert (found, [reason for _, reason in aside]) == (texts[: len(found)], ["damaged_file"])


def test_what_is_no_corpus_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("x")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "b.txt").write_bytes("text".encode("utf-16"))
    pq.write_table(pa.table({"caption": [1]}), tmp_path / "n.parquet")
    cases = {
        "a.xml": "captions are .parquet, .jsonl",
        "a.csv": "no column looks like the caption; columns: x, y",
        "a.parquet": "not a readable parquet file",
        "b.txt": "is UTF-16; save it as UTF-8",
        "n.parquet": "column 'caption' holds int64, not text",
        "nothing at .*none": "relative paths start at",
    }
    for name, message in cases.items():
        assert_refused(partial(rows, tmp_path / name.rpartition("*")[2]), f"{name}[:;] {message}")
    assert_refused(lambda: open_corpus([]), "no caption files given")
