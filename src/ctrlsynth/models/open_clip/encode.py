"""Encodes images and texts with a CLIP model of open_clip: preprocessing, normalisation, token ids, both
towers.

Token ids are cut to the longest caption of a batch: captions of 12 tokens do not pay for 77. Everything after
a caption's end token is padding. A tower with a causal mask that is read at the end token never looks at it,
so cutting a batch after its longest caption changes no embedding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ...errors import UserError, first_line
from ...lang.clip_tokens import END, encode
from .attention import use_views

Array = np.ndarray[Any, Any]
_STEP = 8


class Tokenizer:
    """Texts -> ids, int64 [n, length]: length is that of the longest text rounded up to a multiple of 8, at
    most `context`.

    Uses CLIP's byte-pair table, with the same ids as open_clip's tokenizer; `other` is an open_clip tokenizer
    for models with another vocabulary. `crop=False` pads to `context`, for towers that see the padding.
    """

    def __init__(
        self, context: int = 77, other: Callable[[list[str]], Any] | None = None, crop: bool = True
    ) -> None:
        self.context, self._other, self._crop = context, other, crop

    def __call__(self, texts: Sequence[str]) -> Array:
        if self._other is not None:
            ids = np.asarray(self._other(list(texts)))
        else:
            ids = np.zeros((len(texts), self.context), dtype=np.int64)
            for at, row in enumerate(map(encode, texts)):
                if len(row) > self.context:
                    row = [*row[: self.context - 1], END]
                ids[at, : len(row)] = row
        if not self._crop:
            return ids
        longest = 1 + int(np.flatnonzero(ids.any(axis=0)).max(initial=0))  # padding is 0
        return np.ascontiguousarray(ids[:, : -(-longest // _STEP) * _STEP])


@dataclass(slots=True)
class LoadedClip:
    """An open_clip module with its configuration (the content of open_clip_config.json) and its tokenizer.

    digest     16 hexadecimal digits of the weights' content, or of name and seed for random weights
    samples    how many samples `ctrlsynth train` has shown it; None for other weights
    precision  fp32, or the fp16 or bf16 that its weights were cast to"""

    module: Any
    config: dict[str, Any]
    tokenizer: Tokenizer
    name: str
    digest: str
    samples: int | None = None
    precision: str = "fp32"

    @property
    def size(self) -> int:
        """Edge of its images in pixels (the height, in a model for images that are not square)."""
        size = self.config["preprocess_cfg"]["size"]
        return int(size[0] if isinstance(size, (list, tuple)) else size)


class ClipModel:
    """A model for inference: images and texts in, float32 features [n, dim] out, without gradients.

    `name` (also `id`), `digest`, `samples` as in `LoadedClip`; `size` in pixels, `dim`, `device`."""

    def __init__(self, loaded: LoadedClip, device: Any) -> None:
        from open_clip.model import get_input_dtype
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.module = use_views(loaded.module).to(device).eval()
        self.name = self.id = loaded.name
        self.digest, self.samples, self.size, self.device = loaded.digest, loaded.samples, loaded.size, device
        self.dim = int(loaded.config["model_cfg"]["embed_dim"])
        self._tokenizer, self._dtype = loaded.tokenizer, get_input_dtype(loaded.precision)
        preprocess = loaded.config["preprocess_cfg"]
        self._resize = image_transform_v2(PreprocessCfg(**preprocess), is_train=False).transforms[:-2]
        self.normalise = Normalise(preprocess["mean"], preprocess["std"], device)

    def preprocess(self, image: Image.Image) -> Array:
        """Resizes and crops as open_clip does; uint8 [size, size, 3]."""
        image = image.convert("RGB")
        for step in self._resize:  # all but the last two: to a tensor, and its normalisation
            image = step(image)
        return np.asarray(image)

    def encode_image(self, batch: Any, normalize: bool = False) -> Any:
        """Features of PIL images, or of uint8 [n, size, size, 3] as `preprocess` gives."""
        import torch

        if isinstance(batch, (list, tuple)):
            batch = np.stack(
                [self.preprocess(b) if isinstance(b, Image.Image) else np.asarray(b) for b in batch]
            )
        with torch.inference_mode():
            pixels = self.normalise(torch.as_tensor(np.asarray(batch))).to(self._dtype)
            return self.module.encode_image(pixels, normalize=normalize).float()

    def encode_text(self, texts: Sequence[str], normalize: bool = False) -> Any:
        """Features of texts, cut at the model's context."""
        import torch

        ids = torch.from_numpy(self._tokenizer(texts)).to(self.device)
        with torch.inference_mode():
            features = encode_tokens(self.module, ids)
            return (torch.nn.functional.normalize(features, dim=-1) if normalize else features).float()


class Normalise:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w]: (x / 255 - mean) / std, on the device, in channels-last
    layout without a copy."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: Any) -> None:
        import torch

        self.scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        self.device = device

    def __call__(self, batch: Any) -> Any:
        import torch

        pixels = batch.to(self.device, non_blocking=True).float()
        return torch.addcmul(self.shift, pixels, self.scale).permute(0, 3, 1, 2)


def croppable(module: Any) -> bool:
    """Whether the text tower ignores everything after the end token: it has a causal mask, is read at the end
    token, and has no class token and no padding mask. Then batches of ids may be cut short."""
    tower = _text_tower(module)
    plain = getattr(tower, "cls_emb", None) is None and not getattr(tower, "use_pad_mask", False)
    causal = hasattr(tower, "token_embedding") and getattr(tower, "attn_mask", None) is not None
    return plain and causal and _pooling(tower) in ("argmax", "eos")


def encode_tokens(module: Any, ids: Any) -> Any:
    """Text features [n, dim], not normalised, for ids [n, length]. A `croppable` tower takes any length up to
    the context, with the features that open_clip's `encode_text` gives for the same ids padded to it."""
    if not croppable(module):
        return module.encode_text(ids)
    from open_clip.transformer import text_global_pool

    tower = _text_tower(module)
    length = ids.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    end = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
    x = text_global_pool(x, ids, _pooling(tower), eos_token_id=end)
    projection = tower.text_projection
    if projection is None:
        return x
    linear = hasattr(projection, "in_features") or projection.ndim != 2
    return projection(x) if linear else x @ projection


def _text_tower(module: Any) -> Any:
    """The module itself (CLIP), or its `text` (CustomTextCLIP)."""
    return module if hasattr(module, "token_embedding") else getattr(module, "text", module)


def _pooling(tower: Any) -> Any:
    return getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))


def tokenizer_of(config: Mapping[str, Any], name: str, module: Any) -> Tokenizer:
    """The tokenizer of a model with the open_clip configuration `config`; `name` is its name for open_clip's
    `get_tokenizer`."""
    text, crop = config["text_cfg"], croppable(module)
    context = int(text.get("context_length", 77))
    siglip = "siglip" in name.lower() and not name.startswith("local-dir:")
    if not (text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs") or siglip):
        return Tokenizer(context, crop=crop)
    import open_clip

    try:
        return Tokenizer(context, open_clip.get_tokenizer(name), crop)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: its tokenizer {text.get('hf_tokenizer_name', '')} cannot be loaded: {first_line(error)}"
        ) from error
