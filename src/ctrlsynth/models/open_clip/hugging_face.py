"""Reads Hugging Face's CLIPModel as open_clip's CLIP: the same weights under other names, so that one code
trains and evaluates both."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError

# Parts of the weights' names: CLIPModel's -> open_clip's.
_NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_model.encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def is_clip(folder: Path) -> bool:
    """Whether the folder holds a CLIPModel as transformers saves it."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "clip"


def model_config(folder: Path) -> dict[str, Any]:
    """open_clip's configuration of a CLIPModel's folder. UserError for a model that open_clip's CLIP cannot
    represent (another vocabulary, epsilon or activation)."""
    from transformers import CLIPConfig

    config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    vision, text = config.vision_config, config.text_config
    for name, tower in (("vision", vision), ("text", text)):
        act, epsilon = tower.hidden_act, tower.layer_norm_eps
        if act not in ("gelu", "quick_gelu") or act != vision.hidden_act or epsilon != 1e-5:
            raise UserError(
                f"{folder}: expected a CLIP with gelu or quick_gelu and 1e-5 in both towers, found a {name} "
                f"tower with {act} and layer_norm_eps {epsilon}"
            )
    if text.vocab_size != 49408:
        raise UserError(f"{folder}: expected CLIP's vocabulary of 49,408 tokens, found {text.vocab_size:,}")
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": vision.hidden_act == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
        },
    }


def preprocess_config(folder: Path) -> dict[str, Any]:
    """Mean and deviation from the folder's preprocessor_config.json, if it has one."""
    path = folder / "preprocessor_config.json"
    given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: tuple(given[f"image_{name}"]) for name in ("mean", "std") if f"image_{name}" in given}


def renamed(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of a CLIPModel under open_clip's names: q, k and v become one matrix, projections are
    transposed."""
    import torch

    out: dict[str, Any] = {}
    for name, tensor in weights.items():
        if name.endswith("position_ids") or ".k_proj." in name or ".v_proj." in name:
            continue
        if name.endswith("_projection.weight"):
            out["visual.proj" if name.startswith("visual") else "text_projection"] = tensor.T.contiguous()
            continue
        if ".q_proj." in name:
            tensor = torch.cat([weights[name.replace(".q_proj.", f".{x}_proj.")] for x in "qkv"])
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
        for old, new in _NAMES.items():
            name = name.replace(old, new)
        out[name] = tensor
    return out
