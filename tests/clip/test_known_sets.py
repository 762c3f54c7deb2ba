"""Decontamination against every layout that `ctrlsynth eval` reads: training pairs that are in it are
dropped."""

from collections.abc import Callable
from pathlib import Path

import pytest
from test_clip_data import jpeg, tar

from ctrlsynth.clip.data.shards import open_shards
from ctrlsynth.clip.decontaminate import clean
from ctrlsynth.recipe.train import Decontaminate
from eval_sets import write_files, write_shards
from helpers import assert_refused

TRAIN = [("a cat on a mat", 1), ("two dogs", 2), ("a red car", 3), ("nobody knows", 4)]


def _train(folder: Path) -> Path:
    return tar(folder / "train.tar", [{"jpg": jpeg(n), "txt": text.encode()} for text, n in TRAIN])


def _classes(folder: Path) -> None:
    """Labels instead of captions; training image 2 is in it."""
    write_shards(folder / "test", [{"jpg": jpeg(2), "cls": b"0"}, {"jpg": jpeg(9), "cls": b"1"}])
    write_files(folder, {"classnames.txt": "dogs\nnoise\n"})


def _retrieval(folder: Path) -> None:
    """Several captions per image: the third of the second image is a training caption; the first image is
    training image 2."""
    texts = "one\ntwo\nA red car.\nfour\nfive"
    write_shards(
        folder / "test",
        [{"jpg": jpeg(2), "txt": b"a pair of dogs"}, {"jpg": jpeg(8), "txt": texts.encode()}],
        1,
    )


def _coco(folder: Path) -> None:
    facts = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "caption": "a red car"}],
    }
    write_files(folder, {"images/a.jpg": jpeg(2), "captions.json": facts})


def _pairs(folder: Path) -> None:
    """A negative caption does not count as a caption of the set."""
    row = {"filename": "a.jpg", "caption": "a red car", "negative_caption": "nobody knows"}
    write_files(folder, {"images/a.jpg": jpeg(2), "swap.json": {"0": row}})


def _long_tail(folder: Path) -> None:
    """Image 1 is in the set's training split, image 2 in its test split."""
    splits = {"classnames.txt": "dogs\n", "train.txt": "1.jpg 0\n", "test.txt": "2.jpg 0\n"}
    write_files(folder, {"images/1.jpg": jpeg(1), "images/2.jpg": jpeg(2), **splits})


@pytest.mark.parametrize(
    ("make", "against", "gone"),
    [
        (_classes, "set", {1}),
        (_classes, "set/test", {1}),
        (_retrieval, "set", {1, 2}),
        (_retrieval, "set/test", {1, 2}),
        (_retrieval, "set/test/0.tar", {1, 2}),
        (_coco, "set", {1, 2}),
        (_pairs, "set", {1, 2}),
        (_long_tail, "set", {1}),
    ],
)
def test_pairs_of_every_layout_leave(
    tmp_path: Path, make: Callable[[Path], None], against: str, gone: set[int]
) -> None:
    make(tmp_path / "set")
    source = open_shards(str(_train(tmp_path)), Path())
    settings = Decontaminate(against=[against], images="sha256")
    (left,), counts = clean([source], settings, tmp_path, tmp_path / "out")
    assert [left.read(n).captions[0] for n in range(left.rows)] == [
        text for n, (text, _) in enumerate(TRAIN) if n not in gone
    ]
    assert counts["pairs"] == len(gone)


def test_a_set_that_names_a_missing_image_is_one_line(tmp_path: Path) -> None:
    _pairs(tmp_path / "set")
    (tmp_path / "set/images/a.jpg").unlink()
    source = open_shards(str(_train(tmp_path)), Path())
    assert_refused(
        lambda: clean([source], Decontaminate(against=["set"]), tmp_path, tmp_path / "out"),
        r"a\.jpg: expected an image that the evaluation set names; cannot read it",
    )
