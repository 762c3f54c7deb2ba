"""Images in and out: every odd file that photo collections hold, made for real."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from ctrlsynth.data.images import MAX_PIXELS, ImageFault, decode, encode, probe


def _bytes(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _photo(width: int = 48, height: int = 32) -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def _bomb(width: int, height: int) -> bytes:
    """A small PNG whose header promises width x height pixels."""
    whole = _bytes(_photo(), "PNG")
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def fault_of(call: Callable[[], object]) -> str:
    """The reason why an image cannot be used."""
    with pytest.raises(ImageFault) as fault:
        call()
    return fault.value.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_common_formats(format: str) -> None:
    data = _bytes(_photo(), format)
    assert probe(data) == (48, 32)
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (48, 32))
    assert np.abs(np.asarray(image, float) - np.asarray(_photo(), float)).mean() < 8


def test_cmyk_keeps_its_colours() -> None:
    red = Image.new("RGB", (16, 16), (220, 20, 20)).convert("CMYK")
    for format in ("JPEG", "TIFF"):
        r, g, b = decode(_bytes(red, format)).getpixel((8, 8))  # type: ignore[misc]
        assert r > 180 > 70 > max(g, b)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = (np.arange(256, dtype=np.uint32) * 257).astype(np.uint16)
    data = _bytes(Image.fromarray(np.tile(ramp, (4, 1))), "PNG")
    assert np.array_equal(np.asarray(decode(data))[0, :, 0], np.arange(256))


def _palette() -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return image


@pytest.mark.parametrize(
    ("image", "format", "options", "colour"),
    [
        (Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF", {}, (128, 128, 128)),
        (Image.new("1", (4, 4), 1), "PNG", {}, (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG", {}, (255, 255, 255)),  # alpha lies over white
        (Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG", {}, (127, 127, 127)),
        (Image.new("LA", (4, 4), (0, 0)), "PNG", {}, (255, 255, 255)),
        (_palette(), "PNG", {}, (10, 200, 30)),
        (_palette(), "PNG", {"transparency": 1}, (255, 255, 255)),
    ],
    ids=["float", "bilevel", "clear", "half clear", "gray alpha", "palette", "clear palette"],
)
def test_other_modes(image: Image.Image, format: str, options: dict[str, Any], colour: Any) -> None:
    assert decode(_bytes(image, format, **options)).getpixel((1, 1)) == colour


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_turns_size_and_pixels(format: str) -> None:
    image = Image.new("RGB", (40, 20), "white")
    # left half red; after a quarter turn to the right it is the top half
    image.paste((200, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _bytes(image, format, exif=exif)
    upright = decode(data)
    assert probe(data) == upright.size == (20, 40)
    top, bottom = upright.getpixel((10, 5)), upright.getpixel((10, 35))
    assert top[0] > 150 > 60 > top[1]  # type: ignore[index]
    assert min(bottom) > 200  # type: ignore[arg-type]


def test_bombs_fall_at_the_header() -> None:
    assert MAX_PIXELS < 12_000**2
    for data in (_bomb(12_000, 12_000), _bomb(60_000, 60_000)):
        assert {fault_of(partial(probe, data)), fault_of(partial(decode, data))} == {"image_too_large"}
    assert probe(_bomb(1000, 1000)) == (1000, 1000)
    assert fault_of(lambda: decode(_bytes(_photo(), "PNG"), max_pixels=100)) == "image_too_large"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_cut_is_a_fault_or_the_whole_picture(format: str) -> None:
    data = _bytes(_photo(64, 64), format)
    whole = np.asarray(decode(data))
    reasons = set()
    for cut in range(0, len(data), max(1, len(data) // 60)):
        try:
            image = decode(data[:cut])
        except ImageFault as fault:
            reasons.add(fault.reason)
        else:  # only bytes behind the pixels may be missing
            assert np.array_equal(np.asarray(image), whole)
    assert "empty_file" in reasons
    assert reasons <= {"empty_file", "truncated_image", "corrupt_image", "not_an_image"}
    assert fault_of(lambda: decode(data[: len(data) * 2 // 3])) == "truncated_image"


def test_what_is_no_image() -> None:
    files = [b"", b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
    reasons = [fault_of(partial(probe, data)) for data in files]
    assert reasons == ["empty_file", "not_an_image", "not_an_image"]


def test_flipped_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        good = np.frombuffer(_bytes(_photo(32, 32), format), np.uint8)
        for _ in range(60):
            data = good.copy()
            data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            try:
                seen.add(decode(data.tobytes(), max_pixels=1_000_000).mode)
            except ImageFault as fault:
                seen.add(fault.reason)
    assert (
        {"RGB", "corrupt_image"}
        <= seen
        <= {"RGB", "not_an_image", "truncated_image", "corrupt_image", "image_too_large"}
    )


def test_encode_is_deterministic_and_bare() -> None:
    photo = _photo()
    photo.info["exif"] = b"Exif\0\0secret"
    formats: tuple[Literal["jpeg", "png", "webp"], ...] = ("jpeg", "png", "webp")
    for format in formats:
        data = encode(photo, format, 90)
        assert (data, probe(data)) == (encode(photo.copy(), format, 90), (48, 32))
        assert b"secret" not in data
    assert np.array_equal(np.asarray(decode(encode(photo, "png"))), np.asarray(photo))
    assert len(encode(photo, "jpeg", 30)) < len(encode(photo, "jpeg", 95))
    assert decode(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "png")).getpixel((0, 0)) == (255, 255, 255)
