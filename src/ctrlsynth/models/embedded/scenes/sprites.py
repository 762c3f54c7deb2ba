"""Drawings as pixels, for `scenes` (2c) and for the labelled folder of `reference` (2a): rendered, trimmed,
recoloured, cut out.

A sprite is a drawing with a white rim, as a sticker has: the rim parts it from the background and from what
it covers."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..regions import Mask, label, outside
from .vocabulary import COLOURS, Drawing, svg

_REMEMBERED = 320  # pixels: larger stickers are made anew each time
MASTER = 240  # pixels of the longer side that sized sprites are made from
SKEW = 0.16  # the isometric style's rise over run
Floats = NDArray[np.float32]


@lru_cache(maxsize=256)
def master(drawing: Drawing, side: int = MASTER) -> Image.Image:
    """The drawing alone, RGBA, trimmed to what is inked; `side` pixels is the side of its full square."""
    image = _from_file(drawing.file, side) if drawing.file is not None else _from_svg(drawing, side)
    box = image.getchannel("A").point(lambda a: 255 if a > 40 else 0).getbbox()
    return image.crop(box) if box else image


def _from_file(path: Path, side: int) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)


def _from_svg(drawing: Drawing, side: int) -> Image.Image:
    data = resvg_py.svg_to_bytes(svg_string=svg(drawing), width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(data))).convert("RGBA")


def recolour(rgb: Floats, *colours: str) -> list[Floats]:
    """RGB in 0..255, shape (..., 3), once for each colour: every filled area in its shades, lines (dark) as
    they are.

    Shades keep the order of the old brightnesses, squeezed to 0.80 .. 1.10 of the colour's own, so that the
    colour is plain to see."""
    dim, lift, kept = shades(rgb)
    return [paint(colour, dim, lift, kept) for colour in colours]


def shades(rgb: Floats) -> tuple[Floats, Floats, Floats]:
    """What `paint` needs to recolour: (..., 1) share of the colour, (..., 1) share of its complement, (...,
    3) what stays."""
    light = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    fill = np.clip((light - 40.0) / 35.0, 0.0, 1.0)[..., None]
    shade = (0.80 + 0.30 * np.clip((light - 60.0) / 195.0, 0.0, 1.0))[..., None]
    return fill * np.minimum(shade, 1.0), fill * np.maximum(shade - 1.0, 0.0), rgb * (1.0 - fill)


def paint(colour: str, dim: Floats, lift: Floats, kept: Floats) -> Floats:
    """RGB in 0..255 in a colour. Linear in what `shades` gives, so means of those give the mean of the
    painted pixels."""
    target = np.array(COLOURS[colour], np.float32)
    return np.asarray(target * dim + (255.0 - target) * lift + kept, np.float32)


@lru_cache(maxsize=256)
def coloured(drawing: Drawing, colour: str | None, skewed: bool, side: int = MASTER) -> Image.Image:
    """The master in a colour, and sheared upwards to the right when `skewed` (the isometric style)."""
    image = master(drawing, side)
    if colour is not None:
        pixels = np.asarray(image).astype(np.float32)
        pixels[..., :3] = recolour(pixels[..., :3], colour)[0]
        image = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8), "RGBA")
    if skewed:
        rise = int(image.width * SKEW)
        size = (image.width, image.height + rise)
        image = image.transform(
            size, Image.Transform.AFFINE, (1, 0, 0, SKEW, 1, -rise), Image.Resampling.BICUBIC
        )
        box = image.getchannel("A").point(lambda a: 255 if a > 40 else 0).getbbox()
        image = image.crop(box) if box else image
    return image


@lru_cache(maxsize=256)
def paper(drawing: Drawing, skewed: bool) -> Image.Image:
    """The drawing's silhouette as the sticker's paper needs it: one piece, without holes. As large as
    `coloured` gives the drawing."""
    art = coloured(drawing, None, skewed)
    margin = MASTER // 4
    frame = Image.new("L", (art.width + 2 * margin, art.height + 2 * margin), 0)
    frame.paste(art.getchannel("A"), (margin, margin))
    mask = np.asarray(frame) > 60
    filled = ~outside(mask)
    for by in (4, 8, 14, 22, 32):  # close gaps until it is one piece
        filled = ~outside(grow(~outside(grow(filled, by)), by, inverse=True) | mask)
        if label(filled)[1] == 1:
            break
    return Image.fromarray(filled[margin:-margin, margin:-margin].astype(np.uint8) * 255, "L")


def grow(mask: Mask, by: int, inverse: bool = False) -> Mask:
    """The mask dilated by about a disc of radius `by` (its complement when `inverse`, which erodes it)."""
    image = Image.fromarray((mask ^ inverse).astype(np.uint8) * 255, "L")
    wide = np.asarray(image.filter(ImageFilter.GaussianBlur(by / 1.5))) > 14
    return np.asarray(wide ^ inverse, bool)


def sprite(drawing: Drawing, colour: str | None, skewed: bool, longer: int, rim: int) -> Image.Image:
    """The sticker that `_cut` makes, remembered unless it is large: the memory stays under about 300 MB at
    any size of picture."""
    return (_kept if longer <= _REMEMBERED else _cut)(drawing, colour, skewed, longer, rim)


def _cut(drawing: Drawing, colour: str | None, skewed: bool, longer: int, rim: int) -> Image.Image:
    """The sticker: RGBA, the drawing's longer side `longer` pixels, with a white rim of `rim` pixels all
    round (so 2 * rim larger)."""
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


_kept = lru_cache(maxsize=320)(_cut)
