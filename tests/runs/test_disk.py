"""A run's folder under attack: full and read-only disks, damaged and removed files, two processes at once, a
fault between two blocks."""

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest

from ctrlsynth.api.run import Run, run
from ctrlsynth.errors import UserError, WorkFailed
from ctrlsynth.export.export import export
from ctrlsynth.report.gallery import write_report
from ctrlsynth.runs import local
from ctrlsynth.runs import part as work
from ctrlsynth.runs.drive import add_product
from ctrlsynth.storage import parts as store
from helpers import CountingLLM, assert_sound, calls, counting, recipe, recipe_file, start, tables


def test_a_part_that_lacks_a_block_never_becomes_whole(tmp_path: Path, log: Path) -> None:
    plan = recipe(tmp_path, models=counting(log, batch=2))
    assemble: Any = work.assemble
    seen: list[Any] = []

    def torn(stage: Any, block: Any) -> Any:
        if stage.model_name == "counting":
            seen.append(block)
            if len(seen) == 2:
                raise MemoryError("no room for this block")
        return assemble(stage, block)

    with mock.patch.object(local, "assemble", torn), pytest.raises(MemoryError):
        run(plan, tmp_path / "run", base=tmp_path)
    assert not list((tmp_path / "run" / "write").glob("*.parquet"))
    made = run(plan, tmp_path / "run", base=tmp_path)
    assert made.ledger()[2].ok == 40
    assert tables(made) == tables(run(plan, tmp_path / "whole", base=tmp_path))


class Vandal(CountingLLM):
    """A counting writer that does `act` when it has seen 15 requests, and from then on."""

    id = "vandal"
    act: Callable[[], Any]

    def generate(self, requests: Any) -> Any:
        replies = super().generate(requests)
        if calls(Path(self._log)) >= 15:
            self.act()
        return replies


def vandal(log: Path) -> dict[str, Any]:
    return {"tagger": "wordnet", "llm": {"test_disk:Vandal": str(log), "batch": 2}}


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of 60 MB with the given options; skips the test where that is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mounted(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size=60m,{options}", "none", str(disk)]
        if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount")
        return disk

    yield mounted
    subprocess.run(["umount", "-l", str(disk)], check=False, capture_output=True)


def test_a_disk_that_is_really_full_keeps_finished_rows(
    tmp_path: Path, log: Path, mount: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount("rw")

    def fill() -> None:
        with open(disk / "filler", "ab", buffering=0) as handle, contextlib.suppress(OSError):
            while handle.write(b"\0" * 65536):
                pass

    plan = recipe(tmp_path, models=vandal(log))
    monkeypatch.setattr(Vandal, "act", staticmethod(fill), raising=False)
    with pytest.raises(WorkFailed, match="the disk is full; make room"):
        run(plan, disk / "run", base=tmp_path)
    monkeypatch.setattr(Vandal, "act", staticmethod(lambda: None))
    (disk / "filler").unlink()
    first = calls(log)
    made = run(plan, disk / "run", base=tmp_path)
    assert [r.ok for r in made.ledger()[:3]] == [40, 40, 40]
    assert all(r.adds_up for r in made.ledger())
    assert 10 <= first < 40
    assert calls(log) <= first + 30, "rows that were finished before the disk was full are not made again"
    assert not list(disk.glob("run/**/.tmp-*"))


def test_a_read_only_folder_is_an_error_of_one_line(tmp_path: Path, mount: Callable[[str], Path]) -> None:
    disk, plan = mount("ro"), recipe(tmp_path)
    told = r"run: cannot be made \(Read-only file system\); choose another folder with --out"
    with pytest.raises(UserError, match=told):
        run(plan, disk / "run", base=tmp_path)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    made = run(plan, disk / "run", base=tmp_path)
    made.files("write")[0].unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert Run.open(disk / "run").ledger()[0].ok == 40
    asks: list[tuple[Callable[[], Any], str]] = [
        (lambda: run(plan, disk / "run", base=tmp_path), "cannot be written to"),
        (lambda: export(Run.open(disk / "run"), disk / "out", format="csv"), "Read-only"),
        (lambda: write_report(Run.open(disk / "run"), disk / "report"), "Read-only|cannot be written"),
    ]
    for ask, message in asks:
        with pytest.raises((UserError, WorkFailed), match=message):
            ask()


def test_a_folder_removed_in_the_middle_is_reported_and_made_again(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = partial(shutil.rmtree, tmp_path / "run", ignore_errors=True)
    monkeypatch.setattr(Vandal, "act", staticmethod(remove), raising=False)
    with pytest.raises((WorkFailed, UserError), match=r"run again|run the same command again"):
        run(recipe(tmp_path, models=vandal(log)), tmp_path / "run", base=tmp_path)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert run(recipe(tmp_path), tmp_path / "run", base=tmp_path).ledger()[2].ok == 40


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("file", r"out: is a file; --out names a folder"),
        ("under a file", r"is a file; --out names a folder|choose another|cannot be read"),
        ("foreign", "not empty and not a run's folder"),
        ("dangling link", r"choose another|cannot be read"),
    ],
)
def test_an_out_that_can_be_no_folder(tmp_path: Path, what: str, message: str) -> None:
    out = tmp_path / "out"
    if what == "dangling link":
        out.symlink_to(tmp_path / "nowhere" / "deep")
    elif what == "foreign":
        out.mkdir()
        (out / "recipe.yaml").write_text("mine")
    else:
        out.write_text("mine")
    with pytest.raises(UserError, match=message):
        run(recipe(tmp_path), out / "run" if what == "under a file" else out, base=tmp_path)
    assert what != "file" or out.read_text() == "mine"
    assert what != "foreign" or [f.read_text() for f in out.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": "x", "recipe": {}}', "\0\0\0\0", "[" * 100_000]
)
def test_a_damaged_plan_is_reported_and_its_remedy_works(tmp_path: Path, log: Path, text: str) -> None:
    plan = recipe(tmp_path, models=counting(log))
    first = tables(run(plan, tmp_path / "run", base=tmp_path))
    (tmp_path / "run" / "plan.json").write_text(text)
    asks: list[Callable[[], Any]] = [
        lambda: run(plan, tmp_path / "run", base=tmp_path),
        lambda: Run.open(tmp_path / "run"),
    ]
    for ask in asks:
        with pytest.raises(UserError, match=r"plan\.json: damaged .* remove it and run again"):
            ask()
    (tmp_path / "run" / "plan.json").unlink()
    assert tables(run(plan, tmp_path / "run", base=tmp_path)) == first
    assert calls(log) == 40


def test_a_killed_beginning_is_no_foreign_folder(tmp_path: Path) -> None:
    """Killed between the folder and its plan.json: there is only a temporary file."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".tmp-plan.json~host~1~00000000").write_text("{")
    assert run(recipe(tmp_path), tmp_path / "run", base=tmp_path).ledger()[2].ok == 40


@pytest.mark.parametrize("how", ["cut", "empty", "zeros", "flipped"])
@pytest.mark.parametrize("stage", ["read", "write"])
def test_a_damaged_part_is_reported_by_every_reader_and_its_remedy_works(
    tmp_path: Path, how: str, stage: str
) -> None:
    plan = recipe(tmp_path)
    made = run(plan, tmp_path / "run", base=tmp_path)
    first = tables(made)
    part = made.files(stage)[1]
    sound = part.read_bytes()
    half = len(sound) // 2
    damaged = {"cut": sound[:-50], "empty": b"", "zeros": b"\0" * len(sound)}.get(how)
    part.write_bytes(
        damaged if damaged is not None else sound[:8] + bytes(255 - b for b in sound[8:half]) + sound[half:]
    )
    asks: list[Callable[[], Any]] = [
        lambda: list(made.rows(stage)),
        lambda: export(made, tmp_path / "out", format="csv"),
        lambda: write_report(made, tmp_path / "report"),
    ]
    for ask in asks:
        with pytest.raises(UserError, match=rf"{part.name}: damaged \(.*\); remove the file and run again"):
            ask()
    assert made.ledger()[2].ok == 40
    part.unlink()
    assert tables(run(plan, tmp_path / "run", base=tmp_path)) == first


def test_two_processes_on_one_folder_end_with_equal_tables(tmp_path: Path, log: Path) -> None:
    slow = {"tagger": "wordnet", "llm": {"helpers:SlowLLM": str(tmp_path / "log")}}
    recipe_file(tmp_path, 120, 40, models=slow)
    for outs in (["run", "run"], ["alone"]):
        processes = [start("run", "r.yaml", "--out", out, cwd=tmp_path, chunks=0.1) for out in outs]
        ends = [p.communicate(timeout=100) for p in processes]
        assert {p.returncode for p in processes} == {0}, ends
    assert_sound(Run.open(tmp_path / "run"), Run.open(tmp_path / "alone"))


def test_a_part_that_another_process_finished_meanwhile_is_taken_as_it_is(tmp_path: Path, log: Path) -> None:
    """The other removes the chunks of both and publishes first; ours is dropped, and the counts are the
    published part's."""
    made = run(recipe(tmp_path, models=counting(tmp_path / "log")), tmp_path / "run", base=tmp_path)
    part = Path(str(made.files("write")[0]))
    table = pq.read_table(part)
    index, digest = part.stem.split("-")
    writer = store.PartWriter(store.RunFolder(tmp_path / "run"), "write", int(index), digest, table.schema)
    hidden = part.rename(part.with_suffix(".hidden"))
    writer.add(table.slice(0, 3))
    writer.keep()
    shutil.rmtree(tmp_path / "run" / "write" / "_chunks")
    hidden.rename(part)
    before = part.read_bytes()
    assert writer.finish()["rows"] == table.num_rows == 10
    assert part.read_bytes() == before


def test_a_disk_without_hard_links_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    first = tables(run(recipe(tmp_path), tmp_path / "a", base=tmp_path))
    monkeypatch.setattr(os, "link", refuse)
    assert tables(run(recipe(tmp_path), tmp_path / "b", base=tmp_path)) == first


@pytest.mark.parametrize("how", ["part_rows", "limit", "source"])
def test_parts_that_the_source_no_longer_has_leave_the_run(tmp_path: Path, how: str) -> None:
    made = run(recipe(tmp_path, part_rows=10), tmp_path / "run", base=tmp_path)
    assert len(made.files("write")) == 4
    if how == "source":
        lines = (tmp_path / "captions.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "captions.jsonl").write_text("".join(lines[:25]))
    plan = recipe(tmp_path, part_rows=20 if how == "part_rows" else 10)
    limit = 15 if how == "limit" else None
    before = sorted(p for p in (tmp_path / "run").rglob("*.parquet"))
    with pytest.raises(
        UserError,
        match="limit: nothing -> 15"
        if how == "limit"
        else r"parts are gone \(r0000.*--update drops what was made from them",
    ):
        run(plan, tmp_path / "run", base=tmp_path, limit=limit)
    assert sorted(p for p in (tmp_path / "run").rglob("*.parquet")) == before, "nothing is dropped unasked"
    again = run(plan, tmp_path / "run", base=tmp_path, limit=limit, update=True)
    rows = {"part_rows": 40, "limit": 15, "source": 25}[how]
    assert [r.rows for r in again.ledger()] == [rows] * 4
    assert all(r.adds_up for r in again.ledger())
    assert tables(again) == tables(run(plan, tmp_path / "fresh", base=tmp_path, limit=limit))


@pytest.mark.parametrize("how", ["nothing", "renamed", "source", "policy"])
def test_what_was_made_from_rows_that_changed_since_is_stale(tmp_path: Path, how: str) -> None:
    made = run(recipe(tmp_path), tmp_path / "run", base=tmp_path)
    export(made, tmp_path / "out", format="csv")
    add_product(tmp_path / "run", "dataset", tmp_path / "out")
    more: dict[str, Any] = {}
    if how == "source":
        with open(tmp_path / "captions.jsonl", "a", encoding="utf-8") as handle:
            handle.write('{"key": "new", "caption": "a green frog"}\n')
    elif how == "policy":
        more = {"text_policy": {"edits": [{"remove": {"objects": ["dog"]}}]}}
    elif how == "renamed":
        more = {"paths": [{"other": ["text", "tags", "text*"]}]}
    again = run(recipe(tmp_path, **more), tmp_path / "run", base=tmp_path, update=how == "policy")
    stale = how in ("source", "policy")
    assert [p["stale"] for p in again.products()] == [stale]
    assert (tmp_path / "out" / "STALE.txt").exists() == stale
