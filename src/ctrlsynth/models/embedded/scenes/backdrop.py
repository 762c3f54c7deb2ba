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
    at, colours = zip(*_STOPS[place or ""], strict=True)
    lit = np.array(colours, np.float32) + np.float32(rng.uniform(-8, 8))  # varies from picture to picture
    rows = np.linspace(0, 1, height, dtype=np.float32)
    column = np.stack([np.interp(rows, at, channel) for channel in lit.T], -1).astype(np.float32)
    picture = column[:, None, :].repeat(width, 1)
    if not place:
        picture = picture + np.array([rng.uniform(-26, 26) for _ in range(3)], np.float32)
    picture = _relief(picture, place, rng)
    for kind in weather:
        if kind in _LIGHT:
            picture = _blend(picture, *_LIGHT[kind])
        elif kind == "sunny":
            picture = _glow(picture, (0.86, 0.1), (238, 214, 130), 0.55)
    if "rain" in weather or "snowfall" in weather:
        picture = _falling(picture, "rain" in weather, rng)
    if "night" in weather:
        picture = _glow(picture, (0.8, 0.14), (150, 160, 190), 0.5)
    return np.clip(_styled(picture, style, rng), 16, 226)


def to_image(pixels: Floats) -> Image.Image:
    """RGB in 0..255 as an image; values outside are clipped, fractions dropped."""
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def saturated(picture: Floats, factor: float) -> Floats:
    """Multiplies the distance of each pixel from its gray."""
    mean = picture.mean(-1, keepdims=True)
    return np.asarray(mean + (picture - mean) * factor, np.float32)


def _blend(picture: Floats, colour: RGB, share: float | NDArray[np.floating]) -> Floats:
    return np.asarray(picture * (1 - share) + np.array(colour, np.float32) * share, np.float32)


def _relief(picture: Floats, place: str | None, rng: np.random.Generator) -> Floats:
    """Adds the soft shapes of a place: hills, house fronts, trunks, clouds."""
    if place not in ("field", "street", "forest", "desert", "snow", "sky", "beach"):
        return picture
    height, width = picture.shape[:2]
    image = to_image(picture)
    draw = ImageDraw.Draw(image)

    def scaled(left: float, top: float, right: float, bottom: float) -> list[float]:
        return [left * width, top * height, right * width, bottom * height]

    def toned(y: float, least: float, most: float) -> tuple[int, ...]:
        """The colour in the middle of a row, by chance lighter or darker."""
        by = rng.uniform(least, most)
        return tuple(int(np.clip(c + by, 20, 225)) for c in picture[int(y * height), width // 2])

    if place == "street":
        x = -0.02
        while x < 1:
            wide, high = rng.uniform(0.1, 0.2), rng.uniform(0.14, 0.42)
            draw.rectangle(scaled(x, 0.60 - high, x + wide, 0.60), toned(0.45, -52, -24))
            x += wide + rng.uniform(0.0, 0.04)
    elif place == "forest":
        for _ in range(9):
            x, wide = rng.uniform(0, 1), rng.uniform(0.02, 0.05)
            draw.rectangle(scaled(x, 0, x + wide, rng.uniform(0.5, 0.62)), toned(0.4, -34, -14))
    elif place in ("field", "desert", "snow"):
        for _ in range(3):
            x, wide, high = rng.uniform(0, 1), rng.uniform(0.3, 0.6), rng.uniform(0.06, 0.14)
            draw.ellipse(scaled(x - wide, 0.47 - high, x + wide, 0.47 + high), toned(0.52, -14, 10))
        foot = int(0.52 * height)
        image.paste(to_image(picture[foot:]), (0, foot))
    if place in ("sky", "field", "beach"):
        for _ in range(4):
            lowest = 0.85 if place == "sky" else 0.25
            x, y, wide = rng.uniform(0, 1), rng.uniform(0.03, lowest), rng.uniform(0.06, 0.16)
            draw.ellipse(scaled(x - wide, y - wide / 4, x + wide, y + wide / 4), (206, 218, 226))
    return _blurred(image, max(1.5, 0.008 * min(width, height)))


def _blurred(image: Image.Image, radius: float) -> Floats:
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32)


def _glow(picture: Floats, centre: tuple[float, float], colour: RGB, strength: float) -> Floats:
    height, width = picture.shape[:2]
    y, x = np.ogrid[0:height, 0:width]
    away = ((x / width - centre[0]) ** 2 + (y / height - centre[1]) ** 2).astype(np.float32)
    return _blend(picture, colour, (strength * np.exp(-away / 0.03))[..., None])


def _falling(picture: Floats, rain: bool, rng: np.random.Generator) -> Floats:
    """Adds streaks of rain or flakes of snow, blue-grey rather than white."""
    height, width = picture.shape[:2]
    mask = Image.new("L", (width, height), 0)
    draw, unit = ImageDraw.Draw(mask), min(width, height) / 100
    radius = max(1.0, 0.8 * unit)
    for x, y in rng.uniform(0, 1, (130, 2)) * (width, height):
        if rain:
            draw.line([x, y, x - 1.4 * unit, y + 5 * unit], fill=255, width=max(1, round(0.4 * unit)))
        else:
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    share = np.asarray(mask, np.float32)[..., None] / 255 * (0.5 if rain else 0.75)
    return _blend(picture, (164, 186, 210) if rain else (198, 212, 224), share)


def _styled(picture: Floats, style: str, rng: np.random.Generator) -> Floats:
    height, width = picture.shape[:2]
    short = min(width, height)
    if style in ("real", "cinematic"):  # discs of light out of focus
        discs = Image.new("L", (width, height), 0)
        draw = ImageDraw.Draw(discs)
        for x, y, r in rng.uniform(0, 1, (14, 3)):
            x, y, r = x * width, y * 0.7 * height, (0.02 + 0.05 * r) * short
            draw.ellipse([x - r, y - r, x + r, y + r], fill=int(rng.integers(40, 110)))
        tone, depth = ((214, 206, 178), 0.34) if style == "real" else ((210, 168, 110), 0.5)
        picture = _blend(picture, tone, _blurred(discs, 0.012 * short)[..., None] / 255)
        return _vignette(_blurred(to_image(picture), 0.012 * short), depth)
    if style == "isometric":
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        cell = short / 9
        tiles = (np.floor((x / 2 + y) / cell) + np.floor((y - x / 2) / cell)) % 2
        return _blurred(to_image(picture + (tiles * 12 - 6)[..., None]), 1)
    if style == "art":
        coarse = rng.normal(0, 16, (max(2, height // 10), max(2, width // 28))).astype(np.float32)
        strokes = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 3, (height, width, 1)).astype(np.float32)
        return picture + np.asarray(strokes, np.float32)[..., None] + grain
    if style == "enhance":
        return _glow(saturated(picture, 1.25), (0.5, 0.35), (226, 206, 150), 0.3)
    return _vignette(saturated(picture, 1.2), 0.18) if style == "quality" else picture


def _vignette(picture: Floats, depth: float) -> Floats:
    height, width = picture.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1 - depth * np.clip((x * x + y * y) / 2, 0, 1)
    return np.asarray(picture * light[..., None].astype(np.float32), np.float32)
