"""Sources: every format on small real files, bad input with its reason, and what must hold of all of them."""

import csv
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import ctrlsynth
from ctrlsynth.data.captions import clean_caption
from ctrlsynth.data.images import ImageFault
from ctrlsynth.data.originals import ImageReader
from ctrlsynth.data.rows import OpenSource, SourceRow, braces, safe_key
from ctrlsynth.data.sources import open_source
from ctrlsynth.data.tables import cut_blocks, merge_cuts
from ctrlsynth.data.tar import samples
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.recipe.schema import Source
from helpers import ROOT, assert_refused, write_tar


def photo(seed: int, format: str = "JPEG", size: tuple[int, int] = (24, 16)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, format)
    return out.getvalue()


def opened(base: Path, limit: int | None = None, **source: Any) -> OpenSource:
    return open_source(Source(**source), base, limit)


def all_rows(source: OpenSource) -> list[SourceRow]:
    rows = []
    for part in source.parts():
        found = list(source.rows(part))
        assert len({r.key for r in found}) == len(found), "keys are unique in a part"
        assert part.rows is None or part.rows == len(found)
        assert all("/" not in r.key for r in found)
        for row in found:  # everything must be storable
            json.dumps(row.metadata, ensure_ascii=False).encode()
            (row.caption or "").encode()
        rows += found
    names = [p.name for p in source.parts()]
    assert (len(set(names)), [p.index for p in source.parts()]) == (len(names), list(range(len(names))))
    return rows


def by_key(source: OpenSource) -> dict[str, SourceRow]:
    return {r.key: r for r in all_rows(source)}


def check_bytes(rows: list[SourceRow], wanted: dict[str, bytes]) -> None:
    """Each row's locator gives exactly the bytes, in order and out of order."""
    with ImageReader() as reader:
        for row in [*rows, *rows[::-1]]:
            assert row.file is not None
            data = reader.read(row.file, row.member, row.offset, row.length)
            assert (data, row.sha256) == (wanted[row.key], hashlib.sha256(data).hexdigest())


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def status(row: SourceRow) -> tuple[str, str | None]:
    return row.status, row.reason


# --- folders ---


def make_folder(base: Path, count: int = 5) -> dict[str, bytes]:
    images = {f"img{i}": photo(i) for i in range(count)} | {"sub:deep": photo(99, "PNG")}
    names = {key: key.replace(":", "/") + (".png" if "deep" in key else ".jpg") for key in images}
    write_files(base / "photos", {names[key]: data for key, data in images.items()})
    return images


def test_folder_with_text_beside(tmp_path: Path) -> None:
    images = make_folder(tmp_path)
    write_files(
        tmp_path / "photos",
        {
            "img0.txt": b" a red dog \n",
            "img1.txt": b"caf\xe9",
            "img2.txt": b"  \n",
            "notes.md": b"no image",
            ".hidden.jpg": b"x",
        },
    )
    source = opened(tmp_path, folder="photos", part_rows=4)
    rows = by_key(source)
    assert (set(rows), [p.rows for p in source.parts()]) == (set(images), [4, 2])
    captions = [rows[f"img{n}"].caption for n in range(4)]
    assert (captions, status(rows["img1"])) == (["a red dog", None, None, None], ("failed", "bad_utf8"))
    assert (rows["img2"].status, (rows["sub:deep"].width, rows["sub:deep"].height)) == ("ok", (24, 16))
    check_bytes([r for r in rows.values() if r.status == "ok"], images)


def test_folder_with_table_keeps_its_order_and_loses_nothing(tmp_path: Path) -> None:
    images = make_folder(tmp_path)
    (tmp_path / "captions.csv").write_text(
        'filename,caption,license\nimg3.jpg,"three, with ""quotes""\nand a '
        'line",cc0\nnothing.jpg,gone,\nimg1.jpg,,cc-by\n'
        "sub/deep.png,deep {braces},x\nimg1.jpg,another "
        "caption,y\nimg3.jpg,again,z\nimg3.jpg,again,z\n../../etc/passwd,evil,\n"
    )
    rows = all_rows(opened(tmp_path, folder="photos", captions="captions.csv"))
    assert [(r.key, r.reason, r.caption) for r in rows[:5]] == [
        ("img3", None, 'three, with "quotes"\nand a line'),
        ("nothing", "missing_file", "gone"),
        ("img1", None, None),
        ("sub:deep", None, "deep {braces}"),
        ("img1.jpg", None, "another caption"),  # one image, two captions: both are rows
    ]
    assert Counter((r.status, r.reason) for r in rows) == {
        ("ok", None): 8,  # 5 listed pairs and the 3 images that the table does not name
        ("failed", "missing_file"): 1,
        ("failed", "unsafe_path"): 1,
        ("dropped", "duplicate_key"): 1,
    }
    found = {r.key: r for r in rows}
    assert {"img0", "img2", "img4"} <= set(found)
    assert (found["img3"].metadata, found["img0"].caption) == ({"license": "cc0"}, None)
    assert found["img0"].sha256 == hashlib.sha256(images["img0"]).hexdigest()


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_tables_of_every_kind(tmp_path: Path, kind: str) -> None:
    make_folder(tmp_path)
    lines = [("img0.jpg", "zero “שלום” 🐶"), ("sub/deep.png", "deep")]
    if kind == "jsonl":
        text = "".join(json.dumps({"file_name": f, "text": c}) + "\n" for f, c in lines)
    else:
        sep = {"csv": ",", "tsv": "\t"}[kind]
        text = "".join(sep.join(line) + "\r\n" for line in [("file_name", "text"), *lines])
    (tmp_path / "photos" / f"meta.{kind}").write_text("\ufeff" * (kind != "jsonl") + text, encoding="utf-8")
    rows = by_key(opened(tmp_path, folder="photos", captions=f"meta.{kind}"))
    assert (rows["img0"].caption, rows["sub:deep"].caption, len(rows)) == ("zero “שלום” 🐶", "deep", 6)


def test_folder_bad_files_and_links(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    whole = photo(2, "PNG")
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + whole[24:29]
    files = {
        "empty.jpg": b"",
        "page.jpg": b"<html>not found</html>",
        "bomb.png": whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:],
        "good.jpg": photo(3),
        "good.png": photo(4, "PNG"),
        "../outside/secret.jpg": photo(1),
        os.fsdecode(b"caf\xe9.jpg"): photo(5),
    }
    write_files(folder, files)
    links = {
        "link.jpg": "../outside/secret.jpg",
        "linked": "../outside",
        "inner.jpg": "good.jpg",
        "dead.jpg": "nowhere.jpg",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    rows = by_key(opened(tmp_path, folder="photos"))
    assert {k: r.reason for k, r in rows.items()} == {
        "caf%DCE9": "bad_utf8",
        "empty": "empty_file",
        "page": "not_an_image",
        "bomb": "image_too_large",
        "link": "unsafe_link",
        "linked": "unsafe_link",
        "dead": "missing_file",
        "good": None,
        "good.png": None,
        "inner": None,
    }


def test_columns_that_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "c.csv").write_text("name_of_it,words\nimg0.jpg,dog\n")
    columns: dict[str, Any] = {"image_column": "name_of_it", "caption_column": "words"}
    assert by_key(opened(tmp_path, folder="photos", captions="c.csv", **columns))["img0"].caption == "dog"


# --- webdataset ---


def make_shard(path: Path, numbers: range) -> dict[str, bytes]:
    images = {f"{n:06d}": photo(n) for n in numbers}
    members = []
    for key, data in images.items():
        fields = {"url": f"http://x/{key}", "caption": "from json"}
        members += [(f"{key}.jpg", data), (f"{key}.txt", f"caption {key}".encode())]
        members.append((f"{key}.json", json.dumps(fields).encode()))
    write_tar(path, members)
    return images


@pytest.mark.parametrize(
    "pattern",
    ["shards/{00000..00001}.tar", "shards/*.tar", "shards", ["shards/00000.tar", "shards/00001.tar"]],
)
def test_webdataset(tmp_path: Path, pattern: str | list[str]) -> None:
    (tmp_path / "shards").mkdir()
    images = make_shard(tmp_path / "shards/00000.tar", range(3)) | make_shard(
        tmp_path / "shards/00001.tar", range(3, 7)
    )
    source = opened(tmp_path, webdataset=pattern)
    assert [p.name for p in source.parts()] == ["00000", "00001"]
    rows = all_rows(source)
    assert ([r.key for r in rows], rows[4].caption) == (sorted(images), "caption 000004")
    assert rows[4].metadata == {"url": "http://x/000004"}
    check_bytes(rows, images)


def test_img2dataset_output(tmp_path: Path) -> None:
    images = make_shard(tmp_path / "00000.tar", range(2))
    table = {
        "key": ["000000", "000001", "000002"],
        "status": ["success", "success", "failed_to_download"],
        "caption": ["a", "b", "lost"],
        "similarity": [0.3, 0.4, 0.5],
        "exif": [None, "{}", None],
    }
    pq.write_table(pa.table(table), tmp_path / "00000.parquet")
    rows = by_key(opened(tmp_path, webdataset="00000.tar"))
    assert (rows["000001"].metadata["similarity"], rows["000001"].caption) == (0.4, "caption 000001")
    assert (status(rows["000002"]), rows["000002"].caption) == (("dropped", "failed_to_download"), "lost")
    check_bytes([r for r in rows.values() if r.status == "ok"], images)
    limited = [len(all_rows(opened(tmp_path, limit, webdataset="00000.tar"))) for limit in (1, 2, 3, 9)]
    assert limited == [1, 2, 3, 3]


def test_tar_bad_members(tmp_path: Path) -> None:
    members: list[tuple[str, bytes, dict[str, Any]]] = [
        ("dir", b"", {"type": tarfile.DIRTYPE}),
        ("dir/good.JPG", photo(1), {}),
        ("dir/good.txt", b"fine \x00 text \x07", {}),
        ("../evil.jpg", photo(2), {}),
        ("/abs.jpg", photo(3), {}),
        ("link.jpg", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("link.txt", b"beside a link", {}),
        ("hard.jpg", b"", {"type": tarfile.LNKTYPE, "linkname": "dir/good.JPG"}),
        ("dev.jpg", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}),
        ("pipe.jpg", b"", {"type": tarfile.FIFOTYPE}),
        ("empty.jpg", b"", {}),
        ("text.txt", b"caption only", {}),
        ("utf.jpg", photo(4), {}),
        ("utf.txt", b"\xff\xfe bad", {}),
        ("bad.jpg", photo(5), {}),
        ("bad.json", b"{not json", {}),
        ("nothing.cls", b"3", {}),
        ("dir/good.jpg", photo(6), {}),
        ("x" * 150 + ".jpg", photo(7), {}),  # a long name: GNU or pax header
    ]
    write_tar(tmp_path / "a.tar", members, tarfile.PAX_FORMAT)
    rows = by_key(opened(tmp_path, webdataset="a.tar"))
    unsafe = ("failed", "unsafe_member")
    assert {k: status(r) for k, r in rows.items() if r.status != "ok"} == {
        "..:evil": unsafe,
        ":abs": unsafe,
        "link": unsafe,
        "hard": unsafe,
        "dev": unsafe,
        "pipe": unsafe,
        "empty": ("failed", "empty_file"),
        "utf": ("failed", "bad_utf8"),
        "nothing": ("failed", "empty_row"),
        "dir:good~2": ("dropped", "duplicate_key"),
    }
    captions = rows["dir:good"].caption, rows["text"].caption, rows["text"].file
    assert captions == ("fine   text", "caption only", None)
    assert (rows["bad"].metadata, rows["x" * 150].width) == ({"json": "unreadable"}, 24)


def test_tar_cut_anywhere_keeps_what_stands_before(tmp_path: Path) -> None:
    images = make_shard(tmp_path / "whole.tar", range(4))
    data = (tmp_path / "whole.tar").read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = {m.name: m.offset_data + m.size for m in tar}
        padded = {name: -(-end // 512) * 512 for name, end in ends.items()}
    for cut in (
        100,
        700,
        padded["000001.json"],
        ends["000002.jpg"] - 5,
        ends["000002.jpg"],
        padded["000002.jpg"] + 100,
        padded["000003.json"],
    ):
        (tmp_path / "cut.tar").write_bytes(data[:cut])
        rows = all_rows(opened(tmp_path, webdataset="cut.tar"))
        whole = [k for k in images if ends[f"{k}.json"] <= cut]
        found = [r.key for r in rows if r.status == "ok" and r.caption == f"caption {r.key}"]
        assert found[: len(whole)] == whole
        ((reason, key),) = [(r.reason, r.key) for r in rows if r.status == "failed"]
        assert reason == ("truncated_archive" if cut > 512 else "unreadable_file")
        assert key == "000002.jpg" or cut != ends["000002.jpg"] - 5


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_walk_finds_what_tarfile_finds(tmp_path: Path, form: int) -> None:
    members: list[tuple[str, bytes, dict[str, Any]]] = []
    for n in range(40):
        folder = "long/" * 25 if n % 7 == 3 else "caf\xe9/" * (n % 5 == 4) + "a.b/"
        dated = {"mtime": n + (0.5 if n % 9 == 8 else 0)}
        members += [
            (f"{folder}{n:03d}.seg.PNG", bytes(n * 37), dated),
            (f"{folder}{n:03d}.txt", b"x" * n, {}),
        ]
        members.append(("folder", b"", {"type": tarfile.DIRTYPE}))
    path = write_tar(tmp_path / "a.tar", members, form)
    with tarfile.open(path) as tar:
        wanted = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    found = list(samples(str(path)))
    assert [m[:3] for sample in found for m in sample.members.values()] == wanted
    assert [list(sample.members) for sample in found] == [["seg.png", "txt"]] * 40


def test_a_repeated_member_begins_another_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [(name, b"{}") for name in ("a.txt", "a.txt", "a.json")])
    rows = all_rows(opened(tmp_path, webdataset="a.tar"))
    assert [(r.key, r.reason) for r in rows] == [("a", None), ("a~2", "duplicate_key")]


# --- parquet and arrow ---


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("form", ["bytes", "struct", "paths"])
def test_parquet_forms(tmp_path: Path, form: str) -> None:
    images = [photo(i) for i in range(10)]
    names = [f"{i}.jpg" for i in range(10)]
    write_files(tmp_path, dict(zip(names, images, strict=True)) if form == "paths" else {})
    column = {
        "bytes": pa.array(images),
        "struct": pa.array([{"bytes": b, "path": n} for b, n in zip(images, names, strict=True)], IMAGE),
        "paths": pa.array(names),
    }[form]
    table = pa.table(
        {
            "image": column,
            "TEXT": [f"t{i}" for i in range(10)],
            "label": list(range(10)),
            "embedding": [[0.1, 0.2]] * 10,
        }
    )
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=3)
    source = opened(tmp_path, parquet="d.parquet", part_rows=4, key_column="label")
    assert source.has_images
    rows = all_rows(source)
    assert ([r.key for r in rows], rows[3].caption) == ([str(i) for i in range(10)], "t3")
    assert rows[3].metadata == {"label": 3} | ({"path": "3.jpg"} if form == "struct" else {})
    check_bytes(rows, {str(i): b for i, b in enumerate(images)})


def test_parquet_bad_rows_and_files(tmp_path: Path) -> None:
    image = pa.array(
        [
            {"bytes": photo(0), "path": None},
            {"bytes": photo(1), "path": None},
            None,
            {"bytes": None, "path": "../x.jpg"},
        ],
        IMAGE,
    )
    pq.write_table(
        pa.table({"image": image, "caption": ["a" * 100_000, "", None, "d"], "key": ["k", "k", None, "z"]}),
        tmp_path / "a.parquet",
    )
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-40])
    rows = all_rows(opened(tmp_path, parquet=["a.parquet", "b.parquet"], key_column="key"))
    assert [(r.key, r.status, r.reason) for r in rows] == [
        ("k", "ok", None),
        ("k~2", "dropped", "duplicate_key"),
        ("a.2", "failed", "no_image"),
        ("z", "failed", "unsafe_path"),
        ("file", "failed", "unreadable_file"),
    ]
    assert len(rows[0].caption or "") == 100_000


def test_parquet_damaged_pages_fail_their_part_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [rng.bytes(200).hex() for _ in range(2000)]
    pq.write_table(
        pa.table({"caption": words}),
        tmp_path / "d.parquet",
        row_group_size=1000,
        compression="zstd",
        use_dictionary=False,
    )
    data = bytearray((tmp_path / "d.parquet").read_bytes())
    meta = pq.ParquetFile(tmp_path / "d.parquet").metadata.row_group(1).column(0)
    start = meta.data_page_offset  # the page's header
    data[start : start + 20] = b"\xff" * 20
    (tmp_path / "d.parquet").write_bytes(bytes(data))
    source = opened(tmp_path, parquet="d.parquet", part_rows=1000)
    rows = [row for part in source.parts() for row in source.rows(part)]
    assert ([r.caption for r in rows[:1000]], rows[-1].reason) == (words[:1000], "unreadable_file")


def save_to_disk(
    folder: Path, table: pa.Table, shards: int = 2, batch: int = 7, new: Any = pa.ipc.new_stream
) -> None:
    """What datasets.save_to_disk writes: arrow stream files, state.json, dataset_info.json."""
    folder.mkdir(parents=True)
    step = -(-table.num_rows // shards)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table.slice(i * step, step), max_chunksize=batch)
    state = {"_data_files": [{"filename": n} for n in names], "_fingerprint": "0", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_hugging_face_folder(tmp_path: Path) -> None:
    images = [photo(i) for i in range(50)]
    column = pa.array([{"bytes": b, "path": None} for b in images], IMAGE)
    table = pa.table(
        {"image": column, "captions": [[f"c{i}", "other"] for i in range(50)], "n": list(range(50))}
    )
    save_to_disk(tmp_path / "ds/train", table)
    (tmp_path / "ds/dataset_dict.json").write_text('{"splits": ["train"]}')
    source = opened(tmp_path, hf="ds", part_rows=10, key_column="n")
    rows = all_rows(source)
    assert [r.caption for r in rows] == [f"c{i}" for i in range(50)]
    check_bytes(rows, {str(i): b for i, b in enumerate(images)})
    last = source.parts()[-1]
    assert [r.key for r in source.rows(last)] == [r.key for r in rows[-(last.rows or 0) :]]


def test_hugging_face_folder_made_by_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the hf extra is not installed")
    data = datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(2500)]})
    data.save_to_disk(str(tmp_path / "ds"))
    assert [r.caption for r in all_rows(opened(tmp_path, hf="ds"))] == data["text"]


def test_arrow_file_format(tmp_path: Path) -> None:
    texts = [f"t{i}" for i in range(20)]
    save_to_disk(tmp_path / "ds", pa.table({"text": texts}), shards=1, batch=6, new=pa.ipc.new_file)
    assert [r.caption for r in all_rows(opened(tmp_path, hf="ds", part_rows=5))] == texts


def test_blocks_are_cut_into_parts_that_cover_all_rows() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        blocks = rng.integers(0, 50, rng.integers(0, 12)).tolist()
        rows = int(rng.integers(1, 30))
        cuts = cut_blocks(blocks, rows)
        assert [start for start, _ in cuts] == [sum(n for _, n in cuts[:i]) for i in range(len(cuts))]
        assert sum(n for _, n in cuts) == sum(blocks)
        assert all(0 < count < 2 * rows for _, count in cuts)


# --- text ---

NASTY = [
    "plain",
    'with "quotes" and, commas',
    "a quoted\nline end",
    "{braces} $dollars %(percent)s",
    "‮right to left שלום عربى",
    "emoji 👩‍👩‍👧 🐶",
    "x" * 100_000,
]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.txt", "t.csv.gz", "t.jsonl.gz", "t.txt.gz"])
@pytest.mark.parametrize("part_rows", [1, 3, 1000])
def test_text_files(tmp_path: Path, name: str, part_rows: int) -> None:
    wanted = [t.replace("\n", " ") for t in NASTY] if ".txt" in name else NASTY
    out = io.StringIO(newline="")
    if ".txt" in name:
        out.write("\n".join(wanted))
    elif ".jsonl" in name:
        out.writelines(json.dumps({"id": i, "caption": t}) + "\n" for i, t in enumerate(wanted))
    else:
        writer = csv.writer(out, delimiter="\t" if ".tsv" in name else ",")
        writer.writerows([["id", "caption"], *enumerate(wanted)])
    data = out.getvalue().encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    source = opened(tmp_path, text=name, part_rows=part_rows)
    assert not source.has_images
    rows = all_rows(source)
    assert [r.caption for r in rows] == wanted
    shuffled = [r.caption for p in reversed(source.parts()) for r in reversed(list(source.rows(p)))]
    assert shuffled == wanted[::-1]
    if ".txt" not in name:
        assert [str(r.metadata["id"]) for r in rows] == [str(i) for i in range(len(wanted))]


def test_text_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "good"}\n[1, 2]\nnot json\n\n'
        b'{"text": "\\ud800 lone \\u0000 nul"}\n{"text": "caf\xe9"}\n{"text": "  "}\n{"other": 1}\n{"text": 5}'
    )
    rows = all_rows(opened(tmp_path, text="a.jsonl"))
    assert [str(r.reason) for r in rows] == (
        "None bad_row bad_row empty_caption None bad_utf8 empty_caption empty_caption None".split()
    )
    assert (rows[4].caption, rows[8].caption) == ("\ufffd lone   nul", "5")
    assert (Path(rows[5].metadata["file"]).name, rows[5].metadata["record"]) == ("a.jsonl", 5)
    (tmp_path / "a.csv").write_bytes(b"caption,n\ngood,1\n\nbad \xff,2\n,3\nshort\na,b,too,many\nnul\x00,4\n")
    assert [(r.caption, r.reason) for r in all_rows(opened(tmp_path, text="a.csv"))] == [
        ("good", None),
        (None, "bad_utf8"),
        (None, "empty_caption"),
        ("short", None),
        ("a", None),
        ("nul", None),
    ]
    cut = gzip.compress("".join(f"line {i * i}\n" for i in range(50_000)).encode())
    (tmp_path / "cut.txt.gz").write_bytes(cut[: len(cut) // 2])
    rows = all_rows(opened(tmp_path, text="cut.txt.gz"))
    assert (rows[-1].reason, sum(r.status == "ok" for r in rows) > 100) == ("bad_gzip", True)


def test_tsv_with_and_without_quoting(tmp_path: Path) -> None:
    """CC3M's files quote nothing; pandas quotes cells with line ends. Both are read as they are meant."""
    lines = [
        "caption\turl",
        '"to be or not\tu1',  # a quote that is text
        "plain\tu2",
        'he said "hi"\tu3',
        '"wrapped, with ""doubled"" quotes"\tu4',
        '"two',
        'lines"\tu5',
        '"fully" quoted start\tu6',
        'opens "again\tu7',
        '"last one open\tu8',
    ]
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    for part_rows in (1, 2, 1000):
        rows = all_rows(opened(tmp_path, text="t.tsv", part_rows=part_rows))
        assert [(r.caption, r.metadata["url"]) for r in rows] == [
            ('"to be or not', "u1"),
            ("plain", "u2"),
            ('he said "hi"', "u3"),
            ('wrapped, with "doubled" quotes', "u4"),
            ("two\nlines", "u5"),
            ('"fully" quoted start', "u6"),
            ('opens "again', "u7"),
            ('"last one open', "u8"),
        ]


def test_parquet_strings_that_are_not_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"caf\xe9", b"also fine"])
    words = pa.Array.from_buffers(pa.string(), 3, raw.buffers())  # as careless writers do
    pq.write_table(pa.table({"caption": words, "n": [1, 2, 3]}), tmp_path / "d.parquet")
    rows = all_rows(opened(tmp_path, parquet="d.parquet"))
    assert [(r.caption, r.reason) for r in rows] == [("fine", None), (None, "bad_utf8"), ("also fine", None)]


def test_text_keys(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,caption\nx/1,a\nx/1,b\n,c\na:b%,d\n")
    rows = all_rows(opened(tmp_path, text="a.csv", key_column="id"))
    assert [(r.key, r.status) for r in rows] == [
        ("x:1", "ok"),
        ("x:1~2", "dropped"),
        ("2", "ok"),
        ("a%3Ab%25", "ok"),
    ]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"folder": "photos", "captions": "c.csv"}, r"c\.csv: .*name_of_it, words.*source\.image_column"),
    ({"folder": "photos", "captions": "c.csv", "image_column": "nmae"}, "'nmae'.*name_of_it, words"),
    ({"folder": "photos", "captions": "two.csv"}, "'caption' and 'text'.*source.caption_column"),
    ({"folder": "nope"}, "nope is not there"),
    ({"folder": "photos", "captions": "gone.csv"}, r"gone\.csv"),
    ({"folder": "bare"}, "no image in .*bare"),
    ({"folder": "photos", "captions": "open.csv"}, r"open\.csv:3: .*never closed"),
    ({"webdataset": "a.tar.gz"}, r"a\.tar\.gz: .*unpack it"),
    ({"webdataset": "{a,b,c}.tar"}, r"b\.tar and 1 more"),
    ({"webdataset": "https://x/a.tar"}, "not a path or a store"),
    ({"webdataset": "a.tar"}, r"a\.parquet: .*repair it"),
    ({"parquet": "a.parquet"}, r"a\.parquet: not a readable parquet file"),
    ({"parquet": "c.parquet"}, r"c\.parquet: .*foo; .*source\.image_column"),
    ({"parquet": ["d.parquet", "c.parquet"]}, r"c\.parquet: no column 'image'"),
    ({"hf": "ds"}, "train, test; .*ds/train"),
    ({"hf": "nope"}, "save_to_disk"),
    ({"hf": "ds/train"}, r"x\.arrow.*unsafe_path"),
    ({"text": "s3://bucket/a.txt"}, "download"),
    ({"text": "two.csv", "caption_column": "text", "key_column": "ID"}, r"'ID' \(source\.key_column\)"),
    ({"text": "c.csv"}, r"c\.csv: .*name_of_it, words; .*source\.caption_column"),
    ({"text": "utf16.csv"}, "UTF-16"),
    ({"text": "empty.csv"}, "is empty"),
    ({"text": "header.csv"}, "no rows"),
    ({"text": "f.pdf"}, r"\.jsonl"),
    ({"custom": {"my_source:None_": {}}}, "source: module 'my_source' has no 'None_'"),
    ({"custom": {"pathlib:Path": {}}}, "not a class with the method"),
]


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path)
    make_shard(tmp_path / "a.tar", range(1))
    (tmp_path / "bare").mkdir()
    files: dict[str, str | bytes] = {
        "c.csv": "name_of_it,words\nimg0.jpg,dog\n",
        "two.csv": "file,caption,text\nimg0.jpg,a,b\n",
        "open.csv": 'file,caption\nimg0.jpg,dog\nimg1.jpg,"never closed\nimg2.jpg,cat\n',
        "a.tar.gz": gzip.compress((tmp_path / "a.tar").read_bytes()),
        "a.parquet": "PAR1 broken",
        "ds/dataset_dict.json": '{"splits": ["train", "test"]}',
        "ds/train/state.json": '{"_data_files": [{"filename": "../../x.arrow"}]}',
        "utf16.csv": "caption\nx\n".encode("utf-16"),
        "empty.csv": "",
        "header.csv": "caption\n",
        "f.pdf": "x",
        "my_source.py": OWN,
    }
    write_files(tmp_path, {n: data.encode() if isinstance(data, str) else data for n, data in files.items()})
    pq.write_table(pa.table({"foo": [1]}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "d.parquet")
    monkeypatch.syspath_prepend(str(tmp_path))
    for source, message in REFUSED:
        assert_refused(lambda source=source: all_rows(opened(tmp_path, **source)), message)


OWN = """
from ctrlsynth.data.rows import OpenSource, SourceRow

class MySource(OpenSource):
    has_images = False

    def __init__(self, source, base, limit):
        super().__init__(source)
        self.words = (base / source.custom["my_source:MySource"]["file"]).read_text().split()[:limit]
        self.add_part("-".join(self.words), None, len(self.words))

    def rows(self, part):
        return (SourceRow(str(n), f"a {word} on a table") for n, word in enumerate(self.words))

    def describe(self):
        return f"{len(self.words)} words"
"""


def test_a_source_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_source.py").write_text(OWN)
    (tmp_path / "words").write_text("dog cat bird")
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = parse_recipe(
        {
            "name": "own",
            "source": {"my_source:MySource": {"file": "words"}, "licence": "cc0"},
            "models": {"tagger": "wordnet"},
            "paths": {"p": ["text", "tags", "text*"]},
        },
        "r.yaml",
    )
    made = ctrlsynth.run(recipe, tmp_path / "run", base=tmp_path, limit=2)
    assert [r["caption"] for r in made.rows("read")] == ["a dog on a table", "a cat on a table"]
    assert [r["status"] for r in made.rows("write")] == ["ok", "ok"]
    assert opened(tmp_path, custom={"my_source:MySource": {"file": "words"}}).describe() == "3 words"
    with pytest.raises(ValueError, match="names one class"):
        Source(custom={"plain": {}})


def test_concepts(tmp_path: Path) -> None:
    (tmp_path / "bank.txt").write_text("dog\n\ncrystal ball\n")
    found = [(r.caption, r.status) for r in all_rows(opened(tmp_path, concepts="bank.txt"))]
    assert found == [("dog", "ok"), (None, "dropped"), ("crystal ball", "ok")]


# --- what holds of all ---


def every_source(base: Path) -> dict[str, dict[str, Any]]:
    make_folder(base, 8)
    make_shard(base / "00000.tar", range(5))
    make_shard(base / "00001.tar", range(5))
    table = pa.table({"jpg": [photo(i) for i in range(9)], "caption": [f"c{i}" for i in range(9)]})
    pq.write_table(table, base / "d.parquet", row_group_size=4)
    save_to_disk(base / "ds", table)
    (base / "t.csv").write_text("caption\n" + "".join(f"c{i}\n" for i in range(9)))
    return {
        "folder": {"folder": "photos"},
        "tar": {"webdataset": "{00000..00001}.tar"},
        "parquet": {"parquet": "d.parquet"},
        "hf": {"hf": "ds"},
        "text": {"text": "t.csv"},
    }


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "hf", "text"])
def test_limit_and_fingerprints(tmp_path: Path, kind: str) -> None:
    given = every_source(tmp_path)[kind] | {"part_rows": 4}
    rows = all_rows(opened(tmp_path, **given))
    for limit in (1, 4, 6, 100):
        assert [r.key for r in all_rows(opened(tmp_path, limit, **given))] == [r.key for r in rows[:limit]]
    first, again = ([p.fingerprint for p in opened(tmp_path, **given).parts()] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first) > 1
    file = {
        "folder": "photos/img0.jpg",
        "tar": "00000.tar",
        "parquet": "d.parquet",
        "hf": "ds/data-00000-of-00002.arrow",
        "text": "t.csv",
    }[kind]
    os.utime(tmp_path / file, ns=(1, 1))
    touched = opened(tmp_path, **given)
    assert (touched.parts()[0].fingerprint != first[0], bool(touched.describe())) == (True, True)


def test_the_reader_tells_when_the_source_has_changed(tmp_path: Path) -> None:
    make_folder(tmp_path)
    row = by_key(opened(tmp_path, folder="photos"))["img0"]
    assert row.file is not None
    Path(row.file).write_bytes(b"shorter")
    locator = (row.file, row.member, row.offset, row.length)
    with ImageReader() as reader:
        with pytest.raises(ImageFault, match="has changed") as changed:
            reader.read(*locator)
        Path(row.file).unlink()
        with pytest.raises(ImageFault, match="no longer there") as gone:
            reader.read(*locator)
    assert (changed.value.reason, gone.value.reason) == ("original_changed", "original_missing")


def test_the_reader_and_a_table_that_shrank(tmp_path: Path) -> None:
    table = pa.table({"image": [photo(i) for i in range(5)], "caption": ["c"] * 5})
    pq.write_table(table, tmp_path / "d.parquet")
    last = all_rows(opened(tmp_path, parquet="d.parquet"))[-1]
    pq.write_table(table.slice(0, 2), tmp_path / "d.parquet")
    with ImageReader() as reader, pytest.raises(ImageFault) as fault:
        reader.read(str(last.file), last.member, last.offset, last.length)
    assert fault.value.reason == "original_changed"


def test_braces() -> None:
    assert braces("a{08..10}{x,y}") == ["a08x", "a08y", "a09x", "a09y", "a10x", "a10y"]
    assert braces("plain{one}") == ["plain{one}"]


def test_keys_and_captions() -> None:
    captions = ["a\x00b\x1bc\td\ud800\n", "\x01 ", None]
    assert [clean_caption(caption) for caption in captions] == ["a b c\td\ufffd", None, None]
    keys = ["a/b", "a:b", "a%3Ab", "a\nb", "x" * 300, "x" * 299 + "y"]
    assert len({safe_key(k) for k in keys}) == len(keys)
    assert max(len(safe_key(k)) for k in keys) <= 200


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """Peak memory of reading 20,000 and 200,000 captions, each in its own process."""
    code = (
        "import re,sys;from pathlib import Path;from ctrlsynth.recipe.schema import Source;from "
        "ctrlsynth.data.sources import open_source\n"
        "s=open_source(Source(text=sys.argv[1]),Path('.'))\n"
        "n=sum(1 for p in s.parts() for r in "
        "s.rows(p));print(n,re.search(r'VmHWM:\\s+(\\d+)',Path('/proc/self/status').read_text())[1])"
    )
    peaks = []
    for count in (20_000, 200_000):
        path = tmp_path / f"{count}.csv"
        path.write_text(
            "caption,url\n" + "".join(f"a caption with number {i},http://x/{i}\n" for i in range(count))
        )
        out = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert int(out[0]) == count
        peaks.append(int(out[1]))
    assert peaks[1] < 1.1 * peaks[0]


def test_quickstart_photographs(tmp_path: Path) -> None:
    for package in ("skimage", "sklearn"):
        pytest.importorskip(package, reason="the demo extra is not installed")
    for _ in range(2):
        command: list[str | Path] = [sys.executable, ROOT / "scripts/quickstart_photos.py", tmp_path / "p"]
        subprocess.run(command, check=True, capture_output=True)
    rows = all_rows(opened(tmp_path, folder="p", captions="captions.csv"))
    assert (len(rows) >= 10, {r.status for r in rows}) == (True, {"ok"})
    assert all(r.caption and r.metadata["licence"] and min(r.width or 0, r.height or 0) >= 300 for r in rows)
    assert any("watermark" in (r.caption or "") for r in rows)


def test_parts_stay_few() -> None:
    cuts = [(i * 10, 3) for i in range(25_001)]
    wanted = [(offset, 3 * min(4, 25_001 - i)) for i, (offset, _) in enumerate(cuts) if i % 4 == 0]
    assert merge_cuts(cuts, 10_000) == wanted
    assert len(wanted) <= 10_000
