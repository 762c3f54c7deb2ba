"""What stands between two stages where a decision needs the whole set (balancing), whatever engine runs the
parts.

`gather` runs once, where the run is driven, when all parts upstream are there; what it finds waits in
`FOLDER/_gathered.json`. `settle` hands that to the stage in every process that makes a part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..concepts.match import Each
from ..errors import WorkFailed
from ..stages.base import Barrier
from ..storage.files import read_json, write_json
from ..storage.parts import PartView, RunFolder
from .plan import Plan

Tell = Callable[[str, dict[str, Any]], None]
"""Is given the stage's folder and what was gathered for it (`Watcher.gathered`)."""


def gather(
    plan: Plan, run: RunFolder, folder: str, parts: Sequence[Any], tell: Tell, each: Each = map
) -> None:
    """Lets a barrier stage look at everything upstream, unless what it found for the same parts is there, and
    tells what it found before anything is decided by it. Other stages pass."""
    stage = plan.stages[folder]
    if not isinstance(stage, Barrier):
        return
    wanted = plan.whole_digest(folder)
    stored = read_json(run.gathered_file(folder))
    if stored is None or stored.get("whole") != wanted:
        views = [
            PartView(run, p.index, {f: plan.part_digest(f, p) for f in plan.lineage(folder) if f != folder})
            for p in parts
        ]
        stored = {"whole": wanted, **stage.gather(views, each)}
        write_json(run.gathered_file(folder), stored)
    tell(folder, stored)
    settle(plan, run, folder)


def settle(plan: Plan, run: RunFolder, folder: str) -> None:
    """Gives a barrier stage what was gathered for it, once a process; other stages pass."""
    stage = plan.stages[folder]
    if not isinstance(stage, Barrier) or getattr(stage, "settled", None) == plan.whole_digest(folder):
        return
    stored = read_json(run.gathered_file(folder))
    if stored is None or stored.get("whole") != plan.whole_digest(folder):
        raise WorkFailed(
            f"{run.root / folder}: another plan gathered here meanwhile; run the same command again"
        )
    stage.settle(stored)
    stage.settled = stored["whole"]
