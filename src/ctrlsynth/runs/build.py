"""Makes the plan of a run, and its stages and models in this process."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..concepts.balance import check_balance
from ..data.sources import open_source
from ..errors import UserError
from ..recipe.paths import Step, plan_steps
from ..recipe.schema import Recipe
from ..sample import digest_of
from ..stages.base import Stage
from ..stages.boxes import box_of
from ..stages.materials import Materials
from .faults import GuardedModel
from .plan import Plan


class Workshop:
    """The plan of a run with the stages and models of this process.

    stages, models  folder -> its stage, and the models that it calls
    """

    def __init__(self, plan: Plan, materials: Materials) -> None:
        self.plan, self.materials = plan, materials
        self.stages: dict[str, Stage] = {}
        self.models: dict[str, list[Any]] = {}
        self._guarded: dict[str, GuardedModel] = {}

    def build(self, *folders: str) -> None:
        """Makes the stages of these folders (all unless given). Models load their weights when first called.

        Raises UserError with everything that is missing (packages, files) at once."""
        wanted = [s for s in self.plan.steps if s.folder in folders or not folders]
        problems: list[str] = []
        for step in wanted:
            self.models[step.folder] = []
            for need in box_of(step).load().needs(step, self.materials):
                try:
                    self.models[step.folder].append(self.materials.model(need))
                except UserError as error:
                    problems += str(error).splitlines()
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))
        for step in wanted:
            models = self.models[step.folder]
            self.stages[step.folder] = box_of(step).load()(step, self.materials, *models)

    def widen(self, candidates: int) -> None:
        """Builds everything for this number of candidates, and completes the plan."""
        self.materials.candidates = candidates
        self.plan = replace(self.plan, candidates=candidates, digests={}, settings={})
        self.build()
        digests: dict[str, str] = {}
        for step in self.plan.steps:
            digests[step.folder] = self.digest(step, digests)
        self.plan = replace(
            self.plan, digests=digests, settings={f: s.settings() for f, s in self.stages.items()}
        )

    def digest(self, step: Step, known: Mapping[str, str]) -> str:
        """Returns a step's digest; its stage is built, and `known` has the digests of what is upstream."""
        stage = self.stages[step.folder]
        upstream = [known[step.parent]] if step.parent else []
        upstream += [f"{role}={known[folder]}" for role, folder in sorted(step.uses.items())]
        return digest_of(
            step.kind, step.label, step.family, stage.version, stage.settings(), stage.policy(), upstream
        )

    def guarded(self, folder: str) -> GuardedModel:
        """Returns the caller of a stage's model: one per process, so that what it learns outlives a part."""
        return self._guarded.setdefault(folder, GuardedModel(folder, self.plan.recipe.faults))


def open_workshop(
    recipe: Recipe, base: Path, limit: int | None = None, earlier: Mapping[str, Any] | None = None
) -> Workshop:
    """Checks the whole recipe, builds its stages and models, and digests every step.

    `base` is the folder that relative paths start from; `earlier` the plan.json of the same run folder, which
    keeps folder names. Raises UserError for whatever the user can fix, before any row is made."""
    judge, earlier = recipe.judge, earlier or {}
    gate = judge is not None and judge.gate
    original = judge is not None and judge.image_against != "text"
    matched = recipe.balance is not None and recipe.balance.random is None
    steps = plan_steps(recipe.paths, judge is not None, gate, original, earlier.get("places"), matched)
    source = open_source(recipe.source, base, limit)
    check_balance(recipe, steps, source.parts())
    candidates = judge.candidates if judge is not None else 1
    if judge is not None and judge.target is not None:
        candidates = max(candidates, min(int(earlier.get("candidates", 1)), judge.max_candidates))
    plan = Plan(
        recipe, base, limit, tuple(steps), source.describe(), source.has_images, tuple(source.parts()),
        candidates,
        retries=earlier.get("retries", {}), contents=earlier.get("contents", {}),
    )  # fmt: skip
    workshop = Workshop(plan, Materials(recipe, base, steps, source, source.has_images))
    workshop.widen(candidates)
    return workshop


def build_one(plan: Plan, folder: str) -> Workshop:
    """Builds one stage of a plan that another process made. Only `read` opens the source.

    Raises UserError where this machine would make other rows: other code, models or files."""
    step = plan.step(folder)
    source = open_source(plan.recipe.source, plan.base, plan.limit) if step.parent is None else None
    materials = Materials(plan.recipe, plan.base, plan.steps, source, plan.has_images, plan.candidates)
    workshop = Workshop(plan, materials)
    workshop.build(folder)
    if workshop.digest(step, plan.digests) != plan.digests[folder]:
        raise UserError(
            f"{folder} would make other rows here than where the run was started: other code, models or files"
        )
    return workshop
