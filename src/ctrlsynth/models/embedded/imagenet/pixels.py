"""Attributes of a picture's pixels, for the `imagenet` tagger (2a): dominant colours, brightness, black and
white.

They describe the whole picture, so they are bare (`red`, never `red ball`): a classifier does not know where
its object is. The thresholds prefer to say a word too rarely rather than wrongly."""

import colorsys
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS = ("black", "gray", "white", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
_GRAYS = 3  # the first three have no hue
_SHARE = 0.25  # least share of the pixels of a dominant colour
_GRAY_SHARE = 0.5  # and of black, gray or white, which shadows and skies have too
_MOST = 2
_DARK, _BRIGHT = 0.2, 0.75  # mean luma
_STEP = 4  # every fourth pixel in both directions is sampled
_NEUTRAL = 12  # greatest minus least channel, 0..255, of a pixel without colour
_CONTRAST = 0.05  # standard deviation of luma below which a gray surface is no black-and-white picture
_LUMA = np.array([0.299, 0.587, 0.114], np.float32) / 255


def colour_of(red: int, green: int, blue: int) -> str:
    """The basic colour term of one pixel (0..255 per channel), by hue, saturation and value."""
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    hue, value = round(360 * hue, 6), value / 255
    if value < 0.2:
        return "black"
    if saturation < 0.15 or max(red, green, blue) - min(red, green, blue) < 24:
        return "white" if value > 0.85 else "gray" if value > 0.25 else "black"
    if hue < 14 or hue >= 346:
        return "pink" if saturation < 0.55 and value > 0.75 else "red" if saturation > 0.5 else "brown"
    if hue < 45:
        return "orange" if saturation > 0.6 and value > 0.65 else "brown"
    bands = ((70, "yellow"), (165, "green"), (258, "blue"), (305, "purple"))
    return next((name for limit, name in bands if hue < limit), "pink" if value > 0.5 else "purple")


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint8]:
    """`colour_of` for the middle of each of 16 x 16 x 16 cells, so that a pixel costs one look-up."""
    return np.array(
        [COLOURS.index(colour_of(*cell)) for cell in product(range(8, 256, 16), repeat=3)], np.uint8
    )


def attributes(pixels: NDArray[Any]) -> tuple[str, ...]:
    """Attributes of a picture (uint8 [height, width, 3], RGB): at most two dominant colours (largest share
    first) or `black and white`, then `dark` or `bright`."""
    sample = pixels[::_STEP, ::_STEP].reshape(-1, 3)
    luma = sample @ _LUMA
    cells = sample.astype(np.uint16) >> 4
    of_pixel = _table()[(cells[:, 0] << 8) | (cells[:, 1] << 4) | cells[:, 2]]
    counts = np.bincount(of_pixel, minlength=len(COLOURS))
    least = [_GRAY_SHARE * len(sample)] * _GRAYS + [_SHARE * len(sample)] * (len(COLOURS) - _GRAYS)
    order = np.argsort(-counts, kind="stable")[:_MOST]
    words = [COLOURS[index] for index in order if counts[index] >= least[index]]
    # 99% of the pixels look gray: JPEG adds a little colour to gray
    spread = sample.max(axis=1) - sample.min(axis=1)
    gray = np.count_nonzero(spread > _NEUTRAL) < 0.01 * len(sample)
    if gray and counts[:_GRAYS].sum() > 0.95 * len(sample) and float(luma.std()) > _CONTRAST:
        words = ["black and white"]
    mean = float(luma.mean())
    if mean < _DARK or mean > _BRIGHT:
        words.append("dark" if mean < _DARK else "bright")
    return tuple(words)
