"""The story of one sample, box by box through the figure: source, tags, edits, instruction, text, scores,
prompt, image, verdict."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import UserError
from ..recipe.paths import Step
from ..runs.pairs import Sample, Shape, samples_of
from ..runs.reader import Family, Parts, Row, RunReader
from ..sample import last_step, lineage, parent, stem
from ..stages.boxes import box_of
from .facts import Fact, facts_of

_SEARCHED = 20_000
"""Ids that are compared for the nearest one."""


@dataclass(frozen=True, slots=True)
class Section:
    """One row of one stage. `depth`: steps from the source; `row` as stored, without the image's bytes;
    `part`: its file's name."""

    title: str
    folder: str
    id: str
    depth: int
    facts: tuple[Fact, ...]
    row: Mapping[str, Any]
    part: str


@dataclass(frozen=True, slots=True)
class Story:
    """The result of `explain`: sections in the order of making, then the verdict of every sample that they
    belong to."""

    asked: str
    source_key: str
    sections: tuple[Section, ...]
    fates: tuple[Fact, ...]


def explain(run: RunReader, row_id: str) -> Story:
    """Returns the story of a row's id (with what it was made from and what was made from it) or of a source
    key (with everything made from it). The name of the source's part, before the colon, may be left out if
    only one row has the key.

    Raises UserError with the nearest known ids if there is no such row.
    """
    parts = Parts(run)
    index, source_key, row_id = _locate(parts, row_id)
    family = parts.family(index, source_key)
    rows = {r["id"]: (parts.steps[f], r) for f, found in family.items() for r in found}
    if row_id not in rows:
        raise UserError(f"{run.root}: no row {row_id!r}{_nearest(row_id, list(rows))}")
    shown = [
        (step, row, depth)
        for step, row, depth in _tree(parts, family)
        if _belongs(row["id"], row_id)
        and (row["reason"] != "not_chosen" or row["id"] == row_id)  # else shown with the winner
    ]
    others = {r["id"]: _candidates(family[s.folder], r) for s, r, _ in shown if box_of(s).makes == "text"}
    sections = tuple(
        Section(
            _title(step, row), step.folder, row["id"], depth, tuple(facts_of(run, step, row,
            others.get(row["id"], []))),
            {k: dict(v) if k == "weights" and v is not None else v for k, v in row.items() if k != "image"},
            parts.files[step.folder][index].name,
        )
        for step, row, depth in shown
    )  # fmt: skip
    samples = samples_of(Shape(run), family["read"][0], family)
    return Story(row_id, source_key, sections, tuple(_fates(samples, row_id)))


def _locate(parts: Parts, row_id: str) -> tuple[int, str, str]:
    """Returns the part and the source key that an id starts with, and the full id; reads only the ids of
    `read`."""
    prefixes = pa.array(list(lineage(row_id)), pa.string())
    near: list[str] = []
    bare: list[tuple[int, int, str]] = []  # (length of the key, part, id) where the key alone fits
    for index in parts.indexes():
        batches = [b["id"] for b in parts.batches("read", ["id"], index)]
        ids = pa.chunked_array(batches, pa.string()).combine_chunks()
        found = ids.filter(pc.is_in(ids, prefixes))
        if len(found):
            return index, str(found[0]), row_id
        keys = pc.replace_substring_regex(ids, pattern="^[^:]*:", replacement="")
        fits = pc.is_in(keys, prefixes)
        bare += [
            (len(k), index, i)
            for k, i in zip(keys.filter(fits).to_pylist(), ids.filter(fits).to_pylist(), strict=True)
        ]
        if len(near) < _SEARCHED:
            near += ids.to_pylist()
    most = max((length for length, _, _ in bare), default=0)
    longest = [found for found in bare if found[0] == most]
    if len(longest) == 1:
        length, index, source_key = longest[0]
        return index, source_key, source_key + row_id[length:]
    raise UserError(f"{parts.root}: no row {row_id!r}{_nearest(row_id.partition('/')[0], near)}")


def _nearest(wanted: str, ids: list[str]) -> str:
    """`; did you mean ...?` with up to three ids: those that end in what was asked for, then the most
    alike."""
    low = wanted.lower()
    holds = [i for i in ids if low and low in i.lower()]
    ends = [i for i in holds if i.lower().endswith((":" + low, "/" + low))]
    alike = difflib.get_close_matches(wanted, ids, n=3, cutoff=0.5) if not holds else []
    names = list(dict.fromkeys([*ends, *holds, *alike]))[:3]
    if not ids:
        return "; nothing has been read yet"
    if not names:
        return f"; the first ones are {', '.join(map(repr, ids[:3]))}"
    return f"; did you mean {' or '.join(map(repr, names))}?"


def _tree(parts: Parts, family: Family) -> Iterator[tuple[Step, Row, int]]:
    """Yields every row after its parent, depth first, judges before what is made from the row that they
    judge."""
    children: dict[str | None, list[tuple[Step, Row]]] = {}
    for folder, rows in family.items():
        for row in rows:
            children.setdefault(row["parent"], []).append((parts.steps[folder], row))
    stack = [(step, row, 0) for step, row in reversed(children.get(None, []))]
    while stack:
        step, row, depth = stack.pop()
        yield step, row, depth
        below = sorted(children.get(row["id"], []), key=lambda c: box_of(c[0]).judges is None)
        stack += [(s, r, depth + 1) for s, r in reversed(below)]


def _belongs(row_id: str, asked: str) -> bool:
    """The row itself, what it was made from (with its judges), and what was made from it."""
    made_from = parent(row_id) if last_step(row_id) == "judge" else row_id
    return (
        row_id == asked or row_id.startswith(asked + "/") or asked.startswith((row_id + "/", made_from + "/"))
    )


def _candidates(rows: list[Row], row: Row) -> list[Row]:
    """All candidates for the same text, including the row itself, if there are several."""
    group = [r for r in rows if stem(r["id"]) == stem(row["id"])]
    return sorted(group, key=lambda r: r["candidate"]) if len(group) > 1 else []


def _title(step: Step, row: Row) -> str:
    made = f"{box_of(step).title}, {last_step(row['id']) if row['parent'] else row['id']}"
    by = f" by {row['model']}" if row["model"] else ""
    fate = "" if row["status"] == "ok" or box_of(step).judges else f": {row['status']}, {row['reason']}"
    return made + by + fate


def _fates(samples: list[Sample], asked: str) -> Iterator[Fact]:
    for sample in samples:
        made = [r["id"] for m in sample.made.values() for r in (m.judged, m.seen) if r is not None]
        others = [o["id"] for group in sample.others.values() for o in group]
        on_the_way = {*(r["id"] for _, r in sample.rows), *made, *others}
        if sample.id.startswith(asked + "/") or asked in on_the_way:
            verdict, reason, where = sample.fate
            why = f", {reason} ({where})" if reason else ""
            for path in sample.paths:
                yield Fact(path, f"{verdict}{why}: {sample.id}")


def first_kept(run: RunReader) -> str:
    """Returns the id of the first kept sample of the longest path: a good example.

    Without any, the first row's id. Raises UserError if nothing has been read."""
    parts, shape = Parts(run), Shape(run)
    furthest = max(map(len, shape.paths.values()))
    first, steps, best = "", 0, ""
    for source, family in (found for index in parts.indexes() for found in parts.families(index)):
        first = first or str(source["id"])
        for sample in samples_of(shape, source, family):
            if sample.fate.verdict == "kept" and len(sample.rows) > steps:
                steps, best = len(sample.rows), sample.id
        if steps == furthest:
            break
    if not first:
        raise UserError(f"{run.root}: nothing has been read yet")
    return best or first


def as_dict(run: RunReader, row_id: str) -> dict[str, Any]:
    """Returns the story for machines: the stored rows, and the facts as they are shown."""
    story = explain(run, row_id)
    return {
        "id": story.asked,
        "source_key": story.source_key,
        "sections": [
            {"stage": s.folder, "id": s.id, "title": s.title, "part": s.part, "row": dict(s.row)}
            | {
                "facts": [
                    {"label": f.label, "value": list(f.value) if isinstance(f.value, tuple) else f.value}
                    for f in s.facts
                ]
            }
            for s in story.sections
        ],
        "verdicts": [{"path": f.label, "verdict": f.value} for f in story.fates],
    }
