"""What keeps runs fast, counted instead of timed, so that a busy machine cannot fail a test: files opened,
modules loaded, rows in memory, garbage collections.

`benchmarks/overhead.py`, `pipeline.py` and `again.py` measure the speed.
"""

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ctrlsynth.api.run import run
from ctrlsynth.data.streams import open_stream
from ctrlsynth.data.tables import Table, records
from ctrlsynth.runs.local import COLLECT_AFTER, fewer_collections
from ctrlsynth.runs.watch import Watcher
from ctrlsynth.stages.base import Item
from helpers import ROOT, TESTS, recipe

BENCHMARKS = ROOT / "benchmarks"
NULL = {"models": {"tagger": "null_models:NullTagger", "llm": "null_models:NullLLM"}}


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
    assert (again.ledger(), opened) == (first, [])
    next(again.rows("read"))
    assert len(opened) == 1  # the counter does count


def test_a_finished_run_again_loads_no_engine(tmp_path: Path) -> None:
    run(recipe(tmp_path, 12, 4), tmp_path / "run", base=tmp_path)
    heavy = "onnxruntime onnx xllamacpp torch matplotlib pandas scipy resvg_py regex ftfy emoji".split()
    code = (
        f"import sys, json; sys.path.insert(0, {str(TESTS)!r}); from pathlib import Path; from helpers "
        f"import recipe;"
        "from ctrlsynth.api.run import run; base = Path(sys.argv[1]); run(recipe(base, 12, 4), base / "
        "'run', base=base).ledger();"
        f"print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_rows_in_memory_are_bounded_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    alive: list[int] = []

    class Census(Watcher):
        def part(self, folder: str, index: int, counts: dict[str, Any]) -> None:
            if index % 10 == 5:
                alive.append(sum(type(o) is Item for o in gc.get_objects()))

    run(recipe(tmp_path, 3000, 100, **NULL), tmp_path / "run", base=tmp_path, watcher=Census())
    assert len(alive) == 12
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
    assert (within, gc.get_threshold()) == ([(COLLECT_AFTER, *before[1:])], before)
    gc.set_threshold(0)
    try:
        with fewer_collections():
            assert gc.get_threshold()[0] == 0  # whoever has switched it off keeps it off
    finally:
        gc.set_threshold(*before)


def test_jsonl_is_cut_where_its_records_end_without_parsing_them(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    lines = (b'{"caption": "a"}\n\nnot json\n{"caption": "\xff"}\n[1, 2]\n{"caption": "b\\nc"}\n  \n') * 3
    path.write_bytes(b'{"caption": "first"}\n' + lines.removesuffix(b"\n"))
    with open_stream(str(path)) as stream:
        ends = [0, *(end for end, _, _ in records(stream, "jsonl", 0))]
    table = Table(str(path))
    for rows in (1, 2, 5, 100):
        want = [(ends[i], min(rows, len(ends) - 1 - i)) for i in range(0, len(ends) - 1, rows)]
        assert table.cuts(rows, None) == want
    assert table.cuts(4, 6) == [(0, 4), (ends[4], 2)]
