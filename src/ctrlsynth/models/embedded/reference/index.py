"""The labelled pictures that the `reference` tagger (2a) compares with, as features; kept in the user's
cache.

For each picture: its outline and dark lines, which survive recolouring, and its look in its own and in the
eleven basic colours. By default the pictures are OpenMoji's drawings, upright and sheared; nothing of any run
of `scenes` enters."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ....errors import UserError
from ....storage.files import remove_leftovers, replacing
from ...cache import cache_dir
from ..regions import label, outside
from ..scenes.sprites import coloured, paint, shades, sprite
from ..scenes.vocabulary import COLOURS, Drawing, drawings_digest, vocabulary
from .find import extremes, find, stickers

SIDE = 24  # shapes are taken on a SIDE x SIDE grid stretched over a thing's box
LOOK = 12  # colours on a coarser one
LOOKS = (None, *COLOURS)
_RENDERED = 120  # pixels of a drawing's square that its features are taken from
_VERSION = "8"
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Index:
    """N labelled pictures. shapes (N, 2 * SIDE * SIDE) in 0..1; looks (N, 12, LOOK, LOOK, 3) in 0..255;
    aspects: log(width / height)."""

    names: tuple[str, ...]
    shapes: Floats
    looks: Bytes
    aspects: Floats
    digest: str

    @cached_property
    def coarse(self) -> tuple[Floats, Floats]:
        """`shapes` on the LOOK x LOOK grid, (2 * LOOK * LOOK, N), and their squares."""
        small = coarsened(self.shapes)
        squares: Floats = np.multiply(small, small)
        return np.ascontiguousarray(small.T), np.ascontiguousarray(squares.T)


def shape_of(rgb: Floats, mask: Floats) -> Floats:
    """What recolouring leaves alone, from a SIDE x SIDE look (0..255) and its silhouette (0..1): lines and
    outline; 2 * SIDE * SIDE."""
    light = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    lines = np.clip((140.0 - light) / 140.0, 0.0, 1.0)
    return np.asarray(
        np.concatenate([lines.reshape(*lines.shape[:-2], -1), mask.reshape(*mask.shape[:-2], -1)], -1),
        np.float32,
    )


def coarsened(shapes: Floats) -> Floats:
    """(N, 2 * SIDE * SIDE) -> (N, 2 * LOOK * LOOK) by means of blocks."""
    step = SIDE // LOOK
    blocks = shapes.reshape(len(shapes), 2, LOOK, step, LOOK, step).mean((3, 5))
    return np.asarray(blocks.reshape(len(shapes), -1), np.float32)


def to_grid(rgb: Bytes, mask: NDArray[np.bool_], times: int = 1) -> tuple[Floats, Floats]:
    """A thing's pixels, white outside its mask, and its silhouette, both stretched to (SIDE * times)
    squared."""
    side = (SIDE * times, SIDE * times)
    on_white = np.where(mask[..., None], rgb, np.uint8(255))
    look = Image.fromarray(on_white).resize(
        side, Image.Resampling.BOX if min(mask.shape) >= 2 * side[0] else Image.Resampling.BILINEAR
    )
    cover = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        side, Image.Resampling.BOX if min(mask.shape) >= 2 * side[0] else Image.Resampling.BILINEAR
    )
    return np.asarray(look, np.float32), np.asarray(cover, np.float32) / np.float32(255)


def load_index(folder: str | None) -> Index:
    """The index of a folder of labelled pictures, or of the drawings; from the cache when it holds this very
    one."""
    return _cached(None if folder is None else str(Path(folder).resolve()), _key(folder))


@lru_cache(maxsize=2)
def _cached(folder: str | None, key: str) -> Index:
    path = cache_dir() / f"reference-{key}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
        with np.load(path, allow_pickle=False) as data:
            names = tuple(str(n) for n in data["names"])
            shapes, looks, aspects = data["shapes"].astype(np.float32) / 255, data["looks"], data["aspects"]
        if (
            str(key)
            and shapes.shape == (len(names), 2 * SIDE * SIDE)
            and looks.shape == (len(names), len(LOOKS), LOOK, LOOK, 3)
        ):
            return Index(names, np.asarray(shapes, np.float32), looks, aspects, key)
    index = _build(folder, key)
    data_out = io.BytesIO()
    np.savez(
        data_out,
        names=np.array(index.names),
        shapes=np.round(index.shapes * 255).astype(np.uint8),
        looks=index.looks,
        aspects=index.aspects,
    )
    with contextlib.suppress(OSError):  # a read-only home or a full disk costs time, never the result
        _write(path, data_out.getvalue())
    rounded = np.asarray(
        np.round(index.shapes * 255).astype(np.uint8).astype(np.float32) / 255, np.float32
    )  # as the cache gives it back
    return Index(index.names, rounded, index.looks, index.aspects, key)


def _write(path: Path, data: bytes) -> None:
    remove_leftovers(path.parent)
    with replacing(path) as made:
        made.write_bytes(data)


def _key(folder: str | None) -> str:
    """What decides the index: the version and the pictures' bytes."""
    digest = hashlib.blake2b(f"{_VERSION}\0{SIDE}".encode(), digest_size=8)
    if folder is None:
        digest.update(drawings_digest().encode())
    else:
        for name, path in _labelled(folder):
            digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _labelled(folder: str) -> list[tuple[str, Path]]:
    """(label, file) of a folder: a file's subfolder names it, or else its own name without numbers at the
    end."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(
            f"reference: folder {folder!r} is not there; give a folder with a subfolder of pictures for "
            f"each label"
        )
    found = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in _PICTURES and path.is_file():
            word = path.parent.name if path.parent != root else re.sub(r"[\s_-]*\d+$", "", path.stem)
            found.append((" ".join(re.split(r"[\s_-]+", word.lower())).strip() or path.stem, path))
    if not found:
        raise UserError(f"reference: folder {folder!r} has no pictures ({', '.join(sorted(_PICTURES))})")
    return found


def _pictures(folder: str | None) -> Iterator[tuple[str, Bytes, NDArray[np.bool_]]]:
    """(label, RGB, mask), trimmed to the thing."""
    if folder is None:
        for name, drawing in vocabulary().drawings.items():
            for skewed in (False, True):
                art = coloured(drawing, None, skewed, _RENDERED)
                white = Image.new("RGBA", art.size, (255, 255, 255, 255))
                white.alpha_composite(art)
                rgb, whole = np.asarray(white.convert("RGB")), ~outside(np.asarray(art.getchannel("A")) > 60)
                yield name, rgb, whole
                if _runs_into_paper(rgb, whole) and (seen := _as_found(drawing, skewed)) is not None:
                    yield name, *seen
        return
    for name, path in _labelled(folder):
        try:
            with Image.open(path) as image:
                image.load()
                picture = image.convert("RGBA")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UserError(
                f"reference: {path} is not a readable picture ({error}); mend or remove it"
            ) from error
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        white.alpha_composite(picture)
        rgb, alpha = np.asarray(white.convert("RGB")), np.asarray(picture.getchannel("A"))
        if alpha.min() < 128:
            box = picture.getchannel("A").point(lambda a: 255 if a > 60 else 0).getbbox() or (
                0,
                0,
                *picture.size,
            )
            yield name, rgb[box[1] : box[3], box[0] : box[2]], alpha[box[1] : box[3], box[0] : box[2]] > 60
            continue
        found = find(white.convert("RGB"))
        heap = max(found.heaps, key=lambda h: int((h.labels > 0).sum()), default=None)
        if heap is None:
            yield name, rgb, np.ones(rgb.shape[:2], bool)
        else:
            left, top, right, bottom = heap.box
            yield name, found.rgb[top:bottom, left:right], heap.labels > 0


def _runs_into_paper(rgb: Bytes, whole: NDArray[np.bool_]) -> bool:
    """Whether the region finder may see a drawing otherwise than whole: white runs into paper, or pieces lie
    apart. Cheap; errs on yes."""
    low, high = extremes(rgb)
    seen = ~outside((low <= 228) | (high - low >= 60))
    pieces = np.bincount(label(seen)[0].ravel())[1:]
    same = (seen & whole).sum() / max(1, (seen | whole).sum())
    return bool(same <= 0.96 or pieces.max(initial=0) < 0.98 * pieces.sum())


def _as_found(drawing: Drawing, skewed: bool) -> tuple[Bytes, NDArray[np.bool_]] | None:
    """The sticker as the region finder sees it, where that differs: white drawings whose line has gaps run
    into their paper."""
    sticker = sprite(drawing, None, skewed, 120, 5)
    ground = Image.new("RGB", (sticker.width + 24, sticker.height + 24), (110, 130, 140))
    ground.paste(sticker, (12, 12), sticker)
    found = stickers(np.asarray(ground), 5)
    if len(found.heaps) != 1:
        return None
    left, top, right, bottom = found.heaps[0].box
    mask = ~outside(found.heaps[0].labels > 0)
    alpha = coloured(drawing, None, skewed).getchannel("A").resize((mask.shape[1], mask.shape[0]))
    whole = ~outside(np.asarray(alpha) > 60)
    same = (mask & whole).sum() / max(1, (mask | whole).sum())
    return None if same > 0.93 else (found.rgb[top:bottom, left:right], mask)


def _build(folder: str | None, key: str) -> Index:
    names, shapes, looks, aspects = [], [], [], []
    for name, rgb, mask in _pictures(folder):
        large, cover = to_grid(rgb, mask, times=2)
        names.append(name)
        looks.append(_looks(large, cover))
        shapes.append(shape_of(_means(large, SIDE), _means(cover[..., None], SIDE)[..., 0]))
        aspects.append(np.log(mask.shape[1] / mask.shape[0]))
    return Index(tuple(names), np.stack(shapes), np.stack(looks), np.array(aspects, np.float32), key)


def _means(grid: Floats, side: int) -> Floats:
    """(n, n, channels) -> (side, side, channels) by means of blocks."""
    step = len(grid) // side
    return np.asarray(grid.reshape(side, step, side, step, -1).mean((1, 3)), np.float32)


def _looks(large: Floats, cover: Floats) -> Bytes:
    """(12, LOOK, LOOK, 3): a picture in its own colours and painted in each basic one inside its
    silhouette."""
    inside = cover[..., None] > 0.5
    dim, lift, kept = shades(large)
    blocks = _means(
        np.concatenate([dim * inside, lift * inside, np.where(inside, kept, large), large], -1), LOOK
    )
    dim, lift, kept, own = blocks[..., :1], blocks[..., 1:2], blocks[..., 2:5], blocks[..., 5:]
    looks = np.stack([own, *(paint(colour, dim, lift, kept) for colour in COLOURS)])
    return np.clip(looks + 0.5, 0, 255).astype(np.uint8)
