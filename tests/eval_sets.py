"""Small data sets in the public layouts, and a tiny two-tower model of colours: an image's embedding is its
mean colour, a text's the mean of the colours that it names. It is weak and exact, so every expected score can
be worked out by hand."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ctrlsynth.models.base import Prompt
from ctrlsynth.models.embedded.scenes.painter import Scenes
from helpers import write_tar

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
}
TEMPLATES = "zeroshot_classification_templates.txt"


class ColourClip:
    """See the module's docstring."""

    def __init__(self, name: str = "colours") -> None:
        self.id, self.digest = name, name
        self.images = 0

    def preprocess(self, image: Image.Image) -> Any:
        return np.asarray(image.resize((4, 4)), dtype=np.uint8)

    def encode_image(self, batch: Any) -> Any:
        self.images += len(batch)
        return batch.reshape(len(batch), -1, 3).mean(axis=1).astype(np.float32)

    def encode_text(self, texts: Sequence[str]) -> Any:
        rows = [
            [COLOURS[w] for w in t.replace(".", " ").lower().split() if w in COLOURS] or [(1, 1, 1)]
            for t in texts
        ]
        return np.array([np.mean(r, axis=0) for r in rows], dtype=np.float32)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The file of an image."""
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def draw(text: str, size: int, seed: int = 0) -> bytes:
    """A PNG of `text` as `scenes` draws it."""
    made = Scenes(size).generate([Prompt(text, seed=seed)])[0].image
    assert made is not None
    return encoded(made)


def square(colour: str, size: int = 16) -> bytes:
    """A PNG of one colour."""
    return encoded(Image.new("RGB", (size, size), COLOURS[colour]))


def write_files(folder: Path, files: Mapping[str, Any]) -> Path:
    """Writes files below `folder`, given name -> bytes, text, or data to write as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def write_shards(folder: Path, samples: Sequence[dict[str, bytes]], shards: int = 2) -> Path:
    """`folder/nshards.txt` and its tars; a sample maps endings to bytes."""
    write_files(folder, {"nshards.txt": f"{shards}\n"})
    per = -(-len(samples) // shards)
    for n in range(shards):
        write_tar(
            folder / f"{n}.tar",
            [
                (f"s{i:05d}.{ending}", data)
                for i, parts in list(enumerate(samples))[n * per : (n + 1) * per]
                for ending, data in parts.items()
            ],
        )
    return folder


def classification_set(
    folder: Path, labels: Sequence[int], shown: Sequence[str], names: Sequence[str], split: str = "test"
) -> Path:
    """Squares of colours `shown` with the class numbers `labels`."""
    rows = [{"png": square(c), "cls": str(label).encode()} for label, c in zip(labels, shown, strict=True)]
    write_shards(folder / split, rows)
    lines = "".join(f"{n}\n" for n in names)
    return write_files(folder, {"classnames.txt": lines, TEMPLATES: "a {c} square\na photo of {c}.\n"})


def pairs_set(folder: Path, rows: dict[str, list[tuple[str, str, str]]]) -> Path:
    """SugarCrepe's form: file -> (colour of the image, caption, negative)."""
    write_files(folder, {f"images/{colour}.png": square(colour) for colour in COLOURS})
    for name, several in rows.items():
        data = {
            str(n): {"filename": f"{c}.png", "caption": p, "negative_caption": m}
            for n, (c, p, m) in enumerate(several)
        }
        write_files(folder, {f"{name}.json": data})
    return folder
