"""Training data: shards by row number, the order as arithmetic, the loader, decontamination. The oracles read
and count the slow way."""

import json
import random
import tarfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clip_fixture import ROWS, folder, scenes
from ctrlsynth.clip.data.images import centre_crop, crop_box
from ctrlsynth.clip.data.order import Order, Part, Schedule, rows_an_epoch
from ctrlsynth.clip.data.rows import Shards
from ctrlsynth.clip.data.shards import Subset, open_shards
from ctrlsynth.clip.data.tars import TarShards
from ctrlsynth.clip.decontaminate import Known, clean, perceptual_hash, plain_caption
from ctrlsynth.data.images import decode, shorter_edge
from ctrlsynth.recipe.train import Decontaminate
from eval_sets import encoded, write_files
from helpers import assert_refused, write_tar


def tar(path: Path, samples: Sequence[dict[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> Path:
    members = [
        (f"{n:05d}.{suffix}", data) for n, sample in enumerate(samples) for suffix, data in sample.items()
    ]
    return write_tar(path, members, format)


def jpeg(number: int, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG")


def part(rows: int, block: int = 10, ratio: float | None = None) -> Part:
    return Part(rows, np.append(np.arange(0, rows, block), rows), ratio)


# Shards


def pairs(shards: Shards) -> list[tuple[bytes, tuple[str, ...]]]:
    return [(pair.image, pair.captions) for pair in map(shards.read, range(shards.rows))]


def captions(shards: Shards) -> list[tuple[str, ...]]:
    return [found for _, found in pairs(shards)]


def test_every_form_gives_the_same_pairs() -> None:
    with tarfile.open(sorted(folder().glob("*.tar"))[0]) as archive:
        texts = [archive.extractfile(m).read().decode() for m in archive if m.name.endswith(".txt")]  # type: ignore[union-attr]
    found = []
    for form in ("webdataset", "parquet", "imagefolder", "csv"):
        shards = open_shards(str(folder(form)), Path())
        assert (shards.rows, shards.blocks[0], shards.blocks[-1]) == (ROWS, 0, ROWS)
        assert len({shards.id(n) for n in range(ROWS)}) == ROWS
        found.append(pairs(shards))
    assert [captions for _, captions in found[0][: len(texts)]] == [(text,) for text in texts]
    assert found == [found[0]] * 4


def test_the_index_is_what_tarfile_reads(tmp_path: Path) -> None:
    samples = [
        {"jpg": jpeg(n), "txt": f"text {n}".encode(), "json": json.dumps({"n": n}).encode()}
        for n in range(30)
    ]
    samples += [{"txt": b"no image"}, {"jpg": jpeg(1)}, {"jpg": jpeg(2), "txt": b"last"}]
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tar(tmp_path / f"{format}.tar", samples, format)
        shards = TarShards([str(path)], None, None)
        wanted = [(s["jpg"], (s["txt"].decode(),)) for s in samples if "jpg" in s and "txt" in s]
        assert pairs(shards) == wanted
        assert shards.left_out == Counter(no_image=1, no_caption=1)


def test_long_names_and_folders_in_tars(tmp_path: Path) -> None:
    name = "x" * 120
    members = [
        ("d/a.b.jpg", b"1"),
        ("d/0.jpg", jpeg(0)),
        ("d/0.txt", b"zero"),
        (f"{name}.jpg", jpeg(1)),
        (f"{name}.txt", b"long"),
    ]
    write_tar(tmp_path / "a.tar", members, tarfile.GNU_FORMAT)
    assert captions(open_shards(str(tmp_path / "a.tar"), Path())) == [("zero",), ("long",)]


def test_the_index_is_kept_and_made_anew_when_a_shard_changes(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [{"jpg": jpeg(n), "txt": b"t"} for n in range(5)] + [{"txt": b"x"}])
    for _ in range(2):
        shards = TarShards([str(path)], None, tmp_path / "index")
        assert (shards.rows, dict(shards.left_out)) == (5, {"no_image": 1})
    assert len(list((tmp_path / "index").glob("*.npy"))) == 1
    tar(path, [{"jpg": jpeg(n), "txt": b"t"} for n in range(7)])
    assert TarShards([str(path)], None, tmp_path / "index").rows == 7


def test_several_captions_an_image(tmp_path: Path) -> None:
    facts = {"more": ["two", "", "three"], "other": "four", "number": 5}
    tar(
        tmp_path / "a.tar",
        [
            {"jpg": jpeg(0), "txt": b"one", "json": json.dumps(facts).encode()},
            {"jpg": jpeg(1), "txt": b"alone"},
        ],
    )
    shards = open_shards(str(tmp_path / "a.tar"), Path(), captions=["text", "more", "other", "number"])
    assert captions(shards) == [("one", "two", "three", "four"), ("alone",)]
    table = pa.table(
        {"image": [{"bytes": jpeg(0), "path": "x"}], "text": ["one"], "more": [["two", "three"]]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    shards = open_shards(str(tmp_path / "a.parquet"), Path(), captions=["more", "text"])
    assert captions(shards) == [("two", "three", "one")]


def test_a_tar_that_ends_early_is_counted(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [{"jpg": jpeg(n), "txt": b"t"} for n in range(5)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shards = TarShards([str(path)], None, None)
    assert 0 < shards.rows < 5
    assert shards.left_out == Counter(truncated_archive=1)


# The order


def all_rows(order: Order, epoch: int) -> list[tuple[int, int, int]]:
    return order.take(epoch, 0, order.rows)


def test_an_epoch_holds_every_row_once() -> None:
    order = Order([part(97), part(50, 7), part(3)], seed=3, window=40)
    seen = [all_rows(order, epoch) for epoch in range(3)]
    for epoch, rows in enumerate(seen):
        assert sorted(rows) == [(s, epoch, r) for s, n in enumerate((97, 50, 3)) for r in range(n)]
    assert len({tuple((s, r) for s, _, r in rows) for rows in seen}) == 3
    assert [r for s, _, r in seen[0] if s == 0] != list(range(97))


def test_any_cut_of_an_epoch_is_the_same_order() -> None:
    order = Order([part(300), part(150)], seed=1, window=64)
    whole = all_rows(order, 2)
    cuts = sorted(random.Random(0).sample(range(450), 12))
    pieces = [order.take(2, a, b) for a, b in zip([0, *cuts], [*cuts, 450], strict=True)]
    random.Random(1).shuffle(cuts)
    assert [r for p in pieces for r in p] == whole
    for at in cuts:  # also asked for in another sequence, by another process
        assert Order([part(300), part(150)], seed=1, window=64).take(2, at, at + 1) == whole[at : at + 1]


def test_rows_are_shuffled_within_the_window_only() -> None:
    order = Order([part(1000, 10)], window=100)
    rows = [r for _, _, r in all_rows(order, 0)]
    for start in range(0, 1000, 100):  # the window holds ten whole blocks
        assert len({r // 10 for r in rows[start : start + 100]}) == 10


def test_ratios_are_kept_over_epochs() -> None:
    parts = [part(100, ratio=3), part(1000, ratio=1)]
    assert rows_an_epoch(parts) == [825, 275]
    assert sum(rows_an_epoch([part(10, ratio=1), part(10, ratio=1), part(11, ratio=1)])) == 31
    order = Order(parts, window=64)
    counts = Counter((s, r) for e in range(4) for s, _, r in all_rows(order, e))
    assert {n for (s, _), n in counts.items() if s == 0} == {33}  # 4 x 825 rows of 100
    assert {counts[1, r] for r in range(1000)} == {1, 2}  # 4 x 275 = 1,100: each once before any twice
    assert abs(Counter(s for s, _, _ in order.take(0, 0, 550))[0] - 412) < 40


def test_ranks_and_micro_batches_share_a_step_out() -> None:
    order = Order([part(203), part(90)], seed=5, window=50)
    one = Schedule(order, 48)
    assert one.steps_an_epoch == 6
    shared = Schedule(order, 48, accumulate=3, world=2)
    seen = []
    for step in range(12):
        whole = one.rows(step, 0, 0)
        assert [r for rank in range(2) for piece in range(3) for r in shared.rows(step, rank, piece)] == whole
        seen += [(step // 6, s, r) for s, _, r in whole]
    assert len(seen) == len(set(seen)) == 12 * 48


# Views


def test_crops_and_edges_are_torchvisions() -> None:
    """The sizes of evaluation against torchvision's rules written out; the random crop stays inside and in
    its ranges."""
    image = Image.new("RGB", (101, 67))
    assert shorter_edge(image, 64).size == (int(64 * 101 / 67), 64)
    assert centre_crop(shorter_edge(image, 64), 64).size == (64, 64)
    boxes = np.array([crop_box(101, 67, (0.5, 1.0), random.Random(n)) for n in range(500)])
    left, top, right, bottom = boxes.T
    assert (
        (left >= 0) & (left < right) & (right <= 101) & (top >= 0) & (top < bottom) & (bottom <= 67)
    ).all()
    shares = (right - left) * (bottom - top) / (101 * 67)
    assert 0.48 < shares.min() < 0.55
    assert 0.85 < shares.max() < 0.9  # no ratio above 4/3 covers more
    assert crop_box(300, 10, (0.9, 1.0), random.Random(0)) == (143, 0, 156, 10)


# Wrong data


def test_bad_data_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    tar(tmp_path / "mute.tar", [{"jpg": jpeg(0)}])
    write_files(tmp_path, dict.fromkeys(("broken.tar", "broken.parquet", "notes.md"), "x" * 3000))
    for path, words in (
        ("empty", "holds no .tar, .parquet"),
        ("missing-{000..003}.tar", "nothing at .*missing-000.tar and 3 more"),
        ("mute.tar", "no sample with an image and a caption; found 1 no_caption"),
        ("broken.tar", "broken.tar: "),
        ("broken.parquet", "not a readable parquet file"),
        ("notes.md", "expected .tar, .parquet, .csv or .jsonl, found .md"),
    ):
        assert_refused(partial(open_shards, path, tmp_path), f"^train.data: .*{words}")


# Decontamination


def dirty(base: Path) -> Shards:
    """Five pairs of the painted scenes and five others; two of the five are stored in another way."""
    real = open_shards(str(folder()), Path())
    images = [real.read(n).image for n in range(5)]
    images[0] = encoded(decode(images[0]), "PNG")
    images[1] = encoded(decode(images[1]).resize((56, 56)), "JPEG", quality=60)
    samples = [{"jpg": jpeg(n), "txt": f"other {n}".encode()} for n in range(5)]
    samples += [{"png" if n == 0 else "jpg": i, "txt": f"new {n}".encode()} for n, i in enumerate(images)]
    shouted = real.read(3).captions[0].upper().replace(" ", "\u2028")  # a line end to str.splitlines
    samples.append({"jpg": jpeg(9), "txt": f"  {shouted}!".encode()})
    return open_shards(str(tar(base / "dirty.tar", samples)), Path())


@pytest.mark.parametrize(
    ("images", "gone"),
    [
        ("sha256", {5, 7, 8, 9, 10}),
        ("phash", {5, 6, 7, 8, 9, 10}),
        ("both", {5, 6, 7, 8, 9, 10}),
        ("none", {10}),
    ],
)
def test_pairs_of_an_evaluation_set_leave(tmp_path: Path, images: str, gone: set[int]) -> None:
    source = dirty(tmp_path)

    def cleaned(action: Literal["drop", "flag"] = "drop") -> tuple[Shards, dict[str, int]]:
        block = Decontaminate.model_validate({"against": [str(folder())], "images": images, "action": action})
        (left,), counts = clean([source], block, tmp_path, tmp_path / "out")
        return left, counts

    left, counts = cleaned()
    assert captions(left) == [found for n, found in enumerate(captions(source)) if n not in gone]
    assert counts["pairs"] == left.left_out["decontaminated"] == len(gone)
    assert counts["caption"] == 1
    assert [(again.rows, found) for again, found in (cleaned(), cleaned("flag"))] == [
        (left.rows, counts),
        (11, counts),
    ]
    lines = (tmp_path / "out/decontamination.jsonl").read_bytes().splitlines()[1:]
    assert {json.loads(line)["row"] for line in lines} == gone


def test_a_folder_of_images_is_an_evaluation_set(tmp_path: Path) -> None:
    def cleaned(against: str) -> tuple[list[Shards], dict[str, int]]:
        block = Decontaminate(against=[against], distance=0)
        return clean([dirty(tmp_path)], block, tmp_path, tmp_path / "out")

    write_files(tmp_path, {"eval/a/b.jpg": open_shards(str(folder()), Path()).read(2).image, "void/x": ""})
    left, counts = cleaned("eval")
    assert (left[0].rows, counts["pairs"]) == (10, 1)
    assert_refused(lambda: cleaned("void"), "void")


def test_near_hashes_are_those_of_the_plain_search() -> None:
    rng = random.Random(0)
    known = Known()
    stored = [rng.getrandbits(64) for _ in range(300)]
    for number, bits in enumerate(stored):
        for at, quarter in enumerate(known.quarters):
            quarter[bits >> (16 * at) & 0xFFFF].append((bits, str(number)))
    for _ in range(2000):
        bits = rng.choice(stored) ^ sum(1 << at for at in rng.sample(range(64), rng.randrange(6)))
        nearest = min((bits ^ s).bit_count() for s in stored)
        assert [known.near(bits, d) is not None for d in range(4)] == [nearest <= d for d in range(4)]


def test_hashes_and_captions_forgive_what_they_should() -> None:
    shards = open_shards(str(folder()), Path())
    image, other = (decode(shards.read(n).image) for n in range(2))
    whole, small, different = map(perceptual_hash, (image, image.resize((48, 48)), other))
    assert (whole ^ small).bit_count() <= 3 < (whole ^ different).bit_count()
    assert plain_caption("A  red dog, on\ta BALL.") == plain_caption("a red dog on a ball")


def test_a_subset_keeps_blocks_together() -> None:
    source, rows = open_shards(str(folder("parquet")), Path()), [0, 9, 25, 33, 76, 89]
    assert source.blocks.tolist() == [0, 25, 50, 75, 90]
    subset = Subset(source, np.array(rows), Counter(decontaminated=84))
    assert subset.blocks.tolist() == [0, 2, 4, 6]
    ids = [source.id(n) for n in rows]
    assert [subset.id(n) for n in range(6)] == [subset.read(n).id for n in range(6)] == ids


def test_the_mix_of_export_is_readable() -> None:
    shards = open_shards(str(scenes() / "mix"), Path(), captions=["text", "original_caption"])
    assert shards.rows > ROWS
    assert {len(found) for found in captions(shards)} == {2}
