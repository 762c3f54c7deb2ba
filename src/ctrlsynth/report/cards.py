"""Samples as plain data for the gallery's pages, and their images as files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.images import ImageFault, decode, encode, suffix_of
from ..data.originals import ImageReader
from ..recipe.paths import Step
from ..recipe.schema import Recipe
from ..runs.pairs import Sample, licence_of
from ..runs.reader import Family, Row
from ..sample import KINDS
from ..stages.boxes import box_of
from .facts import edit_name

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

    def __init__(self, root: Path, part: int) -> None:
        self._root, self._folder = root, f"images/{part:05d}"
        self._number = 0
        self._reader = ImageReader()

    def original(self, row: Row) -> tuple[str | None, str]:
        """Returns (path, '') of a thumbnail, or (None, the reason for having none)."""
        if not row["sha256"] or row["file"] is None:
            return None, "no image in the source"
        try:
            image = decode(self._reader.read(row["file"], row["member"], row["offset"], row["length"]))
        except OSError:
            return None, _NOTES["unreadable_file"]
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

    def close(self) -> None:
        self._reader.close()


class Cards:
    """Turns the samples of a part into cards."""

    def __init__(self, recipe: Recipe, images: ImageFiles) -> None:
        self._policy, self._images = recipe.text_policy, images
        self._against = recipe.judge.image_against if recipe.judge is not None else "text"

    def of(self, samples: list[Sample], source: Row, family: Family) -> list[dict[str, Any]]:
        """Returns the cards of one source row; writes each image once, however many samples show it."""
        original, note = self._images.original(source)
        painted: dict[str, str | None] = {}
        for rows in family.values():
            for row in rows:
                image = row.get("image")
                if image is not None:
                    painted[row["id"]] = self._images.painted(image["bytes"])
        begin = {
            "key": source["source_key"],
            "caption": source["caption"],
            "original": original,
            "note": note,
            "size": [source["width"], source["height"]] if source["width"] else None,
            "file": Path(source["file"]).name if source["file"] else None,
            "licence": licence_of(source),
        }
        return [begin | self._card(sample, painted, family) for sample in samples]

    def _card(self, sample: Sample, painted: Mapping[str, str | None], family: Family) -> dict[str, Any]:
        steps = []
        for step, row in sample.rows[1:]:
            known = ("model", "status", "reason")
            card: dict[str, Any] = {"kind": step.kind, "folder": step.folder, **{k: row[k] for k in known}}
            if step.kind == "tag":
                card |= _tags(row)
            elif step.kind == "balance":
                card |= _balance(step, row, family)
            elif box_of(step).makes == "text":
                card |= self._write(sample, step, row)
            elif box_of(step).makes == "image":
                card |= self._paint(sample, step, row, painted)
            steps.append(card)
        return {
            "id": sample.id,
            "paths": list(sample.paths),
            "verdict": sample.fate.verdict,
            "reason": sample.fate.reason,
            "where": sample.fate.where,
            "steps": steps,
        }

    def _write(self, sample: Sample, step: Step, row: Row) -> dict[str, Any]:
        made = sample.made.get(step.folder)
        judged = made.judged if made is not None else None
        edits = [{**e, "name": edit_name(self._policy, e["edit"])} for e in row["edits"] or []]
        others = [
            {"number": o["candidate"], "text": o["text"], "reason": o["reason"]}
            for o in sample.others.get(step.folder, [])
        ]
        return {
            "edits": edits,
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
            "others": others,
            "judge": {"verdict": judged["verdict"], "references": {"edited": _score(judged["edited"])}}
            if judged
            else None,
        }

    def _paint(
        self, sample: Sample, step: Step, row: Row, painted: Mapping[str, str | None]
    ) -> dict[str, Any]:
        made = sample.made.get(step.folder)
        judged, seen = (made.judged, made.seen) if made is not None else (None, None)
        references = {}
        if judged is not None:
            names = ("text", "original", "original_unedited")
            references = {n: _score(judged[n]) for n in names if judged[n] is not None or n == self._against}
        return {
            "image": painted.get(row["id"]),
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
            "seen": {
                "model": seen["model"],
                "status": seen["status"],
                "reason": seen["reason"],
                **_tags(seen),
            }
            if seen
            else None,
            "judge": {
                "verdict": judged["verdict"],
                "unsafe": judged["unsafe"],
                "decides": self._against,
                "references": references,
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
    scores = row["scores"] or []
    return {k: row[k] or [] for k in KINDS} | {
        "scores": [round(s, 3) for s in scores],
        "caption": row["caption"],
    }


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
