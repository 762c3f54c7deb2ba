"""The sweep beside a slow reading of its rule, the judge's own verdict function, and the pairs that an export
would take."""

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctrlsynth.api.run import Run, run
from ctrlsynth.report.figures import sweep_figure, write_figure
from ctrlsynth.report.sweep import GRID, _Tally, as_table, sweep
from ctrlsynth.runs.pairs import Shape, families
from ctrlsynth.stages.judge import Score, verdict
from helpers import assert_refused, recipe
from report_fixture import make_run


def passes(score: dict[str, Any] | None, p: float, forbid: bool) -> bool:
    """The rule, a row at a time."""
    if score is None or score["recall"] is None or (forbid and score["violations"]):
        return False
    return bool(score["recall"] >= p - 1e-6)


def slow_members(made: Run, p: float, forbid: bool) -> dict[str, tuple[int, float]]:
    """folder -> (kept, sum of recalls)."""
    columns = {s.folder: "edited" if s.kind == "judge-text" else "text" for s in made.steps}
    kept = {
        f: [r[column]["recall"] for r in made.rows(f) if passes(r[column], p, forbid)]
        for f, column in columns.items()
        if f.startswith("judge")
    }
    return {f: (len(recalls), sum(recalls)) for f, recalls in kept.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("sweep") / "demo", rows=60)


@pytest.mark.parametrize("forbid", [False, True])
def test_members_as_counted_one_by_one(tmp_path: Path, forbid: bool) -> None:
    made = make_run(tmp_path / "r", rows=40, forbid_violations=forbid)
    found = sweep(made)
    assert {r.threshold for r in found.rows} == {n / 20 for n in range(21)}
    for row in found.rows:
        if row.kind != "pair":
            kept, total = slow_members(made, row.threshold, forbid)[row.name]
            assert (row.kept, row.mean_recall) == (kept, pytest.approx(total / kept) if kept else None)
            assert row.complete
    assert any(0 < r.kept < r.judged for r in found.rows)


def test_at_the_recipes_own_threshold_the_sweep_is_the_stored_verdict(tmp_path: Path) -> None:
    for p_f in (0.2, 0.5, 0.55):
        made = make_run(tmp_path / f"r{p_f}", rows=40, threshold=p_f)
        judges = [s.folder for s in made.steps if s.kind.startswith("judge")]
        kept = {(r.name, r.threshold): r.kept for r in sweep(made).rows}
        for folder in judges:
            assert kept[folder, p_f] == sum(r["verdict"] == "kept" for r in made.rows(folder))


def test_pairs_are_those_that_leave_the_run(finished: Run) -> None:
    """Beside the stored verdicts."""
    shape = Shape(finished)
    pairs = [p for source, family in families(finished, shape) for p in shape.pairs(source, family)]
    kept = Counter(p.kind for p in pairs if p.reason is None)
    ours = {
        r.name: r.kept for r in sweep(finished).rows if r.kind == "pair" and r.threshold == pytest.approx(0.2)
    }
    assert ours == {"SP1": kept["cap"], "SP3": kept["capimg"], "SP4": kept["img"]}
    assert 0 < ours["SP3"] < ours["SP1"]


def test_pairs_one_by_one(finished: Run) -> None:
    texts = {r["parent"]: r["edited"] for r in finished.rows("judge-text")}
    images = [(r["parent"], r["text"]) for r in finished.rows("judge-image")]
    for row in sweep(finished).series("pair", "SP3"):
        members = [(texts[i.rpartition("/paint")[0]], image) for i, image in images]
        kept = [
            (a["recall"] + b["recall"]) / 2
            for a, b in members
            if passes(a, row.threshold, False) and passes(b, row.threshold, False)
        ]
        assert (row.kept, row.judged) == (len(kept), len(images))
        assert row.mean_recall == (pytest.approx(sum(kept) / len(kept)) if kept else None)


def test_every_share_is_decided_as_the_judge_decides_it() -> None:
    """All recalls k/n with n up to 40, stored with 32 bits, at every threshold: no share falls on the wrong
    side of one."""
    recalls = [float(np.float32(Fraction(k, n))) for n in range(1, 41) for k in range(n + 1)]
    tally = _Tally()
    tally.add(np.array([*recalls, np.nan]), np.array([*recalls, np.nan]))
    for row in tally.rows("x", "text", 0.0):
        assert row.kept == sum(verdict(Score(r), row.threshold) == "kept" for r in recalls)
        assert row.judged == len(recalls) + 1
    assert next(iter(tally.rows("x", "text", 0.0))).kept == len(recalls)


def test_a_gate_is_reported(tmp_path: Path) -> None:
    """Below the gate's p_f the images of rejected texts do not exist: rows are marked, and a note says so."""
    found = sweep(make_run(tmp_path / "gated", rows=40, gate=True, threshold=0.5))
    for row in found.rows:
        assert row.complete == (row.name not in ("judge-image", "SP3") or row.threshold >= 0.5)
    (note,) = found.notes
    assert "at p_f = 0.5 were never painted" in note
    head, body = as_table(found)
    column = head.index("judge-image")
    assert [line[column].endswith("*") for line in body] == [p < 0.5 for p in GRID]
    free = sweep(make_run(tmp_path / "free", rows=40, threshold=0.5))
    assert (all(r.complete for r in free.rows), free.notes) == (True, ())


def test_rising_thresholds_keep_less_and_better(finished: Run) -> None:
    found = sweep(finished)
    for kind, name in found.names():
        series = found.series(kind, name)
        assert [r.kept for r in series] == sorted((r.kept for r in series), reverse=True)
        means = [r.mean_recall for r in series if r.mean_recall is not None]
        if kind != "pair":
            assert means == sorted(means)


def test_plot(finished: Run, tmp_path: Path) -> None:
    found = sweep(finished)
    for name in ("a.svg", "b.svg", "c.png"):
        write_figure(sweep_figure(found), tmp_path / "plots" / name)
    svg = (tmp_path / "plots" / "a.svg").read_bytes()
    assert svg == (tmp_path / "plots" / "b.svg").read_bytes()
    assert b"pairs of SP3" in svg
    assert b"dc:date" not in svg
    assert (tmp_path / "plots" / "c.png").read_bytes().startswith(b"\x89PNG")
    assert_refused(lambda: write_figure(sweep_figure(found), tmp_path / "d.pdf"), r"\.svg or \.png")


def test_a_run_by_the_real_pipeline(tmp_path: Path) -> None:
    made = run(recipe(tmp_path), tmp_path / "out", base=tmp_path)
    at = {r.threshold: r.kept for r in sweep(made).series("text", "judge-text")}
    assert at[0.2] == sum(r["verdict"] == "kept" for r in made.rows("judge-text")) > 0
    unjudged = run(recipe(tmp_path, judge=None), tmp_path / "bare", base=tmp_path)
    assert_refused(lambda: sweep(unjudged), "nothing was judged")
