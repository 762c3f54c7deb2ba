"""Temporary files and folders: what a killed process leaves behind is removed by the next command."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ctrlsynth.api.run import run
from ctrlsynth.concepts import balance
from ctrlsynth.concepts.folder import MatchFolder
from ctrlsynth.errors import UserError
from ctrlsynth.storage.files import making, remove_leftovers, replacing, temporary
from helpers import ctrlsynth, recipe

KILLED = """
import os, signal, sys
from pathlib import Path
from ctrlsynth.api.run import Run
from ctrlsynth.concepts import balance
from ctrlsynth.concepts.folder import MatchFolder

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

what, root = sys.argv[1], Path(sys.argv[2])
if what == "report":
    Run.open(root).report(root / "report", tick=die)
elif what == "export":
    Run.open(root).export(root / "dataset", tick=die)
else:
    balance.sample(balance.plan(MatchFolder.open(root), t=1), root / "subset.csv", die)
"""


def killed(what: str, root: Path) -> None:
    """Runs a command that is killed while it writes; asserts that it left something behind."""
    ended = subprocess.run([sys.executable, "-c", KILLED, what, str(root)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert leftovers(root)


def leftovers(root: Path) -> list[Path]:
    return list(root.rglob(".tmp-*"))


@pytest.mark.parametrize("what", ["report", "export"])
@pytest.mark.parametrize("cleaner", ["run", "report", "export"])
def test_what_a_killed_command_left_in_a_run_is_removed_by_the_next_one(
    tmp_path: Path, what: str, cleaner: str
) -> None:
    plan, root = recipe(tmp_path, 10), tmp_path / "run"
    made = run(plan, root, base=tmp_path)
    killed(what, root)
    if cleaner == "run":
        run(plan, root, base=tmp_path)
    elif cleaner == "report":
        made.report(root / "report")
    else:
        with pytest.raises(UserError, match="no_image"):  # captions alone make no data set
            made.export(root / "dataset")
    assert leftovers(root) == []
    assert not made.ledger()[-1].failed


def test_what_a_killed_balance_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red dog\na cat\n" * 20)
    (tmp_path / "bank.txt").write_text("dog\ncat\n")
    match = ("concepts", "match", tmp_path / "captions.txt", "--bank", tmp_path / "bank.txt")
    assert ctrlsynth(*match, "--out", tmp_path / "m")[0] == 0
    killed("balance", tmp_path / "m")
    balance.sample(balance.plan(MatchFolder.open(tmp_path / "m"), t=1), tmp_path / "m" / "subset.csv")
    assert leftovers(tmp_path) == []


def test_only_leftovers_of_dead_processes_of_this_host_are_removed(tmp_path: Path) -> None:
    mine = temporary(tmp_path / "a~b.json")
    me, host = f"~{os.getpid()}~", mine.name.split("~")[-3]
    dead = mine.with_name(mine.name.replace(me, "~999999999~"))
    kept = {
        mine.name,
        dead.name.replace(host, "elsewhere"),
        dead.name.replace("999999999", "x"),
        ".tmp-x",
        "a",
    }
    for name in kept:
        (tmp_path / name).write_text("")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "deep" / "er"):
        (folder / dead.name).mkdir()
        (folder / dead.name / "inside").write_text("")
        (folder / (dead.name + "2")).write_text("")
    (tmp_path / (dead.name + "3")).symlink_to(tmp_path / "deep")
    remove_leftovers(tmp_path / "nothing")
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == kept | {"deep"}
    assert leftovers(tmp_path / "deep")
    remove_leftovers(tmp_path, "*/er")
    assert leftovers(tmp_path / "deep") == []


def test_a_failed_write_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as made:
        made.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as made:
        made.write_text(str(1 / 0))
    with making(path) as made:
        made.mkdir()
        (made / "inside").write_text("never renamed")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.txt"]
