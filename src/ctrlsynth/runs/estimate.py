"""What a run will cost (rows, disk, tokens, device-seconds per stage) and what would stop it, before any
model is called.

Rows are an upper bound (nothing dropped); rates are those measured in this run's folder, else the table
below. `preflight` reports all problems at once: models that do not answer, keys that are not set, a disk that
is too small. That a model's package and files are present is checked earlier, while the plan is made."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..recipe.paths import Step
from ..recipe.schema import Recipe
from ..stages.boxes import box_of
from ..storage.files import read_json
from ..storage.location import Location
from ..storage.parts import RunFolder
from .build import Workshop, open_workshop
from .differences import differences
from .ledger import measured
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
    known = [p.rows for p in plan.parts if p.rows is not None]
    rows: dict[str, int | None] = {"read": sum(known) if len(known) == len(plan.parts) else None}
    stages = []
    for step in plan.steps:
        found = measured(run, step.folder, most=100)
        rows[step.folder] = _rows(plan, step, rows, found)
        stages.append(_stage(workshop, run, step, rows[step.folder], found))
    return stages


def _rows(plan: Plan, step: Step, rows: Mapping[str, int | None], found: Mapping[str, Any]) -> int | None:
    if step.parent is None:
        return rows["read"] if rows["read"] is not None else (found["rows"] or None)
    if (above := rows[step.parent]) is None:
        return None
    variants, rule = plan.recipe.variants, plan.recipe.balance
    if rule is not None and (size := rule.size or rule.random) and plan.box(step.parent).barrier:
        above = min(above, size)
    painted = 1.0
    if plan.box(step.folder).makes == "image" and variants.painted and plan.step(step.parent).parent:
        painted = len(set(variants.painted)) / variants.write
    return round(above * painted * plan.box(step.folder).per_parent(step, plan.recipe, plan.candidates))


def _stage(
    workshop: Workshop, run: RunFolder, step: Step, rows: int | None, found: Mapping[str, Any]
) -> dict[str, Any]:
    plan, stage, parts = workshop.plan, workshop.stages[step.folder], workshop.plan.parts
    listing = run.listing(step.folder)
    done = sum(plan.part_digest(step.folder, p) in listing.get(p.index, []) for p in parts)
    seconds, tokens = RATES.get(re.split(r"[:(]", stage.model_name)[0] or step.kind, (0.0002, 0.0))
    box = plan.box(step.folder)
    size = _painted_bytes(workshop, step) if box.makes == "image" else float(box.row_bytes)
    made = found["rows"] - found["reused"]
    if made > 0 and found["seconds"]:
        seconds = found["seconds"] / made
        tokens = (found.get("prompt_tokens", 0) + found.get("completion_tokens", 0)) / made
    if found["rows"]:
        size = found["bytes"] / found["rows"]
    left = 1 - done / len(parts) if parts else 0.0
    return {
        "folder": step.folder,
        "kind": step.kind,
        "paths": list(step.paths),
        "model": stage.model_name,
        "digest": plan.digests[step.folder][:12],
        "parts": len(parts),
        "parts_done": done,
        "parts_to_update": sum(p.index in listing for p in parts) - done,
        "rows": rows,
        "device_seconds": None if rows is None else rows * seconds * left,
        "tokens": None if rows is None else round(rows * tokens * left),
        "bytes": None if rows is None else round(rows * size),
        "example": stage.example(),
        "bytes_left": None if rows is None else round(rows * size * left),
        "rate": "measured here" if made > 0 and found["seconds"] else "rough",
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
    if found := problems(workshop, run, stage_estimates(workshop, run)):
        raise UserError("\n".join(found))


def problems(workshop: Workshop, run: RunFolder, stages: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the same as a list; `stages` as `stage_estimates` returns them."""
    todo = [s["folder"] for s in stages if s["parts_done"] < s["parts"]]
    lines: list[str] = []
    for model in {id(m): m for folder in todo for m in workshop.models[folder]}.values():
        try:
            model.check()
        except UserError as error:
            lines += str(error).splitlines()
    return [*dict.fromkeys(lines), *_disk(run.root, stages)]


def _disk(root: Any, stages: Sequence[dict[str, Any]]) -> list[str]:
    """Compares the bytes still to be written with the free space; a store behind a URL is assumed to be large
    enough."""
    if not isinstance(root, Path):
        return []
    left = sum(s["bytes_left"] or 0 for s in stages)
    free = shutil.disk_usage(next(p for p in (root, *root.absolute().parents) if p.exists())).free
    if left <= free:
        return []
    largest = max(stages, key=lambda s: s["bytes_left"] or 0)
    return [
        f"{root}: the run would write about {_size(left)}, most of it in {largest['folder']} "
        f"({_size(largest['bytes_left'])}), and {_size(free)} are free on its disk; make room, choose "
        f"another "
        f"folder with --out, or fewer rows with --limit"
    ]


def _size(value: float) -> str:
    return (
        f"{value / 1e12:,.1f} TB"
        if value >= 1e12
        else f"{value / 1e9:,.1f} GB"
        if value >= 1e9
        else f"{value / 1e6:,.0f} MB"
    )
