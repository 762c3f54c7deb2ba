"""`reference`, a tagger (2a) that reads pixels: finds regions, names each by its nearest neighbour in a
labelled folder, and tells how they stand to one another.

By default the labelled folder is OpenMoji's drawings, so it reads the pictures of `scenes`, and judges them
without knowing anything of what the drawer did: it gets decoded pixels and nothing else. It can't read
photographs; use `imagenet` for those."""

from __future__ import annotations

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
from .tags import tell

# raise it when the same pixels would get other tags; what the index holds has a version of its own
# (reference_index.py)
VERSION = 1


class ReferenceTagger(VisionTagger):
    """Tags from pixels by comparison. `folder`: labelled pictures of your own (a subfolder a label), or None
    for OpenMoji's drawings."""

    id = "reference"
    reads: Literal["pixels", "caption", "both"] = "pixels"

    def __init__(self, folder: str | None = None) -> None:
        if folder is not None and not isinstance(folder, str | Path):
            raise UserError(f"reference: folder is the path of a folder of labelled pictures, not {folder!r}")
        self.index = load_index(None if folder is None else str(folder))
        self.digest = f"reference-{self.index.digest}-{VERSION}"

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Tags of each picture, in order; a picture without a region that fits anything, or no picture, has
        none."""
        return [tell(self.things(item.image)) if item.image is not None else Tags() for item in items]

    def things(self, image: Image.Image) -> list[Thing]:
        """Every thing found: name, colour, box in pixels of a picture whose longer side is 384, distance."""
        return name_all(find(image if image.mode == "RGB" else image.convert("RGB")), self.index)
