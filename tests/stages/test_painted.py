"""`variants.painted`: of several texts a row only some are painted, so that `mix` pays for one image a
source."""

from pathlib import Path
from typing import Any

import pytest

from ctrlsynth.api.run import run
from ctrlsynth.errors import UserError
from ctrlsynth.export.export import export
from ctrlsynth.recipe.schema import Recipe
from ctrlsynth.runs.estimate import estimate
from helpers import recipe

PATHS = [{"both": ["text", "tags", "text*", "image*"]}]


def painted(base: Path, variants: dict[str, Any]) -> Recipe:
    return recipe(base, 6, 6, paths=PATHS, variants=variants, judge=None)


def test_only_the_named_texts_are_painted_and_the_ledger_adds_up(tmp_path: Path) -> None:
    made = run(painted(tmp_path, {"write": 2, "painted": [1]}), tmp_path / "run", base=tmp_path)
    rows = list(made.rows("paint"))
    assert [(r["parent"][-1], r["status"], r["reason"], r["image"] is not None) for r in rows[:2]] == [
        ("0", "dropped", "not_painted", False),
        ("1", "ok", None, True),
    ]
    ledger = {r.folder: r for r in made.ledger()}
    assert (ledger["paint"].ok, ledger["paint"].dropped) == (6, {"not_painted": 6})
    assert all(r.adds_up for r in ledger.values())
    summary = export(made, tmp_path / "out", format="csv", mix="capimg")
    assert dict(summary.written) == {"capimg": 6}


def test_an_update_paints_what_is_named_anew_and_nothing_again(tmp_path: Path) -> None:
    before = list(
        run(painted(tmp_path, {"write": 2, "painted": [1]}), tmp_path / "run", base=tmp_path).rows("paint")
    )
    made = run(painted(tmp_path, {"write": 2}), tmp_path / "run", base=tmp_path, update=True)
    after = list(made.rows("paint"))
    assert all(r["status"] == "ok" for r in after)
    assert [r["image"] for r in after if r["parent"].endswith("write.1")] == [
        r["image"] for r in before if r["status"] == "ok"
    ]
    assert {r.folder: r.reused for r in made.ledger()}["paint"] == 6


def test_the_estimate_knows(tmp_path: Path) -> None:
    found = estimate(painted(tmp_path, {"write": 2, "painted": [1]}), tmp_path, tmp_path / "run", 4)
    assert {s["folder"]: s["rows"] for s in found["stages"]} == {"read": 4, "tag": 4, "write": 8, "paint": 4}


def test_a_text_that_is_not_written_cannot_be_painted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="texts from 0 to 1, of variants"):
        painted(tmp_path, {"write": 2, "painted": [2]})
