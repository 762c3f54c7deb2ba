"""Writes the kept pairs of a finished run as a data set (section 4.1), with a card that counts everything.

The folder appears atomically; the same run gives the same bytes. Original images are copied unchanged from
the source."""

import json
import os
from array import array
from collections.abc import Callable, Iterator
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
from .writers import WRITERS, Sample, loading


def export(
    run: RunReader,
    out: Path,
    *,
    format: str = "webdataset",
    mix: str | None = None,
    max_per_shard: int = 10_000,
    originals: float | None = None,
    share_text: bool | None = None,
    tick: Callable[[], None] = lambda: None,
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
    pairs = _chosen(run, chosen, _count(run, chosen, ratio, summary))
    remove_leftovers(out.parent)
    try:
        with making(out) as made:
            made.mkdir()
            WRITERS[format](made, _samples(run, pairs, summary, tick), max_per_shard)
            written = summary.written.total()
            if not written:
                raise UserError(f"{run.root}: no pair could be written: {listed(summary.lost)}")
            load = loading(format, out.name, written, max_per_shard)
            write_card(run, summary, load, made / "README.md")
            if out.is_dir():
                out.rmdir()
            os.replace(made, out)
    except OSError as error:
        raise WorkFailed(f"{out}: cannot write the data set: {error.strerror or error}") from error
    return summary


def _limit(run: RunReader) -> int | None:
    """The most synthetic pairs to export: the judge's target, if it has one."""
    return run.recipe.judge.target if run.recipe.judge is not None else None


def _count(run: RunReader, mix: Mix, ratio: float, summary: Summary) -> float:
    """Counts pairs and writes the summary's notes, in a pass that reads no image. Returns the draw (see
    `_draw`) below which an original pair is exported. UserError if there is no synthetic pair to export."""
    shape, chosen, draws = Shape(run), 0, array("d")
    for source, family in families(run, shape):
        pairs = list(shape.pairs(source, family))
        summary.pairs.update((p.kind, p.reason or "kept") for p in pairs)
        chosen += len(mix.take(pairs))
        if ratio and (drawn := _draw(run, shape, source, family)) is not None:
            draws.append(drawn)
    if not chosen:
        reasons = {r: n for (k, r), n in summary.pairs.items() if r != "kept" and k in mix.kinds}
        why = (
            f"rejected: {listed(reasons)}; `ctrlsynth sweep {run.root}` shows what other thresholds keep"
            if reasons
            else "none was made"
        )
        raise UserError(f"{run.root}: no pair to export ({why})")
    wanted = round(ratio * min(chosen, _limit(run) or chosen))
    if wanted > len(draws):
        summary.notes.append(f"{wanted:,} original pairs were requested; the source has {len(draws):,}")
    if mix.note:
        summary.notes.append(mix.note)
    if not wanted:
        return 0.0
    return float(np.partition(np.frombuffer(draws), wanted)[wanted]) if wanted < len(draws) else 1.0


def _draw(run: RunReader, shape: Shape, source: Row, family: Family) -> float | None:
    """The random number in 0..1 by which a source row's original pair is chosen. None if it has no caption or
    no usable image (one that was decoded, if the run tagged it)."""
    tagged = shape.tagged
    decoded = tagged is None or any(r["status"] == "ok" for r in family[tagged])
    usable = source["file"] and source["caption"] and decoded
    return draw(run.recipe.seed, source["id"], "original") if usable else None


def _chosen(run: RunReader, mix: Mix, below: float) -> Iterator[Pair]:
    """Yields the pairs to export, in the source's order, with their images."""
    shape, left = Shape(run), _limit(run)
    for source, family in families(run, shape, images=True):
        pairs = mix.take(shape.pairs(source, family))[:left]
        yield from pairs
        left = None if left is None else left - len(pairs)
        if below and (drawn := _draw(run, shape, source, family)) is not None and drawn < below:
            yield Pair("original", source["id"], "read", source)


def _samples(
    run: RunReader, pairs: Iterator[Pair], summary: Summary, tick: Callable[[], None]
) -> Iterator[Sample]:
    """Yields what is written of each pair, and counts it in the summary."""
    paths = {s.folder: s.paths for s in run.steps}
    against = run.recipe.judge.image_against if run.recipe.judge is not None else "text"
    with ImageReader() as reader:
        for pair in pairs:
            tick()
            image, suffix, lost = _image(pair, reader, summary)
            if lost is not None and (lost, summary.format) != ("no_image", "csv"):
                summary.lost[lost] += 1
                continue
            yield Sample(image, suffix, pair.words, facts_of(pair, paths.get(pair.folder, ()), against))
            summary.written[pair.kind] += 1
            given, counts = licence_of(pair.source), summary.licences
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
    text = pair.text.row if pair.text is not None else {}
    image = pair.image.row if pair.image is not None else {}
    facts = {
        "id": pair.id,
        "pair": pair.kind,
        "source_key": source["source_key"],
        "paths": list(paths),
        "original_caption": source["caption"] if pair.kind != "original" else None,
        "text_id": text.get("id"),
        "text_model": text.get("model"),
        "template": text.get("template"),
        "clip_tokens": text.get("clip_tokens"),
        "truncated": text.get("truncated"),
        **_verdict("text", pair.text, "edited"),
        "image_id": image.get("id"),
        "image_model": image.get("model"),
        "style": image.get("style"),
        "prompt": image.get("prompt"),
        **_verdict("image", pair.image, against),
        "width": (image or source)["width"],
        "height": (image or source)["height"],
        "source": json.loads(source["metadata"]) if source["metadata"] else {},
    }
    return {k: v for k, v in facts.items() if v is not None}


def _verdict(medium: str, made: Made | None, against: str) -> dict[str, Any]:
    if made is None or made.judged is None:
        return {}
    score = made.judged[against]
    recall = round(score["recall"], 4) if score is not None and score["recall"] is not None else None
    return {f"{medium}_verdict": made.judged["verdict"], f"{medium}_recall": recall}
