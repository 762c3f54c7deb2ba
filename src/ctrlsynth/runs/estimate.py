"""What a run will cost (rows, disk, tokens, device-seconds per stage) and what would stop it, before any
model is called.

Rows are an upper bound (nothing dropped); rates are those measured in this run's folder, else the table
below. `preflight` reports all problems at once: models that do not answer, keys that are not set, a disk that
is too small. That a model's package and files are present is checked earlier, while the plan is made."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..recipe.paths import Step
from ..recipe.schema import Recipe
from ..stages.boxes import box_of
from ..storage.files import part_counts, read_json
from ..storage.location import Location
from ..storage.parts import RunFolder
from .build import Workshop, open_workshop
from .differences import differences
from .ledger import totals
from .plan import Plan

RATES: dict[str, tuple[float, float]] = {
    "read": (0.0005, 0.0),
    "imagenet": (0.03, 0.0),
    "wordnet": (0.0001, 0.0),
    "reference": (0.2, 0.0),
    "hybrid": (0.03, 0.0),
    "smollm2": (0.5, 220.0),
    "llama.cpp": (1.0, 300.0),
    "realizer": (0.00005, 0.0),
    "openai": (0.5, 250.0),
    "vllm": (0.05, 250.0),
    "transformers": (1.0, 250.0),
    "scenes": (0.07, 0.0),
    "diffusers": (3.3, 0.0),
}
"""Model -> (seconds, tokens) per row: rough, on one slow core or one A100 (vllm: a guess; diffusers: SDXL at
28 steps). Used until the run's folder has measured ones."""
PAINTED = 1024
"""Pixels of an image's edge where neither the recipe nor the model gives it: SDXL's."""
PIXEL_BYTES = {"jpeg": 0.3, "webp": 0.2, "png": 1.6}
"""Bytes per pixel of a photograph at the default quality."""


def estimate(recipe: Recipe, base: Path, out: Location, limit: int | None) -> dict[str, Any]:
    """Returns the stages with parts, rows, model, digest, what is done, the estimates, and the problems that
    `preflight` would raise. Loads no weights and calls no model."""
    earlier = read_json(RunFolder(out).plan_file)
    workshop, run = open_workshop(recipe, base, limit, earlier), RunFolder(out)
    plan, stages = workshop.plan, stage_estimates(workshop, run)
    return {
        "recipe": recipe.name,
        "run": str(out),
        "source": plan.source,
        "differences": differences(earlier, plan.describe()) if earlier else [],
        "stages": stages,
        "total": {k: sum(s[k] or 0 for s in stages) for k in ("device_seconds", "tokens", "bytes")},
        "problems": problems(workshop, run, stages),
    }


def stage_estimates(workshop: Workshop, run: RunFolder) -> list[dict[str, Any]]:
    """Returns for each stage: parts, how many are done, rows, and what is left to spend; None where the
    source's rows are not known yet."""
    plan = workshop.plan
    known = [p.rows for p in plan.parts]
    rows: dict[str, int | None] = {"read": None if None in known else sum(n or 0 for n in known)}
    stages = []
    for step in plan.steps:
        measured = _measured(run, step.folder)
        rows[step.folder] = _rows(plan, step, rows, measured)
        stages.append(_stage(workshop, run, step, rows[step.folder], measured))
    return stages


def _measured(run: RunFolder, folder: str) -> dict[str, Any]:
    """Counts and bytes of the existing parts, of any plan."""
    newest = {
        index: (digest, entry.size)
        for index, digest, entry in sorted(run.entries(folder), key=lambda e: e[2].written)
    }
    files = list(newest.items())[:100]
    stored = (read_json(run.stage_file(folder)) or {}).get(
        "parts", {}
    )  # else, of a stage in progress: footers
    known = {(int(index), part["digest"]): part for index, part in stored.items()}
    total = totals(
        known.get((index, digest)) or part_counts(run.part(folder, index, digest))
        for index, (digest, _) in files
    )
    return {**total, "bytes": sum(size for _, (_, size) in files)}


def _rows(plan: Plan, step: Step, rows: Mapping[str, int | None], measured: Mapping[str, Any]) -> int | None:
    if step.parent is None:
        return rows["read"] if rows["read"] is not None else (measured["rows"] or None)
    above = rows[step.parent]
    if above is None:
        return None
    variants, rule = plan.recipe.variants, plan.recipe.balance
    if rule is not None and (size := rule.size or rule.random) and plan.box(step.parent).barrier:
        above = min(above, size)
    painted = 1.0
    if plan.box(step.folder).makes == "image" and variants.painted and plan.step(step.parent).parent:
        painted = len(set(variants.painted)) / variants.write
    return round(above * painted * plan.box(step.folder).per_parent(step, plan.recipe, plan.candidates))


def _stage(
    workshop: Workshop, run: RunFolder, step: Step, rows: int | None, measured: Mapping[str, Any]
) -> dict[str, Any]:
    plan, stage, parts = workshop.plan, workshop.stages[step.folder], workshop.plan.parts
    listing = run.listing(step.folder)
    done = sum(plan.part_digest(step.folder, p) in listing.get(p.index, []) for p in parts)
    reusable = sum(
        1 for p in parts if p.index in listing and plan.part_digest(step.folder, p) not in listing[p.index]
    )
    seconds, tokens = RATES.get(re.split(r"[:(]", stage.model_name)[0] or step.kind, (0.0002, 0.0))
    box = plan.box(step.folder)
    size = _painted_bytes(workshop, step) if box.makes == "image" else float(box.row_bytes)
    made = measured["rows"] - measured.get("reused", 0)
    if made > 0 and measured["seconds"]:
        seconds = measured["seconds"] / made
        tokens = (measured.get("prompt_tokens", 0) + measured.get("completion_tokens", 0)) / made
    if measured["rows"]:
        size = measured["bytes"] / measured["rows"]
    left = 0.0 if not parts else 1 - done / len(parts)
    return {
        "folder": step.folder,
        "kind": step.kind,
        "paths": list(step.paths),
        "model": stage.model_name,
        "digest": plan.digests[step.folder][:12],
        "parts": len(parts),
        "parts_done": done,
        "parts_to_update": reusable,
        "rows": rows,
        "device_seconds": None if rows is None else rows * seconds * left,
        "tokens": None if rows is None else round(rows * tokens * left),
        "bytes": None if rows is None else round(rows * size),
        "example": stage.example(),
        "bytes_left": None if rows is None else round(rows * size * left),
        "rate": "measured here" if made > 0 and measured["seconds"] else "rough",
    }


def _painted_bytes(workshop: Workshop, step: Step) -> float:
    """Bytes per image as it will be stored, by its format and the size that the recipe or the model gives."""
    policy, model = workshop.plan.recipe.image_policy, workshop.models[step.folder][0]
    if model.id == "scenes" and policy.image.size is None and policy.size is None:
        return float(box_of(step).row_bytes)
    size: Any = policy.image.size or policy.size or model.size or PAINTED
    width, height = (size, size) if isinstance(size, int) else size
    return width * height * PIXEL_BYTES[policy.image.format]


def preflight(workshop: Workshop, run: RunFolder) -> None:
    """Raises UserError with every problem, one per line. Models of finished stages are not checked."""
    found = problems(workshop, run, stage_estimates(workshop, run))
    if found:
        raise UserError("\n".join(found))


def problems(workshop: Workshop, run: RunFolder, stages: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the same as a list; `stages` as `stage_estimates` returns them."""
    todo = [s["folder"] for s in stages if s["parts_done"] < s["parts"]]
    return [*_models(workshop, todo), *_disk(run.root, stages)]


def _models(workshop: Workshop, folders: Sequence[str]) -> list[str]:
    """What the models' own `check` finds: missing files, keys that are not set, a server that does not
    answer."""
    lines: list[str] = []
    asked: list[Any] = []
    for folder in folders:
        for model in workshop.models[folder]:
            if any(model is m for m in asked):
                continue
            asked.append(model)
            try:
                model.check()
            except UserError as error:
                lines += str(error).splitlines()
    return list(dict.fromkeys(lines))


def _disk(root: Any, stages: Sequence[dict[str, Any]]) -> list[str]:
    """Compares the bytes still to be written with the free space; a store behind a URL is assumed to be large
    enough."""
    left = sum(s["bytes_left"] or 0 for s in stages)
    if not isinstance(root, Path):
        return []
    there = next(p for p in (root, *root.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if left <= free:
        return []
    largest = max(stages, key=lambda s: s["bytes_left"] or 0)
    wanted = (
        f"the run would write about {_size(left)}, most of it in {largest['folder']} "
        f"({_size(largest['bytes_left'])})"
    )
    return [
        f"{root}: {wanted}, and {_size(free)} are free on its disk; make room, choose another folder with "
        f"--out, or fewer rows with --limit"
    ]


def _size(value: float) -> str:
    return (
        f"{value / 1e12:,.1f} TB"
        if value >= 1e12
        else f"{value / 1e9:,.1f} GB"
        if value >= 1e9
        else f"{value / 1e6:,.0f} MB"
    )
