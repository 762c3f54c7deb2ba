"""Every recipe of SynthCLIP's route: it loads, differs little from its preset, says what its header must, and
runs when only the names of models and files, and numbers, are replaced."""

import json
import tarfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctrlsynth.api.run import Run, run
from ctrlsynth.export.export import export
from ctrlsynth.models.base import ImageAndText
from ctrlsynth.recipe.file import load_recipe, read_yaml
from ctrlsynth.recipe.schema import Recipe
from ctrlsynth.sample import Tags
from helpers import ROOT

RECIPES = ROOT / "recipes"
ROUTE = sorted(
    p for p in RECIPES.glob("*.yaml") if p.name.startswith(("synthclip", "naiveclip", "ablation-"))
)
SIZES = {"3m": 3e6, "8.8m": 8.8e6, "10m": 10e6, "20m": 20e6, "30m": 30e6}


class Teller:
    """A captioner that tells the size of what it sees."""

    id = "teller"
    digest = "1"
    reads = "pixels"

    def __init__(self, model: str | None = None, dtype: str = "") -> None:
        self.model = model

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        return [
            Tags(caption=f"A picture of {i.image.width} pixels.") if i.image is not None else Tags()
            for i in items
        ]


def test_there_are_all_that_the_paper_has() -> None:
    names = {p.stem for p in ROUTE}
    assert {f"synthclip-{s}" for s in SIZES} <= names
    assert {
        "synthclip",
        "synthclip-quickstart",
        "naiveclip",
        "ablation-random-sampling",
        "ablation-bank-cc3m",
        "ablation-bank-random",
    } <= names
    assert {
        "ablation-llm-vicuna",
        "ablation-captioning",
        "ablation-clip-captioning",
        "ablation-clip-text-to-image",
    } <= names
    assert {"ablation-prompt-unconditioned", "ablation-prompt-topics", "ablation-prompt-in-context"} <= names


@pytest.mark.parametrize("path", ROUTE, ids=lambda p: p.stem)
def test_a_recipe_is_a_small_difference_with_a_header(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = text.partition("\n\n")[0]
    assert all(f"#   {word}" in head for word in ("command", "hardware", "expect")), head
    assert f"recipes/{path.name}" in head
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    body = read_yaml(text, path.name)
    assert isinstance(body, dict)
    if path.stem != "synthclip":
        assert body["extends"] == "synthclip.yaml"
        assert len([line for line in text.split("\n") if line and not line.startswith("#")]) <= 15


def test_the_presets_numbers_are_the_papers() -> None:
    recipe = load_recipe(RECIPES / "synthclip.yaml")
    assert recipe.models.llm == {
        "vllm": "mistralai/Mistral-7B-Instruct-v0.2", "dtype": "float16", "temperature": 0.7, "top_p": 0.95,
        "presence_penalty": 1.0,
        "frequency_penalty": 1.0,
    }  # fmt: skip
    painter = recipe.models.text_to_image
    assert isinstance(painter, dict)
    assert {k: painter[k] for k in ("steps", "guidance", "scheduler")} == {
        "steps": 50,
        "guidance": 2.0,
        "scheduler": "ddim",
    }
    assert (recipe.image_policy.size, recipe.image_policy.image.size, recipe.image_policy.image.format) == (
        512,
        256,
        "jpeg",
    )
    assert recipe.image_policy.styles == {}
    for tag, size in SIZES.items():
        sized = load_recipe(RECIPES / f"synthclip-{tag}.yaml")
        assert sized.balance is not None
        assert sized.balance.size == size
        assert size < 500_000 * sized.variants.write < 3 * size


def shrunk(name: str, base: Path, **more: str) -> Recipe:
    """The recipe as it is, with an embedded model in place of each, a bank of a few concepts, and small
    numbers."""
    (base / "bank.txt").write_text("dog\ncat\ncastle\nsoup\nlove\nboat\nteapot\nriver\n")
    loaded = load_recipe(RECIPES / f"{name}.yaml")
    values = {
        "models.llm": "realizer",
        "models.text_to_image": "{scenes: null}",
        "image_policy.size": "64",
        "image_policy.image.size": "32",
    }
    if loaded.source.concepts is not None:
        values |= {"source.concepts": str(base / "bank.txt"), "source.part_rows": "3", "variants.write": "3"}
    if loaded.balance is not None:
        key = "random" if loaded.balance.random else "size"
        values |= {f"balance.{key}": "12", "balance.bank": str(base / "bank.txt")}
    return load_recipe(RECIPES / f"{name}.yaml", [f"{k}={v}" for k, v in {**values, **more}.items()])


def made(name: str, base: Path, **more: str) -> tuple[Run, dict[str, int]]:
    """A whole run and its export."""
    done = run(shrunk(name, base, **more), base / "run", base=base)
    assert all(row.adds_up for row in done.ledger())
    return done, dict(export(done, base / "data", format="csv").written)


@pytest.mark.parametrize(
    "name", ["synthclip-30m", "naiveclip", "ablation-random-sampling", "ablation-bank-cc3m"]
)
def test_concepts_become_a_data_set(name: str, tmp_path: Path) -> None:
    llm = {"models.llm": "naive:clip80"} if name == "naiveclip" else {}
    done, written = made(name, tmp_path, **llm)
    painted = list(done.rows("paint"))
    assert written == {"capimg": len(painted)}
    assert {(r["width"], r["height"]) for r in painted} == {(32, 32)}  # painted with 64, stored with 32
    by_id = {r["id"]: r["text"] for r in done.rows("balance")}
    assert all(r["prompt"] == by_id[r["parent"]] for r in painted)  # no style: the caption itself


def test_the_preset_runs_on_a_tiny_checkpoint_of_its_painter(
    tmp_path: Path, tiny: Callable[[str], Path]
) -> None:
    """Stable Diffusion 1.5's own classes, DDIM, guidance: only the name and the number of steps differ."""
    painter = load_recipe(RECIPES / "synthclip-3m.yaml").models.text_to_image
    assert isinstance(painter, dict)
    options = {**painter, "diffusers": str(tiny("sd15")), "steps": 2, "dtype": "float32"}
    done, written = made(
        "synthclip-3m", tmp_path, **{"models.text_to_image": json.dumps(options), "balance.size": "4"}
    )
    painted = list(done.rows("paint"))
    assert written == {"capimg": len(painted)}
    assert {(r["width"], r["height"]) for r in painted} == {(32, 32)}


def test_only_the_new_caption_of_a_painted_image_leaves(tmp_path: Path) -> None:
    done, written = made(
        "ablation-captioning", tmp_path, **{"models.tagger": "{test_synthclip_recipes:Teller: x}"}
    )
    assert written == {"capimg": len(list(done.rows("paint")))}
    table = (tmp_path / "data").glob("*.csv")
    assert all("A picture of 32 pixels." in line for line in next(table).read_text().splitlines()[1:])


def test_real_captions_with_synthetic_images_balanced_or_not(tmp_path: Path) -> None:
    url = "http://x.org/1.jpg"  # as CC3M comes: without a header
    (tmp_path / "cc3m.tsv").write_text(
        "".join(f"a dog by castle {n}\t{url}\na cat and soup {n}\t{url}\n" for n in range(8))
    )
    done, written = made(
        "ablation-clip-text-to-image", tmp_path, **{"source.text": str(tmp_path / "cc3m.tsv")}
    )
    assert written == {"img": 16}
    values = {
        "source.text": str(tmp_path / "cc3m.tsv"),
        "paths": "{b: [text, balance, image*]}",
        "balance": "{size: 6, bank: bank.txt}",
    }
    half = tmp_path / "half"
    half.mkdir()
    balanced, fewer = made("ablation-clip-text-to-image", half, **values)
    assert fewer == {"img": len([r for r in balanced.rows("balance") if r["status"] == "ok"])}
    assert fewer["img"] < 16
    assert done.root != balanced.root


def test_real_images_with_synthetic_captions_balanced_or_not(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for n in range(12):
            stream = BytesIO()
            Image.new("RGB", (20 + n % 3, 20), (9 * n, 0, 0)).save(stream, "PNG")
            info = tarfile.TarInfo(f"{n:05d}.png")
            info.size = len(stream.getvalue())
            stream.seek(0)
            tar.addfile(info, stream)
    values = {
        "source.webdataset": str(tmp_path / "00000.tar"),
        "models.tagger": "{test_synthclip_recipes:Teller: x}",
    }
    _, written = made("ablation-clip-captioning", tmp_path, **values)
    assert written == {"cap": 12}
    some = tmp_path / "some"
    some.mkdir()
    balance = {"paths": "{b: [image, text*, balance]}", "balance": "{size: 2, bank: bank.txt}"}
    (some / "words.txt").write_text("20\n21\n22\n")
    done, fewer = made(
        "ablation-clip-captioning",
        some,
        **values,
        **balance,
        **{"balance.bank": str(some / "words.txt"), "balance.size": "3"},
    )
    assert fewer == {"cap": 3}  # three sizes, so three different captions; the others repeat them
    row = next(r for r in done.ledger() if r.folder == "balance")
    assert row.dropped == {"duplicate": 9}


def test_the_quickstart_plans_and_starts(tmp_path: Path) -> None:
    recipe = load_recipe(
        RECIPES / "synthclip-quickstart.yaml",
        ["models.llm=realizer", "balance.size=20", "source.part_rows=10"],
    )
    done = run(recipe, tmp_path / "run", base=RECIPES, limit=20)
    assert all(row.adds_up for row in done.ledger())
    lines = (RECIPES / "banks" / "quickstart.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 200


def values_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe as data."""
    return recipe.model_dump(mode="json", exclude_none=True)


def test_full_recipes_differ_in_names_and_numbers_only() -> None:
    """The quickstart and the 30 million have the same keys but for the options of their models."""
    small, large = (values_of(load_recipe(RECIPES / f"synthclip-{n}.yaml")) for n in ("quickstart", "30m"))
    assert small["paths"] == large["paths"]
    assert small["text_policy"] == large["text_policy"]
    assert small["mix"] == large["mix"]
    assert {k for k in large if k not in small} == {"train"}
