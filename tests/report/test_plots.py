"""Curves of a score against the samples seen: which results are points of which line, seeds, improvement,
what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ctrlsynth.errors import UserError
from ctrlsynth.evaluate.results import Score, read_result, write_result
from ctrlsynth.evaluate.run import evaluate_all
from ctrlsynth.report.eval_plots import Point, curves, figure
from eval_sets import ColourClip, classification_set
from helpers import assert_refused, ctrlsynth


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
    (lines,) = found.values()
    assert (list(found), list(lines)) == (["shapes acc1"], ["mix", "cap", "size"])
    mix = [(p.samples, round(p.value, 6), round(p.low or 0, 6)) for p in lines["mix"]]
    assert mix == [(100, 20, 10), (200, 50, 40)]
    cap = lines["cap"]
    assert [(p.samples, round(p.value, 6), p.seeds) for p in cap] == [(100, 20, 2), (200, 40, 1)]
    by_t = 20 + 12.706 * 10  # t with one degree of freedom times the standard error 10
    assert cap[0].high == pytest.approx(by_t, abs=0.1)


def test_every_line_of_many_looks_different_and_bands_stay_within_percent(tmp_path: Path) -> None:
    folder = _results(tmp_path, {f"arm{n}/step-{s}": (s, 0.05) for n in range(8) for s in (10, 20)})
    (panel,) = figure(curves([folder / f"arm{n}" for n in range(8)])).axes
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in panel.lines}) == 8
    bands = [path for band in panel.collections for path in band.get_paths()]
    assert min(path.vertices[:, 1].min() for path in bands) == 0  # 5 - 10 points
    assert list(curves([folder / "arm0"], metrics={"shapes": "acc1"})) == ["shapes acc1"]
    assert_refused(
        lambda: curves([folder / "arm0"], metrics={"shapes": "acc9"}), "has no score acc9; it has acc1"
    )


def test_improvement_over_the_first_point(tmp_path: Path) -> None:
    folder = _results(tmp_path, {**STEPS, "zero/step-1": (10, 0.0)})
    first, second = curves([folder / "mix"], relative=True)["shapes acc1"]["mix"]
    assert first == Point(100, 0.0)
    assert (second.samples, round(second.value, 6), second.low) == (200, 150, None)
    assert_refused(lambda: curves([folder / "zero"], relative=True), "zero: shapes acc1 starts at 0")


def test_what_is_refused(tmp_path: Path) -> None:
    folder = _results(tmp_path, STEPS)
    other = read_result(folder / "mix" / "step-10" / "shapes.json")
    simple = replace(other, protocol={**other.protocol, "templates": "simple"})
    write_result(folder / "cap" / "step-30" / "shapes.json", simple)
    for name, tasks, message in (
        ("one", None, "does not say how many samples"),
        ("mix", ["moon"], "no result of moon"),
        ("gone", None, "expected result files"),
        ("cap", None, "another protocol"),
    ):
        with pytest.raises(UserError, match=message):
            curves([folder / name], tasks)
    assert_refused(lambda: figure({f"t{n} acc1": {} for n in range(5)}), "5 tasks do not fit one plot")


@pytest.mark.parametrize(
    ("ending", "inside"),
    [("svg", ("samples seen", "improvement over the first point, %", ">mix<", ">cap<")), ("png", ("PNG",))],
)
def test_on_the_command_line(tmp_path: Path, ending: str, inside: tuple[str, ...]) -> None:
    folder = _results(tmp_path, STEPS)
    plot = folder / f"p.{ending}"
    arguments = ("compare", folder / "mix", folder / "cap", "--plot", plot, "--relative")
    code, shown, _ = ctrlsynth(*arguments)
    assert (code, "mix (2), cap (2)" in shown) == (0, True)
    drawn = plot.read_bytes()
    assert all(word.encode() in drawn for word in inside)
    told = json.loads(ctrlsynth(*arguments, "--json")[1])
    assert told["curves"]["shapes acc1"]["mix"][1]["value"] == pytest.approx(150)
    assert plot.read_bytes() == drawn
