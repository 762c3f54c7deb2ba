"""A long-tailed split as a source: which classes, how often; a whole run on such a split, exported and given
to the head."""

from collections import Counter
from pathlib import Path
from typing import Any

from ctrlsynth.api.run import run
from ctrlsynth.data.long_tail import read_split
from ctrlsynth.data.sources import open_source
from ctrlsynth.evaluate.kinds import long_tail
from ctrlsynth.evaluate.kinds.base import Settings
from ctrlsynth.evaluate.run import evaluate_all
from ctrlsynth.export.export import export
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.recipe.schema import Source
from eval_sets import ColourClip, draw, square, write_files
from helpers import assert_refused

NAMES = ["red car", "green tree", "blue boat"]
COUNTS = [101, 20, 3]


def _split(folder: Path, counts: list[int] = COUNTS) -> dict[str, Any]:
    """A split whose lines of one class name the same drawing, several times."""
    drawn = [draw(f"a {name}", 96, n) for n, name in enumerate(NAMES)]
    rows = [(f"{n} {i}.png", n) for n in range(3) for i in range(counts[n])]
    files = {
        "classnames.txt": "\n".join(NAMES) + "\n",
        "train.txt": "".join(f"{name} {n}\n" for name, n in rows),
        "test.txt": "".join(f"{n} 0.png {n}\n" * 4 for n in range(3)),
    }
    write_files(folder, {**files, **{f"images/{name}": drawn[n] for name, n in rows}})
    return {
        "split": str(folder / "train.txt"),
        "images": str(folder / "images"),
        "classnames": str(folder / "classnames.txt"),
    }


def _rows(settings: dict[str, Any], part_rows: int = 1000) -> list[Any]:
    source = open_source(Source.model_validate({"long_tail": settings, "part_rows": part_rows}), Path())
    return [row for part in source.parts() for row in source.rows(part)]


def test_groups_per_and_multiplier(tmp_path: Path) -> None:
    where = _split(tmp_path)
    tail = _rows(where)
    assert len(tail) == 3 * 7
    assert {(r.caption, r.metadata["group"], r.status) for r in tail} == {("blue boat", "tail", "ok")}
    assert len({r.key for r in tail}) == 21
    both = _rows({**where, "groups": ["tail", "medium"], "multiplier": 2})
    assert Counter(r.metadata["label"] for r in both) == {1: 40, 2: 6}
    a_class = _rows({**where, "groups": ["tail", "head"], "per": "class", "multiplier": 7})
    assert Counter(r.metadata["label"] for r in a_class) == {0: 7, 2: 7}
    assert Counter(r.key.partition("#")[0] for r in a_class if r.metadata["label"] == 2) == {
        "2 0.png": 3,
        "2 1.png": 2,
        "2 2.png": 2,
    }


def test_parts_change_nothing_and_missing_images_are_rows(tmp_path: Path) -> None:
    where = _split(tmp_path)
    (tmp_path / "images" / "2 1.png").unlink()
    (tmp_path / "images" / "2 2.png").write_bytes(b"no")
    rows = _rows(where, part_rows=4)
    assert [(r.key, r.caption, r.reason) for r in rows] == [
        (r.key, r.caption, r.reason) for r in _rows(where)
    ]
    assert Counter(r.reason for r in rows) == {None: 7, "missing_file": 7, "not_an_image": 7}


def test_wrong_splits_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    label = r"train\.txt:2: expected 'path label' with a label of 0\.\.2, found 'c\.jpg 7'"
    for text, wrong in (("a b.jpg 0\nc.jpg 7\n", label), ("\n", "names no image")):
        path.write_text(text)
        assert_refused(lambda: read_split(path, 3), wrong)
    path.write_text("a b.jpg 0\n\n")
    assert read_split(path, 3) == [("a b.jpg", 0)]
    where = _split(tmp_path / "x", [101, 101, 101])
    assert_refused(lambda: _rows(where), r"no class of .*train\.txt is tail")
    assert_refused(lambda: _rows({**where, "split": "gone.txt"}), "cannot read it")


def test_the_whole_route_from_split_to_augmented_head(tmp_path: Path) -> None:
    """SP3 on the tail's images with the embedded models, exported as an image folder, then the head with and
    without it."""
    where = _split(tmp_path / "data" / "lt")
    made = run(
        parse_recipe(
            {
                "name": "lt", "source": {"long_tail": {**where, "multiplier": 2}}, "paths": ["SP3"],
                "mix": "capimg",
                "models": {"tagger": "wordnet", "llm": "realizer", "text_to_image": {"scenes": None,
                "size": 96}},
                "judge": {"tagger": "reference", "threshold": 0.0},
            }
        ),
        tmp_path / "run",
        base=tmp_path,
    )  # fmt: skip
    export(made, tmp_path / "made", format="imagefolder")
    folder, rows = long_tail.read_extra(tmp_path / "made", 3)
    assert (folder, {label for _, label in rows}, len(rows)) == (tmp_path / "made", {2}, 6)
    (plain,) = evaluate_all(ColourClip(), tmp_path / "data", tmp_path / "a")
    (more,) = evaluate_all(
        ColourClip(), tmp_path / "data", tmp_path / "b", settings=Settings(extra=tmp_path / "made")
    )
    assert plain.protocol == more.protocol
    assert (plain.data, set(plain.scores)) != (more.data, set())
    assert more.notes == ("trained on 130 images, 124 of them from train.txt",)
    assert_refused(lambda: long_tail.read_extra(tmp_path / "made", 2), r"expected a label of 0\.\.1, found 2")
    write_files(tmp_path, {"images/x.png": square("red")})
    wrong = "expected an imagefolder export whose source gives labels"
    assert_refused(lambda: long_tail.read_extra(tmp_path / "images", 3), wrong)
