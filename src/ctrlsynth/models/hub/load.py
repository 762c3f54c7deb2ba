"""Loads models, tokenizers and processors of located Hugging Face models: dtype, quantization, LoRA
adapters, device."""

import gc
import logging
import pickle
from abc import abstractmethod
from pathlib import Path
from typing import Any

from ...errors import UserError, first_line
from ..base import Model
from ..device import choose_device, give_back, make_torchvision_importable, memory_faults, set_threads
from ..installed import installed, need
from .find import QUANTIZATIONS, HFOptions, Located, check_quantization, check_weights


def torch_dtype(options: HFOptions) -> Any:
    """What `from_pretrained(dtype=...)` takes: a torch.dtype, or "auto" for the checkpoint's own."""
    import torch

    return "auto" if options.dtype == "auto" else getattr(torch, options.dtype)


def quantization_config(options: HFOptions, where: str = "models") -> Any:
    """transformers' configuration object for the quantization, or None."""
    check_quantization(options, where)
    if options.quantization is None:
        return None
    import torch
    import transformers

    # it reports float32 -> float16 for each layer of each call
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    dtype = torch.bfloat16 if options.dtype == "auto" else torch_dtype(options)
    name, arguments = quantization_call(options.quantization, dtype)
    return getattr(transformers, name)(**arguments)


def quantization_call(kind: str, dtype: Any) -> tuple[str, dict[str, Any]]:
    """Class name and arguments of a quantization; transformers and diffusers share these class names. `dtype`
    is the type in which int4 computes."""
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


class HubModel(Model):
    """A model with Hugging Face weights, which load on first use. Subclasses set `found` and define
    `_load`."""

    where: str = "models.tagger"
    packages: tuple[str, ...] = ("torch",)
    found: Located
    _loaded: Any = None

    def loaded(self) -> Any:
        """What `_load` returns, loaded once."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    @abstractmethod
    def _load(self) -> Any:
        """Loads the weights."""

    def check(self) -> None:
        """Preflight: packages and weights are there."""
        for package in self.packages:
            need(package, "transformers", self.where)
        check_weights(self.found, self.where)
        super().check()

    def content_digest(self) -> str:
        """Hash over the complete files."""
        return self.found.content_digest()

    def close(self) -> None:
        """Frees the weights; they load again on use."""
        self._loaded = None
        gc.collect()
        give_back()
        super().close()


def load_pretrained(cls: Any, found: Located, where: str = "models", **more: Any) -> Any:
    """Loads a located model by `cls.from_pretrained`: quantized, adapters merged, on its device, in
    evaluation mode.

    `cls` is a model class or an Auto class of transformers; `more` goes to `from_pretrained`. Loading stays
    within the folder and never runs its code. UserError in one line if the folder has no such model."""
    from transformers.utils.logging import disable_progress_bar

    set_threads()
    if installed("torchvision"):  # an Auto class may import it on the way
        make_torchvision_importable()
    disable_progress_bar()  # models print nothing
    device = choose_device(found.options.device, where)
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
            if quantized is not None:
                check_quantized(model, found, where)
            model = with_adapters(model, found, where, merge=quantized is None)
            return (model if quantized is not None else model.to(device)).eval()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"{where}: {found.name} cannot be loaded as {cls.__name__}: {first_line(error)}"
        ) from error
    except RuntimeError as error:  # of the quantization: no kernel for this device, a package that it lacks
        if quantized is None:
            raise
        raise quantization_failed(found, error, where) from error


def quantization_failed(found: Located, error: Exception, where: str) -> UserError:
    """The error for a quantization that does not work on the model."""
    return UserError(
        f"{where}.quantization: {found.options.quantization} fails on {found.name}: {first_line(error)}"
    )


def finish(network: Any, found: Located, where: str = "models") -> Any:
    """Moves a torch network of timm or open_clip to its device, merges its adapters and quantizes it;
    evaluation mode. UserError in one line for an adapter of another network."""
    options = found.options
    set_threads()
    network = network.to(choose_device(options.device, where))
    try:
        network = with_adapters(network, found, where, merge=True).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{where}.adapters: {found.name} does not take them: {first_line(error)}") from error
    if options.quantization is None:
        return network
    check_plain(options, where)
    from torchao.quantization import quantize_

    try:
        quantize_(network, _torchao(options.quantization))
    except (ImportError, RuntimeError) as error:
        raise quantization_failed(found, error, where) from error
    check_quantized(network, found, where)
    return network


def check_plain(options: HFOptions, where: str = "models") -> None:
    """UserError for a quantization that `finish` cannot do (bitsandbytes needs transformers or diffusers), or
    whose package is missing."""
    if options.quantization is not None and QUANTIZATIONS[options.quantization] != "torchao":
        raise UserError(
            f"{where}.quantization: torchao-int8 or torchao-int4 for a model of timm or open_clip, not "
            f"{options.quantization}"
        )
    check_quantization(options, where)


def is_quantized(model: Any) -> bool:
    """Whether any weight is quantized: the packages silently skip layers that do not suit them."""
    import torch

    return any(type(p) is not torch.nn.Parameter or not p.dtype.is_floating_point for p in model.parameters())


def check_quantized(model: Any, found: Located, where: str) -> None:
    """UserError if the quantization changed no weight."""
    if not is_quantized(model):
        raise UserError(
            f"{where}.quantization: {found.options.quantization} changes no layer of {found.name}; leave it "
            f"out"
        )


def with_adapters(model: Any, found: Located, where: str = "models", merge: bool = True) -> Any:
    """Adds LoRA adapters to a model: merged into the weights in order, or kept separate from weights that are
    already quantized (`merge` false)."""
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
    """Loads a tokenizer, image processor or processor of a located model by `cls.from_pretrained`. UserError
    in one line if it has none."""
    try:
        return cls.from_pretrained(found.folder, local_files_only=True, trust_remote_code=False, **more)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UserError(
            f"{where}: {found.name} has no {cls.__name__} that loads: {first_line(error)}"
        ) from error


def read_state(path: Path, where: str = "models") -> dict[str, Any]:
    """The tensors of a safetensors file, or of a state dict saved by torch, by name. Maps the file into
    memory and executes nothing in it. UserError for any other content."""
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
            raise ValueError("no mapping of names to tensors")
        return state
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{where}: {path}: not a weight file that is safe to read: {first_line(error)}"
        ) from error


def fit(model: Any, state: dict[str, Any], path: Path, where: str = "models") -> None:
    """Loads a state dict into a model, strictly. UserError in one line if names or shapes do not fit."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines()]
        raise UserError(
            f"{where}: {path}: its weights do not fit the model: {' '.join(lines[1:3])[:300]}"
        ) from error
