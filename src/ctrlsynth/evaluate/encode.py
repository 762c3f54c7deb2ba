"""Images and texts through a model's two towers, as L2-normalised float32 arrays. Decoding runs in threads beside the model."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import UserError

Array = npt.NDArray[np.float32]
DECODERS = 2
"""Threads that decode and resize."""


class Encoder(Protocol):
    """A CLIP model as the evaluators need it (`clip.model.load_model` gives one). `preprocess` turns an RGB image into uint8 (H, W, 3);
    `encode_image` takes (B, H, W, 3), `encode_text` B texts; both give (B, D), normalised or not."""

    @property
    def id(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def preprocess(self) -> Callable[[Image.Image], Any]: ...
    def encode_image(self, batch: Any) -> Any: ...
    def encode_text(self, texts: Sequence[str]) -> Any: ...


def normalised(array: Any) -> Array:
    """(B, D) tensor or array -> float32 rows of length 1 (a row of zeros stays one)."""
    rows = np.asarray(array.detach().float().cpu().numpy() if hasattr(array, "detach") else array, dtype=np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def open_image(data: bytes, where: str) -> Image.Image:
    """Encoded bytes -> RGB; what cannot be decoded is named."""
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: the image cannot be decoded ({error})") from error


def encode_images(model: Encoder, images: Iterable[tuple[bytes, str]], batch: int = 64, tick: Callable[[int], None] | None = None) -> Array:
    """(bytes, where) -> (N, D), in order. Memory: a few batches of pixels."""
    out: list[Array] = []
    for pixels in _batches(_prepared(images, model.preprocess, 4 * batch), batch):
        out.append(normalised(model.encode_image(np.stack(pixels))))
        if tick is not None:
            tick(len(pixels))
    return np.concatenate(out) if out else np.zeros((0, 1), dtype=np.float32)


def _prepared(images: Iterable[tuple[bytes, str]], prepare: Callable[[Image.Image], Any], ahead: int) -> Iterator[Any]:
    """Preprocessed pixels in order, at most `ahead` of them in front of the model."""
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as pool:
        for data, where in images:
            waiting.append(pool.submit(lambda d, w: prepare(open_image(d, w)), data, where))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def encode_texts(model: Encoder, texts: Sequence[str], batch: int = 256) -> Array:
    """(N, D), in order; equal texts are encoded once, short ones beside short ones."""
    distinct = sorted(set(texts), key=lambda t: (len(t), t))
    rows: dict[str, int] = {text: n for n, text in enumerate(distinct)}
    parts = [normalised(model.encode_text(distinct[n : n + batch])) for n in range(0, len(distinct), batch)]
    return np.concatenate(parts)[[rows[t] for t in texts]]


def class_weights(model: Encoder, names: Sequence[str], templates: Sequence[str], batch: int = 256) -> Array:
    """(C, D): a class is the mean of its L2-normalised template embeddings, normalised again (METHODS, section 3)."""
    texts = [template.replace("{c}", name) for name in names for template in templates]
    encoded = encode_texts(model, texts, batch).reshape(len(names), len(templates), -1)
    return normalised(encoded.mean(axis=1))
