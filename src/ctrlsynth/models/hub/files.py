"""Digests of a local model's files: the sampled one of every run, and the full hash of `--verify`.

A digest must change when another training run of the same network writes files of the same names and sizes,
and it must be cheap for 50 GB on a network drive. So small files are hashed completely, a safetensors file by
its header and a few numbers from the middle of every tensor, other large files by evenly spaced samples.
Training moves every number of a trained tensor. `--verify` finds changes between the samples, such as a
damaged block on disk."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ...errors import UserError

_SMALL = 4 << 20  # bytes; hashed whole
_SAMPLES = 64
_SAMPLE = 4096  # bytes
_MIDDLE = 64  # bytes of a tensor
_MOST_HEADER = 100 << 20  # safetensors' own limit


def hash_of(*parts: Any) -> str:
    """64 hexadecimal digits over the parts' JSON."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def model_files(path: Path) -> list[Path]:
    """The files of a model, sorted by name: the file itself, or all in the folder except hidden ones and the
    model card."""
    if path.is_file():
        return [path]
    inside = (p for p in path.rglob("*") if p.is_file() and p.suffix != ".md")
    return sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts))


def folder_digest(path: Path) -> str:
    """Hash over names, sizes, headers and samples of a model's files. UserError for a folder without
    files."""
    files = model_files(path)
    if not files:
        raise UserError(f"{path}: an empty folder, no model")
    with _readable(path):
        return hash_of([(_name(f, path), f.stat().st_size, _look(f)) for f in files])


def content_digest(path: Path) -> str:
    """Hash over names and complete contents of a model's files."""
    with _readable(path):
        return hash_of([(_name(f, path), sha256_of(f)) for f in model_files(path)])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns an OSError inside into one line that names the model."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file != root else ""


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's whole content, in hexadecimal digits."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _look(file: Path) -> str:
    size = file.stat().st_size
    if size <= _SMALL:
        return sha256_of(file)
    digest = hashlib.sha256()
    with open(file, "rb") as handle:
        offsets = _tensor_offsets(handle, size) if file.suffix == ".safetensors" else None
        evenly = [n * (size - _SAMPLE) // (_SAMPLES - 1) for n in range(_SAMPLES)]
        header, places = offsets or (b"", evenly)
        digest.update(header)
        for place in places:
            handle.seek(place)
            digest.update(handle.read(_MIDDLE if offsets else _SAMPLE))
    return digest.hexdigest()


def _tensor_offsets(handle: IO[bytes], size: int) -> tuple[bytes, list[int]] | None:
    """The header of a safetensors file and the offset of each tensor's middle; None for a damaged file."""
    count = int.from_bytes(handle.read(8), "little")
    if not 0 < count <= min(_MOST_HEADER, size - 8):
        return None
    header = handle.read(count)
    try:
        entries = [e["data_offsets"] for name, e in json.loads(header).items() if name != "__metadata__"]
        places = sorted(8 + count + max(begin, (begin + end - _MIDDLE) // 2) for begin, end in entries)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return (header, places) if all(0 <= place <= size for place in places) else None
