"""BOXES: everything about a kind of stage but the grammar of paths, which `recipe/paths.py` owns."""

import pkgutil
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from ..models.registry import Role
from ..recipe.paths import Kind, Step
from ..recipe.schema import Recipe
from . import tables
from .base import Stage

Medium = Literal["text", "image"]


@dataclass(frozen=True, slots=True)
class Box:
    """One kind of stage.

    title      what `explain` calls its rows
    stage      its class, imported on use
    row_bytes  bytes per row of its table, before there are measured ones
    role       the model that it calls; `asks` is what the gallery calls that model
    makes      what it synthesises; `judges` what it judges, by the column `decides` (images: the recipe's
               `judge.image_against`)
    barrier    its decision needs all parts of the stages before it
    on_path    its rows are links of a path, from the source to what the path makes
    """

    kind: Kind
    title: str
    stage: str
    schema: pa.Schema
    row_bytes: int
    role: Role | None = None
    asks: str = ""
    makes: Medium | None = None
    judges: Medium | None = None
    barrier: bool = False
    on_path: bool = True

    def load(self) -> type[Stage]:
        """Imports the stage's class."""
        loaded: type[Stage] = pkgutil.resolve_name(self.stage)
        return loaded

    def per_parent(self, step: Step, recipe: Recipe, candidates: int) -> int:
        """Returns the rows that one parent row gives."""
        if step.family == "caption":  # the tagger's own caption
            return 1
        counts = {"text": recipe.variants.write * candidates, "image": recipe.variants.paint}
        return counts[self.makes] if self.makes else 1

    def decides(self, recipe: Recipe) -> str:
        """Returns the column of a judge's table whose recall decides."""
        against = recipe.judge.image_against if recipe.judge is not None else "text"
        return against if self.judges == "image" else "edited"


BOXES: dict[str, Box] = {
    box.kind: box
    for box in (
        Box("read", "source (1a, 1b)", "ctrlsynth.stages.read:ReadStage", tables.READ, 150),
        Box("tag", "tags (2a)", "ctrlsynth.stages.tag:TagStage", tables.TAG, 150, "tagger", "tagger"),
        Box(
            "write", "text (3a, 2b)", "ctrlsynth.stages.write:WriteStage", tables.WRITE, 600, "llm", "LLM",
            makes="text",
        ),
        Box(
            "match", "concepts in the caption", "ctrlsynth.stages.balance:MatchStage", tables.MATCH, 200,
            on_path=False,
        ),
        Box(
            "balance", "balanced sampling", "ctrlsynth.stages.balance:BalanceStage", tables.BALANCE, 150,
            barrier=True,
        ),
        Box(
            "paint", "image (3b, 2c)", "ctrlsynth.stages.paint:PaintStage", tables.PAINT, 30_000,
            "text_to_image", "text-to-image", makes="image",
        ),
        Box(
            "judge-text", "judge of the text", "ctrlsynth.stages.judge:JudgeTextStage", tables.JUDGE_TEXT,
            150, judges="text", on_path=False,
        ),
        Box(
            "judge-image", "judge of the image", "ctrlsynth.stages.judge:JudgeImageStage",
            tables.JUDGE_IMAGE, 250, "safety", "safety judge", judges="image", on_path=False,
        ),
    )
}  # fmt: skip
"""Kind of stage -> its box, in the order of the figure."""


def box_of(step: Step) -> Box:
    """The box of a step."""
    return BOXES[step.kind]
