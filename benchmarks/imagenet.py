"""The `imagenet` tagger beside onnxruntime called directly: images a second from decoded images, in one run.

    python benchmarks/imagenet.py [--model lite2] [--images 200] [--threads 1]

Peer: `session.run` in as many threads on tensors prepared beforehand, so that it pays for the network and nothing else. Ours pays for
crop, resize, colours, names and Tags too. They take turns, 16
images at a time, so that a busy machine slows both alike; printed are the medians over all turns. The goal is 0.90.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import skimage
import sklearn
from PIL import Image

from ctrlsynth.models.base import ImageAndText
from ctrlsynth.models.runtime import quiet_native_threads
from ctrlsynth.models.taggers.imagenet import ImageNetTagger

PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
TURN = 16  # images


def photographs(size: int | None) -> list[Image.Image]:
    """The sample photographs of scikit-image and scikit-learn, decoded; with their longer side at `size` pixels if it is given."""
    folder = Path(skimage.__file__).parent / "data"
    paths = [folder / name for name in PHOTOS] + sorted((Path(sklearn.__file__).parent / "datasets/images").glob("*.jpg"))
    images = [Image.open(path).convert("RGB") for path in paths]
    if size is not None:
        images = [i.resize((round(i.width * size / max(i.size)), round(i.height * size / max(i.size)))) for i in images]
    return images


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite2")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=None, help="longer side of the images in pixels; left out: as they are (300 to 741)")
    options = parser.parse_args()
    quiet_native_threads()
    tagger = ImageNetTagger(options.model, threads=options.threads)
    photos = photographs(options.size)
    items = [ImageAndText(photos[i % len(photos)]) for i in range(TURN)]
    tensors = [tagger.prepare(item.image)[None] for item in items if item.image is not None]
    ours, peer = [], []
    with ThreadPoolExecutor(options.threads) as pool:
        run: Callable[..., Any] = map if options.threads == 1 else pool.map
        tagger.tag(items)
        for _ in range(max(1, options.images // TURN)):
            peer.append(seconds(lambda: list(run(tagger.probabilities, tensors))))
            ours.append(seconds(lambda: tagger.tag(items)))
    rate, bare = (TURN / statistics.median(times) for times in (ours, peer))
    print(f"imagenet:{options.model}, {len(ours) * TURN} decoded images, {options.threads} thread(s)")
    print(f"onnxruntime alone  {bare:7.1f} images/s")
    print(f"ctrlsynth tagger   {rate:7.1f} images/s")
    print(f"ratio              {rate / bare:7.3f}   (goal 0.90)")


if __name__ == "__main__":
    main()
