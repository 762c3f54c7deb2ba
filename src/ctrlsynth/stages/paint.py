"""3b + 2c -> 1c: a text becomes a prompt by the image policy, and the prompt an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from PIL import Image

from ..control.image import ImageController
from ..data.images import encode
from ..lang import clip_tokens
from ..lang.phrases import holds
from ..models.base import Painting, Prompt, TextToImageModel
from ..recipe.schema import ImageFile
from ..sample import child, digest_of, key_of, variant
from .answers import BAD, painting_of
from .base import Item, Upstream, ask, build, close_model
from .tables import PAINT

UNSAFE = "unsafe"
"""The ledger's word for an image that the model's own safety checker flagged. Such images are not kept: the
checkers black them out."""


class PaintStage:
    """Paints the texts of `parent` (a write folder, or `read`: the original captions), `variants` times
    each."""

    schema = PAINT
    version = 1
    reuses = True

    def __init__(
        self,
        parent: str,
        parent_kind: str,
        controller: ImageController,
        model: TextToImageModel,
        file: ImageFile,
        variants: int,
        rejects: tuple[str, ...] = (),
        painted: Sequence[int] | None = None,
    ) -> None:
        self._parent, self._text = parent, "caption" if parent_kind == "read" else "text"
        self._controller, self._model, self._file, self._variants, self._rejects = (
            controller,
            model,
            file,
            variants,
            rejects,
        )
        self._painted = sorted(set(painted)) if painted is not None and parent_kind != "read" else None
        self._prefix = digest_of("paint", self.version, model.id, model.digest, file.model_dump())
        self.batch = int(getattr(model, "batch", 8))
        self.model_name = model.id

    def settings(self) -> dict[str, Any]:
        only = {"painted": self._painted} if self._painted is not None else {}
        return {
            "model": self._model.id,
            "digest": self._model.digest,
            "file": self._file.model_dump(),
            "variants": self._variants,
            **only,
        }

    def items(self, up: Upstream) -> Iterator[list[Item]]:
        rejected = set().union(*(up.rejected(folder) for folder in self._rejects))
        for columns in up.columns(self._parent, ["id", "status", "source_key", self._text], 256):
            out: list[Item] = []
            for row_id, status, source_key, text in zip(*columns, strict=True):
                if status == "ok" and row_id not in rejected:
                    out.extend(
                        self._item(child(row_id, "paint", n), row_id, source_key, text)
                        for n in range(self._variants)
                    )
            yield out

    def _item(self, row_id: str, parent: str, source_key: str, text: str | None) -> Item:
        if not text or not text.strip():
            return Item(
                row_id, parent, source_key, key_of(self._prefix, ""), Prompt(""), "dropped", "no_caption"
            )
        if self._painted is not None and variant(parent) not in self._painted:
            return Item(
                row_id,
                parent,
                source_key,
                key_of(self._prefix, "", "not_painted"),
                Prompt(""),
                "dropped",
                "not_painted",
            )
        prompt = self._controller.prompt(row_id, text, None)
        weights = "\n".join(f"{k}={v}" for k, v in sorted(prompt.weights.items()))
        key = key_of(self._prefix, prompt.text, prompt.negative, weights, str(prompt.seed), str(prompt.size))
        return Item(row_id, parent, source_key, key, prompt)

    def load(self, items: list[Item], up: Upstream) -> None:
        """Prompts are all there is; a model that answers elsewhere gets them now (its optional `begin`),
        batches ahead of `call`."""
        begin = getattr(self._model, "begin", None)
        if begin is not None:
            begin([i.payload for i in items if i.status == "ok"])

    def call(self, items: list[Item]) -> list[Any]:
        live = [i for i in items if i.status == "ok"]
        answers = self._model.generate([i.payload for i in live]) if live else []
        ask(self._model.id, len(live), answers)
        following = iter(answers)
        out: list[Painting | None] = []
        for item in items:
            painting = painting_of(next(following)) if item.status == "ok" else None
            if painting is None and item.status == "ok":
                item.status, item.reason = "failed", BAD
            elif painting is not None and painting.flagged and not painting.error:
                item.status, item.reason = "dropped", UNSAFE
                painting = replace(painting, image=None)
            elif painting is not None and (painting.error or painting.image is None):
                item.status, item.reason = "failed", painting.error or "no_output"
                painting = replace(painting, image=None)
            out.append(painting)
        return out

    def rows(self, items: list[Item], answers: list[Any], seconds: float) -> pa.Table:
        prompts: list[Prompt] = [i.payload for i in items]
        images = [
            self._stored(i, a.image) if a is not None and a.image is not None else None
            for i, a in zip(items, answers, strict=True)
        ]
        counted = [_tokens(p, a) for p, a in zip(prompts, answers, strict=True)]
        columns: dict[str, list[Any]] = {
            "prompt": [p.text for p in prompts],
            "negative": [p.negative for p in prompts],
            "style": [p.style for p in prompts],
            "weights": [list(p.weights.items()) for p in prompts],
            "weights_unused": [_unused(p, a) for p, a in zip(prompts, answers, strict=True)],
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
        return build(self.schema, items, columns, self.model_name, seconds)

    def _stored(self, item: Item, image: Image.Image) -> tuple[bytes, int, int] | None:
        try:
            if self._file.size is not None and max(image.size) > self._file.size:
                image = image.copy()
                image.thumbnail((self._file.size, self._file.size), Image.Resampling.LANCZOS)
            return encode(image, self._file.format, self._file.quality), image.width, image.height
        except (
            OSError,
            OverflowError,
            TypeError,
            ValueError,
            SystemError,
        ):  # pixels that no file takes: a lazy image that is cut, 70,000 wide
            item.status, item.reason = "failed", "cannot_encode"
            return None

    def close(self) -> None:
        close_model(self._model)

    def finish(self, table: pa.Table) -> pa.Table:
        return table


def _unused(prompt: Prompt, painting: Painting | None) -> list[str] | None:
    """Weighted tags that the prompt lacks, and those that the model says it could not weigh."""
    if painting is None:
        return None
    return [w for w in prompt.weights if w in painting.weights_unused or not holds(prompt.text, w)]


def _tokens(prompt: Prompt, painting: Painting | None) -> tuple[int, bool | None]:
    """CLIP tokens of a prompt and whether it was cut: as the model says, else as CLIP does it."""
    if painting is not None and painting.tokens is not None:
        return painting.tokens, painting.truncated
    tokens = clip_tokens.count(prompt.text)
    return tokens, clip_tokens.truncated(tokens)
