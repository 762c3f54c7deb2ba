"""Curves of a score against the samples seen: which results are points of which line, seeds, improvement,
what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctrlsynth.cli.main import app
from ctrlsynth.errors import UserError
from ctrlsynth.evaluate.results import Score, read_result, write_result
from ctrlsynth.evaluate.run import evaluate_all
from ctrlsynth.report.eval_plots import Point, curves, figure
from eval_sets import ColourClip, classification_set


def _results(folder: Path, values: dict[str, tuple[int, float]]) -> Path:
    """A real result, written again under `folder/NAME/` with other samples and scores."""
    classification_set(folder / "data" / "shapes", [0, 1], ["red", "blue"], ["red", "blue"])
    (one,) = evaluate_all(ColourClip(), folder / "data", folder / "one")
    assert one.samples is None
    for name, (samples, value) in values.items():
        write_result(
            folder / name / "shapes.json",
            replace(one, samples=samples, scores={"acc1": Score(value, value - 0.1, value + 0.1)}),
        )
    return folder


STEPS = {
    "mix/step-10": (100, 0.2), "mix/step-20": (200, 0.5), "cap/seed0/step-10": (100, 0.1),
    "cap/seed1/step-10": (100, 0.3),
    "cap/seed0": (200, 0.4), "size/size-3m": (50, 0.1),
}  # fmt: skip


def test_points_lines_and_seeds(tmp_path: Path) -> None:
    folder = _results(tmp_path, STEPS)
    found = curves([folder / "mix", folder / "cap", folder / "size" / "size-3m" / "shapes.json"])
    assert set(found) == {"shapes acc1"}
    lines = found["shapes acc1"]
    assert list(lines) == ["mix", "cap", "size"]
    assert [(p.samples, round(p.value, 6), round(p.low or 0, 6)) for p in lines["mix"]] == [
        (100, 20, 10),
        (200, 50, 40),
    ]
    first, second = lines["cap"]
    assert (first.samples, round(first.value, 6), first.seeds) == (100, 20, 2)
    assert first.high == pytest.approx(20 + 12.706 * 10, abs=0.1), (
        "t with one degree of freedom times the standard error 10"
    )
    assert (second.samples, second.seeds) == (200, 1)


def test_every_line_of_many_looks_different_and_bands_stay_within_percent(tmp_path: Path) -> None:
    folder = _results(tmp_path, {f"arm{n}/step-{s}": (s, 0.05) for n in range(8) for s in (10, 20)})
    (panel,) = figure(curves([folder / f"arm{n}" for n in range(8)])).axes
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in panel.lines}) == 8
    assert (
        min(path.vertices[:, 1].min() for band in panel.collections for path in band.get_paths()) == 0
    )  # 5 - 10 points
    assert list(curves([folder / "arm0"], metrics={"shapes": "acc1"})) == ["shapes acc1"]
    with pytest.raises(UserError, match="has no score acc9; it has acc1"):
        curves([folder / "arm0"], metrics={"shapes": "acc9"})


def test_improvement_over_the_first_point(tmp_path: Path) -> None:
    folder = _results(tmp_path, {**STEPS, "zero/step-1": (10, 0.0)})
    first, second = curves([folder / "mix"], relative=True)["shapes acc1"]["mix"]
    assert first == Point(100, 0.0)
    assert (second.samples, round(second.value, 6), second.low) == (200, 150, None)
    with pytest.raises(UserError, match="zero: shapes acc1 starts at 0"):
        curves([folder / "zero"], relative=True)


def test_what_is_refused(tmp_path: Path) -> None:
    folder = _results(tmp_path, STEPS)
    with pytest.raises(UserError, match="does not say how many samples"):
        curves([folder / "one"])
    with pytest.raises(UserError, match="no result of moon"):
        curves([folder / "mix"], ["moon"])
    with pytest.raises(UserError, match="expected result files"):
        curves([folder / "gone"])
    other = read_result(folder / "mix" / "step-10" / "shapes.json")
    write_result(
        folder / "mix" / "step-30" / "shapes.json",
        replace(other, protocol={**other.protocol, "templates": "simple"}),
    )
    with pytest.raises(UserError, match="another protocol"):
        curves([folder / "mix"])
    with pytest.raises(UserError, match="5 tasks do not fit one plot"):
        figure({f"t{n} acc1": {} for n in range(5)})


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_on_the_command_line(tmp_path: Path, ending: str) -> None:
    folder = _results(tmp_path, STEPS)
    arguments = [
        "compare",
        str(folder / "mix"),
        str(folder / "cap"),
        "--plot",
        str(folder / f"p.{ending}"),
        "--relative",
    ]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "mix (2), cap (2)" in " ".join(shown.output.split())
    drawn = (folder / f"p.{ending}").read_bytes()
    if ending == "svg":
        text = drawn.decode()
        assert all(
            word in text for word in ("samples seen", "improvement over the first point, %", ">mix<", ">cap<")
        )
    else:
        assert drawn[:4] == b"\x89PNG"
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert told["curves"]["shapes acc1"]["mix"][1]["value"] == pytest.approx(150)
    assert (folder / f"p.{ending}").read_bytes() == drawn
