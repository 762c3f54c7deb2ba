"""Samples as plain data for the gallery's pages, and their images as files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.images import ImageFault, decode, encode, suffix_of
from ..data.originals import ImageReader
from ..recipe.paths import Step
from ..recipe.schema import Recipe
from ..runs.pairs import Made, Sample, licence_of
from ..runs.reader import Family, Row
from ..sample import KINDS
from ..stages.boxes import box_of
from .facts import REFERENCES, edit_name

THUMBNAIL = 256
"""Longer edge of an original in the gallery, in pixels."""
SEARCHED = 600
"""Characters of each text and caption that the gallery's filter searches."""

_NOTES = {
    "original_missing": "the original no longer exists",
    "original_changed": "the original has changed since it was read",
    "unreadable_file": "the original cannot be read",
}


class ImageFiles:
    """Writes images under `images/PART/`, each once; returns their paths relative to the report."""

    def __init__(self, root: Path, part: int, reader: ImageReader) -> None:
        self._root, self._folder, self._reader, self._number = root, f"images/{part:05d}", reader, 0

    def original(self, row: Row) -> tuple[str | None, str]:
        """Returns (path, '') of a thumbnail, or (None, the reason for having none)."""
        if not row["sha256"] or row["file"] is None:
            return None, "no image in the source"
        try:
            image = decode(self._reader.read(row["file"], row["member"], row["offset"], row["length"]))
        except ImageFault as fault:
            return None, _NOTES.get(fault.reason, fault.reason)
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        return self._write(encode(image, "jpeg", 85), "jpg", "o"), ""

    def painted(self, data: bytes) -> str | None:
        """Stores a painted image as it is; returns its path."""
        kind = suffix_of(data)
        return self._write(data, kind, "p") if kind is not None else None

    def _write(self, data: bytes, kind: str, letter: str) -> str:
        name = f"{self._folder}/{letter}{self._number}.{kind}"
        self._number += 1
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name


def cards_of(
    recipe: Recipe, images: ImageFiles, samples: Sequence[Sample], source: Row, family: Family
) -> Iterator[dict[str, Any]]:
    """Yields the cards of one source row's samples; writes each image once, however many samples show it."""
    original, note = images.original(source)
    painted = {
        row["id"]: images.painted(row["image"]["bytes"])
        for rows in family.values()
        for row in rows
        if row.get("image") is not None
    }
    begin = {
        "key": source["source_key"],
        "caption": source["caption"],
        "original": original,
        "note": note,
        "size": [source["width"], source["height"]] if source["width"] else None,
        "file": Path(source["file"]).name if source["file"] else None,
        "licence": licence_of(source),
    }
    for sample in samples:
        steps = [_step(recipe, sample, step, row, painted, family) for step, row in sample.rows[1:]]
        facts = {"id": sample.id, "paths": list(sample.paths), **sample.fate._asdict(), "steps": steps}
        yield begin | facts


def _step(
    recipe: Recipe, sample: Sample, step: Step, row: Row, painted: Mapping[str, str | None], family: Family
) -> dict[str, Any]:
    """What a card shows of one step."""
    card = {"kind": step.kind, "folder": step.folder, **{k: row[k] for k in ("model", "status", "reason")}}
    made = sample.made.get(step.folder)
    if step.kind == "tag":
        return card | _tags(row)
    if step.kind == "balance":
        return card | _balance(step, row, family)
    if box_of(step).makes == "text":
        return card | _text(recipe, row, made, sample.others.get(step.folder, []))
    if box_of(step).makes == "image":
        return card | _image(recipe, row, made, painted.get(row["id"]))
    return card


def _text(recipe: Recipe, row: Row, made: Made | None, others: Sequence[Row]) -> dict[str, Any]:
    judged = made.judged if made is not None else None
    return {
        "edits": [{**e, "name": edit_name(recipe.text_policy, e["edit"])} for e in row["edits"] or []],
        "tags": row["tags"],
        "template": row["template"],
        "instruction": row["instruction"],
        "text": row["text"],
        "fields": row["fields"],
        "raw": row["raw"] if row["raw"] != row["text"] else None,
        "tokens": [row["prompt_tokens"], row["completion_tokens"]],
        "clip": row["clip_tokens"],
        "cut": row["truncated"],
        "candidate": row["candidate"],
        "others": [{"number": o["candidate"], "text": o["text"], "reason": o["reason"]} for o in others],
        "judge": {"verdict": judged["verdict"], "references": {"edited": _score(judged["edited"])}}
        if judged
        else None,
    }


def _image(recipe: Recipe, row: Row, made: Made | None, file: str | None) -> dict[str, Any]:
    judged, seen = (made.judged, made.seen) if made is not None else (None, None)
    decides = recipe.judge.image_against if recipe.judge is not None else "text"
    return {
        "image": file,
        "prompt": row["prompt"],
        "negative": row["negative"],
        "style": row["style"],
        "weights": [[k, round(v, 3)] for k, v in row["weights"] or []],
        "unused": row["weights_unused"] or [],
        "drawn": row["drawn"],
        "not_drawn": row["not_drawn"] or [],
        "size": [row["width"], row["height"]] if row["width"] else None,
        "clip": row["clip_tokens"],
        "cut": row["truncated"],
        "seed": row["seed"],
        "seen": {**{k: seen[k] for k in ("model", "status", "reason")}, **_tags(seen)} if seen else None,
        "judge": {
            "verdict": judged["verdict"],
            "unsafe": judged["unsafe"],
            "decides": decides,
            "references": {n: _score(judged[n]) for n in REFERENCES if judged[n] is not None or n == decides},
        }
        if judged
        else None,
    }


def search_text(card: Mapping[str, Any]) -> str:
    """Returns what the filter searches, in lower case: id, caption, texts."""
    texts = [str(s["text"])[:SEARCHED] for s in card["steps"] if s["kind"] == "write" and s["text"]]
    return "\n".join([card["id"], (card["caption"] or "")[:SEARCHED], *texts]).lower()


def script_json(value: Any) -> str:
    """Returns JSON that is safe inside a script, whatever the data: ASCII only, nothing that HTML could read
    as a tag."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tags(row: Row) -> dict[str, Any]:
    scores = [round(s, 3) for s in row["scores"] or []]
    return {**{k: row[k] or [] for k in KINDS}, "scores": scores, "caption": row["caption"]}


def _balance(step: Step, row: Row, family: Family) -> dict[str, Any]:
    matched = family.get(step.uses.get("matches", ""), [])
    concepts = next((m["concepts"] for m in matched if m["parent"] == row["parent"]), None)
    return {"concepts": concepts or [], "chance": row["chance"]}


def _score(score: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if score is None:
        return None
    recall = None if score["recall"] is None else round(score["recall"], 4)
    return {
        "recall": recall,
        "found": score["found"] or [],
        "missed": score["missed"] or [],
        "back": score["violations"] or [],
    }
