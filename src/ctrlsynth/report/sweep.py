"""What every threshold p_f would keep: counts and mean recall from the stored scores, without a model (the
closed loop).

The paper sweeps p_f in section 4.4 by training again; this gives the yield alone, in one pass over the
run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import UserError
from ..recipe.paths import Step
from ..recipe.schema import Recipe
from ..runs.pairs import Shape
from ..runs.reader import Parts, RunReader
from ..sample import ancestor
from ..stages.boxes import box_of
from ..stages.judge import SLACK, passes

GRID = tuple(n / 20 for n in range(21))
"""p_f = 0, 0.05, ... 1."""
_Kind = Literal["text", "image", "pair"]


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
    kind: _Kind
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
        self._sums = np.zeros((2, len(GRID) + 1))
        """Rows, and the sum of their means, by the number of thresholds that they pass."""

    def add(self, lowest: NDArray[np.float64], mean: NDArray[np.float64]) -> None:
        """Adds rows: `lowest` is the recall that decides, nan where nothing passes; `mean` is averaged."""
        self.judged += len(lowest)
        passing = ~np.isnan(lowest)
        steps = passes(lowest[passing, None], np.asarray(GRID)).sum(axis=1)
        for sums, weights in zip(self._sums, (None, mean[passing]), strict=True):
            sums += np.bincount(steps, weights, minlength=len(GRID) + 1)

    def rows(self, name: str, kind: _Kind, from_: float) -> Iterator[SweepRow]:
        """Yields the rows of the table; they are complete from the threshold `from_` on."""
        totals = self._sums[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        for p, (kept, total) in zip(GRID, totals.T.tolist(), strict=True):
            mean = total / kept if kept else None
            yield SweepRow(name, kind, p, int(kept), self.judged, mean, bool(passes(p, from_)))


def sweep(run: RunReader) -> Sweep:
    """Returns kept counts and mean recall for p_f = 0, 0.05, ... 1, of every judge and every path's pairs.

    Everything but p_f stays as the recipe has it (reference, matcher, weights, violations, safety). Raises
    UserError where nothing was judged."""
    judge, shape, parts = run.recipe.judge, Shape(run), Parts(run)
    judges = [s for s in run.steps if box_of(s).judges]
    if judge is None or not judges:
        raise UserError(f"{run.root}: nothing was judged in this run; give the recipe a `judge`")
    series: list[tuple[str, _Kind, list[Step]]] = [
        *((s.folder, box_of(s).judges or "text", [s]) for s in judges),
        *((name, "pair", _judges(shape, chain)) for name, chain in shape.paths.items()),
    ]
    rows: list[SweepRow] = []
    for name, kind, members in series:
        if members:
            tally = _Tally()
            for index in parts.indexes():
                tally.add(*_recalls(run.recipe, parts, index, members))
            gated = any(_behind_gate(run, step) for step in members)
            rows += tally.rows(name, kind, judge.threshold if gated else 0.0)
    note = gate_note(run)
    return Sweep(tuple(rows), judge.threshold, (note,) if note else ())


def _judges(shape: Shape, chain: Sequence[str]) -> list[Step]:
    """The judges of a path's last text and last image, in the path's order."""
    last = {box_of(shape.steps[f]).makes: f for f in chain if f in shape.kinds}
    return [shape.judges[f] for f in sorted(last.values(), key=chain.index) if f in shape.judges]


def _recalls(
    recipe: Recipe, parts: Parts, index: int, judges: Sequence[Step]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the lowest recall of each row of one part, and the mean. Two judges: of each pair, whose last
    member has a row of the last judge and descends from the other's."""
    *before, last = judges
    ids, recall = _scores(recipe, parts, index, last, with_ids=bool(before))
    if not before:
        return recall, recall
    above, known = _scores(recipe, parts, index, before[0], with_ids=True)
    first = dict(zip((i.removesuffix("/judge") for i in above), known.tolist(), strict=True))
    other = np.array([ancestor(i, first) for i in ids], np.float64)
    return np.minimum(recall, other), (recall + other) / 2


def _scores(
    recipe: Recipe, parts: Parts, index: int, step: Step, with_ids: bool
) -> tuple[list[str], NDArray[np.float64]]:
    """Returns ids and recalls of one part of a judge's table; nan where no threshold would keep the row."""
    assert recipe.judge is not None
    column, forbid = box_of(step).decides(recipe), recipe.judge.forbid_violations
    safety = recipe.judge.safety if box_of(step).judges == "image" else None
    wanted = {f"{column}.recall": True, f"{column}.violations": forbid, "unsafe": safety, "id": with_ids}
    ids: list[str] = []
    recalls = [np.zeros(0)]
    for batch in parts.batches(step.folder, [name for name, read in wanted.items() if read], index):
        recall = _floats(pc.struct_field(batch[column], "recall"))
        if forbid:
            recall[_floats(pc.list_value_length(pc.struct_field(batch[column], "violations"))) > 0] = np.nan
        if safety is not None:
            recall[_floats(batch["unsafe"]) >= safety.threshold] = np.nan
        ids += batch["id"].to_pylist() if with_ids else []
        recalls.append(recall)
    return ids, np.concatenate(recalls)


def _floats(values: pa.Array) -> NDArray[np.float64]:
    """The numbers as a new array; null becomes nan."""
    return np.array(values.cast(pa.float64()), np.float64)


def gate_note(run: RunReader) -> str | None:
    """Returns, for a run with a gate, the sentence that says below which p_f rows were never painted; else
    None."""
    gated = [s.folder for s in run.steps if box_of(s).judges and _behind_gate(run, s)]
    if not gated or run.recipe.judge is None:
        return None
    p_f = f"{run.recipe.judge.threshold:g}"
    return (
        f"gate: texts that the judge rejected at p_f = {p_f} were never painted, so below {p_f} the counts "
        f"of {', '.join(gated)} and of their pairs are lower bounds; to paint those texts, lower "
        "judge.threshold and run with --update"
    )


def _behind_gate(run: RunReader, step: Step) -> bool:
    """Returns whether a gate removed rejected rows before this step."""
    here = any(role.startswith("gate ") for role in step.uses)
    return here or (step.parent is not None and _behind_gate(run, run.step(step.parent)))


def as_table(found: Sweep) -> tuple[list[str], list[list[str]]]:
    """Returns headings and rows as text: one line per p_f; for every series kept (share) and mean recall.
    `*`: below the gate, see the notes."""
    head, columns = ["p_f"], []
    for kind, name in found.names():
        head += [f"{name} pairs" if kind == "pair" else name, "recall"]
        columns.append(found.series(kind, name))
    body = []
    for number, p in enumerate(GRID):
        line = [f"{p:.2f}" + (" <" if abs(p - found.threshold) < SLACK else "")]
        for row in (series[number] for series in columns):
            line.append(f"{row.kept} ({row.share:.0%}){'' if row.complete else '*'}")
            line.append("-" if row.mean_recall is None else f"{row.mean_recall:.3f}")
        body.append(line)
    return head, body
