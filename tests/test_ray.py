"""The Ray engine on a real cluster of several nodes on this machine: equal tables, and nothing lost or made twice whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest

from ctrlsynth.errors import UserError, WorkFailed
from ctrlsynth.place import Remote
from ctrlsynth.recipe import Recipe
from ctrlsynth.runs import Run, run
from ctrlsynth.store import read_json
from helpers import TIME, recipe, tables
from s3_server import s3_server

HERE = Path(__file__).parent
LOOPBACK = "127.0.0.2"  # Ray takes 127.0.0.1 for "this machine's outer address"
NODE = {"object_store_memory": 80 * 2**20, "node_ip_address": LOOPBACK}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes with two each; they know an S3 server. The tests' process is the driver's."""
    import ray
    from ray.cluster_utils import Cluster

    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    with s3_server(), mock.patch.dict(os.environ, {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}):
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **NODE})
        for _ in range(2):
            made.add_node(num_cpus=2, **NODE)
        ray.init(address=made.address, log_to_driver=False)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def slow(base: Path, rows: int = 24, **changes: Any) -> Recipe:
    return recipe(base, rows, part_rows=4, models={"tagger": "wordnet", "llm": {"ray_models:SlowWriter": str(base / "log")}}, **changes)


def seen(base: Path) -> list[list[str]]:
    """(process, node, row) of every request that a slow writer has got."""
    log = base / "log"
    return [line.split(" ", 2) for line in log.read_text().splitlines()] if log.exists() else []


def when(base: Path, requests: int, what: Callable[[list[list[str]]], None]) -> threading.Thread:
    """Does something as soon as the slow writers have seen so many requests."""

    def wait() -> None:
        ends = time.monotonic() + 120
        while len(seen(base)) < requests and time.monotonic() < ends:
            time.sleep(0.02)
        what(seen(base))

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def ledgers(made: Run) -> dict[str, Any]:
    """Every `_stage.json` without times."""
    out = {}
    for step in made.steps:
        stored = read_json(made.root / step.folder / "_stage.json") or {}
        parts = {i: {k: v for k, v in p.items() if k not in TIME} for i, p in sorted(stored["parts"].items())}
        out[step.folder] = {**stored, "parts": parts}
    return out


def assert_sound(made: Run, whole: Run) -> None:
    """Equal tables, every row once, nothing left over."""
    assert tables(made) == tables(whole)
    ids = [r["id"] for s in made.steps for r in made.rows(s.folder, ["id"])]
    assert len(ids) == len(set(ids)) == sum(r.rows for r in made.ledger())
    assert all(r.adds_up for r in made.ledger())
    left = made.root.below() if isinstance(made.root, Remote) else [p for p in made.root.rglob("*") if p.is_file()]
    assert not [f for f in left if ".tmp-" in f.name or "/_chunks/" in str(f)]


def test_tables_and_ledgers_are_those_of_the_local_engine(cluster: Any, tmp_path: Path) -> None:
    engines = {"ray": {"write": {"concurrency": 1, "cpus": 0.5}, "judge-text": {"concurrency": [1, 2], "cpus": 0.5}}}
    whole = run(slow(tmp_path), tmp_path / "local", base=tmp_path)
    made = run(slow(tmp_path, engines=engines), tmp_path / "ray", base=tmp_path, engine="ray")
    assert_sound(made, whole)
    assert ledgers(made) == ledgers(whole)
    assert len(seen(tmp_path)) == 48
    again = run(slow(tmp_path), tmp_path / "ray", base=tmp_path, engine="ray")
    assert len(seen(tmp_path)) == 48, "a finished run asks no model, and engines are no part of the plan"
    assert ledgers(again) == ledgers(whole)


def test_a_barrier_stands_between_the_parts(cluster: Any, tmp_path: Path) -> None:
    from test_balance_path import balanced, captions, only_balance

    captions(tmp_path)
    runs = [tables(only_balance(balanced(tmp_path), tmp_path, engine, engine=engine)) for engine in ("local", "ray")]
    assert runs[0] == runs[1]
    assert len(runs[0]["balance"]) > 0


def test_a_run_folder_on_s3(cluster: Any, tmp_path: Path) -> None:
    made = run(recipe(tmp_path), "s3://bucket/runs/ray", base=tmp_path, engine="ray")
    assert_sound(made, run(recipe(tmp_path), tmp_path / "local", base=tmp_path))


def test_an_actor_that_is_killed_costs_its_part_s_work(cluster: Any, tmp_path: Path) -> None:
    killed: list[str] = []

    def kill(requests: list[list[str]]) -> None:
        killed.append(requests[-1][0])
        os.kill(int(requests[-1][0]), signal.SIGKILL)

    thread = when(tmp_path, 6, kill)
    made = run(slow(tmp_path), tmp_path / "ray", base=tmp_path, engine="ray")
    thread.join()
    asked = seen(tmp_path)
    assert killed[0] != asked[-1][0], "another process has gone on"
    assert 24 < len(asked) <= 28, "the rows of one part are asked for again"
    assert_sound(made, run(slow(tmp_path), tmp_path / "local", base=tmp_path))


def quiet(base: Path) -> int:
    """How many rows have been asked for once nobody asks any more."""
    counts = [-1, len(seen(base))]
    while counts[-1] != counts[-2]:
        time.sleep(2)
        counts.append(len(seen(base)))
    return counts[-1]


def test_a_driver_that_is_killed_goes_on_where_it_stopped(cluster: Any, tmp_path: Path) -> None:
    slow(tmp_path)
    text = "name: test\nsource: {text: captions.jsonl, part_rows: 4, key_column: key}\npaths: [{rewrite: [text, tags, text*]}]\n"
    (tmp_path / "r.yaml").write_text(f"{text}models: {{tagger: wordnet, llm: {{'ray_models:SlowWriter': {tmp_path / 'log'}}}}}\n")
    words = ["run", "r.yaml", "--out", "ray", "--engine", "ray", "--address", cluster.address, "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from ctrlsynth.cli import main; main()", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    when(tmp_path, 10, lambda _: process.send_signal(signal.SIGKILL)).join()
    process.communicate()
    before = quiet(tmp_path)  # the actors end a moment after their driver
    assert 10 <= before < 24
    done = len(list((tmp_path / "ray" / "write").glob("*.parquet")))
    made = run(tmp_path / "r.yaml", tmp_path / "ray", engine="ray")
    assert len(seen(tmp_path)) - before <= 24 - 4 * done, "finished parts are not made again"
    assert_sound(made, run(slow(tmp_path), tmp_path / "local", base=tmp_path))


def test_matching_as_tasks_makes_the_files_that_threads_make(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "bank.txt").write_text("dog\ncat\nhot dog\n")
    for number in range(3):
        lines = [f"A {('dog', 'cat', 'hot dog', 'Zebra')[(n + number) % 4]}, number {n}." for n in range(50)]
        (tmp_path / f"{number}.txt").write_text("\n".join(lines))
    words = ["concepts", "match", *[f"{n}.txt" for n in range(3)], "--bank", "bank.txt", "--json", "--out"]
    for more in (["local"], ["ray", "--engine", "ray", "--address", cluster.address]):
        program = [sys.executable, "-c", "from ctrlsynth.cli import main; main()", *words, *more]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["texts"] == 150
    for number in range(3):
        one, other = (pq.read_table(tmp_path / name / f"matches-{number:05d}.parquet") for name in ("local", "ray"))
        assert one.equals(other)
        assert sum(map(len, one["entries"].to_pylist())) > 30


def test_a_node_that_cannot_see_the_folder_is_named(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"^node {LOOPBACK} \([0-9a-f]{{8}}\): cannot read the run's folder \([^\n]*; every node needs [^\n]*$"
    ):
        run(recipe(tmp_path), "memory://ray", base=tmp_path, engine="ray")
    blind = cluster.add_node(num_cpus=1, env_vars={"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, **NODE)
    try:
        with pytest.raises(UserError, match=rf"\({blind.node_id[:8]}\): cannot read the run's folder"):
            run(recipe(tmp_path), "s3://bucket/runs/blind", base=tmp_path, engine="ray")
    finally:
        cluster.remove_node(blind)


def test_what_stops_the_work_on_a_node_stops_the_run_in_one_line(cluster: Any, tmp_path: Path) -> None:
    faulty = {"tagger": "wordnet", "llm": {"helpers:FaultyLLM": "raise", "when": "boat"}}
    plan = recipe(tmp_path, models=faulty, faults={"after": 10, "max_error_rate": 0.1})
    with pytest.raises(WorkFailed, match=rf"^write: [^\n]*the engine is on fire[^\n]*\(on node {LOOPBACK}\)$"):
        run(plan, tmp_path / "run", base=tmp_path, engine="ray")
    stored = read_json(tmp_path / "run" / "write" / "_stage.json") or {}
    assert "the engine is on fire" in stored["first_error"]
    plan = recipe(tmp_path, engines={"ray": {"write": {"gpus": 2}}})
    with pytest.raises(UserError, match=r"engines\.ray: write asks for 1 x 1 CPUs, 2 GPUs, which the cluster of 3 nodes does not hold"):
        run(plan, tmp_path / "gpus", base=tmp_path, engine="ray")


def test_a_model_s_relative_path_starts_where_the_command_was_given(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.bin").write_text("There is a dog.")
    monkeypatch.chdir(tmp_path)
    plan = recipe(tmp_path, models={"tagger": "wordnet", "llm": {"ray_models:WithFile": "weights.bin"}})
    made = run(plan, "ray", base=tmp_path, engine="ray")
    assert {r["text"] for r in made.rows("write")} == {"There is a dog."}
    assert_sound(made, run(plan, "local", base=tmp_path))


def test_a_model_that_a_node_lacks_is_one_line_whatever_part_is_asked_next(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("There is a dog.")
    model = {"ray_models:WithFile": str(tmp_path / "weights.bin"), "only": os.getpid()}
    plan = recipe(tmp_path, 24, part_rows=2, models={"tagger": "wordnet", "llm": model}, engines={"ray": {"write": {"concurrency": 1}}})
    with pytest.raises(UserError, match=rf"^[^\n]*weights\.bin: no such file \(on node {LOOPBACK}\)$"):
        run(plan, tmp_path / "run", base=tmp_path, engine="ray")


def test_an_address_where_nothing_listens_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a dog\n")
    text = "name: r\nsource: {text: captions.txt}\nmodels: {llm: realizer}\npaths: [{a: [text, text*]}]\n"
    (tmp_path / "r.yaml").write_text(text)
    code = "from ctrlsynth.cli import main; main()"
    words = [sys.executable, "-c", code, "run", "r.yaml", "--engine", "ray", "--address", "127.0.0.1:1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.strip() == "ctrlsynth: --address 127.0.0.1:1: nothing answers there (Connection refused)"


def test_a_part_that_always_takes_its_actor_down_stops_the_run(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctrlsynth.engines import ray as engine

    monkeypatch.setattr(engine, "BEGINS", 2)
    plan = recipe(tmp_path, models={"tagger": "wordnet", "llm": {"ray_models:Crasher": "boat"}})
    with pytest.raises(WorkFailed, match=r"write: part \d+ was begun 2 times and its actor died each time"):
        run(plan, tmp_path / "run", base=tmp_path, engine="ray")


def test_a_node_that_is_killed_in_the_middle_leaves_no_gap(cluster: Any, tmp_path: Path) -> None:
    """The last test of this cluster: what is left of it can't hold all pools at once, and the run goes on in two groups."""
    nodes = {n.node_id: n for n in cluster.worker_nodes}
    thread = when(tmp_path, 6, lambda requests: cluster.remove_node(nodes[requests[-1][1]], allow_graceful=False))
    made = run(slow(tmp_path), tmp_path / "ray", base=tmp_path, engine="ray")
    thread.join()
    assert len({node for _, node, _ in seen(tmp_path)}) == 2, "another node has gone on"
    assert 24 < len(seen(tmp_path)) <= 32
    assert_sound(made, run(slow(tmp_path), tmp_path / "local", base=tmp_path))
