"""What can be known before the first model call: models that answer, keys that are set, room on the disk. All
at once, a line each.

That a model's package is installed and its files are at hand is found while the plan is made (`plan`), which
tells all of that at once as well. Nothing here loads weights."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..storage.parts import RunFolder
from .estimate import stage_estimates
from .plan import Plan


def preflight(plan: Plan, run: RunFolder) -> None:
    """Raises UserError with every problem, one a line. Models of stages that are done already are not
    asked."""
    found = problems(plan, run, stage_estimates(plan, run))
    if found:
        raise UserError("\n".join(found))


def problems(plan: Plan, run: RunFolder, stages: Sequence[dict[str, Any]]) -> list[str]:
    """The same as a list; `stages` as `estimate.stage_estimates` has them."""
    todo = [s["folder"] for s in stages if s["parts_done"] < s["parts"]]
    return [*_models(plan, todo), *_disk(run.root, stages)]


def _models(plan: Plan, folders: Sequence[str]) -> list[str]:
    """What the models themselves say: files present, keys set, a server that answers (`check()`, where they
    have one)."""
    lines: list[str] = []
    asked: list[Any] = []
    for folder in folders:
        for model in plan.users.get(folder, ()):
            if any(model is m for m in asked):
                continue
            asked.append(model)
            try:
                model.check()
            except UserError as error:
                lines += str(error).splitlines()
    return list(dict.fromkeys(lines))


def _disk(root: Any, stages: Sequence[dict[str, Any]]) -> list[str]:
    """Bytes that are still to be written against the room there is; a store behind a URL is taken to be large
    enough."""
    left = sum(s["bytes_left"] or 0 for s in stages)
    if not isinstance(root, Path):
        return []
    there = next(p for p in (root, *root.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if left <= free:
        return []
    largest = max(stages, key=lambda s: s["bytes_left"] or 0)
    told = (
        f"the run would write about {_size(left)}, most of it in {largest['folder']} "
        f"({_size(largest['bytes_left'])})"
    )
    return [
        f"{root}: {told}, and {_size(free)} are free on its disk; make room, choose another place with "
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
