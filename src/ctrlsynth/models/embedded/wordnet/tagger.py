"""`wordnet`, a tagger (2a) that reads the caption, without a model or weights: it mines objects and
attributes as CatLIP mined its labels (lower case, tokens, lemmas, first noun sense), and relations by
pattern between two objects. It sees no pixel, so a recipe cannot use it as the judge of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ....lang import wordnet
from ....sample import Tags
from ...base import ImageAndText, VisionTagger
from .parse import mine
from .tokens import MAX_CHARACTERS, MAX_WORDS

__all__ = ["MAX_CHARACTERS", "MAX_WORDS", "VERSION", "WordNetTagger", "mine"]

VERSION = 1  # raise it when rules or lists change what is mined: older rows are then tagged again


class WordNetTagger(VisionTagger):
    """Tags captions by rule; no text gives no tags."""

    id = "wordnet"
    reads: Literal["caption"] = "caption"

    def __init__(self) -> None:
        self.digest = f"wordnet-rules-{VERSION}-{wordnet.digest()}"

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Returns the tags of each caption, in order; ignores pixels."""
        return [mine(item.text) for item in items]
