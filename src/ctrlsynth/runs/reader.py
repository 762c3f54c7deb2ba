"""A run's folder, read only: its steps, rows, ledger and products. Needs no model and no source."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import getitem
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from ..errors import UserError, unknown
from ..models.prices import spent
from ..recipe.paths import Step
from ..recipe.schema import Recipe
from ..stages.boxes import box_of
from ..storage.files import open_part, read_json
from ..storage.location import Location, locate
from ..storage.parts import RunFolder
from .ledger import LedgerRow, measured
from .plan import described_steps

STALE = "STALE.txt"
"""The file that marks a report or a data set as older than its run."""
IMAGE_ROWS = 16
"""Rows with image bytes that are held at once."""
Row = dict[str, Any]
Family = dict[str, list[Row]]
"""Stage folder -> the rows of that stage that descend from one source row, in their order."""


@dataclass(frozen=True)
class RunReader:
    """A run's folder, read only. Needs no model and no source."""

    root: Location
    plan: Mapping[str, Any]
    steps: tuple[Step, ...] = field(default=())

    @classmethod
    def open(cls, root: Location | str) -> Self:
        """Opens a run's folder, a path or a URL. Raises UserError for any other folder."""
        root = locate(root)
        plan = read_plan(root)
        if plan is None:
            raise UserError(
                f"{root}: not a run's folder (it has no plan.json); runs are made by `ctrlsynth run RECIPE`"
            )
        return cls(root, plan, described_steps(plan["steps"]))

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the run was made with."""
        return _stored_recipe(self.plan["recipe"])

    def step(self, folder: str) -> Step:
        """Returns the step that fills a folder. Raises UserError with the nearest name."""
        by_folder = {s.folder: s for s in self.steps}
        if folder not in by_folder:
            raise unknown("stage", folder, by_folder, str(self.root))
        return by_folder[folder]

    def files(self, folder: str) -> list[Location]:
        """Returns the parts of a stage in order; of a part in two versions (an interrupted update) the
        newest."""
        self.step(folder)
        return list(RunFolder(self.root).newest(folder).values())

    def rows(self, folder: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Streams a stage's rows as dicts, in the source's order."""
        for path in self.files(folder):
            for batch in read_batches(path, columns):
                yield from batch.to_pylist()

    def find(self, folder: str, row_id: str) -> dict[str, Any] | None:
        """Returns one row by id; reads only the columns `id` until it is found."""
        for path in self.files(folder):
            with open_part(path) as file:
                for group in range(file.num_row_groups):
                    ids = file.read_row_group(group, columns=["id"])["id"].to_pylist()
                    if row_id in ids:
                        return dict(file.read_row_group(group).slice(ids.index(row_id), 1).to_pylist()[0])
        return None

    def balances(self) -> list[dict[str, Any]]:
        """Returns what each balance found over all parts: captions, duplicates, pool (captions to choose
        from), t, and the expected number."""
        names, run = ("captions", "duplicates", "pool", "t", "entries_seen", "expected"), RunFolder(self.root)
        barriers = [s.folder for s in self.steps if box_of(s).barrier]
        gathered = {f: g for f in barriers if (g := read_json(run.gathered_file(f))) is not None}
        return [{"folder": f, **{n: g[n] for n in names if n in g}} for f, g in gathered.items()]

    def products(self) -> list[dict[str, Any]]:
        """Returns the reports and data sets made from this run: kind, path, and whether the run has changed
        since."""
        found = (p for p in self.plan.get("products", []) if Path(p["path"]).is_dir())
        return [{**p, "stale": (Path(p["path"]) / STALE).exists()} for p in found]

    def ledger(self) -> list[LedgerRow]:
        """Returns one row per stage, from `_stage.json` where it is complete, else from the parts'
        footers."""
        out: dict[str, LedgerRow] = {}
        wanted, models = 0, self.recipe.models.model_dump()
        for step in self.steps:
            total = measured(RunFolder(self.root), step.folder)
            wanted = max(wanted, total["parts"], total["counted"])
            out[step.folder] = LedgerRow(
                step.folder, step.kind, step.paths, self._expected(step, out), total["rows"], total["ok"],
                total["dropped"], total["failed"], total["reused"], total["seconds"],
                total.get("prompt_tokens", 0) + total.get("completion_tokens", 0),
                total["bytes"], total["parts"], wanted, total["first_error"],
                spent(models, step.kind, total),
            )  # fmt: skip
        return list(out.values())

    def _expected(self, step: Step, before: Mapping[str, LedgerRow]) -> int | None:
        if step.parent is None:
            return None
        kept = before[step.parent].ok
        for role, folder in step.uses.items():
            if role.startswith("gate ") and folder in before:
                kept -= before[folder].rows - before[folder].ok
        return kept * box_of(step).per_parent(step, self.recipe, int(self.plan.get("candidates", 1)))


class Parts:
    """The newest file of every part of every stage, from one listing per stage.

    All tables of a run hold their rows in the source's order, part by part, so a source row and everything
    made from it is found by a merge of streams, whatever the size of a part."""

    def __init__(self, run: RunReader) -> None:
        self.root = run.root
        self.steps = {s.folder: s for s in run.steps}
        self.files = {folder: RunFolder(run.root).newest(folder) for folder in self.steps}

    def indexes(self) -> list[int]:
        """The numbers of the parts that have been read."""
        return list(self.files["read"])

    def batches(
        self, folder: str, columns: Sequence[str], index: int | None = None, rows: int = 65536
    ) -> Iterator[pa.RecordBatch]:
        """Streams columns of a stage, or of one part of it."""
        files = self.files[folder]
        for found in files if index is None else files.keys() & {index}:
            yield from read_batches(files[found], columns, rows)

    def rows(
        self,
        folder: str,
        index: int,
        columns: Sequence[str] | None = None,
        images: bool = False,
        source_key: str | None = None,
    ) -> Iterator[Row]:
        """Streams one part's rows, or those of one source row: these columns, or all but (unless `images`)
        the encoded images."""
        path = self.files[folder].get(index)
        if path is None:
            return
        if columns is None:
            with open_part(path) as file:
                columns = [n for n in file.schema_arrow.names if images or n != "image"]
        for batch in read_batches(path, columns, IMAGE_ROWS if "image" in columns else 1024):
            if source_key is not None:
                batch = batch.filter(pc.equal(batch["source_key"], source_key))
            yield from batch.to_pylist()

    def family(self, index: int, source_key: str) -> Family:
        """Returns everything made from one source row, without encoded images."""
        return {f: list(self.rows(f, index, source_key=source_key)) for f in self.steps}

    def families(
        self, index: int, columns: Mapping[str, Sequence[str]] | None = None, images: bool = False
    ) -> Iterator[tuple[Row, Family]]:
        """Yields every source row of a part with everything made from it, in the source's order.

        `columns`: the columns to read, by folder; else all of all folders."""
        wanted: Mapping[str, Sequence[str] | None] = columns or dict.fromkeys(self.steps)
        streams = {
            f: _Stream(self.rows(f, index, names, images)) for f, names in wanted.items() if f != "read"
        }
        for row in self.rows("read", index, wanted.get("read")):
            yield row, {"read": [row], **{f: s.take(row["source_key"]) for f, s in streams.items()}}


class _Stream:
    """Hands out the rows of one source row after the other."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def take(self, source_key: str) -> list[Row]:
        """Returns the rows of `source_key`; keys must come in the source's order."""
        out = []
        while self._next is not None and self._next["source_key"] == source_key:
            out.append(self._next)
            self._next = next(self._rows, None)
        return out


def read_batches(path: Location, columns: Sequence[str] | None, rows: int = 256) -> Iterator[pa.RecordBatch]:
    """Streams one part's file."""
    with open_part(path) as file:
        yield from file.iter_batches(rows, columns=columns and list(columns), use_threads=False)


def _stored_recipe(data: Mapping[str, Any]) -> Recipe:
    """The recipe of a plan.json. A judge that is left out there is none; keys that older versions knew are
    left out."""
    recipe: Any = copy.deepcopy({"judge": None, **data})
    while True:
        try:
            return Recipe.model_validate(recipe)
        except ValidationError as error:
            old = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
            if not old:
                raise
            for *blocks, key in old:
                del reduce(getitem, blocks, recipe)[key]


def read_plan(root: Location) -> dict[str, Any] | None:
    """Returns the plan.json of a run's folder, or None. Raises UserError for a damaged one."""
    plan = read_json(RunFolder(root).plan_file)
    if (
        plan is not None
        and not {"recipe", "steps", "places", "limit", "candidates", "retries"} <= plan.keys()
    ):
        raise UserError(f"{root / 'plan.json'}: damaged (keys are missing); remove it and run again")
    return plan
