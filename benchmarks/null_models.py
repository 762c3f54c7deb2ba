"""Models that do nothing but keep the contract: what remains is the pipeline's own cost. Named in recipes as
`null_models:NullTagger`."""

from __future__ import annotations

from collections.abc import Sequence

from ctrlsynth.models.base import ImageAndText, Reply, Request
from ctrlsynth.sample import Tags


class NullTagger:
    """The first two words of four letters or more are the objects; both carry an attribute, one relation
    joins them."""

    id = "null-tagger"
    digest = "1"
    reads = "caption"
    batch = 1024

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        return [self._tags(i.text or "") for i in items]

    def _tags(self, text: str) -> Tags:
        words = [w for w in text.split() if len(w) > 3] or ["thing"]
        first, last = words[0], words[-1]
        return Tags(
            (first, last) if first != last else (first,),
            (f"red {first}",),
            (f"{first} on {last}",) if first != last else (),
        )


class NullLLM:
    """Says its phrases in one sentence."""

    id = "null-llm"
    digest = "1"
    batch = 1024

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply("A picture of " + ", ".join(r.tags.phrases()) + ".") for r in requests]
