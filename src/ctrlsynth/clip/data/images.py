"""The views of images in training: random resized crop or centre crop, and mirroring, as torchvision computes
them on PIL images."""

import math
import random

from PIL import Image

from ...data.images import shorter_edge


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle square of `size` pixels."""
    left, top = round((image.width - size) / 2.0), round((image.height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def crop_box(
    width: int, height: int, scale: tuple[float, float], rng: random.Random
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random resized crop: the share of the area is drawn from `scale`, the
    aspect ratio log-uniformly from 3/4 to 4/3; after ten crops that do not fit, the largest centred one
    within those ratios."""
    area = width * height
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        wanted = area * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            return left, top, left + w, top + h
    w, h = min(width, round(height * (4 / 3))), min(height, round(width / (3 / 4)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def training_view(
    image: Image.Image, size: int, scale: tuple[float, float] | None, flip: bool, rng: random.Random
) -> Image.Image:
    """The image as a step shows it: a bicubic random resized crop (the centre crop without `scale`), mirrored
    half of the time with `flip`."""
    if scale is None:
        view = centre_crop(shorter_edge(image, size), size)
    else:
        view = image.crop(crop_box(image.width, image.height, scale, rng)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip and rng.random() < 0.5 else view
