"""Finds training pairs that are also in an evaluation set: the same pixels, nearly the same picture, or the
same caption.

Near pictures are found by a perceptual hash of 64 bits: which of the low frequencies of a 32 x 32 grey image
are above their median. Two hashes within 3 bits share at least one of their four quarters of 16 bits, so
comparing hashes with an equal quarter misses none."""

import contextlib
import hashlib
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.images import IMAGE_SUFFIXES, ImageFault, decode
from ..errors import UserError
from ..evaluate import layout
from ..evaluate.kinds import evaluator
from ..evaluate.tasks import own_task
from ..recipe.train import Decontaminate
from ..storage.files import replacing
from .data.rows import RowFault, Shards
from .data.shards import Subset, open_shards

_NOT_WORDS = re.compile(r"[^\w]+")
_CHUNK = 256
_COSINES = np.cos(np.pi / 32 * (np.arange(32) + 0.5) * np.arange(1, 9)[:, None])
SetRow = tuple[str, bytes, Sequence[str]]
"""A row of an evaluation set: where it is, its encoded image, its captions."""


@dataclass(frozen=True, slots=True)
class Found:
    """A training pair that is in an evaluation set. `how`: sha256, phash or caption; `what`: the row or
    caption of the evaluation set."""

    source: str
    row: int
    id: str
    how: str
    what: str


@dataclass
class Known:
    """The content of the evaluation sets: hash of pixels -> row, perceptual hashes by each of their quarters,
    normalised captions -> caption."""

    pixels: dict[str, str] = field(default_factory=dict)
    quarters: list[defaultdict[int, list[tuple[int, str]]]] = field(
        default_factory=lambda: [defaultdict(list) for _ in range(4)]
    )
    captions: dict[str, str] = field(default_factory=dict)
    images: int = 0

    def add_image(self, image: Image.Image, name: str) -> None:
        """Adds an image of an evaluation set."""
        self.images += 1
        self.pixels.setdefault(pixel_hash(image), name)
        bits = perceptual_hash(image)
        for number, quarter in enumerate(self.quarters):
            quarter[bits >> (16 * number) & 0xFFFF].append((bits, name))

    def near(self, bits: int, distance: int) -> str | None:
        """The image with the nearest hash, if that differs in at most `distance` (0 to 3) bits."""
        candidates = [
            candidate
            for number, quarter in enumerate(self.quarters)
            for candidate in quarter.get(bits >> (16 * number) & 0xFFFF, ())
        ]
        off, name = (
            min(((bits ^ other).bit_count(), name) for other, name in candidates) if candidates else (64, "")
        )
        return name if off <= distance else None


def pixel_hash(image: Image.Image) -> str:
    """sha256 over size and RGB pixels, which does not depend on the (lossless) file format."""
    return hashlib.sha256(
        f"{image.width}x{image.height}:".encode() + image.convert("RGB").tobytes()
    ).hexdigest()


def perceptual_hash(image: Image.Image) -> int:
    """64 bits: which of the 8 x 8 lowest frequencies (without the constant row and column) of the 32 x 32
    grey image are above their median."""
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float64)
    low = _COSINES @ grey @ _COSINES.T
    return int("".join("1" if v else "0" for v in (low > np.median(low)).ravel()), 2)


def plain_caption(text: str) -> str:
    """The caption in lower case, without punctuation and repeated spaces."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def read_sets(block: Decontaminate, base: Path) -> Known:
    """Reads the evaluation sets, in any form that `_set_rows` knows. UserError for one without rows."""
    known = Known()
    for name in block.against:
        before = known.images + len(known.captions)
        for row, data, captions in _set_rows(name, base):
            if block.images != "none":
                with contextlib.suppress(ImageFault):
                    known.add_image(decode(data), row)
            if block.captions:
                known.captions.update({plain: c for c in captions if (plain := plain_caption(c))})
        if known.images + len(known.captions) == before:
            raise UserError(
                f"train.decontaminate.against: {name}: no image and no caption; expected shards, or a "
                f"folder of images"
            )
    return known


def _set_rows(name: str, base: Path) -> Iterator[SetRow]:
    """The rows of an evaluation set: a folder that `ctrlsynth eval` reads or one split of it, folders and
    files of shards, or a folder of images."""
    folder = base / Path(name).expanduser()
    if (folder / "nshards.txt").is_file():
        labelled = (folder.parent / "classnames.txt").is_file()
        classes = len(layout.classnames(folder.parent, None)) if labelled else None
        found = layout.samples(folder.parent, folder.name, classes)
        return ((sample.where, sample.image, sample.captions) for sample in found)
    try:
        return _shard_rows(open_shards(name, base, where="train.decontaminate.against"))
    except UserError:
        task = own_task(folder) if folder.is_dir() else None
        if task is not None and (task.kind != "zero-shot" or (folder / "test").is_dir()):
            return evaluator(task, folder).test_rows()
        loose = [p for p in sorted(folder.rglob("*")) if p.suffix[1:].lower() in IMAGE_SUFFIXES]
        if not loose:
            raise
        return ((str(p.relative_to(folder)), layout.read_image(p, "the folder"), ()) for p in loose)


def _shard_rows(shards: Shards) -> Iterator[SetRow]:
    for number in range(shards.rows):
        with contextlib.suppress(RowFault):
            row = shards.read(number)
            yield row.id, row.image, [line for caption in row.captions for line in caption.splitlines()]


def search(shards: Sequence[Shards], known: Known, block: Decontaminate, threads: int = 4) -> list[Found]:
    """Every training pair that is in `known`, in the order of sources and rows. Decodes each image once,
    `threads` at a time."""
    found: list[Found] = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for source in shards:
            for start in range(0, source.rows, _CHUNK):
                numbers = range(start, min(start + _CHUNK, source.rows))
                rows = [_read(source, n) for n in numbers]  # not in threads: they must not share open files
                hits = pool.map(lambda row: _matches(row[0], row[1], known, block), rows)
                for number, hit in zip(numbers, hits, strict=True):
                    found += [Found(source.name, number, source.id(number), how, what) for how, what in hit]
    return found


def _read(source: Shards, number: int) -> tuple[bytes, Sequence[str]]:
    try:
        row = source.read(number)
    except RowFault:
        return b"", ()
    return row.image, row.captions


def _matches(
    data: bytes, captions: Sequence[str], known: Known, block: Decontaminate
) -> list[tuple[str, str]]:
    """(how, what) of each way in which a pair is in an evaluation set: at most one caption and one image."""
    out = [("caption", c) for c in captions if block.captions and plain_caption(c) in known.captions][:1]
    if block.images == "none":
        return out
    try:
        image = decode(data)
    except ImageFault:
        return out
    same = known.pixels.get(pixel_hash(image)) if block.images != "phash" else None
    if same is not None:
        return [*out, ("sha256", same)]
    near = known.near(perceptual_hash(image), block.distance) if block.images != "sha256" else None
    return [*out, ("phash", near)] if near is not None else out


def clean(
    shards: Sequence[Shards], block: Decontaminate, base: Path, out: Path
) -> tuple[list[Shards], dict[str, int]]:
    """Compares every pair with the evaluation sets and drops the pairs found, unless the block says `flag`.
    Returns the shards to train on and counts.

    Writes `decontamination.jsonl` into `out`, one line per pair found, and reads it instead of searching
    again if sources, sets and block are unchanged."""
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
        lines = [{"mark": mark}, *map(asdict, found)]
        with replacing(path) as made:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            made.write_text(text, encoding="utf-8")
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
    """Name, and path, size and time of every file of an evaluation set."""
    path = base / Path(name).expanduser()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [name, [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files if p.is_file()]]


def _known_finds(path: Path, mark: str) -> list[Found] | None:
    if not path.is_file():
        return None
    first, *lines = path.read_text(encoding="utf-8").splitlines() or ["{}"]
    return [Found(**json.loads(line)) for line in lines] if json.loads(first).get("mark") == mark else None
