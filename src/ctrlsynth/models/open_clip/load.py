"""Builds CLIP models of open_clip and loads their weights: by name, from our folders, open_clip's or Hugging
Face's. Training, evaluation and the open_clip tagger all start here.

Our folders hold `open_clip_model.safetensors` and `open_clip_config.json`:
`open_clip.create_model("local-dir:FOLDER")` opens them, and so does `open_clip.create_model("ViT-B-16",
pretrained="FOLDER/open_clip_model.safetensors")` for a model that open_clip knows by name."""

import difflib
import hashlib
import json
import logging
import math
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

from ...errors import UserError, first_line, unknown
from ..device import choose_device, make_torchvision_importable
from ..hub.files import sha256_of
from ..hub.find import HFOptions, locate
from ..installed import need
from . import hugging_face
from .encode import ClipModel, LoadedClip, tokenizer_of

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
STATE = "train.json"
"""Where a checkpoint of `ctrlsynth train` says, among other things, how many samples it has seen."""
_PATTERNS = ("*.safetensors", "*.bin", "*.pth")


def import_open_clip(where: str = "train") -> Any:
    """Imports open_clip beside any build of torch. UserError with the pip line if a package is missing."""
    for module in ("torch", "open_clip", "safetensors"):
        need(module, "clip", where)
    make_torchvision_importable("clip")
    import open_clip

    return open_clip


def build(
    name: str,
    weights: Path | None = None,
    *,
    image_size: int | None = None,
    sigmoid: bool = False,
    seed: int = 0,
    precision: str = "fp32",
    where: str = "train.model",
) -> LoadedClip:
    """Builds a model with the weights of a file, or with random weights drawn from `seed`.

    `name` is an open_clip name (`ViT-B-16`, `ViT-B/16`), `tiny` (64 pixels, 2.4M parameters and a token table
    of 4.7M), or a JSON file in open_clip's form. `sigmoid` starts scale and bias as SigLIP does."""
    open_clip = import_open_clip(where)
    import torch

    if weights is not None and not weights.is_file():
        raise UserError(f"{where}: {weights}: no such file of weights")
    known = _register(open_clip, name, where)
    config = open_clip.get_model_config(known)
    if config is None:
        models = open_clip.list_models()
        names = ["tiny", *(m for m in models if not m.startswith("coca"))]
        if not difflib.get_close_matches(known, names, n=1):  # suggest the plain ViTs
            names = ["tiny", *(m for m in models if re.fullmatch(r"ViT-\w+-\d+", m))]
        raise unknown("model", known, names, where)
    if "multimodal_cfg" in config and weights is None:
        raise UserError(
            f"{where}: {known} is a CoCa model with a caption loss; expected a CLIP of two towers"
        )
    start = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0} if sigmoid else {}
    if image_size is not None:
        config["vision_cfg"]["image_size"] = image_size
    _check_text_tower(config["text_cfg"], known, where)
    torch.manual_seed(seed)
    module = _create(
        open_clip, known, f"{where}: {name}", force_image_size=image_size, precision=precision, **start
    )
    digest = hashlib.sha256(f"{json.dumps(config, sort_keys=True)}{seed}{sigmoid}".encode()).hexdigest()
    if weights is not None:
        _load(module, [weights], f"{where}: {weights}: not the weights of {known}")
        digest = sha256_of(weights)
    return LoadedClip(
        module,
        _full(module, {**config, **start}),
        tokenizer_of(config, known, module),
        known,
        digest[:16],
        precision=precision,
    )


def load_folder(
    path: Path, *, image_size: int | None = None, precision: str = "fp32", where: str = "train.init"
) -> LoadedClip:
    """Loads the model in a folder: an output of `ctrlsynth train` (its `model/`, else its newest checkpoint),
    open_clip's, or Hugging Face's."""
    open_clip = import_open_clip(where)
    folder = _model_folder(path, where)
    ours = (folder / CONFIG).is_file()
    config = model_cfg(folder, where) if ours else hugging_face.model_config(folder)
    if image_size is not None:
        config["vision_cfg"]["image_size"] = image_size
    files = _weight_files(folder)
    failure = f"{where}: {folder}: the weights do not fit the configuration beside them"
    if ours:
        module = _create(
            open_clip,
            f"local-dir:{folder}",
            f"{where}: {folder}",
            load_weights=False,
            force_image_size=image_size,
            precision=precision,
        )
        _load(module, sorted(files, key=_preference), failure)
    else:
        module, precision = open_clip.CLIP(**deepcopy(config)), "fp32"
        suffix = min(files, key=_preference).suffix
        _load(module, [p for p in files if p.suffix == suffix], failure, rename=True)
        defaults = vars(open_clip.transform.PreprocessCfg(size=module.visual.image_size))
        open_clip.model.set_model_preprocess_cfg(module, defaults | hugging_face.preprocess_config(folder))
    digest = hashlib.sha256(bytes.fromhex("".join(map(sha256_of, files)))).hexdigest()[:16]
    state = folder / STATE
    samples = json.loads(state.read_text(encoding="utf-8"))["samples"] if ours and state.is_file() else None
    return LoadedClip(
        module,
        _full(module, config),
        tokenizer_of(config, f"local-dir:{folder}", module),
        path.name,
        digest,
        samples,
        precision,
    )


def save_folder(folder: Path, module: Any, config: dict[str, Any]) -> None:
    """Writes weights and configuration into an existing folder, in the form of the module's docstring."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in module.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _full(module: Any, model_cfg: dict[str, Any]) -> dict[str, Any]:
    """The content of open_clip_config.json: the model's configuration and its preprocessing."""
    from open_clip import get_model_preprocess_cfg

    preprocess = get_model_preprocess_cfg(module)
    size = preprocess.get("size", module.visual.image_size)
    size = size[0] if isinstance(size, (list, tuple)) and len(set(size)) == 1 else size
    return {"model_cfg": model_cfg, "preprocess_cfg": {**preprocess, "size": size}}


def _check_text_tower(text: dict[str, Any], name: str, where: str) -> None:
    """UserError with the command that fetches it if the text tower or tokenizer is a hub model that is not on
    this machine."""
    for key, what in (("hf_model_name", "text tower"), ("hf_tokenizer_name", "tokenizer")):
        if text.get(key):
            try:
                locate(text[key], HFOptions(), where)
            except UserError as error:
                raise UserError(
                    f"{where}: {name} takes the {what} of {text[key]}, which is not on this machine; fetch "
                    f"it with `hf download {text[key]}`"
                ) from error


def _register(open_clip: Any, name: str, where: str) -> str:
    """Makes `tiny` and JSON files known to open_clip; returns open_clip's name for the model."""
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
    keys = ("embed_dim", "vision_cfg", "text_cfg")
    missing = [k for k in keys if k not in config] if isinstance(config, dict) else ["a mapping"]
    if missing:
        raise UserError(
            f"{where}: {path}: expected open_clip's {', '.join(keys)}; missing {', '.join(missing)}"
        )
    open_clip.add_model_config(path)
    return path.stem


def _model_folder(path: Path, where: str) -> Path:
    """The folder with the weights, at or below `path`."""
    if not path.is_dir():
        raise UserError(
            f"{where}: {path} is not a folder; expected one of ours, open_clip's ({CONFIG}) or Hugging "
            f"Face's (config.json)"
        )
    newest = sorted((path / "checkpoints").glob("step-*"), reverse=True)
    ours = next((f for f in (path, path / "model", *newest) if (f / CONFIG).is_file()), None)
    if ours is None and not (hugging_face.is_clip(path) and _weight_files(path)):
        raise UserError(
            f"{where}: {path} holds no CLIP: expected {CONFIG}, or Hugging Face's config.json of "
            f"model_type clip"
        )
    if ours is not None and not _weight_files(ours):
        raise UserError(f"{where}: {ours} has {CONFIG} and no weights ({', '.join(_PATTERNS)})")
    return ours or path


def model_cfg(folder: Path, where: str) -> dict[str, Any]:
    """The model's part of a folder's open_clip_config.json."""
    path = folder / CONFIG
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["model_cfg"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: {path} is damaged: {first_line(error)}") from error


def _weight_files(folder: Path) -> list[Path]:
    found = sorted(p for pattern in _PATTERNS for p in folder.glob(pattern))
    return [p for p in found if not p.name.startswith("optimizer")]


def _preference(path: Path) -> tuple[bool, bool, str]:
    """Sort key: open_clip's own file names first, then safetensors."""
    return not path.name.startswith("open_clip"), path.suffix != ".safetensors", path.name


def _create(open_clip: Any, name: str, where: str, **options: Any) -> Any:
    """Builds a module. open_clip raises TypeError for an unknown key of a configuration, AssertionError or
    ValueError for sizes that do not divide, RuntimeError for an unknown timm tower."""
    with _refused(
        f"{where}: open_clip cannot build this model", TypeError, AssertionError, ValueError, RuntimeError
    ):
        return open_clip.create_model(name, pretrained_text=False, **options)


def _load(module: Any, paths: Sequence[Path], failure: str, rename: bool = False) -> None:
    """Loads weight files, of Hugging Face's model with `rename`. torch raises RuntimeError for other names or
    shapes, open_clip AssertionError for another text width; the other errors are for files without
    weights."""
    from open_clip.factory import load_checkpoint, load_state_dict, resize_pos_embed
    from safetensors import SafetensorError

    unreadable = (SafetensorError, pickle.UnpicklingError, EOFError)
    with _refused(failure, RuntimeError, AssertionError, *unreadable):
        if not rename:
            load_checkpoint(module, str(paths[0]))
            return
        weights = hugging_face.renamed({k: v for p in paths for k, v in load_state_dict(str(p)).items()})
        resize_pos_embed(weights, module)
        module.load_state_dict(weights)


@contextmanager
def _refused(failure: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns the named errors of a call of open_clip into a UserError, and silences its log on the root
    logger."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    except errors as error:
        raise UserError(f"{failure}: {first_line(error)}") from error
    finally:
        logging.disable(before)


def load_model(source: str | Path, *, device: str = "cpu") -> ClipModel:
    """Loads a model for evaluation: a folder (see `load_folder`), `NAME=FILE` (an open_clip name and its
    weights), or `NAME` with random weights. Fetches nothing. `device` is auto or a torch device."""
    text = str(source)
    name, _, file = text.partition("=")
    if Path(text).exists() or ("/" in text and not file and not text.startswith("ViT")):
        loaded = load_folder(Path(text), where="model")
    else:
        loaded = build(name, Path(file) if file else None, where="model")
    return ClipModel(loaded, choose_device(device, "model"))
