"""Image-text retrieval, both ways (CtrlSynth, Table 3: recall@1; SynthCLIP: recall@5). Any positive in the
first k counts.

Reads the public tar layout (`test/*.tar` with KEY.jpg + KEY.txt, a caption a line), or a folder with
`images/` and `captions.json`: COCO's own form (`images`, `annotations`) or Karpathy's (`images` with `split`
and `sentences`), which Flickr8K and Flickr30K use too."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .. import layout
from ..encode import Encoder, encode_images, encode_texts
from ..metrics import bootstrap, recall_ranks
from ..results import Score, Scores
from ..tasks import Task

Pair = tuple[bytes, str, tuple[str, ...]]
"""Encoded image, where it stands, its captions."""
KS = (1, 5, 10)


def evaluate(model: Encoder, folder: Path, task: Task, tick: Callable[[int], None] | None = None) -> Scores:
    """i2t_recall@k, t2i_recall@k and their mean recall@k for k = 1, 5, 10."""
    captions: list[tuple[str, ...]] = []

    def images() -> Iterator[tuple[bytes, str]]:
        for image, where, texts in pairs(folder):
            captions.append(texts[: task.captions])
            yield image, where

    features = encode_images(model, images(), tick=tick)
    owner = np.repeat(np.arange(len(captions)), [len(c) for c in captions])
    texts = encode_texts(model, [text for several in captions for text in several])
    starts = np.concatenate([[0], np.cumsum([len(c) for c in captions])])
    by_image = [range(starts[n], starts[n + 1]) for n in range(len(captions))]
    ranks = {
        "i2t": recall_ranks(features, texts, by_image),
        "t2i": recall_ranks(texts, features, [[int(o)] for o in owner]),
    }
    scores: dict[str, Score] = {}
    for k in KS:
        for way, found in ranks.items():
            scores[f"{way}_recall@{k}"] = Score(float((found < k).mean()), *bootstrap(found < k))
        mean = (scores[f"i2t_recall@{k}"].value + scores[f"t2i_recall@{k}"].value) / 2
        hits, way_of = (
            np.concatenate(list(ranks.values())) < k,
            np.repeat([0, 1], [len(found) for found in ranks.values()]),
        )
        scores[f"recall@{k}"] = Score(mean, *bootstrap(hits, way_of))
    protocol = {"kind": "retrieval", "metric": task.metric, "images": len(captions), "captions": len(owner)}
    return Scores(scores, protocol, len(captions), layout.digest(files_of(folder)))


def pairs(folder: Path) -> Iterator[Pair]:
    """The test images with their captions, in the data set's order."""
    if (folder / "captions.json").exists():
        yield from _from_json(folder)
        return
    for sample in layout.samples(folder, "test"):
        yield sample.image, sample.where, sample.captions


def files_of(folder: Path) -> list[Path]:
    """The files whose digest names this data."""
    return (
        [folder / "captions.json"] if (folder / "captions.json").exists() else layout.shards(folder, "test")
    )


def _from_json(folder: Path) -> Iterator[Pair]:
    path = folder / "captions.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        named = _karpathy(data) if "annotations" not in data else _coco(data)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected COCO's or Karpathy's captions, found something else ({type(error).__name__}: "
            f"{error})"
        ) from error
    if not named:
        raise UserError(f"{path}: names no test image with captions")
    for name, captions in named:
        place = folder / "images" / name
        if not captions:
            raise UserError(f"{path}: expected captions of {name}, found none")
        if not place.resolve().is_relative_to((folder / "images").resolve()):
            raise UserError(f"{path}: {name!r} leads out of {folder / 'images'}")
        try:
            yield place.read_bytes(), str(place), tuple(captions)
        except OSError as error:
            raise UserError(
                f"{place}: expected an image that {path.name} names; cannot read it ({error.strerror})"
            ) from error


def _coco(data: dict[str, Any]) -> list[tuple[str, list[str]]]:
    texts: dict[Any, list[str]] = defaultdict(list)
    for row in data["annotations"]:
        texts[row["image_id"]].append(" ".join(row["caption"].split()))
    return [(row["file_name"], texts[row["id"]]) for row in data["images"]]


def _karpathy(data: dict[str, Any]) -> list[tuple[str, list[str]]]:
    rows = [row for row in data["images"] if row.get("split", "test") == "test"]
    return [
        (str(Path(row.get("filepath", "")) / row["filename"]), [s["raw"].strip() for s in row["sentences"]])
        for row in rows
    ]
