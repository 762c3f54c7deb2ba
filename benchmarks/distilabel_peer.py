"""The peer of `pipeline.py`: tag, write and filter as three distilabel steps around the same null models,
rows from memory to memory.

Run by `pipeline.py --distilabel PYTHON`, where PYTHON is an interpreter that has distilabel (1.5) and pillow;
ctrlsynth itself is found by PYTHONPATH. Batches of 1,000 rows, as large as ours: with its default of 50
distilabel is about ten times slower. Its filter asks only whether a fifth of the phrases stand in the text as
they are, which is less than our judge does, and it stores nothing on the way. Annotations are not put off to
the future here: distilabel reads them as types."""

import logging
import resource
import time
from collections.abc import Sequence
from typing import Any

from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepInput, step

from ctrlsynth.models.base import ImageAndText, Request
from ctrlsynth.sample import Tags
from null_models import NullLLM, NullTagger

BATCH = 1000
KINDS = ("objects", "attributes", "relations")


@step(inputs=["caption"], outputs=list(KINDS))
def tag(rows: StepInput):  # type: ignore[no-untyped-def]  # distilabel reads the signature
    """The null tagger's three lists as columns."""
    for row, tags in zip(
        rows, NullTagger().tag([ImageAndText(None, r["caption"]) for r in rows]), strict=True
    ):
        row.update({kind: list(getattr(tags, kind)) for kind in KINDS})
    yield rows


@step(inputs=["caption", *KINDS], outputs=["instruction", "text"])
def write(rows: StepInput):  # type: ignore[no-untyped-def]
    """An instruction of the phrases and the caption, and the null writer's text."""
    asked = [Tags(*(tuple(row[kind]) for kind in KINDS)) for row in rows]
    requests = [
        Request(f"Write about {', '.join(t.phrases())}. {row['caption']}", t, row["caption"])
        for t, row in zip(asked, rows, strict=True)
    ]
    for row, request, reply in zip(rows, requests, NullLLM().generate(requests), strict=True):
        row.update(instruction=request.instruction, text=reply.text)
    yield rows


@step(inputs=["text", *KINDS], outputs=[])
def keep(rows: StepInput):  # type: ignore[no-untyped-def]
    """Rows whose text holds a fifth of the phrases."""
    yield [row for row in rows if _recall(row) >= 0.2]


def _recall(row: dict[str, Any]) -> float:
    phrases = [phrase for kind in KINDS for phrase in row[kind]]
    return sum(phrase in row["text"] for phrase in phrases) / len(phrases)


def run(captions: Sequence[str]) -> dict[str, float]:
    """Runs the three steps over the captions. `peak_mb` is that of the largest of its processes; `cpu_s` that
    of all."""
    before, started = _cpu(), time.perf_counter()
    with Pipeline(name="peer") as pipeline:
        load = LoadDataFromDicts(data=[{"caption": caption} for caption in captions], batch_size=BATCH)
        steps = [make(input_batch_size=BATCH) for make in (tag, write, keep)]
        load >> steps[0] >> steps[1] >> steps[2]
    logging.disable(logging.WARNING)
    made = pipeline.run(use_cache=False)
    seconds = time.perf_counter() - started
    assert made["default"]["train"].num_rows == len(captions)
    largest = max(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    cpu = _cpu() - before
    return {
        "rows": len(captions),
        "seconds": seconds,
        "rows_per_s": len(captions) / seconds,
        "cpu_s": cpu,
        "rows_per_cpu_s": len(captions) / cpu,
        "peak_mb": largest / 1024,
    }


def _cpu() -> float:
    """Seconds of processor time, this process and those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


if __name__ == "__main__":
    print(run([f"an old photo of the dog near a small cat and the table {n}" for n in range(5000)]))
