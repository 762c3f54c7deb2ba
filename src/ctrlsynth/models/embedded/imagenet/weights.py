"""The one reader of pickles: torch's `.pth` state dicts into numpy arrays and CatLIP's vocabulary into a
mapping, without torch and without unpickling anything.

Used by the embedded tagger of 2a. A `.pth` is a pickle, and a pickle is a program that may call what it
likes. So the program is never given to `pickle`: `_run` below steps through its opcodes as `pickletools`
lists them and knows the few that a state dict needs. The only names it accepts are `collections.OrderedDict`,
`torch._utils._rebuild_tensor_v2` and torch's storage types (for counts: `OrderedDict` and
`collections.Counter` only), and these are stand-ins here: nothing is ever imported, looked up or called on
the file's behalf. Dictionary keys must be texts, memo slots must be filled in turn, and a tensor may not
reach beyond its storage or be larger than it, so time and memory stay in proportion to the file's size.

Two containers are read: the format before torch 1.6 (five pickles, then the storages one after the other) and
the zip that followed it."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ....errors import UserError

Array = NDArray[Any]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_STEPS = 1_000_000  # a state dict of 10,000 tensors needs about 400,000
_DTYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}  # fmt: skip


class _Refused(Exception):
    """Why this file is not read; `read_state_dict` puts the file's name before it."""


@dataclass(frozen=True, slots=True)
class _Name:
    """Stands for a global that the file mentions: `torch.FloatStorage`."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A run of numbers that the file holds elsewhere, under `key`."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where a tuple, list or dict of the pickle begins on the stack."""


_MARK = _Mark()


def read_state_dict(path: Path) -> dict[str, Array]:
    """Reads the tensors of a `.pth` state dict, in the file's order, as read-only arrays that share the
    file's memory.

    bfloat16 has no numpy type and comes as float32; everything else keeps its type and shape. Anything that
    is not a flat `name -> tensor` mapping, mentions another global, is cut short, or claims more than the
    file holds is a UserError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return _from_zip(data) if data[:4] == b"PK\x03\x04" else _from_legacy(data)
    except _Refused as error:
        raise UserError(f"{path}: not a weight file that is safe to read: {error}") from error


def read_counts(path: Path) -> dict[str, int]:
    """Reads a pickled mapping from texts to whole numbers (a dict, OrderedDict or Counter) in the file's
    order: CatLIP's vocabulary. Anything else, and any other global that the file mentions, is a UserError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        counts = _run(io.BytesIO(data), _count_global)
        if not isinstance(counts, dict) or not counts or not all(type(n) is int for n in counts.values()):
            raise _Refused("it holds no mapping from texts to whole numbers")
    except _Refused as error:
        raise UserError(f"{path}: not a vocabulary that is safe to read: {error}") from error
    return counts


def _from_legacy(data: bytes) -> dict[str, Array]:
    """Five pickles (magic number, protocol, system, state dict, storage keys), then per key: int64 count, raw
    little-endian numbers."""
    stream = io.BytesIO(data)
    if _run(stream) != _MAGIC:
        raise _Refused("it does not begin with torch's magic number")
    if _run(stream) != _PROTOCOL:
        raise _Refused("unknown version of torch's old format")
    system = _run(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _Refused("not written on a little-endian machine")
    tensors = _tensors(_run(stream))
    wanted = {t.storage.key: t.storage for t in tensors.values()}
    keys = _run(stream)
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or len(set(keys)) != len(keys):
        raise _Refused("its list of storages is damaged")
    found: dict[str, Array] = {}
    at = stream.tell()
    for key in keys:
        if key not in wanted:
            raise _Refused(f"storage {key[:80]!r} belongs to no tensor")
        count = int.from_bytes(data[at : at + 8], "little", signed=True)
        if count != wanted[key].count or len(data) < at + 8:
            raise _Refused(f"storage {key[:80]!r} is cut short or has another size than its tensors say")
        size = count * np.dtype(_DTYPES[wanted[key].kind]).itemsize
        found[key] = _numbers(wanted[key], memoryview(data)[at + 8 : at + 8 + size])
        at += 8 + size
    return _arrays(tensors, found)


def _from_zip(data: bytes) -> dict[str, Array]:
    """A zip of stored (never compressed) members: `NAME/data.pkl`, and `NAME/data/KEY` with the raw numbers
    of each storage."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()) or sum(
                i.file_size for i in members.values()
            ) > len(data):
                raise _Refused("its zip is compressed, or claims more than it holds")
            heads = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(heads) != 1:
                raise _Refused("its zip has no single data.pkl")
            base = heads[0].removesuffix("data.pkl")
            if base + "byteorder" in members and archive.read(base + "byteorder") != b"little":
                raise _Refused("not written on a little-endian machine")
            tensors = _tensors(_run(io.BytesIO(archive.read(heads[0]))))
            found: dict[str, Array] = {}
            for storage in {t.storage.key: t.storage for t in tensors.values()}.values():
                name = f"{base}data/{storage.key}"
                if name not in members:
                    raise _Refused(f"storage {storage.key[:80]!r} is missing from its zip")
                found[storage.key] = _numbers(storage, memoryview(archive.read(name)))
    except (
        zipfile.BadZipFile,
        struct.error,
        EOFError,
        LookupError,
        OSError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise _Refused(f"its zip is damaged ({error})") from error
    return _arrays(tensors, found)


def _numbers(storage: _Storage, raw: memoryview) -> Array:
    """The storage as a flat array, after a check that the file really holds all of it."""
    dtype = np.dtype(_DTYPES[storage.kind])
    if len(raw) < storage.count * dtype.itemsize:
        raise _Refused(f"storage {storage.key[:80]!r} is cut short")
    flat: Array = np.frombuffer(raw, dtype, storage.count)
    if storage.kind == "BFloat16Storage":  # the upper half of a float32
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
        flat.flags.writeable = False
    return flat


def _tensors(state: object) -> dict[str, _Tensor]:
    """The state dict, checked to be flat and to name each storage the same way throughout."""
    if not isinstance(state, dict) or not state:
        raise _Refused("it holds no mapping from names to tensors")
    storages: dict[str, _Storage] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, _Tensor):
            raise _Refused(f"entry {name[:80]!r} is not a tensor")
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise _Refused(f"storage {tensor.storage.key[:80]!r} is described in two ways")
    return state


def _arrays(tensors: dict[str, _Tensor], storages: dict[str, Array]) -> dict[str, Array]:
    """Views into the storages; `_rebuild` has checked that none reaches outside."""
    arrays = {}
    for name, tensor in tensors.items():
        flat = storages.get(tensor.storage.key)
        if flat is None:
            raise _Refused(f"storage {tensor.storage.key[:80]!r} is missing")
        strides = tuple(s * flat.itemsize for s in tensor.strides)
        arrays[name] = np.lib.stride_tricks.as_strided(
            flat[tensor.offset :], tensor.shape, strides, writeable=False
        )
    return arrays


def _naturals(value: object, what: str) -> tuple[int, ...]:
    if (
        not isinstance(value, tuple)
        or not all(type(n) is int and 0 <= n < 2**48 for n in value)
        or len(value) > 32
    ):
        raise _Refused(f"a tensor has an impossible {what}")
    return value


def _rebuild(arguments: tuple[Any, ...]) -> _Tensor:
    """torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks[, metadata]),
    within bounds or refused."""
    if not 6 <= len(arguments) <= 7 or not isinstance(arguments[0], _Storage):
        raise _Refused("a tensor is described wrongly")
    storage = arguments[0]
    (offset,) = _naturals((arguments[1],), "offset")
    shape, strides = _naturals(arguments[2], "shape"), _naturals(arguments[3], "stride")
    elements = 1
    for n in shape:
        elements *= n
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=False))
    if (
        len(shape) != len(strides)
        or elements > storage.count
        or offset > storage.count
        or (elements and last >= storage.count)
    ):
        raise _Refused("a tensor reaches beyond its storage")
    return _Tensor(storage, offset, shape, strides)


def _persistent(value: object) -> _Storage:
    """('storage', torch.XStorage, key, device, count[, view]) as torch writes them; views of storages went
    out of use in 2017."""
    if (
        not isinstance(value, tuple)
        or not 5 <= len(value) <= 6
        or value[0] != "storage"
        or (len(value) == 6 and value[5] is not None)
    ):
        raise _Refused("a storage is described wrongly")
    kind, key = value[1], value[2]
    if (
        not isinstance(kind, _Name)
        or kind.module != "torch"
        or kind.name not in _DTYPES
        or not isinstance(key, str)
    ):
        raise _Refused("a storage is described wrongly")
    return _Storage(kind.name, key, _naturals((value[4],), "size")[0])


def _global(text: str) -> _Name:
    """`module name` as pickletools gives it; what is not on the list is refused by name."""
    name = _Name(*text.split(" ", 1))
    torch_types = name.module == "torch" and name.name in _DTYPES
    if not torch_types and name not in (
        _Name("collections", "OrderedDict"),
        _Name("torch._utils", "_rebuild_tensor_v2"),
    ):
        raise _Refused(f"it asks for {f'{name.module}.{name.name}'[:80]!r}, which is no part of a state dict")
    return name


def _count_global(text: str) -> _Name:
    """Of the globals of a pickled mapping, the two that a mapping may be."""
    name = _Name(*text.split(" ", 1))
    if name not in (_Name("collections", "OrderedDict"), _COUNTER):
        raise _Refused(f"it asks for {f'{name.module}.{name.name}'[:80]!r}, which is no part of a mapping")
    return name


_COUNTER = _Name("collections", "Counter")


def _reduce(function: object, arguments: object) -> Any:
    """`function(*arguments)` for the functions that a state dict or a mapping calls."""
    if function == _Name("torch._utils", "_rebuild_tensor_v2") and isinstance(arguments, tuple):
        return _rebuild(arguments)
    if function == _Name("collections", "OrderedDict") and arguments == ():
        return {}
    if (
        function == _COUNTER
        and isinstance(arguments, tuple)
        and len(arguments) == 1
        and isinstance(arguments[0], dict)
    ):
        return dict(arguments[0])
    raise _Refused("it calls something other than a tensor's or a mapping's constructor")


def _run(stream: IO[bytes], name: Callable[[str], _Name] | None = None) -> Any:
    """Runs one pickle from `stream` and leaves the stream after it. Knows numbers, texts, tuples, lists,
    dicts and the stand-ins; `name` says which globals they stand in for (`_global` unless given)."""
    name = name or _global
    stack: list[Any] = []
    memo: list[Any] = []
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if step >= _MAX_STEPS:
                raise _Refused(f"its program has more than {_MAX_STEPS:,} steps")
            if opcode.name == "STOP":
                return stack.pop()
            if opcode.name == "GLOBAL":
                stack.append(name(str(argument)))
            elif opcode.name in _CONSTANTS:
                stack.append(_CONSTANTS[opcode.name](argument))
            elif opcode.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                if argument is not None and argument != len(memo):
                    raise _Refused("its memo is not filled in turn")
                memo.append(stack[-1])
            elif opcode.name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[int(argument or 0)])
            else:
                _combine(opcode.name, stack, name)
    except (
        ValueError,
        IndexError,
        TypeError,
        OverflowError,
    ) as error:  # cut short, an empty stack, a wrong kind of argument
        raise _Refused(f"its program is damaged ({error})") from error
    raise _Refused("its program is cut short")


_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), lambda value: value),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"), str),
    "NEWTRUE": lambda _: True, "NEWFALSE": lambda _: False, "NONE": lambda _: None, "MARK": lambda _: _MARK,
    "EMPTY_DICT": lambda _: {}, "EMPTY_LIST": lambda _: [], "EMPTY_TUPLE": lambda _: (),
}  # fmt: skip


def _combine(name: str, stack: list[Any], global_: Callable[[str], _Name]) -> None:
    """The opcodes that take from the stack."""
    if name in ("PROTO", "FRAME"):
        return
    if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        stack.append(tuple(_pop(stack, int(name[-1]))))
    elif name == "TUPLE":
        stack.append(tuple(_pop_mark(stack)))
    elif name == "STACK_GLOBAL":
        module, attribute = _pop(stack, 2)
        stack.append(global_(module + " " + attribute))
    elif name == "BINPERSID":
        stack.append(_persistent(stack.pop()))
    elif name == "REDUCE":
        function, arguments = _pop(stack, 2)
        stack.append(_reduce(function, arguments))
    elif (
        name == "BUILD"
    ):  # attributes of the OrderedDict: torch notes its modules' versions there, no numbers
        stack.pop()
        if not isinstance(stack[-1], dict):
            raise _Refused("it sets attributes of something that is no mapping")
    elif name in ("APPEND", "APPENDS"):
        items = _pop_mark(stack) if name == "APPENDS" else _pop(stack, 1)
        if not isinstance(stack[-1], list):
            raise _Refused("it appends to something that is no list")
        stack[-1].extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = _pop_mark(stack) if name == "SETITEMS" else _pop(stack, 2)
        if (
            not isinstance(stack[-1], dict)
            or len(items) % 2
            or not all(isinstance(key, str) for key in items[::2])
        ):
            raise _Refused("it has a mapping whose keys are not texts")
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
    else:
        raise _Refused(f"it uses the pickle opcode {name}, which no state dict needs")


def _pop(stack: list[Any], count: int) -> list[Any]:
    items = stack[-count:]
    if len(items) < count:
        raise IndexError("empty stack")
    del stack[-count:]
    return items


def _pop_mark(stack: list[Any]) -> list[Any]:
    """What lies above the last mark, which goes too. Found from the top, so each item is passed over once."""
    at = len(stack) - 1
    while at >= 0 and stack[at] is not _MARK:
        at -= 1
    if at < 0:
        raise IndexError("no mark")
    items = stack[at + 1 :]
    del stack[at:]
    return items
