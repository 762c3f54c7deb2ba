"""The tiny checkpoints are what they say: they load offline by the classes that a hub's would, and count
tokens as the real ones do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctrlsynth.lang import clip_tokens

CLASSES = {
    "sd15": "StableDiffusionPipeline",
    "sd15-flags": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_tiny_pipeline_loads_by_its_class(tiny: Callable[[str], Path], name: str) -> None:
    from diffusers import AutoPipelineForText2Image

    pipe = AutoPipelineForText2Image.from_pretrained(tiny(name), local_files_only=True)
    assert type(pipe).__name__ == CLASSES[name]
    assert sum(f.stat().st_size for f in tiny(name).rglob("*")) < 30e6


def test_the_tiny_clip_tokenizer_is_the_real_one(tiny: Callable[[str], Path]) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny("sd15") / "tokenizer", local_files_only=True)
    for text in ("", "A red dog's (((ball)))++, 1234 café naïve—日本 🐶", "many words " * 60):
        assert tokenizer(text, verbose=False).input_ids == clip_tokens.encode(text)
