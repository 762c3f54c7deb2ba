"""3b + 2c -> 1c: a text becomes a prompt by the image policy, and the prompt an image."""

from collections.abc import Iterator
from typing import Any

from PIL import Image

from ..data.images import encode
from ..lang import clip_tokens
from ..lang.phrases import holds
from ..models.base import Painting, Prompt, TextToImageModel
from ..recipe.paths import Step
from ..sample import child, digest_of, key_of, variant
from ..storage.parts import PartView
from .answers import BAD, painting_of
from .base import Item, Stage
from .materials import Materials, Need
from .tables import PAINT

UNSAFE = "unsafe"
"""The ledger's word for an image that the model's own safety checker flagged. Such images are not kept: the
checkers black them out."""


class PaintStage(Stage):
    """Paints each text of its parent (a write folder, or `read`: the original captions) `variants.paint`
    times."""

    schema = PAINT
    reuses = True

    @classmethod
    def needs(cls, step: Step, materials: Materials) -> list[Need]:
        return [(materials.recipe.models.text_to_image, "text_to_image", "models.text_to_image")]

    def __init__(self, step: Step, materials: Materials, model: TextToImageModel) -> None:
        super().__init__(step, materials, model)
        policy, variants = materials.recipe.image_policy, materials.recipe.variants
        weighted = any(factor != 1 for factor in policy.weights.values())
        model.accepts(weights=weighted, negative=bool(policy.negative))
        self._painter, self._controller, self._file = model, materials.image, policy.image
        self._variants, self._painted = variants.paint, None
        self._text = materials.text_column(self._parent)
        if variants.painted is not None and self._text == "text":
            self._painted = sorted(set(variants.painted))
        self._prefix = digest_of("paint", self.version, model.id, model.digest, self._file.model_dump())
        self.batch = model.batch

    def settings(self) -> dict[str, Any]:
        return {
            "model": self._painter.id,
            "digest": self._painter.digest,
            "file": self._file.model_dump(),
            "variants": self._variants,
            **({"painted": self._painted} if self._painted is not None else {}),
        }

    def policy(self) -> Any:
        return [self._seed, self._controller.content()]

    def items(self, up: PartView) -> Iterator[Item]:
        for parent, source_key, text in self.parents(up, [self._text]):
            for number in range(self._variants):
                yield self._item(parent, source_key, text, number)

    def _item(self, parent: str, source_key: str, text: str | None, number: int) -> Item:
        row_id = child(parent, "paint", number)
        if not text or not text.strip():
            reason, parts = "no_caption", [""]
        elif self._painted is not None and variant(parent) not in self._painted:
            reason, parts = "not_painted", ["", "not_painted"]
        else:
            prompt = self._controller.prompt(row_id, text, None)
            weights = "\n".join(f"{k}={v}" for k, v in sorted(prompt.weights.items()))
            parts = [prompt.text, prompt.negative, weights, str(prompt.seed), str(prompt.size)]
            return Item(row_id, parent, source_key, key_of(self._prefix, *parts), prompt)
        return Item(row_id, parent, source_key, key_of(self._prefix, *parts), Prompt(""), "dropped", reason)

    def load(self, items: list[Item], up: PartView) -> None:
        """Announces the prompts to the model, batches ahead of `call`."""
        self._painter.begin([i.payload for i in items if i.status == "ok"])

    def call(self, items: list[Item]) -> list[Any]:
        answers = self.ask(items, lambda live: self._painter.generate([i.payload for i in live]))
        out = list(map(painting_of, answers))
        for item, painting in zip(items, out, strict=True):
            if item.status == "ok" and painting is None:
                item.fail(BAD)
            elif painting is not None and painting.flagged and not painting.error:
                item.drop(UNSAFE)
            elif painting is not None and (painting.error or painting.image is None):
                item.fail(painting.error or "no_output")
        return out

    def columns(self, items: list[Item], answers: list[Any]) -> dict[str, list[Any]]:
        prompts: list[Prompt] = [i.payload for i in items]
        images = [
            self._stored(i, a.image) if i.status == "ok" and a is not None else None
            for i, a in zip(items, answers, strict=True)
        ]
        counted = [_tokens(p, a) for p, a in zip(prompts, answers, strict=True)]
        return {
            "prompt": [p.text for p in prompts],
            "negative": [p.negative for p in prompts],
            "style": [p.style for p in prompts],
            "weights": [list(p.weights.items()) for p in prompts],
            "weights_unused": [  # those that the prompt lacks, or that the model says it could not weigh
                [w for w in p.weights if w in a.weights_unused or not holds(p.text, w)]
                if a is not None
                else None
                for p, a in zip(prompts, answers, strict=True)
            ],
            "drawn": [a.drawn if a is not None else None for a in answers],
            "not_drawn": [a.not_drawn if a is not None else None for a in answers],
            "image": [{"bytes": i[0], "path": None} if i is not None else None for i in images],
            "width": [i[1] if i is not None else None for i in images],
            "height": [i[2] if i is not None else None for i in images],
            "clip_tokens": [tokens for tokens, _ in counted],
            "truncated": [cut for _, cut in counted],
            "seed": [p.seed for p in prompts],
            "chunks": [a.chunks if a is not None else None for a in answers],
            "flagged": [a.flagged if a is not None else None for a in answers],
        }

    def _stored(self, item: Item, image: Image.Image) -> tuple[bytes, int, int] | None:
        try:
            if self._file.size is not None and max(image.size) > self._file.size:
                image = image.copy()
                image.thumbnail((self._file.size, self._file.size), Image.Resampling.LANCZOS)
            return encode(image, self._file.format, self._file.quality), image.width, image.height
        # pixels that no file can hold: a lazy image that is cut, one 70,000 pixels wide
        except (OSError, OverflowError, TypeError, ValueError, SystemError):
            item.fail("cannot_encode")
            return None


def _tokens(prompt: Prompt, painting: Painting | None) -> tuple[int, bool | None]:
    """CLIP tokens of a prompt and whether it was cut: as the model says, else as CLIP does it."""
    if painting is not None and painting.tokens is not None:
        return painting.tokens, painting.truncated
    tokens = clip_tokens.count(prompt.text)
    return tokens, clip_tokens.truncated(tokens)
