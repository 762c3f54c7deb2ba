"""A tiny run of every schema that was ever written is opened, explained, swept and shown: older ones are read, newer
ones refused."""

import json
import shutil
from pathlib import Path

import pytest

from ctrlsynth.api.run import Run
from ctrlsynth.cli.show import as_text
from ctrlsynth.errors import UserError
from ctrlsynth.report.explain import first_kept
from ctrlsynth.report.gallery import write_report
from ctrlsynth.report.sweep import sweep
from ctrlsynth.stages.boxes import BOXES
from ctrlsynth.storage.files import SCHEMA
from helpers import FILES

RUNS = FILES / "runs"


def test_there_is_a_run_of_every_schema() -> None:
    assert sorted(p.name for p in RUNS.iterdir()) == [f"schema-{n}" for n in range(1, SCHEMA + 1)]


@pytest.mark.parametrize("name", sorted(p.name for p in RUNS.iterdir()))
def test_an_older_run_is_read(name: str, tmp_path: Path) -> None:
    made = Run.open(RUNS / name)
    assert all(row.adds_up for row in made.ledger())
    for step in made.steps:
        rows = list(made.rows(step.folder))
        assert rows, step.folder
        assert set(rows[0]) <= set(BOXES[step.kind].schema.names)
    assert "verdict" in as_text(made, first_kept(made))
    assert sweep(made).rows
    assert write_report(made, tmp_path / "report").exists()


def test_a_part_of_a_newer_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(RUNS / "schema-1", tmp_path / "run")
    monkeypatch.setattr("ctrlsynth.storage.files.SCHEMA", 0)
    with pytest.raises(UserError, match=r"written by a newer ctrlsynth .*update ctrlsynth"):
        Run.open(tmp_path / "run")
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    (tmp_path / "run" / "plan.json").write_text(json.dumps({**plan, "schema": 0}))
    with pytest.raises(
        UserError, match=r"\.parquet: written by a newer ctrlsynth \(schema 1, this one knows 0\)"
    ):
        list(Run.open(tmp_path / "run").rows("write"))
