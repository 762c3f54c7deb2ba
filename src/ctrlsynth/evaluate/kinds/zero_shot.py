"""Zero-shot classification (CtrlSynth, Tables 1 and 2): class = mean of its templates' text embeddings,
prediction = nearest class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np

from ...errors import UserError, unknown
from .. import layout
from ..encode import Array, Encoder, class_weights, encode_images
from ..metrics import Ints, bootstrap, mean_per_class_recall, top_k_hits
from ..results import Score, Scores
from ..tasks import Task

SIMPLE = ["a photo of a {c}."]
TEMPLATE_SETS = ("folder", "simple", "openai-imagenet-80", "openai-imagenet-7")
"""`folder`: the data set's own file (most public sets ship OpenAI's); `simple`: CLIP's one sentence; the
other two are OpenAI's for ImageNet as open_clip ships them. The set's name is part of the protocol: numbers
of two sets never share a column."""


def template_set(name: str, folder: Path) -> list[str]:
    """The templates of a set by name."""
    if name == "folder":
        return layout.templates(folder)
    if name == "simple":
        return SIMPLE
    if name in ("openai-imagenet-80", "openai-imagenet-7"):
        from ...models.device import make_torchvision_importable

        make_torchvision_importable("clip")
        shipped = import_module("open_clip.zero_shot_metadata")
        functions = (
            shipped.OPENAI_IMAGENET_TEMPLATES if name.endswith("80") else shipped.SIMPLE_IMAGENET_TEMPLATES
        )
        return [function("{c}") for function in functions]
    raise unknown("template set", name, TEMPLATE_SETS, "--templates")


def template_protocol(name: str, folder: Path) -> dict[str, str]:
    """What of a protocol tells template sets apart: the name, and a digest of the sentences, because every
    folder may hold others."""
    text = "\n".join(template_set(name, folder))
    return {"templates": name, "template_digest": hashlib.sha256(text.encode()).hexdigest()[:8]}


def evaluate(
    model: Encoder,
    folder: Path,
    task: Task,
    templates: str | None = None,
    tick: Callable[[int], None] | None = None,
) -> Scores:
    """acc1, acc5 and mean per-class recall on the test split of `folder`. `templates`: a set by name, else
    the task's."""
    templates = templates or task.templates
    names = layout.classnames(folder, task.classes)
    if not names:
        raise UserError(f"{folder / 'classnames.txt'}: expected at least one class, found none")
    weights = class_weights(model, names, template_set(templates, folder))
    labels: list[int] = []

    def images() -> Iterator[tuple[bytes, str]]:
        for sample in layout.samples(folder, "test", len(names)):
            labels.append(int(sample.label or 0))
            yield sample.image, sample.where

    features = encode_images(model, images(), tick=tick)
    files = [folder / "classnames.txt", *layout.shards(folder, "test")]
    protocol = {"kind": "zero-shot", "metric": task.metric, **template_protocol(templates, folder)}
    return Scores(
        classification(features @ weights.T, np.array(labels)),
        protocol,
        len(labels),
        layout.digest(files),
        len(names),
    )


def classification(logits: Array, labels: Ints) -> dict[str, Score]:
    """Score by metric from (N, C) similarities and labels (N,)."""
    first = top_k_hits(logits, labels, 1)
    out = {
        "acc1": Score(float(first.mean()), *bootstrap(first)),
        "mean_per_class_recall": Score(mean_per_class_recall(first, labels), *bootstrap(first, labels)),
    }
    if logits.shape[1] > 5:
        fifth = top_k_hits(logits, labels, 5)
        out["acc5"] = Score(float(fifth.mean()), *bootstrap(fifth))
    return out
