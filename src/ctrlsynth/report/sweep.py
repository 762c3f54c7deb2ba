"""What every p_f would keep: counts and mean recall over thresholds from the stored scores, without asking a
model (the closed loop).

The paper sweeps p_f in section 4.4 by training again; here the yield alone is told, which costs one pass over
the judges' tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import UserError
from ..recipe.paths import Step
from ..runs.reader import RunReader
from ..sample import ancestor, parent
from ..storage.files import open_part
from ..storage.location import Location
from .lineage import Parts, judge_of, path_chains

if TYPE_CHECKING:
    from numpy.typing import NDArray


GRID = tuple(n / 20 for n in range(21))
"""p_f = 0, 0.05, ... 1."""
SLACK = 1e-6
"""Recall is stored with 32 bits: one of five must pass 0.2 (the judge's own rule)."""


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One line of the table.

    name         the judge's folder, or the path whose pairs are counted
    kind         text, image (members alone) or pair (kept if each synthetic member passes)
    threshold    p_f
    kept, judged rows that pass, and all rows that were judged
    mean_recall  of the rows that pass (a pair: the mean of its members), None where none passes
    complete     False where a gate kept texts below its own p_f from ever being painted: `kept` is then what
                 there is, not what could be
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
    """The table, the recipe's own p_f and what must be said beside it."""

    rows: tuple[SweepRow, ...]
    threshold: float
    notes: tuple[str, ...] = ()

    def names(self) -> list[tuple[str, str]]:
        """(kind, name) of every series, in order."""
        return list(dict.fromkeys((r.kind, r.name) for r in self.rows))

    def series(self, kind: str, name: str) -> list[SweepRow]:
        """The rows of one series, by rising threshold."""
        return [r for r in self.rows if (r.kind, r.name) == (kind, name)]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
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

    def add(self, bound: NDArray[np.float64], mean: NDArray[np.float64]) -> None:
        """`bound`: the recall that decides, nan where nothing passes; `mean`: the recall that is averaged."""
        self.judged += len(bound)
        passing = ~np.isnan(bound)
        # the number of thresholds p with not (recall < p - slack), exactly the judge's comparison
        steps = np.searchsorted(np.asarray(GRID) - SLACK, bound[passing], side="right")
        self._counts += np.bincount(steps, minlength=len(GRID) + 1)
        self._sums += np.bincount(steps, weights=mean[passing], minlength=len(GRID) + 1)

    def rows(self, name: str, kind: Literal["text", "image", "pair"], from_: float) -> Iterator[SweepRow]:
        kept = np.cumsum(self._counts[::-1])[::-1][1:]
        sums = np.cumsum(self._sums[::-1])[::-1][1:]
        for p, number, total in zip(GRID, kept.tolist(), sums.tolist(), strict=True):
            yield SweepRow(
                name, kind, p, number, self.judged, total / number if number else None, p >= from_ - SLACK
            )


def sweep(run: RunReader) -> Sweep:
    """Kept counts and mean recall for every p_f in 0, 0.05, ... 1 and for every judge and every path's pairs.

    Everything but p_f stays as the recipe has it (reference, matcher, weights, violations, safety). Raises
    UserError where nothing was judged."""
    judge = run.recipe.get("judge")
    judges = [s for s in run.steps if s.kind in ("judge-text", "judge-image")]
    if judge is None or not judges:
        raise UserError(f"{run.root}: nothing was judged in this run; give the recipe a `judge`")
    parts = Parts(run)
    threshold = float(judge["threshold"])
    gated = {s.folder for s in judges if _behind_gate(run, s)}
    rows: list[SweepRow] = []
    for step in judges:
        tally = _Tally()
        for path in parts.files[step.folder].values():
            for _, recall in _scores(path, step, judge, ids=False):
                tally.add(recall, recall)
        rows += tally.rows(
            step.folder,
            "text" if step.kind == "judge-text" else "image",
            threshold if step.folder in gated else 0.0,
        )
    note = gate_note(run)
    return Sweep((*rows, *_pairs(run, parts, judge, threshold)), threshold, (note,) if note else ())


def gate_note(run: RunReader) -> str | None:
    """With a gate: the sentence that says below which p_f rows were never painted, for the ledger and the
    sweep; else None."""
    gated = [s.folder for s in run.steps if s.kind.startswith("judge") and _behind_gate(run, s)]
    if not gated:
        return None
    p_f = f"{float(run.recipe['judge']['threshold']):g}"
    return (
        f"gate: texts that the judge rejected at p_f = {p_f} were never painted, so below {p_f} the counts "
        f"of {', '.join(gated)} and of"
        " their pairs are of what there is, not of what a lower p_f would give; a lower judge.threshold and "
        "--update paint them"
    )


def _behind_gate(run: RunReader, step: Step) -> bool:
    """Whether rejected rows were kept from the rows that this step counts."""
    todo, by_folder = [step], {s.folder: s for s in run.steps}
    while todo:
        here = todo.pop()
        if any(role.startswith("gate ") for role in here.uses):
            return True
        todo += [by_folder[f] for f in [here.parent] if f is not None]
    return False


def _scores(
    path: Location, step: Step, judge: dict[str, Any], ids: bool
) -> Iterator[tuple[list[str], NDArray[np.float64]]]:
    """Batches of (ids, recall that decides; nan where no threshold would keep the row)."""
    column = "edited" if step.kind == "judge-text" else str(judge["image_against"])
    forbid = bool(judge["forbid_violations"])
    safety = judge["safety"]["threshold"] if judge.get("safety") and step.kind == "judge-image" else None
    wanted = [f"{column}.recall"]
    wanted += [f"{column}.violations"] if forbid else []
    wanted += ["unsafe"] if safety is not None else []
    wanted += ["id"] if ids else []
    with open_part(path) as file:
        for batch in file.iter_batches(batch_size=65536, columns=wanted, use_threads=False):
            score = batch[column]
            recall = _floats(pc.struct_field(score, "recall"))
            if forbid:
                came_back = pc.fill_null(
                    pc.greater(pc.list_value_length(pc.struct_field(score, "violations")), 0), False
                )
                recall[came_back.to_numpy(zero_copy_only=False)] = np.nan
            if safety is not None:
                recall[_floats(batch["unsafe"]) >= safety] = np.nan
            yield (batch["id"].to_pylist() if ids else [], recall)


def _floats(array: pa.Array) -> NDArray[np.float64]:
    values: NDArray[np.float64] = array.cast(pa.float64()).to_numpy(zero_copy_only=False).copy()
    return values


def _pairs(run: RunReader, parts: Parts, judge: dict[str, Any], threshold: float) -> list[SweepRow]:
    """A path's pairs: its last synthetic text and its last synthetic image, each judged; an original member
    always passes."""
    kinds = {s.folder: s.kind for s in run.steps}
    rows: list[SweepRow] = []
    for path in path_chains(run):
        members = []
        for kind in ("write", "paint"):
            made = [f for f in path.chain if kinds[f] == kind]
            found = judge_of(run, made[-1]) if made else None
            if found is not None:
                members.append((made[-1], found))
        if not members:
            continue
        members.sort(key=lambda m: path.chain.index(m[0]))
        behind = any(_behind_gate(run, j) for _, j in members)
        tally = _Tally()
        for index in parts.indexes():
            tally.add(*_pair_recalls(parts, index, [j for _, j in members], judge))
        rows += tally.rows(path.name, "pair", threshold if behind else 0.0)
    return rows


def _pair_recalls(
    parts: Parts, index: int, judges: list[Step], judge: dict[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower recall of each pair's members (which decides) and their mean; memory: two numbers and an id a
    row of one part."""
    first: dict[str, float] = {}
    if len(judges) == 2 and (path := parts.files[judges[0].folder].get(index)) is not None:
        for ids, recall in _scores(path, judges[0], judge, ids=True):
            first.update(zip(map(parent, ids), recall.tolist(), strict=True))
    low: list[NDArray[np.float64]] = [np.zeros(0)]
    mean: list[NDArray[np.float64]] = [np.zeros(0)]
    path = parts.files[judges[-1].folder].get(index)
    if path is not None:
        for ids, recall in _scores(path, judges[-1], judge, ids=True):
            other = np.array([ancestor(i, first) for i in ids], float) if len(judges) == 2 else recall
            low.append(np.where(np.isnan(other), np.nan, np.minimum(recall, other)))
            mean.append((recall + other) / 2)
    return np.concatenate(low), np.concatenate(mean)


def as_table(found: Sweep) -> tuple[list[str], list[list[str]]]:
    """Headings and rows as text: one line a p_f, for every series kept (share) and mean recall. `*`: below
    the gate, see the notes."""
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
