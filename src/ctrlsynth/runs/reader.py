"""A run's folder, read only: its steps, rows, ledger and products. Needs no model and no source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..errors import UserError, unknown
from ..models.prices import spent
from ..recipe.paths import Step
from ..storage.files import open_part, part_counts, read_json
from ..storage.location import Location, locate
from ..storage.parts import RunFolder
from .ledger import LedgerRow, totals
from .plan import described_steps

STALE = "STALE.txt"
"""The file that marks a report or a data set as older than its run."""


@dataclass(frozen=True)
class RunReader:
    """A run's folder, read only. Needs no model and no source."""

    root: Location
    plan: Mapping[str, Any]
    steps: tuple[Step, ...] = field(default=())

    @classmethod
    def open(cls, root: Location | str) -> Self:
        """Opens a run's folder, a path or a URL; a folder that is none is told in one line."""
        root = locate(root)
        plan = read_plan(root)
        if plan is None:
            raise UserError(
                f"{root}: not a run's folder (it has no plan.json); runs are made by `ctrlsynth run RECIPE`"
            )
        return cls(root, plan, described_steps(plan["steps"]))

    @property
    def recipe(self) -> Mapping[str, Any]:
        return dict(self.plan["recipe"])

    def step(self, folder: str) -> Step:
        for step in self.steps:
            if step.folder == folder:
                return step
        raise unknown("stage", folder, [s.folder for s in self.steps], str(self.root))

    def files(self, folder: str) -> list[Location]:
        """The parts of a stage in order; of a part in two versions (an interrupted update) the newest."""
        self.step(folder)
        return list(RunFolder(self.root).newest(folder).values())

    def rows(self, folder: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Streams a stage's rows as dicts, in the source's order."""
        for path in self.files(folder):
            with open_part(path) as file:
                for batch in file.iter_batches(
                    batch_size=256, columns=list(columns) if columns is not None else None, use_threads=False
                ):
                    yield from batch.to_pylist()

    def find(self, folder: str, row_id: str) -> dict[str, Any] | None:
        """One row by id; looks only into its columns `id` until it is found."""
        for path in self.files(folder):
            with open_part(path) as file:
                for group in range(file.num_row_groups):
                    ids = file.read_row_group(group, columns=["id"])["id"].to_pylist()
                    if row_id in ids:
                        return dict(file.read_row_group(group).slice(ids.index(row_id), 1).to_pylist()[0])
        return None

    def balances(self) -> list[dict[str, Any]]:
        """What each balance found over all parts: captions, duplicates, pool (captions that could go on), t,
        and the expected number."""
        names = ("captions", "duplicates", "pool", "t", "entries_seen", "expected")
        gathered = (
            (s.folder, read_json(RunFolder(self.root).gathered_file(s.folder)))
            for s in self.steps
            if s.kind == "balance"
        )
        return [{"folder": f, **{n: g[n] for n in names if n in g}} for f, g in gathered if g is not None]

    def products(self) -> list[dict[str, Any]]:
        """Reports and data sets made from this run: kind, path, and whether the run has gone on since."""
        found = (p for p in self.plan.get("products", []) if Path(p["path"]).is_dir())
        return [{**p, "stale": (Path(p["path"]) / STALE).exists()} for p in found]

    def ledger(self) -> list[LedgerRow]:
        """A row a stage, from `_stage.json` where it is complete and from footers where not."""
        out: dict[str, LedgerRow] = {}
        wanted = 0
        for step in self.steps:
            run = RunFolder(self.root)
            stored = read_json(run.stage_file(step.folder)) or {}
            sizes = {e.name: e.size for _, _, e in run.entries(step.folder)}
            files = self.files(step.folder)
            counted = stored.get("parts", {}).items()
            known = {run.part(step.folder, int(i), p["digest"]): p for i, p in counted}
            total = totals(known.get(f) or part_counts(f) for f in files)
            wanted = max(wanted, len(files), len(known))
            out[step.folder] = LedgerRow(
                step.folder, step.kind, step.paths, self._expected(step, out), total["rows"], total["ok"],
                total["dropped"],
                total["failed"], total["reused"], total["seconds"], total.get("prompt_tokens",
                0) + total.get("completion_tokens", 0),
                sum(sizes.get(f.name, 0) for f in files), len(files), wanted, stored.get("first_error"),
                spent(self.recipe["models"], step.kind, total),
            )  # fmt: skip
        return list(out.values())

    def _expected(self, step: Step, before: Mapping[str, LedgerRow]) -> int | None:
        if step.parent is None:
            return None
        kept = before[step.parent].ok
        for role, folder in step.uses.items():
            if role.startswith("gate ") and folder in before:
                kept -= before[folder].rows - before[folder].ok
        variants = self.recipe["variants"]
        if step.kind == "write" and step.family != "caption":
            return kept * int(variants["write"]) * int(self.plan.get("candidates", 1))
        return kept * int(variants["paint"]) if step.kind == "paint" else kept


def read_plan(root: Location) -> dict[str, Any] | None:
    """The plan.json of a run's folder, or None; UserError for a damaged one."""
    plan = read_json(RunFolder(root).plan_file)
    if (
        plan is not None
        and not {"recipe", "steps", "places", "limit", "candidates", "retries"} <= plan.keys()
    ):
        raise UserError(f"{root / 'plan.json'}: damaged (keys are missing); remove it and run again")
    return plan
