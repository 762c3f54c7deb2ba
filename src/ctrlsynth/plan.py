"""A recipe and a source become stages with their models and digests: what a run will do, before it does anything.

A step's digest says everything that could change its rows: the stage's version, its model, the policy, and the digests of what is upstream.
A part's digest adds the source part's fingerprint, so whether a part is done is known from its file's name (`store`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from . import __version__, models
from .concepts.in_recipe import check_balance, open_matcher
from .control.image import ImageController
from .control.text import TextController
from .data.sources import ImageReader, open_source
from .errors import UserError
from .paths import Step, places, plan_steps
from .recipe import Recipe, dump_recipe
from .sample import Tags
from .stages import Stage, digest_of
from .stages.balance import BalanceStage, MatchStage
from .stages.judge import JudgeImageStage, JudgeTextStage, score_text
from .stages.paint import PaintStage
from .stages.read import ReadStage
from .stages.tag import TagStage
from .stages.write import WriteStage


@dataclass(slots=True)
class Plan:
    """Everything that `engines` needs. `stages` and `digests` go by folder; `retries` counts, a folder and part, how often failed
    rows were asked for again; `candidates` is the wave that `judge.target` has reached; `contents` are whole-file hashes of models,
    taken by `--verify`; `callers` is what the engine of this process has learned of a stage's model (`engines.work.caller_of`);
    `wholes` what `whole_digest` has worked out."""

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
        """Of a barrier, which looks at all parts at once: changes with any part of what is upstream, and with rows asked for again."""
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
            "version": __version__,
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


def make_plan(recipe: Recipe, base: Path, limit: int | None = None, earlier: Mapping[str, Any] | None = None) -> Plan:
    """Checks the whole recipe, builds its models (which load their weights only when they are first asked) and digests every stage.

    `base` is the folder that relative paths start from; `earlier` the plan.json of the same run folder, which keeps folder names.
    Raises UserError for whatever the user can mend, before any row is made.
    """
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
    for step in plan.steps:
        stage = build.stage(step)
        upstream = [plan.digests[f] for f in ([step.parent] if step.parent else [])] + [
            f"{role}={plan.digests[folder]}" for role, folder in sorted(step.uses.items())
        ]
        plan.stages[step.folder] = stage
        plan.digests[step.folder] = digest_of(
            step.kind, step.label, step.family, stage.version, stage.settings(), build.policy(step), upstream
        )


class _Builder:
    """Turns steps into stages; loads each model once."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.recipe = plan, plan.recipe
        self.kinds = {s.folder: s.kind for s in plan.steps}
        text, self.text_digest = _settled(self.recipe.text_policy, plan.base, ("templates_file", "json_schema"))
        image, self.image_digest = _settled(self.recipe.image_policy, plan.base, ("styles_file",))
        self.text = TextController(text, self.recipe.seed)
        self.image = ImageController(image, self.recipe.seed)

    def model(self, value: Any, role: models.Role, where: str) -> Any:
        spec = models.parse_spec(value, role, where)
        name = f"{role} {spec.backend} {spec.model!r} {sorted(spec.options.items())!r}"
        if name not in self.plan.models:
            self.plan.models[name] = models.load(spec, role, where)
        return self.plan.models[name]

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

    def policy(self, step: Step) -> Any:
        """What of the recipe decides about this step's rows, beside the stage's own settings."""
        seed = self.recipe.seed
        if step.kind == "write":
            return [seed, self.text_digest, self.judge_digest() if self.plan.candidates > 1 else None]
        if step.kind == "balance":
            return seed
        if step.kind == "paint":
            return [seed, self.image_digest]
        if step.kind == "judge-image":
            return [seed, self.text_digest]
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
        judge = self.recipe.judge
        if kind == "paint" and judge is not None:
            where = "judge.tagger" if judge.tagger is not None else "models.tagger"
            tagger = self.model(judge.tagger if judge.tagger is not None else self.recipe.models.tagger, "tagger", where)
            if tagger.reads != "pixels":
                what = "captions" if tagger.reads == "caption" else "captions as well"
                hint = "name one as judge.tagger, such as reference or imagenet"
                raise UserError(f"{where}: the judge of images takes a tagger that reads pixels, {tagger.id!r} reads {what}; {hint}")
        else:
            tagger = self.model(self.recipe.models.tagger, "tagger", "models.tagger")
        if step.label == "tag+text" and tagger.reads == "pixels":
            hint = "use one that reads captions, such as wordnet"
            raise UserError(f"paths.{step.paths[0]} tags a text, but models.tagger {tagger.id!r} reads pixels only; {hint}")
        if kind == "read" and step.label == "tag" and tagger.reads == "pixels" and not self.plan.source.has_images:
            raise UserError(f"paths.{step.paths[0] if step.paths else '?'} starts from an image, but the source has none; start from text")
        return TagStage(str(step.parent), kind, step.label, tagger, ImageReader(), self.rejects(step))

    def write(self, step: Step) -> Stage:
        judge = self.recipe.judge
        score = None
        if judge is not None:
            score = partial(_text_score, matcher=judge.matcher.text, weights=dict(judge.weights))
        if step.family == "caption":
            return WriteStage(str(step.parent), "caption", step.label, self.text, None, rejects=self.rejects(step))
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
        return BalanceStage(str(step.parent), column, step.uses.get("matches"), rule, self.recipe.seed, self.rejects(step))

    def paint(self, step: Step) -> Stage:
        model = self.model(self.recipe.models.text_to_image, "text_to_image", "models.text_to_image")
        file = self.recipe.image_policy.image
        return PaintStage(
            str(step.parent), self.kinds[str(step.parent)], self.image, model, file, self.recipe.variants.paint, self.rejects(step)
        )

    def judge_text(self, step: Step) -> Stage:
        assert self.recipe.judge is not None
        captions = step.uses.get("text")
        column = self.text_column(captions) if captions else "caption"
        return JudgeTextStage(str(step.parent), self.recipe.judge, _mine, captions, column)

    def judge_image(self, step: Step) -> Stage:
        judge = self.recipe.judge
        assert judge is not None
        safety = self.model(judge.safety.model, "safety", "judge.safety") if judge.safety is not None else None
        text = step.uses["text"]
        is_caption = self.kinds[text] == "read"
        return JudgeImageStage(
            str(step.parent), judge, _mine, self.text, step.uses["paint"], text, is_caption, step.uses.get("original"), safety
        )


def _settled(policy: Any, base: Path, names: Sequence[str]) -> tuple[Any, str]:
    """A policy with its files' paths resolved against the recipe's folder, and a digest of it that holds the files' content."""
    paths = {n: base / getattr(policy, n) for n in names if isinstance(getattr(policy, n), Path)}
    content = {}
    for name, path in paths.items():
        try:
            content[name] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot read {name}: {error}") from error
    shipped = {
        f.name: f.read_text(encoding="utf-8")
        for f in resources.files("ctrlsynth.control").joinpath("templates").iterdir()
        if f.name.endswith(".yaml")
    }
    return policy.model_copy(update=paths), digest_of({**policy.model_dump(mode="json"), **content}, sorted(shipped.items()))


def _mine(text: str) -> Tags:
    from .models.taggers.wordnet import mine

    return mine(text)


def _text_score(text: str, tags: Tags, matcher: str, weights: dict[Any, float]) -> float:
    score = score_text(text, tags, (), matcher, weights)
    return -1.0 if score.recall is None else score.recall


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two plan.json differ in, a line each: recipe keys first, then stages whose digest moved for another reason."""
    lines = [f"{key}: {_show(a)} -> {_show(b)}" for key, a, b in _flat_diff(old.get("recipe", {}), new["recipe"]) if not _passed_over(key)]
    lines += [f"{key}: {_show(old.get(key))} -> {_show(new[key])}" for key in ("limit",) if old.get(key) != new[key]]
    lost = _lost_parts(old.get("parts", []), new["parts"]) if old.get("limit") == new["limit"] else []
    before = {s["folder"]: s for s in old.get("steps", [])}
    after = {s["folder"]: s for s in new["steps"]}
    moved = [f for f, s in after.items() if f in before and before[f]["digest"] != s["digest"]]
    if moved and not lines:
        for folder in moved:
            inner = _flat_diff(before[folder].get("settings", {}), after[folder]["settings"])
            lines += [f"{folder}: {key}: {_show(a)} -> {_show(b)}" for key, a, b in inner]
        lines = lines or [f"{', '.join(moved)}: made by other code or files than now"]
    if not moved and before.keys() == after.keys() and not any(line.startswith("limit") for line in lines):
        return lines + lost if lost else []  # else a change that no row depends on (train, evaluate, mix, a path's name)
    return lines + lost or [f"stages: {', '.join(before)} -> {', '.join(after)}"]


def _lost_parts(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """A source may grow at its end; one that lost parts (a disk that is not mounted?) or puts others before them is told, not followed."""
    gone = sorted(set(old) - set(new))
    if gone:
        named = ", ".join(gone[:5]) + (", ..." if len(gone) > 5 else "")
        return [f"source: {len(gone)} of {len(old)} parts are gone ({named}); --update drops what was made from them"]
    if list(new[: len(old)]) != list(old):
        return ["source: its parts stand in another order; with --update those that moved are made again"]
    return []


def _passed_over(key: str) -> bool:
    return key.split(".")[0] in ("train", "evaluate", "name", "faults")


def _flat_diff(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for name in [*old, *(k for k in new if k not in old)]:
            out += _flat_diff(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
        return out
    return [] if old == new else [(key, old, new)]


def _show(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
