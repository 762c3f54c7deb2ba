"""Finds models with Hugging Face weights (2a, 2b, 2c) and computes their digests.

A recipe names a model by its hub name or by a local folder, with these options besides the backend's own:

    revision      a branch, tag or commit of the hub
    dtype         auto (the checkpoint's own), float32, float16, bfloat16
    device        auto (cuda, else xpu, else mps, else cpu), or one by name: cpu, cuda, cuda:1, mps
    adapters      LoRA adapters by peft, folders or hub names, merged in this order
    quantization  int8, int4 (bitsandbytes), torchao-int8, torchao-int4
    download      true: fetch missing files from the hub; otherwise a missing model is an error

All of them belong to the digest except `download` and a device's number. Nothing here runs code of a model's
repository. Importing this module loads no torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ...errors import UserError, first_line
from ..installed import installed, need
from ..options import Options
from .files import content_digest, folder_digest, hash_of

QUANTIZATIONS = {
    "int8": "bitsandbytes",
    "int4": "bitsandbytes",
    "torchao-int8": "torchao",
    "torchao-int4": "torchao",
}
"""Name in a recipe -> its package. int8 of two packages differs, so they have two names and digests."""
# Formats of other frameworks, which many hub repositories contain besides the weights used here.
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
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class HFOptions(Options):
    """The options of the module's docstring."""

    revision: str | None = Field(None, description="a branch, tag or commit as text (in quotes)")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="auto, float32, float16 or bfloat16"
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda|xpu)(:\d+)?$", description="auto, cpu, mps, cuda or cuda:NUMBER"
    )
    adapters: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="a list of folders or hub names"
    )
    quantization: Literal["int8", "int4", "torchao-int8", "torchao-int4"] | None = Field(
        None, description="int8, int4, torchao-int8 or torchao-int4"
    )
    download: bool = Field(False, description="true or false")

    @field_validator("adapters", mode="before")
    @classmethod
    def _texts(cls, given: Any) -> Any:
        names = [given] if isinstance(given, str | Path) else given
        return (
            tuple(str(n) if isinstance(n, Path) else n for n in names)
            if isinstance(names, list | tuple)
            else names
        )

    @model_validator(mode="after")
    def _one_adapter(self) -> Self:
        if self.quantization is not None and len(self.adapters) > 1:
            raise ValueError(
                f"a quantized model takes one adapter, not {len(self.adapters)}; merge them into the "
                f"weights first"
            )
        return self


@dataclass(frozen=True)
class Located:
    """A model whose files are on this machine.

    name      its name in the recipe
    folder    a local folder, a single local file, or a snapshot in the hub's cache
    commit    the hub's commit, or None for local files
    adapters  its adapters, found the same way
    """

    name: str
    folder: Path
    commit: str | None
    adapters: tuple[Located, ...]
    options: HFOptions

    def digest(self) -> str:
        """64 hexadecimal digits over the commit, or names, sizes, headers and samples of local files, and
        over adapters, dtype, quantization, revision and kind of device (`auto` by default, so that a run can
        continue on another machine). Loads no weights."""
        o = self.options
        own = f"{self.name}@{self.commit}" if self.commit is not None else folder_digest(self.folder)
        return hash_of(
            own,
            o.revision,
            o.dtype,
            o.device.partition(":")[0],
            o.quantization,
            [a.digest() for a in self.adapters],
        )

    def content_digest(self) -> str:
        """SHA-256 over every byte of its files and its adapters' files, for `--verify`."""
        return hash_of(content_digest(self.folder), [a.content_digest() for a in self.adapters])

    def has(self, *patterns: str) -> bool:
        """Whether a file matches one of the glob patterns. Opens nothing."""
        return any(next(self.folder.glob(pattern), None) is not None for pattern in patterns)


def locate(model: Any, options: HFOptions, where: str = "models") -> Located:
    """Finds a model's files: an existing folder or file, else a hub name in the hub's cache, fetched only
    with `download: true`. UserError with the command that fetches the model if it is missing."""
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
    except IncompleteSnapshotError as error:
        # fetched in part on purpose, or cut short: the loader knows which files it needs
        found = error.snapshot_path
    except (LocalEntryNotFoundError, HFValidationError) as error:
        at = f" at revision {options.revision}" if options.revision else ""
        raise UserError(
            f"{where}: {name}{at} is not on this machine; fetch it with `{fetch}`, or set download: true"
        ) from error
    except OSError as error:  # of the hub itself: unknown name, gated, no connection
        raise UserError(f"{where}: {name} could not be fetched: {first_line(error)}") from error
    return Path(found)


def read_config(
    found: Located, where: str = "models", file: str = "config.json", library: str = "transformers"
) -> dict[str, Any]:
    """The model's config.json, or another `file` of `library`, as a mapping; UserError without one."""
    try:
        return dict(json.loads((found.folder / file).read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{where}: {found.name} holds no {file}, so it is no model of {library}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {found.name}: its {file} is damaged ({error})") from error


def check_weights(found: Located, where: str = "models") -> None:
    """Preflight: the model and each adapter have weights, and the quantization's package is installed."""
    check_quantization(found.options, where)
    for one in (found, *found.adapters):
        if one.folder.is_dir() and not one.has("*.safetensors", "*.bin", "*.pt", "*.pth"):
            more = f"; fetch them with `hf download {one.name}`" if one.commit is not None else ""
            raise UserError(f"{where}: {one.name} holds no weights{more}")


def check_quantization(options: HFOptions, where: str = "models") -> None:
    """UserError if the package that the quantization needs is not installed. Loads nothing."""
    package = QUANTIZATIONS.get(options.quantization or "")
    if package is not None and not installed(package):
        raise UserError(
            f"{where}.quantization: {options.quantization} needs the package {package}; pip install "
            f"{package}, or leave it out"
        )
