"""What every threshold p_f would keep: counts and mean recall from the stored scores, without a model (the
closed loop).

The paper sweeps p_f in section 4.4 by training again; this gives the yield alone, in one pass over the
run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..errors import UserError
from ..recipe.paths import Step
from ..recipe.schema import Recipe
from ..runs.pairs import Shape, families
from ..runs.reader import Row, RunReader
from ..stages.boxes import box_of
from ..stages.judge import SLACK, passes

GRID = tuple(n / 20 for n in range(21))
"""p_f = 0, 0.05, ... 1."""


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One line of the table.

    name         the judge's folder, or the path whose pairs are counted
    kind         text, image (members alone) or pair (kept if each synthetic member passes)
    threshold    p_f
    kept, judged rows that pass, and all rows that were judged
    mean_recall  of the rows that pass (a pair: the mean of its members), None where none passes
    complete     False below a gate's own p_f, where texts were never painted: `kept` is then a lower bound
    """

    name: str
    kind: Literal["text", "image", "pair"]
    threshold: float
    kept: int
    judged: int
    mean_recall: float | None
    complete: bool

    @property
    def share(self) -> float:
        """kept / judged, 0 without rows."""
        return self.kept / self.judged if self.judged else 0.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """The table, the recipe's own p_f, and notes."""

    rows: tuple[SweepRow, ...]
    threshold: float
    notes: tuple[str, ...] = ()

    def names(self) -> list[tuple[str, str]]:
        """Returns (kind, name) of every series, in order."""
        return list(dict.fromkeys((r.kind, r.name) for r in self.rows))

    def series(self, kind: str, name: str) -> list[SweepRow]:
        """Returns the rows of one series, by rising threshold."""
        return [r for r in self.rows if (r.kind, r.name) == (kind, name)]

    def plain(self) -> dict[str, Any]:
        """Returns the table for JSON."""
        return {
            "threshold": self.threshold,
            "notes": list(self.notes),
            "rows": [{**asdict(r), "share": r.share} for r in self.rows],
        }


class _Tally:
    """Rows by the highest threshold of the grid that they pass; memory does not grow with the rows."""

    def __init__(self) -> None:
        self.judged = 0
        self._counts = np.zeros(len(GRID) + 1, np.int64)
        self._sums = np.zeros(len(GRID) + 1)
        self._waiting: list[tuple[float, float]] = []

    def add(self, recalls: Sequence[float]) -> None:
        """Adds a row with one recall, or a pair with two: the lower decides, their mean is averaged; nan
        where nothing passes."""
        low = np.nan if any(map(math.isnan, recalls)) else min(recalls)
        self._waiting.append((low, sum(recalls) / len(recalls)))
        if len(self._waiting) == 65536:
            self._count()

    def _count(self) -> None:
        found = np.array(self._waiting).reshape(-1, 2)
        self._waiting = []
        self.judged += len(found)
        low, mean = found[~np.isnan(found[:, 0])].T
        steps = passes(low[:, None], np.asarray(GRID)).sum(axis=1)
        self._counts += np.bincount(steps, minlength=len(GRID) + 1)
        self._sums += np.bincount(steps, weights=mean, minlength=len(GRID) + 1)

    def rows(self, name: str, kind: Literal["text", "image", "pair"], from_: float) -> Iterator[SweepRow]:
        """Yields the rows of the table; they are complete from the threshold `from_` on."""
        self._count()
        kept = np.cumsum(self._counts[::-1])[::-1][1:]
        sums = np.cumsum(self._sums[::-1])[::-1][1:]
        for p, number, total in zip(GRID, kept.tolist(), sums.tolist(), strict=True):
            mean = total / number if number else None
            yield SweepRow(name, kind, p, number, self.judged, mean, bool(passes(p, from_)))


def sweep(run: RunReader) -> Sweep:
    """Returns kept counts and mean recall for p_f = 0, 0.05, ... 1, of every judge and every path's pairs.

    Everything but p_f stays as the recipe has it (reference, matcher, weights, violations, safety). Raises
    UserError where nothing was judged."""
    judge, shape = run.recipe.judge, Shape(run)
    judges = [s for s in run.steps if box_of(s).judges]
    if judge is None or not judges:
        raise UserError(f"{run.root}: nothing was judged in this run; give the recipe a `judge`")
    alone = {s.folder: _Tally() for s in judges}
    paths = {name: made[-1] for name, chain in shape.paths.items() if (made := _judged(shape, chain))}
    pairs = {folder: _Tally() for folder in paths.values()}
    for source, family in families(run, shape, texts=False):
        for step in judges:
            for row in family[step.folder]:
                alone[step.folder].add([_recall(run.recipe, step, row)])
        for pair in shape.pairs(source, family):
            members = [m for m in (pair.text, pair.image) if m is not None and m.step.folder in shape.judges]
            if pair.folder in pairs and members and members[-1].judged is not None:
                steps = [shape.judges[m.step.folder] for m in members]
                found = [_recall(run.recipe, s, m.judged) for s, m in zip(steps, members, strict=True)]
                pairs[pair.folder].add(found)
    rows: list[SweepRow] = []
    for step in judges:
        from_ = judge.threshold if _behind_gate(run, step) else 0.0
        rows += alone[step.folder].rows(step.folder, box_of(step).judges or "text", from_)
    for name, folder in paths.items():
        gated = any(_behind_gate(run, shape.judges[f]) for f in _judged(shape, shape.paths[name]))
        rows += pairs[folder].rows(name, "pair", judge.threshold if gated else 0.0)
    note = gate_note(run)
    return Sweep(tuple(rows), judge.threshold, (note,) if note else ())


def _judged(shape: Shape, chain: Sequence[str]) -> list[str]:
    """The folders of a path's last text and last image, in the path's order, if they are judged."""
    last = {box_of(shape.steps[f]).makes: f for f in chain if f in shape.kinds}
    return sorted((f for f in last.values() if f in shape.judges), key=chain.index)


def _recall(recipe: Recipe, step: Step, row: Row | None) -> float:
    """The recall that decides; nan where no threshold would keep the row."""
    assert recipe.judge is not None
    score = row[box_of(step).decides(recipe)] if row is not None else None
    if row is None or score is None or score["recall"] is None:
        return math.nan
    safety = recipe.judge.safety
    unsafe = row.get("unsafe")
    if safety is not None and unsafe is not None and unsafe >= safety.threshold:
        return math.nan
    came_back = recipe.judge.forbid_violations and score["violations"]
    return math.nan if came_back else float(score["recall"])


def gate_note(run: RunReader) -> str | None:
    """Returns, for a run with a gate, the sentence that says below which p_f rows were never painted; else
    None."""
    gated = [s.folder for s in run.steps if box_of(s).judges and _behind_gate(run, s)]
    if not gated or run.recipe.judge is None:
        return None
    p_f = f"{run.recipe.judge.threshold:g}"
    return (
        f"gate: texts that the judge rejected at p_f = {p_f} were never painted, so below {p_f} the counts "
        f"of {', '.join(gated)} and of"
        " their pairs are of what there is, not of what a lower p_f would give; a lower judge.threshold and "
        "--update paint them"
    )


def _behind_gate(run: RunReader, step: Step) -> bool:
    """Whether a gate removed rejected rows before this step."""
    todo, by_folder = [step], {s.folder: s for s in run.steps}
    while todo:
        here = todo.pop()
        if any(role.startswith("gate ") for role in here.uses):
            return True
        todo += [by_folder[f] for f in [here.parent] if f is not None]
    return False


def as_table(found: Sweep) -> tuple[list[str], list[list[str]]]:
    """Returns headings and rows as text: one line per p_f; for every series kept (share) and mean recall.
    `*`: below the gate, see the notes."""
    names = found.names()
    head = ["p_f"]
    for kind, name in names:
        head += [f"{name} pairs" if kind == "pair" else name, "recall"]
    body = []
    columns = [found.series(kind, name) for kind, name in names]
    for number, p in enumerate(GRID):
        line = [f"{p:.2f}" + (" <" if abs(p - found.threshold) < SLACK else "")]
        for series in columns:
            row = series[number]
            line.append(f"{row.kept} ({row.share:.0%}){'' if row.complete else '*'}")
            line.append("-" if row.mean_recall is None else f"{row.mean_recall:.3f}")
        body.append(line)
    return head, body
