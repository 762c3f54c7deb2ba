"""A long-tailed cut of Fashion-MNIST: the reader on idx files of its own, and the whole route from cut to
augmented head."""

import gzip
import shutil
import struct
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctrlsynth.api.run import run
from ctrlsynth.data.long_tail import group_of, read_split
from ctrlsynth.evaluate.kinds.base import Settings
from ctrlsynth.evaluate.kinds.long_tail import read_extra
from ctrlsynth.evaluate.run import evaluate_all
from ctrlsynth.export.export import export
from ctrlsynth.recipe.file import load_recipe
from eval_sets import write_files
from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import fashion_lt


def _idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


def test_the_cut_falls_from_most_to_least_and_repeats(tmp_path: Path) -> None:
    source = tmp_path / "idx"
    for stem, each in (("train", 40), ("t10k", 3)):
        labels = np.tile(np.arange(10, dtype=np.uint8), each)
        images = np.broadcast_to(labels[:, None, None] * 20, (len(labels), 4, 4)).astype(np.uint8)
        files = {"labels-idx1": _idx(labels), "images-idx3": _idx(images)}
        write_files(source, {f"{stem}-{name}-ubyte.gz": data for name, data in files.items()})
    made = fashion_lt.make(tmp_path / "a", 40, 2, 3, 0, source)
    assert (max(made), min(made), len(set(made)) > 5) == (40, 2, True)
    assert made != sorted(made)
    rows = read_split(tmp_path / "a" / "train.txt", 10)
    assert [n for _, n in sorted(Counter(label for _, label in rows).items())] == made
    with Image.open(tmp_path / "a" / "images" / rows[-1][0]) as image:
        assert image.getpixel((0, 0)) == (255 - 180,) * 3, "the last class, on white"
    assert Counter(label for _, label in read_split(tmp_path / "a" / "test.txt", 10)) == dict.fromkeys(
        range(10), 3
    )
    fashion_lt.make(tmp_path / "b", 40, 2, 3, 0, source)
    assert (tmp_path / "a" / "train.txt").read_text() == (tmp_path / "b" / "train.txt").read_text()
    with pytest.raises(SystemExit, match="has 40 images of train, 41 are wanted"):
        fashion_lt.make(tmp_path / "c", 41, 2, 3, 0, source)


@pytest.mark.skipif(not fashion_lt.SOURCE.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_whole_route_where_debians_dataset_is_installed(tmp_path: Path) -> None:
    """Small: about 300 images. The embedded models cannot draw clothes, so the test only checks that there
    are scores."""
    from ctrlsynth.models.open_clip.load import build, load_model, save_folder

    made = fashion_lt.make(tmp_path / "data" / "fashion-lt", 120, 3, 5, 0)
    shutil.copytree(ROOT / "recipes" / "evidence", tmp_path / "recipes" / "evidence")
    recipe = tmp_path / "recipes" / "evidence" / "fashion-lt.yaml"
    done = run(load_recipe(recipe, ["source.long_tail.multiplier=2"]), tmp_path / "run", base=recipe.parent)
    tail = {n for n, images in enumerate(made) if group_of(images) == "tail"}
    assert len(tail) >= 3
    written = export(done, tmp_path / "extra", format="imagefolder").written["capimg"]
    _, extra = read_extra(tmp_path / "extra", 10)
    assert {label for _, label in extra} <= tail
    assert 0 < written <= 2 * sum(made[n] for n in tail)
    built = build("tiny")
    (tmp_path / "model").mkdir()
    save_folder(tmp_path / "model", built.module, built.config)
    model = load_model(tmp_path / "model")
    (plain,) = evaluate_all(model, tmp_path / "data", tmp_path / "plain")
    (more,) = evaluate_all(
        model, tmp_path / "data", tmp_path / "more", settings=Settings(extra=tmp_path / "extra")
    )
    assert plain.protocol == more.protocol, "the same number of iterations"
    assert set(plain.scores) == set(more.scores) == {"acc1", "head", "medium", "tail"}
    assert more.notes == (f"trained on {sum(made) + len(extra)} images, {sum(made)} of them from train.txt",)
    assert plain.data != more.data
