"""Commands whose output cannot be written: a read-only and a full disk are one line with path and reason,
another fault is a traceback."""

import errno
import json
import os
import subprocess
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


def words(base: Path, out: Path, what: str) -> list[object]:
    """The words of a command that writes below `out`; makes in `base` what it reads."""
    names, sets, evals = base / "names.txt", base / "sets", base / "evals"
    names.write_text("".join(f"{os.urandom(8).hex()} thing\n" for _ in range(8000)))
    (base / "block.txt").write_text("thing\n")
    if what == "init":
        (base / "photos").mkdir()
        Image.new("RGB", (8, 8)).save(base / "photos" / "a.png")
    elif what == "train":
        data, options = [str(folder())], {"batch": 15, "steps": 1, "workers": 0, "precision": "float32"}
        block = {"data": data, "model": str(micro()), **options}
        (base / "t.yaml").write_text(json.dumps({"name": "t", "train": block}))
    elif what in ("eval", "compare"):
        classification_set(sets / "cifar10", [0, 1], ["red", "green"], ["red", "green", *"abcdefgh"])
        for step in (1, 2) if what == "compare" else ():
            model = ColourClip()
            model.samples = step  # type: ignore[attr-defined]
            evaluate_all(model, sets, evals / f"step-{step}", ["cifar10"])
    elif what == "sweep":
        run(recipe(base), base / "run", base=base)
    elif what in ("plot", "lists"):
        (base / "captions.txt").write_text("a dog thing\n" * 100)
        matching = ("--bank", names, "--out", base / "m")
        assert ctrlsynth("concepts", "match", base / "captions.txt", *matching)[0] == 0
    return {
        "init": ["init", base / "photos", "--out", out / "x.yaml"],
        "train": ["train", base / "t.yaml", "--out", out / "m"],
        "eval": ["eval", "tiny", "--data", sets, "--out", out / "e"],
        "compare": ["compare", evals / "step-1", evals / "step-2", "--plot", out / "x.png"],
        "sweep": ["sweep", base / "run", "--plot", out / "x.png"],
        "build": ["concepts", "build", "--source", "list", "--add", names, "--out", out / "b.parquet"],
        "flag": ["concepts", "flag", names, "--blocklist", base / "block.txt", "--out", out / "f.parquet"],
        "plot": ["concepts", "coverage", base / "m", "--plot", out / "x.png"],
        "lists": ["concepts", "coverage", base / "m", "--lists", out / "x.png"],
    }[what]


ALL = ("init", "train", "eval", "sweep", "compare", "build", "flag", "plot", "lists")
DISKS = {
    "read_only": ((1, 2), "Read-only file system", ALL),
    "full": ((1,), "the disk is full; make room", ("train", "sweep", "build", "flag", "plot", "lists")),
}


@pytest.mark.parametrize(
    ("disk", "what"), [(disk, w) for disk, (_, _, whats) in DISKS.items() for w in whats]
)
def test_what_the_disk_refuses_is_one_line(
    tmp_path: Path, request: pytest.FixtureRequest, disk: str, what: str
) -> None:
    place = request.getfixturevalue(disk)
    code, _, told = ctrlsynth(*words(tmp_path, place, what))
    codes, message, _ = DISKS[disk]
    assert code in codes
    assert str(place) in told
    assert message in told
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
