"""Rows of all stages that belong together: the join behind `explain` and the gallery.

All tables of a run align part by part with the source and keep its order, so one source row and everything
made from it is found by a merge of streams, whatever the size of a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from ..recipe.paths import Step
from ..runs.reader import RunReader
from ..sample import stem
from ..storage.files import open_part
from ..storage.location import Location
from ..storage.parts import RunFolder

Row = dict[str, Any]
Family = dict[str, list[Row]]
"""Stage folder -> the rows of that stage that descend from one source row, in their order."""
IMAGE_ROWS = 16
"""Rows with image bytes that are held at once."""


class Parts:
    """The newest file of every part of every stage, from one listing a stage."""

    def __init__(self, run: RunReader) -> None:
        self.root = run.root
        self.steps: Mapping[str, Step] = {s.folder: s for s in run.steps}
        newest = RunFolder(run.root).newest
        self.files: dict[str, dict[int, Location]] = {folder: newest(folder) for folder in self.steps}

    def indexes(self) -> list[int]:
        """The numbers of the parts that have been read."""
        return sorted(self.files["read"])

    def rows(
        self, folder: str, index: int, images: bool = False, source_key: str | None = None
    ) -> Iterator[Row]:
        """One part's rows, without encoded images unless asked for; with `source_key` only those of that
        source row."""
        path = self.files[folder].get(index)
        if path is None:
            return
        with open_part(path) as file:
            names = [n for n in file.schema_arrow.names if images or n != "image"]
            size = IMAGE_ROWS if "image" in names else 256
            for batch in file.iter_batches(batch_size=size, columns=names, use_threads=False):
                if source_key is not None:
                    batch = batch.filter(pc.equal(batch["source_key"], source_key))
                yield from batch.to_pylist()

    def family(self, index: int, source_key: str) -> Family:
        """Everything made from one source row, without encoded images."""
        return {folder: list(self.rows(folder, index, source_key=source_key)) for folder in self.steps}

    def families(self, index: int, images: bool = True) -> Iterator[tuple[Row, Family]]:
        """Every source row of a part with everything made from it, in the source's order, encoded images
        included."""
        streams = {f: _Stream(self.rows(f, index, images)) for f in self.steps if f != "read"}
        for row in self.rows("read", index):
            yield row, {"read": [row], **{f: s.take(row["source_key"]) for f, s in streams.items()}}

    def ids(self, folder: str, index: int) -> list[str]:
        """The ids of one part."""
        path = self.files[folder].get(index)
        if path is None:
            return []
        with open_part(path) as file:
            return [str(i) for i in file.read(columns=["id"])["id"].to_pylist()]


class _Stream:
    """Hands out runs of rows with the same source key."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def take(self, source_key: str) -> list[Row]:
        out = []
        while self._next is not None and self._next["source_key"] == source_key:
            out.append(self._next)
            self._next = next(self._rows, None)
        return out


@dataclass(frozen=True, slots=True)
class Chain:
    """A path of the recipe as folders: `chain` from read to what it makes, its text and image judges, who
    tags its images again."""

    name: str
    chain: tuple[str, ...]

    @property
    def leaf(self) -> str:
        return self.chain[-1]


def path_chains(run: RunReader) -> list[Chain]:
    """The paths of a run in the recipe's order, each as the folders between the source and its last synthetic
    node."""
    by_folder = {s.folder: s for s in run.steps}
    names = list(dict.fromkeys(n for s in run.steps for n in s.paths))
    out = []
    for name in sorted(names, key=list(run.recipe["paths"]).index):
        mine = [s for s in run.steps if name in s.paths and s.kind in ("tag", "write", "balance", "paint")]
        made = [s for s in mine if s.kind != "tag"] or mine
        chain = [made[-1].folder]
        while (parent := by_folder[chain[-1]].parent) is not None:
            chain.append(parent)
        out.append(Chain(name, tuple(reversed(chain))))
    return out


def judge_of(run: RunReader, folder: str) -> Step | None:
    """The judge behind a write or paint folder, if there is one."""
    for step in run.steps:
        if (step.kind == "judge-text" and step.parent == folder) or (
            step.kind == "judge-image" and step.uses.get("paint") == folder
        ):
            return step
    return None


@dataclass(slots=True)
class Sample:
    """One source row followed along one path (or several that share all their steps), as far as it came.

    rows      (step, row) from the source to the last row that there is
    judged    folder of a write or paint step -> its judge's row; seen: folder of a paint step -> the tags of
              the painted image
    verdict   kept | rejected (by a judge) | dropped | failed (with the reason) | unfinished | unjudged
    where     the folder that decided, empty when kept
    """

    rows: list[tuple[Step, Row]]
    judged: dict[str, Row]
    seen: dict[str, Row]
    others: dict[str, list[Row]]
    verdict: str
    reason: str
    where: str
    paths: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return str(self.rows[-1][1]["id"])

    def last(self, kind: str) -> tuple[Step, Row] | None:
        """The last row of a kind on the way."""
        return next(((s, r) for s, r in reversed(self.rows) if s.kind == kind), None)


class Samples:
    """Turns the family of a source row into samples, one a path and variant."""

    def __init__(self, run: RunReader) -> None:
        self.paths = path_chains(run)
        self._steps = {s.folder: s for s in run.steps}
        self._judges = {s.folder: judge_of(run, s.folder) for s in run.steps if s.kind in ("write", "paint")}

    def of(self, source: Row, family: Family) -> list[Sample]:
        """The samples of one source row, in the order of the recipe's paths; same fate by the same steps is
        one sample."""
        children = {folder: _by_parent(rows) for folder, rows in family.items()}
        found: dict[tuple[str, str, str], Sample] = {}
        for path in self.paths:
            for rows in self._walk(path, [(self._steps["read"], source)], children):
                sample = self._judge(path, rows, family, children)
                same = found.setdefault((sample.id, sample.verdict, sample.where), sample)
                same.paths = (*same.paths, path.name)
        return list(found.values())

    def _walk(
        self, path: Chain, rows: list[tuple[Step, Row]], children: Mapping[str, Mapping[str, list[Row]]]
    ) -> Iterator[list[tuple[Step, Row]]]:
        last = rows[-1][1]
        if last["status"] != "ok" or len(rows) == len(path.chain):
            yield rows
            return
        folder = path.chain[len(rows)]
        below = _one_a_variant(children[folder].get(last["id"], []), self._steps[folder])
        if not below:
            yield rows
        for row in below:
            yield from self._walk(path, [*rows, (self._steps[folder], row)], children)

    def _judge(
        self,
        path: Chain,
        rows: list[tuple[Step, Row]],
        family: Family,
        children: Mapping[str, Mapping[str, list[Row]]],
    ) -> Sample:
        sample = Sample(rows, {}, {}, {}, "kept", "", "")
        for step, row in rows:
            judge = self._judges.get(step.folder)
            if step.kind == "write":
                group = children[step.folder].get(row["parent"], [])
                sample.others[step.folder] = [
                    r for r in group if r is not row and stem(r["id"]) == stem(row["id"])
                ]
            if judge is None:
                continue
            parent = row["id"]
            if step.kind == "paint" and judge.parent is not None:
                again = children[judge.parent].get(row["id"], [])
                if not again:
                    continue
                sample.seen[step.folder] = again[0]
                parent = again[0]["id"]
            verdicts = children[judge.folder].get(parent, [])
            if verdicts:
                sample.judged[step.folder] = verdicts[0]
        sample.verdict, sample.reason, sample.where = self._fate(path, sample)
        return sample

    def _fate(self, path: Chain, sample: Sample) -> tuple[str, str, str]:
        step, row = sample.rows[-1]
        if row["status"] != "ok":
            return row["status"], row["reason"] or "", step.folder
        if step.folder != path.leaf:
            own = sample.judged.get(step.folder)
            after = path.chain[len(sample.rows)]
            if own is not None and own["verdict"] != "kept":
                return "rejected", own["verdict"], str(self._judges[step.folder].folder)  # type: ignore[union-attr]
            return "unfinished", f"no row in {after}", after
        members = [m for m in (sample.last("write"), sample.last("paint")) if m is not None]
        judges = [(s, j) for s, _ in members if (j := self._judges.get(s.folder)) is not None]
        if not judges:
            return "unjudged", "", ""
        for member, judge in judges:
            seen = sample.seen.get(member.folder)
            if seen is not None and seen["status"] != "ok":
                return seen["status"], seen["reason"] or "", str(judge.parent)
            verdict = sample.judged.get(member.folder)
            if verdict is None:
                return "unfinished", f"no row in {judge.folder}", judge.folder
            if verdict["status"] == "failed":
                return "failed", verdict["reason"] or "", judge.folder
            if verdict["verdict"] != "kept":
                return "rejected", verdict["verdict"], judge.folder
        return "kept", "", ""


def _by_parent(rows: list[Row]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(row["parent"], []).append(row)
    return out


def _one_a_variant(rows: list[Row], step: Step) -> list[Row]:
    """Of the candidates for one text the chosen one, or the first where none could be chosen; all rows of
    other stages."""
    if step.kind != "write":
        return rows
    best: dict[str, Row] = {}
    for row in rows:
        if row["chosen"] or stem(row["id"]) not in best:
            best[stem(row["id"])] = row
    return list(best.values())
