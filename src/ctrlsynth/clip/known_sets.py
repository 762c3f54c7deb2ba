"""Evaluation sets as decontamination reads them: whatever `ctrlsynth eval` reads, folders and files of
shards, and folders of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..data.images import IMAGE_SUFFIXES, ImageFault, decode
from ..data.long_tail import read_split
from ..errors import UserError
from ..evaluate import layout
from ..evaluate.kinds import compositional as pairs
from ..evaluate.kinds import retrieval
from ..evaluate.tasks import own_task
from .data.rows import RowFault
from .data.shards import open_shards

Row = tuple[str, Image.Image | None, Sequence[str]]
"""Its name, its image (None where there is none), its captions."""


def rows(name: str, base: Path, where: str = "train.decontaminate.against") -> Iterator[Row]:
    """The rows of an evaluation set; images that can't be decoded are passed over. UserError where nothing
    can be read."""
    folder = base / Path(name).expanduser()
    if (folder / "nshards.txt").is_file():  # the test folder of a set
        yield from _decoded(_tars(folder.parent, folder.name))
        return
    try:
        shards = open_shards(name, base, where=where)
    except UserError:
        found = _evaluation(folder) if folder.is_dir() else None
        if found is None:
            raise
        yield from _decoded(found)
        return
    for row in range(shards.rows):
        try:
            pair = shards.read(row)
            yield (
                pair.id,
                decode(pair.image),
                [line for caption in pair.captions for line in caption.splitlines()],
            )
        except (RowFault, ImageFault):
            continue


def _evaluation(folder: Path) -> Iterator[tuple[str, bytes, Sequence[str]]] | None:
    """The rows of a folder in one of the evaluation's layouts, else of the images below it; None where there
    are none."""
    task = own_task(folder)
    kind = task.kind if task is not None else "images"
    if kind == "long-tail":
        return _split(folder)
    if kind == "pairs" and task is not None:
        return (
            (file.name, _bytes(folder / "images" / r[0]), r[1:2])
            for file in pairs.files_of(folder, task)
            for r in pairs.read(file)
        )
    if (folder / "captions.json").is_file():
        return ((where, image, captions) for image, where, captions in retrieval.pairs(folder))
    if (folder / "test" / "nshards.txt").is_file():
        return _tars(folder, "test")
    loose = [p for p in sorted(folder.rglob("*")) if p.suffix[1:].lower() in IMAGE_SUFFIXES]
    return ((str(p.relative_to(folder)), _bytes(p), ()) for p in loose) if loose else None


def _tars(folder: Path, split: str) -> Iterator[tuple[str, bytes, Sequence[str]]]:
    """The public layout: with class numbers (classnames.txt stands beside), or with captions."""
    classes = len(layout.classnames(folder, None)) if (folder / "classnames.txt").is_file() else None
    for sample in layout.samples(folder, split, classes):
        yield sample.where, sample.image, sample.captions


def _split(folder: Path) -> Iterator[tuple[str, bytes, Sequence[str]]]:
    """The test images of a long-tailed set."""
    root = folder / "images" if (folder / "images").is_dir() else folder
    for path, _ in read_split(folder / "test.txt", len(layout.classnames(folder, None))):
        yield path, _bytes(root / path), ()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: expected an image that the evaluation set names; cannot read it ({error.strerror})"
        ) from error


def _decoded(found: Iterator[tuple[str, bytes, Sequence[str]]]) -> Iterator[Row]:
    for where, data, captions in found:
        try:
            image = decode(data)
        except ImageFault:
            image = None
        yield where, image, captions
