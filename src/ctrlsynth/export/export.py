"""Writes the kept pairs of a finished run as a data set (section 4.1), with a card that counts everything.

The folder appears atomically; the same run gives the same bytes. Original images are copied unchanged from
the source."""

import json
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import ImageFault, decode, encode, suffix_of
from ..data.originals import ImageReader
from ..errors import UserError, WorkFailed, unknown
from ..runs.pairs import Made, Mix, Pair, Shape, families, licence_of, mix_of
from ..runs.reader import Family, Row, RunReader
from ..sample import draw
from ..storage.files import making, remove_leftovers
from .card import Summary, listed, write_card
from .writers import WRITERS, Sample, Writer


def export(
    run: RunReader,
    out: Path,
    *,
    format: str = "webdataset",
    mix: str | None = None,
    max_per_shard: int = 10_000,
    originals: float | None = None,
    share_text: bool | None = None,
    tick: Callable[[], None] | None = None,
) -> Summary:
    """Writes the pairs that `mix` (cap, img, capimg, mix; the recipe's unless given) takes into the new
    folder `out`.

    `originals`: original pairs for each synthetic pair, drawn by id; the recipe's unless given. With
    `judge.target` the first so many pairs, in the source's order, are exported. `tick` is called for each
    pair, for a progress line. Raises UserError for an `out` that holds something, a mix that the run does not
    make, or no pair at all."""
    mixes = ("cap", "img", "capimg", "mix")
    for what, name, known in (("format", format, WRITERS), ("mix", mix or "mix", mixes)):
        if name not in known:
            raise unknown(what, name, known)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty; name another folder with --out")
    chosen = mix_of(run, mix, share_text)
    ratio = run.recipe.mix.originals if originals is None else originals
    summary = Summary(format, mix or run.recipe.mix.use)
    plan = _Plan(run, Shape(run), chosen, summary, ratio)
    plan.count()
    remove_leftovers(out.parent)
    try:
        with making(out) as made:
            made.mkdir()
            writer = WRITERS[format](made, max_per_shard)
            try:
                _fill(plan, writer, format == "csv", tick or (lambda: None))
            finally:
                writer.close()
            if not summary.written:
                raise UserError(f"{run.root}: no pair could be written: {listed(summary.lost)}")
            write_card(run, summary, writer.load(out.name), made / "README.md")
            if out.is_dir():
                out.rmdir()
            os.replace(made, out)
    except OSError as error:
        raise WorkFailed(f"{out}: cannot write the data set: {error.strerror or error}") from error
    return summary


@dataclass
class _Plan:
    """The first pass: counts, and the draw below which an original pair is exported. Reads no image."""

    run: RunReader
    shape: Shape
    mix: Mix
    summary: Summary
    ratio: float
    limit: int | None = None
    below: float = 0.0

    def count(self) -> None:
        judge = self.run.recipe.judge
        self.limit = judge.target if judge is not None else None
        chosen = 0
        draws = array("d")
        for source, family in families(self.run, self.shape):
            pairs = list(self.shape.pairs(source, family))
            self.summary.pairs.update((p.kind, p.reason or "kept") for p in pairs)
            chosen += len(self.mix.take(pairs))
            if self.ratio and self.has_original(source, family):
                draws.append(self.draw(source))
        if not chosen:
            counts = self.summary.pairs.items()
            reasons = {r: n for (k, r), n in counts if r != "kept" and k in self.mix.kinds}
            why = (
                f"rejected: {listed(reasons)}; `ctrlsynth sweep {self.run.root}` shows what other "
                f"thresholds keep"
                if reasons
                else "none was made"
            )
            raise UserError(f"{self.run.root}: no pair to export ({why})")
        wanted = round(self.ratio * (min(chosen, self.limit) if self.limit else chosen))
        if wanted >= len(draws):
            self.below = 1.0
        elif wanted:
            self.below = float(np.partition(np.frombuffer(draws), wanted)[wanted])
        if wanted > len(draws):
            self.summary.notes.append(
                f"{wanted:,} original pairs were asked for; the source has {len(draws):,}"
            )
        if self.mix.note:
            self.summary.notes.append(self.mix.note)

    def draw(self, source: Row) -> float:
        return draw(self.run.recipe.seed, source["id"], "original")

    def has_original(self, source: Row, family: Family) -> bool:
        """Whether the source row has a usable image (decoded, if the run tagged it) and a caption."""
        tagged = self.shape.tagged
        decoded = tagged is None or any(r["status"] == "ok" for r in family[tagged])
        return bool(source["file"] and source["caption"] and decoded)

    def chosen(self) -> Iterator[Pair]:
        """Yields the pairs to export, in the source's order, with their images."""
        left = self.limit
        for source, family in families(self.run, self.shape, images=True):
            for pair in self.mix.take(self.shape.pairs(source, family)):
                if left is None or left > 0:
                    left = None if left is None else left - 1
                    yield pair
            if self.ratio and self.has_original(source, family) and self.draw(source) < self.below:
                yield Pair("original", source["id"], "read", source)


def _fill(plan: _Plan, writer: Writer, texts_alone: bool, tick: Callable[[], None]) -> None:
    paths = {s.folder: s.paths for s in plan.run.steps}
    judge = plan.run.recipe.judge
    against = judge.image_against if judge is not None else "text"
    with ImageReader() as reader:
        for pair in plan.chosen():
            tick()
            image, suffix, lost = _image(pair, reader, plan.summary)
            if lost == "no_image" and texts_alone:
                lost = None
            if lost is not None:
                plan.summary.lost[lost] += 1
                continue
            facts = facts_of(pair, paths.get(pair.folder, ()), against)
            writer.add(Sample(image, suffix, pair.words, facts))
            plan.summary.written[pair.kind] += 1
            given, counts = licence_of(pair.source), plan.summary.licences
            if pair.image is None and given is not None:
                counts[given if given in counts or len(counts) < 50 else "others"] += 1


def _image(pair: Pair, reader: ImageReader, summary: Summary) -> tuple[bytes | None, str, str | None]:
    """(bytes, suffix, None), or the reason for having none."""
    if pair.image is not None:
        data = (pair.image.row["image"] or {}).get("bytes")
        return (data, suffix_of(data) or "jpg", None) if data else (None, "", "no_image")
    source = pair.source
    if not source["file"]:
        return None, "", "no_image"
    try:
        data = reader.read(source["file"], source["member"], source["offset"], source["length"])
        suffix = suffix_of(data)
        if suffix is None:  # a format that trainers do not open (gif, bmp, tiff, ...): stored without loss
            data, suffix = encode(decode(data), "png"), "png"
            summary.converted += 1
    except ImageFault as fault:
        return None, "", fault.reason
    return data, suffix, None


def facts_of(pair: Pair, paths: tuple[str, ...], against: str) -> dict[str, Any]:
    """Returns the provenance of a pair: ids, paths, template, style, models, verdicts, recalls, sizes, and
    the source's own metadata."""
    source = pair.source
    facts: dict[str, Any] = {
        "id": pair.id,
        "pair": pair.kind,
        "source_key": source["source_key"],
        "paths": list(paths),
    }
    if pair.kind != "original":
        facts["original_caption"] = source["caption"]
    if pair.text is not None:
        text = pair.text.row
        facts |= {"text_id": text["id"], "text_model": text["model"], "template": text["template"]}
        facts |= {"clip_tokens": text["clip_tokens"], "truncated": text["truncated"]}
        facts |= _verdict("text", pair.text, "edited")
    seen = source
    if pair.image is not None:
        seen = pair.image.row
        facts |= {"image_id": seen["id"], "image_model": seen["model"]}
        facts |= {"style": seen["style"], "prompt": seen["prompt"], **_verdict("image", pair.image, against)}
    facts |= {"width": seen["width"], "height": seen["height"]}
    facts["source"] = json.loads(source["metadata"]) if source["metadata"] else {}
    return {k: v for k, v in facts.items() if v is not None}


def _verdict(medium: str, made: Made, against: str) -> dict[str, Any]:
    if made.judged is None:
        return {}
    score = made.judged[against]
    recall = round(score["recall"], 4) if score is not None and score["recall"] is not None else None
    return {f"{medium}_verdict": made.judged["verdict"], f"{medium}_recall": recall}
