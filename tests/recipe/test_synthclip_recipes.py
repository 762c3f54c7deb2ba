"""Every recipe of SynthCLIP's route: it loads, differs little from its preset, says what its header must, and
runs when only the names of models and files, and numbers, are replaced."""

import json
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
from ctrlsynth.recipe.schema import Recipe, dump_recipe
from ctrlsynth.sample import Tags
from helpers import ROOT, write_tar

RECIPES = ROOT / "recipes"
ROUTE = sorted(
    p for p in RECIPES.glob("*.yaml") if p.name.startswith(("synthclip", "naiveclip", "ablation-"))
)
SIZES = {"3m": 3e6, "8.8m": 8.8e6, "10m": 10e6, "20m": 20e6, "30m": 30e6}


class Teller:
    """A captioner that tells the size of what it sees."""

    id, digest, reads = "teller", "1", "pixels"

    def __init__(self, model: str | None = None, dtype: str = "") -> None: ...

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        return [
            Tags(caption=f"A picture of {i.image.width} pixels.") if i.image is not None else Tags()
            for i in items
        ]


def test_there_are_all_that_the_paper_has() -> None:
    ablations = (
        "random-sampling bank-cc3m bank-random llm-vicuna captioning clip-captioning clip-text-to-image "
        "prompt-unconditioned prompt-topics prompt-in-context".split()
    )
    wanted = {f"synthclip-{s}" for s in SIZES} | {f"ablation-{a}" for a in ablations}
    assert wanted | {"synthclip", "synthclip-quickstart", "naiveclip"} <= {p.stem for p in ROUTE}


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
    painter: Any = recipe.models.text_to_image
    assert painter | {"steps": 50, "guidance": 2.0, "scheduler": "ddim"} == painter
    policy = recipe.image_policy
    assert (policy.size, policy.image.size, policy.image.format, policy.styles) == (512, 256, "jpeg", {})
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
    base.mkdir(exist_ok=True)
    done = run(shrunk(name, base, **more), base / "run", base=base)
    assert all(row.adds_up for row in done.ledger())
    return done, dict(export(done, base / "data", format="csv").written)


def painted(name: str, base: Path, **more: str) -> tuple[Run, list[dict[str, Any]]]:
    """A whole run and its images, all of which leave with their captions."""
    done, written = made(name, base, **more)
    images = list(done.rows("paint"))
    assert written == {"capimg": len(images)}
    assert {(r["width"], r["height"]) for r in images} == {(32, 32)}  # painted with 64, stored with 32
    return done, images


@pytest.mark.parametrize(
    "name", ["synthclip-30m", "naiveclip", "ablation-random-sampling", "ablation-bank-cc3m"]
)
def test_concepts_become_a_data_set(name: str, tmp_path: Path) -> None:
    llm = {"models.llm": "naive:clip80"} if name == "naiveclip" else {}
    done, images = painted(name, tmp_path, **llm)
    by_id = {r["id"]: r["text"] for r in done.rows("balance")}
    assert all(r["prompt"] == by_id[r["parent"]] for r in images)  # no style: the caption itself


def test_the_preset_runs_on_a_tiny_checkpoint_of_its_painter(
    tmp_path: Path, tiny: Callable[[str], Path]
) -> None:
    """Stable Diffusion 1.5's own classes, DDIM, guidance: only the name and the number of steps differ."""
    painter: Any = load_recipe(RECIPES / "synthclip-3m.yaml").models.text_to_image
    options = {**painter, "diffusers": str(tiny("sd15")), "steps": 2, "dtype": "float32"}
    values = {"models.text_to_image": json.dumps(options), "balance.size": "4"}
    assert painted("synthclip-3m", tmp_path, **values)[1]


def test_only_the_new_caption_of_a_painted_image_leaves(tmp_path: Path) -> None:
    painted("ablation-captioning", tmp_path, **{"models.tagger": "{test_synthclip_recipes:Teller: x}"})
    (table,) = (tmp_path / "data").glob("*.csv")
    assert all("A picture of 32 pixels." in line for line in table.read_text().splitlines()[1:])


def test_real_captions_with_synthetic_images_balanced_or_not(tmp_path: Path) -> None:
    url = "http://x.org/1.jpg"  # as CC3M comes: without a header
    (tmp_path / "cc3m.tsv").write_text(
        "".join(f"a dog by castle {n}\t{url}\na cat and soup {n}\t{url}\n" for n in range(8))
    )
    source = {"source.text": str(tmp_path / "cc3m.tsv")}
    assert made("ablation-clip-text-to-image", tmp_path / "all", **source)[1] == {"img": 16}
    values = {"paths": "{b: [text, balance, image*]}", "balance": "{size: 6, bank: bank.txt}"}
    balanced, fewer = made("ablation-clip-text-to-image", tmp_path / "half", **source, **values)
    assert fewer == {"img": len([r for r in balanced.rows("balance") if r["status"] == "ok"])}
    assert fewer["img"] < 16


def test_real_images_with_synthetic_captions_balanced_or_not(tmp_path: Path) -> None:
    images: list[tuple[str, bytes]] = []
    for n in range(12):
        stream = BytesIO()
        Image.new("RGB", (20 + n % 3, 20), (9 * n, 0, 0)).save(stream, "PNG")
        images.append((f"{n:05d}.png", stream.getvalue()))
    values = {
        "source.webdataset": str(write_tar(tmp_path / "00000.tar", images)),
        "models.tagger": "{test_synthclip_recipes:Teller: x}",
    }
    assert made("ablation-clip-captioning", tmp_path / "all", **values)[1] == {"cap": 12}
    (tmp_path / "words.txt").write_text("20\n21\n22\n")
    balance = {
        "paths": "{b: [image, text*, balance]}", "balance": "{size: 2, bank: bank.txt}",
        "balance.bank": str(tmp_path / "words.txt"), "balance.size": "3",
    }  # fmt: skip
    done, fewer = made("ablation-clip-captioning", tmp_path / "some", **values, **balance)
    assert fewer == {"cap": 3}  # three sizes, so three different captions; the others repeat them
    assert [r.dropped for r in done.ledger() if r.folder == "balance"] == [{"duplicate": 9}]


def test_the_quickstart_plans_and_starts(tmp_path: Path) -> None:
    recipe = load_recipe(
        RECIPES / "synthclip-quickstart.yaml",
        ["models.llm=realizer", "balance.size=20", "source.part_rows=10"],
    )
    done = run(recipe, tmp_path / "run", base=RECIPES, limit=20)
    assert all(row.adds_up for row in done.ledger())
    lines = (RECIPES / "banks" / "quickstart.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 200


def test_full_recipes_differ_in_names_and_numbers_only() -> None:
    """The quickstart and the 30 million have the same keys but for the options of their models."""
    small, large = (dump_recipe(load_recipe(RECIPES / f"synthclip-{n}.yaml")) for n in ("quickstart", "30m"))
    assert all(small[key] == large[key] for key in ("paths", "text_policy", "mix"))
    assert large.keys() - small.keys() == {"train"}
