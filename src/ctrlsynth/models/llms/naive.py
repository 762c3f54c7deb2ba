"""Captions without a language model (2b): a concept in one of CLIP's own prompts, `a photo of a {}.` This is
NaiveCLIP, SynthCLIP's baseline (appendix B.3)."""

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from ...errors import UserError
from ..base import LanguageModel, Reply, Request

SIMPLE = (
    "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
    "a {} in a video game.", "art of the {}.",
    "a photo of the small {}.",
)  # fmt: skip
"""CLIP's subset of seven, which does nearly as well on ImageNet."""


class Naive(LanguageModel):
    """Fills the template that the request's seed picks with the concept, or else the first phrase.

    model   `clip80` (all of CLIP's prompts for ImageNet), `clip7` (its subset), or a text file with one
            template per line, each with one {}
    """

    def __init__(self, model: str = "clip80") -> None:
        self.templates = SIMPLE if model == "clip7" else tuple(_lines(model))
        self.id = f"naive:{Path(model).name}"
        self.digest = hashlib.blake2b("\n".join(self.templates).encode(), digest_size=8).hexdigest()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request; without a phrase its error is `no_content`."""
        out = []
        for request in requests:
            name = next(iter(request.tags.phrases()), request.caption or "")
            template = self.templates[request.seed % len(self.templates)]
            out.append(Reply(template.replace("{}", name)) if name else Reply("", error="no_content"))
        return out


def _lines(model: str) -> list[str]:
    ours = resources.files("ctrlsynth.models.llms") / "data" / "clip_templates.txt"
    try:
        text = (ours if model == "clip80" else Path(model)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"models.llm: naive takes clip80, clip7 or a text file of templates; cannot read {model}: {error}"
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for number, line in enumerate(lines, 1):
        if line.count("{}") != 1:
            raise UserError(
                f"{model}: template {number} holds {{}} {line.count('{}')} times, not once: {line[:60]!r}"
            )
    if not lines:
        raise UserError(f"{model}: holds no template")
    return lines
