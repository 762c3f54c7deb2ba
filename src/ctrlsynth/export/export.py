"""Writes the kept pairs of a finished run as a data set (section 4.1), with a card that counts everything.

The folder appears whole under its name or not at all; the same run gives the same bytes. Original images are
copied from where the source has them, unchanged."""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import ImageFault, decode, encode, suffix_of
from ..data.originals import ImageReader
from ..errors import UserError, WorkFailed, unknown
from ..runs.pairs import (
    Choice,
    Pair,
    Row,
    Shape,
    choice_of,
    count_pairs,
    pairs_of,
    shape_of,
    source_rows,
    tally,
)
from ..runs.reader import RunReader
from ..sample import draw
from ..storage.files import making, remove_leftovers
from .card import write_card
from .writers import WRITERS, Sample, Writer

__all__ = ["Summary", "count_pairs", "export"]


@dataclass
class Summary:
    """What an export wrote and what it left out.

    pairs    (kind, `kept` or the judge's reason) -> pairs that the run made     written  kind -> pairs in the
             data set
    lost     reason -> pairs that were chosen and could not be written           notes    sentences for the
             card
    licences the source's own word on an original image that was written -> pairs, where the source has such a
    column"""

    format: str
    use: str
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    sources: int = 0
    wanted_originals: int = 0
    converted: int = 0
    licences: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = sum(self.written.values())
        kinds = ", ".join(f"{n:,} {k}" for k, n in sorted(self.written.items()))
        lost = (
            f"; not written: {', '.join(f'{n:,} {r}' for r, n in sorted(self.lost.items()))}"
            if self.lost
            else ""
        )
        return f"{total:,} pairs ({kinds}) as {self.format}{lost}; --train-num-samples {total}"


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
    `judge.target` the first so many pairs in the source's order leave. `tick` is called for each pair, for a
    progress line. Raises UserError for an `out` that holds something, a mix that the run does not make, or no
    pair at all."""
    if format not in WRITERS:
        raise unknown("format", format, WRITERS)
    if mix is not None and mix not in ("cap", "img", "capimg", "mix"):
        raise unknown("mix", mix, ("cap", "img", "capimg", "mix"))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty; name another folder with --out")
    choice = choice_of(run, mix, share_text)
    ratio = float(run.recipe["mix"]["originals"] if originals is None else originals)
    summary = Summary(format, mix or str(run.recipe["mix"]["use"]))
    plan = _Plan(run, shape_of(run.steps), choice, summary, ratio)
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
                raise UserError(f"{run.root}: no pair could be written: {_listed(summary.lost)}")
            write_card(run, summary, writer.load(out.name), made / "README.md")
            if out.is_dir():
                out.rmdir()
            os.replace(made, out)
    except OSError as error:
        raise WorkFailed(f"{out}: cannot write the data set: {error.strerror or error}") from error
    return summary


@dataclass
class _Plan:
    """The first pass: counts, and the draw below which an original pair leaves. Reads no image."""

    run: RunReader
    shape: Shape
    choice: Choice
    summary: Summary
    ratio: float
    limit: int | None = None
    below: float = 0.0

    def count(self) -> None:
        self.limit = (self.run.recipe.get("judge") or {}).get("target")
        chosen = 0
        draws = array("d")
        for source, groups in source_rows(self.run):
            pairs = pairs_of(self.shape, source, groups)
            tally(pairs, self.summary.pairs)
            chosen += len(self.choice.take(pairs))
            self.summary.sources += 1
            if self.ratio and self.has_original(source, groups):
                draws.append(self.draw(source))
        if not chosen:
            reasons = Counter(
                {r: n for (k, r), n in self.summary.pairs.items() if r != "kept" and k in self.choice.kinds}
            )
            told = (
                f"rejected: {_listed(reasons)}; `ctrlsynth sweep {self.run.root}` shows what other "
                f"thresholds keep"
                if reasons
                else "none was made"
            )
            raise UserError(f"{self.run.root}: no pair to export ({told})")
        chosen = min(chosen, self.limit) if self.limit else chosen
        self._originals(np.frombuffer(draws, dtype=np.float64), round(self.ratio * chosen))
        if self.choice.note:
            self.summary.notes.append(self.choice.note)

    def _originals(self, draws: Any, wanted: int) -> None:
        self.summary.wanted_originals = wanted
        if wanted >= len(draws):
            self.below = 1.0
            if wanted > len(draws):
                self.summary.notes.append(
                    f"{wanted:,} original pairs were asked for; the source has {len(draws):,}"
                )
        elif wanted:
            self.below = float(np.partition(draws, wanted)[wanted])

    def draw(self, source: Row) -> float:
        return draw(int(self.run.recipe["seed"]), source["id"], "original")

    def has_original(self, source: Row, groups: Mapping[str, list[Row]]) -> bool:
        """Whether the source row is a sound pair: an image (decoded, if the run tagged it) and a caption."""
        tagged = self.shape.tagged
        sound = tagged is None or any(r["status"] == "ok" for r in groups[tagged])
        return bool(source["file"] and source["caption"] and sound)

    def chosen(self) -> Iterator[Pair]:
        """The pairs that leave, in the source's order, images in hand."""
        left = self.limit
        for source, groups in source_rows(self.run, images=True):
            for pair in self.choice.take(pairs_of(self.shape, source, groups)):
                if left is None or left > 0:
                    left = None if left is None else left - 1
                    yield pair
            if self.ratio and self.has_original(source, groups) and self.draw(source) < self.below:
                yield Pair("original", source["id"], "read", source)


def _fill(plan: _Plan, writer: Writer, texts_alone: bool, tick: Callable[[], None]) -> None:
    paths = {s.folder: s.paths for s in plan.run.steps}
    judge = plan.run.recipe.get("judge") or {}
    with ImageReader() as reader:
        for pair in plan.chosen():
            tick()
            image, suffix, lost = _image(pair, reader, plan.summary)
            if lost == "no_image" and texts_alone:
                lost = None
            if lost is not None:
                plan.summary.lost[lost] += 1
                continue
            facts = facts_of(pair, paths.get(pair.folder, ()), judge.get("image_against", "text"))
            writer.add(Sample(image, suffix, pair.words, facts))
            plan.summary.written[pair.kind] += 1
            if pair.image is None:
                _note_licence(facts["source"], plan.summary.licences)


def _note_licence(source: Mapping[str, Any], counts: Counter[str]) -> None:
    given = next((str(source[k]) for k in ("licence", "license") if source.get(k)), None)
    if given is not None:
        counts[given if given in counts or len(counts) < 50 else "others"] += 1


def _image(pair: Pair, reader: ImageReader, summary: Summary) -> tuple[bytes | None, str, str | None]:
    """(bytes, suffix, None), or the reason why there are none."""
    if pair.image is not None:
        data = (pair.image["image"] or {}).get("bytes")
        return (data, suffix_of(data) or "jpg", None) if data else (None, "", "no_image")
    source = pair.source
    if not source["file"]:
        return None, "", "no_image"
    try:
        data = reader.read(source["file"], source["member"], source["offset"], source["length"])
        suffix = suffix_of(data)
        if (
            suffix is None
        ):  # what no trainer opens by its suffix (gif, bmp, tiff, ...): the pixels, without loss
            data, suffix = encode(decode(data), "png"), "png"
            summary.converted += 1
    except ImageFault as fault:
        return None, "", fault.reason
    return data, suffix, None


def facts_of(pair: Pair, paths: tuple[str, ...], against: str) -> dict[str, Any]:
    """The provenance of a pair: ids, paths, template, style, models, verdicts, recalls, sizes, and what the
    source knows of it."""
    source, text, image = pair.source, pair.text, pair.image
    facts: dict[str, Any] = {
        "id": pair.id,
        "pair": pair.kind,
        "source_key": source["source_key"],
        "paths": list(paths),
    }
    if pair.kind != "original":
        facts["original_caption"] = source["caption"]
    if text is not None:
        facts |= {"text_id": text["id"], "text_model": text["model"], "template": text["template"]}
        facts |= {"clip_tokens": text["clip_tokens"], "truncated": text["truncated"]}
    if pair.text_verdict is not None:
        facts |= {
            "text_verdict": pair.text_verdict["verdict"],
            "text_recall": _recall(pair.text_verdict["edited"]),
        }
    if image is not None:
        facts |= {
            "image_id": image["id"],
            "image_model": image["model"],
            "style": image["style"],
            "prompt": image["prompt"],
        }
    if pair.image_verdict is not None:
        facts |= {
            "image_verdict": pair.image_verdict["verdict"],
            "image_recall": _recall(pair.image_verdict[against]),
        }
    seen = image if image is not None else source
    facts |= {"width": seen["width"], "height": seen["height"]}
    facts["source"] = json.loads(source["metadata"]) if source["metadata"] else {}
    return {k: v for k, v in facts.items() if v is not None}


def _recall(verdict: Row | None) -> float | None:
    return round(verdict["recall"], 4) if verdict is not None and verdict["recall"] is not None else None


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {r}" for r, n in sorted(counts.items(), key=lambda i: (-i[1], i[0])))
