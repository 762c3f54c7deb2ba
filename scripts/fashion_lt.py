"""Makes a long-tailed cut of Fashion-MNIST in the layout of ImageNet-LT: images/, train.txt, test.txt (`path
label`), classnames.txt.

apt-get install dataset-fashion-mnist
python scripts/fashion_lt.py data/fashion-lt [--most 500 --least 8 --test 100 --seed 0]

The classes' images fall geometrically from --most to --least, in an order drawn by --seed, so that there
are head, medium and tail classes; the test set is balanced. recipes/evidence/fashion-lt.yaml uses the
result."""

from __future__ import annotations

import argparse
import gzip
import random
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SOURCE = Path("/usr/share/datasets/fashion-mnist")
NAMES = [
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An idx file of bytes: two zeros, type 8, number of dimensions, the dimensions, the values."""
    data = gzip.decompress(path.read_bytes())
    zero, kind, dimensions = struct.unpack(">HBB", data[:4])
    if (zero, kind) != (0, 8):
        raise SystemExit(f"{path}: not an idx file of bytes")
    shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
    values = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise SystemExit(f"{path}: says {shape}, holds {values.size} values")
    return values.reshape(shape)


def counts(most: int, least: int, seed: int) -> list[int]:
    """Images a class."""
    falling = [round(most * (least / most) ** (n / (len(NAMES) - 1))) for n in range(len(NAMES))]
    return random.Random(seed).sample(falling, len(falling))


def make(out: Path, most: int, least: int, test: int, seed: int, source: Path = SOURCE) -> list[int]:
    """See the module's docstring. -> training images a class."""
    if not source.is_dir():
        raise SystemExit(f"{source} is not there; apt-get install dataset-fashion-mnist")
    wanted = counts(most, least, seed)
    (out / "images").mkdir(parents=True)
    (out / "classnames.txt").write_text("".join(f"{name}\n" for name in NAMES))
    rng = random.Random(seed)
    for split, stem, numbers in (("train", "train", wanted), ("test", "t10k", [test] * len(NAMES))):
        images = read_idx(source / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{stem}-labels-idx1-ubyte.gz")
        lines = []
        for label, number in enumerate(numbers):
            there = np.flatnonzero(labels == label).tolist()
            if number > len(there):
                raise SystemExit(
                    f"{source}: class {NAMES[label]} has {len(there)} images of {split}, {number} are wanted"
                )
            for place in rng.sample(there, number):
                Image.fromarray(255 - images[place]).convert("RGB").save(
                    out / "images" / f"{split}-{place:05d}.png"
                )
                lines.append(f"{split}-{place:05d}.png {label}\n")
        (out / f"{split}.txt").write_text("".join(lines))
    return wanted


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--most", type=int, default=500)
    parser.add_argument("--least", type=int, default=8)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for name, number in zip(
        NAMES, make(asked.out, asked.most, asked.least, asked.test, asked.seed), strict=True
    ):
        print(f"{number:6} {name}")


if __name__ == "__main__":
    main()
