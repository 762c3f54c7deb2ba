"""What keeps runs fast, as tests that a busy machine cannot fail: processor time with a wide margin, and counts instead of clocks.

The figures themselves are measured by `benchmarks/pipeline.py` and `benchmarks/again.py`.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ctrlsynth.data.records import Table, open_binary, records
from ctrlsynth.engines.local import COLLECT_AFTER, Silent, fewer_collections
from ctrlsynth.runs import run
from ctrlsynth.stages import Item
from helpers import recipe

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NULL = {"models": {"tagger": "null_models:NullTagger", "llm": "null_models:NullLLM"}}


def test_the_pipeline_itself_makes_thousands_of_rows_a_cpu_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    plan = recipe(tmp_path, 5000, 1000, **NULL)
    run(plan, tmp_path / "warm", base=tmp_path, limit=500)  # tables and words are read once
    best = 0.0
    for turn in range(4):
        started = time.process_time()
        made = run(plan, tmp_path / str(turn), base=tmp_path)
        best = max(best, 5000 / (time.process_time() - started))
        assert [row.ok + sum(row.dropped.values()) for row in made.ledger()] == [5000] * 4
        if best >= 4000:
            return
    assert best >= 4000, f"{best:.0f} rows a CPU second through read, tag, write and judge; 8,000 are the goal"


def test_a_finished_run_again_opens_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = recipe(tmp_path, 40, 4)
    first = run(plan, tmp_path / "run", base=tmp_path).ledger()
    opened: list[str] = []

    class Counting(pq.ParquetFile):  # type: ignore[misc]
        def __init__(self, source: Any, *args: Any, **options: Any) -> None:
            opened.append(str(source))
            super().__init__(source, *args, **options)

    monkeypatch.setattr(pq, "ParquetFile", Counting)
    again = run(plan, tmp_path / "run", base=tmp_path)
    assert again.ledger() == first
    assert opened == []
    next(again.rows("read"))
    assert len(opened) == 1  # the counter does count


def test_a_finished_run_again_loads_no_engine(tmp_path: Path) -> None:
    run(recipe(tmp_path, 12, 4), tmp_path / "run", base=tmp_path)
    heavy = ("onnxruntime", "onnx", "xllamacpp", "torch", "matplotlib", "pandas", "scipy", "resvg_py", "regex", "ftfy", "emoji")
    code = (
        f"import sys, json; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; from helpers import recipe;"
        "from ctrlsynth.runs import run; base = Path(sys.argv[1]); run(recipe(base, 12, 4), base / 'run', base=base).ledger();"
        f"print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_rows_in_memory_are_bounded_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    alive: list[int] = []

    class Census(Silent):
        def part(self, folder: str, index: int, counts: dict[str, Any]) -> None:
            if index % 3 == 0:
                alive.append(sum(type(o) is Item for o in gc.get_objects()))

    run(recipe(tmp_path, 3000, 100, **NULL), tmp_path / "run", base=tmp_path, watcher=Census())
    assert len(alive) == 40
    assert 0 < max(alive) < 1800  # a dozen blocks of 100 rows on their way between the threads, of 3,000


def test_collections_are_rarer_within_a_run_and_as_before_behind_it() -> None:
    before = gc.get_threshold()
    within = []

    def fail() -> None:
        with fewer_collections():
            within.append(gc.get_threshold())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert within == [(COLLECT_AFTER, *before[1:])]
    assert gc.get_threshold() == before
    gc.set_threshold(0)
    try:
        with fewer_collections():
            assert gc.get_threshold()[0] == 0  # whoever has switched it off keeps it off
    finally:
        gc.set_threshold(*before)


def test_jsonl_is_cut_where_its_records_end_without_parsing_them(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    lines = [b'{"caption": "a"}', b"", b"not json", b'{"caption": "\xff"}', b"[1, 2]", b'{"caption": "b\\nc"}', b"  "] * 3
    path.write_bytes(b'{"caption": "first"}\n' + b"\n".join(lines))
    with open_binary(str(path)) as stream:
        ends = [0, *(end for end, _, _ in records(stream, "jsonl", 0))]
    table = Table(str(path))
    for rows in (1, 2, 5, 100):
        want = [(ends[i], min(rows, len(ends) - 1 - i)) for i in range(0, len(ends) - 1, rows)]
        assert table.cuts(rows, None) == want
    assert table.cuts(4, 6) == [(0, 4), (ends[4], 2)]
