"""Bad rows and bad models through the whole pipeline: a typed reason in the ledger or one line with the remedy, and the rest goes on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctrlsynth.errors import ModelError, WorkFailed
from ctrlsynth.models.base import ImageAndText, Painting, Prompt, Reply, Request
from ctrlsynth.recipe import Recipe
from ctrlsynth.runs import LedgerRow, Run, run
from ctrlsynth.sample import Tags
from helpers import recipe


def ledger(made: Run) -> dict[str, LedgerRow]:
    """The ledger by folder, after every stage has been seen to add up."""
    rows = made.ledger()
    assert [r.folder for r in rows if not r.adds_up] == []
    return {r.folder: r for r in rows}


class OddTagger:
    """Answers by `how` where the caption holds `when`; what is right elsewhere."""

    id, digest, reads, batch = "odd-tagger", "1", "caption", 1

    def __init__(self, how: str, when: str = "boat") -> None:
        self._how, self._when = how, when

    def tag(self, items: Sequence[ImageAndText]) -> Any:
        right = [Tags(("dog",), ("red dog",)) for _ in items]
        if not any(self._when in (i.text or "") for i in items):
            return right
        if self._how == "raise":
            raise OddError("no boats")
        if self._how == "model_error":
            raise ModelError("too_wet", "boats are too wet")
        number = len(items)
        return {
            "none": [None] * number,
            "nothing": None,
            "too_few": [],
            "too_many": right * 2,
            "string": ["boat"] * number,
            "text_for_tuple": [Tags("boat")] * number,  # type: ignore[arg-type]
            "numbers": [Tags((1, 2))] * number,  # type: ignore[arg-type]
            "surrogate": [Tags(("boat\ud800",))] * number,
            "nan": [Tags(("boat",), scores=(float("nan"),))] * number,
            "scores": [Tags(("boat",), scores=(0.5, 0.5))] * number,
            "score_text": [Tags(("boat",), scores=("high",))] * number,  # type: ignore[arg-type]
            "caption": [Tags(("boat",), caption=3)] * number,  # type: ignore[arg-type]
        }[self._how]


class OddError(Exception):
    """An exception of a library's own, of no built-in kind."""


class OddLLM:
    """As `OddTagger`, for requests whose caption or tags hold `when`."""

    id, digest, batch = "odd-llm", "1", 1

    def __init__(self, how: str, when: str = "boat") -> None:
        self._how, self._when = how, when

    def generate(self, requests: Sequence[Request]) -> Any:
        if not any(self._when in p for r in requests for p in r.tags.phrases()):
            return [Reply("There is " + ", ".join(r.tags.phrases()) + ".") for r in requests]
        if self._how == "raise":
            raise OddError("no boats")
        answer: Any = {
            "none": None,
            "string": "a boat",
            "bytes": Reply(b"a boat"),  # type: ignore[arg-type]
            "text_none": Reply(None),  # type: ignore[arg-type]
            "surrogate": Reply("a boat \udcff"),
            "tokens": Reply("a boat", prompt_tokens="many"),  # type: ignore[arg-type]
            "huge": Reply("a boat", prompt_tokens=2**40),
            "error": Reply(None, error="too_wet"),  # type: ignore[arg-type]
        }[self._how]
        return [answer for _ in requests]


class OddPainter:
    """As `OddTagger`, for prompts that hold `when`."""

    id, digest, batch = "odd-painter", "1", 1

    def __init__(self, how: str, when: str = "boat") -> None:
        self._how, self._when = how, when

    def generate(self, prompts: Sequence[Prompt]) -> Any:
        square = Image.new("RGB", (32, 32), (200, 30, 30))
        if not any(self._when in p.text for p in prompts):
            return [Painting(square) for _ in prompts]
        if self._how == "raise":
            raise OddError("no boats")
        cut = io.BytesIO()
        Image.effect_noise((64, 64), 90).save(cut, "PNG")
        lazy = Image.open(io.BytesIO(cut.getvalue()[:600]))
        answer: Any = {
            "none": None,
            "image": square,
            "bytes": Painting(b"JFIF"),  # type: ignore[arg-type]
            "empty": Painting(Image.new("RGB", (0, 0))),
            "lazy": Painting(lazy),
            "wide": Painting(Image.new("RGB", (70_000, 1))),
            "both": Painting(square, error="too_wet"),
            "drawn": Painting(square, drawn=(1, 2)),  # type: ignore[arg-type]
            "too_many": None,
        }[self._how]
        return [answer for _ in prompts] * (2 if self._how == "too_many" else 1)


class OddSafety:
    """Scores by `how` for every third image that it sees."""

    id, digest = "odd-safety", "1"

    def __init__(self, how: str) -> None:
        self._how = how

    def score(self, images: Sequence[Image.Image]) -> Any:
        if self._how == "raise":
            raise OddError("will not look")
        bad = {"nan": float("nan"), "none": None, "text": "safe", "big": 7.0}.get(self._how)
        scores = [bad if n % 3 == 0 else 0.1 for n in range(len(images))]
        return scores[:-1] if self._how == "too_few" else scores


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("none", "bad_output"),
        ("nothing", "model_error:TypeError"),
        ("too_few", "no_output"),
        ("too_many", "too_many_outputs"),
        ("string", "bad_output"),
        ("text_for_tuple", "bad_output"),
        ("numbers", "bad_output"),
        ("surrogate", "bad_output"),
        ("nan", "bad_output"),
        ("scores", "bad_output"),
        ("score_text", "bad_output"),
        ("caption", "bad_output"),
        ("raise", "model_error:OddError"),
        ("model_error", "too_wet"),
    ],
)
def test_a_tagger_that_answers_oddly_costs_its_rows(tmp_path: Path, how: str, reason: str) -> None:
    models = {"tagger": {"test_bad_input:OddTagger": how}, "llm": "realizer"}
    rows = ledger(run(recipe(tmp_path, models=models), tmp_path / "run", base=tmp_path))
    assert rows["tag"].failed.keys() == {reason}
    assert (rows["tag"].ok, sum(rows["tag"].failed.values())) == (30, 10)
    assert rows["judge-text"].rows == 30


@pytest.mark.parametrize("how", ["none", "string", "bytes", "text_none", "surrogate", "tokens", "huge", "error", "raise"])
def test_a_writer_that_answers_oddly_costs_its_rows(tmp_path: Path, how: str) -> None:
    models = {"tagger": "wordnet", "llm": {"test_bad_input:OddLLM": how}}
    rows = ledger(run(recipe(tmp_path, models=models), tmp_path / "run", base=tmp_path))
    assert rows["write"].failed == {{"error": "too_wet", "raise": "model_error:OddError"}.get(how, "bad_output"): 10}
    assert rows["judge-text"].rows == 30


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("none", "bad_output"),
        ("image", "bad_output"),
        ("bytes", "bad_output"),
        ("empty", "bad_output"),
        ("lazy", "cannot_encode"),
        ("wide", "cannot_encode"),
        ("both", "too_wet"),
        ("drawn", "bad_output"),
        ("too_many", "too_many_outputs"),
        ("raise", "model_error:OddError"),
    ],
)
def test_a_painter_that_answers_oddly_costs_its_rows(tmp_path: Path, how: str, reason: str) -> None:
    models = {"tagger": "wordnet", "llm": "realizer", "text_to_image": {"test_bad_input:OddPainter": how}}
    plan = recipe(tmp_path, models=models, paths=["SP4"], judge={"tagger": "helpers:PixelCounter"})
    made = run(plan, tmp_path / "run", base=tmp_path)
    rows = ledger(made)
    assert rows["paint"].failed == {reason: 10}
    assert rows["judge-image"].rows == rows["tag"].ok == 30
    assert all((r["image"] is None) == (r["status"] == "failed") for r in made.rows("paint"))


@pytest.mark.parametrize("how", ["nan", "none", "text", "big"])
def test_an_image_that_safety_could_not_score_is_never_kept(tmp_path: Path, how: str) -> None:
    made = run(judged_by(tmp_path, how), tmp_path / "run", base=tmp_path)
    rows = ledger(made)
    assert rows["judge-image"].failed.keys() == {"bad_output"}
    table = list(made.rows("judge-image"))
    assert all(r["unsafe"] is None and r["verdict"] is None for r in table if r["status"] == "failed")
    assert sum(r["status"] != "failed" and r["unsafe"] == pytest.approx(0.1) for r in table) == 40 - sum(
        rows["judge-image"].failed.values()
    )


@pytest.mark.parametrize(("how", "reason"), [("too_few", "too_few_outputs"), ("raise", "model_error:OddError")])
def test_a_safety_judge_that_fails_altogether_stops_the_run_with_its_cause(tmp_path: Path, how: str, reason: str) -> None:
    with pytest.raises(WorkFailed, match=rf"judge-image: none of 40 rows came through \({reason} x 40\)"):
        run(judged_by(tmp_path, how), tmp_path / "run", base=tmp_path)


def judged_by(base: Path, how: str) -> Recipe:
    """Captions painted by `scenes` and looked at by `OddSafety`."""
    judge = {"tagger": "helpers:PixelCounter", "threshold": 0.0, "safety": {"model": {"test_bad_input:OddSafety": how}}}
    return recipe(base, paths=["SP4"], judge=judge, image_policy={"size": 64})
