"""The `imagenet` tagger beside onnxruntime called directly: images a second from decoded images, in one run.

    python benchmarks/imagenet.py [--model lite2] [--images 320] [--threads 1] python benchmarks/imagenet.py
    --stage [--images 400]        # the whole stage of a run: reading, decoding and writing included

Peer: `session.run` in as many threads on tensors prepared beforehand, so that it pays for the network and
nothing else. Ours pays for crop, resize, colours, names and Tags too. They take turns, 16 images at a time,
so that a busy machine slows both alike; printed are the medians over all turns. The goal is 0.90. With
--stage our turns are runs over 64 JPEG files of 256 pixels each; timed is the `tag` stage."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import skimage
import sklearn
from PIL import Image

import harness
from ctrlsynth.api.run import run
from ctrlsynth.models.base import ImageAndText
from ctrlsynth.models.device import in_threads, quiet_native_threads
from ctrlsynth.models.embedded.imagenet.tagger import ImageNetTagger
from ctrlsynth.recipe.file import parse_recipe

PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
TURN = 16  # images
STAGE = 64  # images of a run


def photographs(size: int | None) -> list[Image.Image]:
    """The sample photographs of scikit-image and scikit-learn, decoded; with their longer side at `size`
    pixels if it is given."""
    folder = Path(skimage.__file__).parent / "data"
    paths = [folder / name for name in PHOTOS] + sorted(
        (Path(sklearn.__file__).parent / "datasets/images").glob("*.jpg")
    )
    images = [Image.open(path).convert("RGB") for path in paths]
    if size is not None:
        images = [
            i.resize((round(i.width * size / max(i.size)), round(i.height * size / max(i.size))))
            for i in images
        ]
    return images


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def stage_rate(model: str, threads: int, images: int) -> float:
    """Images a second of the `tag` stage in a real run over `images` JPEG files whose longer side is 256
    pixels."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "photos").mkdir()
        photos = photographs(256)
        for i in range(images):
            photos[i % len(photos)].save(base / f"photos/{i:05d}.jpg", quality=90 + i // len(photos) % 8)
            (base / f"photos/{i:05d}.txt").write_text("a photograph")
        recipe = {
            "name": "speed",
            "source": {"folder": "photos"},
            "models": {"tagger": {"imagenet": model, "threads": threads}, "llm": "realizer"},
            "paths": [{"speed": ["image", "tags", "text*"]}],
        }
        clock = harness.StageClock("tag")
        made = run(parse_recipe(recipe), base / "run", base=base, watcher=clock)
        assert {row.folder: row.ok for row in made.ledger()}["tag"] == images
    return images / (clock.ended - clock.began)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--model", default="lite2")
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--size",
        type=int,
        default=None,
        help="longer side of the images in pixels; left out: as they are (300 to 741)",
    )
    parser.add_argument("--stage", action="store_true")
    options = parser.parse_args()
    quiet_native_threads()
    tagger = ImageNetTagger(options.model, threads=options.threads)
    photos = photographs(256 if options.stage else options.size)
    items = [ImageAndText(photos[i % len(photos)]) for i in range(TURN)]
    tensors = [tagger.prepare(item.image)[None] for item in items if item.image is not None]

    def bare() -> float:
        return seconds(lambda: in_threads(tagger.probabilities, tensors, options.threads))

    tagger.tag(items)
    if options.stage:
        pairs = [
            (bare(), TURN / stage_rate(options.model, options.threads, STAGE))
            for _ in range(max(1, options.images // STAGE))
        ]
    else:
        pairs = [(bare(), seconds(lambda: tagger.tag(items))) for _ in range(max(1, options.images // TURN))]
    peer, ours = (TURN / statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"imagenet:{options.model}, {options.images} images, {options.threads} thread(s)")
    print(f"onnxruntime alone  {peer:7.1f} images/s")
    print(f"{'tag stage of a run' if options.stage else 'ctrlsynth tagger  '} {ours:7.1f} images/s")
    print(f"ratio              {ours / peer:7.3f}   (goal 0.90)")


if __name__ == "__main__":
    main()
