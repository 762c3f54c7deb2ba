"""A run's folder written by hand through the real store, so that every fate of a sample occurs: kept,
rejected by text and by image, violation, no reference, failed, dropped, unfinished, candidates that lost,
hostile captions, missing originals."""

import io
from collections.abc import Sequence
from dataclasses import asdict
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


def picture(number: int, size: tuple[int, int] = (96, 72)) -> bytes:
    """A small JPEG whose colours depend on the number."""
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
        self.photos = root.parent / f"{root.name}-photos"
        self.photos.mkdir(parents=True)
        edits = [{"remove": {"objects": ["watermark"]}}, {"replace": {"attributes": {"red": "blue"}}}]
        self.recipe = parse_recipe(
            {
                "name": root.name,
                "source": {"folder": str(self.photos), "part_rows": part_rows},
                "paths": paths,
                "text_policy": {"edits": edits},
                "image_policy": {"styles": {"real": 3, "cinematic": 1}, "weights": {"dog": 1.4}},
                "judge": judge,
            }
        )
        self.steps = plan_steps(self.recipe.paths, True, judge.get("gate", False), False)

    def save(self) -> Run:
        run = RunFolder(self.root)
        steps = [asdict(s) | {"paths": list(s.paths), "digest": "0" * 32, "settings": {}} for s in self.steps]
        plan: Row = {"version": "0", "recipe": dump_recipe(self.recipe), "base": ".", "limit": None}
        plan |= {"source": "photos", "candidates": 2, "retries": {}, "places": places(self.steps)}
        write_json(self.root / "plan.json", {**plan, "steps": steps, "products": []})
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
        return {
            "id": row_id,
            "parent": parent["id"] if parent else None,
            "source_key": parent["source_key"] if parent else row_id,
            "key": "k",
            "status": status,
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
        row = self._common(f"{part:05d}:photo{n}.jpg", None, "")
        if n % 10 == 9:
            row |= {"status": "failed", "reason": "truncated_image"}
        return row | {
            "_n": n,
            "caption": HOSTILE if self.hostile and n % 10 == 1 else f"{SCENES[n % 4][3]}, photograph {n}",
            "metadata": '{"licence": "CC0"}',
            "width": 96,
            "height": 72,
            "sha256": "0" * 64,
            "file": str(file),
            "member": None,
            "offset": 0,
            "length": len(data),
        }

    def _tag(self, step: Step, up: Row) -> list[Row]:
        n = up["_n"]
        thing, place, colour, _ = SCENES[n % 4]
        tags: Row = {"objects": [], "attributes": [], "relations": [], "scores": None, "caption": None}
        if "image" in up:  # the painted image, tagged again
            tags["objects"] = [thing, "sky"] + (["watermark"] if n % 10 == 3 else []) if n % 3 else []
        else:
            tags |= {"objects": [thing, place, "watermark"], "attributes": [f"{colour} {thing}"]}
            tags |= {"relations": [f"{thing} on {place}"], "scores": [0.9, 0.6, 0.2]}
        return [self._common(f"{up['id']}/{step.label}", up, "imagenet") | tags]

    def _write(self, step: Step, up: Row) -> list[Row]:
        n = up["_n"]
        thing, place, colour, _ = SCENES[n % 4]
        other = "blue" if colour == "red" else colour
        changes: list[tuple[str, str, str, str | None]] = [("remove", "objects", "watermark", None)]
        if colour == "red":
            changes.append(("replace", "attributes", f"red {thing}", f"blue {thing}"))
        names = ("op", "kind", "before", "after")
        written = {
            "tags": {
                "objects": [thing, place],
                "attributes": [f"{other} {thing}"],
                "relations": [f"{thing} on {place}"],
            },
            "edits": [{"edit": i, **dict(zip(names, c, strict=True))} for i, c in enumerate(changes)],
            "template": "describe",
            "instruction": f"Describe: {thing}, {place}.\nOnly the caption.",
            "fields": None,
            "prompt_tokens": 60,
            "completion_tokens": 12,
            "clip_tokens": 14,
            "truncated": False,
            "seed": n,
        }
        texts: list[str | None] = [
            f"There is a {thing} on the {place}, number {n}.",
            f"A {other} {thing} on the {place}, number {n}.",
        ]
        if n % 10 == 4:
            texts = [None, None]
        elif n % 10 == 5:
            texts = [f"Nothing to see, number {n}."] * 2
        elif self.hostile and n % 10 == 1:
            texts = [f"{text} <img src=x onerror=\"document.title='hacked'\">" for text in texts]
        rows = []
        for candidate, text in enumerate(texts):
            best = candidate == (1 if n % 10 == 2 else 0) and n % 10 != 4
            fate = ("ok", None) if best else ("dropped", "not_chosen") if text else ("failed", "empty_reply")
            row_id = f"{up['id']}/{step.label}.0" + (f".{candidate}" if candidate else "")
            more = {"candidate": candidate, "chosen": best, "text": text, "raw": text or ""}
            rows.append(self._common(row_id, up, "realizer", *fate) | written | more)
        return rows

    def _paint(self, step: Step, up: Row) -> list[Row]:
        n = up["_n"]
        text = up.get("text") or up.get("caption") or ""
        row = self._common(f"{up['id']}/{step.label}.0", up, "scenes")
        row |= {
            "prompt": f"a real photo. {text} 35mm photograph",
            "negative": "",
            "style": "real",
            "weights": [("dog", 1.4)] if n % 4 == 0 else [],
            "seed": n,
        }
        if n % 10 == 6:
            return [row | {"status": "failed", "reason": "no_output", "image": None}]
        return [
            row
            | {
                "image": {"bytes": picture(n + 1000, (64, 64)), "path": None},
                "width": 64,
                "height": 64,
                "drawn": [SCENES[n % 4][0]],
                "not_drawn": ["grass"] if n % 4 == 0 else [],
                "weights_unused": [],
                "clip_tokens": 90,
                "truncated": True,
            }
        ]

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
        assert self.recipe.judge is not None
        said = verdict(of, self.recipe.judge.threshold, self.recipe.judge.forbid_violations)
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
