"""Finds training pairs that are also in an evaluation set: the same pixels, nearly the same picture, or the
same caption.

Near pictures are found by a perceptual hash of 64 bits (the signs of the low frequencies of a 32 x 32 grey
image, against their median). Of two hashes within 3 bits one of four 16-bit pieces is equal, so only those
are compared: no hash within the distance is missed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.images import ImageFault, decode
from ..errors import UserError
from ..recipe.train import Decontaminate
from ..storage.files import remove_leftovers, replacing
from . import known_sets
from .data.rows import RowFault, Shards
from .data.shards import Subset

_NOT_WORDS = re.compile(r"[^\w]+")
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Found:
    """One training pair that is in an evaluation set. `how`: sha256, phash or caption; `what`: the evaluation
    set's row or caption."""

    source: str
    row: int
    id: str
    how: str
    what: str


@dataclass
class Known:
    """What is in the evaluation sets: hash of pixels -> row, perceptual hashes by their pieces, normalised
    captions."""

    pixels: dict[str, str] = field(default_factory=dict)
    pieces: list[defaultdict[int, list[tuple[int, str]]]] = field(
        default_factory=lambda: [defaultdict(list) for _ in range(4)]
    )
    captions: dict[str, str] = field(default_factory=dict)
    images: int = 0

    def add_image(self, image: Image.Image, name: str) -> None:
        """Notes an image of an evaluation set."""
        self.images += 1
        self.pixels.setdefault(pixel_hash(image), name)
        bits = perceptual_hash(image)
        for number, piece in enumerate(self.pieces):
            piece[bits >> (16 * number) & 0xFFFF].append((bits, name))

    def near(self, bits: int, distance: int) -> str | None:
        """An image whose hash differs in at most `distance` (0 .. 3) bits, the nearest first; or None."""
        candidates = (
            c
            for number, piece in enumerate(self.pieces)
            for c in piece.get(bits >> (16 * number) & 0xFFFF, ())
        )
        best = (
            min(((bits ^ other).bit_count(), name) for other, name in candidates)
            if self.images and self._any(bits)
            else (64, "")
        )
        return best[1] if best[0] <= distance else None

    def _any(self, bits: int) -> bool:
        return any(bits >> (16 * number) & 0xFFFF in piece for number, piece in enumerate(self.pieces))


def pixel_hash(image: Image.Image) -> str:
    """sha256 over size and pixels as RGB: the same picture in another lossless file has the same."""
    return hashlib.sha256(
        f"{image.width}x{image.height}:".encode() + image.convert("RGB").tobytes()
    ).hexdigest()


@lru_cache(maxsize=1)
def _cosines() -> Any:
    n = np.arange(32)
    return np.cos(np.pi / 32 * (n[None, :] + 0.5) * np.arange(1, 9)[:, None])


def perceptual_hash(image: Image.Image) -> int:
    """64 bits: the 8 x 8 lowest frequencies (without the constant row and column) of the 32 x 32 grey image,
    above their median or not."""
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float64)
    low = _cosines() @ grey @ _cosines().T
    return int("".join("1" if v else "0" for v in (low > np.median(low)).ravel()), 2)


def plain_caption(text: str) -> str:
    """The caption without case, punctuation and runs of spaces."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def read_sets(block: Decontaminate, base: Path) -> Known:
    """Reads the evaluation sets, in any layout that `known_sets` knows. UserError for one with nothing in
    it."""
    known = Known()
    for name in block.against:
        before = known.images + len(known.captions)
        for row, image, captions in known_sets.rows(name, base):
            if block.images != "none" and image is not None:
                known.add_image(image, row)
            if block.captions:
                known.captions.update({plain: c for c in captions if (plain := plain_caption(c))})
        if known.images + len(known.captions) == before:
            raise UserError(
                f"train.decontaminate.against: {name}: no image and no caption; expected shards, or a "
                f"folder of images"
            )
    return known


def search(shards: Sequence[Shards], known: Known, block: Decontaminate, threads: int = 4) -> list[Found]:
    """Every training pair that is in `known`, in the order of sources and rows. Images are decoded once,
    `threads` at a time."""
    found: list[Found] = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for source in shards:
            for start in range(0, source.rows, _CHUNK):
                numbers = range(start, min(start + _CHUNK, source.rows))
                pairs = [
                    _read(source, n) for n in numbers
                ]  # one at a time: a source's files are not shared between threads
                for number, hit in zip(
                    numbers, pool.map(lambda p: _matches(p, known, block), pairs), strict=True
                ):
                    found += [Found(source.name, number, source.id(number), how, what) for how, what in hit]
    return found


def _read(source: Shards, number: int) -> tuple[bytes, Sequence[str]]:
    try:
        pair = source.read(number)
    except RowFault:
        return b"", ()
    return pair.image, pair.captions


def _matches(pair: tuple[bytes, Sequence[str]], known: Known, block: Decontaminate) -> list[tuple[str, str]]:
    out = [("caption", c) for c in pair[1] if block.captions and plain_caption(c) in known.captions][:1]
    if block.images == "none":
        return out
    try:
        image = decode(pair[0])
    except ImageFault:
        return out
    same = known.pixels.get(pixel_hash(image)) if block.images in ("sha256", "both") else None
    if same is not None:
        return [*out, ("sha256", same)]
    near = known.near(perceptual_hash(image), block.distance) if block.images in ("phash", "both") else None
    return [*out, ("phash", near)] if near is not None else out


def clean(
    shards: Sequence[Shards], block: Decontaminate, base: Path, out: Path
) -> tuple[list[Shards], dict[str, int]]:
    """(the shards to train on, counts): compares every pair with the evaluation sets, and drops what is found
    unless the block says `flag`.

    `out` gets `decontamination.jsonl`, a line for each find, and is read instead of searching again when
    sources, sets and block are the same."""
    facts = [
        block.model_dump(mode="json"),
        [[s.name, s.rows] for s in shards],
        [_facts(name, base) for name in block.against],
    ]
    mark = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    path = out / "decontamination.jsonl"
    found = _known_finds(path, mark)
    if found is None:
        found = search(shards, read_sets(block, base), block, os.cpu_count() or 1)
        _write(path, mark, found)
    counts: dict[str, int] = {
        "pairs": len({(f.source, f.row) for f in found}),
        **Counter(f.how for f in found),
    }
    if block.action == "flag":
        return list(shards), counts
    return [_without(s, [f.row for f in found if f.source == s.name]) for s in shards], counts


def _without(shards: Shards, rows: Iterable[int]) -> Shards:
    keep = np.ones(shards.rows, dtype=bool)
    keep[list(set(rows))] = False
    if keep.all():
        return shards
    if not keep.any():
        raise UserError(f"train.decontaminate: every pair of {shards.name} is in an evaluation set")
    return Subset(shards, np.flatnonzero(keep), Counter({"decontaminated": int((~keep).sum())}))


def _facts(name: str, base: Path) -> list[Any]:
    path = base / Path(name).expanduser()
    files = (
        sorted(p for p in path.rglob("*") if p.is_file())
        if path.is_dir()
        else [path]
        if path.is_file()
        else []
    )
    return [name, [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]]


def _known_finds(path: Path, mark: str) -> list[Found] | None:
    if not path.is_file():
        return None
    first, *lines = path.read_text(encoding="utf-8").splitlines() or ["{}"]
    return [Found(**json.loads(line)) for line in lines] if json.loads(first).get("mark") == mark else None


def _write(path: Path, mark: str, found: Sequence[Found]) -> None:
    remove_leftovers(path.parent)
    lines = [
        {"mark": mark},
        *({"source": f.source, "row": f.row, "id": f.id, "how": f.how, "what": f.what} for f in found),
    ]
    with replacing(path) as made:
        made.write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
        )
