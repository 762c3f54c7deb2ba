"""2a -> 1e: visual tags of an original image, of a painted one (the closed loop), or of a text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..data.images import ImageFault, decode
from ..data.originals import ImageReader
from ..errors import UserError
from ..models.base import ImageAndText, VisionTagger
from ..recipe.paths import Step
from ..sample import Tags, child, digest_of, key_of
from ..storage.parts import PartView
from .answers import BAD, tags_of
from .base import Item, PaintedImages, Stage
from .materials import Materials, Need
from .tables import TAG

_OF_TEXTS = ("key", "text")
_COLUMNS = {
    "read": ("sha256", "caption", "file", "member", "offset", "length"),
    "paint": ("key",),
}
"""Kind of the parent -> the columns of it that are read: what identifies the row, its text, where its image
is. Of one that holds texts: `_OF_TEXTS`."""


@dataclass(slots=True)
class ToTag:
    """What a tagger will see: a text, and an image (where its bytes are in the source, or painted)."""

    text: str | None
    locator: tuple[str, str | None, int | None, int | None] | None = None
    image: Image.Image | None = None


class TagStage(Stage):
    """Tags the rows of its parent: the images of `read` or `paint`, or (label `tag+text`) the texts of
    `read`, `write` or `balance`."""

    schema = TAG
    reuses = True

    @classmethod
    def needs(cls, step: Step, materials: Materials) -> list[Need]:
        """An original image is tagged by `models.tagger`, a painted one by `judge.tagger` if there is one."""
        judge = materials.recipe.judge
        if judge is not None and judge.tagger is not None and materials.kinds[str(step.parent)] == "paint":
            return [(judge.tagger, "tagger", "judge.tagger")]
        return [(materials.recipe.models.tagger, "tagger", "models.tagger")]

    def __init__(self, step: Step, materials: Materials, tagger: VisionTagger) -> None:
        super().__init__(step, materials, tagger)
        self._kind = materials.kinds[self._parent]
        _check_tagger(step, self._kind, materials, tagger)
        self._tagger, self._reader = tagger, ImageReader()
        self._of_text = step.label == "tag+text"
        self._pixels = tagger.reads in ("pixels", "both") and not self._of_text
        self._texts = tagger.reads in ("caption", "both")
        self._longest = tagger.longest
        self._prefix = digest_of("tag", self.version, tagger.id, tagger.digest, self._longest)
        self._painted = PaintedImages(self._parent)
        self.batch = tagger.batch or (1024 if tagger.reads == "caption" else 16)

    def settings(self) -> dict[str, Any]:
        return {
            "model": self._tagger.id,
            "digest": self._tagger.digest,
            "reads": self._tagger.reads,
            "of_text": self._of_text,
            "longest": self._longest,
        }

    def items(self, up: PartView) -> Iterator[Item]:
        original = self._kind == "read"
        for row_id, source_key, seen, *rest in self.parents(up, _COLUMNS.get(self._kind, _OF_TEXTS)):
            shown = rest[0] if rest and self._texts else None
            locator = tuple(rest[1:]) if seen and original else None
            key = key_of(self._prefix, (seen or "") if self._pixels or not original else "", shown or "")
            item = Item(child(row_id, self._label), row_id, source_key, key, ToTag(shown, locator))
            if original and self._pixels and locator is None:
                item.drop("no_image")
            if self._of_text and not shown:
                item.drop("no_caption")
            yield item

    def load(self, items: list[Item], up: PartView) -> None:
        """Decodes the images; one that cannot be decoded fails here with its reason."""
        if not self._pixels:
            return
        for item in items:
            if item.status == "ok":
                where = item.payload.locator
                try:
                    data = self._reader.read(*where) if where else self._painted.read(up, str(item.parent))
                    item.payload.image = decode(data, longest=self._longest)
                except ImageFault as fault:
                    item.fail(fault.reason)

    def call(self, items: list[Item]) -> list[Any]:
        answers = self.ask(
            items,
            lambda live: self._tagger.tag([ImageAndText(i.payload.image, i.payload.text) for i in live]),
        )
        out = list(map(tags_of, answers))
        for item, tags in zip(items, out, strict=True):
            if item.status == "ok" and (tags is None or tags.error):
                item.fail(tags.error if tags is not None else BAD)
        return out

    def columns(self, items: list[Item], answers: list[Any]) -> dict[str, list[Any]]:
        tags: list[Tags] = [a or Tags() for a in answers]
        sound = [t if i.status == "ok" else None for i, t in zip(items, tags, strict=True)]
        for item in items:
            item.payload.image = None
        return {
            "objects": [t.objects if t is not None else None for t in sound],
            "attributes": [t.attributes if t is not None else None for t in sound],
            "relations": [t.relations if t is not None else None for t in sound],
            "scores": [t.scores or None for t in tags],
            "caption": [t.caption for t in tags],
            "dropped_phrases": [t.dropped if t is not None else None for t in sound],
        }


def _check_tagger(step: Step, parent_kind: str, materials: Materials, tagger: VisionTagger) -> None:
    """Raises UserError for a tagger that cannot see what the step tags."""
    path = step.paths[0] if step.paths else "?"
    if parent_kind == "paint" and materials.recipe.judge is not None and tagger.reads != "pixels":
        _, _, where = TagStage.needs(step, materials)[0]
        what = "captions" if tagger.reads == "caption" else "captions as well"
        raise UserError(
            f"{where}: the judge of images takes a tagger that reads pixels, {tagger.id!r} reads {what}; "
            f"name one as judge.tagger, such as reference or imagenet"
        )
    if step.label == "tag+text" and tagger.reads == "pixels":
        raise UserError(
            f"paths.{path} tags a text, but models.tagger {tagger.id!r} reads pixels only; use one that "
            f"reads captions, such as wordnet"
        )
    if (
        parent_kind == "read"
        and step.label == "tag"
        and tagger.reads == "pixels"
        and not materials.has_images
    ):
        raise UserError(f"paths.{path} starts from an image, but the source has none; start from text")
