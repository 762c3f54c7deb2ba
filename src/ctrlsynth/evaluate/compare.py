"""Compares runs with each other and with the papers' tables. A column holds one task, one metric and one
protocol: results with another protocol (another template set, another head) get a column of their own, and a
note names the difference.

A run is a folder of result files. Folders named `seed0`, `seed-1`, ... are one run under their parent's name,
shown as the mean with the 95% t interval over seeds; a single run has the bootstrap interval over its test
rows."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, unknown
from .metrics import delta_mtl, interval_over_seeds
from .papers import FIVE, as_averaged, five_tasks, tables
from .results import Result, Score, read_result, result_files
from .tasks import tasks

_SEED = re.compile(r"seed[-_]?\d+")
_IGNORED = ("seed", "images", "captions", "files", "metric")
"""Facts of a protocol that do not separate columns, because they follow from the data or the seed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One row of the table: task -> the results of its seeds, and the folders that it may be named by."""

    name: str
    results: dict[str, list[Result]] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Column:
    """Task, metric, and the protocol that its numbers share (JSON)."""

    task: str
    metric: str
    protocol: str
    title: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Cell:
    """A score in percent, its interval, the number of seeds, and a mark that a note explains."""

    value: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    mark: str = ""


@dataclass(slots=True)
class Comparison:
    """The table: columns, rows (name -> column -> cell), and notes."""

    columns: list[Column]
    rows: dict[str, dict[Column, Cell]]
    notes: list[str] = field(default_factory=list)

    def add(self, task: str, metric: str, title: str, cells: Mapping[str, Cell], **protocol: Any) -> None:
        """Adds a column that is computed from others, given row -> cell."""
        column = Column(task, metric, json.dumps(protocol), title)
        self.columns.append(column)
        for name, cell in cells.items():
            self.rows.setdefault(name, {})[column] = cell

    def plain(self) -> dict[str, Any]:
        """The content of --json."""
        rows = {
            name: [
                {"value": c.value, "low": c.low, "high": c.high, "seeds": c.seeds} if c else None
                for c in map(cells.get, self.columns)
            ]
            for name, cells in self.rows.items()
        }
        return {
            "columns": [{**asdict(c), "protocol": json.loads(c.protocol)} for c in self.columns],
            "rows": rows,
            "notes": self.notes,
        }

    def markdown(self) -> str:
        """A Markdown table with the runs as rows."""
        titles = [c.title for c in self.columns]
        lines = ["| run | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
        lines += [
            f"| {_cell(name)} | " + " | ".join(show(cells.get(c)) for c in self.columns) + " |"
            for name, cells in self.rows.items()
        ]
        return "\n".join([*lines, "", *(f"- {_cell(n)}" for n in self.notes)])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def show(cell: Cell | None) -> str:
    """Formats a cell: `62.5`, `62.5 [60.1, 64.9]` (bootstrap), `62.5 ± 1.2 (3)` (over 3 seeds)."""
    if cell is None:
        return "-"
    value = f"{cell.value:.1f}{cell.mark}"
    if cell.low is None or cell.high is None:
        return value
    if cell.seeds > 1:
        return f"{value} ± {cell.high - cell.value:.1f} ({cell.seeds})"
    return f"{value} [{cell.low:.1f}, {cell.high:.1f}]"


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """Reads folders or single files of results, in the order given; the seeds of one parent are one run."""
    if not paths:
        raise UserError("compare: name at least one folder of results")
    runs: dict[str, Run] = {}
    for path in paths:
        seeded = path.is_dir() and _SEED.fullmatch(path.name) is not None
        name = path.parent.name if seeded else path.name if path.is_dir() else path.stem
        if name in runs and not seeded:
            name = f"{name} ({path.parent})"
        run = runs.setdefault(name, Run(name))
        run.folders.extend([path, path.parent] if seeded else [path])
        for result in map(read_result, result_files(path, "*.json")):
            run.results.setdefault(result.task, []).append(result)
    return list(runs.values())


def shown_metrics(result: Result) -> list[str]:
    """The metrics of a result that the papers print."""
    shown = {
        "retrieval": [f"{way}_recall@{k}" for k in (1, 5) for way in ("i2t", "t2i")],
        "long-tail": [m for m in ("acc1", "head", "medium", "tail") if m in result.scores],
        "pairs": [*(m for m in result.scores if m != "acc"), "acc"],
    }
    return shown.get(result.protocol["kind"], [result.main])


def signature(result: Result) -> str:
    """The part of a protocol that two numbers must share to be in one column, as JSON."""
    return json.dumps({k: v for k, v in sorted(result.protocol.items()) if k not in _IGNORED})


def compare(runs: Sequence[Run], baseline: str | None = None, with_papers: bool = False) -> Comparison:
    """Builds the table of all runs. `baseline` is the name or folder of the run, or the printed row, that
    Delta_MTL is relative to."""
    rows: dict[str, dict[Column, Cell]] = {}
    notes: list[str] = []
    for run in runs:
        cells = rows.setdefault(run.name, {})
        for task, several in run.results.items():
            if len({signature(r) for r in several}) > 1:
                raise UserError(
                    f"{run.name}: {task}: its seeds were evaluated by different protocols; evaluate all "
                    f"seeds in the same way"
                )
            for metric in shown_metrics(several[0]):
                cells[Column(task, metric, signature(several[0]))] = pooled(
                    [r.scores[metric] for r in several]
                )
    out = Comparison(_titled({c: None for cells in rows.values() for c in cells}, notes), rows, notes)
    for task in dict.fromkeys(task for run in runs for task in run.results):
        versions = {result.data for run in runs for result in run.results.get(task, ())}
        if len(versions) > 1:
            notes.append(f"{task}: the runs were evaluated on {len(versions)} different versions of its data")
    _averages(out, runs)
    if with_papers:
        _five(out, runs)
        _papers(out)
    if baseline is not None:
        _delta(out, runs, baseline, with_papers)
    return out


def pooled(scores: Sequence[Score]) -> Cell:
    """The mean score in percent, with the bootstrap interval of one run or the t interval over several
    seeds."""
    if len(scores) == 1:
        low, high = (None if v is None else 100 * v for v in (scores[0].low, scores[0].high))
        return Cell(100 * scores[0].value, low, high)
    mean, half = interval_over_seeds([100 * s.value for s in scores])
    return Cell(mean, mean - half, mean + half, len(scores))


def _titled(columns: Iterable[Column], notes: list[str]) -> list[Column]:
    """Gives each column a title, which names the protocol if a task and metric have several columns."""
    several: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        several.setdefault((column.task, column.metric), []).append(column)
    out = []
    for (task, metric), alike in several.items():
        protocols = [json.loads(c.protocol) for c in alike]
        differing = sorted(
            k for k in {k for p in protocols for k in p} if len({json.dumps(p.get(k)) for p in protocols}) > 1
        )
        differing = [k for k in differing if k != "template_digest" or "templates" not in differing]
        if differing:
            notes.append(
                f"{task} {metric}: {len(alike)} columns, because {', '.join(differing)} differ; do not "
                f"compare their numbers"
            )
        for column, protocol in zip(alike, protocols, strict=True):
            tail = " [" + ", ".join(f"{k}={protocol.get(k)}" for k in differing) + "]" if differing else ""
            out.append(replace(column, title=f"{task} {metric}{tail}"))
    return out


def _averages(out: Comparison, runs: Sequence[Run]) -> None:
    """Adds the unweighted averages of the papers' groups, over the tasks that every run has."""
    shared = {t: r[0] for t, r in runs[0].results.items() if all(t in run.results for run in runs)}
    split = {c.task for c in out.columns if c.title.endswith("]")}
    for group in dict.fromkeys(result.group for result in shared.values()):
        members = [task for task, result in shared.items() if result.group == group]
        if not group or len(members) < 2 or split & set(members):
            continue
        cells = {}
        for run in runs:
            per_seed = zip(*([r.scores[r.main].value for r in run.results[t]] for t in members), strict=False)
            cells[run.name] = pooled([Score(sum(values) / len(values)) for values in per_seed])
        title, kind = f"{group}, average of {len(members)}", shared[members[0]].protocol["kind"]
        out.add(group, "average", title, cells, kind=kind, tasks=members)
        out.notes.append(f"{group}: average of {', '.join(members)} (the main metric of each)")


_AVERAGES = {"1": "table1:average", "2": "table2:average", "4": "sugarcrepe:acc"}
"""CtrlSynth's table -> the column of the average that it prints below it."""


def _papers(out: Comparison) -> None:
    """Adds the rows of the papers' tables that have a number for one of the columns."""
    for table in tables():
        kind = table.protocol["kind"]
        mark = "*" if table.protocol.get("templates") == "unknown" else ""
        for n, (model, values) in enumerate(table.rows.items()):
            if table.paper == "CtrlSynth" and table.table in _AVERAGES and "average" in (table.printed or {}):
                values = {**values, _AVERAGES[table.table]: (table.printed or {})["average"][n]}
            cells = {
                column: Cell(value, mark=mark)
                for column in out.columns
                if (value := _printed(values, column)) is not None
                and kind in ("mixed", json.loads(column.protocol).get("kind"))
            }
            if cells:
                out.rows.setdefault(f"{table.paper}, table {table.table}: {model}", {}).update(cells)
                if table.note and table.note not in out.notes:
                    out.notes.append(f"{table.paper}, table {table.table}: {table.note}")
    if any(cell.mark for cells in out.rows.values() for cell in cells.values()):
        out.notes.append("* the paper does not say which template set")


def _printed(values: Mapping[str, float], column: Column) -> float | None:
    if column.metric == "average" and set(json.loads(column.protocol).get("tasks", ())) != {
        name for name, task in tasks().items() if task.group == column.task
    }:
        return None
    found = values.get(column.task if column.metric == "five-tasks" else f"{column.task}:{column.metric}")
    task = tasks().get(column.task)
    if found is None and task is not None and column.metric == task.metric:
        found = values.get(f"{column.task}:main")
    return found


def _five(out: Comparison, runs: Sequence[Run]) -> None:
    """Adds SynthCLIP's task averages, for the tasks of which a run has all data sets."""
    found = {run.name: five_tasks(as_averaged(_all(run))) for run in runs}
    for task in (t for t in FIVE if any(t in five for five in found.values())):
        cells = {name: Cell(five[task]) for name, five in found.items() if task in five}
        out.add(task, "five-tasks", f"{task}, SynthCLIP's average", cells, kind="five-tasks")


def _all(run: Run) -> list[Result]:
    return [result for several in run.results.values() for result in several]


def _delta(out: Comparison, runs: Sequence[Run], baseline: str, with_papers: bool) -> None:
    """Adds SynthCLIP's Delta_MTL, relative to a run over the data sets that both have, or to a printed row
    over complete tasks of the paper."""
    mine = {run.name: _all(run) for run in runs}
    printed = {
        f"{table.paper}, table {table.table}: {model}": values
        for table in tables()
        if with_papers and table.protocol["kind"] == "five-tasks"
        for model, values in table.rows.items()
    }
    if baseline not in mine and baseline not in printed:
        found_in = [r.name for r in runs if Path(baseline).resolve() in {f.resolve() for f in r.folders}]
        if not found_in:
            raise unknown("baseline", baseline, [*mine, *printed], "compare")
        baseline = found_in[0]
    deltas: dict[str, tuple[float, int]] = {}
    for name in (n for n in (*mine, *printed) if n != baseline):
        if name in mine and baseline in mine:
            names = {r.task for r in mine[name]} & {r.task for r in mine[baseline]}
            one, other = (five_tasks([r for r in mine[n] if r.task in names]) for n in (name, baseline))
        else:
            one, other = (
                dict(printed[n]) if n in printed else five_tasks(as_averaged(mine[n]))
                for n in (name, baseline)
            )
        if found := delta_mtl(one, other):
            deltas[name] = found
    cells = {name: Cell(delta) for name, (delta, _) in deltas.items()}
    out.add("Delta_MTL", baseline, f"Delta_MTL against {baseline}, %", cells, kind="five-tasks")
    counts = {tasks for _, tasks in deltas.values()}
    if counts - {5}:
        out.notes.append(
            f"Delta_MTL is over {', '.join(map(str, sorted(counts)))} of SynthCLIP's five tasks; the "
            f"paper's is over all five"
        )
    if printed:
        out.notes.append(
            "Against a printed row, a task counts only if the run has all of the paper's data sets"
        )
