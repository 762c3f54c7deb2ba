"""The loader: micro-batches of uint8 images and token ids, starting at any step, and the same for any number
of workers.

What is drawn for a row (its caption, its crop) depends on the seed, the row's id and the lap, never on the
process that reads it. A row that cannot be decoded stays in the batch, marked as not valid, and is counted,
so every batch has the same shape and the same rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from ...data.images import ImageFault, open_image
from ...errors import UserError
from ...models.open_clip.encode import LoadedClip
from ...recipe.train import TrainBlock, TrainSource
from ...sample import chance
from .images import training_view
from .order import Order, Part, Schedule
from .rows import RowFault, Shards
from .shards import open_shards


class Batch(NamedTuple):
    """One micro-batch. images uint8 [n, size, size, 3]; ids int64 [n, length]; valid bool [n], false where a
    row could not be used; faults (row id, reason)."""

    images: Any
    ids: Any
    valid: Any
    faults: list[tuple[str, str]]


class Batches:
    """The micro-batches of one process by number, as a dataset for `torch.utils.data.DataLoader`."""

    def __init__(
        self,
        shards: Sequence[Shards],
        schedule: Schedule,
        model: LoadedClip,
        block: TrainBlock,
        *,
        steps: int,
        rank: int = 0,
    ) -> None:
        self.schedule, self._shards, self._block = schedule, shards, block
        self._steps, self._rank = steps, rank
        self._tokenizer, self._size = model.tokenizer, model.size
        for source, width in zip(self._shards, schedule.order.windows, strict=True):
            source.keep_rows = width

    def __len__(self) -> int:
        return self._steps * self.schedule.accumulate

    def __getitem__(self, index: int) -> Batch:
        step, number = divmod(index, self.schedule.accumulate)
        rows = self.schedule.rows(step, self._rank, number)
        images = np.zeros((len(rows), self._size, self._size, 3), dtype=np.uint8)
        texts, valid, faults = [""] * len(rows), np.zeros(len(rows), dtype=bool), []
        for at, (source, lap, row) in enumerate(rows):
            try:
                images[at], texts[at] = self.view(source, lap, row)
                valid[at] = True
            except (RowFault, ImageFault) as fault:
                faults.append((self._shards[source].id(row), fault.reason))
        return Batch(
            torch.from_numpy(images),
            torch.from_numpy(self._tokenizer(texts)),
            torch.from_numpy(valid),
            faults,
        )

    def view(self, source: int, lap: int, row: int) -> tuple[Any, str]:
        """The image, uint8 [size, size, 3], and caption of a row in lap `lap` of its source. RowFault or
        ImageFault if it has none."""
        pair, block = self._shards[source].read(row), self._block
        caption = pair.captions[0]
        if len(pair.captions) > 1:
            caption = chance(block.seed, pair.id, f"caption {lap}").choice(pair.captions)
        image = open_image(pair.image, block.shorter_edge)
        rng = chance(block.seed, pair.id, f"view {lap}")
        return np.asarray(training_view(image, self._size, block.crop_scale, block.flip, rng)), caption


def loader(batches: Batches, start: int, *, workers: int, pin: bool = False) -> Any:
    """The micro-batches from number `start` to the end, in order, read ahead by `workers` processes (0: read
    on demand)."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )


def open_sources(
    sources: Sequence[TrainSource], base: Path, cache: Path | None = None, where: str = "train.data"
) -> list[Shards]:
    """Opens the sources of a block; see `shards.open_shards`."""
    return [
        open_shards(
            s.path,
            base,
            captions=s.captions,
            cache=cache,
            where=f"{where}[{n}]" if len(sources) > 1 else where,
        )
        for n, s in enumerate(sources)
    ]


def schedule_of(shards: Sequence[Shards], block: TrainBlock, world: int = 1) -> Schedule:
    """The order of a block's sources, cut into steps. UserError if the batch does not divide, or is larger
    than the data."""
    parts = [Part(s.rows, s.blocks, source.ratio) for s, source in zip(shards, block.data, strict=True)]
    order = Order(parts, seed=block.seed, window=block.window)
    share = block.accumulate * world
    if block.batch % share:
        raise UserError(
            f"train.batch: {block.batch:,} pairs do not divide by {world} processes x {block.accumulate} "
            f"micro-batches"
        )
    if block.batch > order.rows:
        raise UserError(
            f"train.batch: {block.batch:,} pairs a step, but the data has {order.rows:,}; take a smaller "
            f"batch or more data"
        )
    return Schedule(
        order, block.batch, accumulate=block.accumulate, world=world, together=block.negatives == "all"
    )
