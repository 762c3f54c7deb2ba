"""Runs that commit d20923a finished: later versions read them, and do not ask their production models again.

The runs are in tests/files/finished, whose README says how they were made. The checkpoints hold no weights,
so a model that is asked fails, and the last test shows that it does.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servers import FaultyServer, completion

STORED = Path(__file__).parents[1] / "files" / "finished"
MAIN = "from ctrlsynth.cli.main import main; main()"
PRODUCTION = ("server", "transformers", "vllm", "diffusers")
ASKED = {"server": "write", "transformers": "write", "vllm": "write", "diffusers": "paint"}
"""The stage whose rows come from the production model."""
OTHER = {
    "server": "models.llm.temperature=0.5",
    "transformers": "models.llm.temperature=0.5",
    "vllm": "models.llm.temperature=0.5",
    "diffusers": "models.text_to_image.steps=3",
}
"""A change of the recipe after which the model must be called again."""
FAILS = {
    "transformers": "SafetensorError",
    "vllm": "a vLLM engine was started",
    "diffusers": "checkpoints/painter",
}
"""What a model without weights says when it is asked."""
DIFFUSERS = {"diffusers": "0.42.1", "compel": "2.5.1"}
"""Versions at recording. They are part of a diffusers model's digest: another version is called again."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the stored runs, in which the absolute paths of images are adapted."""
    copy = shutil.copytree(STORED, tmp_path / "finished")
    for part in (copy / "runs" / "embedded" / "read").glob("*.parquet"):
        table = pq.read_table(part)
        files = [str(copy / "photographs" / Path(file).name) for file in table["file"].to_pylist()]
        column = table.schema.get_field_index("file")
        pq.write_table(table.set_column(column, table.schema.field("file"), pa.array(files)), part)
    return copy


def ctrlsynth(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line, run in `folder`, where the stand-in for vLLM can be imported."""
    more = {
        "PYTHONPATH": str(folder / "packages"),
        "OPENAI_API_KEY": "none",
        "COLUMNS": "160",
        "NO_COLOR": "1",
    }
    command = [sys.executable, "-c", MAIN, *words]
    env = os.environ | more
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def done(folder: Path, *words: str) -> str:
    """What the command prints; it must succeed."""
    said = ctrlsynth(folder, *words)
    assert said.returncode == 0, said.stderr
    return said.stdout


def rows(run: Path, stage: str) -> list[dict[str, Any]]:
    """A stage's rows, read from its parts."""
    parts = sorted((run / stage).glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_status_reads_it(folder: Path) -> None:
    ledger = json.loads(done(folder, "status", "runs/embedded", "--json"))["ledger"]
    assert all(row["adds_up"] for row in ledger)
    counts = {row["folder"]: (row["rows"], row["ok"]) for row in ledger}
    assert counts.pop("judge-image") == (3, 1)
    assert counts == dict.fromkeys(("read", "tag", "write", "judge-text", "paint", "tag.2"), (3, 3))
    assert "adds up" in done(folder, "status", "runs/embedded")


def test_explain_tells_a_sample_s_story(folder: Path) -> None:
    story = done(folder, "explain", "runs/embedded", "r00000:cat/tag/write.0/paint.0")
    assert "red cat" in story
    assert "blue dog" in story
    assert "verdict" in story
    assert "recall" in done(folder, "explain", "runs/embedded")


def test_sweep_counts_what_each_threshold_keeps(folder: Path) -> None:
    swept = json.loads(done(folder, "sweep", "runs/embedded", "--json"))
    assert swept == json.loads((folder / "sweep.json").read_text())


def test_export_writes_the_pairs(folder: Path) -> None:
    told = json.loads(done(folder, "export", "runs/embedded", "--out", "dataset", "--json"))
    assert told["written"] == json.loads((folder / "export.json").read_text())
    assert not told["lost"]
    assert list((folder / "dataset").glob("*.tar"))


def test_report_writes_the_gallery(folder: Path) -> None:
    page = Path(json.loads(done(folder, "report", "runs/embedded", "--out", "gallery", "--json"))["report"])
    assert (folder / page).exists()
    files = [path for path in (folder / "gallery").rglob("*") if path.is_file()]
    assert any(b"blue dog" in path.read_bytes() for path in files)


def skip_other_versions(name: str) -> None:
    if name == "diffusers" and {package: version(package) for package in DIFFUSERS} != DIFFUSERS:
        pytest.skip(f"the run was made with {DIFFUSERS}")


def recipe_for(folder: Path, name: str, url: str) -> str:
    """The recipe's file, with the server's address of today."""
    path = folder / f"{name}.yaml"
    path.write_text(path.read_text().replace("http://127.0.0.1:8765/v1", url))
    return path.name


@pytest.mark.parametrize("name", ["embedded", *PRODUCTION])
def test_update_asks_no_production_model_again(name: str, folder: Path) -> None:
    """The source lies in another folder now, so each part is made again, from the rows that are there."""
    skip_other_versions(name)
    run, stage = folder / "runs" / name, ASKED.get(name, "write")
    parts, before = {p.name for p in (run / stage).glob("*.parquet")}, rows(run, stage)
    assert [row["status"] for row in before] == ["ok"] * 3
    with FaultyServer(lambda n, body: completion("Asked again.")) as server:
        recipe = recipe_for(folder, name, server.url)
        told = json.loads(done(folder, "run", recipe, "--out", f"runs/{name}", "--update", "--json"))
        assert server.seen == []
    after = rows(run, stage)
    if name == "embedded":  # made again, alike: embedded models got explicit versions after d20923a
        after, before = (
            [{k: v for k, v in row.items() if k not in ("key", "seconds")} for row in r]
            for r in (after, before)
        )
    assert after == before
    assert parts.isdisjoint(p.name for p in (run / stage).glob("*.parquet"))
    assert all(row["adds_up"] for row in told["ledger"])


@pytest.mark.parametrize("name", PRODUCTION)
def test_a_change_that_concerns_the_model_does_ask_it(name: str, folder: Path) -> None:
    """So the test above can fail."""
    run = folder / "runs" / name
    with FaultyServer(lambda n, body: completion("Asked again.")) as server:
        words = ("--out", f"runs/{name}", "--update", "--set", OTHER[name])
        said = ctrlsynth(folder, "run", recipe_for(folder, name, server.url), *words)
        assert len(server.seen) == (3 if name == "server" else 0)
    if name == "server":
        assert said.returncode == 0, said.stderr
        assert [row["text"] for row in rows(run, "write")] == ["Asked again."] * 3
    else:
        assert said.returncode != 0
        assert FAILS[name] in said.stderr
