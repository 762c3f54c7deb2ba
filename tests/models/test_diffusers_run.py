"""Whole runs with diffusers as the painter, on a tiny real checkpoint: tables, stored size, safety, what is
asked again, older tables."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conformance import Tiny
from ctrlsynth.api.run import run
from ctrlsynth.cli.show import as_text
from ctrlsynth.data.images import encode
from ctrlsynth.errors import WorkFailed
from ctrlsynth.lang import clip_tokens
from ctrlsynth.lang.phrases import holds
from ctrlsynth.models.base import Painting, Prompt
from ctrlsynth.models.embedded.scenes.painter import Scenes
from ctrlsynth.models.text_to_image.diffusers.painter import Diffusers
from ctrlsynth.recipe.schema import Recipe
from helpers import assert_refused, recipe, tables

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
    paintings = Scenes(64).generate([Prompt(caption) for caption in captions])
    for n, (caption, painting) in enumerate(zip(captions, paintings, strict=True)):
        cast(Image.Image, painting.image).save(base / "images" / f"{n}.png")
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
    for row in rows:
        count, stored = clip_tokens.count(row["prompt"]), Image.open(io.BytesIO(row["image"]["bytes"]))
        wanted = {
            "status": "ok",
            "model": "diffusers:sd15-safe",
            "flagged": False,
            "negative": "blurry",
            "clip_tokens": count,
            "truncated": False,
            "chunks": 1 if count <= 77 else 2,
            "weights_unused": [] if holds(row["prompt"], "dog") else ["dog"],
            "width": 32,
            "height": 32,
        }
        assert {name: row[name] for name in wanted} == wanted
        assert (stored.format, stored.size) == ("JPEG", (32, 32))
    assert {row["chunks"] for row in rows} == {1, 2}
    row, model = rows[0], cast(Any, Diffusers(tiny("sd15-safe"), long_prompt="chunk", **SETTINGS))
    prompt = Prompt(row["prompt"], negative="blurry", weights=dict(row["weights"]), seed=row["seed"])
    again = model.generate([prompt])[0].image
    again.thumbnail((32, 32), Image.Resampling.LANCZOS)
    kept, painted = (
        np.asarray(Image.open(io.BytesIO(data)), dtype=int)
        for data in (row["image"]["bytes"], encode(again, "jpeg", 90))
    )
    assert abs(kept - painted).mean() < 1
    shown = as_text(made, next(r["id"] for r in rows if r["chunks"] == 2))
    assert "read in 2 chunks" in shown
    assert "did not flag it" in shown
    first = tables(made)
    monkeypatch.setattr(Diffusers, "generate", lambda *_: pytest.fail("asked again"))
    assert tables(run(made_by, tmp_path / "run", base=tmp_path)) == first


def test_flagged_images_are_dropped_and_counted(tiny: Tiny, tmp_path: Path) -> None:
    photographs(tmp_path, ["a dog", "a cat"])
    with pytest.raises(WorkFailed, match=r"paint: none of 2 rows came through \(unsafe x 2\)"):
        run(plan(tmp_path, tiny("sd15-flags"), paths=["SP4"]), tmp_path / "run", base=tmp_path)
    rows = pq.read_table(next((tmp_path / "run" / "paint").glob("*.parquet"))).to_pylist()
    wanted = {"status": "dropped", "reason": "unsafe", "flagged": True, "image": None}
    assert [{name: row[name] for name in wanted} for row in rows] == [wanted] * 2


class Prude:
    """Flags every prompt with a dog, after it has painted it."""

    id, digest = "prude", "1"

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        return [
            Painting(Image.new("RGB", (8, 8)), flagged="dog" in p.text, tokens=9, truncated=None)
            for p in prompts
        ]


def test_a_flagged_image_goes_no_further(tmp_path: Path) -> None:
    models = {"tagger": "wordnet", "llm": "realizer", "text_to_image": f"{__name__}:Prude"}
    plan = recipe(tmp_path, rows=16, models=models, paths=["SP4"], judge={"tagger": "reference"})
    made = run(plan, tmp_path / "run", base=tmp_path)
    rows = list(made.rows("paint"))
    dogs = ["dog" in row["prompt"] for row in rows]
    assert 0 < sum(dogs) < len(rows)
    assert [r["status"] == "dropped" and r["reason"] == "unsafe" and r["image"] is None for r in rows] == dogs
    assert {(r["clip_tokens"], r["truncated"], r["chunks"]) for r in rows} == {(9, None, None)}
    assert len(list(made.rows("tag"))) == 16 - sum(dogs)
    assert all(row.adds_up for row in made.ledger())


def test_rows_of_a_table_from_before_the_new_columns_are_taken_over(tmp_path: Path) -> None:
    models = {"tagger": "wordnet", "llm": "realizer", "text_to_image": {"scenes": 64}}
    common: dict[str, Any] = {"rows": 10, "models": models, "paths": ["SP4"], "judge": None}
    with patch.object(Scenes, "generate", autospec=True, side_effect=Scenes.generate) as generate:
        made = run(recipe(tmp_path, **common), tmp_path / "run", base=tmp_path)
        before = tables(made)["paint"]
        for path in made.files("paint"):
            pq.write_table(pq.read_table(path).drop_columns(["chunks", "flagged"]), path)
        assert "chunks" not in next(iter(made.rows("paint")))
        assert "CLIP tokens" in as_text(made, before[0]["id"])
        twice = recipe(tmp_path, **common, variants={"paint": 2})
        rows = tables(run(twice, tmp_path / "run", base=tmp_path, update=True))["paint"]
    assert [r for r in rows if r["id"].endswith("paint.0")] == before
    assert len(rows) == sum(len(painted.args[1]) for painted in generate.mock_calls) == 20


def test_a_recipe_that_asks_for_what_the_model_lacks_is_refused_before_it_runs(
    tiny: Tiny, tmp_path: Path
) -> None:
    photographs(tmp_path, ["a dog"])
    asking = plan(tmp_path, tiny("flux"), options={"scheduler": None}, image_policy={"negative": "blur"})
    assert_refused(
        lambda: run(asking, tmp_path / "run", base=tmp_path),
        r"FluxPipeline takes no negative prompt .*leave image_policy\.negative out",
    )
    assert not (tmp_path / "run").exists()
