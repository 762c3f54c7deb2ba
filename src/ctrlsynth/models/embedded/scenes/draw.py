"""Draws a planned scene of `scenes` (2c) on its background, in the style that the text asks for."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from .backdrop import Floats, backdrop
from .plan import Scene
from .sprites import sprite

_BAR = 0.11  # share of the height that each of the cinematic style's two bars takes


def content_box(size: tuple[int, int], style: str) -> tuple[float, float, float, float]:
    """(left, top, width, height) in pixels of the area for objects."""
    width, height = size
    margin = 0.025 * min(size)
    bar = _BAR * height if style == "cinematic" else 0.0
    return margin, bar + margin, width - 2 * margin, height - 2 * (bar + margin)


def rim_of(size: tuple[int, int]) -> int:
    """The white rim's width in pixels: 1.2% of the shorter side, at least 2."""
    return max(2, round(0.012 * min(size)))


def render(scene: Scene) -> Image.Image:
    """Returns the picture: RGB, scene.size pixels. Equal scenes give equal bytes."""
    rng = np.random.Generator(np.random.PCG64(scene.seed))
    rim, skewed = rim_of(scene.size), scene.style == "isometric"
    ground = backdrop(scene.size, scene.place, list(scene.weather), scene.style, rng)
    picture = Image.fromarray(ground.astype(np.uint8))
    for thing in scene.objects:
        left, top, right, bottom = thing.box
        longer, corner = max(right - left, bottom - top), (left - rim, top - rim)
        shape = sprite(scene.drawings[thing.name], thing.colour, skewed, longer, rim)
        if scene.alone(thing):
            _shadow(picture, shape, corner, rim)
        picture.paste(shape, corner, shape)
    return _finish(picture, scene.style, rng)


def _shadow(picture: Image.Image, shape: Image.Image, corner: tuple[int, int], rim: int) -> None:
    """Adds a soft shadow to the lower right of a drawing that touches no other."""
    pad = 2 * rim
    mask = Image.new("L", (shape.width + 2 * pad, shape.height + 2 * pad), 0)
    mask.paste(shape.getchannel("A").point(lambda a: a * 3 // 10), (pad, pad))
    mask = mask.filter(ImageFilter.BoxBlur(rim))
    picture.paste((24, 28, 36), (corner[0] - pad + rim // 2, corner[1] - pad + rim), mask)


def _finish(picture: Image.Image, style: str, rng: np.random.Generator) -> Image.Image:
    """Applies a style to the whole picture, mildly, so that colours keep their names."""
    if style in ("", "nocap"):
        return picture
    pixels: Floats = np.asarray(picture, np.float32)
    if style == "real":
        pixels = pixels * np.array((1.0, 0.985, 0.955), np.float32) + _grain(pixels, 4.0, rng)
    elif style == "cinematic":
        light = pixels.mean(-1, keepdims=True) / 255
        tint = light * np.array((10, 2, -10)) + (1 - light) * np.array(
            (-4, 2, 8)
        )  # warm lights, cold shadows
        pixels = pixels * 0.97 + tint.astype(np.float32) + _grain(pixels, 5.0, rng)
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
