"""The commands as a user types them: exit codes, one-line errors, JSON for machines, help that teaches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import TESTS, write_captions

RECIPE = """name: cli
source: {text: captions.jsonl, part_rows: 10, key_column: key}
models: {tagger: wordnet, llm: realizer}
paths: [{p: [text, tags, text*]}]
"""
COMMANDS = ("init", "plan", "run", "status", "explain", "sweep", "export", "report", "models")


def ctrlsynth(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": "160", "NO_COLOR": "1"}
    command = [sys.executable, "-c", "from ctrlsynth.cli.main import main; main()", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its finished run."""
    folder = tmp_path_factory.mktemp("cli")
    write_captions(folder / "captions.jsonl", 20)
    (folder / "r.yaml").write_text(RECIPE)
    first = ctrlsynth("run", "r.yaml", cwd=folder)
    assert first.returncode == 0, first.stderr
    assert "adds up" in first.stdout
    return folder


def test_a_path_that_keeps_nothing_says_so(done: Path) -> None:
    words = (
        "run",
        "r.yaml",
        "--set",
        "models.llm=helpers:Mute",
        "--set",
        "judge.threshold=1",
        "--out",
        "runs/mute",
    )
    told = ctrlsynth(*words, cwd=done)
    assert told.returncode == 0, told.stderr
    assert (
        "judge-text kept none of 20 rows (low_recall 20), so p gives nothing: `ctrlsynth explain runs/mute`"
        in told.stdout
    )
    assert "kept none" not in ctrlsynth("status", "runs/cli", cwd=done).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    told = ctrlsynth(command, "--help", cwd=tmp_path)
    assert told.returncode == 0
    assert f"ctrlsynth {command}" in told.stdout.replace("\n", " ")


def test_plan_says_what_would_be_done_and_what_is(done: Path) -> None:
    fresh = json.loads(ctrlsynth("plan", "r.yaml", "--out", "elsewhere", "--json", cwd=done).stdout)
    assert [(s["folder"], s["rows"], s["parts"], s["parts_done"]) for s in fresh["stages"]] == [
        ("read", 20, 2, 0), ("tag", 20, 2, 0), ("write", 20, 2, 0), ("judge-text", 20, 2, 0)]  # fmt: skip
    assert all(s["model"] for s in fresh["stages"] if s["kind"] in ("tag", "write"))
    assert not (done / "elsewhere").exists()
    made = json.loads(ctrlsynth("plan", "r.yaml", "--json", cwd=done).stdout)
    assert [s["parts_done"] for s in made["stages"]] == [2, 2, 2, 2]
    assert made["total"]["device_seconds"] == 0
    changed = ctrlsynth("plan", "r.yaml", "--set", "seed=1", cwd=done).stdout
    assert "seed: 0 -> 1" in changed
    assert "2 to update" in changed


def test_run_and_status_give_the_same_ledger(done: Path) -> None:
    again = json.loads(ctrlsynth("run", "r.yaml", "--json", cwd=done).stdout)
    status = json.loads(ctrlsynth("status", "runs/cli", "--json", cwd=done).stdout)
    assert again["ledger"] == status["ledger"]
    assert all(row["adds_up"] for row in status["ledger"])
    assert [row["ok"] for row in status["ledger"][:3]] == [20, 20, 20]


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
def test_mistakes_are_one_line_and_exit_2(done: Path, words: tuple[str, ...], message: str) -> None:
    told = ctrlsynth(*words, cwd=done)
    assert told.returncode == 2, told.stderr
    assert message in told.stderr
    assert "Traceback" not in told.stderr


def test_work_that_fails_exits_1(done: Path) -> None:
    told = ctrlsynth(
        "run", "r.yaml", "--out", "bad", "--set", "models.llm={helpers:FaultyLLM: raise}", cwd=done
    )
    assert told.returncode == 1
    assert "none of 20 rows came through" in told.stderr
    assert "Traceback" not in told.stderr


def test_the_rest_of_the_commands_work_on_a_run(done: Path) -> None:
    story = ctrlsynth("explain", "runs/cli", cwd=done)
    assert story.returncode == 0, story.stderr
    assert "recall" in story.stdout
    swept = ctrlsynth("sweep", "runs/cli", "--plot", "sweep.svg", cwd=done)
    assert swept.returncode == 0, swept.stderr
    assert (done / "sweep.svg").read_text().lstrip().startswith("<?xml")
    listed = json.loads(ctrlsynth("models", "--json", cwd=done).stdout)
    assert {"wordnet", "smollm2", "imagenet", "scenes"} <= {m["name"] for m in listed}
    assert all(m["licence"] for m in listed)
