"""CLIP models: built by open_clip's names, read from its folders, from ours and from Hugging Face's, and
written as open_clip reads them.

A folder of ours holds `open_clip_model.safetensors` and `open_clip_config.json`:
`open_clip.create_model("local-dir:FOLDER")` opens it, and so does `open_clip.create_model("ViT-B-16",
pretrained="FOLDER/open_clip_model.safetensors")` for a model that open_clip knows by name."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError, first_line, unknown
from ..models.hf import HFOptions, locate
from ..models.installed import need
from ..models.torchvision_fix import make_torchvision_importable
from . import convert
from .attention import lean
from .data.images import centre_crop, shorter_edge
from .data.tokens import Tokenizer, tokenizer_of

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
Array = np.ndarray[Any, Any]
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_UNFIT = (RuntimeError, ValueError, KeyError, OSError, TypeError, AttributeError, AssertionError)
"""What open_clip, torch and transformers raise for weights and configurations that do not belong together."""


def import_open_clip(where: str = "train") -> Any:
    """The package open_clip, importable beside any torch; UserError with the pip line where something is
    missing."""
    for module in ("torch", "open_clip", "safetensors"):
        need(module, "clip", where)
    make_torchvision_importable("clip")
    import open_clip

    return open_clip


def pick_device(name: str) -> Any:
    """`auto` (cuda if there is one, else cpu) or a device by name, as a torch.device."""
    import torch

    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def pick_precision(name: str, device: Any) -> str:
    """`auto` as bf16 on a GPU that has it (fp16 on older ones) and on a processor with instructions for it,
    else float32: emulated, bf16 took nine times as long as float32 on a processor with AVX2 alone."""
    import torch

    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return (
        "bf16"
        if device.type == "cpu" and any(flag in _processor() for flag in ("avx512_bf16", "amx_bf16"))
        else "float32"
    )


@lru_cache(maxsize=1)
def _processor() -> frozenset[str]:
    """The processor's flags, where Linux tells them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def autocast(precision: str, device: Any) -> Any:
    """torch's autocast for `bf16` and `fp16`, nothing for `float32`."""
    import torch

    return (
        contextlib.nullcontext()
        if precision == "float32"
        else torch.autocast(device.type, dtype=getattr(torch, _DTYPES[precision]))
    )


@dataclass(slots=True)
class Built:
    """A module of open_clip, its configuration as open_clip_config.json holds it, its tokenizer, where the
    weights are from, and how many samples `ctrlsynth train` had shown them (None for weights of others)."""

    module: Any
    config: dict[str, Any]
    tokenizer: Tokenizer
    name: str
    digest: str
    samples: int | None = None


def build(
    name: str,
    *,
    image_size: int | None = None,
    sigmoid: bool = False,
    seed: int = 0,
    where: str = "train.model",
) -> Built:
    """A new model with random weights that hang on `seed`: an open_clip name (`ViT-B-16`, `ViT-B/16`), `tiny`
    (64 px, 2.4M parameters and a token table of 4.7M), or a JSON file in open_clip's form. `sigmoid` starts
    scale and bias as SigLIP does."""
    open_clip = import_open_clip()
    import torch

    known = _register(open_clip, name, where)
    config = open_clip.get_model_config(known)
    if config is None:
        raise _unknown(known, open_clip.list_models(), where)
    if "multimodal_cfg" in config:
        raise UserError(
            f"{where}: {known} is a CoCa model with a caption loss; expected a CLIP of two towers"
        )
    kwargs = {"init_logit_scale": float(np.log(10)), "init_logit_bias": -10.0} if sigmoid else {}
    torch.manual_seed(seed)
    _text_at_hand(config["text_cfg"], known, where)
    try:
        with _quiet():
            module = open_clip.create_model(
                known, pretrained_text=False, force_image_size=image_size, **kwargs
            )
    except _UNFIT as error:
        raise UserError(f"{where}: {name}: open_clip cannot build this model: {first_line(error)}") from error
    if image_size is not None:
        config["vision_cfg"]["image_size"] = image_size
    digest = hashlib.sha256(f"{json.dumps(config, sort_keys=True)}{seed}{sigmoid}".encode()).hexdigest()[:16]
    return _built(
        module, {**config, **kwargs}, open_clip.get_model_preprocess_cfg(module), known, known, digest
    )


def _unknown(name: str, models: Sequence[str], where: str) -> UserError:
    """Names the nearest of open_clip's names; where none is near, `tiny` and the plain ViTs, for all would
    fill the screen."""
    names = ["tiny", *(m for m in models if not m.startswith("coca"))]
    plain = ["tiny", *(m for m in models if re.fullmatch(r"ViT-\w+-\d+", m))]
    return unknown("model", name, names if difflib.get_close_matches(name, names, n=1) else plain, where)


def _text_at_hand(text: dict[str, Any], name: str, where: str) -> None:
    """UserError with the command that fetches it, where a model reads its texts with parts of the hub that
    are not on this machine."""
    for key, what in (("hf_model_name", "text tower"), ("hf_tokenizer_name", "tokenizer")):
        if text.get(key):
            try:
                locate(text[key], HFOptions(), where)
            except UserError as error:
                told = f"{where}: {name} takes the {what} of {text[key]}, which is not on this machine"
                raise UserError(f"{told}; fetch it with `hf download {text[key]}`") from error


def _register(open_clip: Any, name: str, where: str) -> str:
    """Makes `tiny` and JSON files known to open_clip; the name that it then knows."""
    if name == "tiny":
        with resources.as_file(resources.files("ctrlsynth.models") / "data" / "ctrlsynth-tiny.json") as path:
            open_clip.add_model_config(path)
        return "ctrlsynth-tiny"
    if not name.endswith(".json"):
        return name.replace("/", "-")
    path = Path(name).expanduser()
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {path}: cannot read the model's configuration: {error}") from error
    missing = (
        [k for k in ("embed_dim", "vision_cfg", "text_cfg") if k not in config]
        if isinstance(config, dict)
        else ["a mapping"]
    )
    if missing:
        raise UserError(
            f"{where}: {path}: expected open_clip's embed_dim, vision_cfg, text_cfg; missing "
            f"{', '.join(missing)}"
        )
    open_clip.add_model_config(path)
    return path.stem


def _built(
    module: Any, model_cfg: dict[str, Any], preprocess: dict[str, Any], name: str, tokens: str, digest: str
) -> Built:
    size = preprocess.get("size", module.visual.image_size)
    preprocess = {**preprocess, "size": size[0] if isinstance(size, (list, tuple)) else size}
    if preprocess.get("resize_mode", "shortest") not in ("shortest", "squash"):
        raise UserError(
            f"{name}: resize_mode {preprocess['resize_mode']} is not supported; shortest and squash are"
        )
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    return Built(module, config, tokenizer_of(model_cfg, tokens, croppable(module)), name, digest)


def read_folder(path: Path, *, image_size: int | None = None, where: str = "train.init") -> Built:
    """The model in a folder: an output of `ctrlsynth train` (its `model/`, else its newest checkpoint),
    open_clip's, or Hugging Face's."""
    open_clip = import_open_clip()
    folder = _model_folder(path, where)
    preprocess: dict[str, Any] = {}
    try:
        with _quiet():
            if (folder / CONFIG).is_file():
                module = open_clip.create_model(
                    f"local-dir:{folder}", require_pretrained=True, force_image_size=image_size
                )
                config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
                preprocess = open_clip.get_model_preprocess_cfg(module)
            else:
                config = convert.model_config(folder)
                if image_size is not None:
                    config["vision_cfg"]["image_size"] = image_size
                module = _with_weights(open_clip, config, convert.state_dict(folder))
                preprocess = {
                    **open_clip.get_model_preprocess_cfg(module),
                    **convert.preprocess_config(folder),
                }
    except _UNFIT as error:
        raise UserError(
            f"{where}: {folder}: the weights do not fit the configuration beside them: {first_line(error)}"
        ) from error
    if image_size is not None:
        config["vision_cfg"]["image_size"] = image_size
    built = _built(module, config, preprocess, path.name, f"local-dir:{folder}", _digest(folder))
    built.samples = _samples(folder)
    return built


def _with_weights(open_clip: Any, config: dict[str, Any], weights: dict[str, Any]) -> Any:
    from open_clip.model import CLIP, resize_pos_embed

    module = CLIP(**json.loads(json.dumps(config)))
    resize_pos_embed(weights, module)
    module.load_state_dict(weights)
    defaults = vars(open_clip.transform.PreprocessCfg(size=module.visual.image_size))
    open_clip.model.set_model_preprocess_cfg(module, defaults)
    return module


def _model_folder(path: Path, where: str) -> Path:
    if not path.is_dir():
        raise UserError(
            f"{where}: {path} is not a folder; expected one of ours, open_clip's ({CONFIG}) or Hugging "
            f"Face's (config.json)"
        )
    newest = sorted(p for p in (path / "checkpoints").glob("step-*") if (p / CONFIG).is_file())
    for folder in (path, path / "model", *reversed(newest)):
        if (folder / CONFIG).is_file():
            if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
                raise UserError(f"{where}: {folder} has {CONFIG} and no weights (*.safetensors or *.bin)")
            return folder
    if convert.is_hugging_face(path):
        return path
    raise UserError(
        f"{where}: {path} holds no CLIP: expected {CONFIG}, or Hugging Face's config.json of model_type clip"
    )


def _digest(folder: Path) -> str:
    """Over the content of the weights' files."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        if path.name.startswith("optimizer"):
            continue
        with open(path, "rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


def _samples(folder: Path) -> int | None:
    """What the train.json of a checkpoint says that it has seen."""
    state = folder / "train.json"
    return (
        int(json.loads(state.read_text(encoding="utf-8"))["samples"])
        if (folder / CONFIG).is_file() and state.is_file()
        else None
    )


def save_folder(folder: Path, module: Any, config: dict[str, Any]) -> None:
    """Writes weights and configuration into an existing folder, as the module's docstring says."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in module.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _text_tower(module: Any) -> Any:
    return module if hasattr(module, "token_embedding") else getattr(module, "text", module)


def croppable(module: Any) -> bool:
    """Whether the text tower never looks behind the end token: a causal mask, read at the end token, no class
    token, no mask of padding."""
    tower = _text_tower(module)
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    plain = getattr(tower, "cls_emb", None) is None and not getattr(tower, "use_pad_mask", False)
    return (
        plain
        and hasattr(tower, "token_embedding")
        and getattr(tower, "attn_mask", None) is not None
        and pool in ("argmax", "eos")
    )


def encode_tokens(module: Any, ids: Any) -> Any:
    """Text features [n, dim], not normalised, for ids [n, length] of any length up to the context: what
    open_clip's `encode_text` gives for the same ids padded to the context, where the tower is `croppable`."""
    if not croppable(module):
        return module.encode_text(ids)
    from open_clip.transformer import text_global_pool

    tower = _text_tower(module)
    length = ids.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    x = text_global_pool(
        x, ids, pool, eos_token_id=getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
    )
    projection = tower.text_projection
    if projection is None:
        return x
    return (
        x @ projection if projection.ndim == 2 and not hasattr(projection, "in_features") else projection(x)
    )


class ClipModel:
    """A model to evaluate: texts and images in, features out (float32, not normalised), no gradients.

    `name`, `digest` (16 hex digits of the weights' content), `size` (pixels), `dim`, `logit_scale` (already
    exponentiated), `device`, `samples` (seen in training, where a checkpoint of ours says it)."""

    def __init__(self, built: Built, device: Any, precision: str = "float32") -> None:
        self.module = lean(built.module).to(device).eval()
        self.config, self.name, self.digest, self.device = built.config, built.name, built.digest, device
        self._tokenizer, self._precision, self.samples = built.tokenizer, precision, built.samples
        self._cfg = built.config["preprocess_cfg"]
        self.size, self.dim = int(self._cfg["size"]), int(built.config["model_cfg"]["embed_dim"])
        self.logit_scale = float(self.module.logit_scale.detach().exp())
        self.normalise = Normalise(self._cfg["mean"], self._cfg["std"], device)

    @property
    def id(self) -> str:
        """The name, for tables."""
        return self.name

    def preprocess(self, image: Image.Image) -> Array:
        """uint8 [size, size, 3]: the shorter edge to `size` and the centre, or squashed where the model wants
        that; as open_clip's."""
        method = (
            Image.Resampling.BILINEAR
            if self._cfg.get("interpolation") == "bilinear"
            else Image.Resampling.BICUBIC
        )
        image = image.convert("RGB")
        if self._cfg.get("resize_mode", "shortest") == "squash":
            return np.asarray(image.resize((self.size, self.size), method))
        return np.asarray(centre_crop(shorter_edge(image, self.size, method), self.size))

    def to_float(self, batch: Any) -> Any:
        """uint8 [n, size, size, 3] -> normalised float [n, 3, size, size] on the model's device."""
        import torch

        return self.normalise(
            torch.as_tensor(np.asarray(batch)) if not isinstance(batch, torch.Tensor) else batch
        )

    def encode_image(self, batch: Any) -> Any:
        """Features [n, dim] of PIL images, or of uint8 [n, size, size, 3] as `preprocess` gives."""
        import torch

        if isinstance(batch, (list, tuple)):
            batch = np.stack(
                [self.preprocess(b) if isinstance(b, Image.Image) else np.asarray(b) for b in batch]
            )
        with torch.inference_mode(), autocast(self._precision, self.device):
            return self.module.encode_image(self.to_float(batch)).float()

    def encode_text(self, texts: Sequence[str]) -> Any:
        """Features [n, dim] of texts, cut at the model's context as open_clip cuts them."""
        import torch

        ids = torch.from_numpy(self._tokenizer(texts)).to(self.device)
        with torch.inference_mode(), autocast(self._precision, self.device):
            return encode_tokens(self.module, ids).float()


class Normalise:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w]: (x / 255 - mean) / std, on the device, laid out channels
    last without a copy."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: Any) -> None:
        import torch

        self.scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        self.device = device

    def __call__(self, batch: Any) -> Any:
        import torch

        moved = batch.to(self.device, non_blocking=True)
        return torch.addcmul(self.shift, moved.float(), self.scale).permute(0, 3, 1, 2)


def load_model(source: str | Path, *, device: str = "cpu", precision: str = "float32") -> ClipModel:
    """A model for evaluation: a folder (ours, open_clip's, Hugging Face's), `NAME=FILE` (an open_clip name
    and its weights), or `NAME` with random weights. Nothing is fetched. Raises UserError in one line."""
    import_open_clip("model")
    text = str(source)
    name, sep, file = text.partition("=")
    if Path(text).exists() or ("/" in text and not sep and not text.startswith("ViT")):
        built = read_folder(Path(text), where="model")
    else:
        built = build(name, where="model")
        if sep:
            _load_file(built, Path(file))
    picked = pick_device(device)
    return ClipModel(built, picked, pick_precision(precision, picked))


def _load_file(built: Built, path: Path) -> None:
    from open_clip.factory import load_checkpoint

    if not path.is_file():
        raise UserError(f"model: {path}: no such file of weights")
    try:
        with _quiet():
            load_checkpoint(built.module, str(path))
    except _UNFIT as error:
        raise UserError(f"model: {path}: not the weights of {built.name}: {first_line(error)}") from error
    with open(path, "rb") as stream:
        built.digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """open_clip tells each step of loading on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
