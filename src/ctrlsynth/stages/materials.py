"""What stages are built from: the recipe, its steps and controllers, and its models, each loaded once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..control.image import ImageController
from ..control.text import TextController
from ..data.rows import OpenSource
from ..models import registry
from ..models.base import VisionTagger
from ..recipe.paths import Step
from ..recipe.schema import Recipe

Need = tuple[Any, registry.Role, str]
"""A model as the recipe names it, its role, and the recipe's key, for messages."""


class Materials:
    """What the stages of one process are built from.

    source      None in a process that only makes stages which do not read it
    kinds       folder -> kind of stage
    candidates  texts per row, the best of which continues
    text, image the controllers (3a, 3b)
    miner       reads the phrases of a text that came without tags
    """

    def __init__(
        self,
        recipe: Recipe,
        base: Path,
        steps: Sequence[Step],
        source: OpenSource | None,
        has_images: bool,
        candidates: int = 1,
    ) -> None:
        self.recipe, self.base, self.source = recipe, base, source
        self.has_images, self.candidates = has_images, candidates
        self.kinds = {s.folder: s.kind for s in steps}
        text = _located(recipe.text_policy, base, ("templates_file", "json_schema", "examples"))
        self.text = TextController(text, recipe.seed)
        self.image = ImageController(_located(recipe.image_policy, base, ("styles_file",)), recipe.seed)
        self.miner: VisionTagger = registry.load("wordnet", "tagger")
        self.models: dict[str, Any] = {}

    def model(self, need: Need) -> Any:
        """Returns the model, the same object for the same model and options."""
        value, role, where = need
        spec = registry.parse_spec(value, role, where)
        name = f"{role} {spec.backend} {spec.model!r} {sorted(spec.options.items())!r}"
        if name not in self.models:
            self.models[name] = registry.load(spec, role, where)
        return self.models[name]

    def text_column(self, folder: str) -> str:
        """Returns the column of a folder's texts: captions of the source, or what was written."""
        return "caption" if self.kinds[folder] == "read" else "text"


def _located(policy: Any, base: Path, names: Sequence[str]) -> Any:
    """A policy whose files' paths are resolved against the recipe's folder."""
    return policy.model_copy(
        update={n: base / getattr(policy, n) for n in names if isinstance(getattr(policy, n), Path)}
    )
