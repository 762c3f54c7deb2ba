"""Whole runs with diffusers as the painter, on a tiny real checkpoint: tables, stored size, safety, what is
asked again, older tables."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conformance import Tiny
from ctrlsynth.api.run import run
from ctrlsynth.cli.show import as_text
from ctrlsynth.data.images import encode
from ctrlsynth.errors import UserError, WorkFailed
from ctrlsynth.lang import clip_tokens
from ctrlsynth.lang.phrases import holds
from ctrlsynth.models.base import Painting, Prompt
from ctrlsynth.models.embedded.scenes.painter import Scenes
from ctrlsynth.models.text_to_image.diffusers.painter import Diffusers
from ctrlsynth.recipe.schema import Recipe
from helpers import recipe, tables

LONG = "a red dog and a blue car near a green tree by the lake in the evening sun. " * 5
SETTINGS: dict[str, Any] = {
    "steps": 2,
    "guidance": 2.0,
    "scheduler": "ddim",
    "size": 64,
    "batch": 2,
    "device": "cpu",
}


def photographs(base: Path, captions: Sequence[str]) -> None:
    """A folder of drawn images with captions beside them."""
    (base / "images").mkdir()
    for n, (caption, painting) in enumerate(
        zip(captions, Scenes(64).generate([Prompt(c) for c in captions]), strict=True)
    ):
        assert painting.image is not None
        painting.image.save(base / "images" / f"{n}.png")
        (base / "images" / f"{n}.txt").write_text(caption)


def plan(base: Path, folder: Path, **changes: Any) -> Recipe:
    painter = {"diffusers": str(folder), **SETTINGS, **changes.pop("options", {})}
    return recipe(
        base,
        models={"tagger": "wordnet", "llm": "realizer", "text_to_image": painter},
        **{
            "source": {"folder": "images"},
            "paths": ["SP3", "SP4"],
            "judge": {"tagger": "reference"},
            **changes,
        },
    )


def test_a_run_of_sp3_and_sp4(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SynthCLIP's way in small: painted at 64, stored as a JPEG of 32 pixels."""
    photographs(tmp_path, ["a red dog on a sofa", "a blue car near a tree", "two cats", LONG])
    made_by = plan(
        tmp_path,
        tiny("sd15-safe"),
        options={"long_prompt": "chunk"},
        image_policy={
            "weights": {"dog": 1.5},
            "negative": "blurry",
            "image": {"format": "jpeg", "quality": 90, "size": 32},
        },
    )
    made = run(made_by, tmp_path / "run", base=tmp_path)
    assert all(row.adds_up for row in made.ledger())
    rows = [row for step in made.steps if step.kind == "paint" for row in made.rows(step.folder)]
    assert len(rows) == 8
    model = Diffusers(tiny("sd15-safe"), long_prompt="chunk", **SETTINGS)
    for row in rows:
        assert (row["status"], row["model"], row["flagged"], row["negative"]) == (
            "ok",
            "diffusers:sd15-safe",
            False,
            "blurry",
        )
        assert row["clip_tokens"] == clip_tokens.count(row["prompt"])
        assert (row["truncated"], row["chunks"]) == (False, 1 if row["clip_tokens"] <= 77 else 2)
        assert row["weights_unused"] == ([] if holds(row["prompt"], "dog") else ["dog"])
        stored = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (stored.format, stored.size, row["width"], row["height"]) == ("JPEG", (32, 32), 32, 32)
    assert {row["chunks"] for row in rows} == {1, 2}
    row = rows[0]
    again = model.generate(
        [Prompt(row["prompt"], negative="blurry", weights=dict(row["weights"]), seed=row["seed"])]
    )[0].image
    assert again is not None
    again.thumbnail((32, 32), Image.Resampling.LANCZOS)
    kept, wanted = (
        np.asarray(Image.open(io.BytesIO(b)), dtype=int)
        for b in (row["image"]["bytes"], encode(again, "jpeg", 90))
    )
    assert abs(kept - wanted).mean() < 1
    told = as_text(made, next(r["id"] for r in rows if r["chunks"] == 2))
    assert "read in 2 chunks" in told
    assert "did not flag it" in told
    first = tables(made)
    monkeypatch.setattr(Diffusers, "generate", lambda *_: pytest.fail("asked again"))
    assert tables(run(made_by, tmp_path / "run", base=tmp_path)) == first


def test_flagged_images_are_dropped_and_counted(tiny: Tiny, tmp_path: Path) -> None:
    photographs(tmp_path, ["a dog", "a cat"])
    with pytest.raises(WorkFailed, match=r"paint: none of 2 rows came through \(unsafe x 2\)"):
        run(plan(tmp_path, tiny("sd15-flags"), paths=["SP4"]), tmp_path / "run", base=tmp_path)
    rows = pq.read_table(next((tmp_path / "run" / "paint").glob("*.parquet"))).to_pylist()
    assert [(r["status"], r["reason"], r["flagged"], r["image"]) for r in rows] == [
        ("dropped", "unsafe", True, None)
    ] * 2


class Prude:
    """Flags every prompt with a dog, after it has painted it."""

    id, digest = "prude", "1"

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        return [
            Painting(Image.new("RGB", (8, 8)), flagged="dog" in p.text, tokens=9, truncated=None)
            for p in prompts
        ]


def test_a_flagged_image_goes_no_further(tmp_path: Path) -> None:
    models = {"tagger": "wordnet", "llm": "realizer", "text_to_image": "test_diffusers_run:Prude"}
    made = run(
        recipe(tmp_path, rows=16, models=models, paths=["SP4"], judge={"tagger": "reference"}),
        tmp_path / "run",
        base=tmp_path,
    )
    rows = list(made.rows("paint"))
    dogs = ["dog" in row["prompt"] for row in rows]
    assert 0 < sum(dogs) < len(rows)
    assert [r["status"] == "dropped" and r["reason"] == "unsafe" and r["image"] is None for r in rows] == dogs
    assert {(r["clip_tokens"], r["truncated"], r["chunks"]) for r in rows} == {(9, None, None)}
    assert len(list(made.rows("tag"))) == 16 - sum(dogs)
    assert all(row.adds_up for row in made.ledger())


class Counting(Scenes):
    """Draws, and notes every prompt in the file `log`."""

    def __init__(self, log: str) -> None:
        super().__init__(64)
        self._log = log

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        with open(self._log, "a", encoding="utf-8") as handle:
            handle.writelines(json.dumps(p.text) + "\n" for p in prompts)
        return super().generate(prompts)


def test_rows_of_a_table_from_before_the_new_columns_are_taken_over(tmp_path: Path) -> None:
    log = tmp_path / "log"
    models = {
        "tagger": "wordnet",
        "llm": "realizer",
        "text_to_image": {"test_diffusers_run:Counting": str(log)},
    }
    common: dict[str, Any] = {"rows": 10, "models": models, "paths": ["SP4"], "judge": None}
    made = run(recipe(tmp_path, **common), tmp_path / "run", base=tmp_path)
    before = tables(made)["paint"]
    for path in made.files("paint"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["chunks", "flagged"]), path)
    assert "chunks" not in next(iter(made.rows("paint")))
    assert "CLIP tokens" in as_text(made, before[0]["id"])
    more = run(
        recipe(tmp_path, **common, variants={"paint": 2}), tmp_path / "run", base=tmp_path, update=True
    )
    rows = tables(more)["paint"]
    assert [r for r in rows if r["id"].endswith("paint.0")] == before
    assert len(rows) == 20
    assert len(log.read_text().splitlines()) == 20


def test_a_recipe_that_asks_for_what_the_model_lacks_is_refused_before_it_runs(
    tiny: Tiny, tmp_path: Path
) -> None:
    photographs(tmp_path, ["a dog"])
    with pytest.raises(
        UserError, match=r"FluxPipeline takes no negative prompt .*leave image_policy\.negative out"
    ):
        run(
            plan(tmp_path, tiny("flux"), options={"scheduler": None}, image_policy={"negative": "blur"}),
            tmp_path / "run",
            base=tmp_path,
        )
    assert not (tmp_path / "run").exists()
