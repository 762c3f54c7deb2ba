"""Commands whose output cannot be written: a read-only and a full disk are one line with path and reason,
another fault is a traceback."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clip_fixture import folder, micro
from ctrlsynth.api.run import run
from ctrlsynth.cli.main import main as cli
from ctrlsynth.clip import checkpoint
from ctrlsynth.clip.data import tars
from ctrlsynth.evaluate.run import evaluate_all
from ctrlsynth.models.open_clip.load import build
from eval_sets import ColourClip, classification_set
from helpers import ctrlsynth, recipe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")


def mounted(disk: Path, options: str) -> Iterator[Path]:
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "ro", "size=1m,ro")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for a few small files."""
    for disk in mounted(tmp_path / "full", "size=64k"):
        (disk / "filler").write_bytes(b"\0" * 48 * 1024)
        yield disk


def words(tmp_path: Path, out: Path, what: str) -> list[object]:
    """The words of a command that writes below `out`; what it reads is made here."""
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{os.urandom(8).hex()} thing\n" for _ in range(8000)))
    if what == "init":
        (tmp_path / "photos").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
        return ["init", tmp_path / "photos", "--out", out / "x.yaml"]
    if what == "train":
        given = {
            "data": [str(folder())],
            "model": str(micro()),
            "batch": 15,
            "steps": 1,
            "workers": 0,
            "precision": "float32",
        }
        (tmp_path / "t.yaml").write_text(json.dumps({"name": "t", "train": given}))
        return ["train", tmp_path / "t.yaml", "--out", out / "m"]
    if what in ("eval", "compare"):
        classification_set(
            tmp_path / "sets" / "cifar10", [0, 1], ["red", "green"], ["red", "green", *"abcdefgh"]
        )
        if what == "eval":
            return ["eval", "tiny", "--data", tmp_path / "sets", "--out", out / "e"]
        for step in (1, 2):
            model = ColourClip()
            model.samples = step  # type: ignore[attr-defined]
            evaluate_all(model, tmp_path / "sets", tmp_path / "evals" / f"step-{step}", ["cifar10"])
        return [
            "compare",
            tmp_path / "evals" / "step-1",
            tmp_path / "evals" / "step-2",
            "--plot",
            out / "x.png",
        ]
    if what == "sweep":
        return ["sweep", run(recipe(tmp_path), tmp_path / "run", base=tmp_path).root, "--plot", out / "x.png"]
    if what == "build":
        return ["concepts", "build", "--source", "list", "--add", names, "--out", out / "b.parquet"]
    if what == "flag":
        (tmp_path / "block.txt").write_text("thing\n")
        return ["concepts", "flag", names, "--blocklist", tmp_path / "block.txt", "--out", out / "f.parquet"]
    (tmp_path / "captions.txt").write_text("a dog thing\n" * 100)
    match = [
        sys.executable,
        "-c",
        "from ctrlsynth.cli.main import main; main()",
        "concepts",
        "match",
        str(tmp_path / "captions.txt"),
    ]
    options = ["--bank", str(names), "--out", str(tmp_path / "m")]
    matched = subprocess.run([*match, *options], check=False, capture_output=True, text=True)
    assert matched.returncode == 0, matched.stderr
    return ["concepts", "coverage", tmp_path / "m", f"--{what}", out / "x.png"]


ALL = ("init", "train", "eval", "sweep", "compare", "build", "flag", "plot", "lists")


@pytest.mark.parametrize("what", ALL)
def test_a_read_only_disk_is_one_line(tmp_path: Path, read_only: Path, what: str) -> None:
    code, _, told = ctrlsynth(*words(tmp_path, read_only, what))
    assert code in (1, 2)
    assert str(read_only) in told
    assert "Read-only file system" in told
    assert "\n" not in told.strip(), told


@pytest.mark.parametrize("what", ["train", "sweep", "build", "flag", "plot", "lists"])
def test_a_full_disk_is_one_line(tmp_path: Path, full: Path, what: str) -> None:
    code, _, told = ctrlsynth(*words(tmp_path, full, what))
    assert code == 1
    assert str(full) in told
    assert "the disk is full; make room" in told
    assert "\n" not in told.strip(), told


def test_a_checkpoint_on_a_full_disk_names_its_folder_and_leaves_nothing(full: Path) -> None:
    built = build(str(micro()))
    state = checkpoint.State(built.module, built.config, None, torch.amp.GradScaler("cpu", enabled=False))
    with pytest.raises(OSError, match="No space left on device") as caught:
        checkpoint.write(full / "model", state, {})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(full / "model"))
    assert [p.name for p in full.iterdir()] == ["filler"]


def test_the_index_of_tars_on_a_full_disk_and_as_numpy_writes_it(tmp_path: Path) -> None:
    rows = np.zeros(1000, tars._INDEX)
    with pytest.raises(OSError, match="No space left") as caught:
        tars._save(Path("/dev/full"), rows)
    assert caught.value.errno == errno.ENOSPC
    tars._save(tmp_path / "ours.npy", rows)
    np.save(tmp_path / "numpy.npy", rows)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


@pytest.mark.parametrize(
    "fault",
    [FileNotFoundError(errno.ENOENT, "gone", "x"), OSError("no number"), OSError(errno.EPERM, "a process")],
)
def test_another_fault_is_a_traceback(monkeypatch: pytest.MonkeyPatch, fault: OSError) -> None:
    def app(**_: Any) -> None:
        raise fault

    monkeypatch.setattr("ctrlsynth.cli.main.app", app)
    with pytest.raises(type(fault)) as caught:
        cli()
    assert caught.value is fault
