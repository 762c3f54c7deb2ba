"""The papers' models as tiny real checkpoints, for running the production recipes: the same classes, loaded
by the same code.

The language models are parrots: real checkpoints whose weights are set by hand so that they always say one
sentence (a token of their vocabulary) and stop. So what a run does with a text can be told, which with random
weights it could not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tiny_llms import mistral, qwen2
from tiny_models import BUILDERS
from tiny_vision import catlip, florence2

SAYS = "A dog and a cat rest beside a small table with coffee, while a blue bird sits in a tree."
EXTRACTS = (
    "attributes: red boat, blue bird\nobjects: boat, water, bird, tree\nrelations: boat on the "
    "water, bird in a tree\n"
)
"""What the caption lacks is dropped."""


def parrot(base: Callable[[Path], Path], folder: Path, says: str) -> Path:
    """A checkpoint of `base` (tiny_llms.qwen2, tiny_llms.mistral) that answers `says` to everything:
    attention and MLP add nothing, every token but that one predicts it, and it predicts the end."""
    base(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_tokens([says])
    said, end = tokenizer.convert_tokens_to_ids(says), tokenizer.eos_token_id
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        inside, out = model.model.embed_tokens.weight, model.lm_head.weight
        inside.zero_(), out.zero_()
        inside[:, 0], inside[said] = 1.0, 0.0
        inside[said, 1] = 1.0
        out[said, 0], out[end, 1] = 1.0, 1.0
    model.config.max_position_embeddings = 8192  # the instructions are long in so small a vocabulary
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def florence(folder: Path) -> Path:
    """tiny_vision's Florence-2 with the published checkpoint's `early_stopping`; without it beams may go on
    for all 1,024 tokens."""
    florence2(folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"early_stopping": True}))
    return folder


class Tiny:
    """Tiny checkpoints by the name that a recipe has for the real one; each is made when it is first asked
    for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}

    def get(self, name: str, build: Callable[[Path], Path]) -> str:
        if name not in self._made:
            self._made[name] = build(self._folder / name)
        return str(self._made[name])

    def spec(self, value: Any) -> Any:
        """A recipe's model with nothing but the names replaced; vLLM, which runs on GPUs only, by
        transformers, and float16, which a CPU computes four times slower, by the checkpoint's float32."""
        if isinstance(value, list):
            return [self.spec(v) for v in value]
        if not isinstance(value, dict):
            return value
        gpu_only = ("vllm", "gpu_memory_utilization", "tensor_parallel_size")
        out = {k: v for k, v in value.items() if k not in gpu_only and (k, v) != ("dtype", "float16")}
        if "hybrid" in value:
            out["hybrid"] = self.spec(value["hybrid"])
        elif "vllm" in value:
            name, base = ("mistral", mistral) if "Mistral" in value["vllm"] else ("qwen2", qwen2)
            out["transformers"] = self.get(name, lambda folder: parrot(base, folder, SAYS))
        elif "diffusers" in value:
            name = {
                "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
                "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
            }[value["diffusers"]]
            out["diffusers"] = self.get(name, BUILDERS[name])
        elif "catlip" in value:
            folder = self.get("catlip", catlip)
            out |= {"catlip": f"{folder}/vit.pt", "vocabulary": f"{folder}/vocab.pkl", "classes": 5}
        elif "captioner" in value:
            out["captioner"] = self.get("florence2", florence)
            if "extract" in value:
                extract = self.get("extract", lambda folder: parrot(qwen2, folder, EXTRACTS))
                out["extract"] = {**self.spec(value["extract"]), "transformers": extract}
        return out
