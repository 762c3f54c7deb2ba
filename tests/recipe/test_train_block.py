"""The train block of a recipe: the papers' presets, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from ctrlsynth.recipe.file import load_train, resolve
from helpers import assert_refused


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        ({"preset": "ctrlsynth-cc3m"}, {
            "lr": 2e-3, "min_lr": 2e-5, "batch": 2048, "steps": 56_429, "warmup": 2_822, "weight_decay": 0.2,
        }),
        ({"preset": "ctrlsynth-cc3m", "epochs": 2}, {
            "steps": None, "epochs": 2, "warmup": pytest.approx(0.05, abs=1e-4),
        }),
        ({"preset": "synthclip"}, {
            "lr": 5e-4, "min_lr": 1e-5, "batch": 4096, "epochs": 40, "warmup_epochs": 1, "warmup_lr": 1e-6,
            "weight_decay": 0.5, "eps": 1e-8, "crop_scale": (0.5, 1.0), "shorter_edge": 256, "flip": False,
            "mean": (0.485, 0.456, 0.406),
        }),
        ({"preset": "synthclip-appendix-e", "init": "y"}, {
            "steps": 1, "batch": 1_000_000, "negatives": "micro",
        }),
    ],
)  # fmt: skip
def test_presets_are_the_papers(block: dict[str, Any], wanted: dict[str, Any]) -> None:
    made = resolve({"data": ["x"], **block})
    assert {key: getattr(made, key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "train.data: no data"),
        ({"data": []}, "train.data"),
        (
            {"data": ["x"], "preset": "ctrlsynth-cc3"},
            "unknown preset 'ctrlsynth-cc3'; did you mean 'ctrlsynth-cc3m'",
        ),
        ({"data": ["x"], "epoch": 3}, "unknown key 'train.epoch'; did you mean 'train.epochs'"),
        ({"data": [{"path": "x", "ration": 3}]}, "did you mean 'train.data.0.ratio'"),
        ({"data": [{"path": "x", "ratio": 3}, "y"]}, "every source has a ratio or none"),
        ({"data": ["x"], "epochs": 3, "steps": 4}, "given: epochs, steps"),
        ({"data": ["x"], "init": "a", "model": "tiny"}, "init brings its own model"),
        ({"data": ["x"], "preset": "synthclip-finetune"}, "needs init"),
        ({"data": ["x"], "equal_samples": {"epochs": 3}}, "exactly one of rows, data"),
        ({"data": ["x"], "lr": -1}, "train.lr"),
    ],
)
def test_a_wrong_block_is_one_line(given: dict[str, Any], words: str) -> None:
    assert_refused(lambda: resolve(given, "r.yaml"), f"^r.yaml.*{re.escape(words)}")


def test_a_recipe_that_only_trains(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: a\nseed: 7\ntrain: {preset: synthclip, data: [x]}\n")
    name, loaded = load_train(path, ["train.batch=8"])
    assert (name, loaded.batch, loaded.seed) == ("a", 8, 7)
    path.write_text("name: a\n")
    assert_refused(lambda: load_train(path), "no train block; write for example")
    path.write_text("name: a\ntrian: {}\ntrain: {data: [x]}\n")
    assert_refused(lambda: load_train(path), "unknown key 'trian'; did you mean 'train'")
