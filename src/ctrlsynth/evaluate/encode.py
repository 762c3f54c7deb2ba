"""Encodes images, texts and labelled splits into L2-normalised float32 arrays. Reading and decoding run in
threads beside the model."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..data.images import ImageFault, decode
from ..errors import UserError
from .layout import Sample, samples
from .metrics import Ints

Array = npt.NDArray[np.float32]
DECODERS, AHEAD = 2, 4
"""Threads that decode and resize, and batches that are being read or decoded, or wait for the model."""


class Encoder(Protocol):
    """A CLIP model as the evaluators need it (`models.open_clip.load.load_model` gives one). `preprocess`
    turns an RGB image into uint8 (H, W, 3); `encode_image` takes (B, H, W, 3), `encode_text` B texts; both
    give (B, D), normalised or not."""

    id: str
    digest: str

    def preprocess(self, image: Image.Image) -> Any: ...
    def encode_image(self, batch: Any) -> Any: ...
    def encode_text(self, texts: Sequence[str]) -> Any: ...


def normalised(array: Any) -> Array:
    """(B, D) tensor or array -> float32 rows of length 1 (a row of zeros stays zero)."""
    rows = np.asarray(
        array.detach().float().cpu().numpy() if hasattr(array, "detach") else array, dtype=np.float32
    )
    return np.asarray(
        rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12), dtype=np.float32
    )


def encode_images(model: Encoder, rows: Iterable[Sample], batch: int = 64) -> tuple[Array, list[Sample]]:
    """The features (N, D) of the samples' images, and the samples without them, in order. Reads `rows` in
    another thread, at most `AHEAD` batches ahead of the model."""
    rest, out, seen = iter(rows), list[Array](), list[Sample]()
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(DECODERS, "decode") as decoders:

        def ask() -> Future[Any]:
            read = reader.submit(lambda: list(islice(rest, batch)))
            return decoders.submit(lambda: _pixels(read.result(), model.preprocess))

        waiting = deque(ask() for _ in range(AHEAD))
        while (chunk := waiting.popleft().result()) is not None:
            waiting.append(ask())
            out.append(normalised(model.encode_image(chunk[0])))
            seen += chunk[1]
    return np.concatenate(out or [np.zeros((0, 1), dtype=np.float32)]), seen


def _pixels(
    chunk: list[Sample], prepare: Callable[[Image.Image], Any]
) -> tuple[npt.NDArray[np.uint8], list[Sample]] | None:
    """The pixels (B, H, W, 3), and the samples without their images; None after the last sample."""
    out = []
    for sample in chunk:
        try:
            out.append(prepare(decode(sample.image)))
        except ImageFault as fault:
            raise UserError(f"{sample.where}: the image cannot be decoded ({fault.reason})") from fault
    return (np.stack(out), [replace(sample, image=b"") for sample in chunk]) if out else None


def encode_texts(model: Encoder, texts: Sequence[str], batch: int = 256) -> Array:
    """(N, D), in order. Encodes equal texts once, sorted by length."""
    distinct = sorted(set(texts), key=lambda t: (len(t), t))
    rows: dict[str, int] = {text: n for n, text in enumerate(distinct)}
    parts = [normalised(model.encode_text(distinct[n : n + batch])) for n in range(0, len(distinct), batch)]
    return np.concatenate(parts)[[rows[t] for t in texts]]


def class_weights(model: Encoder, names: Sequence[str], templates: Sequence[str], batch: int = 256) -> Array:
    """(C, D): a class is the mean of its L2-normalised template embeddings, normalised again (METHODS,
    section 3)."""
    texts = [template.replace("{c}", name) for name in names for template in templates]
    return normalised(encode_texts(model, texts, batch).reshape(len(names), len(templates), -1).mean(axis=1))


@dataclass(frozen=True, slots=True)
class Split:
    """features (N, D), L2-normalised; labels (N,)."""

    features: Array
    labels: Ints

    def __add__(self, other: "Split") -> "Split":
        return Split(
            np.concatenate([self.features, other.features]), np.concatenate([self.labels, other.labels])
        )


def encode_labelled(model: Encoder, rows: Iterable[Sample]) -> Split:
    """Encodes samples that have labels, in order."""
    features, seen = encode_images(model, rows)
    return Split(features, np.array([sample.label for sample in seen], dtype=np.int64))


def encode_split(model: Encoder, folder: Path, split: str, classes: int) -> Split:
    """Encodes `folder/split`, whose labels are 0 to classes-1, in the order of its shards."""
    return encode_labelled(model, samples(folder, split, classes))
