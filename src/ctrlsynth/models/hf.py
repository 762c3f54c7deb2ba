"""What every backend with Hugging Face weights shares (2a, 2b, 2c): where the weights are, what they are
called in a digest, how they load.

A recipe names a model by its hub name or by a local folder, with these options beside the backend's own:

    revision      a branch, tag or commit of the hub
    dtype         auto (as the checkpoint says), float32, float16, bfloat16
    device        auto (cuda, else mps, else cpu), or one by name: cpu, cuda, cuda:1, mps
    adapters      LoRA adapters by peft, folders or hub names, merged in this order
    quantization  int8, int4 (bitsandbytes), torchao-int8, torchao-int4
    download      true: fetch from the hub what is missing. Without it a model that is not at hand is an
                  error, nothing is fetched

All of them belong to the digest, `download` and the number of a device aside. Nothing here runs code of a
model's repository. Importing this module loads no torch."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line, unknown
from . import hf_files
from .installed import installed, need
from .torch_setup import memory_faults, set_threads
from .torchvision_fix import make_torchvision_importable

DTYPES = ("auto", "float32", "float16", "bfloat16")
QUANTIZATIONS = {
    "int8": "bitsandbytes",
    "int4": "bitsandbytes",
    "torchao-int8": "torchao",
    "torchao-int4": "torchao",
}
"""Name in a recipe -> the package that does it. Two names for two packages: their numbers differ, so their
digests must."""
# Formats of other frameworks, which many hub repositories carry beside the weights that are used here.
_NOT_FETCHED = [
    "*.msgpack",
    "*.h5",
    "*.ot",
    "*.onnx",
    "*.onnx_data",
    "*.tflite",
    "*.gguf",
    "*openvino*",
    "*.ckpt",
    "original/*",
]
_DEVICE = re.compile(r"(auto|cpu|mps|cuda|xpu)(:\d+)?")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class HFOptions:
    """The options of the module's docstring."""

    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    adapters: tuple[str, ...] = ()
    quantization: str | None = None
    download: bool = False


def read_options(given: Mapping[str, Any], where: str, own: Iterable[str] = ()) -> HFOptions:
    """Checks a recipe's options. `where` names the model in errors (`models.tagger`), `own` are the backend's
    own options: an unknown name is told with all of them. For a backend whose class ends in `**hf`."""
    known = [f.name for f in fields(HFOptions)]
    for name in given:
        if name not in known:
            raise unknown("option", name, [*own, *known], where)
    values = {k: v for k, v in given.items() if v is not None}
    if isinstance(values.get("adapters"), (str, Path)):
        values["adapters"] = [values["adapters"]]
    adapters = values.get("adapters", ())
    if not isinstance(adapters, (list, tuple)) or not all(
        isinstance(a, (str, Path)) and str(a) for a in adapters
    ):
        raise UserError(f"{where}.adapters: a list of folders or hub names, not {adapters!r}")
    options = HFOptions(**values | {"adapters": tuple(str(a) for a in adapters)})
    if options.dtype not in DTYPES:
        raise unknown("dtype", str(options.dtype), DTYPES, where)
    if not isinstance(options.device, str) or not _DEVICE.fullmatch(options.device):
        raise UserError(f"{where}.device: auto, cpu, mps, cuda or cuda:NUMBER, not {options.device!r}")
    if options.quantization is not None and options.quantization not in QUANTIZATIONS:
        raise unknown("quantization", str(options.quantization), QUANTIZATIONS, where)
    if options.revision is not None and not isinstance(options.revision, str):
        raise UserError(
            f"{where}.revision: a branch, tag or commit as text (in quotes), not {options.revision!r}"
        )
    if not isinstance(options.download, bool):
        raise UserError(f"{where}.download: true or false, not {options.download!r}")
    if options.quantization is not None and len(adapters) > 1:
        raise UserError(
            f"{where}: a quantized model takes one adapter, not {len(adapters)}; merge them into the "
            f"weights first"
        )
    return options


@dataclass(frozen=True)
class Located:
    """A model whose files are at hand.

    name      as the recipe has it
    folder    where its files are: a local folder, a single local file, or a snapshot in the hub's cache
    commit    the hub's commit, or None for what is local
    adapters  its adapters, found the same way
    """

    name: str
    folder: Path
    commit: str | None
    adapters: tuple[Located, ...]
    options: HFOptions

    def digest(self) -> str:
        """64 hexadecimal digits: the commit, or names, sizes, headers and samples of local files; adapters,
        dtype, quantization, revision and the kind of device (`auto` where the recipe leaves it open, so that
        a run may go on elsewhere). Loads no weights."""
        o = self.options
        own = f"{self.name}@{self.commit}" if self.commit is not None else hf_files.folder_digest(self.folder)
        return hf_files.hash_of(
            own,
            o.revision,
            o.dtype,
            o.device.partition(":")[0],
            o.quantization,
            [a.digest() for a in self.adapters],
        )

    def content_digest(self) -> str:
        """SHA-256 over every byte of its files and its adapters': what `--verify` compares."""
        return hf_files.hash_of(
            hf_files.content_digest(self.folder), [a.content_digest() for a in self.adapters]
        )

    def has(self, *patterns: str) -> bool:
        """Whether a file matches one of the glob patterns: a preflight question that opens nothing."""
        return any(next(self.folder.glob(pattern), None) is not None for pattern in patterns)


def locate(model: Any, options: HFOptions, where: str = "models") -> Located:
    """Finds a model's files: a folder or file that exists, else a hub name in the hub's cache, fetched only
    with `download: true`.

    UserError in one line, with the command that fetches the model, where it is not at hand.
    """
    if not isinstance(model, (str, Path)) or not str(model):
        raise UserError(f"{where}: the model is a hub name such as 'owner/name' or a folder, not {model!r}")
    name, path = str(model), Path(model).expanduser()
    plain = HFOptions(download=options.download)
    adapters = tuple(locate(a, plain, f"{where}.adapters") for a in options.adapters)
    if path.exists():
        if options.revision is not None:
            raise UserError(
                f"{where}.revision: {name} is a local folder, which has no revisions; leave it out"
            )
        return Located(name, path, None, adapters, options)
    if not _HUB_NAME.fullmatch(name):
        raise UserError(
            f"{where}: {name}: no such folder, and no hub name either (a hub name is 'owner/name')"
        )
    folder = _snapshot(name, options, where)
    return Located(name, folder, folder.name, adapters, options)


def _snapshot(name: str, options: HFOptions, where: str) -> Path:
    """The folder of a hub model's commit in the local cache."""
    need("huggingface_hub", "transformers", where)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

    fetch = f"hf download {name}" + (f" --revision {options.revision}" if options.revision else "")
    try:
        found = snapshot_download(
            name,
            revision=options.revision,
            local_files_only=not options.download,
            ignore_patterns=_NOT_FETCHED,
        )
    except (
        IncompleteSnapshotError
    ) as error:  # fetched in part on purpose, or cut short: the loader knows which files it needs
        found = error.snapshot_path
    except (LocalEntryNotFoundError, HFValidationError) as error:
        at = f" at revision {options.revision}" if options.revision else ""
        raise UserError(
            f"{where}: {name}{at} is not on this machine; fetch it with `{fetch}`, or set download: true"
        ) from error
    except OSError as error:  # of the hub itself: unknown name, gated, no connection
        raise UserError(f"{where}: {name} could not be fetched: {first_line(error)}") from error
    return Path(found)


def read_config(found: Located, where: str = "models") -> dict[str, Any]:
    """The model's config.json as a mapping; UserError where the folder has none."""
    try:
        config = json.loads((found.folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{where}: {found.name} holds no config.json, so it is no model of transformers"
        ) from error
    except ValueError as error:
        raise UserError(f"{where}: {found.name}: its config.json is damaged ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{where}: {found.name}: its config.json is no mapping")
    return config


def check_weights(found: Located, where: str = "models") -> None:
    """Preflight: weights are among the files of the model and of each adapter, and the quantization's package
    is installed."""
    check_quantization(found.options, where)
    for one in (found, *found.adapters):
        if one.folder.is_dir() and not one.has("*.safetensors", "*.bin", "*.pt", "*.pth"):
            more = f"; fetch them with `hf download {one.name}`" if one.commit is not None else ""
            raise UserError(f"{where}: {one.name} holds no weights{more}")


def choose_device(options: HFOptions, where: str = "models") -> str:
    """The torch device as text. UserError for one that this machine lacks."""
    import torch

    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
    }
    if options.device == "auto":
        return next(kind for kind in ("cuda", "xpu", "mps", "cpu") if there[kind])
    kind, _, number = options.device.partition(":")
    if not there[kind] or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        raise UserError(
            f"{where}.device: {options.device} is not on this machine; it has "
            f"{', '.join(k for k, v in there.items() if v)}"
        )
    return options.device


def torch_dtype(options: HFOptions) -> Any:
    """What `from_pretrained(dtype=...)` takes: a torch.dtype, or "auto" for the checkpoint's own."""
    import torch

    return "auto" if options.dtype == "auto" else getattr(torch, options.dtype)


def check_quantization(options: HFOptions, where: str = "models") -> None:
    """UserError where the package that the quantization needs is not installed. Loads nothing; for preflight
    and constructors."""
    if options.quantization is not None:
        package = QUANTIZATIONS[options.quantization]
        try:
            need(package, "transformers", where)
        except UserError:
            raise UserError(
                f"{where}.quantization: {options.quantization} needs the package {package}; pip install "
                f"{package}, or leave it out"
            ) from None


def quantization_config(options: HFOptions, where: str = "models") -> Any:
    """transformers' configuration object for the quantization, or None."""
    check_quantization(options, where)
    if options.quantization is None:
        return None
    import torch
    import transformers

    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # it tells of each layer in each call that float32 becomes float16
    name, arguments = quantization_call(
        options.quantization, torch.bfloat16 if options.dtype == "auto" else torch_dtype(options)
    )
    return getattr(transformers, name)(**arguments)


def quantization_call(kind: str, dtype: Any) -> tuple[str, dict[str, Any]]:
    """One of `QUANTIZATIONS` as a class and its arguments; transformers and diffusers have classes of these
    names. `dtype`: what int4 computes in."""
    if kind == "int8":
        return "BitsAndBytesConfig", {"load_in_8bit": True}
    if kind == "int4":
        return "BitsAndBytesConfig", {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
        }
    return "TorchAoConfig", {"quant_type": _torchao(kind)}


def _torchao(kind: str) -> Any:
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    return Int8WeightOnlyConfig() if kind == "torchao-int8" else Int4WeightOnlyConfig()


def load_pretrained(cls: Any, found: Located, where: str = "models", **more: Any) -> Any:
    """`cls.from_pretrained` of a located model: dtype, quantization, adapters merged, on its device, in
    evaluation mode.

    `cls` is a model class or an Auto class of transformers; `more` goes to `from_pretrained`. Loading never
    leaves the folder and never runs its code. UserError in one line where the folder holds no such model."""
    set_threads()
    if installed("torchvision"):  # an Auto class may import it on the way
        make_torchvision_importable()
    _no_bars()
    device = choose_device(found.options, where)
    quantized = quantization_config(found.options, where)
    if quantized is not None:
        more = {**more, "quantization_config": quantized, "device_map": device}
    try:
        with memory_faults(found.name):
            model = cls.from_pretrained(
                found.folder,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch_dtype(found.options),
                **more,
            )
            if quantized is not None and not is_quantized(model):
                raise UserError(
                    f"{where}.quantization: {found.options.quantization} changes no layer of {found.name}; "
                    f"leave it out"
                )
            model = with_adapters(model, found, where, merge=quantized is None)
            return (model if quantized is not None else model.to(device)).eval()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"{where}: {found.name} cannot be loaded as {cls.__name__}: {first_line(error)}"
        ) from error
    except RuntimeError as error:  # of the quantization: no kernel for this device, a package that it lacks
        if quantized is None:
            raise
        raise UserError(
            f"{where}.quantization: {found.options.quantization} fails on {found.name}: {first_line(error)}"
        ) from error


def finish(network: Any, found: Located, where: str = "models") -> Any:
    """A torch network that another library has put on its device (timm, open_clip): its adapters merged, then
    quantized, in evaluation mode. UserError in one line for an adapter of another network."""
    options = found.options
    try:
        network = with_adapters(network, found, where, merge=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{where}.adapters: {found.name} does not take them: {first_line(error)}") from error
    network = network.eval()
    if options.quantization is None:
        return network
    check_plain(options, where)
    from torchao.quantization import quantize_

    try:
        quantize_(network, _torchao(options.quantization))
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"{where}.quantization: {options.quantization} fails on {found.name}: {first_line(error)}"
        ) from error
    if not is_quantized(network):
        raise UserError(
            f"{where}.quantization: {options.quantization} changes no layer of {found.name}; leave it out"
        )
    return network


def check_plain(options: HFOptions, where: str = "models") -> None:
    """UserError for a quantization that only transformers and diffusers can do, and where its package is
    absent; for `finish`."""
    if options.quantization is not None and QUANTIZATIONS[options.quantization] != "torchao":
        raise UserError(
            f"{where}.quantization: torchao-int8 or torchao-int4 for a model of timm or open_clip, not "
            f"{options.quantization}"
        )
    check_quantization(options, where)


def is_quantized(model: Any) -> bool:
    """Whether any weight is stored in a quantized form: the packages pass over layers that do not suit them,
    without a word."""
    import torch

    return any(type(p) is not torch.nn.Parameter or not p.dtype.is_floating_point for p in model.parameters())


def _no_bars() -> None:
    """Models print nothing: transformers draws a progress bar for the weights unless told otherwise."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def with_adapters(model: Any, found: Located, where: str = "models", merge: bool = True) -> Any:
    """The model with its LoRA adapters: merged into the weights in order, or kept beside weights that are
    quantized already."""
    if not found.adapters:
        return model
    need("peft", "transformers", where)
    from peft import PeftModel

    for adapter in found.adapters:
        if not adapter.has("adapter_config.json"):
            raise UserError(
                f"{where}.adapters: {adapter.name} holds no adapter_config.json, so it is no adapter of peft"
            )
        model = PeftModel.from_pretrained(model, str(adapter.folder))
        if merge:
            model = model.merge_and_unload()
    return model


def load_processor(cls: Any, found: Located, where: str = "models", **more: Any) -> Any:
    """`cls.from_pretrained` for a tokenizer, image processor or processor of a located model; UserError in
    one line where it has none."""
    try:
        return cls.from_pretrained(found.folder, local_files_only=True, trust_remote_code=False, **more)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UserError(
            f"{where}: {found.name} has no {cls.__name__} that loads: {first_line(error)}"
        ) from error
