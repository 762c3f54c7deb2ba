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
from ..evaluate.layout import Sample
from ..evaluate.tasks import own_task
from ..recipe.train import Decontaminate
from ..storage.files import replacing
from ..storage.location import FileStats
from .data.rows import Pair, RowFault, Shards
from .data.shards import Subset, open_shards

_NOT_WORDS = re.compile(r"[^\w]+")
_CHUNK = 256
_COSINES = np.cos(np.pi / 32 * (np.arange(32) + 0.5) * np.arange(1, 9)[:, None])


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

    def add_image(self, image: Image.Image, name: str) -> None:
        """Adds an image of an evaluation set."""
        self.pixels.setdefault(pixel_hash(image), name)
        bits = perceptual_hash(image)
        for number, quarter in enumerate(self.quarters):
            quarter[bits >> (16 * number) & 0xFFFF].append((bits, name))

    def near(self, bits: int, distance: int) -> str | None:
        """The image with the nearest hash, if that differs in at most `distance` (0 to 3) bits."""
        candidates = [
            ((bits ^ other).bit_count(), name)
            for number, quarter in enumerate(self.quarters)
            for other, name in quarter.get(bits >> (16 * number) & 0xFFFF, ())
        ]
        off, name = min(candidates, default=(64, ""))
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
    """Reads the evaluation sets, in any form that `_set_samples` knows. UserError for one without rows."""
    known = Known()
    for name in block.against:
        found = 0
        for sample in _set_samples(name, base):
            if block.images != "none":
                with contextlib.suppress(ImageFault):
                    known.add_image(decode(sample.image), sample.where)
                    found += 1
            if block.captions:
                plain = {key: c for c in sample.captions if (key := plain_caption(c))}
                known.captions |= plain
                found += len(plain)
        if not found:
            raise UserError(
                f"train.decontaminate.against: {name}: no image and no caption; expected shards, or a "
                f"folder of images"
            )
    return known


def _set_samples(name: str, base: Path) -> Iterator[Sample]:
    """The samples of an evaluation set: a folder that `ctrlsynth eval` reads or one split of it, folders and
    files of shards, or a folder of images."""
    folder = base / Path(name).expanduser()
    if (folder / "nshards.txt").is_file():
        labelled = (folder.parent / "classnames.txt").is_file()
        classes = len(layout.classnames(folder.parent, None)) if labelled else None
        return layout.samples(folder.parent, folder.name, classes)
    try:
        shards = open_shards(name, base, where="train.decontaminate.against")
    except UserError:
        task = own_task(folder) if folder.is_dir() else None
        if task is not None and (task.kind != "zero-shot" or (folder / "test").is_dir()):
            return evaluator(task, folder).test_samples()
        loose = [p for p in sorted(folder.rglob("*")) if p.suffix[1:].lower() in IMAGE_SUFFIXES]
        if not loose:
            raise
        return (layout.read_sample(path, "the folder") for path in loose)
    return (
        Sample(pair.image, None, tuple(line for text in pair.captions for line in text.splitlines()), pair.id)
        for _, pair in _readable(shards, range(shards.rows))
    )


def _readable(shards: Shards, numbers: Iterable[int]) -> Iterator[tuple[int, Pair]]:
    for number in numbers:
        with contextlib.suppress(RowFault):
            yield number, shards.read(number)


def search(shards: Sequence[Shards], known: Known, block: Decontaminate) -> list[Found]:
    """Every training pair that is in `known`, in the order of sources and rows. Decodes each image once, in
    as many threads as there are processors."""
    found: list[Found] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for source in shards:
            for start in range(0, source.rows, _CHUNK):
                # not read in threads: they must not share open files
                rows = list(_readable(source, range(start, min(start + _CHUNK, source.rows))))
                hits = pool.map(lambda row: _matches(row[1], known, block), rows)
                for (number, pair), hit in zip(rows, hits, strict=True):
                    found += [Found(source.name, number, pair.id, how, what) for how, what in hit]
    return found


def _matches(pair: Pair, known: Known, block: Decontaminate) -> list[tuple[str, str]]:
    """(how, what) of each way in which a pair is in an evaluation set: at most one caption and one image."""
    out = [("caption", c) for c in pair.captions if block.captions and plain_caption(c) in known.captions][:1]
    if block.images == "none":
        return out
    with contextlib.suppress(ImageFault):
        image = decode(pair.image)
        if block.images != "phash" and (same := known.pixels.get(pixel_hash(image))):
            out.append(("sha256", same))
        elif block.images != "sha256" and (near := known.near(perceptual_hash(image), block.distance)):
            out.append(("phash", near))
    return out


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
    text = path.read_text(encoding="utf-8") if path.is_file() else "{}"
    first, *lines = text.rstrip("\n").split("\n")  # a caption may hold other line ends
    if json.loads(first or "{}").get("mark") == mark:
        found = [Found(**json.loads(line)) for line in lines]
    else:
        found = search(shards, read_sets(block, base), block)
        lines = [json.dumps(line, ensure_ascii=False) for line in ({"mark": mark}, *map(asdict, found))]
        with replacing(path) as made:
            made.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    counts: dict[str, int] = {
        "pairs": len({(f.source, f.row) for f in found}),
        **Counter(f.how for f in found),
    }
    if block.action == "flag":
        return list(shards), counts
    return [_without(s, {f.row for f in found if f.source == s.name}) for s in shards], counts


def _without(shards: Shards, rows: set[int]) -> Shards:
    if not rows:
        return shards
    if len(rows) == shards.rows:
        raise UserError(f"train.decontaminate: every pair of {shards.name} is in an evaluation set")
    kept = np.delete(np.arange(shards.rows), list(rows))
    return Subset(shards, kept, Counter(decontaminated=len(rows)))


def _facts(name: str, base: Path) -> list[Any]:
    """Name, and path, size and time of every file of an evaluation set."""
    path = base / Path(name).expanduser()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [name, [FileStats().of(str(p)) for p in files if p.is_file()]]
