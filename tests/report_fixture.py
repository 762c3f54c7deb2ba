"""A run's folder written by hand through the real store, so that every fate of a sample occurs: kept,
rejected by text and by image, violation, no reference, failed, dropped, unfinished, candidates that lost,
hostile captions, missing originals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image, ImageDraw

from ctrlsynth.api.run import Run
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.recipe.paths import Step, places, plan_steps
from ctrlsynth.recipe.schema import dump_recipe
from ctrlsynth.stages.boxes import BOXES
from ctrlsynth.storage.files import write_json
from ctrlsynth.storage.parts import PartWriter, RunFolder

HOSTILE = (
    "<script>alert(1)</script> a \"dog\" & 'cat' {{ 7*7 }} \u2028 </style> \u202egnirts\u202c [bold]x[/bold]"
)
SCENES = (
    ("dog", "grass", "brown", "a brown dog runs on the grass"),
    ("cat", "sofa", "black", "a black cat sleeps on a sofa"),
    ("bicycle", "wall", "red", "a red bicycle leans against a wall"),
    ("boat", "lake", "white", "a white boat on a lake at dawn"),
)
Row = dict[str, Any]
NOTHING: Row = {"objects": [], "attributes": [], "relations": []}


def picture(number: int, size: tuple[int, int] = (96, 72)) -> bytes:
    """A small JPEG whose colours hang on the number."""
    image = Image.new("RGB", size, ((37 * number) % 200 + 40, (91 * number) % 180 + 50, 170))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, size[1] * 2 // 3, size[0], size[1]), fill=(70, 140, 70))
    draw.ellipse(
        (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4),
        fill=((53 * number) % 255, 80, (29 * number) % 255),
    )
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def score(reference: Sequence[str], found: Sequence[str], violations: Sequence[str] = ()) -> Row:
    """A judge's struct."""
    hits = [p for p in reference if p in found]
    recall = len(hits) / len(reference) if reference else None
    return {
        "recall": recall,
        "found": hits,
        "missed": [p for p in reference if p not in found],
        "violations": list(violations),
    }


def verdict(of: Row | None, threshold: float, forbid: bool = False) -> str:
    """The judge's rule, spelt out."""
    if of is None or of["recall"] is None:
        return "no_reference"
    if of["recall"] < threshold - 1e-6:
        return "low_recall"
    return "violation" if forbid and of["violations"] else "kept"


class Writer:
    """Makes the rows of one fixture run. Every 10th source row has a fate of its own; see `_write` and
    `_paint`."""

    def __init__(self, root: Path, rows: int, part_rows: int, paths: Any, judge: Row, hostile: bool) -> None:
        self.root, self.number, self.part_rows, self.hostile = root, rows, part_rows, hostile
        photos = root.parent / f"{root.name}-photos"
        photos.mkdir(parents=True)
        self.photos = photos
        policy = {
            "edits": [{"remove": {"objects": ["watermark"]}}, {"replace": {"attributes": {"red": "blue"}}}]
        }
        data = {
            "name": root.name,
            "source": {"folder": str(photos), "part_rows": part_rows},
            "paths": paths,
            "text_policy": policy,
        }
        image_policy = {"styles": {"real": 3, "cinematic": 1}, "weights": {"dog": 1.4}}
        self.recipe = parse_recipe({**data, "judge": judge, "image_policy": image_policy})
        assert self.recipe.judge is not None
        self.p_f, self.forbid, self.gate = (
            self.recipe.judge.threshold,
            self.recipe.judge.forbid_violations,
            self.recipe.judge.gate,
        )
        self.steps = plan_steps(self.recipe.paths, True, self.gate, False)

    def save(self) -> Run:
        run = RunFolder(self.root)
        steps = [
            {
                "folder": s.folder,
                "kind": s.kind,
                "label": s.label,
                "parent": s.parent,
                "uses": dict(s.uses),
                "family": s.family,
            }
            | {"paths": list(s.paths), "digest": "0" * 32, "settings": {}}
            for s in self.steps
        ]
        write_json(
            self.root / "plan.json",
            {
                "version": "0",
                "recipe": dump_recipe(self.recipe),
                "base": ".",
                "limit": None,
                "source": "photos",
                "candidates": 2,
            }
            | {"retries": {}, "places": places(self.steps), "steps": steps, "products": []},
        )
        for part in range(-(-self.number // self.part_rows)):
            numbers = range(part * self.part_rows, min((part + 1) * self.part_rows, self.number))
            tables: dict[str, list[Row]] = {}
            for step in self.steps:
                tables[step.folder] = self._rows(step, numbers, part, tables)
                writer = PartWriter(run, step.folder, part, "ab" * 6, BOXES[step.kind].schema)
                writer.add(pa.Table.from_pylist(tables[step.folder], schema=BOXES[step.kind].schema))
                writer.finish()
        return Run.open(self.root)

    def _rows(self, step: Step, numbers: range, part: int, tables: dict[str, list[Row]]) -> list[Row]:
        if step.kind == "read":
            return [self._read(n, part) for n in numbers]
        up = [r for r in tables[str(step.parent)] if r["status"] == "ok"]
        for role, folder in step.uses.items():
            if role.startswith("gate "):
                bad = {r["parent"] for r in tables[folder] if r["verdict"] != "kept"}
                up = [r for r in up if r["id"] not in bad]
        make = {"tag": self._tag, "write": self._write, "paint": self._paint}
        make |= {"judge-text": self._judge_text, "judge-image": self._judge_image}
        return [row for parent in up for row in make[step.kind](step, parent)]

    def _common(
        self, row_id: str, parent: Row | None, model: str, status: str = "ok", reason: str | None = None
    ) -> Row:
        key = parent["source_key"] if parent else row_id
        common = {
            "id": row_id,
            "parent": parent["id"] if parent else None,
            "source_key": key,
            "key": "k",
            "status": status,
        }
        return common | {
            "reason": reason,
            "seconds": 0.01,
            "model": model,
            "_n": parent["_n"] if parent else None,
        }

    def _read(self, n: int, part: int) -> Row:
        file = self.photos / f"photo{n}.jpg"
        data = picture(n)
        if n % 10 != 7:  # the 7th original is gone when the report is made
            file.write_bytes(data)
        caption = HOSTILE if self.hostile and n % 10 == 1 else f"{SCENES[n % 4][3]}, photograph {n}"
        row = self._common(f"{part:05d}:photo{n}.jpg", None, "")
        if n % 10 == 9:
            row |= {"status": "failed", "reason": "truncated_image"}
        size = {
            "width": 96,
            "height": 72,
            "sha256": "0" * 64,
            "file": str(file),
            "member": None,
            "offset": 0,
            "length": len(data),
        }
        return row | {"_n": n, "caption": caption, "metadata": '{"licence": "CC0"}', **size}

    def _tag(self, step: Step, up: Row) -> list[Row]:
        n = up["_n"]
        thing, place, colour, _ = SCENES[n % 4]
        if "image" in up:  # the painted image, tagged again
            objects = [thing, "sky"] + (["watermark"] if n % 10 == 3 else []) if n % 3 else []
            tags: Row = {"objects": objects, "attributes": [], "relations": [], "scores": None}
        else:
            objects = [thing, place, "watermark"]
            relations = [f"{thing} on {place}"]
            tags = {
                "objects": objects,
                "attributes": [f"{colour} {thing}"],
                "relations": relations,
                "scores": [0.9, 0.6, 0.2],
            }
        return [self._common(f"{up['id']}/{step.label}", up, "imagenet") | tags | {"caption": None}]

    def _write(self, step: Step, up: Row) -> list[Row]:
        n = up["_n"]
        thing, place, colour, _ = SCENES[n % 4]
        other = "blue" if colour == "red" else colour
        edits = [{"edit": 0, "op": "remove", "kind": "objects", "before": "watermark", "after": None}]
        if colour == "red":
            edits.append(
                {
                    "edit": 1,
                    "op": "replace",
                    "kind": "attributes",
                    "before": f"red {thing}",
                    "after": f"blue {thing}",
                }
            )
        tags = {
            "objects": [thing, place],
            "attributes": [f"{other} {thing}"],
            "relations": [f"{thing} on {place}"],
        }
        texts = [
            f"There is a {thing} on the {place}, number {n}.",
            f"A {other} {thing} on the {place}, number {n}.",
        ]
        rows = []
        for candidate in range(2):
            best = candidate == (1 if n % 10 == 2 else 0) and n % 10 != 4
            row = self._common(
                f"{up['id']}/{step.label}.0" + (f".{candidate}" if candidate else ""), up, "realizer"
            )
            text: str | None = texts[candidate]
            if n % 10 == 4:
                row |= {"status": "failed", "reason": "empty_reply"}
                text = None
            elif not best:
                row |= {"status": "dropped", "reason": "not_chosen"}
            if n % 10 == 5:
                text = f"Nothing to see, number {n}."
            if self.hostile and n % 10 == 1 and text:
                text += " <img src=x onerror=\"document.title='hacked'\">"
            more = {
                "candidate": candidate,
                "chosen": best,
                "tags": tags,
                "edits": edits,
                "template": "describe",
                "text": text,
            }
            counts = {
                "prompt_tokens": 60,
                "completion_tokens": 12,
                "clip_tokens": 14,
                "truncated": False,
                "seed": n,
            }
            rows.append(
                row
                | more
                | counts
                | {
                    "instruction": f"Describe: {thing}, {place}.\nOnly the caption.",
                    "raw": text or "",
                    "fields": None,
                }
            )
        return rows

    def _paint(self, step: Step, up: Row) -> list[Row]:
        n = up["_n"]
        text = up.get("text") or up.get("caption") or ""
        row = self._common(f"{up['id']}/{step.label}.0", up, "scenes")
        weights = [("dog", 1.4)] if n % 4 == 0 else []
        more = {
            "prompt": f"a real photo. {text} 35mm photograph",
            "negative": "",
            "style": "real",
            "weights": weights,
        }
        if n % 10 == 6:
            return [row | more | {"status": "failed", "reason": "no_output", "image": None, "seed": n}]
        image = {"image": {"bytes": picture(n + 1000, (64, 64)), "path": None}, "width": 64, "height": 64}
        drawn = {
            "drawn": [SCENES[n % 4][0]],
            "not_drawn": ["grass"] if n % 4 == 0 else [],
            "weights_unused": [],
        }
        return [row | more | image | drawn | {"clip_tokens": 90, "truncated": True, "seed": n}]

    def _judge_text(self, step: Step, up: Row) -> list[Row]:
        tags = up["tags"]
        reference = [*tags["objects"], *tags["attributes"], *tags["relations"]]
        edited = score(reference, [p for p in reference if p in up["text"].lower()])
        return [self._verdict(up, edited) | {"edited": edited}]

    def _judge_image(self, step: Step, up: Row) -> list[Row]:
        n = up["_n"]
        thing, place, _, _ = SCENES[n % 4]
        back = ["watermark"] if "watermark" in up["objects"] else []
        text = score([] if n % 10 == 8 else [thing, place], up["objects"], back)
        original = score([thing, place, "tree"], up["objects"], back)
        return [self._verdict(up, text) | {"text": text, "original": original, "original_unedited": None}]

    def _verdict(self, up: Row, of: Row) -> Row:
        said = verdict(of, self.p_f, self.forbid)
        dropped = {} if said == "kept" else {"status": "dropped", "reason": said}
        return self._common(f"{up['id']}/judge", up, "") | dropped | {"verdict": said}


def make_run(
    root: Path,
    rows: int = 20,
    part_rows: int = 8,
    paths: Any = ("SP1", "SP3", "SP4"),
    hostile: bool = True,
    **judge: Any,
) -> Run:
    """A finished run of `rows` source rows with SP1, SP3 and SP4 and a judge with the given settings."""
    return Writer(
        root,
        rows,
        part_rows,
        list(paths) if isinstance(paths, tuple) else paths,
        {"threshold": 0.2, "matcher": {"text": "substring", "image": "lemma"}, **judge},
        hostile,
    ).save()
