"""CatLIP (2a), the classifier of CtrlSynth's hybrid tagger (section 3.1): a ViT over 24,320 nouns of WordNet.

    {catlip: vit_huge.pt, vocabulary: datacomp_1_2B_vocab.pkl}

Both files are Apple's (corenet, projects/catlip). The vocabulary is a pickle of synset -> count, of which the
first 24,320 are the classes. Neither file's pickle can execute anything. The network is rebuilt from the
checkpoint's shapes on timm's VisionTransformer: a stem of three convolutions instead of one, no position for
the class token, heads of 64 numbers. Pixels are 0..1 without normalisation, the middle 224 of 232, as in
corenet's evaluation.

Written from corenet's public code and tested on a tiny checkpoint in its naming, NOT on the published
weights."""

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import UserError
from ..device import make_torchvision_importable
from ..hub.find import HFOptions, locate
from ..hub.load import check_plain, fit, read_state
from .classifier import Loaded, PixelClassifier, finish_timm
from .labels import read_labels

_WHERE = "models.tagger"
CLASSES = 24_320
HEAD = 64  # numbers of a head in every size of corenet's ViT
SIDE, RESIZED = 224, 232
_NAMES = (
    (r"cls_token", "cls_token"),
    (r"pos_embed\.pos_embed\.pos_embed", "pos_embed"),
    (r"post_transformer_norm\.", "norm."),
    (r"classifier\.", "head."),
    (r"patch_emb\.([012])\.block\.", r"patch_embed.stem.\1."),
    (r"transformer\.(\d+)\.pre_norm_mha\.0\.", r"blocks.\1.norm1."),
    (r"transformer\.(\d+)\.pre_norm_mha\.1\.qkv_proj\.", r"blocks.\1.attn.qkv."),
    # out_proj_attn: with flash attention, as CatLIP was trained
    (r"transformer\.(\d+)\.pre_norm_mha\.1\.out_proj(?:_attn)?\.", r"blocks.\1.attn.proj."),
    (r"transformer\.(\d+)\.pre_norm_ffn\.0\.", r"blocks.\1.norm2."),
    (r"transformer\.(\d+)\.pre_norm_ffn\.1\.", r"blocks.\1.mlp.fc1."),
    (r"transformer\.(\d+)\.pre_norm_ffn\.4\.", r"blocks.\1.mlp.fc2."),
)
"""How corenet's names of weights begin -> how timm's do."""
_NEEDED = ("cls_token", "pos_embed", "head.bias", "blocks.0.mlp.fc1.bias", "patch_embed.stem.0.conv.weight")


class CatLIPTagger(PixelClassifier):
    """`model` is the checkpoint, `vocabulary` the pickle, or a label file with a synset or name per line. The
    paper takes the top 20 by sigmoid, without a cut. Options: dtype, device, adapters (in timm's names,
    `blocks.0.attn.qkv`), quantization by torchao."""

    packages = ("torch", "timm")

    def __init__(
        self,
        model: Any = None,
        *,
        vocabulary: str | None = None,
        classes: int = CLASSES,
        top_k: int = 20,
        cut: float = 0.0,
        batch: int = 64,
        **options: Any,
    ) -> None:
        if model is None or vocabulary is None:
            raise UserError(
                f"{_WHERE}: catlip takes its two files, such as "
                f"{{catlip: vit_huge.pt, vocabulary: datacomp_1_2B_vocab.pkl}}"
            )
        asked = HFOptions.read(options, _WHERE, ("vocabulary", "classes", "top_k", "cut", "batch"))
        check_plain(asked, _WHERE)
        found = locate(model, asked, _WHERE)
        if not found.folder.is_file():
            raise UserError(f"{_WHERE}: {model}: catlip takes a file, corenet's checkpoint")
        labels = read_labels(Path(vocabulary), f"{_WHERE}.vocabulary")[:classes]
        super().__init__(
            f"catlip:{Path(found.name).name}",
            found,
            labels,
            "catlip",
            top_k=top_k,
            cut=cut,
            batch=batch,
            multi_label=True,
        )

    def _load(self) -> Loaded:
        import torch

        path = self.found.folder
        state = timm_state(read_state(path, _WHERE), path)
        if len(state["head.bias"]) != len(self.labels):
            raise UserError(
                f"{_WHERE}: {path} has {len(state['head.bias'])} classes, its vocabulary {len(self.labels)}"
            )
        network = build(state)
        fit(network, state, path, _WHERE)
        return finish_timm(
            network, self.found, lambda image: torch.tensor(middle(image).transpose(2, 0, 1)) / 255
        )


def middle(image: Image.Image) -> np.ndarray[Any, Any]:
    """The middle 224 x 224 of the picture whose shorter side is 232: uint8 [224, 224, 3]."""
    width, height = image.size
    half = min(width, height) * SIDE / RESIZED / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box))


def timm_state(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Renames corenet's weights to timm's. UserError for a name that its ViT lacks."""
    out: dict[str, Any] = {}
    for name, array in state.items():
        if name.startswith("neural_augmentor."):  # of the training only
            continue
        renamed = next((re.sub(old, new, name, count=1) for old, new in _NAMES if re.match(old, name)), None)
        if renamed is None:
            raise UserError(f"{_WHERE}: {path}: {name[:80]!r} is no part of corenet's ViT")
        out[renamed] = array[0] if renamed == "pos_embed" else array
    missing = next((name for name in _NEEDED if name not in out), None)
    if missing is not None:
        raise UserError(f"{_WHERE}: {path}: no checkpoint of corenet's ViT ({missing} is missing)")
    return out


def build(state: dict[str, Any]) -> Any:
    """A timm VisionTransformer with the shapes of the state dict."""
    make_torchvision_importable()
    from functools import partial

    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    width = state["cls_token"].shape[-1]
    return VisionTransformer(
        img_size=SIDE,
        num_classes=len(state["head.bias"]),
        embed_dim=width,
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        num_heads=width // HEAD,
        mlp_ratio=len(state["blocks.0.mlp.fc1.bias"]) / width,
        no_embed_class=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        embed_layer=_stem(state["patch_embed.stem.0.conv.weight"].shape[0]),
        weight_init="skip",
    )


def _stem(inner: int) -> Callable[..., Any]:
    """corenet's stem as timm's patch embedding: 4 x 4, 2 x 2 and 2 x 2 convolutions, the first two with norm
    and GELU."""
    from torch import nn

    def step(before: int, after: int, size: int, last: bool = False) -> Any:
        # corenet pads by (kernel - 1) // 2: one pixel around the first of the three, none around the others
        conv = nn.Conv2d(before, after, size, size, padding=(size - 1) // 2, bias=last)
        more = {} if last else {"norm": nn.BatchNorm2d(after), "act": nn.GELU()}
        return nn.Sequential(OrderedDict(conv=conv, **more))

    class Stem(nn.Module):  # type: ignore[misc]
        def __init__(self, img_size: int, embed_dim: int, in_chans: int = 3, **_: Any) -> None:
            super().__init__()
            self.num_patches = (img_size // 16) ** 2
            self.stem = nn.Sequential(
                step(in_chans, inner, 4), step(inner, inner, 2), step(inner, embed_dim, 2, last=True)
            )

        def forward(self, pixels: Any) -> Any:
            return self.stem(pixels).flatten(2).transpose(1, 2)

    return Stem
