"""The README's commands, run in its order in a copy of what it needs, and their output compared with what it
promises (`...` stands for anything: times, sizes, a text's tail)."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctrlsynth.models.registry import NAMES
from helpers import ROOT

README = ROOT / "README.md"
BIN = Path(sys.executable).parent
HEADINGS = [
    "The figure", "Try it", "Change one policy", "Real models", "At scale", "No real data",
    "Train and evaluate", "The two papers",
    "The tree", "Glossary", "Add your own",
]  # fmt: skip


def blocks() -> Iterator[tuple[str, str]]:
    """(command, promised output) of every ```console block."""
    for block in re.findall(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        for command, output in re.findall(r"^\$ (.*?(?:\\\n.*?)*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            yield command.replace("\\\n", " "), output


def test_it_is_short_and_in_order() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count("\n") <= 250
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/design.md"])
def test_files_that_it_names_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|\w+\.py)`", text) + re.findall(
        r"\]\((?!http)([^)#]+)\)", text
    )
    bases = (ROOT, ROOT / "src" / "ctrlsynth", (ROOT / page).parent)
    assert [
        n
        for n in named
        if not any((b / n).exists() for b in bases) and not n.startswith(("runs/N", "runs/q"))
    ] == []


def test_models_that_it_names_are_those_of_recipes() -> None:
    rows = re.findall(r"^\| ((?:`[\w.]+`(?:, )?)+) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    known = {name for names in NAMES.values() for name in names}
    assert len(named) > 12
    assert named <= known


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands need, in a folder of its own: runs and data are written there."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("recipes", "scripts", "requirements"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Makefile", folder / "Makefile")
    return folder


def test_commands_print_what_it_promises(place: Path) -> None:
    env = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    checker = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    commands = [found for found in blocks() if not found[0].startswith(("git ", "pip "))]
    assert len(commands) >= 5
    for command, promised in commands:
        # the environment that runs this test stands for the one that make would build
        command = re.sub(r"^make demo", f"make --no-print-directory -o .stamps/demo demo BIN={BIN}", command)
        done = subprocess.run(
            command, shell=True, cwd=place, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        same = not promised.strip() or checker.check_output(promised, done.stdout, flags)
        assert same, f"$ {command}\npromised:\n{promised}\ngot:\n{done.stdout}"
