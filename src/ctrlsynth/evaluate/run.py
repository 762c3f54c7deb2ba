"""Runs tasks for one model and writes one result file per task. Skips a task whose result is there already
for the same model, data and protocol."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import layout
from .encode import Encoder
from .kinds import evaluator
from .kinds.base import Evaluator, Settings
from .results import Result, read_result, versions, write_result
from .tasks import choose

Watch = Callable[[str, int, int, int], None]
"""Called with a task's name, its number, the number of tasks, and the images of the task encoded so far."""


class _Watched:
    """A model that adds up the time spent in its towers, and reports the images encoded."""

    def __init__(self, model: Encoder, report: Callable[[int], None]) -> None:
        self._model, self._report, self.id, self.digest = model, report, model.id, model.digest
        self.preprocess: Callable[[Any], Any] = model.preprocess
        self.images, self.seconds = 0, 0.0

    def encode_image(self, batch: Any) -> Any:
        features = self._timed(self._model.encode_image, batch)
        self.images += len(batch)
        self._report(self.images)
        return features

    def encode_text(self, texts: Any) -> Any:
        return self._timed(self._model.encode_text, texts)

    def _timed(self, call: Callable[[Any], Any], value: Any) -> Any:
        started = time.perf_counter()
        made = call(value)
        self.seconds += time.perf_counter() - started
        return made


def evaluate_all(
    model: Encoder,
    data: Path,
    out: Path,
    names: list[str] | None = None,
    settings: Settings | None = None,
    watch: Watch | None = None,
) -> list[Result]:
    """Evaluates the named tasks, or all whose data is in `data`, and returns their results in that order.
    UserError if `out` holds a result of another model: two models never share a folder."""
    chosen = choose(data, names)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder for the results, found a file; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    done: list[Result] = []
    for number, (task, folder) in enumerate(chosen):
        path, one = out / f"{task.name}.json", evaluator(task, folder, settings)
        result = _earlier(path, model, one)
        if result is None:
            report = partial(watch, task.name, number, len(chosen)) if watch else lambda images: None
            result = _evaluate(_Watched(model, report), one, getattr(model, "samples", None))
            write_result(path, result)
        done.append(result)
    return done


def _earlier(path: Path, model: Encoder, one: Evaluator) -> Result | None:
    """The stored result, if it has the same protocol and data."""
    if not path.exists():
        return None
    found = read_result(path)
    if found.model_digest != model.digest:
        raise UserError(
            f"{path}: holds a result of another model ({found.model} {found.model_digest}); choose another "
            f"--out"
        )
    same = all(found.protocol.get(k) == v for k, v in one.protocol().items())
    return found if same and found.data == layout.digest(one.files()) else None


def _evaluate(model: _Watched, one: Evaluator, samples: int | None) -> Result:
    task, started = one.task, time.perf_counter()
    found = one.evaluate(model)
    rest = time.perf_counter() - started - model.seconds
    notes = found.notes
    if found.rows != (task.size or found.rows):
        notes += (f"{found.rows} rows; the papers' test set has {task.size}",)
    return Result(
        model=model.id,
        model_digest=model.digest,
        task=task.name,
        title=task.title,
        group=task.group,
        main=task.metric,
        chance=task.chance if task.chance is not None or not found.classes else 1 / found.classes,
        rows=found.rows,
        classes=found.classes,
        data=layout.digest(one.files()),
        protocol={"kind": task.kind, "metric": task.metric, **one.protocol(), **found.protocol},
        scores=dict(found.scores),
        seconds={"encode": model.seconds, "rest": rest},
        notes=notes,
        seed=one.settings.seed if one.seeded else None,
        samples=samples,
        versions=versions(),
    )


def averages(results: Iterable[Result]) -> dict[str, float]:
    """Unweighted mean of the main metric by group, for groups of more than one task."""
    groups: dict[str, list[float]] = {}
    for result in results:
        if result.group:
            groups.setdefault(result.group, []).append(result.scores[result.main].value)
    return {group: sum(values) / len(values) for group, values in groups.items() if len(values) > 1}
