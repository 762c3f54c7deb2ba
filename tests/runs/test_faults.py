"""Killed with -9 again and again, stopped with Ctrl-C, out of disk: what is finished stays, and the end is
the same."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctrlsynth.api.run import Run, run
from ctrlsynth.errors import WorkFailed
from ctrlsynth.storage import files
from ctrlsynth.storage import parts as store
from helpers import TESTS, calls, recipe, tables, write_captions

SLOW = """name: kill
source: {{text: captions.jsonl, part_rows: {part_rows}, key_column: key}}
models: {{tagger: wordnet, llm: {llm}}}
paths: [{{p: [text, tags, text*]}}]
"""
DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored
from pathlib import Path
from ctrlsynth.storage import parts as store
from ctrlsynth.cli.main import main
store.CHUNK_SECONDS = 0
sys.argv = ["ctrlsynth", "run", sys.argv[1], "--out", sys.argv[2]]
main()
"""


def start(base: Path, out: Path) -> subprocess.Popen[bytes]:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(TESTS), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        ),
    }
    command = [sys.executable, "-c", DRIVER, str(base / "r.yaml"), str(out)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def slow(log: Path) -> str:
    """The slow writer as a recipe names it, eight rows per call."""
    return json.dumps({"helpers:SlowLLM": str(log), "batch": 8})


def wait_for_calls(process: subprocess.Popen[bytes], log: Path, number: int) -> None:
    """Waits until the writer was asked for this many rows; it must not end before."""
    while calls(log) < number:
        assert process.poll() is None
        time.sleep(0.01)


def test_killed_again_and_again_it_ends_with_equal_tables(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_captions(tmp_path / "captions.jsonl", 150)
    (tmp_path / "r.yaml").write_text(SLOW.format(part_rows=75, llm=slow(log)))
    moments = (1, 10, 40, 90, 130)
    for asked in moments:
        process = start(tmp_path, tmp_path / "killed")
        wait_for_calls(process, log, asked)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    for out in ("killed", "whole"):
        if out == "whole":
            assert calls(log) < 150 + len(moments) * 60, "a kill may cost what was in flight, not a part"
        process = start(tmp_path, tmp_path / out)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err.decode()
    assert tables(Run.open(tmp_path / "killed")) == tables(Run.open(tmp_path / "whole"))
    assert not list((tmp_path / "killed").glob("*/.tmp-*"))
    assert not list((tmp_path / "killed").glob("*/_chunks/*/*"))


def test_ctrl_c_keeps_finished_rows_and_exits_130(tmp_path: Path) -> None:
    """Only the call that is interrupted is lost: every batch that was answered waits for the writing thread,
    which saves it."""
    log = tmp_path / "log"
    write_captions(tmp_path / "captions.jsonl", 300)
    (tmp_path / "r.yaml").write_text(SLOW.format(part_rows=300, llm=slow(log)))
    process = start(tmp_path, tmp_path / "run")
    wait_for_calls(process, log, 41)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err.decode()
    assert "the same command again" in err.decode()
    asked = calls(log)
    again = start(tmp_path, tmp_path / "run")
    assert again.wait(timeout=600) == 0
    again.communicate()
    assert calls(log) <= 300 + 8 < 300 + asked, "what was in flight is asked again"


def test_a_full_disk_keeps_finished_rows_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    plan = recipe(tmp_path, models={"tagger": "wordnet", "llm": {"helpers:CountingLLM": str(log)}})
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


def test_a_cut_chunk_costs_its_rows_and_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "log"
    plan = recipe(tmp_path, models={"tagger": "wordnet", "llm": {"helpers:CountingLLM": str(log)}})
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
