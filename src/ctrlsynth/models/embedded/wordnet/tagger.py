"""2a: the `wordnet` tagger, which reads the caption. Objects and attributes are mined the way CatLIP mined
its labels (lower case, tokens, lemmas, first noun sense), relations by pattern between two objects; no model,
no weights.

It sees no pixel: the recipe refuses it as the judge of images. What words are in their place:
`wordnet_tokens.py`, `wordnet_parse.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ....lang import wordnet
from ....sample import Tags
from ...base import ImageAndText, VisionTagger
from .parse import mine
from .tokens import MAX_CHARACTERS, MAX_WORDS

__all__ = ["MAX_CHARACTERS", "MAX_WORDS", "VERSION", "WordNetTagger", "mine"]

# raise it when the rules or lists change what is mined: rows tagged by older rules are then tagged again
VERSION = 1


class WordNetTagger(VisionTagger):
    """Tags captions by rule. One row in, one out; no text gives no tags."""

    id = "wordnet"
    reads: Literal["caption"] = "caption"

    def __init__(self) -> None:
        self.digest = f"wordnet-rules-{VERSION}-{wordnet.digest()}"

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """As many Tags as items, in their order; pixels are not looked at."""
        return [mine(item.text) for item in items]
