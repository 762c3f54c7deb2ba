"""Runs the chosen tasks for one model, one result file a task. A task whose file is there, for the same
model, data and protocol, is passed over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import layout
from .encode import Encoder
from .kinds import compositional as pairs
from .kinds import few_shot, linear_probe, long_tail, retrieval, zero_shot
from .results import Result, Scores, read_result, versions, write_result
from .tasks import Task, choose


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user may choose: the template set of zero-shot tasks (None: each task's own), extra images for
    long-tail heads, the head, the seed of episodes and heads."""

    templates: str | None = None
    extra: Path | None = None
    head: long_tail.HeadSettings = field(default_factory=lambda: long_tail.HeadSettings())
    seed: int = 0


class _Timed:
    """A model that adds up the time spent in its towers, so that a result can tell encoding from the rest."""

    def __init__(self, model: Encoder) -> None:
        self._model, self.seconds, self.id, self.digest = model, 0.0, model.id, model.digest
        self.samples: int | None = getattr(model, "samples", None)

    @property
    def preprocess(self) -> Callable[[Any], Any]:
        return self._model.preprocess

    def encode_image(self, batch: Any) -> Any:
        return self._time(self._model.encode_image, batch)

    def encode_text(self, texts: Any) -> Any:
        return self._time(self._model.encode_text, texts)

    def _time(self, call: Callable[[Any], Any], value: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(value)
        finally:
            self.seconds += time.perf_counter() - started


def evaluate_all(
    model: Encoder, data: Path, out: Path, names: list[str] | None = None, settings: Settings | None = None,
    watch: Callable[[str, int, int, int], None] | None = None,
) -> list[Result]:  # fmt: skip
    """Results of every task, made or found in `out`. `watch(task, number, of, images)` hears of progress. A
    result file of another model is refused: two models never share a folder."""
    how = settings or Settings()
    chosen = choose(data, names)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder for the results, found a file; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    done: list[Result] = []
    for number, (task, folder) in enumerate(chosen):
        path = out / f"{task.name}.json"
        earlier = _earlier(path, model)
        if earlier is not None and _same(earlier, task, folder, how):
            done.append(earlier)
            continue
        images = [0]

        def tick(count: int, images: list[int] = images, task: Task = task, number: int = number) -> None:
            images[0] += count
            if watch is not None:
                watch(task.name, number, len(chosen), images[0])

        result = _evaluate(model, task, folder, how, tick)
        write_result(path, result)
        done.append(result)
    return done


def _earlier(path: Path, model: Encoder) -> Result | None:
    if not path.exists():
        return None
    found = read_result(path)
    if found.model_digest != model.digest:
        raise UserError(
            f"{path}: holds a result of another model ({found.model} {found.model_digest}); choose another "
            f"--out"
        )
    return found


def _same(earlier: Result, task: Task, folder: Path, how: Settings) -> bool:
    """Whether the stored result answers the same question about the same data."""
    protocol = earlier.protocol
    asked: dict[str, Any] = {"seed": how.seed} if task.kind == "few-shot" else {}
    if task.kind == "zero-shot":
        asked |= zero_shot.template_protocol(how.templates or task.templates, folder)
    if task.kind == "long-tail":
        asked |= {"head": how.head.head, "loss": how.head.loss, "seed": how.seed}
    return all(protocol.get(k) == v for k, v in asked.items()) and earlier.data == data_digest(
        task, folder, how.extra
    )


def data_digest(task: Task, folder: Path, extra: Path | None = None) -> str:
    """The digest that the evaluator of this task will write."""
    if task.kind == "retrieval":
        return layout.digest(retrieval.files_of(folder))
    if task.kind == "pairs":
        return layout.digest(pairs.files_of(folder, task))
    if task.kind == "long-tail":
        return layout.digest(
            [folder / n for n in ("classnames.txt", "train.txt", "test.txt")]
            + ([long_tail.extra_file(extra)] if extra else [])
        )
    splits = ["test"] if task.kind == "zero-shot" else ["train", "test"]
    if task.kind == "linear-probe" and (folder / "val").is_dir():
        splits.insert(1, "val")
    return layout.digest(
        [folder / "classnames.txt", *(p for split in splits for p in layout.shards(folder, split))]
    )


def _evaluate(model: Encoder, task: Task, folder: Path, how: Settings, tick: Callable[[int], None]) -> Result:
    timed = _Timed(model)
    started = time.perf_counter()
    found = _scores(timed, task, folder, how, tick)
    whole = time.perf_counter() - started
    notes = found.notes
    if task.size is not None and found.rows != task.size:
        notes = (*notes, f"{found.rows} rows; the papers' test set has {task.size}")
    return Result(
        model=model.id, model_digest=model.digest, task=task.name, title=task.title, group=task.group,
        main=task.metric,
        chance=task.chance if task.chance is not None or not found.classes else 1 / found.classes,
        rows=found.rows,
        classes=found.classes, data=found.data, protocol=dict(found.protocol), scores=dict(found.scores),
        seconds={"encode": timed.seconds, "rest": whole - timed.seconds}, notes=notes,
        seed=how.seed if task.kind in ("few-shot", "long-tail") else None, samples=timed.samples,
        versions=versions(),
    )  # fmt: skip


def _scores(model: Encoder, task: Task, folder: Path, how: Settings, tick: Callable[[int], None]) -> Scores:
    if task.kind == "zero-shot":
        return zero_shot.evaluate(model, folder, task, how.templates, tick)
    if task.kind == "retrieval":
        return retrieval.evaluate(model, folder, task, tick)
    if task.kind == "pairs":
        return pairs.evaluate(model, folder, task, tick)
    if task.kind == "linear-probe":
        return linear_probe.evaluate(model, folder, task, tick)
    if task.kind == "few-shot":
        return few_shot.evaluate(model, folder, task, how.seed, tick)
    return long_tail.evaluate(model, folder, task, how.extra, replace(how.head, seed=how.seed), tick)


def averages(results: Iterable[Result]) -> dict[str, float]:
    """Unweighted mean of the main metric by group, of the groups that have more than one task."""
    groups: dict[str, list[float]] = {}
    for result in results:
        if result.group:
            groups.setdefault(result.group, []).append(result.scores[result.main].value)
    return {group: sum(values) / len(values) for group, values in groups.items() if len(values) > 1}
