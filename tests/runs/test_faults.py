"""Killed with -9 again and again, stopped with Ctrl-C, out of disk: what is finished stays, and the end is
the same."""

import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from ctrlsynth.api.run import Run, run
from ctrlsynth.errors import WorkFailed
from ctrlsynth.storage import files
from ctrlsynth.storage import parts as store
from helpers import assert_sound, calls, counting, recipe, recipe_file, start, tables, until


def slow(base: Path, rows: int, part_rows: int) -> Path:
    """Writes a recipe with the slow writer, eight rows per call; returns the writer's log."""
    llm = {"helpers:SlowLLM": str(base / "log"), "batch": 8}
    recipe_file(base, rows, part_rows, models={"tagger": "wordnet", "llm": llm})
    return base / "log"


def wait_for_calls(process: subprocess.Popen[str], log: Path, number: int) -> None:
    until(lambda: calls(log) >= number, process)


def test_killed_again_and_again_it_ends_with_equal_tables(tmp_path: Path) -> None:
    log = slow(tmp_path, 150, 75)
    moments = (1, 10, 40, 90, 130)
    for asked in moments:
        process = start("run", "r.yaml", "--out", "killed", cwd=tmp_path)
        wait_for_calls(process, log, asked)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    for out in ("killed", "whole"):
        if out == "whole":
            assert calls(log) < 150 + len(moments) * 60, "a kill may cost what was in flight, not a part"
        process = start("run", "r.yaml", "--out", out, cwd=tmp_path)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    assert_sound(Run.open(tmp_path / "killed"), Run.open(tmp_path / "whole"))


def test_ctrl_c_keeps_finished_rows_and_exits_130(tmp_path: Path) -> None:
    """Only the call that is interrupted is lost: every batch that was answered waits for the writing thread,
    which saves it."""
    log = slow(tmp_path, 300, 300)
    process = start("run", "r.yaml", "--out", "run", cwd=tmp_path)
    wait_for_calls(process, log, 41)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "the same command again" in err
    asked = calls(log)
    again = start("run", "r.yaml", "--out", "run", cwd=tmp_path)
    again.communicate(timeout=600)
    assert again.returncode == 0
    assert calls(log) <= 300 + 8 < 300 + asked, "only what was in flight is asked for twice"


def test_a_full_disk_keeps_finished_rows_and_says_so(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = recipe(tmp_path, models=counting(log))
    publish = files.publish

    def full(made: Path, final: Path) -> bool:
        if final.name.startswith("00002-") and final.parent.name == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(made))
        return publish(made, final)

    monkeypatch.setattr(store, "publish", full)
    with pytest.raises(WorkFailed, match="the disk is full; make room"):
        run(plan, tmp_path / "run", base=tmp_path)
    monkeypatch.setattr(store, "publish", publish)
    made = run(plan, tmp_path / "run", base=tmp_path)
    assert calls(log) <= 60
    assert made.ledger()[2].ok == 40


def test_a_second_writer_keeps_the_firsts_part(tmp_path: Path) -> None:
    final = tmp_path / "part"
    for text in ("first", "second"):
        made = tmp_path / f"made-{text}"
        made.write_text(text)
        assert files.publish(made, final) is (text == "first")
    assert final.read_text() == "first"


def test_a_cut_chunk_costs_its_rows_and_nothing_else(tmp_path: Path, log: Path) -> None:
    plan = recipe(tmp_path, models=counting(log))
    made = run(plan, tmp_path / "run", base=tmp_path)
    first = tables(made)
    part = Path(str(made.files("write")[0]))
    chunks = tmp_path / "run" / "write" / "_chunks" / part.stem
    chunks.mkdir(parents=True)
    (chunks / "0.parquet").write_bytes(part.read_bytes()[:-100])
    part.unlink()
    assert tables(run(plan, tmp_path / "run", base=tmp_path)) == first
    assert calls(log) == 50
    assert not chunks.exists()
