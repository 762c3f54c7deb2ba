"""Paints the backgrounds of `scenes` (2c): places, weather and a style's light, all smooth and in mid-tones.

Nothing here is pure white or black, because rims are white and lines are black: a tagger can tell drawings
from background."""

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]
RGB = tuple[int, int, int]
# place -> colour stops from the top of the picture (0) to its bottom (1)
_STOPS: MappingProxyType[str, tuple[tuple[float, RGB], ...]] = MappingProxyType(
    {
        "beach": ((0.0, (112, 176, 220)), (0.40, (170, 208, 226)), (0.43, (58, 140, 178)), (0.58, (88, 172,
        186)),
                  (0.62, (214, 192, 146)), (1.0, (204, 172, 118))),
        "sea": ((0.0, (118, 176, 216)), (0.34, (176, 208, 224)), (0.37, (46, 124, 172)), (1.0, (26, 84,
        136))),
        "field": ((0.0, (120, 182, 224)), (0.42, (182, 212, 222)), (0.47, (124, 176, 92)), (1.0, (78, 138,
        62))),
        "street": ((0.0, (150, 182, 208)), (0.40, (190, 202, 210)), (0.60, (160, 160, 164)), (0.63, (124,
        126, 132)), (1.0, (96, 98, 106))),
        "snow": ((0.0, (132, 168, 204)), (0.42, (178, 198, 216)), (0.48, (204, 214, 222)), (1.0, (176, 194,
        212))),
        "forest": ((0.0, (98, 146, 112)), (0.35, (62, 112, 74)), (0.55, (74, 120, 66)), (1.0, (72, 92, 52))),
        "desert": ((0.0, (128, 178, 210)), (0.42, (204, 206, 190)), (0.47, (214, 178, 116)), (1.0, (192, 144,
        84))),
        "sky": ((0.0, (84, 152, 214)), (1.0, (168, 206, 226))),
        "room": ((0.0, (206, 190, 168)), (0.66, (198, 180, 156)), (0.675, (138, 106, 80)), (1.0, (156, 122,
        92))),
        "": ((0.0, (164, 188, 190)), (1.0, (136, 164, 168))),
    }
)  # fmt: skip
_LIGHT: MappingProxyType[str, tuple[RGB, float]] = MappingProxyType(
    {
        "night": ((30, 40, 84), 0.66),
        "sunset": ((226, 120, 70), 0.46),
        "fog": ((178, 184, 188), 0.55),
        "cloudy": ((148, 154, 162), 0.42),
        "rain": ((110, 124, 142), 0.42),
    }
)


def backdrop(
    size: tuple[int, int], place: str | None, weather: list[str], style: str, rng: np.random.Generator
) -> Floats:
    """Returns the empty scene: RGB in 0..255, shape (height, width, 3)."""
    width, height = size
    picture = _stops(height, place or "", rng)[:, None, :].repeat(width, 1)
    if not place:
        tint = np.array([rng.uniform(-26, 26) for _ in range(3)], np.float32)
        picture = picture + tint
    picture = _relief(picture, place, rng)
    for kind in weather:
        if kind in _LIGHT:
            tone, share = _LIGHT[kind]
            picture = picture * (1 - share) + np.array(tone, np.float32) * share
        elif kind == "sunny":
            picture = _glow(picture, (0.86, 0.1), (238, 214, 130), 0.55)
    if "rain" in weather or "snowfall" in weather:
        picture = _falling(picture, "rain" in weather, rng)
    if "night" in weather:
        picture = _glow(picture, (0.8, 0.14), (150, 160, 190), 0.5)
    return np.asarray(_styled(picture, style, rng), np.float32)


def _stops(height: int, place: str, rng: np.random.Generator) -> Floats:
    """One column of the place's colours; brightness varies a little from picture to picture."""
    at, colours = zip(*_STOPS[place], strict=True)
    rows = np.linspace(0, 1, height, dtype=np.float32)
    lit = np.array(colours, np.float32) + np.float32(rng.uniform(-8, 8))
    return np.stack([np.interp(rows, at, lit[:, c]) for c in range(3)], -1).astype(np.float32)


def _relief(picture: Floats, place: str | None, rng: np.random.Generator) -> Floats:
    """Adds the soft shapes of a place: hills, house fronts, trunks, clouds."""
    height, width = picture.shape[:2]
    if place not in ("field", "street", "forest", "desert", "snow", "sky", "beach"):
        return picture
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)

    def toned(x: float, y: float, by: float) -> RGB:
        base = picture[min(height - 1, max(0, int(y * height))), min(width - 1, max(0, int(x * width)))]
        r, g, b = (int(np.clip(c + by, 20, 225)) for c in base)
        return r, g, b

    if place == "street":
        x = -0.02
        while x < 1:
            wide, high = rng.uniform(0.1, 0.2), rng.uniform(0.14, 0.42)
            draw.rectangle(
                [x * width, (0.60 - high) * height, (x + wide) * width, 0.60 * height],
                fill=toned(0.5, 0.45, rng.uniform(-52, -24)),
            )
            x += wide + rng.uniform(0.0, 0.04)
    elif place == "forest":
        for _ in range(9):
            x, wide = rng.uniform(0, 1), rng.uniform(0.02, 0.05)
            draw.rectangle(
                [x * width, 0, (x + wide) * width, rng.uniform(0.5, 0.62) * height],
                fill=toned(0.5, 0.4, rng.uniform(-34, -14)),
            )
    elif place in ("field", "desert", "snow"):
        for _ in range(3):
            x, wide, high = rng.uniform(0, 1), rng.uniform(0.3, 0.6), rng.uniform(0.06, 0.14)
            draw.ellipse(
                [(x - wide) * width, (0.47 - high) * height, (x + wide) * width, (0.47 + high) * height],
                fill=toned(0.5, 0.52, rng.uniform(-14, 10)),
            )
        below = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).crop(
            (0, int(0.52 * height), width, height)
        )
        image.paste(below, (0, int(0.52 * height)))
    if place in ("sky", "field", "beach"):
        for _ in range(4):
            lowest = 0.85 if place == "sky" else 0.25
            x, y, wide = rng.uniform(0, 1), rng.uniform(0.03, lowest), rng.uniform(0.06, 0.16)
            draw.ellipse(
                [(x - wide) * width, (y - wide / 4) * height, (x + wide) * width, (y + wide / 4) * height],
                fill=(206, 218, 226),
            )
    blur = ImageFilter.GaussianBlur(max(1.5, 0.008 * min(width, height)))
    return np.asarray(image.filter(blur), np.float32)


def _glow(picture: Floats, centre: tuple[float, float], colour: RGB, strength: float) -> Floats:
    height, width = picture.shape[:2]
    y, x = np.ogrid[0:height, 0:width]
    away = ((x / width - centre[0]) ** 2 + (y / height - centre[1]) ** 2).astype(np.float32)
    share = (strength * np.exp(-away / 0.03))[..., None]
    return np.asarray(picture * (1 - share) + np.array(colour, np.float32) * share, np.float32)


def _falling(picture: Floats, rain: bool, rng: np.random.Generator) -> Floats:
    """Adds streaks of rain or flakes of snow, blue-grey rather than white."""
    height, width = picture.shape[:2]
    mask = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(mask)
    unit = min(width, height) / 100
    for x, y in rng.uniform(0, 1, (130, 2)):
        px, py = x * width, y * height
        if rain:
            draw.line([px, py, px - 1.4 * unit, py + 5 * unit], fill=255, width=max(1, round(0.4 * unit)))
        else:
            r = max(1.0, 0.8 * unit)
            draw.ellipse([px - r, py - r, px + r, py + r], fill=255)
    share = np.asarray(mask, np.float32)[..., None] / 255 * (0.5 if rain else 0.75)
    tone = np.array((164, 186, 210) if rain else (198, 212, 224), np.float32)
    return np.asarray(picture * (1 - share) + tone * share, np.float32)


def _styled(picture: Floats, style: str, rng: np.random.Generator) -> Floats:
    """Applies a style to the background alone."""
    height, width = picture.shape[:2]
    short = min(width, height)
    if style in ("real", "cinematic"):
        discs = Image.new("L", (width, height), 0)
        draw = ImageDraw.Draw(discs)
        for x, y, r in rng.uniform(0, 1, (14, 3)):
            r = (0.02 + 0.05 * r) * short
            draw.ellipse(
                [x * width - r, y * 0.7 * height - r, x * width + r, y * 0.7 * height + r],
                fill=int(rng.integers(40, 110)),
            )
        soft = np.asarray(discs.filter(ImageFilter.GaussianBlur(0.012 * short)), np.float32)[..., None] / 255
        tone = np.array((214, 206, 178) if style == "real" else (210, 168, 110), np.float32)
        picture = np.asarray(picture * (1 - soft) + tone * soft, np.float32)
        image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(0.012 * short)
        )
        picture = _vignette(np.asarray(image, np.float32), 0.34 if style == "real" else 0.5)
    elif style == "isometric":
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        cell = short / 9
        tiles = (np.floor((x / 2 + y) / cell) + np.floor((y - x / 2) / cell)) % 2
        image = Image.fromarray(np.clip(picture + (tiles * 12 - 6)[..., None], 0, 255).astype(np.uint8))
        picture = np.asarray(image.filter(ImageFilter.GaussianBlur(1)), np.float32)
    elif style == "art":
        coarse = rng.normal(0, 16, (max(2, height // 10), max(2, width // 28))).astype(np.float32)
        strokes = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 3, (height, width, 1)).astype(np.float32)
        picture = picture + np.asarray(strokes, np.float32)[..., None] + grain
    elif style in ("enhance", "quality"):
        mean = picture.mean(-1, keepdims=True)
        picture = mean + (picture - mean) * (1.25 if style == "enhance" else 1.2)
        if style == "enhance":
            picture = _glow(picture, (0.5, 0.35), (226, 206, 150), 0.3)
        else:
            picture = _vignette(picture, 0.18)
    return np.asarray(np.clip(picture, 16, 226), np.float32)


def _vignette(picture: Floats, depth: float) -> Floats:
    height, width = picture.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1 - depth * np.clip((x * x + y * y) / 2, 0, 1)
    return np.asarray(picture * light[..., None].astype(np.float32), np.float32)
