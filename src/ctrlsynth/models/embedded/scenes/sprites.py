"""Renders drawings, for `scenes` (2c) and for the labelled pictures of `reference` (2a): trimmed,
recoloured, cut out.

A sprite is a drawing with a white rim, like a sticker's: the rim separates it from the background and from
what it covers."""

import io
from functools import lru_cache

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..regions import Mask, label, outside
from .vocabulary import COLOURS, Drawing, svg

_CACHED = 320  # pixels: larger stickers are not cached
MASTER = 240  # pixels of the longer side that sized sprites are made from
SKEW = 0.16  # the isometric style's rise over run
Floats = NDArray[np.float32]


@lru_cache(maxsize=256)
def master(drawing: Drawing, side: int = MASTER) -> Image.Image:
    """The drawing alone, RGBA, trimmed to its ink; `side` is the side of its untrimmed square in pixels."""
    if drawing.file is not None:
        with Image.open(drawing.file) as file:
            image = file.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)
    else:
        data = resvg_py.svg_to_bytes(svg_string=svg(drawing), width=side, height=side, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    return _trimmed(image)


def _trimmed(image: Image.Image) -> Image.Image:
    box = image.getchannel("A").point(lambda a: 255 if a > 40 else 0).getbbox()
    return image.crop(box) if box else image


def shades(rgb: Floats) -> tuple[Floats, Floats, Floats]:
    """What `paint` needs of RGB in 0..255, shape (..., 3): (..., 1) the share of the colour, (..., 1) the
    share of its complement, (..., 3) what keeps its colour.

    Filled areas get shades of the colour, dark lines stay. Shades keep the order of the old brightnesses,
    compressed to 0.80 .. 1.10 of the colour's own, so that the colour is easy to see."""
    light = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    fill = np.clip((light - 40.0) / 35.0, 0.0, 1.0)[..., None]
    shade = (0.80 + 0.30 * np.clip((light - 60.0) / 195.0, 0.0, 1.0))[..., None]
    return fill * np.minimum(shade, 1.0), fill * np.maximum(shade - 1.0, 0.0), rgb * (1.0 - fill)


def paint(colour: str, dim: Floats, lift: Floats, kept: Floats) -> Floats:
    """RGB in 0..255, painted in a colour. Linear in the output of `shades`: means of it give the mean of the
    painted pixels."""
    target = np.array(COLOURS[colour], np.float32)
    return np.asarray(target * dim + (255.0 - target) * lift + kept, np.float32)


@lru_cache(maxsize=256)
def coloured(drawing: Drawing, colour: str | None, skewed: bool, side: int = MASTER) -> Image.Image:
    """The master in a colour; sheared upwards to the right if `skewed` (the isometric style)."""
    image = master(drawing, side)
    if colour is not None:
        pixels = np.asarray(image).astype(np.float32)
        pixels[..., :3] = paint(colour, *shades(pixels[..., :3]))
        image = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8), "RGBA")
    if skewed:
        rise = int(image.width * SKEW)
        size, matrix = (image.width, image.height + rise), (1, 0, 0, SKEW, 1, -rise)
        image = _trimmed(image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))
    return image


@lru_cache(maxsize=256)
def paper(drawing: Drawing, skewed: bool) -> Image.Image:
    """The drawing's silhouette in one piece without holes, for the sticker's paper. Has the size of
    `coloured`."""
    art = coloured(drawing, None, skewed)
    margin = MASTER // 4
    frame = Image.new("L", (art.width + 2 * margin, art.height + 2 * margin), 0)
    frame.paste(art.getchannel("A"), (margin, margin))
    mask = np.asarray(frame) > 60
    filled = ~outside(mask)
    for by in (4, 8, 14, 22, 32):  # close gaps until it is in one piece
        filled = ~outside(grow(~outside(grow(filled, by)), by, inverse=True) | mask)
        if label(filled)[1] == 1:
            break
    return Image.fromarray(filled[margin:-margin, margin:-margin].astype(np.uint8) * 255, "L")


def grow(mask: Mask, by: int, inverse: bool = False) -> Mask:
    """Dilates the mask by about a disc of radius `by`; erodes it if `inverse`."""
    image = Image.fromarray((mask ^ inverse).astype(np.uint8) * 255, "L")
    wide = np.asarray(image.filter(ImageFilter.GaussianBlur(by / 1.5))) > 14
    return np.asarray(wide ^ inverse, bool)


def sprite(drawing: Drawing, colour: str | None, skewed: bool, longer: int, rim: int) -> Image.Image:
    """The sticker from `_cut`, cached unless it is large, so that the cache stays under about 300 MB."""
    return (_cached if longer <= _CACHED else _cut)(drawing, colour, skewed, longer, rim)


def _cut(drawing: Drawing, colour: str | None, skewed: bool, longer: int, rim: int) -> Image.Image:
    """Makes the sticker, RGBA: the drawing with a longer side of `longer` pixels, and `rim` pixels of white
    on each side."""
    art = coloured(drawing, colour, skewed)
    factor = longer / max(art.size)
    size = (max(8, round(art.width * factor)), max(8, round(art.height * factor)))
    sheet = Image.new("RGBA", (size[0] + 2 * rim, size[1] + 2 * rim), (255, 255, 255, 255))
    sheet.alpha_composite(art.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0), (rim, rim))
    cut = Image.new("L", sheet.size, 0)
    cut.paste(paper(drawing, skewed).resize(size, Image.Resampling.BILINEAR), (rim, rim))
    wide = cut.filter(ImageFilter.GaussianBlur(rim / 1.6)).point(lambda v: 255 if v > 14 else 0)
    sheet.putalpha(wide.filter(ImageFilter.GaussianBlur(0.8)))
    return sheet


_cached = lru_cache(maxsize=320)(_cut)
