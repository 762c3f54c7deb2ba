"""Evaluators on small sets in the public layouts: scores worked out by hand, resume, wrong folders in one
line, comparison."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctrlsynth.cli.clip import _tasks
from ctrlsynth.evaluate import layout
from ctrlsynth.evaluate.compare import Comparison, compare, load_runs, show
from ctrlsynth.evaluate.encode import class_weights
from ctrlsynth.evaluate.kinds import evaluator
from ctrlsynth.evaluate.kinds.base import Settings
from ctrlsynth.evaluate.kinds.zero_shot import template_set
from ctrlsynth.evaluate.results import Result, Score, read_result, write_result
from ctrlsynth.evaluate.run import averages, evaluate_all
from ctrlsynth.evaluate.tasks import choose, own_task, tasks
from eval_sets import (
    COLOURS,
    TEMPLATES,
    ColourClip,
    classification_set,
    pairs_set,
    square,
    write_files,
    write_shards,
)
from helpers import assert_refused

NAMES = ["red", "green", "blue"]


def _values(result: Result) -> dict[str, float]:
    return {name: score.value for name, score in result.scores.items()}


def test_zero_shot_by_hand(tmp_path: Path) -> None:
    """Five of six squares show their class; the two of class 0 are half right: accuracy 5/6, mean per-class
    recall (1/2 + 1 + 1) / 3."""
    classification_set(
        tmp_path / "shapes", [0, 0, 1, 1, 2, 2], ["red", "blue", "green", "green", "blue", "blue"], NAMES
    )
    (result,) = evaluate_all(ColourClip(), tmp_path, tmp_path / "out")
    assert _values(result) == pytest.approx({"acc1": 5 / 6, "mean_per_class_recall": 5 / 6})
    assert (result.rows, result.classes, result.chance) == (6, 3, 1 / 3)
    assert result.protocol["templates"] == "folder"
    assert result == read_result(tmp_path / "out" / "shapes.json")


def test_class_weights_are_normalised_means_of_normalised_templates() -> None:
    weights = class_weights(ColourClip(), ["red", "blue"], ["a {c} square", "a {c} and green square"])
    red = np.array([1, 0, 0]) + np.array([1, 1, 0]) / np.sqrt(2)
    np.testing.assert_allclose(weights[0], red / np.linalg.norm(red), atol=1e-6)


def test_a_task_is_evaluated_again_only_when_its_question_changes(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    folder = classification_set(data / "shapes", [0, 1, 2], NAMES, NAMES)
    model, simple = ColourClip(), Settings(templates="simple")
    for settings, change, images in (
        (None, None, 3),
        (None, None, 3),
        (simple, None, 6),
        (simple, ("classnames.txt", "green\nred\nblue\n"), 9),
        (None, None, 12),
        (None, None, 12),
        (None, (TEMPLATES, "a drawing of a {c}\n"), 15),  # under the same name, `folder`
    ):
        if change:
            (folder / change[0]).write_text(change[1])
        (result,) = evaluate_all(model, data, out, settings=settings)
        assert model.images == images
        assert result.scores["acc1"].value == pytest.approx(1.0 if images < 9 else 1 / 3)
    assert_refused(lambda: evaluate_all(ColourClip("others"), data, out), "result of another model")


def test_an_interrupted_evaluation_keeps_what_is_finished(tmp_path: Path) -> None:
    for name in "ab":
        classification_set(tmp_path / "data" / name, [0, 1, 2], NAMES, NAMES)
    model = ColourClip()

    def stop(task: str, number: int, of: int, images: int) -> None:
        if task == "b":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_all(model, tmp_path / "data", tmp_path / "out", watch=stop)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.json"]
    evaluate_all(model, tmp_path / "data", tmp_path / "out")
    assert model.images == 9  # a once, b twice


def test_retrieval_with_several_captions_by_hand(tmp_path: Path) -> None:
    """Three images, the blue one's captions say yellow: its own texts come last, and its texts find another
    image."""
    captions = {
        "red": ["a red square", "red"],
        "green": ["green thing"],
        "blue": ["yellow", "a yellow square", "yellow paint"],
    }
    rows = [{"png": square(c), "txt": "\n".join(t).encode()} for c, t in captions.items()]
    write_shards(tmp_path / "data" / "walls" / "test", rows)
    (result,) = evaluate_all(ColourClip(), tmp_path / "data", tmp_path / "out")
    wanted = {
        "i2t_recall@1": 2 / 3,
        "t2i_recall@1": 1 / 2,
        "i2t_recall@5": 1,
        "recall@1": (2 / 3 + 1 / 2) / 2,
    }
    assert {name: _values(result)[name] for name in wanted} == pytest.approx(wanted)
    whole: Any = result.scores["recall@1"]
    assert whole.low < whole.value < whole.high
    assert (result.protocol["images"], result.protocol["captions"]) == (3, 6)


COCO = {
    "images": [{"id": n, "file_name": f"{c}.png"} for n, c in enumerate(NAMES)],
    "annotations": [{"image_id": n, "caption": f"a {c}\n square"} for n, c in enumerate(NAMES)],
}
KARPATHY = {
    "images": [
        *({"filename": f"{c}.png", "split": "test", "sentences": [{"raw": f"a {c} square "}]} for c in NAMES),
        {"filename": "gone.png", "split": "train", "sentences": []},
    ]
}


@pytest.mark.parametrize("data", [COCO, KARPATHY], ids=["coco", "karpathy"])
def test_captions_json_in_both_forms(tmp_path: Path, data: dict[str, Any]) -> None:
    images = {f"images/{colour}.png": square(colour) for colour in NAMES}
    task = own_task(write_files(tmp_path, {"captions.json": data, **images}))
    assert task is not None
    assert [(Path(s.where).stem, s.captions) for s in evaluator(task, tmp_path).test_samples()] == [
        (c, (f"a {c} square",)) for c in NAMES
    ]


def test_pairs_are_strict_and_the_average_is_unweighted(tmp_path: Path) -> None:
    sets = {
        "swap": [
            ("red", "a red square", "a blue square"),
            ("red", "a red square", "a red box"),
            ("blue", "red", "blue"),
        ],
        "add": [("green", "green", "green and red")],
    }
    pairs_set(tmp_path / "data" / "crepe", sets)
    (result,) = evaluate_all(ColourClip(), tmp_path / "data", tmp_path / "out")
    assert _values(result) == pytest.approx({"swap": 1 / 3, "add": 1.0, "acc": 2 / 3}), "the tie is wrong"
    acc: Any = result.scores["acc"]
    assert acc.low == pytest.approx(0.5), "the file that is all right never moves, the other falls to 0"
    assert 2 / 3 < acc.high <= 1


def _cifar(data: Path) -> None:
    """CIFAR-10 with images of five of its ten classes, in both splits."""
    for split in ("train", "test"):
        names = [*COLOURS, *"pqrst"]
        classification_set(data / "cifar10", [*range(5)] * 8, [*COLOURS] * 8, names, split)


def test_probe_and_few_shot_on_separable_colours(tmp_path: Path) -> None:
    _cifar(tmp_path / "data")
    found = {r.task: r for r in evaluate_all(ColourClip(), tmp_path / "data", tmp_path / "out")}
    assert {name: _values(result)["acc1"] for name, result in found.items()} == {
        "cifar10": 1.0,
        "linear-cifar10": 1.0,
        "few-shot-cifar10": 1.0,
    }
    assert found["linear-cifar10"].protocol["val"] == "last 20% of train"
    assert averages(found.values()) == {}


def _long_tail(folder: Path) -> Path:
    lines = [f"{c} square.png {n}\n" for n, c in enumerate(NAMES)]
    files = {
        "classnames.txt": "red\ngreen\nblue\n",
        "train.txt": lines[0] * 120 + lines[1] * 30 + lines[2] * 4,
        "test.txt": "".join(line * 10 for line in lines),
    }
    return write_files(folder, {**files, **{f"images/{c} square.png": square(c) for c in NAMES}})


def test_long_tail_with_extra_images_keeps_groups_and_iterations(tmp_path: Path) -> None:
    _long_tail(tmp_path / "data" / "lt")
    (plain,) = evaluate_all(ColourClip(), tmp_path / "data", tmp_path / "a")
    assert set(plain.scores) == {"acc1", "head", "medium", "tail"}
    assert plain.protocol["iterations"] == 10 * 2
    made = write_files(tmp_path / "made", {"a.png": square("blue"), "extra.txt": "a.png 2\n" * 200})
    extra = made / "extra.txt"
    (more,) = evaluate_all(ColourClip(), tmp_path / "data", tmp_path / "b", settings=Settings(extra=extra))
    assert more.protocol["iterations"] == plain.protocol["iterations"]
    assert set(more.scores) == set(plain.scores)  # 204 blue squares, and blue is still the tail
    assert "354 images, 154 of them from train.txt" in more.notes[0]
    model = ColourClip()
    for seed, encoded in ((1, 184), (1, 184), (2, 368)):  # 154 + 30 images; another seed is another question
        (result,) = evaluate_all(model, tmp_path / "data", tmp_path / "c", settings=Settings(seed=seed))
        assert (result.protocol["seed"], model.images) == (seed, encoded)


def test_the_papers_tasks_are_thirty_one_and_found_by_their_public_names(tmp_path: Path) -> None:
    """26 zero-shot sets of Tables 1 and 2, COCO, Flickr, SugarCrepe and two long-tailed ones."""
    groups = [t.group for t in tasks().values()]
    assert [groups.count(g) for g in ("table1", "table2", "sugarcrepe", "long-tail")] == [20, 6, 1, 2]
    assert {"coco", "flickr30k"} <= tasks().keys()
    (tmp_path / "wds_vtab-clevr_closest_object_distance_test").mkdir()
    ((task, _),) = choose(tmp_path, ["clevr_distance"])
    assert (task.classes, task.size) == (6, 15000)
    assert {t.templates for t in tasks().values() if t.group == "table2"} == {"openai-imagenet-80"}
    assert_refused(lambda: choose(tmp_path, ["eurosta"]), "did you mean 'eurosat'")


def test_an_empty_class_name_is_a_name(tmp_path: Path) -> None:
    write_files(tmp_path, {"classnames.txt": "near\r\n\nfar\n"})
    assert layout.classnames(tmp_path, 3) == ["near", "", "far"]


def test_template_sets_by_name(tmp_path: Path) -> None:
    assert template_set("simple", tmp_path) == ["a photo of a {c}."]
    shipped = [template_set(f"openai-imagenet-{number}", tmp_path) for number in (80, 7)]
    assert [[t.count("{c}") for t in templates] for templates in shipped] == [[1] * 80, [1] * 7]
    assert_refused(lambda: template_set("simpl", tmp_path), "did you mean 'simple'")


def _shard(sample: dict[str, bytes]) -> Callable[[Path], object]:
    return lambda folder: write_shards(folder / "test", [sample], 1)


def _text(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda folder: (folder / "classnames.txt").unlink(),
            [
                "cifar10/classnames.txt: expected the names of the classes, one per line; cannot read it (No such"
            ],
        ),
        (lambda folder: (folder / "test/nshards.txt").unlink(), ["nshards.txt", "the number of tars"]),
        (_text("classnames.txt", "red\ngreen\n"), ["classnames.txt", "expected 10 classes, found 2"]),
        (
            _shard({"png": square("red"), "cls": b"30"}),
            ["0.tar: s00000", "expected a class of 0..9, found '30'"],
        ),
        (
            _shard({"png": square("red"), "txt": b"red"}),
            ["0.tar: s00000", "expected a .cls", "found png, txt"],
        ),
        (_shard({"cls": b"1"}), ["0.tar: s00000", "expected an image"]),
        (lambda folder: (folder / "test/1.tar").unlink(), ["says 2 tars", "1.tar"]),
        (_text("test/0.tar", "x" * 700), ["0.tar", "expected a tar"]),
        (_shard({"png": b"\x89PNG no", "cls": b"1"}), ["0.tar: s00000", "cannot be decoded"]),
        (_text(TEMPLATES, "a photo\n"), ["templates.txt:1", "expected a template with {c}"]),
        (_text(TEMPLATES, "\n"), ["templates.txt: expected templates such as", "found none"]),
        (lambda folder: shutil.rmtree(folder / "test"), ["test: expected a folder", "classnames.txt"]),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(
    tmp_path: Path, damage: Callable[[Path], object], words: list[str]
) -> None:
    names = [*NAMES, *"abcdefg"]
    folder = classification_set(tmp_path / "cifar10", [0, 1, 2, 0], ["red", "green", "blue", "red"], names)
    damage(folder)
    assert_refused(
        lambda: evaluate_all(ColourClip(), tmp_path, tmp_path / "out", ["cifar10"]),
        ".*".join(map(re.escape, words)),
    )


def test_sets_that_cannot_be_evaluated(tmp_path: Path) -> None:
    write_shards(tmp_path / "walls" / "test", [{"png": square("red")}], 1)
    write_shards(tmp_path / "own" / "test", [{"png": square("red"), "cls": b"0"}], 1)
    write_files(tmp_path, {"file": "x", "empty/x/y": ""})
    pairs_set(tmp_path / "sugarcrepe", {"add_att": [("red", "red", "blue")]})
    unlabelled = r"0\.tar: s00000: expected captions .* needs classnames\.txt beside its test folder"
    for data, out, tasks_, words in (
        ("", "out", ["walls"], r"expected captions in a \.txt, one per line; found png"),
        ("", "out", ["own"], unlabelled),
        ("", "file", ["walls"], "expected a folder for the results, found a file"),
        ("gone", "out", None, "expected a folder of data sets, found nothing"),
        ("empty", "out", None, "no data set that is known by name or layout; found x"),
        ("", "out", ["sugarcrepe"], "seven json files, missing: add_obj"),
    ):
        assert_refused(partial(evaluate_all, ColourClip(), tmp_path / data, tmp_path / out, tasks_), words)


def _compared(tmp_path: Path, templates: str = "folder", text: str = "{c}", **options: Any) -> Comparison:
    """The run `good` beside the run `bad`, which has other images, and these templates."""
    for model, colours in (("good", [*NAMES, "red"]), ("bad", ["red", "blue", "green", "red"])):
        data = tmp_path / model
        classification_set(data / "cifar10", [0, 1, 2, 0], colours, [*NAMES, *"abcdefg"])
        write_files(data / "cifar10", {TEMPLATES: text if model == "bad" else "{c}"})
        settings = Settings(templates=templates if model == "bad" else "folder")
        evaluate_all(ColourClip(model), data, tmp_path / "runs" / model, ["cifar10"], settings)
    return compare(load_runs([tmp_path / "runs" / "good", tmp_path / "runs" / "bad"]), **options)


def test_compare_lays_runs_and_the_papers_side_by_side(tmp_path: Path) -> None:
    found = _compared(tmp_path, with_papers=True)
    (column,) = found.columns
    assert (column.title, show(found.rows["bad"][column])[:4]) == ("cifar10 acc1", "50.0")
    assert show(found.rows["CtrlSynth, table 1: CtrlSynth, CC3M"][column]) == "70.3*"
    for words in ("print(ed|s)", "2 different versions of its data"):
        assert re.search(words, "\n".join(found.notes))
    assert "| good | 100.0" in found.markdown()
    assert found.plain()["rows"]["good"][0]["value"] == 100.0


@pytest.mark.parametrize(
    ("templates", "text", "differs"),
    [("simple", "{c}", "templates"), ("folder", "other {c}", "template_digest")],
    ids=["another set", "the folder's own, which differ"],
)
def test_two_template_sets_never_share_a_column(
    tmp_path: Path, templates: str, text: str, differs: str
) -> None:
    found = _compared(tmp_path, templates, text)
    titles = [[c.title for c in found.columns if c in cells] for cells in found.rows.values()]
    one, other = (title for row in titles for title in row)
    assert one != other
    assert all(re.fullmatch(rf"cifar10 acc1 \[{differs}=\w+\]", title) for title in (one, other))
    assert any(f"because {differs} differ" in note for note in found.notes)


def test_seeds_are_one_run_with_an_interval(tmp_path: Path) -> None:
    for n, colours in enumerate((["red", "green"], ["red", "red"], ["red", "green"])):
        classification_set(tmp_path / f"d{n}" / "own", [0, 1], colours, NAMES)
        evaluate_all(ColourClip(f"m{n}"), tmp_path / f"d{n}", tmp_path / "runs" / "mix" / f"seed{n}")
    found = compare(load_runs(sorted((tmp_path / "runs" / "mix").iterdir())))
    (cell,) = found.rows["mix"].values()
    assert (round(cell.value, 2), cell.seeds) == (83.33, 3)
    assert show(cell) == "83.3 ± 71.7 (3)"


def test_delta_mtl_against_a_printed_row_takes_whole_tasks_of_the_paper(tmp_path: Path) -> None:
    """CIFAR-10 alone cannot be compared with an average over nine sets; all nine can."""
    _cifar(tmp_path / "data")
    evaluate_all(ColourClip(), tmp_path / "data", tmp_path / "out")

    def against_the_paper() -> tuple[Comparison, dict[str, float]]:
        baseline = "SynthCLIP, table 3 (Delta_MTL): CLIP, CC3M"
        found = compare(load_runs([tmp_path / "out"]), baseline=baseline, with_papers=True)
        last = found.columns[-1]
        return found, {name: cells[last].value for name, cells in found.rows.items() if last in cells}

    _, deltas = against_the_paper()
    assert "out" not in deltas
    assert deltas["SynthCLIP, table 3 (Delta_MTL): SynthCI-30M"] == pytest.approx(60.1, abs=0.1)
    one = read_result(tmp_path / "out" / "linear-cifar10.json")
    for task in (t for t in tasks().values() if t.kind == "linear-probe"):
        write_result(tmp_path / "out" / f"{task.name}.json", replace(one, task=task.name, main="acc1"))
    found, deltas = against_the_paper()
    assert deltas["out"] == pytest.approx((100 - 63.3) / 63.3 * 100)
    assert any("1, 3, 5 of SynthCLIP's five tasks" in note for note in found.notes)
    average = next(c for c in found.columns if c.title == "linear-probe, SynthCLIP's average")
    assert found.rows["out"][average].value == 100.0
    assert found.rows["SynthCLIP, table 3 to 7 (ablations): Vicuna 33B"][average].value == 61.4
    assert_refused(lambda: compare(load_runs([tmp_path / "out"]), baseline="nobody"), "unknown baseline")


def test_delta_mtl_between_runs_takes_the_sets_that_both_have(tmp_path: Path) -> None:
    classification_set(tmp_path / "data" / "cifar10", [0, 1], ["red", "green"], [*NAMES, *"abcdefg"])
    (one,) = evaluate_all(ColourClip(), tmp_path / "data", tmp_path / "x")
    probe = replace(
        one, group="linear-probe", protocol={"kind": "linear-probe", "metric": "acc1", "val": "official"}
    )
    for run, scores in {"a": {"linear-dtd": 0.5, "linear-pets": 0.9}, "b": {"linear-dtd": 0.6}}.items():
        for task, value in scores.items():
            write_result(
                tmp_path / run / f"{task}.json",
                replace(probe, task=task, main="acc1", scores={"acc1": Score(value)}),
            )
    found = compare(load_runs([tmp_path / "a", tmp_path / "b"]), baseline="a")
    by_folder = compare(load_runs([tmp_path / "a", tmp_path / "b"]), baseline=f"{tmp_path}/x/../a/")
    assert by_folder.plain() == found.plain()
    assert found.rows["b"][found.columns[-1]].value == pytest.approx(
        20.0
    )  # on DTD, not against the average with Pets


def test_printed_averages_stand_beside_whole_averages_only(tmp_path: Path) -> None:
    classification_set(tmp_path / "data" / "own", [0, 1], ["red", "green"], NAMES)
    (one,) = evaluate_all(ColourClip(), tmp_path / "data", tmp_path / "x")
    for task in (t for t in tasks().values() if t.group == "table1"):
        scores = {task.metric: Score(0.5)}
        write_result(
            tmp_path / "all" / f"{task.name}.json",
            replace(one, task=task.name, group="table1", main=task.metric, scores=scores),
        )
    shutil.copytree(tmp_path / "all", tmp_path / "part")
    (tmp_path / "part" / "svhn.json").unlink()

    def averages_of(name: str) -> dict[str, float]:
        found = compare(load_runs([tmp_path / name]), with_papers=True)
        average = next(c for c in found.columns if c.metric == "average")
        return {row: cells[average].value for row, cells in found.rows.items() if average in cells}

    printed = {"CtrlSynth, table 1: CtrlSynth, CC12M": 36.6, "CtrlSynth, table 8: img, SP4": 22.1}
    assert {"all": 50.0, **printed}.items() <= averages_of("all").items()
    assert averages_of("part") == {"part": 50.0}


def test_what_is_no_result_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert_refused(lambda: load_runs([tmp_path]), "expected a result that `ctrlsynth eval` wrote")
    assert_refused(lambda: load_runs([tmp_path / "gone"]), "expected result files")


def test_a_recipe_may_name_the_tasks(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nevaluate: [coco, mine]\n")
    assert _tasks(None, path) == ["coco", "mine"]
    assert (_tasks("a,b", None), _tasks(None, None)) == (["a", "b"], None)
    assert_refused(lambda: _tasks("a", path), "--tasks and --recipe: both name the tasks")
    for wrong in ("", "evaluate: coco\n", "evaluate: []\n", "evaluate: [1]\n"):
        path.write_text(f"name: x\n{wrong}")
        assert_refused(lambda: _tasks(None, path), r"r\.yaml: evaluate: expected a list of tasks")
