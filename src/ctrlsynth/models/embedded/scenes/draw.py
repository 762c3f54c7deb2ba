"""Puts a planned scene of `scenes` (2c) on its background, in the style that the text asks for."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from .backdrop import Floats, backdrop
from .plan import Scene
from .sprites import sprite

_BAR = 0.11  # of the height: each of the cinematic style's two bars


def content_box(size: tuple[int, int], style: str) -> tuple[float, float, float, float]:
    """(left, top, width, height) of the part of the picture that objects may stand in."""
    width, height = size
    margin = 0.025 * min(size)
    bar = _BAR * height if style == "cinematic" else 0.0
    return margin, bar + margin, width - 2 * margin, height - 2 * (bar + margin)


def rim_of(size: tuple[int, int]) -> int:
    """The white rim's width in pixels: 1.2% of the shorter side, at least 2."""
    return max(2, round(0.012 * min(size)))


def render(scene: Scene) -> Image.Image:
    """The picture, RGB, scene.size pixels. Equal scenes give equal bytes."""
    rng = np.random.Generator(np.random.PCG64(scene.seed))
    size, rim = scene.size, rim_of(scene.size)
    picture = Image.fromarray(
        backdrop(size, scene.place, list(scene.weather), scene.style, rng).astype(np.uint8)
    )
    for thing in scene.objects:
        left, top, right, bottom = thing.box
        shape = sprite(
            scene.drawings[thing.name],
            thing.colour,
            scene.style == "isometric",
            max(right - left, bottom - top),
            rim,
        )
        corner = (left - rim, top - rim)
        if not scene.alone(thing):
            picture.paste(shape, corner, shape)
            continue
        _shadow(picture, shape, corner, rim)
        picture.paste(shape, corner, shape)
    return _finish(picture, scene.style, rng)


def _shadow(picture: Image.Image, shape: Image.Image, corner: tuple[int, int], rim: int) -> None:
    """A soft shadow to the lower right of a drawing that stands on the background."""
    pad = 2 * rim
    mask = Image.new("L", (shape.width + 2 * pad, shape.height + 2 * pad), 0)
    mask.paste(shape.getchannel("A").point(lambda a: a * 3 // 10), (pad, pad))
    mask = mask.filter(ImageFilter.BoxBlur(rim))
    picture.paste((24, 28, 36), (corner[0] - pad + rim // 2, corner[1] - pad + rim), mask)


def _finish(picture: Image.Image, style: str, rng: np.random.Generator) -> Image.Image:
    """What a style does to the whole picture. Kept mild, so that colours keep their names."""
    if style in ("", "nocap"):
        return picture
    pixels: Floats = np.asarray(picture, np.float32)
    if style == "real":
        pixels = pixels * np.array((1.0, 0.985, 0.955), np.float32) + _grain(pixels, 4.0, rng)
    elif style == "cinematic":
        light = pixels.mean(-1, keepdims=True) / 255
        pixels = (
            pixels * 0.97
            + (light * np.array((10, 2, -10)) + (1 - light) * np.array((-4, 2, 8))).astype(np.float32)
            + _grain(pixels, 5.0, rng)
        )
        bar = int(_BAR * pixels.shape[0])
        pixels[:bar] = pixels[-bar:] = 8
    elif style == "art":
        weave = np.zeros(pixels.shape[:2], np.float32)
        weave[::3] -= 7
        weave[:, ::3] -= 7
        pixels = pixels * np.array((1.0, 0.985, 0.94), np.float32) + weave[..., None]
    elif style in ("enhance", "isometric"):
        mean = pixels.mean(-1, keepdims=True)
        pixels = mean + (pixels - mean) * 1.12
    elif style == "quality":
        return picture.filter(ImageFilter.UnsharpMask(1.5, 60, 2))
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def _grain(pixels: Floats, sigma: float, rng: np.random.Generator) -> Floats:
    return (rng.standard_normal(pixels.shape[:2], np.float32) * np.float32(sigma))[..., None]
