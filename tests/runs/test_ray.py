"""The Ray engine on a real cluster of several nodes on this machine: equal tables, and nothing lost or made
twice whatever dies."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest

from ctrlsynth.api.run import Run, run
from ctrlsynth.errors import UserError, WorkFailed
from ctrlsynth.recipe.schema import Engines, Recipe
from ctrlsynth.runs.watch import Watcher
from ctrlsynth.storage.files import read_json
from helpers import TESTS, TIME, assert_sound, ctrlsynth, recipe, recipe_file, start, until
from s3_server import s3_server

LOOPBACK = "127.0.0.2"  # Ray takes 127.0.0.1 for "this machine's outer address"
ALONE = {"ray": {name: {"concurrency": 1} for name in ("read", "match", "balance", "tag", "write")}}
"""One actor a stage; an actor costs a process's start."""
NODE = {"object_store_memory": 80 * 2**20, "node_ip_address": LOOPBACK}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes with two each; they know an S3 server. The tests' process is the
    driver's."""
    import ray
    from ray.cluster_utils import Cluster

    path = os.pathsep.join([str(TESTS), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    env = {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    env["RAY_idle_worker_killing_time_threshold_ms"] = (
        "600000"  # processes that looked for the folder become actors instead of ending
    )
    with s3_server(), mock.patch.dict(os.environ, env):
        made = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **NODE}
        )
        for _ in range(2):
            made.add_node(num_cpus=2, **NODE)
        ray.init(address=made.address, log_to_driver=False)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def written(base: Path, llm: Any = "ray_models:Writer", rows: int = 24, **changes: Any) -> Recipe:
    """The fewest pools: captions are read and written anew, one actor each."""
    llm = {llm: str(base / "log")} if isinstance(llm, str) else llm
    given = {"models": {"llm": llm}, "paths": {"p": ["text", "text*"]}, "judge": None, "engines": ALONE}
    return recipe(base, rows, part_rows=4, **{**given, **changes})


def seen(base: Path) -> list[list[str]]:
    """(process, node, row) of every request that the writers have got."""
    log = base / "log"
    return [line.split(" ", 2) for line in log.read_text().splitlines()] if log.exists() else []


def when(base: Path, stop: int, what: Callable[[int, str], None]) -> threading.Thread:
    """Does something with the process and the node that have stopped at a row, in the middle of their
    part."""

    def wait() -> None:
        told = base / f"log.stop-{stop}"
        until(lambda: told.exists() and told.read_text())
        process, node = told.read_text().split()
        what(int(process), node)

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


def test_an_address_where_nothing_listens_is_an_error_at_once(tmp_path: Path) -> None:
    """Before the tests of this file that are in a cluster already."""
    words = ("run", recipe_file(tmp_path), "--engine", "ray", "--address", "127.0.0.1:1")
    code, _, err = ctrlsynth(*words)
    told = "ctrlsynth: --address 127.0.0.1:1: nothing answers there (Connection refused)"
    assert (code, err.strip()) == (2, told)


def test_on_s3_and_with_a_barrier_tables_and_ledgers_are_those_of_the_local_engine(
    cluster: Any, tmp_path: Path
) -> None:
    """Six stages in two groups, because a barrier separates them; the local engine writes to a
    folder."""
    (tmp_path / "bank.txt").write_text("dog\nred dog\ncat\nball\n")
    pools = {
        **ALONE["ray"],
        "write": {"concurrency": 1, "cpus": 0.5},
        "judge-text": {"concurrency": [1, 2], "cpus": 0.5},
    }
    changes: dict[str, Any] = {
        "paths": {"p": ["text", "balance", "tags", "text*"]},
        "balance": {"size": 16, "bank": "bank.txt"},
    }
    models = {"tagger": "wordnet", "llm": {"ray_models:Writer": str(tmp_path / "log")}}
    plan = recipe(tmp_path, 40, part_rows=20, models=models, **changes)
    whole = run(plan, tmp_path / "local", base=tmp_path)
    asked = len(seen(tmp_path))
    assert 8 < asked < 32, "the balance has taken some"
    told: list[Any] = []

    class Ear(Watcher):
        def gathered(self, folder: str, found: dict[str, Any]) -> None:
            told.append((folder, round(found["expected"]), len(seen(tmp_path))))

    pooled = plan.model_copy(update={"engines": Engines(ray=pools)})
    made = run(pooled, "s3://bucket/runs/ray", base=tmp_path, engine="ray", watcher=Ear())
    assert told == [("balance", 16, asked)], (
        "the expected size is reported before anything is drawn and written"
    )
    assert_sound(made, whole)
    assert ledgers(made) == ledgers(whole)
    assert len(seen(tmp_path)) == 2 * asked
    again = run(plan, "s3://bucket/runs/ray", base=tmp_path, engine="ray")
    assert len(seen(tmp_path)) == 2 * asked, (
        "a finished run asks no model, and engines are no part of the plan"
    )
    assert ledgers(again) == ledgers(whole)


def test_an_actor_and_then_the_driver_are_killed(cluster: Any, tmp_path: Path) -> None:
    """The same command continues where it stopped. Its paths, and the model's, are relative to where the
    command was given."""
    whole = run(written(tmp_path), tmp_path / "local", base=tmp_path)
    (tmp_path / "log").unlink()
    models = {"llm": {"ray_models:Writer": "log", "stops": [6, 16]}}
    recipe_file(
        tmp_path, part_rows=4, models=models, paths={"p": ["text", "text*"]}, judge=None, engines=ALONE
    )
    words = ["run", "r.yaml", "--out", "ray", "--engine", "ray", "--address", cluster.address, "--json"]
    process = start(*words, cwd=tmp_path)
    when(tmp_path, 6, lambda actor, _: os.kill(actor, signal.SIGKILL)).join()
    when(tmp_path, 16, lambda *_: process.send_signal(signal.SIGKILL)).join()
    process.communicate()
    first, second = (int((tmp_path / f"log.stop-{n}").read_text().split()[0]) for n in (6, 16))
    assert first != second, "another process has continued"
    until(lambda: not Path(f"/proc/{second}").exists())  # actors end with their driver
    assert len(list((tmp_path / "ray" / "write").glob("*.parquet"))) == 3, (
        "a part in the middle of which an actor dies is made again"
    )
    again = start(*words, cwd=tmp_path)
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert len(seen(tmp_path)) == 16 + 24 - 12, "finished parts are not made again"
    assert_sound(Run.open(tmp_path / "ray"), whole)


def test_matching_as_tasks_makes_the_files_that_threads_make(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bank.txt").write_text("dog\ncat\nhot dog\n")
    for number in range(3):
        lines = [f"A {('dog', 'cat', 'hot dog', 'Zebra')[(n + number) % 4]}, number {n}." for n in range(50)]
        (tmp_path / f"{number}.txt").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    files = [f"{n}.txt" for n in range(3)]
    engines: dict[str, list[str]] = {"local": [], "ray": ["--engine", "ray", "--address", cluster.address]}
    for name, more in engines.items():
        code, out, _ = ctrlsynth(
            "concepts", "match", *files, "--bank", "bank.txt", "--json", "--out", name, *more
        )
        assert (code, json.loads(out)["texts"]) == (0, 150)
    for number in range(3):
        mine, theirs = (pq.read_table(tmp_path / name / f"matches-{number:05d}.parquet") for name in engines)
        assert mine.equals(theirs)
        assert sum(map(len, mine["entries"].to_pylist())) > 30
    words = ("concepts", "coverage", "ray", "--vs", "local", "--json")
    (code, one, _), (_, other, _) = (ctrlsynth(*words, *more) for more in engines.values())
    assert (code, one) == (0, other)
    assert json.loads(one)["sets"][0]["texts"] == 150


def test_a_node_that_cannot_see_the_folder_is_named(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=rf"^node {LOOPBACK} \([0-9a-f]{{8}}\): cannot read the run's folder \([^\n]*; every node "
        rf"needs [^\n]*$",
    ):
        run(recipe(tmp_path), "memory://ray", base=tmp_path, engine="ray")
    blind = cluster.add_node(
        num_cpus=1, env_vars={"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, **NODE
    )
    try:
        with pytest.raises(UserError, match=rf"\({blind.node_id[:8]}\): cannot read the run's folder"):
            run(recipe(tmp_path), "s3://bucket/runs/blind", base=tmp_path, engine="ray")
    finally:
        cluster.remove_node(blind)


def stopped(base: Path, llm: dict[str, Any], **changes: Any) -> str:
    """What a run says that a model stops; its rows are there already."""
    run(written(base), base / "run", base=base)
    with pytest.raises((UserError, WorkFailed)) as caught:
        run(written(base, llm, **changes), base / "run", base=base, engine="ray", update=True)
    return str(caught.value)


def test_what_stops_the_work_on_a_node_stops_the_run_in_one_line(cluster: Any, tmp_path: Path) -> None:
    said = stopped(tmp_path, {"helpers:FaultyLLM": "raise"}, faults={"after": 10, "max_error_rate": 0.1})
    assert re.search(rf"^write: [^\n]*the engine is on fire[^\n]*\(on node {LOOPBACK}\)$", said)
    stored = read_json(tmp_path / "run" / "write" / "_stage.json") or {}
    assert "the engine is on fire" in stored["first_error"]
    with pytest.raises(
        UserError,
        match=r"engines\.ray: write asks for 1 x 1 CPUs, 2 GPUs, which the cluster of 3 nodes does not hold",
    ):
        run(
            written(tmp_path, engines={"ray": {"write": {"gpus": 2}}}),
            tmp_path / "gpus",
            base=tmp_path,
            engine="ray",
        )


def test_a_model_that_a_node_lacks_is_one_line_whatever_part_is_asked_next(
    cluster: Any, tmp_path: Path
) -> None:
    (tmp_path / "weights.bin").write_text("")
    said = stopped(tmp_path, {"ray_models:WithFile": str(tmp_path / "weights.bin"), "only": os.getpid()})
    assert re.search(rf"^[^\n]*weights\.bin: no such file \(on node {LOOPBACK}\)$", said)


def test_a_part_that_always_takes_its_actor_down_stops_the_run(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrlsynth.runs.ray.BEGINS", 2)
    said = stopped(tmp_path, {"ray_models:Crasher": "boat"})
    assert re.search(r"write: part \d+ was begun 2 times and its actor died each time", said)


def test_a_node_that_is_killed_in_the_middle_leaves_no_gap(cluster: Any, tmp_path: Path) -> None:
    """The last test of this cluster: the nodes that remain cannot hold both pools at once, so the run continues in
    two groups."""
    whole = run(written(tmp_path), tmp_path / "local", base=tmp_path)
    (tmp_path / "log").unlink()
    (tmp_path / "log.threads").unlink()
    nodes = {n.node_id: n for n in cluster.worker_nodes}
    pools = {"ray": {name: {"concurrency": 1, "cpus": 2} for name in ("read", "write")}}
    plan = written(tmp_path, {"ray_models:Writer": str(tmp_path / "log"), "stops": [6]}, engines=pools)
    thread = when(tmp_path, 6, lambda _, node: cluster.remove_node(nodes[node], allow_graceful=False))
    made = run(plan, tmp_path / "ray", base=tmp_path, engine="ray")
    thread.join()
    assert len({node for _, node, _ in seen(tmp_path)}) == 2, "another node has continued"
    assert len(seen(tmp_path)) == 24 + 2, "the rows of one part are asked for again"
    assert set((tmp_path / "log.threads").read_text().split()) == {"2"}, (
        "an actor's models use its CPUs, whatever the driver may use"
    )
    assert_sound(made, whole)
