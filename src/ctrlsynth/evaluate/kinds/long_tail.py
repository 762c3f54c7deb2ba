"""Long-tailed recognition (CtrlSynth, section 4.3 and Table 7): the classifier head of a frozen CLIP is
fine-tuned on a long-tailed split, with or without synthetic images, and scored on a balanced test set,
overall and by head, medium and tail.

A folder holds `train.txt`, `test.txt` (lines `path label`, the public split files), `classnames.txt`, and the
images in `images/` (or in the folder itself). `train.txt` alone decides a class's group: head over 100
images, medium 20 to 100, tail under 20. Features are encoded once, from the centre crop;
METHODS section 1 has the head's settings."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.long_tail import group_of, read_split
from ...errors import UserError
from .. import layout
from ..encode import Array, Encoder, Split, class_weights, encode_labelled
from ..metrics import Ints, top_k_hits
from ..results import Score, mean_score
from .base import Evaluator, Scores, Settings

SCALE = 25.0
EPOCHS, BATCH, LR, MOMENTUM, WEIGHT_DECAY = 10, 128, 0.01, 0.9, 5e-4


class LongTail(Evaluator):
    """acc1 and the accuracy of head, medium and tail."""

    seeded = True

    def files(self) -> list[Path]:
        """The split's three files, and the list of the extra images."""
        extra = self.settings.extra
        lists = [] if extra is None else [extra / "metadata.jsonl" if extra.is_dir() else extra]
        return [*(self.folder / n for n in ("classnames.txt", "train.txt", "test.txt")), *lists]

    def protocol(self) -> dict[str, Any]:
        """The head's settings."""
        return {"head": self.settings.head, "loss": self.settings.loss, "seed": self.settings.seed}

    def test_samples(self) -> Iterator[layout.Sample]:
        """Streams the test images with their labels."""
        return self._samples("test", len(layout.classnames(self.folder, None)))

    def _samples(self, name: str, classes: int) -> Iterator[layout.Sample]:
        images = self.folder / "images"
        rows = read_split(self.folder / f"{name}.txt", classes)
        return _labelled(images if images.is_dir() else self.folder, rows)

    def evaluate(self, model: Encoder) -> Scores:
        """Trains a head on train.txt and the extra images, for the number of iterations that train.txt alone
        gives, and scores it on test.txt."""
        names, how = layout.classnames(self.folder, self.task.classes), self.settings
        splits = [self._samples(s, len(names)) for s in ("train", "test")]  # both are checked first
        train, test = (encode_labelled(model, split) for split in splits)
        own = len(train.labels)
        counts = np.bincount(train.labels, minlength=len(names))
        iterations = EPOCHS * math.ceil(own / BATCH)
        if how.extra is not None:
            train = train + encode_labelled(model, _labelled(*read_extra(how.extra, len(names))))
        first = class_weights(model, names, ["a photo of a {c}."]) if how.head == "cosine" else None
        logits = train_head(train, test.features, len(names), iterations, how, first)
        return Scores(
            group_scores(logits, test.labels, counts),
            len(test.labels),
            len(names),
            (f"trained on {len(train.labels)} images, {own} of them from train.txt",),
            {"iterations": iterations},
        )


def _labelled(root: Path, rows: Sequence[tuple[str, int]]) -> Iterator[layout.Sample]:
    return (layout.read_sample(root / name, "the split", label) for name, label in rows)


def group_scores(logits: Array, labels: Ints, counts: Ints) -> dict[str, Score]:
    """acc1 overall and for each group that has test images; `counts`: images of each class in the original
    split."""
    hits = top_k_hits(logits, labels, 1)
    group = np.array([group_of(images) for images in counts])[labels]
    found = {"acc1": hits, **{name: hits[group == name] for name in ("head", "medium", "tail")}}
    return {name: mean_score(rows) for name, rows in found.items() if len(rows)}


def read_extra(path: Path, classes: int) -> tuple[Path, list[tuple[str, int]]]:
    """Synthetic images with labels: a split file (paths from its folder), or what `ctrlsynth export --format
    imagefolder` made of a run whose source was a long-tailed split. -> (folder, rows)."""
    if not path.is_dir():
        return path.parent, read_split(path, classes)
    table = path / "metadata.jsonl"
    rows = []
    try:
        for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            label = json.loads(row["source"])["label"]
            if not isinstance(label, int) or not 0 <= label < classes:
                raise UserError(f"{table}:{number}: expected a label of 0..{classes - 1}, found {label!r}")
            rows.append((row["file_name"], label))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{table}: expected an imagefolder export whose source gives labels ({type(error).__name__}: "
            f"{error})"
        ) from error
    if not rows:
        raise UserError(f"{table}: names no image")
    return path, rows


def train_head(
    train: Split, test: Array, classes: int, iterations: int, how: Settings, first: Array | None
) -> Array:
    """Trains the head by SGD and returns the test rows' logits (N, C). `first` (C, D): initial weights of the
    cosine head."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(how.seed)
    features, labels = torch.from_numpy(train.features), torch.from_numpy(train.labels)
    plain = how.head == "plain"
    weight = (
        torch.empty(classes, features.shape[1]).normal_(0, 0.01, generator=generator)
        if first is None
        else torch.tensor(first)
    ).requires_grad_()
    bias = torch.zeros(classes, requires_grad=plain)
    counts = np.maximum(np.bincount(train.labels, minlength=classes), 1)
    prior = torch.from_numpy(np.log(counts / counts.sum())).float()
    shift = prior if how.loss == "logit-adjusted" else torch.zeros(classes)
    optimizer = torch.optim.SGD(
        [weight, *([bias] if plain else [])], lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)

    def logits(rows: Any) -> Any:
        return (
            rows @ weight.T + bias
            if plain
            else SCALE * functional.normalize(rows, dim=1) @ functional.normalize(weight, dim=1).T
        )

    order = torch.empty(0, dtype=torch.int64)
    for _ in range(iterations):
        if len(order) < min(BATCH, len(labels)):
            order = torch.cat([order, torch.randperm(len(labels), generator=generator)])
        rows, order = order[:BATCH], order[BATCH:]
        loss = functional.cross_entropy(logits(features[rows]) + shift, labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return np.asarray(logits(torch.from_numpy(test)).numpy())
