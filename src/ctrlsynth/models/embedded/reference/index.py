"""The labelled pictures of the `reference` tagger (2a) as features, kept in the user's cache.

The features of a picture are its outline and dark lines, which survive recolouring, and its look in its own
and in the eleven basic colours. The pictures are OpenMoji's drawings by default, upright and sheared;
nothing of any run of `scenes` enters."""

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ....errors import UserError
from ...cache import cached
from ..regions import Box, Mask, label, outside
from ..scenes.sprites import coloured, paint, shades, sprite
from ..scenes.vocabulary import COLOURS, Drawing, drawings_digest, vocabulary
from .find import Bytes, extremes, find, stickers

SIDE = 24  # shapes are taken on a SIDE x SIDE grid stretched over a thing's box
LOOK = 12  # and colours on a coarser one
LOOKS = (None, *COLOURS)
_RENDERED = 120  # pixels of the square at which a drawing's features are taken
_VERSION = "8"
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
Floats = NDArray[np.float32]
Labelled = tuple[str, Bytes, Mask]  # RGB and mask are trimmed to the thing


@dataclass(frozen=True)
class Index:
    """N labelled pictures.

    names    their labels
    shapes   (N, 2 * SIDE * SIDE) in 0..1, see `shape_of`
    looks    (N, 12, LOOK, LOOK, 3) in 0..255: own colours, then each of LOOKS
    aspects  (N,) log(width / height)
    digest   identifies the pictures
    """

    names: tuple[str, ...]
    shapes: Floats
    looks: Bytes
    aspects: Floats
    digest: str

    @cached_property
    def coarse(self) -> tuple[Floats, Floats]:
        """`shapes` on the LOOK x LOOK grid, (2 * LOOK * LOOK, N), and their squares."""
        small = np.ascontiguousarray(coarsened(self.shapes).T)
        return small, np.asarray(small**2, np.float32)


def shape_of(rgb: Floats, mask: Floats) -> Floats:
    """The features that survive recolouring: dark lines and outline, (2 * SIDE * SIDE,) in 0..1, from a
    SIDE x SIDE look (0..255) and its silhouette (0..1)."""
    light = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    lines = np.clip((140.0 - light) / 140.0, 0.0, 1.0)
    both = [lines.reshape(*lines.shape[:-2], -1), mask.reshape(*mask.shape[:-2], -1)]
    return np.asarray(np.concatenate(both, -1), np.float32)


def coarsened(shapes: Floats) -> Floats:
    """(N, 2 * SIDE * SIDE) -> (N, 2 * LOOK * LOOK), by the means of blocks."""
    blocks = shapes.reshape(len(shapes), 2, LOOK, SIDE // LOOK, LOOK, SIDE // LOOK)
    return np.asarray(blocks.mean((3, 5)).reshape(len(shapes), -1), np.float32)


def load_index(folder: str | None) -> Index:
    """Returns the index of a folder of labelled pictures, or of the drawings; builds and caches it if
    needed."""
    return _load(None if folder is None else str(Path(folder).resolve()), _key(folder))


@lru_cache(maxsize=2)
def _load(folder: str | None, key: str) -> Index:
    stored = cached(f"reference-{key}.npz", None, lambda: _build(folder))
    with np.load(io.BytesIO(stored), allow_pickle=False) as data:
        shapes = data["shapes"].astype(np.float32) / np.float32(255)
        return Index(tuple(map(str, data["names"])), shapes, data["looks"], data["aspects"], key)


def _key(folder: str | None) -> str:
    digest = hashlib.blake2b(f"{_VERSION}\0{SIDE}".encode(), digest_size=8)
    if folder is None:
        digest.update(drawings_digest().encode())
    else:
        for name, path in _labelled(folder):
            digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _build(folder: str | None) -> bytes:
    """The features of all pictures as an .npz file."""
    rows = []
    for name, rgb, mask in _drawn() if folder is None else _own(folder):
        look, cover = _to_grid(rgb, mask)
        shape = shape_of(_means(look, SIDE), _means(cover[..., None], SIDE)[..., 0])
        rows.append((name, shape, _looks(look, cover), np.log(mask.shape[1] / mask.shape[0])))
    names, shapes, looks, aspects = zip(*rows, strict=True)
    data = io.BytesIO()
    np.savez(
        data,
        names=np.array(names),
        shapes=np.round(np.stack(shapes) * 255).astype(np.uint8),
        looks=np.stack(looks),
        aspects=np.array(aspects, np.float32),
    )
    return data.getvalue()


def _labelled(folder: str) -> list[tuple[str, Path]]:
    """(label, file) of a folder's pictures: the label is the subfolder's name, or else the file's name
    without digits at the end."""
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


def _own(folder: str) -> Iterator[Labelled]:
    """Pictures of a folder, cut out by their transparency, or else as the largest thing found in them."""
    for name, path in _labelled(folder):
        try:
            with Image.open(path) as image:
                picture = image.convert("RGBA")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UserError(
                f"reference: {path} is not a readable picture ({error}); repair or remove it"
            ) from error
        rgb, alpha = _on_white(picture), np.asarray(picture.getchannel("A"))
        if alpha.min() < 128:
            opaque = picture.getchannel("A").point(lambda a: 255 if a > 60 else 0)
            window = Box(*(opaque.getbbox() or (0, 0, *picture.size))).window
            yield name, rgb[window], alpha[window] > 60
            continue
        found = find(Image.fromarray(rgb))
        heap = max(found.heaps, key=lambda h: int((h.labels > 0).sum()), default=None)
        if heap is None:
            yield name, rgb, np.ones(rgb.shape[:2], bool)
        else:
            yield name, found.rgb[heap.box.window], heap.labels > 0


def _drawn() -> Iterator[Labelled]:
    """OpenMoji's drawings, upright and sheared; some of them a second time as the region finder sees them."""
    for name, drawing in vocabulary().drawings.items():
        for skewed in (False, True):
            rgb, whole = _silhouette(drawing, skewed)
            yield name, rgb, whole
            if _runs_into_paper(rgb, whole) and (seen := _as_found(drawing, skewed)) is not None:
                yield name, *seen


def _silhouette(drawing: Drawing, skewed: bool) -> tuple[Bytes, Mask]:
    """A drawing on white, and its outline without holes."""
    art = coloured(drawing, None, skewed, _RENDERED)
    return _on_white(art), ~outside(np.asarray(art.getchannel("A")) > 60)


def _on_white(image: Image.Image) -> Bytes:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB"))


def _runs_into_paper(rgb: Bytes, whole: Mask) -> bool:
    """Whether the region finder may not see the whole drawing, because white runs into the paper or pieces
    lie apart. A cheap test that never misses one, but includes some others."""
    low, high = extremes(rgb)
    seen = ~outside((low <= 228) | (high - low >= 60))
    pieces = np.bincount(label(seen)[0].ravel())[1:]
    return bool(_shared(seen, whole) <= 0.96 or pieces.max(initial=0) < 0.98 * pieces.sum())


def _as_found(drawing: Drawing, skewed: bool) -> tuple[Bytes, Mask] | None:
    """The sticker as the region finder sees it, or None if it sees the whole drawing: white drawings whose
    line has gaps run into their paper."""
    sticker = sprite(drawing, None, skewed, 120, 5)
    ground = Image.new("RGB", (sticker.width + 24, sticker.height + 24), (110, 130, 140))
    ground.paste(sticker, (12, 12), sticker)
    found = stickers(np.asarray(ground), 5)
    if len(found.heaps) != 1:
        return None
    mask = ~outside(found.heaps[0].labels > 0)
    alpha = coloured(drawing, None, skewed).getchannel("A").resize((mask.shape[1], mask.shape[0]))
    whole = ~outside(np.asarray(alpha) > 60)
    return None if _shared(mask, whole) > 0.93 else (found.rgb[found.heaps[0].box.window], mask)


def _shared(one: Mask, two: Mask) -> float:
    """Intersection over union."""
    return float((one & two).sum() / max(1, (one | two).sum()))


def _to_grid(rgb: Bytes, mask: Mask) -> tuple[Floats, Floats]:
    """A thing's pixels, white outside its mask, and its silhouette (0..1), both stretched to 2 * SIDE
    squared."""
    look = Image.fromarray(np.where(mask[..., None], rgb, np.uint8(255)))
    cover = Image.fromarray(mask.astype(np.uint8) * 255)
    box = Box(0, 0, *look.size)
    return to_grid(look, box, 2 * SIDE), to_grid(cover, box, 2 * SIDE) / np.float32(255)


def to_grid(image: Image.Image, box: Box, side: int = SIDE) -> Floats:
    """A box of an image stretched to side x side pixels."""
    large = min(box.width, box.height) >= 2 * side
    method = Image.Resampling.BOX if large else Image.Resampling.BILINEAR
    return np.asarray(image.resize((side, side), method, box), np.float32)


def _means(grid: Floats, side: int) -> Floats:
    """(n, n, channels) -> (side, side, channels), by the means of blocks."""
    step = len(grid) // side
    return np.asarray(grid.reshape(side, step, side, step, -1).mean((1, 3)), np.float32)


def _looks(large: Floats, cover: Floats) -> Bytes:
    """(12, LOOK, LOOK, 3): a picture in its own colours, and its silhouette painted in each basic colour."""
    inside = cover[..., None] > 0.5
    dim, lift, kept = shades(large)
    painted = np.concatenate([dim * inside, lift * inside, np.where(inside, kept, large), large], -1)
    blocks = _means(painted, LOOK)
    dim, lift, kept, own = blocks[..., :1], blocks[..., 1:2], blocks[..., 2:5], blocks[..., 5:]
    looks = [own, *(paint(colour, dim, lift, kept) for colour in COLOURS)]
    return np.clip(np.stack(looks) + 0.5, 0, 255).astype(np.uint8)
