"""Loading a diffusers pipeline from files that are at hand (2c): precision, adapters, quantization,
scheduler, memory savers.

What this machine (no GPU) cannot run, and what the tests therefore see only as calls: float16 on a GPU, int8
and int4 of bitsandbytes, `offload`, the code that `compile` makes. torchao-int8 is run."""

import contextlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....errors import UserError, first_line, unknown
from ...device import (
    choose_device,
    engine_died,
    make_torchvision_importable,
    memory_faults,
    out_of_memory,
    set_threads,
)
from ...hub.find import QUANTIZATIONS, Located, check_quantization, read_config
from ...hub.load import check_quantized, quantization_call, quantization_failed
from ...installed import need

OFFLOADS = {"model": "enable_model_cpu_offload", "sequential": "enable_sequential_cpu_offload"}
"""Names of the option `offload` -> the pipeline's methods."""
DENOISERS = ("unet", "transformer", "prior", "decoder")
_SHORT = {
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "dpm++sde": "DPMSolverSDEScheduler",
    "euler": "EulerDiscreteScheduler",
    "eulera": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
    "flow": "FlowMatchEulerDiscreteScheduler",
}
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def model_index(found: Located, where: str) -> dict[str, Any]:
    """The pipeline's components, from its model_index.json. UserError without one."""
    index = read_config(found, where, "model_index.json", "diffusers")
    if not isinstance(index.get("_class_name"), str):
        raise UserError(f"{where}: {found.name}: its model_index.json names no class of diffusers")
    return index


def check_files(found: Located, index: Mapping[str, Any], safety: bool, where: str) -> None:
    """UserError for the first component of the pipeline without a folder, or a denoiser without weights.
    Opens nothing."""
    for name, value in index.items():
        if not isinstance(value, list) or value[0] is None or (name == "safety_checker" and not safety):
            continue
        folder = found.folder / name
        if not folder.is_dir():
            raise UserError(f"{where}: {found.name} lacks its {name}; fetch the whole model again")
        if name in DENOISERS and not (list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))):
            raise UserError(f"{where}: {found.name} has no weights in {name}; fetch the whole model again")


def pipeline_class(index: Mapping[str, Any], where: str) -> Any:
    """The text-to-image class of diffusers for a pipeline; UserError for one that makes no images from
    text."""
    make_torchvision_importable("diffusers")
    need("diffusers", "diffusers", where)
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING, _get_task_class

    name = index["_class_name"]
    try:
        return _get_task_class(AUTO_TEXT2IMAGE_PIPELINES_MAPPING, name)
    except ValueError as error:
        raise UserError(
            f"{where}: {name} of diffusers paints no images from text (AutoPipelineForText2Image does not "
            f"know it)"
        ) from error


def scheduler_class(index: Mapping[str, Any], name: str, where: str) -> Any:
    """The scheduler of that name (`ddim`, `dpm++`, `euler`, or a class of diffusers) among those compatible
    with the pipeline's own."""
    make_torchvision_importable("diffusers")
    import diffusers

    own = getattr(diffusers, str(index.get("scheduler", [None, ""])[1]), None)
    fitting = {c.__name__: c for c in ([*own._get_compatibles(), own] if own is not None else [])}
    by_name = {_plain(known): cls for known, cls in fitting.items()}
    wanted = _plain(_SHORT.get(re.sub(r"[\s_-]", "", name.lower()), name))
    if wanted in by_name:
        return by_name[wanted]
    names = [short for short, known in _SHORT.items() if known in fitting]
    names += [_plain(known) for known in fitting if known not in _SHORT.values()]
    raise unknown("scheduler", name, names, where)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower().removesuffix("scheduler")


def load_pipeline(
    found: Located,
    index: Mapping[str, Any],
    where: str,
    *,
    scheduler: str | None = None,
    safety: bool = True,
    compile: bool = False,
    offload: str | None = None,
    vae_slicing: bool = False,
) -> Any:
    """Loads the pipeline onto its device. UserError in one line for unsuitable files;
    `ModelError("out_of_memory")` if the weights do not fit."""
    set_threads()
    cls = pipeline_class(index, where)
    device = device_for(found, offload, where)
    more: dict[str, Any] = {"dtype": stored_dtype(found, index), "variant": variant(found)}
    if not safety and "safety_checker" in index:
        more |= {"safety_checker": None, "requires_safety_checker": False}
    quantized = quantization(found, index, where)
    if quantized is not None:
        more["quantization_config"] = quantized
    _quiet()
    with memory_faults(found.name):
        try:
            pipe = cls.from_pretrained(found.folder, local_files_only=True, **more)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise UserError(
                f"{where}: {found.name} cannot be loaded as {cls.__name__}: {first_line(error)}"
            ) from error
        except RuntimeError as error:
            if quantized is None or out_of_memory(error) or engine_died(error):
                raise
            raise quantization_failed(found, error, where) from error
        if quantized is not None:
            check_quantized(denoiser(pipe), found, where)
        add_adapters(pipe, found, where)
        if scheduler is not None:
            pipe.scheduler = scheduler_class(index, scheduler, where).from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        save_memory(pipe, device, offload, vae_slicing)
        if compile:
            denoiser(pipe).compile()
    return pipe


def device_for(found: Located, offload: str | None, where: str) -> str:
    """The device. UserError for the CPU if `offload` or the quantization needs a GPU."""
    device, kind = choose_device(found.options.device, where), found.options.quantization
    if offload is not None and device == "cpu":
        raise UserError(
            f"{where}.offload: {offload} moves weights between a GPU and main memory, and there is no GPU; "
            f"leave it out"
        )
    if kind is not None and QUANTIZATIONS[kind] == "bitsandbytes" and device == "cpu":
        raise UserError(f"{where}.quantization: {kind} needs a GPU in diffusers; torchao-int8 does not")
    return device


def save_memory(pipe: Any, device: str, offload: str | None, vae_slicing: bool) -> None:
    """Moves a pipeline to its device. `model` moves whole components to the GPU when needed,
    `sequential` layer by layer (least memory, slow); `vae_slicing` decodes one image of a batch at a time."""
    if offload is None:
        pipe.to(device)
    else:
        getattr(pipe, OFFLOADS[offload])(device=device)
    if vae_slicing:
        pipe.vae.enable_slicing()


def denoiser(pipe: Any) -> Any:
    """The network that runs once per step; `compile` compiles it."""
    return next(getattr(pipe, name) for name in DENOISERS if getattr(pipe, name, None) is not None)


def stored_dtype(found: Located, index: Mapping[str, Any]) -> Any:
    """The torch dtype to load with: the option, or for `auto` that of the denoiser's files."""
    import torch

    name: str = found.options.dtype
    if name == "auto":
        folder = next((found.folder / part for part in DENOISERS if part in index), found.folder)
        half = variant(found) is not None
        files = [file for file in sorted(folder.glob("*.safetensors")) if (".fp16" in file.name) == half]
        kind = next(filter(None, map(_kind_of, files)), "F32")
        name = _DTYPES.get(kind, "float32")
    return getattr(torch, name)


def _kind_of(file: Path) -> str | None:
    """The type of most numbers in a safetensors file, as its header names it; None without tensors."""
    from safetensors import SafetensorError, safe_open

    counts: Counter[str] = Counter()
    with contextlib.suppress(SafetensorError, OSError), safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
            part = opened.get_slice(name)
            counts[part.get_dtype()] += math.prod(part.get_shape())
    return next((kind for kind, _ in counts.most_common(1)), None)


def variant(found: Located) -> str | None:
    """`fp16` if the half-precision files are to be loaded: for float16, or if there are no others."""
    half = found.has("*/*.fp16.safetensors", "*/*.fp16-*.safetensors", "*/*.fp16.bin")
    files = [*found.folder.glob("*/*.safetensors"), *found.folder.glob("*/*.bin")]
    only = half and all(".fp16" in file.name for file in files)
    return "fp16" if half and (only or found.options.dtype == "float16") else None


def quantization(found: Located, index: Mapping[str, Any], where: str) -> Any:
    """diffusers' configuration for the denoiser and the large text encoder (T5), which transformers loads;
    None without quantization."""
    kind = found.options.quantization
    check_quantization(found.options, where)
    if kind is None:
        return None
    import diffusers
    import transformers

    parts: dict[str, Any] = {
        name: diffusers if name in DENOISERS else transformers
        for name, value in index.items()
        if name in DENOISERS or (isinstance(value, list) and value[1] == "T5EncoderModel")
    }
    try:
        name, arguments = quantization_call(kind, stored_dtype(found, index))
        made = {part: getattr(library, name)(**arguments) for part, library in parts.items()}
        return diffusers.PipelineQuantizationConfig(quant_mapping=made)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(
            f"{where}.quantization: diffusers does not take {kind} here: {first_line(error)}"
        ) from error


def add_adapters(pipe: Any, found: Located, where: str) -> None:
    """Adds LoRA adapters at full strength, fused into the weights unless these are quantized."""
    if not found.adapters:
        return
    need("peft", "diffusers", where)
    if not hasattr(pipe, "load_lora_weights"):
        raise UserError(f"{where}.adapters: {type(pipe).__name__} takes no LoRA; leave them out")
    names = [f"adapter{n}" for n in range(len(found.adapters))]
    for name, adapter in zip(names, found.adapters, strict=True):
        path = adapter.folder
        folder, file = (path.parent, {"weight_name": path.name}) if path.is_file() else (path, {})
        try:
            pipe.load_lora_weights(str(folder), adapter_name=name, local_files_only=True, **file)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{where}.adapters: {adapter.name} is no LoRA for {type(pipe).__name__}: {first_line(error)}"
            ) from error
    pipe.set_adapters(names)
    if found.options.quantization is None:
        pipe.fuse_lora()
        pipe.unload_lora_weights()


def _quiet() -> None:
    """Silences the libraries' progress bars and notes, and their warnings about cut prompts (`truncated`
    reports that): models print nothing."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils.logging import disable_progress_bar

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    disable_progress_bar()
