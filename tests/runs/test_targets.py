"""`judge.target`, gates, references and swapped images: what the closed loop counts, and that it looks at
all."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from ctrlsynth.api.run import Run, run
from ctrlsynth.export.export import export
from ctrlsynth.models.base import Reply, Request
from ctrlsynth.report.sweep import sweep
from ctrlsynth.runs.pairs import count_pairs
from helpers import CountingLLM, calls, recipe, tables


class PatchyLLM(CountingLLM):
    """Says what it was asked for where the seed allows (two of five), else talks of the weather. Notes
    requests in `log`; with `stop` it is interrupted once, at that many requests."""

    id = "patchy"

    def __init__(self, log: str, batch: int = 7, stop: int = 0) -> None:
        super().__init__(log, batch)
        self._stop = stop

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        flag = Path(self._log + ".stopped")
        if self._stop and calls(Path(self._log)) >= self._stop and not flag.exists():
            flag.touch()
            raise KeyboardInterrupt
        replies = super().generate(requests)
        return [a if r.seed % 5 < 2 else Reply("It rains.") for r, a in zip(requests, replies, strict=True)]


def wanting(base: Path, target: int | None, log: str = "log", most: int = 8, **options: Any) -> Any:
    judge = {"threshold": 0.9, "max_candidates": most, **({"target": target} if target else {})}
    return recipe(
        base,
        models={"tagger": "wordnet", "llm": {"test_targets:PatchyLLM": str(base / log), **options}},
        judge=judge,
    )


def accepted(made: Run) -> list[str]:
    """Ids of the accepted texts, in the tables' order: the slow oracle of what an export takes."""
    good = {r["parent"] for r in made.rows("judge-text") if r["verdict"] == "kept"}
    return [r["id"] for r in made.rows("write") if r["id"] in good]


def exported(made: Run, out: Path) -> list[str]:
    export(made, out, format="csv")
    with open(out / "data.csv", encoding="utf-8", newline="") as handle:
        return [row["id"] for row in csv.DictReader(handle)]


def test_a_target_adds_whole_waves_and_takes_the_first_in_order(tmp_path: Path) -> None:
    made = run(wanting(tmp_path, 30), tmp_path / "run", base=tmp_path)
    waves = int(made.plan["candidates"])
    assert waves > 1
    assert calls(tmp_path / "log") == 40 * waves == len(list(made.rows("write")))
    assert count_pairs(made) == len(accepted(made)) >= 30
    assert exported(made, tmp_path / "out") == accepted(made)[:30]
    assert all(r.adds_up for r in made.ledger())
    one_less = recipe(
        tmp_path,
        models={"tagger": "wordnet", "llm": {"test_targets:PatchyLLM": str(tmp_path / "less")}},
        judge={"threshold": 0.9, "candidates": waves - 1},
    )
    assert count_pairs(run(one_less, tmp_path / "less-run", base=tmp_path)) < 30, "no wave more than needed"


@pytest.mark.parametrize(("batch", "stop"), [(1, 0), (100, 0), (3, 25), (7, 90)])
def test_interrupted_or_cut_otherwise_it_is_the_same_set(tmp_path: Path, batch: int, stop: int) -> None:
    whole = run(wanting(tmp_path, 30, "whole"), tmp_path / "whole-run", base=tmp_path)
    plan = wanting(tmp_path, 30, batch=batch, stop=stop)
    if stop:
        with pytest.raises(KeyboardInterrupt):
            run(plan, tmp_path / "run", base=tmp_path)
    made = run(plan, tmp_path / "run", base=tmp_path)
    assert tables(made) == tables(whole)
    assert exported(made, tmp_path / "a") == exported(whole, tmp_path / "b")
    asked = calls(tmp_path / "log")
    assert asked == calls(tmp_path / "whole"), "what was finished when it stopped is not asked for twice"
    assert run(plan, tmp_path / "run", base=tmp_path).plan["candidates"] == whole.plan["candidates"]
    assert calls(tmp_path / "log") == asked


def test_a_higher_target_asks_only_for_new_candidates(tmp_path: Path) -> None:
    few = run(wanting(tmp_path, 10), tmp_path / "run", base=tmp_path)
    first = calls(tmp_path / "log")
    assert first == 40 * int(few.plan["candidates"])
    more = run(wanting(tmp_path, 38), tmp_path / "run", base=tmp_path, update=True)
    assert int(more.plan["candidates"]) > int(few.plan["candidates"])
    assert calls(tmp_path / "log") == 40 * int(more.plan["candidates"])
    fresh = run(wanting(tmp_path, 38, "fresh"), tmp_path / "fresh-run", base=tmp_path)
    assert tables(fresh) == tables(more)


def test_a_target_out_of_reach_ends_at_max_candidates(tmp_path: Path) -> None:
    made = run(wanting(tmp_path, 41, most=3), tmp_path / "run", base=tmp_path)
    assert made.plan["candidates"] == 3
    assert len(exported(made, tmp_path / "out")) == len(accepted(made)) < 41
    fewer = run(wanting(tmp_path, 41, most=2), tmp_path / "run", base=tmp_path, update=True)
    assert (fewer.plan["candidates"], len(list(fewer.rows("write"))), calls(tmp_path / "log")) == (2, 80, 120)


def painted(base: Path, **judge: Any) -> Any:
    (base / "captions.jsonl").write_text(
        '{"key": "a", "caption": "a red dog beside a blue car"}\n{"key": "b", "caption": "a yellow banana '
        'above a green boat"}\n'
    )
    settings = {"tagger": "reference", "threshold": 0.5, **judge}
    return recipe(
        base, paths=["SP4"], models={"tagger": "wordnet", "text_to_image": "scenes"}, judge=settings
    )


def test_swapped_images_lose_their_recall(tmp_path: Path) -> None:
    """The judge looks at pixels: the same two images under each other's text are rejected."""
    plan = painted(tmp_path)
    made = run(plan, tmp_path / "run", base=tmp_path)
    before = [r["text"]["recall"] for r in made.rows("judge-image")]
    assert min(before) > 0.5
    part = made.files("paint")[0]
    table = pq.read_table(part)
    swapped = table.set_column(
        table.schema.get_field_index("image"), table.schema.field("image"), table["image"].take([1, 0])
    )
    pq.write_table(swapped, part)
    for folder in ("tag", "judge-image"):
        made.files(folder)[0].unlink()
    again = run(plan, tmp_path / "run", base=tmp_path)
    after = [r["text"]["recall"] for r in again.rows("judge-image")]
    assert all(a < b - 0.4 for a, b in zip(after, before, strict=True)), (before, after)
    assert {r["verdict"] for r in again.rows("judge-image")} == {"low_recall"}


def test_a_gate_leaves_rejected_texts_unpainted_and_the_ledger_adds_up(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    models = {"tagger": "wordnet", "llm": {"test_targets:PatchyLLM": log}, "text_to_image": "scenes"}
    paths = [{"p": ["text", "tags", "text*", "image*", "tags*", "text*"]}]
    made: dict[bool, Run] = {}
    for gate in (False, True):
        judge = {"threshold": 0.6, "tagger": "helpers:PixelCounter", "gate": gate}
        plan = recipe(tmp_path, rows=12, paths=paths, models=models, judge=judge, image_policy={"size": 64})
        made[gate] = run(plan, tmp_path / f"run-{gate}", base=tmp_path)
        assert all(r.adds_up for r in made[gate].ledger()), made[gate].ledger()
    kept = {r["parent"] for r in made[True].rows("judge-text") if r["verdict"] == "kept"}
    assert 0 < len(kept) < 12
    assert {r["parent"] for r in made[True].rows("paint")} == kept
    assert len(list(made[False].rows("paint"))) == 12
    seen = {r["parent"] for r in made[True].rows("judge-image") if r["verdict"] == "kept"}
    assert {r["parent"] for r in made[True].rows("write.2")} == seen
    assert len(list(made[True].rows("tag.2"))) == len(kept), (
        "the judge's tagger sees every image that was painted"
    )
    assert any("gate" in note or "painted" in note for note in sweep(made[True]).notes)


@pytest.mark.parametrize("against", ["text", "original", "original_unedited"])
def test_images_are_held_against_what_the_recipe_names(tmp_path: Path, against: str) -> None:
    """SP4 from captions tags no original image on its way; where the original decides, the planner adds that
    stage."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (60 + number, 40), (200, 30, 30)).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "images" / f"{number}.txt").write_text("a red dog")
    plan = recipe(
        tmp_path,
        source={"folder": "images"},
        paths=["SP4"],
        models={"tagger": "helpers:PixelCounter", "text_to_image": "scenes"},
        judge={"tagger": "helpers:PixelCounter", "image_against": against},
        image_policy={"size": 64},
        text_policy={"edits": [{"replace": {"objects": {"60x40": "64x64"}}}]},
    )
    made = run(plan, tmp_path / "run", base=tmp_path)
    assert all(r.adds_up for r in made.ledger())
    assert ("tag", "read") in [(s.kind, s.parent) for s in made.steps] or against == "text"
    rows = list(made.rows("judge-image"))
    assert [r[against] is not None for r in rows] == [True] * 3
    kept = [r["verdict"] for r in rows]
    assert kept == (["kept", "low_recall", "low_recall"] if against == "original" else ["low_recall"] * 3)
