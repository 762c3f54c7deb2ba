"""Image-text retrieval in both directions (CtrlSynth, Table 3: recall@1; SynthCLIP: recall@5): a hit is any
positive among the first k.

Reads the public tar layout (`test/*.tar` with KEY.jpg + KEY.txt, one caption per line), or a folder with
`images/` and `captions.json`: COCO's own form (`images`, `annotations`) or Karpathy's (`images` with `split`
and `sentences`), which Flickr8K and Flickr30K use too."""

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .. import layout
from ..encode import Encoder, encode_images, encode_texts
from ..metrics import bootstrap, recall_ranks
from ..results import Score, mean_score
from .base import Evaluator, Scores

KS = (1, 5, 10)


class Retrieval(Evaluator):
    """i2t_recall@k, t2i_recall@k and their mean recall@k for k = 1, 5, 10."""

    def files(self) -> list[Path]:
        """captions.json, or the test shards."""
        captions = self.folder / "captions.json"
        return [captions] if captions.exists() else layout.shards(self.folder, "test")

    def test_samples(self) -> Iterator[layout.Sample]:
        """Streams the test images with their captions, in the data set's order."""
        if (self.folder / "captions.json").exists():
            return _from_json(self.folder)
        return layout.samples(self.folder, "test")

    def evaluate(self, model: Encoder) -> Scores:
        """Ranks all texts for each image and all images for each text."""
        features, seen = encode_images(model, self.test_samples())
        captions = [sample.captions[: self.task.captions] for sample in seen]
        owner = np.repeat(np.arange(len(captions)), [len(c) for c in captions])
        texts = encode_texts(model, [text for group in captions for text in group])
        bounds = np.cumsum([0, *map(len, captions)])
        to_text = recall_ranks(features, texts, [range(*ends) for ends in pairwise(bounds)])
        to_image = recall_ranks(texts, features, [[int(o)] for o in owner])
        both, way = np.concatenate([to_text, to_image]), np.repeat([0, 1], [len(to_text), len(to_image)])
        scores: dict[str, Score] = {}
        for k in KS:
            i2t, t2i = (mean_score(ranks < k) for ranks in (to_text, to_image))
            scores |= {f"i2t_recall@{k}": i2t, f"t2i_recall@{k}": t2i}
            scores[f"recall@{k}"] = Score((i2t.value + t2i.value) / 2, *bootstrap(both < k, way))
        return Scores(scores, len(captions), protocol={"images": len(captions), "captions": len(owner)})


def _from_json(folder: Path) -> Iterator[layout.Sample]:
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
        if not captions:
            raise UserError(f"{path}: expected captions of {name}, found none")
        yield layout.read_sample(layout.inside(folder / "images", name, path), path.name, captions=captions)


def _coco(data: dict[str, Any]) -> list[tuple[str, list[str]]]:
    texts: dict[Any, list[str]] = defaultdict(list)
    for row in data["annotations"]:
        texts[row["image_id"]].append(" ".join(row["caption"].split()))
    return [(row["file_name"], texts[row["id"]]) for row in data["images"]]


def _karpathy(data: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return [
        (str(Path(row.get("filepath", "")) / row["filename"]), [s["raw"].strip() for s in row["sentences"]])
        for row in data["images"]
        if row.get("split", "test") == "test"
    ]
