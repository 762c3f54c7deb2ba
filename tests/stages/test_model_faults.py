"""A model's faults: bisected to the rows at fault, halved for memory, started again, stopped in time; the
other rows come out as ever."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from ctrlsynth.api.run import Run, run
from ctrlsynth.cli.show import as_text
from ctrlsynth.errors import ModelError, UserError, WorkFailed
from ctrlsynth.models.base import Reply, Request
from ctrlsynth.recipe.schema import Faults, Recipe
from ctrlsynth.runs import faults
from ctrlsynth.runs.build import open_workshop
from ctrlsynth.runs.faults import GuardedModel, fault_of
from ctrlsynth.stages.base import Item
from ctrlsynth.storage.files import write_json
from ctrlsynth.storage.parts import RunFolder
from helpers import recipe, run_part, tables

ROWS = 256


class Script:
    """What the scripted model does, and what it was asked: the sizes of its calls, in order."""

    act: Callable[[Sequence[Request]], Any] = staticmethod(lambda requests: None)
    sizes: list[int]
    closed: int

    @classmethod
    def reset(cls) -> None:
        cls.act, cls.sizes, cls.closed = staticmethod(lambda requests: None), [], 0


class ScriptedLLM:
    """Answers as a function of the request alone, after `Script.act` had its chance to raise or to answer
    otherwise."""

    id = "scripted"
    digest = "1"

    def __init__(self, batch: int = ROWS) -> None:
        self.batch = batch

    def generate(self, requests: Sequence[Request]) -> Any:
        Script.sizes.append(len(requests))
        answer = Script.act(requests)
        return (
            answer
            if answer is not None
            else [Reply(f"There is {', '.join(r.tags.phrases())}. {r.seed}") for r in requests]
        )

    def close(self) -> None:
        Script.closed += 1


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    Script.reset()
    monkeypatch.setattr(faults, "LONGEST_PAUSE", 0.0)


def scripted(base: Path, batch: int = ROWS, judge: Any = None, **limits: Any) -> Recipe:
    llm = {"test_model_faults:ScriptedLLM": None, "batch": batch}
    return recipe(base, ROWS, ROWS, models={"tagger": "wordnet", "llm": llm}, faults=limits, judge=judge)


def seeds_of(made: Run) -> list[int]:
    return [r["seed"] for r in made.rows("write")]


def poison(error: BaseException, bad: set[int] | None = None) -> Callable[[Sequence[Request]], None]:
    """Raises the error for requests with these seeds (all unless given)."""

    def act(requests: Sequence[Request]) -> None:
        if bad is None or any(r.seed in bad for r in requests):
            raise error

    return act


def clean_run(base: Path) -> tuple[list[int], list[dict[str, Any]]]:
    """The seeds and the rows of a run without faults."""
    made = run(scripted(base), base / "clean", base=base)
    rows = tables(made)["write"]
    assert Script.sizes == [ROWS]
    Script.sizes.clear()
    return seeds_of(made), rows


@pytest.mark.parametrize("bad", [[0], [255], [100], [3, 4], [10, 77, 200, 201]])
def test_a_batch_is_bisected_to_the_rows_at_fault_and_the_others_are_done(
    tmp_path: Path, bad: list[int]
) -> None:
    seeds, clean = clean_run(tmp_path)
    Script.act = poison(RuntimeError("bad luck"), {seeds[n] for n in bad})
    made = run(scripted(tmp_path), tmp_path / "run", base=tmp_path)
    rows = tables(made)["write"]
    assert [n for n, r in enumerate(rows) if r["status"] == "failed"] == bad
    for n in bad:
        assert (rows[n]["reason"], rows[n]["error"]) == ("model_error:RuntimeError", "RuntimeError: bad luck")
    assert [r for n, r in enumerate(rows) if n not in bad] == [r for n, r in enumerate(clean) if n not in bad]
    assert len(Script.sizes) <= 1 + 2 * len(bad) * math.log2(ROWS)
    assert all(r.adds_up for r in made.ledger())
    assert made.ledger()[2].first_error == f"{rows[bad[0]]['id']}: RuntimeError: bad luck"
    assert "bad luck" in as_text(made, rows[bad[0]]["id"])


@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: [*a, a[-1]], lambda a: []])
def test_a_wrong_number_of_outputs_is_bisected_too(
    tmp_path: Path, change: Callable[[list[Reply]], list[Reply]]
) -> None:
    seeds, clean = clean_run(tmp_path)

    def act(requests: Sequence[Request]) -> list[Reply] | None:
        if not any(r.seed == seeds[9] for r in requests):
            return None
        return change([Reply("There is nothing.")] * len(requests))

    Script.act = act
    rows = tables(run(scripted(tmp_path), tmp_path / "run", base=tmp_path))["write"]
    assert [n for n, r in enumerate(rows) if r["status"] != "ok"] == [9]
    assert rows[9]["reason"] in ("no_output", "too_many_outputs")
    assert rows[:9] + rows[10:] == clean[:9] + clean[10:]


def test_memory_that_runs_out_halves_the_batch_remembers_it_and_grows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, clean = clean_run(tmp_path)
    monkeypatch.setattr(faults, "CALM_CALLS", 8)

    def act(requests: Sequence[Request]) -> None:
        if len(requests) > 12:
            raise ModelError("out_of_memory", "24 GiB wanted")

    Script.act = act
    rows = tables(run(scripted(tmp_path, batch=32), tmp_path / "run", base=tmp_path))["write"]
    assert rows == clean
    first, *rest = Script.sizes
    assert (first, rest[:9]) == (32, [16, 8, 8, 8, 8, 8, 8, 8, 8])
    tries = [n for n, size in enumerate(Script.sizes) if size == 16]
    assert len(tries) >= 2, "after eight calls without a fault the batch grows again"
    assert tries[2] - tries[1] > tries[1] - tries[0], "a growth that failed is tried again later"


def test_an_engine_that_dies_once_is_started_again_and_nothing_is_lost(tmp_path: Path) -> None:
    _, clean = clean_run(tmp_path)
    deaths = iter([BrokenProcessPool("killed by the kernel")])

    def act(requests: Sequence[Request]) -> None:
        for death in deaths:
            raise death

    Script.act, Script.closed = act, 0
    assert tables(run(scripted(tmp_path), tmp_path / "run", base=tmp_path))["write"] == clean
    assert Script.sizes == [ROWS, ROWS]
    assert Script.closed == 2  # after the death, and at the stage's end


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (MemoryError("too big"), "out_of_memory", "MemoryError: too big"),
        (
            ModelError("engine_died", "CUDA: illegal access"),
            "engine_died",
            "engine_died: CUDA: illegal access",
        ),
    ],
)
def test_a_row_that_fills_the_memory_or_kills_the_engine_alone_is_set_aside(
    tmp_path: Path, error: Exception, reason: str, message: str
) -> None:
    seeds, clean = clean_run(tmp_path)
    Script.act = poison(error, {seeds[200]})
    rows = tables(run(scripted(tmp_path), tmp_path / "run", base=tmp_path))["write"]
    bad = [(n, r["reason"], r["error"]) for n, r in enumerate(rows) if r["status"] != "ok"]
    assert bad == [(200, reason, message)]
    assert rows[:200] + rows[201:] == clean[:200] + clean[201:]
    assert Script.closed <= 3 + math.log2(ROWS) + 1


def test_a_server_that_stays_down_stops_the_run_and_no_row_is_held_at_fault(tmp_path: Path) -> None:
    def act(requests: Sequence[Request]) -> None:
        if len(Script.sizes) > 2:
            raise ModelError("server_down", "127.0.0.1:8000 refused")

    Script.act = act
    plan = scripted(tmp_path, batch=64, restarts=5)
    with pytest.raises(
        WorkFailed,
        match=r"write: its engine died 6 times .*faults\.restarts is 5.*server_down: 127\.0\.0\.1:8000 "
        r"refused",
    ):
        run(plan, tmp_path / "run", base=tmp_path)
    assert len(Script.sizes) == 2 + 6
    assert not list((tmp_path / "run" / "write").glob("*.parquet"))
    Script.reset()
    rows = tables(run(plan, tmp_path / "run", base=tmp_path))["write"]
    assert [r["status"] for r in rows] == ["ok"] * ROWS
    assert Script.sizes == [64, 64], "what was finished is kept"


def test_pauses_between_restarts_grow_and_end_with_the_first_success(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(faults, "LONGEST_PAUSE", 5.0)
    caller = GuardedModel("write", Faults(restarts=100), pauses.append)
    stage: Any = FakeStage([ConnectionError("gone")] * 6 + [None, ConnectionError("gone"), None])
    rows = [item(n) for n in range(5)]
    for row in rows:
        caller.ask(stage, [row])
    assert [r.status for r in rows] == ["failed", "failed", "failed", "ok", "ok"]
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_stage_that_fails_always_stops_early_and_names_the_first_cause(tmp_path: Path) -> None:
    Script.act = poison(ValueError("no such tokenizer"))
    told = (
        r"write: 26 of the last 256 rows failed, more than faults\.max_error_rate 0\.1 allows.*"
        r"/write\.0: ValueError: no such tokenizer.*--retry failed"
    )
    with pytest.raises(WorkFailed, match=told):
        run(scripted(tmp_path), tmp_path / "run", base=tmp_path)
    assert len(Script.sizes) <= 70, "not two calls per row: 26 of 256 rows are proof enough"


def test_in_small_batches_it_stops_after_so_many_rows(tmp_path: Path) -> None:
    Script.act = poison(ValueError("no"))
    with pytest.raises(WorkFailed, match=r"of the last 104 rows failed"):
        run(scripted(tmp_path, batch=8), tmp_path / "run", base=tmp_path)
    assert len(Script.sizes) <= 200
    assert "ValueError: no" in str(Run.open(tmp_path / "run").ledger()[2].first_error)
    Script.reset()
    again = run(scripted(tmp_path, batch=8), tmp_path / "run", base=tmp_path, retry=True)
    assert again.ledger()[2].ok == ROWS
    assert sum(Script.sizes) == ROWS, (
        "the failed rows that were kept are asked for again, the others for the first time"
    )


def test_failed_rows_that_a_model_reports_itself_count_as_well(tmp_path: Path) -> None:
    Script.act = staticmethod(
        lambda requests: [
            Reply("", error="refused") if n % 2 else Reply("A dog.") for n, _ in enumerate(requests)
        ]
    )
    with pytest.raises(WorkFailed, match=r"128 of the last 256 rows failed.*k1/.*write\.0: refused"):
        run(scripted(tmp_path), tmp_path / "run", base=tmp_path)
    made = run(scripted(tmp_path, max_error_rate=1.0), tmp_path / "other", base=tmp_path)
    assert made.ledger()[2].failed == {"refused": 128}


def test_the_rate_is_that_of_the_last_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    caller = GuardedModel("write", Faults(after=10))
    good: Any = FakeStage([])
    for n in range(1000):
        caller.ask(good, [item(n)])
    bad: Any = FakeStage([ValueError("no")] * 1000)
    for n in range(10):
        caller.ask(bad, [item(n)])
    with pytest.raises(WorkFailed, match="11 of the last 100 rows failed"):
        caller.ask(bad, [item(10)])


@pytest.mark.parametrize(
    "error", [UserError("mend this"), WorkFailed("the disk is full"), KeyboardInterrupt()]
)
def test_what_is_no_fault_of_the_model_passes_through(tmp_path: Path, error: BaseException) -> None:
    Script.act = poison(error)
    with pytest.raises(type(error)):
        run(scripted(tmp_path), tmp_path / "run", base=tmp_path)
    assert Script.sizes == [ROWS]


def test_retry_asks_for_the_failed_rows_only_whoever_makes_the_parts(tmp_path: Path) -> None:
    seeds, clean = clean_run(tmp_path)
    plan = scripted(tmp_path, judge={})
    Script.act = poison(RuntimeError("today only"), {seeds[n] for n in (5, 6, 7, 130)})
    run(plan, tmp_path / "a", base=tmp_path)
    workshop, other = open_workshop(plan, tmp_path), RunFolder(tmp_path / "b")
    write_json(other.plan_file, workshop.plan.describe())
    for step in workshop.plan.steps:
        run_part(workshop, other, step.folder, workshop.plan.parts[0])
    assert tables(Run.open(tmp_path / "b")) == tables(Run.open(tmp_path / "a"))
    Script.reset()
    unasked = run(plan, tmp_path / "a", base=tmp_path)
    assert (Script.sizes, unasked.ledger()[2].failed) == ([], {"model_error:RuntimeError": 4})
    again = run(plan, tmp_path / "a", base=tmp_path, retry=True)
    assert Script.sizes == [4]
    assert tables(again)["write"] == clean
    assert again.ledger()[3].rows == ROWS, "what depends on them is made as well"
    workshop = open_workshop(plan, tmp_path, earlier=again.plan)
    for step in workshop.plan.steps:
        versions = other.listing(step.folder)[0]
        run_part(workshop, other, step.folder, workshop.plan.parts[0], versions, retry=True)
    assert Script.sizes == [4, 4]
    assert tables(Run.open(tmp_path / "b"))["write"] == clean


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (ModelError("out_of_memory"), "memory", "out_of_memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "memory", "out_of_memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            "memory",
            "out_of_memory",
        ),
        (MemoryError(), "memory", "out_of_memory"),
        (ModelError("server_down", "x"), "died", "server_down"),
        (type("EngineDeadError", (Exception,), {})("x"), "died", "engine_died"),
        (ConnectionResetError("x"), "died", "engine_died"),
        (ModelError("empty_reply"), "other", "empty_reply"),
        (KeyError("x"), "other", "model_error:KeyError"),
    ],
)
def test_faults_by_name(error: Exception, kind: str, reason: str) -> None:
    found = fault_of(error)
    assert (found.kind, found.reason) == (kind, reason)


def test_a_long_message_is_cut_and_fits_a_table() -> None:
    found = fault_of(ValueError("x" * 2000 + "\ud800"))
    assert len(found.message) < 520
    found.message.encode()


def item(n: int) -> Any:
    return Item(f"k{n}", None, f"k{n}", "key")


class FakeStage:
    """A stage of which only the call matters: raises what is listed, one a call (None: answers)."""

    batch = 64

    def __init__(self, script: list[Exception | None]) -> None:
        self._script = iter(script)

    def call(self, items: list[Any]) -> list[Any]:
        error = next(self._script, None)
        if error is not None:
            raise error
        return ["answer"] * len(items)

    def close(self) -> None:
        """Nothing is held."""
