"""Long-tailed recognition (CtrlSynth, section 4.3 and Table 7): the classifier head of a frozen CLIP is
fine-tuned on a long-tailed split, with or without synthetic images, and scored on a balanced test set,
overall and by head, medium and tail.

A folder holds `train.txt`, `test.txt` (lines `path label`, the public split files), `classnames.txt`, and the
images under `images/` (or beside the files). Groups are frozen on `train.txt`: head over 100 images, medium
20..100, tail under 20. Extra images never move a class. Features are encoded once, from the centre crop;
METHODS section 1 has the head's settings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...data.long_tail import HEAD_OVER, TAIL_UNDER, read_split
from ...errors import UserError
from .. import layout
from ..encode import Array, Encoder, class_weights, encode_images
from ..features import Split
from ..metrics import Ints, bootstrap, top_k_hits
from ..results import Score, Scores
from ..tasks import Task

SCALE = 25.0
GROUPS = ("head", "medium", "tail")


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """How the head is trained. `head`: cosine (from text features) or plain; `loss`: cross-entropy or
    logit-adjusted (by the log share of each class in the data that it is trained on)."""

    head: Literal["cosine", "plain"] = "cosine"
    loss: Literal["cross-entropy", "logit-adjusted"] = "cross-entropy"
    epochs: int = 10
    batch: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0


def evaluate(
    model: Encoder, folder: Path, task: Task, extra: Path | None = None, settings: HeadSettings | None = None,
    tick: Callable[[int], None] | None = None,
) -> Scores:  # fmt: skip
    """acc1 and the accuracy of head, medium and tail. `extra`: synthetic images (`read_extra`); the head is
    then trained for the number of iterations that the original split alone gives."""
    how = settings or HeadSettings()
    names = layout.classnames(folder, task.classes)
    lists = {split: read_split(folder / f"{split}.txt", len(names)) for split in ("train", "test")}
    counts = np.bincount([label for _, label in lists["train"]], minlength=len(names))
    train, test = (_encode(model, _root(folder), lists[split], tick) for split in ("train", "test"))
    iterations = how.epochs * math.ceil(len(train.labels) / how.batch)
    if extra is not None:
        train = train + _encode(model, *read_extra(extra, len(names)), tick)
    first = class_weights(model, names, ["a photo of a {c}."]) if how.head == "cosine" else None
    logits = train_head(train, test.features, len(names), iterations, how, first)
    protocol = {
        "kind": "long-tail", "metric": "acc1", "head": how.head, "loss": how.loss, "iterations": iterations,
        "seed": how.seed,
    }  # fmt: skip
    files = [
        folder / "classnames.txt",
        folder / "train.txt",
        folder / "test.txt",
        *([extra_file(extra)] if extra else []),
    ]
    notes = (f"trained on {len(train.labels)} images, {len(lists['train'])} of them from train.txt",)
    return Scores(
        group_scores(logits, test.labels, counts),
        protocol,
        len(test.labels),
        layout.digest(files),
        len(names),
        notes,
    )


def groups(counts: Ints) -> npt.NDArray[np.int64]:
    """0 head, 1 medium, 2 tail for each class, from the original split's images a class."""
    return np.where(counts > HEAD_OVER, 0, np.where(counts >= TAIL_UNDER, 1, 2))


def group_scores(logits: Array, labels: Ints, counts: Ints) -> dict[str, Score]:
    """acc1 overall and of each group that has test images."""
    hits = top_k_hits(logits, labels, 1)
    group = groups(counts)[labels]
    out = {"acc1": Score(float(hits.mean()), *bootstrap(hits))}
    for number, name in enumerate(GROUPS):
        rows = hits[group == number]
        if len(rows):
            out[name] = Score(float(rows.mean()), *bootstrap(rows))
    return out


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
        told = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{table}: expected an imagefolder export whose source gives labels ({told})"
        ) from error
    if not rows:
        raise UserError(f"{table}: names no image")
    return path, rows


def extra_file(path: Path) -> Path:
    """The file whose digest stands for the extra images."""
    return path / "metadata.jsonl" if path.is_dir() else path


def _root(folder: Path) -> Path:
    return folder / "images" if (folder / "images").is_dir() else folder


def _encode(
    model: Encoder, root: Path, rows: Sequence[tuple[str, int]], tick: Callable[[int], None] | None
) -> Split:
    def images() -> Iterator[tuple[bytes, str]]:
        for name, _ in rows:
            path = root / name
            try:
                yield path.read_bytes(), str(path)
            except OSError as error:
                raise UserError(
                    f"{path}: expected an image that the split names; cannot read it ({error.strerror})"
                ) from error

    return Split(
        encode_images(model, images(), tick=tick), np.array([label for _, label in rows], dtype=np.int64)
    )


def train_head(
    train: Split, test: Array, classes: int, iterations: int, how: HeadSettings, first: Array | None
) -> Array:
    """Trains the head and returns the test rows' logits (N, C). `first` (C, D): the cosine head's weights at
    the start."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(how.seed)
    features, labels = torch.from_numpy(train.features), torch.from_numpy(train.labels)
    plain = how.head == "plain"
    if first is not None:
        start = torch.from_numpy(first).clone()
    else:
        start = torch.empty(classes, features.shape[1]).normal_(0, 0.01, generator=generator)
    weight = start.requires_grad_()
    bias = torch.zeros(classes, requires_grad=plain)
    shift = _log_prior(train.labels, classes) if how.loss == "logit-adjusted" else torch.zeros(classes)
    optimizer = torch.optim.SGD(
        [weight, *([bias] if plain else [])], lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay
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
        if len(order) < min(how.batch, len(labels)):
            order = torch.cat([order, torch.randperm(len(labels), generator=generator)])
        rows, order = order[: how.batch], order[how.batch :]
        loss = functional.cross_entropy(logits(features[rows]) + shift, labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return np.asarray(logits(torch.from_numpy(test)).numpy())


def _log_prior(labels: Ints, classes: int) -> Any:
    import torch

    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return torch.from_numpy(np.log(counts / counts.sum())).float()
