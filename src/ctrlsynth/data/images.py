"""The only decoder of images (1a, 1c): reads headers, decodes any mode to RGB, encodes deterministically.

All faults are `ImageFault` with a short stable reason for the ledger.
"""

import contextlib
import io
import struct
import warnings
import zlib
from typing import Any, Literal

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused by their header, before any memory is spent (Pillow's own limit: 256 MB
as RGB)."""

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm"})
"""Suffixes of files that are images, in lower case."""

# What matters becomes a reason; Pillow's warnings (large images, odd EXIF data) would only be printed between
# the progress lines.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")

# No format that runs an interpreter (EPS, PDF) or reads other files.
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF", "JPEG2000", "PPM", "ICO")
_SUFFIXES = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
# What Pillow's decoders raise on broken data.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
# Words of Pillow's errors for files that end early.
_SHORT = ("truncated", "premature", "end of", "not enough", "unexpected eof")


class ImageFault(Exception):
    """These bytes are not a usable image. `reason`: empty_file, not_an_image, truncated_image, corrupt_image,
    image_too_large."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


def suffix_of(data: bytes) -> str | None:
    """The suffix by which trainers know the format of an encoded image: jpg, png or webp; None for others."""
    found = next((suffix for magic, suffix in _SUFFIXES if data.startswith(magic)), None)
    return None if found == "webp" and data[8:12] != b"WEBP" else found


def _open(data: bytes, max_pixels: int) -> Any:
    if not data:
        raise ImageFault("empty_file")
    Image.init()
    try:
        image = Image.open(io.BytesIO(data), formats=[name for name in _WANTED if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise ImageFault("image_too_large", str(error)) from error
    except UnidentifiedImageError as error:
        known = data.startswith(_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        raise ImageFault("truncated_image" if known else "not_an_image") from error
    except _BROKEN as error:
        raise ImageFault(_reason(error, data), str(error)) from error
    if image.width * image.height > max_pixels:
        raise ImageFault("image_too_large", f"{image.width} x {image.height} pixels, at most {max_pixels}")
    return image


def probe(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) in pixels as displayed (EXIF rotation counted in), from the header alone. Raises
    ImageFault."""
    image = _open(data, max_pixels)
    width, height = image.size
    # Pillow decodes a PNG to look for EXIF data behind the pixels; what comes before them is in
    # `info` already.
    if image.format not in ("PNG", "TIFF") or "exif" in image.info:
        with contextlib.suppress(*_BROKEN):
            if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                return height, width
    return width, height


def decode(data: bytes, max_pixels: int = MAX_PIXELS, longest: int | None = None) -> Image.Image:
    """The image as RGB, 8 bits, upright. The first frame of an animation; alpha over white; 16 bits scaled to
    8; CMYK converted.

    `longest`: an image whose longer edge has more pixels is reduced to it, a JPEG already while it is
    decoded. Raises ImageFault; a file that ends early is `truncated_image` and never a partial image."""
    image = _open(data, max_pixels)
    try:
        if longest is not None:
            image.draft(
                "RGB", (longest, longest)
            )  # a JPEG's own halves: at least that large, and it keeps CMYK as it is
        image.load()
        with contextlib.suppress(*_BROKEN):  # broken EXIF data; the pixels are sound
            image = ImageOps.exif_transpose(image)
        upright = _to_rgb(image)
        if longest is not None and max(upright.size) > longest:
            upright.thumbnail((longest, longest), Image.Resampling.BICUBIC, reducing_gap=2.0)
        return upright
    except Image.DecompressionBombError as error:
        raise ImageFault("image_too_large", str(error)) from error
    except _BROKEN as error:
        raise ImageFault(_reason(error, data), str(error)) from error


def _reason(error: Exception, data: bytes) -> str:
    text = str(error).lower()
    short = isinstance(error, EOFError) or any(w in text for w in _SHORT) or _ends_early(data)
    return "truncated_image" if short else "corrupt_image"


def _ends_early(data: bytes) -> bool:
    """Returns whether an undecodable file is truncated, by the format's end marker or declared length."""
    if data.startswith(_MAGIC[0]):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda") or b"\xff\xda" not in data
    if data.startswith(_MAGIC[1]):
        return b"IEND" not in data[-64:]
    if data.startswith(b"GIF8"):
        return data.rstrip(b"\0")[-1:] != b";"
    return data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data)


def _to_rgb(image: Any) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return (
            Image.frombytes("RGB", image.size, image.tobytes()) if type(image) is not Image.Image else image
        )
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_gray(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    converted: Image.Image = image.convert("RGB")
    return converted


def _to_gray(image: Any) -> Any:
    """Wide or floating gray values as 8 bits: 16-bit files by 257, floats in 0..1 by 255, other ranges
    stretched."""
    import numpy as np

    values = np.asarray(image, dtype=np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if image.mode == "F":
        values = values * 255 if low >= 0 and high <= 1 else (values - low) * (255 / max(high - low, 1e-12))
    elif high > 65535 or low < 0:
        values = (values - low) * (255 / max(high - low, 1e-12))
    elif image.mode.startswith("I;16") or high > 255:
        values = values / 257
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, format: Literal["jpeg", "png", "webp"] = "jpeg", quality: int = 92) -> bytes:
    """The image's file bytes, the same for the same pixels and the same library; no metadata. `quality`
    1..100 for jpeg and webp."""
    if image.mode != "RGB":
        image = _to_rgb(image)
    out = io.BytesIO()
    bare = Image.frombytes(
        "RGB", image.size, image.tobytes()
    )  # without EXIF and ICC, which save() would copy
    options: dict[str, dict[str, Any]] = {
        "jpeg": {"quality": quality, "subsampling": "4:2:0", "optimize": False, "progressive": False},
        "png": {"compress_level": 6},
        "webp": {"quality": quality, "method": 4},
    }
    bare.save(out, format.upper(), **options[format])
    return out.getvalue()


def shorter_edge(
    image: Image.Image, edge: int, method: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """The image with its shorter edge at `edge` pixels, enlarged or reduced; the longer one rounded down."""
    width, height = image.size
    if min(width, height) == edge:
        return image
    size = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
    return image.resize(size, method)


def open_image(data: bytes, edge: int | None) -> Image.Image:
    """The image as RGB, its shorter edge at `edge` pixels if given. A much larger JPEG is already reduced
    while it is decoded, to no less than twice that edge. Raises ImageFault."""
    if edge is None:
        return decode(data)
    width, height = probe(data)
    longest = (
        round(max(width, height) * 2 * edge / min(width, height)) if min(width, height) > 4 * edge else None
    )
    return shorter_edge(decode(data, longest=longest), edge)
