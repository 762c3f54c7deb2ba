"""Curves: a score against the samples seen. CtrlSynth's data efficiency (papers/001, figure 5) and, as
percent of improvement over the first point, SynthCLIP's scaling (papers/002, figure 3).

A point is a folder of results of a checkpoint that knows how many samples it has seen (ours do). Folders
named `step-...` or `size-...` are points of the run that their parent names, folders named `seed0`, `seed1`,
... its seeds: equal samples are averaged over seeds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluate.compare import pooled, signature
from ..evaluate.results import Result, read_result, result_files
from .figures import LIGHT, Theme, dash, legend, panels

_INNER = re.compile(r"(step|size|seed)[-_]?[\w.+]+")
MOST = 4
"""Panels of one figure."""


@dataclass(frozen=True, slots=True)
class Point:
    """Samples seen, percent (of the metric, or of improvement), its 95% interval (None where there is none),
    seeds."""

    samples: int
    value: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1


Curves = dict[str, dict[str, list[Point]]]
"""Title of a panel (task and metric) -> run -> points by samples."""


def curves(
    paths: Sequence[Path],
    tasks: Sequence[str] | None = None,
    relative: bool = False,
    metrics: Mapping[str, str] | None = None,
) -> Curves:
    """Returns the points of all results at or below `paths`, for each task's score in `metrics`, else its
    main one. `relative`: percent of improvement over the first point of the run, without intervals.

    Raises UserError for a result without samples seen, or two protocols of one task."""
    found: dict[str, dict[str, dict[int, list[Result]]]] = {}
    protocols: dict[str, str] = {}
    for path in paths:
        for file in result_files(path, "**/*.json"):
            result = read_result(file)
            if tasks and result.task not in tasks:
                continue
            if result.samples is None:
                raise UserError(
                    f"{file}: does not say how many samples its model has seen; evaluate a checkpoint of "
                    f"`ctrlsynth train`"
                )
            metric = (metrics or {}).get(result.task, result.main)
            if metric not in result.scores:
                raise UserError(f"{file}: has no score {metric}; it has {', '.join(result.scores)}")
            title = f"{result.task} {metric}"
            if protocols.setdefault(title, signature(result)) != signature(result):
                raise UserError(
                    f"{file}: {result.task} was evaluated by another protocol than the results before; they "
                    f"share no plot"
                )
            found.setdefault(title, {}).setdefault(_run(file.parent), {}).setdefault(
                result.samples, []
            ).append(result)
    if not found:
        raise UserError(
            f"compare: no result of {', '.join(tasks or ['any task'])} in {', '.join(map(str, paths))}"
        )
    return {
        title: {name: _points(results, name, title, relative) for name, results in runs.items()}
        for title, runs in found.items()
    }


def _run(folder: Path) -> str:
    while _INNER.fullmatch(folder.name):
        folder = folder.parent
    return folder.name


def _points(results: Mapping[int, Sequence[Result]], name: str, title: str, relative: bool) -> list[Point]:
    metric = title.rpartition(" ")[2]
    cells = [(n, pooled([r.scores[metric] for r in several])) for n, several in sorted(results.items())]
    first = cells[0][1].value
    if not relative:
        return [Point(n, c.value, c.low, c.high, c.seeds) for n, c in cells]
    if not first:
        raise UserError(f"{name}: {title} starts at 0; there is no improvement to take the percentage of")
    return [Point(n, 100 * (c.value - first) / first, seeds=c.seeds) for n, c in cells]


def figure(found: Curves, relative: bool = False, theme: Theme = LIGHT) -> Any:
    """Draws one panel per task and one line per run (other dashes when the colours repeat), with intervals as
    bands; those of percentages are clipped to 0..100."""
    if len(found) > MOST:
        raise UserError(
            f"compare: {len(found)} tasks do not fit one plot; name up to {MOST} with --tasks: "
            f"{', '.join(found)}"
        )
    drawn, axes = panels(len(found), theme)
    names = list(dict.fromkeys(name for runs in found.values() for name in runs))
    for panel, (title, runs) in zip(axes, found.items(), strict=True):
        for number, name in enumerate(names):
            again, colour = number // len(theme.series), theme.series[number % len(theme.series)]
            points = runs.get(name, [])
            x = [p.samples for p in points]
            panel.plot(
                x,
                [p.value for p in points],
                marker="os"[again % 2],
                ms=4,
                lw=1.6,
                ls=dash(again),
                color=colour,
                label=name,
            )
            bands = [(p.low, p.high) for p in points if p.low is not None and p.high is not None]
            if bands and len(bands) == len(points):
                low, high = zip(
                    *bands if relative else [(max(0.0, a), min(100.0, b)) for a, b in bands], strict=True
                )
                panel.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        panel.set(
            xlabel="samples seen",
            ylabel=f"{title}, " + ("improvement over the first point, %" if relative else "%"),
        )
    legend(axes[0], theme)
    return drawn
