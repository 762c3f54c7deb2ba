"""Every production recipe: checked as it is, planned and run from end to end with nothing but the models'
names replaced."""

import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctrlsynth.api.run import Run, run
from ctrlsynth.errors import UserError
from ctrlsynth.export.export import export
from ctrlsynth.recipe.file import load_recipe, load_train
from ctrlsynth.recipe.schema import Models, Recipe
from ctrlsynth.runs.estimate import estimate
from helpers import ROOT
from tiny_production import SAYS, Tiny

RECIPES = ROOT / "recipes"
NAMES = sorted(p.stem for p in RECIPES.glob("ctrlsynth-*.yaml"))
KINDS = {"obj": ("objects",), "obj-attr": ("objects", "attributes")}


@pytest.mark.parametrize("name", NAMES)
def test_its_header_says_how_to_run_it_and_what_to_expect(name: str) -> None:
    head = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").partition("\n\n")[0]
    for word in ("command", "hardware", "hours", "expect"):
        assert re.search(rf"^#   {word} ", head, re.MULTILINE), word
    assert f"recipes/{name}.yaml" in head
    assert "table" in head or "unknown" in head


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_small_difference_and_its_train_block_is_sound(name: str) -> None:
    path = RECIPES / f"{name}.yaml"
    assert load_recipe(path).name == name
    lines = [x for x in path.read_text(encoding="utf-8").splitlines() if x.strip() and not x.startswith("#")]
    assert name == "ctrlsynth-cc3m" or ("extends: " in lines[0] and len(lines) <= 12)
    if load_recipe(path).train is not None:
        _, block = load_train(path)
        assert (block.lr, block.min_lr, block.weight_decay, block.betas) == (2e-3, 2e-5, 0.2, (0.9, 0.98))
        assert (block.batch, block.steps) == ((8192, 55_429) if "cc12m" in name else (2048, 56_429))


def test_the_papers_numbers_stand_in_the_base_recipe() -> None:
    recipe = load_recipe(RECIPES / "ctrlsynth-cc3m.yaml")
    tagger: Any = recipe.models.tagger
    catlip, captioner = tagger["hybrid"]
    assert catlip["top_k"] == 20
    assert (captioner["captioner"], captioner["extract"]["vllm"]) == (
        "florence-community/Florence-2-large",
        "Qwen/Qwen2-7B-Instruct",
    )
    assert recipe.models.llm == {
        "vllm": "mistralai/Mistral-Nemo-Instruct-2407"
    }  # temperature 0 is the backend's default
    painter: Any = recipe.models.text_to_image
    assert (painter["guidance"], painter["steps"], painter["dtype"]) == (7.0, 28, "float16")
    assert set(recipe.image_policy.styles) == {"real", "nocap", "isometric", "enhance", "quality"}
    assert recipe.judge is not None
    assert (recipe.judge.threshold, recipe.judge.image_against, recipe.mix.use) == (0.2, "text", "mix")


def test_planned_on_a_machine_without_the_models_it_names_them_all_at_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlsynth.models import installed

    monkeypatch.setattr(installed, "installed", lambda module: module != "vllm")
    recipe = load_recipe(place / "recipes" / "ctrlsynth-cc3m.yaml")
    with pytest.raises(UserError) as caught:
        estimate(recipe, place / "recipes", place / "runs" / "none", None)
    lines = str(caught.value).splitlines()
    assert len(lines) >= 3
    assert any("vllm is not installed; pip install 'ctrlsynth[vllm]'" in line for line in lines)
    assert any("hf download stabilityai/stable-diffusion-xl-base-1.0" in line for line in lines)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipes/ and, in data/, shards of two small pictures each, as the recipes name them."""
    base = tmp_path_factory.mktemp("place")
    shutil.copytree(RECIPES, base / "recipes")
    for name in ("cc3m", "cc12m", "datacomp"):
        (base / "data" / name).mkdir(parents=True)
        with tarfile.open(base / "data" / name / "00000.tar", "w") as tar:
            for n, colour in enumerate(("blue", "navy")):
                picture = io.BytesIO()
                Image.new("RGB", (48, 40), colour).save(picture, "PNG")
                for ending, data in (
                    ("png", picture.getvalue()),
                    ("txt", f"a dog and a cat at a table, {n}".encode()),
                ):
                    entry = tarfile.TarInfo(f"{n:09d}.{ending}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return base


def small(place: Path, name: str, tiny: Tiny) -> Recipe:
    """The recipe with its models' names replaced, all else as it is."""
    recipe = load_recipe(place / "recipes" / f"{name}.yaml")
    models = recipe.models
    named = {"tagger": models.tagger, "llm": models.llm, "text_to_image": models.text_to_image}
    return recipe.model_copy(
        update={"models": Models(**{role: tiny.spec(spec) for role, spec in named.items()})}
    )


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_end_to_end_on_tiny_checkpoints(name: str, place: Path, tiny: Tiny) -> None:
    recipe = small(place, name, tiny)
    planned = estimate(recipe, place / "recipes", place / "runs" / name, None)
    assert planned["problems"] == []
    made = run(recipe, place / "runs" / name, base=place / "recipes")
    ledger = {r.folder: r for r in made.ledger()}
    assert all(r.adds_up for r in ledger.values())
    assert {f: r.failed for f, r in ledger.items() if r.failed} == {}
    assert {s["folder"] for s in planned["stages"]} == set(ledger)
    assert ledger["read"].ok == 2
    check_tables(made, name)
    summary = export(made, place / "out" / name, format="webdataset")
    assert summary.written["cap"] > 0
    assert summary.written["capimg"] > 0
    kinds = ("cap", "img", "capimg") if "samples" in name else ()
    for kind in kinds:
        assert set(export(made, place / "out" / f"{name}-{kind}", format="parquet", mix=kind).written) == {
            kind
        }


def check_tables(made: Run, name: str) -> None:
    texts, images = list(made.rows("write")), list(made.rows("paint"))
    assert [r["id"].rpartition(".")[2] for r in texts] == ["0", "1"] * 2
    assert {r["text"] for r in texts} == {SAYS}
    assert {r["template"] for r in texts} <= {f"phrases-{n}" for n in range(1, 6)}
    kept = KINDS.get(name.removeprefix("ctrlsynth-cc3m-"), ("objects", "attributes", "relations"))
    seen = {kind for r in texts for kind in ("objects", "attributes", "relations") if r["tags"][kind]}
    assert seen == ({"objects"} if "classifier" in name else set(kept))
    assert [r["reason"] for r in images] == ["not_painted", None] * 2
    assert {r["style"] for r in images if r["status"] == "ok"} <= {
        "real",
        "nocap",
        "isometric",
        "enhance",
        "quality",
    }
    settings = json.loads((Path(str(made.root)) / "plan.json").read_text())["recipe"]["models"][
        "text_to_image"
    ]
    assert (settings["guidance"], settings["steps"]) == (7.0, 28)
