"""Runs a recipe: makes a run's folder, or continues one."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from ..data.rows import SourcePart
from ..errors import UserError, WorkFailed
from ..models.device import quiet_native_threads
from ..models.installed import need
from ..recipe.file import load_recipe
from ..recipe.schema import Recipe
from ..storage.files import disk_errors, probe, read_json, write_json
from ..storage.location import Location, Remote, make_folder, output_location
from ..storage.parts import RunFolder
from .build import Workshop, open_workshop
from .differences import differences
from .estimate import preflight
from .local import execute
from .pairs import count_pairs
from .plan import Plan
from .reader import STALE, RunReader, read_plan
from .watch import Watcher

Work = Callable[[Workshop, RunFolder, Watcher | None, bool], None]
"""An engine: makes every missing part (`local.execute`)."""


def run(
    recipe: Recipe | Path | str,
    out: Location | str | None = None,
    *,
    base: Path | None = None,
    text: str | None = None,
    limit: int | None = None,
    update: bool = False,
    retry: bool = False,
    verify: bool = False,
    watcher: Watcher | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
) -> Location:
    """Runs a recipe into `out` (a path or a URL; `runs/NAME` unless given) and returns its folder.

    `base` is the folder that the recipe's relative paths start from, `text` the recipe as written; both are
    known when `recipe` is a file. A folder with another plan is refused with the difference, unless `update`.
    `retry` tries rows that failed again. `verify` reads the source again, compares content instead of size
    and date, and hashes whole model files. Raises UserError for what the user can fix and WorkFailed when
    nothing came through; what is finished by then is kept. `engine`: this machine, or the Ray cluster at
    `address`; no row depends on it."""
    if not isinstance(recipe, Recipe):
        path = Path(recipe)
        recipe, base, text = load_recipe(path), base or path.parent, path.read_text(encoding="utf-8")
    root = output_location(out or Path("runs") / recipe.name)
    folder = RunFolder(root)
    quiet_native_threads()
    earlier = read_plan(root)
    if earlier is None and folder.is_foreign():
        raise UserError(f"{root}: not empty and not a run's folder; choose another with --out")
    work = _engine(engine, address)
    workshop = open_workshop(recipe, base or Path(), limit, earlier)
    changes = _compare(root, earlier, workshop.plan, update)
    try:
        make_folder(root)
    except OSError as error:
        raise UserError(
            f"{root}: cannot be made ({error.strerror}); choose another folder with --out"
        ) from error
    folder.sweep_leftovers()
    if retry:
        workshop.plan = _retry_failed(folder, workshop.plan)
    if verify:
        _check_contents(workshop)
        workshop.plan = _retry_changed(folder, workshop)
    preflight(workshop, folder)
    _mark_stale(folder, workshop.plan, earlier or {}, changes)
    _check_disk(root)
    _save(folder, workshop.plan, text)
    work(workshop, folder, watcher, retry)
    _waves(folder, workshop, watcher, work)
    return root


def _engine(name: str, address: str | None) -> Work:
    if name == "local":
        if address is not None:
            raise UserError(f"--address {address}: goes with --engine ray")
        return execute
    need("ray", "ray", "--engine ray")
    from . import ray

    return partial(ray.execute, address=address)


def _compare(root: Location, earlier: Mapping[str, Any] | None, plan: Plan, update: bool) -> list[str]:
    lines = differences(earlier, plan.describe()) if earlier is not None else []
    if lines and not update:
        listed = "".join(f"  {line}\n" for line in lines)
        raise UserError(
            f"{root}: this folder was made by another plan. The difference:\n{listed}"
            "Continue with --update (rows whose key is unchanged are reused), or choose another folder "
            "with --out."
        )
    return lines


def _mark_stale(folder: RunFolder, plan: Plan, earlier: Mapping[str, Any], changes: list[str]) -> None:
    """Marks every report and data set of this run as stale if the run changes: another plan, another source,
    or rows that are retried."""
    folders = [s.folder for s in plan.steps]
    wanted = {(f, p.index, plan.part_digest(f, p)) for f in folders for p in plan.parts}
    if not changes and wanted != {(f, n, digest) for f in folders for n, digest, _ in folder.entries(f)}:
        changes = ["parts of the source were changed, added or removed, or rows were retried"]
    for product in earlier.get("products", []) if changes else []:
        mark = Path(product["path"]) / STALE
        if mark.parent.is_dir():
            with disk_errors(mark):
                text = "The run that this was made from has changed since:\n" + "\n".join(changes) + "\n"
                mark.write_text(text, encoding="utf-8", errors="backslashreplace")


def _save(folder: RunFolder, plan: Plan, text: str | None) -> None:
    before = read_json(folder.plan_file) or {}
    described = {**plan.describe(), "products": before.get("products", [])}
    if {k: v for k, v in before.items() if k != "schema"} != described:
        write_json(folder.plan_file, described)
    if text is not None:
        copy = folder.recipe_file
        with disk_errors(copy):
            if not copy.exists() or copy.read_bytes() != text.encode():
                copy.write_bytes(text.encode())


def add_product(root: Location, kind: str, path: Path) -> None:
    """Records in plan.json that a report or a data set was made from this run, so that a later update marks
    it as stale."""
    file, product = RunFolder(root).plan_file, {"kind": kind, "path": str(path.resolve())}
    plan = {k: v for k, v in (read_json(file) or {}).items() if k != "schema"}
    others = [p for p in plan.get("products", []) if p["path"] != product["path"]]
    write_json(file, {**plan, "products": [*others, product]})


def _retry_failed(folder: RunFolder, plan: Plan) -> Plan:
    """Returns the plan with a new digest for every part that holds failed rows and for all that depends on
    it."""
    for step in plan.steps:
        made = _made(folder, plan, step.folder)
        failed = [p.index for p, digest in made if folder.counts(step.folder, p.index, digest)["failed"]]
        plan = plan.retry(step.folder, failed)
    return plan


def _made(folder: RunFolder, plan: Plan, stage: str) -> list[tuple[SourcePart, str]]:
    """The parts of a stage that exist, with their digests."""
    listing, digests = folder.listing(stage), [(p, plan.part_digest(stage, p)) for p in plan.parts]
    return [(p, digest) for p, digest in digests if digest in listing.get(p.index, [])]


def _retry_changed(folder: RunFolder, workshop: Workshop) -> Plan:
    """`--verify`: reads the source again; returns the plan with a new digest for every part whose rows are
    not those of the stored table."""
    plan, source = workshop.plan, workshop.materials.source
    assert source is not None
    names, changed = ["id", "status", "caption", "sha256"], []
    for part, digest in _made(folder, plan, "read"):
        stored = (
            tuple(row)
            for batch in folder.batches("read", part.index, digest, names)
            for row in zip(*batch.to_pydict().values(), strict=True)
        )
        now = ((f"{part.name}:{row.key}", row.status, row.caption, row.sha256) for row in source.rows(part))
        if any(a != b for a, b in zip_longest(stored, now)):
            changed.append(part.index)
    return plan.retry("read", changed)


def _check_contents(workshop: Workshop) -> None:
    """`--verify`: hashes the whole of every model file whose digest looks at its ends only, and compares with
    the last time."""
    contents = dict(workshop.plan.contents)
    for model in workshop.materials.models.values():
        name, found = f"{model.id} {model.digest}", model.content_digest()
        if contents.setdefault(name, found) != found:
            raise UserError(
                f"{model.id}: its file is not the one that this run was made with, although its size and "
                f"both ends are the same; use another run folder"
            )
    workshop.plan = replace(workshop.plan, contents=contents)


def _check_disk(root: Location) -> None:
    if isinstance(root, Remote):
        probe(root)
        return
    free = shutil.disk_usage(root).free
    if free < 50 * 2**20:
        raise WorkFailed(f"{root}: only {free // 2**20} MB free on this disk; make room before the run")
    if not os.access(root, os.W_OK):
        raise UserError(f"{root}: cannot be written to")


def _waves(folder: RunFolder, workshop: Workshop, watcher: Watcher | None, work: Work) -> None:
    """`judge.target`: adds whole waves of candidates until enough pairs are accepted. Whole waves, so that
    the set does not depend on the engine."""
    judge = workshop.plan.recipe.judge
    while (
        judge is not None
        and judge.target is not None
        and count_pairs(RunReader.open(folder.root)) < judge.target
        and workshop.plan.candidates < judge.max_candidates
    ):
        workshop.widen(workshop.plan.candidates + 1)
        _save(folder, workshop.plan, None)
        work(workshop, folder, watcher, False)
