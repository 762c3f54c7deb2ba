"""Lays the quickstart's photographs in a folder: real ones that scikit-image and scikit-learn carry; nothing
is fetched.

    python scripts/quickstart_photos.py photos/

Writes OUT/*.jpg and OUT/captions.csv (the captions, written for this project, with each photograph's
licence). Files that exist are left alone."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from PIL import Image

CAPTIONS = Path(__file__).resolve().parent.parent / "recipes" / "quickstart_captions.csv"

PHOTOS = {
    "astronaut": "skimage/data/astronaut.png",
    "camera": "skimage/data/camera.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "coins": "skimage/data/coins.png",
    "grass": "skimage/data/grass.png",
    "gravel": "skimage/data/gravel.png",
    "pavement": "skimage/data/brick.png",
    "rocket": "skimage/data/rocket.jpg",
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
}
"""Name in the quickstart -> file in an installed package. Textures, scans, drawings and medical images of
scikit-image are left out, but for three grounds (grass, gravel, pavement) that any photo collection holds."""


def package_file(path: str) -> Path:
    """The file inside an installed package, without importing it."""
    package, _, rest = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        wheel = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
        sys.exit(f"{wheel} is not installed; pip install 'ctrlsynth[demo]'")
    return Path(spec.submodule_search_locations[0]) / rest


def main(out: Path) -> int:
    """Copies JPEG files as they are, turns PNG files into JPEG; returns how many were written."""
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    for name, source in PHOTOS.items():
        target = out / f"{name}.jpg"
        if target.exists():
            continue
        file = package_file(source)
        if file.suffix == ".jpg":
            shutil.copyfile(file, target)
        else:
            with Image.open(file) as image:
                image.save(target, "JPEG", quality=92)
        written += 1
    if not (out / "captions.csv").exists():
        shutil.copyfile(CAPTIONS, out / "captions.csv")
    print(f"{len(PHOTOS)} photographs in {out} ({written} new), captions in {out / 'captions.csv'}")
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
