"""The recipes of baselines, long tail and sweeps: headers, differences, and the runs of three of them on tiny
checkpoints."""

import re
import shutil
from pathlib import Path

import pytest
from test_production_recipes import RECIPES, place, small, tiny  # noqa: F401

from ctrlsynth.api.run import run
from ctrlsynth.evaluate.kinds.long_tail import read_extra
from ctrlsynth.export.export import export
from ctrlsynth.recipe.file import load_recipe, load_train, read_data
from ctrlsynth.runs.estimate import estimate
from tiny_production import Tiny

NAMES = sorted(
    p.stem for kind in ("baseline", "longtail", "pf", "mixing") for p in RECIPES.glob(f"{kind}-*.yaml")
)
RUNS = ["baseline-laclip-like", "baseline-veclip-like", "longtail-places-lt"]
PLANNED = [n for n in NAMES if n not in RUNS and "source" in read_data(RECIPES / f"{n}.yaml")]


@pytest.fixture(scope="module")
def split(place: Path) -> Path:  # noqa: F811
    """The place with both long-tailed splits in it: a head class, and a tail class of two images."""
    from PIL import Image

    for name in ("places-lt", "imagenet-lt"):
        folder = place / "data" / name
        (folder / "images").mkdir(parents=True)
        for n, colour in enumerate(("blue", "navy", "red")):
            Image.new("RGB", (48, 40), colour).save(folder / "images" / f"{n}.png")
        (folder / "classnames.txt").write_text("sea\nfire\n")
        (folder / "train.txt").write_text("2.png 1\n" * 101 + "0.png 0\n1.png 0\n")
        (folder / "test.txt").write_text("0.png 0\n2.png 1\n")
    return place


def test_all_are_there() -> None:
    assert {n.partition("-")[0] for n in NAMES} == {"baseline", "longtail", "pf", "mixing"}
    assert set(RUNS) < set(NAMES)
    assert len(PLANNED) == 6


@pytest.mark.parametrize("name", NAMES)
def test_header_and_train_block(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    head = text.partition("\n\n")[0]
    for word in ("command", "hardware", "hours", "expect"):
        assert re.search(rf"^#   {word} ", head, re.MULTILINE), word
    assert f"recipes/{name}.yaml" in head
    assert read_data(RECIPES / f"{name}.yaml")["name"] == name
    if not name.startswith("longtail"):
        _, block = load_train(RECIPES / f"{name}.yaml")
        assert (block.batch, block.steps) == (2048, 56_429), "equal samples"
        assert "../data/cc3m/*.tar" in [s.path for s in block.data]
    if name.startswith("pf"):
        judge = load_recipe(RECIPES / f"{name}.yaml").judge
        assert judge is not None
        assert round(100 * judge.threshold) == int(name.removeprefix("pf-"))
    if name.startswith("mixing"):
        real, made = (s.ratio for s in load_train(RECIPES / f"{name}.yaml")[1].data)
        assert real is not None
        assert made is not None
        assert round(100 * made / (real + made)) == int(name.removeprefix("mixing-"))


@pytest.mark.parametrize("name", PLANNED)
def test_it_is_planned_on_tiny_checkpoints(name: str, split: Path, tiny: Tiny) -> None:  # noqa: F811
    recipe = small(split, name, tiny)
    assert estimate(recipe, split / "recipes", split / "runs" / name, None)["problems"] == []


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_from_end_to_end_on_tiny_checkpoints(name: str, split: Path, tiny: Tiny) -> None:  # noqa: F811
    recipe = small(split, name, tiny)
    made = run(recipe, split / "runs" / name, base=split / "recipes")
    ledger = made.ledger()
    assert all(r.adds_up and not r.failed for r in ledger)
    shutil.rmtree(split / "out" / name, ignore_errors=True)
    if name.startswith("longtail"):
        assert export(made, split / "out" / name, format="imagefolder").written == {"capimg": 14}
        _, rows = read_extra(split / "out" / name, 2)
        assert [label for _, label in rows] == [0] * 14
        assert {r["style"] for r in made.rows("paint")} == {"real"}
        return
    assert export(made, split / "out" / name).written == {"cap": 2}
    (texts,) = (list(made.rows(s.folder)) for s in made.steps if s.kind == "write")
    assert {r["template"].rpartition("-")[0] for r in texts} <= (
        {"rewrite", "creative"} if "laclip" in name else {"faithful"}
    )
