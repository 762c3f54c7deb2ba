"""The commands as a user types them: exit codes, one-line errors, JSON for machines, help that teaches."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctrlsynth.cli.main import COMMANDS, CONCEPTS
from helpers import ctrlsynth, write_captions

RECIPE = """name: cli
source: {text: captions.jsonl, part_rows: 10, key_column: key}
models: {tagger: wordnet, llm: realizer}
paths: [{p: [text, tags, text*]}]
"""


def ok(*words: object) -> str:
    """What a command prints that succeeds."""
    code, out, err = ctrlsynth(*words)
    assert code == 0, err
    return out


@pytest.fixture(scope="module", autouse=True)
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recipe and its finished run, the working folder of every test."""
    folder = tmp_path_factory.mktemp("cli")
    write_captions(folder / "captions.jsonl", 20)
    (folder / "r.yaml").write_text(RECIPE)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "160")
        assert "adds up" in ok("run", "r.yaml")
        yield folder


def test_a_path_that_keeps_nothing_says_so() -> None:
    options = ("--set", "models.llm=helpers:Mute", "--set", "judge.threshold=1", "--out", "runs/mute")
    assert (
        "judge-text kept none of 20 rows (low_recall 20), so p gives nothing: `ctrlsynth explain runs/mute`"
        in ok("run", "r.yaml", *options)
    )
    assert "kept none" not in ok("status", "runs/cli")


@pytest.mark.parametrize("words", [*COMMANDS, *(f"concepts {name}" for name in CONCEPTS)])
def test_every_command_explains_itself(words: str) -> None:
    assert f"ctrlsynth {words}" in ok(*words.split(), "--help").replace("\n", " ")


def test_plan_says_what_would_be_done_and_what_is(done: Path) -> None:
    fresh = json.loads(ok("plan", "r.yaml", "--out", "elsewhere", "--json"))
    assert [(s["folder"], s["rows"], s["parts"], s["parts_done"]) for s in fresh["stages"]] == [
        ("read", 20, 2, 0), ("tag", 20, 2, 0), ("write", 20, 2, 0), ("judge-text", 20, 2, 0)]  # fmt: skip
    assert all(s["model"] for s in fresh["stages"] if s["kind"] in ("tag", "write"))
    assert not (done / "elsewhere").exists()
    made = json.loads(ok("plan", "r.yaml", "--json"))
    assert [s["parts_done"] for s in made["stages"]] == [2, 2, 2, 2]
    assert made["total"]["device_seconds"] == 0
    changed = ok("plan", "r.yaml", "--set", "seed=1")
    assert all(text in changed for text in ("seed: 0 -> 1", "2 to update"))


def test_run_and_status_give_the_same_ledger() -> None:
    ledger = json.loads(ok("status", "runs/cli", "--json"))["ledger"]
    assert json.loads(ok("run", "r.yaml", "--json"))["ledger"] == ledger
    assert [(row["ok"], row["adds_up"]) for row in ledger[:3]] == [(20, True)] * 3
    assert ledger[3]["adds_up"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "absent.yaml"), "absent.yaml: cannot read the recipe"),
        (("run", "r.yaml", "--set", "judge.treshold=1"), "did you mean 'judge.threshold'"),
        (("run", "r.yaml", "--set", "judge"), "write key.path=value"),
        (("run", "r.yaml", "--set", "seed=1"), "seed: 0 -> 1"),
        (("run", "r.yaml", "--set", "paths=[{p: [image, image*]}]"), "tags and text* could go between"),
        (("run", "r.yaml", "--set", "source.text=absent.jsonl", "--out", "x"), "absent.jsonl"),
        (
            ("run", "r.yaml", "--set", "models.tagger=imagenet", "--set", "paths=[SP1]", "--out", "x"),
            "the source has none",
        ),
        (
            ("run", "r.yaml", "--set", "judge.tagger=wordnet", "--set", "paths=[SP4]", "--out", "x"),
            "takes a tagger that reads pixels",
        ),
        (("run", "r.yaml", "--out", "r.yaml"), "r.yaml: is a file; --out names a folder"),
        (("plan", "r.yaml", "--out", "r.yaml"), "r.yaml: is a file; --out names a folder"),
        (("plan", "r.yaml", "--set", "train.bacth=2"), "did you mean 'train.batch'"),
        (("status", "."), "not a run's folder"),
        (("explain", "runs/cli", "nobody"), "nobody"),
        (("export", "runs/cli", "--format", "tfrecord"), "tfrecord"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(words: tuple[str, ...], message: str) -> None:
    code, _, told = ctrlsynth(*words)
    assert code == 2, told
    assert message in told


def test_work_that_fails_exits_1() -> None:
    faulty = "models.llm={helpers:FaultyLLM: raise}"
    code, _, told = ctrlsynth("run", "r.yaml", "--out", "bad", "--set", faulty, "--json")
    assert (code, "none of 20 rows came through" in told, told.count("\n")) == (1, True, 1), told


def test_the_rest_of_the_commands_work_on_a_run(done: Path) -> None:
    assert "recall" in ok("explain", "runs/cli")
    assert "plot: sweep.svg" in ok("sweep", "runs/cli", "--plot", "sweep.svg")
    assert (done / "sweep.svg").read_text().lstrip().startswith("<?xml")
    licences = {m["name"]: m["licence"] for m in json.loads(ok("models", "--json"))}
    assert {"wordnet", "smollm2", "imagenet", "scenes"} <= licences.keys()
    assert all(licences.values())
