"""Hugging Face's CLIPModel as open_clip's: the same weights under other names, so that both are trained and
evaluated by one code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError

_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_NORMS = {
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.final_layer_norm": "ln_final",
}


def is_hugging_face(folder: Path) -> bool:
    """Whether the folder holds a CLIPModel as transformers saves it."""
    try:
        return bool(
            json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "clip"
        )
    except (OSError, ValueError, AttributeError):
        return False


def model_config(folder: Path) -> dict[str, Any]:
    """open_clip's configuration for a CLIPModel's folder. UserError for what open_clip's CLIP can't be
    (another vocabulary, epsilon, activation)."""
    from transformers import CLIPConfig

    config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    vision, text = config.vision_config, config.text_config
    for name, tower in (("vision", vision), ("text", text)):
        if (
            tower.hidden_act not in ("gelu", "quick_gelu")
            or tower.hidden_act != vision.hidden_act
            or tower.layer_norm_eps != 1e-5
        ):
            found = f"{name} tower with {tower.hidden_act} and layer_norm_eps {tower.layer_norm_eps}"
            raise UserError(
                f"{folder}: expected a CLIP of gelu or quick_gelu and 1e-5 in both towers, found a {found}"
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
    """Mean and deviation from the folder's preprocessor_config.json, where it has one."""
    path = folder / "preprocessor_config.json"
    given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {
        to: tuple(given[key]) for key, to in (("image_mean", "mean"), ("image_std", "std")) if key in given
    }


def state_dict(folder: Path) -> dict[str, Any]:
    """The folder's weights under open_clip's names."""
    from transformers import CLIPModel
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return renamed(CLIPModel.from_pretrained(folder, local_files_only=True).state_dict())
    finally:
        if shown:
            logging.enable_progress_bar()


def renamed(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of a CLIPModel -> those of open_clip's CLIP: q, k, v are one matrix there, projections are
    transposed."""
    import torch

    out = {
        "logit_scale": weights["logit_scale"],
        "visual.class_embedding": weights["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": weights["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": weights["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": weights["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "text_projection": weights["text_projection.weight"].T.contiguous(),
    }
    for old, new in _NORMS.items():
        out |= {f"{new}.{p}": weights[f"{old}.{p}"] for p in ("weight", "bias")}
    for tower, prefix in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
        head = f"{tower}.encoder.layers."
        for layer in {int(name[len(head) :].split(".")[0]) for name in weights if name.startswith(head)}:
            old, new = f"{head}{layer}", f"{prefix}.resblocks.{layer}"
            for part in ("weight", "bias"):
                out |= {f"{new}.{b}.{part}": weights[f"{old}.{a}.{part}"] for a, b in _BLOCK.items()}
                out[f"{new}.attn.in_proj_{part}"] = torch.cat(
                    [weights[f"{old}.self_attn.{x}_proj.{part}"] for x in "qkv"]
                )
    return out
