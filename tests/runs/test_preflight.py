"""Preflight reports every problem at once, one per line, before it loads or calls a model."""

import json
import shutil
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ctrlsynth.api.run import run
from ctrlsynth.errors import UserError
from ctrlsynth.models.base import ImageAndText, Painting, Prompt, Reply, Request
from ctrlsynth.runs.estimate import estimate
from ctrlsynth.sample import Tags
from helpers import ctrlsynth, recipe, recipe_file

Usage = namedtuple("Usage", "total used free")
PATHS = [{"p": ["text", "tags", "text*", "image*"]}]
JUDGE = {"tagger": "reference"}


class Checked:
    """A tagger, writer and painter (of 1,000 x 1,000 pixels) that notes its checks and calls in a file and says
    what is wrong with it."""

    id, digest, reads, size = "checked", "1", "caption", (1000, 1000)

    def __init__(self, log: str, wrong: str = "") -> None:
        self._log, self._wrong = log, wrong

    def note(self, what: str) -> None:
        with open(self._log, "a", encoding="utf-8") as handle:
            handle.write(what + "\n")

    def check(self) -> None:
        self.note("check")
        if self._wrong:
            raise UserError(self._wrong)

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        self.note("call")
        return [Tags(("dog",)) for _ in items]

    def generate(self, asked: Sequence[Request | Prompt]) -> list[Reply | Painting]:
        self.note("call")
        nothing = Painting(None, error="out_of_paint")
        return [Reply("There is a dog.") if isinstance(a, Request) else nothing for a in asked]


def models(log: Path, **wrong: str) -> dict[str, Any]:
    roles = ("tagger", "llm", "text_to_image")
    return {role: {"test_preflight:Checked": str(log), "wrong": wrong.get(role, "")} for role in roles}


def test_every_model_is_checked_once_and_all_problems_are_reported_at_once(tmp_path: Path, log: Path) -> None:
    wrong = {
        "tagger": "models.tagger: weights.bin is not there",
        "llm": "models.llm: no server answers at http://127.0.0.1:1",
    }
    plan = recipe(tmp_path, models=models(log, **wrong), paths=PATHS, judge=JUDGE)
    with pytest.raises(UserError) as caught:
        run(plan, tmp_path / "run", base=tmp_path)
    assert str(caught.value).splitlines() == list(wrong.values())
    assert log.read_text().splitlines() == ["check"] * 3
    assert not (tmp_path / "run" / "read").exists()


def test_models_of_stages_that_are_done_are_not_asked(tmp_path: Path, log: Path) -> None:
    plan = recipe(tmp_path, models=models(log))
    run(plan, tmp_path / "run", base=tmp_path)
    assert "call" in log.read_text()
    log.unlink()
    run(plan, tmp_path / "run", base=tmp_path)
    assert not log.exists()


def test_absent_packages_of_all_models_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrlsynth.models.installed.installed", lambda module: False)
    plan = recipe(
        tmp_path,
        models={"tagger": "wordnet", "llm": {"openai": "y"}, "text_to_image": "no_such_module:Painter"},
        paths=PATHS,
        judge={"tagger": "no_such_module:Tagger"},
    )
    with pytest.raises(UserError) as caught:
        run(plan, tmp_path / "run", base=tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "models.llm: openai is not installed; pip install 'ctrlsynth[server]'"
    assert [line.partition(": No module")[0] for line in lines[1:]] == [
        "models.text_to_image: no_such_module:Painter",
        "judge.tagger: no_such_module:Tagger",
    ]


def test_a_key_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.delenv("MY_KEY", raising=False)
    llm = {"openai": "gpt-x", "api_key_env": "MY_KEY"}
    with pytest.raises(UserError, match="the environment variable MY_KEY holds no key"):
        run(recipe(tmp_path, models={"tagger": "wordnet", "llm": llm}), tmp_path / "run", base=tmp_path)


@pytest.mark.parametrize(("free", "enough"), [(40 * 300_000 - 1, False), (40 * 302_000, True)])
def test_room_on_the_disk_is_compared_with_the_estimate(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, free: int, enough: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free))
    plan = recipe(tmp_path, models=models(tmp_path / "log"), paths=PATHS, judge=JUDGE)
    found = estimate(plan, tmp_path, tmp_path / "deep" / "run", None)["problems"]
    assert bool(found) is not enough
    if found:
        assert "the run would write about 12 MB, most of it in paint (12 MB), and 12 MB are free" in found[0]


def test_plan_shows_the_problems_and_exits_with_2(tmp_path: Path, log: Path) -> None:
    wrong = {"llm": "models.llm: key ABC is not set", "tagger": "models.tagger: gone"}
    file = recipe_file(tmp_path, models=models(tmp_path / "log", **wrong), paths=PATHS, judge=JUDGE)
    code, out, err = ctrlsynth("plan", file)
    assert code == 2, err
    assert "problems that stop a run:\n  models.tagger: gone\n  models.llm: key ABC is not set" in out
    assert "judge-image" in out
    code, out, _ = ctrlsynth("plan", file, "--json")
    problems = ["models.tagger: gone", "models.llm: key ABC is not set"]
    assert (code, json.loads(out)["problems"]) == (2, problems)
