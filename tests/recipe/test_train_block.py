"""The train block of a recipe: the papers' presets, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from ctrlsynth.recipe.file import load_train, resolve
from helpers import assert_refused


def test_presets_are_the_papers() -> None:
    cc3m = resolve({"preset": "ctrlsynth-cc3m", "data": ["x"]})
    assert (cc3m.lr, cc3m.min_lr, cc3m.batch, cc3m.steps, cc3m.warmup, cc3m.weight_decay) == (
        2e-3,
        2e-5,
        2048,
        56_429,
        2_822,
        0.2,
    )
    synth = resolve({"preset": "synthclip", "data": ["x"]})
    assert (synth.lr, synth.min_lr, synth.batch, synth.epochs, synth.warmup_epochs, synth.warmup_lr) == (
        5e-4,
        1e-5,
        4096,
        40,
        1,
        1e-6,
    )
    assert (synth.weight_decay, synth.eps, synth.crop_scale, synth.shorter_edge, synth.flip) == (
        0.5,
        1e-8,
        (0.5, 1.0),
        256,
        False,
    )
    assert synth.mean == (0.485, 0.456, 0.406)
    scaled = resolve({"preset": "ctrlsynth-cc3m", "data": ["x"], "epochs": 2})
    assert (scaled.steps, scaled.epochs) == (None, 2)
    assert scaled.warmup == pytest.approx(0.05, abs=1e-4)
    last = resolve({"preset": "synthclip-appendix-e", "data": ["x"], "init": "y"})
    assert (last.steps, last.batch, last.negatives) == (1, 1_000_000, "micro")


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
