"""What a run costs beside its models, measured here on a small run and carried to 3 million, 400 million and
5 billion samples.

    python benchmarks/scale.py                    # the table of docs/scale.md; a minute on a quiet core
    python benchmarks/scale.py --rows 5000 --parts 1000

Measured: processor time and bytes a table's row (read, tag, write, judge; null models, texts of 60 random
words, which no compression makes small), an image encoded and decoded, listing and digests of many parts, the
sizes of plan.json and _stage.json. Carried on by multiplication to the graph of ctrlsynth-cc3m.yaml: nothing
of this size was run."""

from __future__ import annotations

import json
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import harness
from ctrlsynth.api.run import run
from ctrlsynth.data.images import decode, encode
from ctrlsynth.models.base import Reply, Request
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.runs.build import open_workshop
from ctrlsynth.storage.parts import RunFolder
from pipeline import write_captions

SIZES = {"3 M": 3_000_000, "400 M": 400_000_000, "5 B": 5_000_000_000}
SHARD = 10_000
"""Rows of a source's shard, as img2dataset writes them by default; a shard is a part."""
IMAGE = 512 * 512 * 0.3
"""Bytes of an image as the CC3M recipe stores it: 512 pixels, JPEG of quality 92 (estimate.PIXEL_BYTES)."""
PAINT_SECONDS = 3.3
"""An SDXL image of 28 steps on an A100."""
STAGES, ROWS = 7, 10
"""Of ctrlsynth-cc3m.yaml: read, tag, write, judge-text, paint, tag.2, judge-image; for a pair 1 + 1 + 2 + 2 +
2 + 1 + 1 rows."""
_RNG = random.Random(0)
VOCABULARY = ["".join(_RNG.choices("etaoinshrdlucmfwyp", k=_RNG.randint(2, 9))) for _ in range(20_000)]


class WordyLLM:
    """60 words a text, frequent ones more often."""

    id = "wordy"
    digest = "1"
    batch = 1024

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [
            Reply(" ".join(VOCABULARY[int(20_000 * d.random() ** 3)] for _ in range(60)))
            for d in map(_draw, requests)
        ]


def _draw(request: Request) -> random.Random:
    return random.Random(request.seed)


def recipe(part_rows: int) -> object:
    """The pipeline benchmark's graph: text -> tags -> text with judge."""
    return parse_recipe(
        {
            "name": "scale",
            "source": {"text": "captions.jsonl", "part_rows": part_rows, "key_column": "key"},
            "models": {"tagger": "null_models:NullTagger", "llm": "scale:WordyLLM"},
            "paths": [{"scale": ["text", "tags", "text*"]}],
            "image_policy": {"styles": {}},
        }
    )


def measure_rows(rows: int) -> dict[str, float]:
    """Processor seconds and bytes a table's row, the mean of the four stages, and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_captions(base / "captions.jsonl", rows)
        started = time.process_time()
        made = run(recipe(SHARD), base / "run", base=base)  # type: ignore[arg-type]
        seconds = time.process_time() - started
        sizes = {r.folder: r.bytes / rows for r in made.ledger()}
    return {
        "seconds": seconds / rows / 4,
        "bytes": sum(sizes.values()) / 4,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_image() -> dict[str, float]:
    """Processor seconds of an image that is painted at 1,024 pixels: made smaller and encoded once, decoded
    once for the judge's tagger."""
    rough = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((1024, 1024), Image.Resampling.BICUBIC)
    started = time.process_time()
    for _ in range(20):
        smaller = image.copy()
        smaller.thumbnail((512, 512), Image.Resampling.LANCZOS)
        data = encode(smaller, "jpeg", 92)
        decode(data, longest=768)
    return {"image_s": (time.process_time() - started) / 20, "image_bytes": float(len(data))}


def measure_parts(parts: int) -> dict[str, float]:
    """Seconds and bytes a part: digests of every stage, one listing, the part's lines in plan.json and
    _stage.json."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_captions(base / "captions.jsonl", parts)
        started = time.process_time()
        plan = open_workshop(recipe(1), base).plan  # type: ignore[arg-type]
        known = plan.parts
        planned = time.process_time() - started
        started = time.process_time()
        digests = {s.folder: [plan.part_digest(s.folder, p) for p in known] for s in plan.steps}
        digested = time.process_time() - started
        store = RunFolder(base / "run")
        (base / "run" / "write").mkdir(parents=True)
        for part, digest in zip(known, digests["write"], strict=True):
            (base / "run" / "write" / f"{part.index:05d}-{digest}.parquet").touch()
        started = time.perf_counter()
        found = store.listing("write")
        listed = time.perf_counter() - started
        assert len(found) == len(known)
        counts = {
            "digest": digests["write"][0],
            "rows": SHARD,
            "ok": SHARD,
            "dropped": {},
            "failed": {},
            "seconds": 1234.5,
            "reused": 0,
        }
        described = len(json.dumps([p.name for p in known], indent=1))
        return {
            "parts": len(known),
            "plan_s": planned / len(known),
            "digest_s": digested / len(known),
            "list_s": listed / len(known),
            "plan_bytes": described / len(known),
            "stage_bytes": len(json.dumps({"00000": counts}, indent=1)),
        }


def table(row: dict[str, float], part: dict[str, float]) -> list[tuple[str, ...]]:
    """The lines of docs/scale.md: a cost and its value at each size."""
    lines: list[tuple[str, ...]] = [("", *SIZES)]
    sizes = SIZES.values()

    def line(name: str, *values: str) -> None:
        lines.append((name, *values))

    line("parts, shards of 10,000 rows", *(f"{n // SHARD:,}" for n in sizes))
    own = ROWS * row["seconds"] + row["image_s"]
    line("own processor time, core-hours", *(f"{n * own / 3600:,.0f}" for n in sizes))
    line("painting at 3.3 s, A100-days", *(f"{n * PAINT_SECONDS / 86400:,.0f}" for n in sizes))
    line("own time as a share of painting", *(f"{own / PAINT_SECONDS:.2%}" for _ in sizes))
    line("tables of text, GB", *(f"{n * ROWS * row['bytes'] / 1e9:,.0f}" for n in sizes))
    line("images of 512 pixels, TB", *(f"{n * IMAGE / 1e12:,.1f}" for n in sizes))
    line("one part of images, MB", *(f"{SHARD * IMAGE / 1e6:,.0f}" for _ in sizes))
    line(
        "start: digests of all stages, s",
        *(f"{n / SHARD * part['digest_s'] / 4 * STAGES:,.1f}" for n in sizes),
    )
    line(
        "start: one listing a stage, local disk, s",
        *(f"{n / SHARD * part['list_s'] * STAGES:,.1f}" for n in sizes),
    )
    line(
        "start: listing requests on S3, 1,000 keys each",
        *(f"{-(-n // SHARD // 1000) * STAGES:,}" for n in sizes),
    )
    line("plan.json, MB", *(f"{n / SHARD * part['plan_bytes'] / 1e6:,.2f}" for n in sizes))
    line("_stage.json of one stage, MB", *(f"{n / SHARD * part['stage_bytes'] / 1e6:,.1f}" for n in sizes))
    return lines


def main() -> None:
    """Prints what was measured, then the table."""
    args = harness.parser(__doc__, rows=100_000, parts=10_000).parse_args()
    row, part = measure_rows(args.rows) | measure_image(), measure_parts(args.parts)
    print(
        f"measured on {args.rows:,} pairs: {row['seconds'] * 1e6:,.0f} us and {row['bytes']:,.0f} bytes a "
        f"table's row, "
        f"{row['peak_mb']:,.0f} MB peak; an image {row['image_s'] * 1e3:,.1f} ms"
    )
    print(
        f"measured on {part['parts']:,.0f} parts: digests {part['digest_s'] * 1e6:,.0f} us, listing "
        f"{part['list_s'] * 1e6:,.1f} us, "
        f"plan.json {part['plan_bytes']:,.0f} bytes, _stage.json {part['stage_bytes']:,.0f} bytes a part"
    )
    for name, *values in table(row, part):
        print(f"{name:50}" + "".join(f"{v:>14}" for v in values))


if __name__ == "__main__":
    main()
