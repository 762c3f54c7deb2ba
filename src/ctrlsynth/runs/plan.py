"""A recipe and a source become stages with their models and digests: what a run will do, before it does
anything.

A step's digest says everything that could change its rows: the stage's version, its model, the policy, and
the digests of what is upstream. A part's digest adds the source part's fingerprint, so whether a part is done
is known from its file's name (`store`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..concepts.in_recipe import check_balance, open_matcher
from ..control.image import ImageController
from ..control.text import TextController
from ..data.sources import ImageReader, open_source
from ..errors import UserError
from ..models import registry as models
from ..models.base import VisionTagger
from ..recipe.paths import Step, places, plan_steps
from ..recipe.schema import Recipe, dump_recipe
from ..sample import Tags, digest_of
from ..stages.balance import BalanceStage, MatchStage
from ..stages.base import Stage
from ..stages.judge import JudgeImageStage, JudgeTextStage, score_text
from ..stages.paint import PaintStage
from ..stages.read import ReadStage
from ..stages.tag import TagStage
from ..stages.write import WriteStage


@dataclass(slots=True)
class Plan:
    """Everything that `engines` needs. `stages` and `digests` go by folder; `retries` counts, a folder and
    part, how often failed rows were asked for again; `candidates` is the wave that `judge.target` has
    reached; `contents` are whole-file hashes of models, taken by `--verify`; `callers` is what the engine of
    this process has learned of a stage's model (`engines.work.caller_of`); `wholes` what `whole_digest` has
    worked out."""

    recipe: Recipe
    base: Path
    limit: int | None
    steps: list[Step]
    source: Any
    stages: dict[str, Stage]
    digests: dict[str, str]
    models: dict[str, Any]
    candidates: int = 1
    retries: dict[str, dict[str, int]] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    callers: dict[str, Any] = field(default_factory=dict)
    users: dict[str, list[Any]] = field(default_factory=dict)
    wholes: dict[str, str] = field(default_factory=dict)

    def parts(self) -> list[Any]:
        """The source's parts: index, name, fingerprint."""
        return list(self.source.parts())

    def kind(self, folder: str) -> str:
        """Which box of the figure a folder is."""
        return next(s.kind for s in self.steps if s.folder == folder)

    def part_digest(self, folder: str, part: Any) -> str:
        """12 hex digits: what decides whether a part's file is the wanted one."""
        upstream = self.lineage(folder)
        again = [self.retries.get(f, {}).get(str(part.index), 0) for f in upstream]
        wholes = [self.whole_digest(f) for f in upstream if getattr(self.stages[f], "barrier", False)]
        return digest_of(self.digests[folder], part.fingerprint, again if any(again) else 0, *wholes)[:12]

    def whole_digest(self, folder: str) -> str:
        """Of a barrier, which looks at all parts at once: changes with any part of what is upstream, and with
        rows asked for again."""
        again = {f: self.retries[f] for f in self.lineage(folder) if self.retries.get(f)}
        name = f"{folder} {self.digests[folder]} {sorted(again.items())}"
        if name not in self.wholes:
            self.wholes[name] = digest_of(name, [p.fingerprint for p in self.parts()])[:12]
        return self.wholes[name]

    def lineage(self, folder: str) -> list[str]:
        """The folder and everything upstream of it, in the order of the steps."""
        by_folder = {s.folder: s for s in self.steps}
        wanted, todo = set(), [folder]
        while todo:
            step = by_folder[todo.pop()]
            if step.folder not in wanted:
                wanted.add(step.folder)
                todo.extend([*([step.parent] if step.parent else []), *step.uses.values()])
        return [s.folder for s in self.steps if s.folder in wanted]

    def describe(self) -> dict[str, Any]:
        """What plan.json holds."""
        return {
            "version": version("ctrlsynth"),
            "recipe": dump_recipe(self.recipe),
            "base": str(self.base),
            "limit": self.limit,
            "source": self.source.describe(),
            "parts": [p.name for p in self.parts()],
            "candidates": self.candidates,
            "retries": self.retries,
            "contents": self.contents,
            "places": places(self.steps),
            "steps": [
                {
                    "folder": s.folder,
                    "kind": s.kind,
                    "label": s.label,
                    "parent": s.parent,
                    "uses": dict(s.uses),
                    "family": s.family,
                    "paths": list(s.paths),
                }
                | {"digest": self.digests[s.folder], "settings": self.stages[s.folder].settings()}
                for s in self.steps
            ],
        }


def make_plan(
    recipe: Recipe, base: Path, limit: int | None = None, earlier: Mapping[str, Any] | None = None
) -> Plan:
    """Checks the whole recipe, builds its models (which load their weights only when they are first asked)
    and digests every stage.

    `base` is the folder that relative paths start from; `earlier` the plan.json of the same run folder, which
    keeps folder names. Raises UserError for whatever the user can mend, before any row is made."""
    judged = recipe.judge is not None
    gate = recipe.judge is not None and recipe.judge.gate
    original = recipe.judge is not None and recipe.judge.image_against != "text"
    matched = recipe.balance is not None and recipe.balance.random is None
    steps = plan_steps(recipe.paths, judged, gate, original, (earlier or {}).get("places"), matched)
    source = open_source(recipe.source, base, limit)
    check_balance(recipe, steps, source.parts())
    plan = Plan(recipe, base, limit, steps, source, {}, {}, {})
    plan.candidates = recipe.judge.candidates if recipe.judge is not None else 1
    if earlier and recipe.judge is not None and recipe.judge.target is not None:
        reached = min(int(earlier.get("candidates", 1)), recipe.judge.max_candidates)
        plan.candidates = max(plan.candidates, reached)
    plan.contents = dict((earlier or {}).get("contents", {}))
    plan.retries = {f: dict(r) for f, r in (earlier or {}).get("retries", {}).items()}
    fill_stages(plan)
    return plan


def fill_stages(plan: Plan) -> None:
    """Builds stages and digests; called again when a wave of candidates is added."""
    build = _Builder(plan)
    build.load_models()
    for step in plan.steps:
        plan.stages[step.folder] = build.stage(step)
        plan.digests[step.folder] = build.digest(step)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A stage that another process works on, and a source whose parts are known: what the digests of parts
    need of them."""

    barrier: bool = False
    has_images: bool = True
    known: Sequence[Any] = ()

    def parts(self) -> Sequence[Any]:
        return self.known


def one_stage(plan: Plan, folder: str) -> Plan:
    """`plan`, made by another process and sent without stages, models and source, with this one stage built
    here.

    Only `read` opens the source. Raises UserError where this machine would make other rows: other code,
    models or files."""
    if plan.kind(folder) == "read":
        plan.source = open_source(plan.recipe.source, plan.base, plan.limit)
    build = _Builder(plan)
    step = next(s for s in plan.steps if s.folder == folder)
    plan.stages[folder] = build.stage(step)
    if build.digest(step) != plan.digests[folder]:
        raise UserError(
            f"{folder} would make other rows here than where the run was started: other code, models or files"
        )
    return plan


class _Builder:
    """Turns steps into stages; loads each model once."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.recipe = plan, plan.recipe
        self.kinds = {s.folder: s.kind for s in plan.steps}
        text = _located(self.recipe.text_policy, plan.base, ("templates_file", "json_schema", "examples"))
        self.text = TextController(text, self.recipe.seed)
        self.image = ImageController(
            _located(self.recipe.image_policy, plan.base, ("styles_file",)), self.recipe.seed
        )
        self.miner: VisionTagger = models.load("wordnet", "tagger")

    def model(self, value: Any, role: models.Role, where: str) -> Any:
        spec = models.parse_spec(value, role, where)
        name = f"{role} {spec.backend} {spec.model!r} {sorted(spec.options.items())!r}"
        if name not in self.plan.models:
            self.plan.models[name] = models.load(spec, role, where)
        return self.plan.models[name]

    def load_models(self) -> None:
        """Every model that a step needs. All that cannot be had (an absent package, files that are not at
        hand) are told at once."""
        problems: list[str] = []
        for step in self.plan.steps:
            self.plan.users[step.folder] = []
            for value, role, where in self.needs(step):
                try:
                    self.plan.users[step.folder].append(self.model(value, role, where))
                except UserError as error:
                    problems += str(error).splitlines()
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))

    def needs(self, step: Step) -> list[tuple[Any, models.Role, str]]:
        """The models of a step: as the recipe names them, their role, the recipe's key."""
        chosen, judge = self.recipe.models, self.recipe.judge
        if step.kind == "tag":
            return [self.tagger_of(step)]
        if step.kind == "write" and step.family != "caption":
            return [(chosen.llm, "llm", "models.llm")]
        if step.kind == "paint":
            return [(chosen.text_to_image, "text_to_image", "models.text_to_image")]
        safety = judge.safety if judge is not None and step.kind == "judge-image" else None
        return [(safety.model, "safety", "judge.safety")] if safety is not None else []

    def tagger_of(self, step: Step) -> tuple[Any, models.Role, str]:
        """An original image is tagged by `models.tagger`, what was painted by `judge.tagger` where there is
        one."""
        judge = self.recipe.judge
        if judge is not None and judge.tagger is not None and self.kinds[str(step.parent)] == "paint":
            return judge.tagger, "tagger", "judge.tagger"
        return self.recipe.models.tagger, "tagger", "models.tagger"

    def stage(self, step: Step) -> Stage:
        make = {
            "read": self.read,
            "tag": self.tag,
            "write": self.write,
            "match": self.match,
            "balance": self.balance,
            "paint": self.paint,
            "judge-text": self.judge_text,
            "judge-image": self.judge_image,
        }
        return make[step.kind](step)

    def digest(self, step: Step) -> str:
        """Of a step whose stage is built and whose upstream has its digests."""
        stage, known = self.plan.stages[step.folder], self.plan.digests
        upstream = [known[f] for f in ([step.parent] if step.parent else [])]
        upstream += [f"{role}={known[folder]}" for role, folder in sorted(step.uses.items())]
        return digest_of(
            step.kind, step.label, step.family, stage.version, stage.settings(), self.policy(step), upstream
        )

    def policy(self, step: Step) -> Any:
        """What of the recipe decides about this step's rows, beside the stage's own settings."""
        seed = self.recipe.seed
        if step.kind == "write":
            family = step.family if step.family != "caption" else None
            return [
                seed,
                self.text.content(family),
                self.judge_digest() if self.plan.candidates > 1 else None,
            ]
        if step.kind == "balance":
            return seed
        if step.kind == "paint":
            return [seed, self.image.content()]
        if step.kind == "judge-image":
            return [seed, self.text.content(None)]
        return seed if step.kind == "read" else None

    def judge_digest(self) -> Any:
        judge = self.recipe.judge
        return [judge.matcher.text, dict(judge.weights)] if judge is not None else None

    def rejects(self, step: Step) -> tuple[str, ...]:
        return tuple(folder for role, folder in sorted(step.uses.items()) if role.startswith("gate "))

    def read(self, step: Step) -> Stage:
        return ReadStage(self.plan.source)

    def tag(self, step: Step) -> Stage:
        kind = self.kinds[str(step.parent)]
        value, role, where = self.tagger_of(step)
        tagger = self.model(value, role, where)
        if kind == "paint" and self.recipe.judge is not None and tagger.reads != "pixels":
            what = "captions" if tagger.reads == "caption" else "captions as well"
            hint = "name one as judge.tagger, such as reference or imagenet"
            raise UserError(
                f"{where}: the judge of images takes a tagger that reads pixels, {tagger.id!r} reads "
                f"{what}; {hint}"
            )
        if step.label == "tag+text" and tagger.reads == "pixels":
            hint = "use one that reads captions, such as wordnet"
            raise UserError(
                f"paths.{step.paths[0]} tags a text, but models.tagger {tagger.id!r} reads pixels only; "
                f"{hint}"
            )
        if (
            kind == "read"
            and step.label == "tag"
            and tagger.reads == "pixels"
            and not self.plan.source.has_images
        ):
            raise UserError(
                f"paths.{step.paths[0] if step.paths else '?'} starts from an image, but the source has "
                f"none; start from text"
            )
        return TagStage(str(step.parent), kind, step.label, tagger, ImageReader(), self.rejects(step))

    def write(self, step: Step) -> Stage:
        judge = self.recipe.judge
        score = None
        if judge is not None:
            score = partial(_text_score, matcher=judge.matcher.text, weights=dict(judge.weights))
        if step.family == "caption":
            return WriteStage(
                str(step.parent), "caption", step.label, self.text, None, rejects=self.rejects(step)
            )
        assert step.family is not None
        family = step.family
        self.text.check(family)
        model = self.model(self.recipe.models.llm, "llm", "models.llm")
        text_folder = step.uses.get("text")
        column = self.text_column(text_folder or str(step.parent))
        return WriteStage(
            str(step.parent),
            family,
            step.label,
            self.text,
            model,
            self.recipe.variants.write,
            self.plan.candidates,
            score,
            text_folder,
            column,
            self.rejects(step),
        )

    def text_column(self, folder: str) -> str:
        """Where a folder's texts stand: captions of the source, or what was written."""
        return "caption" if self.kinds[folder] == "read" else "text"

    def match(self, step: Step) -> Stage:
        assert self.recipe.balance is not None
        matcher = open_matcher(self.recipe, self.plan.base)
        return MatchStage(str(step.parent), self.text_column(str(step.parent)), matcher, self.rejects(step))

    def balance(self, step: Step) -> Stage:
        assert self.recipe.balance is not None
        rule = self.recipe.balance
        column = self.text_column(str(step.parent))
        return BalanceStage(
            str(step.parent), column, step.uses.get("matches"), rule, self.recipe.seed, self.rejects(step)
        )

    def paint(self, step: Step) -> Stage:
        model = self.model(self.recipe.models.text_to_image, "text_to_image", "models.text_to_image")
        policy, variants = self.recipe.image_policy, self.recipe.variants
        if hasattr(model, "accepts"):
            model.accepts(
                weights=any(factor != 1 for factor in policy.weights.values()), negative=bool(policy.negative)
            )
        kind = self.kinds[str(step.parent)]
        return PaintStage(
            str(step.parent),
            kind,
            self.image,
            model,
            policy.image,
            variants.paint,
            self.rejects(step),
            variants.painted,
        )

    def judge_text(self, step: Step) -> Stage:
        assert self.recipe.judge is not None
        captions = step.uses.get("text")
        column = self.text_column(captions) if captions else "caption"
        return JudgeTextStage(str(step.parent), self.recipe.judge, self.miner, captions, column)

    def judge_image(self, step: Step) -> Stage:
        judge = self.recipe.judge
        assert judge is not None
        safety = (
            self.model(judge.safety.model, "safety", "judge.safety") if judge.safety is not None else None
        )
        text = step.uses["text"]
        is_caption = self.kinds[text] == "read"
        return JudgeImageStage(
            str(step.parent),
            judge,
            self.miner,
            self.text,
            step.uses["paint"],
            text,
            is_caption,
            step.uses.get("original"),
            safety,
        )


def _located(policy: Any, base: Path, names: Sequence[str]) -> Any:
    """A policy whose files' paths are resolved against the recipe's folder."""
    return policy.model_copy(
        update={n: base / getattr(policy, n) for n in names if isinstance(getattr(policy, n), Path)}
    )


def _text_score(text: str, tags: Tags, matcher: str, weights: dict[Any, float]) -> float:
    score = score_text(text, tags, (), matcher, weights)
    return -1.0 if score.recall is None else score.recall
