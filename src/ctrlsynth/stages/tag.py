"""2a -> 1e: visual tags of an original image, of a painted one (the closed loop), or of a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
from PIL import Image

from ..data.images import ImageFault, decode
from ..models.base import ImageAndText, VisionTagger
from ..sample import Tags, child, digest_of, key_of
from .answers import BAD, tags_of
from .base import Item, Upstream, ask, build, close_model
from .tables import TAG

LONGEST = 768
"""Pixels of the longer edge that a tagger gets to see unless its `longest` says another: photographs of any
size, in bounded memory."""


class Bytes(Protocol):
    """What the stage needs of `data.sources.ImageReader`."""

    def read(self, file: str, member: str | None, offset: int | None, length: int | None) -> bytes: ...


@dataclass(slots=True)
class Look:
    """What a tagger will look at: text, and where the image is (a locator in the source, or a row of the
    painted table)."""

    text: str | None
    locator: tuple[str, str | None, int | None, int | None] | None = None
    row: int = -1
    image: Image.Image | None = None


class TagStage:
    """`parent_kind` says what is tagged: read (original), paint (synthetic image) or, with `of_text`, the
    text of read or write."""

    schema = TAG
    version = 1
    reuses = True

    def __init__(
        self,
        parent: str,
        parent_kind: str,
        label: str,
        tagger: VisionTagger,
        reader: Bytes | None,
        rejects: tuple[str, ...] = (),
    ) -> None:
        self._parent, self._kind, self._label, self._tagger, self._reader = (
            parent,
            parent_kind,
            label,
            tagger,
            reader,
        )
        self._rejects = rejects
        self._of_text = label == "tag+text"
        self._pixels = tagger.reads in ("pixels", "both") and not self._of_text
        self._texts = tagger.reads in ("caption", "both")
        self._longest = int(getattr(tagger, "longest", LONGEST))
        self._prefix = digest_of("tag", self.version, tagger.id, tagger.digest, self._longest)
        self._painted: tuple[Upstream, Iterator[list[list[Any]]], int, list[Any]] | None = None
        self.batch = int(getattr(tagger, "batch", 1024 if tagger.reads == "caption" else 16))
        self.model_name = tagger.id

    def settings(self) -> dict[str, Any]:
        return {
            "model": self._tagger.id,
            "digest": self._tagger.digest,
            "reads": self._tagger.reads,
            "of_text": self._of_text,
            "longest": self._longest,
        }

    def items(self, up: Upstream) -> Iterator[list[Item]]:
        rejected = set().union(*(up.rejected(folder) for folder in self._rejects))
        batches = self._originals(up) if self._kind == "read" else self._synthetic(up)
        for batch in batches:
            yield [item for item in batch if item.parent not in rejected] if rejected else batch

    def _originals(self, up: Upstream) -> Iterator[list[Item]]:
        names = ["id", "status", "caption", "sha256", "file", "member", "offset", "length"]
        label, prefix = "/" + self._label, self._prefix
        for columns in up.columns(self._parent, names, max(self.batch, 256)):
            out = []
            for row_id, status, caption, sha, file, member, offset, length in zip(*columns, strict=True):
                if status != "ok":
                    continue
                text = caption if self._texts else None
                key = key_of(prefix, (sha or "") if self._pixels else "", text or "")
                item = Item(
                    row_id + label,
                    row_id,
                    row_id,
                    key,
                    Look(text, (file, member, offset, length) if sha else None),
                )
                self._check(item)
                out.append(item)
            yield out

    def _synthetic(self, up: Upstream) -> Iterator[list[Item]]:
        text_column = ["text"] if self._kind in ("write", "balance") else []
        row = 0
        for columns in up.columns(
            self._parent, ["id", "status", "source_key", "key", *text_column], max(self.batch, 256)
        ):
            out = []
            for row_id, status, source_key, key, *text in zip(*columns, strict=True):
                if status == "ok":
                    shown = text[0] if text and self._texts else None
                    item = Item(
                        child(row_id, self._label),
                        row_id,
                        source_key,
                        key_of(self._prefix, key, shown or ""),
                        Look(shown, row=row),
                    )
                    self._check(item)
                    out.append(item)
                row += 1
            yield out

    def _check(self, item: Item) -> None:
        look: Look = item.payload
        if self._of_text and not look.text:
            item.status, item.reason = "dropped", "no_caption"
        elif self._pixels and self._kind == "read" and look.locator is None:
            item.status, item.reason = "dropped", "no_image"

    def load(self, items: list[Item], up: Upstream) -> None:
        """Decodes what the tagger will see; an image that cannot be decoded fails here with its reason."""
        if not self._pixels:
            return
        for item in items:
            if item.status != "ok":
                continue
            try:
                item.payload.image = decode(self._bytes(item.payload, up), longest=self._longest)
            except ImageFault as fault:
                item.status, item.reason = "failed", fault.reason

    def _bytes(self, look: Look, up: Upstream) -> bytes:
        if look.locator is not None:
            if self._reader is None:
                raise ImageFault("no_image")
            return self._reader.read(*look.locator)
        return self._painted_bytes(look.row, up)

    def _painted_bytes(self, row: int, up: Upstream) -> bytes:
        """Rows come in order: the painted table is walked once, 32 images at a time."""
        if self._painted is None or self._painted[0] is not up or self._painted[2] > row:
            self._painted = (up, up.columns(self._parent, ["image"], 32), 0, [])
        _, batches, start, images = self._painted
        while row >= start + len(images):
            start += len(images)
            images = next(batches)[0]
        self._painted = (up, batches, start, images)
        return bytes(images[row - start]["bytes"])

    def call(self, items: list[Item]) -> list[Any]:
        live = [i for i in items if i.status == "ok"]
        answers = (
            self._tagger.tag([ImageAndText(i.payload.image, i.payload.text) for i in live]) if live else []
        )
        ask(self._tagger.id, len(live), answers)
        following = iter(answers)
        out = [tags_of(next(following)) if i.status == "ok" else None for i in items]
        for item, tags in zip(items, out, strict=True):
            if item.status == "ok" and (tags is None or tags.error):
                item.status, item.reason = "failed", tags.error if tags is not None else BAD
        return out

    def rows(self, items: list[Item], answers: list[Any], seconds: float) -> pa.Table:
        tags: list[Tags] = [a if a is not None else _NONE for a in answers]
        ok = [i.status == "ok" for i in items]
        columns: dict[str, list[Any]] = {
            "objects": [t.objects if o else None for t, o in zip(tags, ok, strict=True)],
            "attributes": [t.attributes if o else None for t, o in zip(tags, ok, strict=True)],
            "relations": [t.relations if o else None for t, o in zip(tags, ok, strict=True)],
            "scores": [t.scores or None for t in tags],
            "caption": [t.caption for t in tags],
            "dropped_phrases": [t.dropped if o else None for t, o in zip(tags, ok, strict=True)],
        }
        for item in items:
            item.payload.image = None
        return build(self.schema, items, columns, self.model_name, seconds)

    def close(self) -> None:
        close_model(self._tagger)

    def finish(self, table: pa.Table) -> pa.Table:
        return table


_NONE = Tags()
