"""The run as a whole: it adds up, continues where it stopped, reuses what has not changed, and asks models for
nothing else."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ctrlsynth.api.run import Run, run
from ctrlsynth.errors import UserError, WorkFailed
from ctrlsynth.runs.build import open_workshop
from ctrlsynth.storage.files import write_json
from ctrlsynth.storage.parts import RunFolder
from helpers import Mute, calls, counting, recipe, run_part, tables


def test_the_ledger_adds_up_and_ids_tell_their_way(tmp_path: Path) -> None:
    made = run(recipe(tmp_path, variants={"write": 2}), tmp_path / "run", base=tmp_path)
    counts = {"read": 40, "tag": 40, "write": 80, "judge-text": 80}
    assert {r.folder: r.rows for r in made.ledger()} == counts
    assert all(r.adds_up for r in made.ledger())
    rows = list(made.rows("write"))
    assert [r["id"].rpartition("/")[2] for r in rows[:4]] == ["write.0", "write.1", "write.0", "write.1"]
    assert all(
        r["id"].startswith(r["parent"] + "/") and r["parent"].startswith(r["source_key"] + "/") for r in rows
    )
    assert len({r["id"] for r in rows}) == 80


def test_a_finished_run_asks_no_model_again_and_a_missing_part_alone_is_made(
    tmp_path: Path, log: Path
) -> None:
    plan = recipe(tmp_path, models=counting(log))
    made = run(plan, tmp_path / "run", base=tmp_path)
    first = tables(made)
    assert calls(log) == 40
    assert tables(run(plan, tmp_path / "run", base=tmp_path)) == first
    assert calls(log) == 40
    made.files("write")[1].unlink()
    assert tables(run(plan, tmp_path / "run", base=tmp_path)) == first
    assert calls(log) == 50


def test_another_plan_is_refused_with_its_difference(tmp_path: Path) -> None:
    run(recipe(tmp_path), tmp_path / "run", base=tmp_path)
    changed = recipe(tmp_path, text_policy={"edits": [{"replace": {"attributes": {"red": "blue"}}}]})
    with pytest.raises(UserError, match=r"(?s)text_policy\.edits: \[\] -> .*'red': 'blue'.*--update"):
        run(changed, tmp_path / "run", base=tmp_path)


def test_update_asks_for_exactly_the_rows_that_an_edit_touches(tmp_path: Path, log: Path) -> None:
    run(recipe(tmp_path, models=counting(log)), tmp_path / "run", base=tmp_path)
    changed = recipe(
        tmp_path, models=counting(log), text_policy={"edits": [{"replace": {"objects": {"boat": "ship"}}}]}
    )
    made = run(changed, tmp_path / "run", base=tmp_path, update=True)
    touched = [r for r in made.rows("write") if r["edits"]]
    assert 0 < len(touched) < 20
    assert calls(log) == 40 + len(touched)
    assert all("ship" in r["text"] and "boat" not in r["text"] for r in touched)
    assert {r.folder: r.reused for r in made.ledger()}["write"] == 40 - len(touched)
    assert tables(run(changed, tmp_path / "fresh", base=tmp_path)) == tables(made)


def test_renaming_or_adding_a_path_changes_nothing_that_exists(tmp_path: Path, log: Path) -> None:
    first = tables(run(recipe(tmp_path, models=counting(log)), tmp_path / "run", base=tmp_path))
    more = recipe(
        tmp_path,
        models=counting(log),
        paths=[{"other": ["text", "tags", "text*"]}, {"faithful": ["text", "tags+text", "text*"]}],
    )
    made = run(more, tmp_path / "run", base=tmp_path, update=True)
    after = tables(made)
    assert {k: after[k] for k in first} == first
    assert calls(log) == 80


def test_raising_candidates_asks_only_for_the_new_ones(tmp_path: Path, log: Path) -> None:
    run(recipe(tmp_path, models=counting(log), judge={"candidates": 2}), tmp_path / "run", base=tmp_path)
    assert calls(log) == 80
    made = run(
        recipe(tmp_path, models=counting(log), judge={"candidates": 3}),
        tmp_path / "run",
        base=tmp_path,
        update=True,
    )
    assert calls(log) == 120
    fates = [
        (r["candidate"], r["chosen"], r["reason"]) for r in made.rows("write")
    ]  # equal scores: the lowest number
    assert fates == [(0, True, None), (1, False, "not_chosen"), (2, False, "not_chosen")] * 40
    assert len(list(made.rows("judge-text"))) == 40
    assert all(r.adds_up for r in made.ledger())


def test_batch_size_changes_nothing(tmp_path: Path, log: Path) -> None:
    one, other = (
        run(recipe(tmp_path, models=counting(log, batch=batch)), tmp_path / f"run-{batch}", base=tmp_path)
        for batch in (1, 100)
    )
    assert tables(one) == tables(other)


def test_the_number_of_parts_changes_nothing_that_a_model_is_asked(tmp_path: Path) -> None:
    made = [run(recipe(tmp_path, part_rows=n), tmp_path / str(n), base=tmp_path) for n in (7, 40)]
    assert [len(m.files("write")) for m in made] == [6, 1]
    asked = [[(r["instruction"], r["seed"]) for r in m.rows("write")] for m in made]
    assert asked[0] == asked[1]


def test_parts_made_one_by_one_give_the_same_tables(tmp_path: Path) -> None:
    whole = run(recipe(tmp_path), tmp_path / "whole", base=tmp_path)
    workshop = open_workshop(recipe(tmp_path), tmp_path)
    plan = workshop.plan
    write_json(tmp_path / "parts" / "plan.json", plan.describe())
    for step in plan.steps:
        for part in reversed(plan.parts):
            assert run_part(workshop, RunFolder(tmp_path / "parts"), step.folder, part)["rows"] == 10
    assert tables(Run.open(tmp_path / "parts")) == tables(whole)


def test_a_limit_grows_by_update(tmp_path: Path, log: Path) -> None:
    plan = recipe(tmp_path, models=counting(log))
    made = run(plan, tmp_path / "run", base=tmp_path, limit=5)
    assert (made.ledger()[0].rows, calls(log)) == (5, 5)
    with pytest.raises(UserError, match="limit: 5 -> 12"):
        run(plan, tmp_path / "run", base=tmp_path, limit=12)
    run(plan, tmp_path / "run", base=tmp_path, limit=12, update=True)
    assert calls(log) == 12


def test_every_table_and_the_plan_carry_the_schema(tmp_path: Path) -> None:
    made = run(recipe(tmp_path), tmp_path / "run", base=tmp_path)
    for folder in ("read", "tag", "write", "judge-text"):
        meta = pq.ParquetFile(made.files(folder)[0]).schema_arrow.metadata
        assert json.loads(meta[b"ctrlsynth"])["schema"] == 1
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["schema"] == 1


def test_verify_finds_content_that_changed_behind_an_unchanged_date(tmp_path: Path) -> None:
    source = tmp_path / "captions.jsonl"
    plan = recipe(tmp_path)
    run(plan, tmp_path / "run", base=tmp_path)
    stat = source.stat()
    source.write_text(source.read_text().replace("yellow", "orange"))
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    unseen = run(plan, tmp_path / "run", base=tmp_path)
    assert not any("orange" in (r["caption"] or "") for r in unseen.rows("read"))
    seen = run(plan, tmp_path / "run", base=tmp_path, verify=True)
    assert any("orange" in (r["text"] or "") for r in seen.rows("write"))


def test_verify_finds_a_model_file_that_changed_in_its_middle(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    plan = recipe(tmp_path, models={"tagger": "wordnet", "llm": {"test_run:FileLLM": str(weights)}})
    run(plan, tmp_path / "run", base=tmp_path, verify=True)
    run(plan, tmp_path / "run", base=tmp_path, verify=True)
    weights.write_bytes(b"two")
    run(plan, tmp_path / "run", base=tmp_path)
    with pytest.raises(UserError, match="file: its file is not the one that this run was made with"):
        run(plan, tmp_path / "run", base=tmp_path, verify=True)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("too_few", "no_output"),
        ("too_many", "too_many_outputs"),
        ("nothing", "no_output"),
        ("empty", "empty_reply"),
        ("raise", "model_error:RuntimeError"),
    ],
)
def test_a_faulty_model_costs_its_rows_and_the_rest_goes_on(tmp_path: Path, how: str, reason: str) -> None:
    plan = recipe(tmp_path, models={"tagger": "wordnet", "llm": {"helpers:FaultyLLM": how, "when": "boat"}})
    made = run(plan, tmp_path / "run", base=tmp_path)
    row = {r.folder: r for r in made.ledger()}["write"]
    assert row.failed.keys() == {reason}
    assert row.ok + sum(row.failed.values()) == 40
    assert row.ok > 20
    assert row.adds_up
    assert how != "raise" or "the engine is on fire" in str(row.first_error)


def test_an_all_failed_stage_stops_with_the_first_cause_and_retry_goes_on(tmp_path: Path) -> None:
    plan = recipe(tmp_path, models={"tagger": "wordnet", "llm": {"helpers:FaultyLLM": "raise"}})
    with pytest.raises(WorkFailed, match=r"write: none of 40 rows came through.*the engine is on fire"):
        run(plan, tmp_path / "run", base=tmp_path)
    assert not (tmp_path / "run" / "judge-text").exists()


class FileLLM(Mute):
    """A writer whose digest does not see its file's middle; `--verify` asks for the whole."""

    id = "file"

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def content_digest(self) -> str:
        return self._path.read_text()
