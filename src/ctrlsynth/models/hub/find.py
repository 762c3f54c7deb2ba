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
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import UserError, first_line, unknown
from ..installed import need
from .files import content_digest, folder_digest, hash_of

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


def check_whole(where: str, **values: Any) -> None:
    """UserError unless each option is None or a whole number from 1 up."""
    for name, value in values.items():
        if value is not None and (type(value) is not int or value < 1):
            raise UserError(f"{where}.{name}: a whole number from 1 up, not {value!r}")


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
        """SHA-256 over every byte of its files and its adapters': what `--verify` compares."""
        return hash_of(content_digest(self.folder), [a.content_digest() for a in self.adapters])

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
