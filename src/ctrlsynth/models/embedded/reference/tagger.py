"""`reference`, a tagger (2a) that reads pixels: it finds regions, names each by its nearest neighbour among
labelled pictures, and derives relations from their boxes.

The labelled pictures are OpenMoji's drawings by default, so that it reads the pictures of `scenes`. It
judges them independently: it gets decoded pixels and nothing that the drawer knows. It cannot read
photographs; use `imagenet` for those."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image

from ....errors import UserError
from ....sample import Tags
from ...base import ImageAndText, VisionTagger
from .find import find
from .index import load_index
from .match import Thing, name_all
from .tags import tags_of

VERSION = 1  # raise it when the same pixels would get other tags; the index has a version of its own


class ReferenceTagger(VisionTagger):
    """Tags pixels by comparison with labelled pictures: those of `folder` (one subfolder per label), or
    OpenMoji's drawings if it is None."""

    id = "reference"
    reads: Literal["pixels", "caption", "both"] = "pixels"

    def __init__(self, folder: str | None = None) -> None:
        if folder is not None and not isinstance(folder, str | Path):
            raise UserError(f"reference: folder is the path of a folder of labelled pictures, not {folder!r}")
        self.index = load_index(None if folder is None else str(folder))
        self.digest = f"reference-{self.index.digest}-{VERSION}"

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Returns the tags of each picture, in order; empty ones without a picture, or if nothing in it
        fits."""
        return [Tags() if item.image is None else tags_of(self.things(item.image)) for item in items]

    def things(self, image: Image.Image) -> list[Thing]:
        """Returns everything found in a picture. Boxes are in pixels of the picture with a longer side of
        384."""
        return name_all(find(image if image.mode == "RGB" else image.convert("RGB")), self.index)
