"""The reader of pickled weights: files written by torch, damaged ones, and hostile ones."""

import io
import os
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctrlsynth.errors import UserError
from ctrlsynth.models.embedded.imagenet.graph import VARIANTS
from ctrlsynth.models.embedded.imagenet.weights import read_counts, read_state_dict
from ctrlsynth.models.installed import package_file

NUMBERS = np.arange(6, dtype="<f4")
COUNTS = {"n2084071": 52_418_327, "n2121620": 3, "n9638875": 2**40}


class Tensor:
    """Pickles as a tensor over the storage "0"; what it says about itself may be false."""

    def __init__(
        self, type: Any = torch.FloatStorage, offset: int = 0, shape: Any = (2, 3), strides: Any = (3, 1)
    ):
        self.says = SimpleNamespace(kind=type), offset, shape, strides

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (*self.says, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", obj.kind, "0", "cpu", 6) if isinstance(obj, SimpleNamespace) else None


def dumped(state: object, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(state)
    return stream.getvalue()


def legacy(program: bytes, numbers: bytes = NUMBERS.tobytes()) -> bytes:
    """torch's format before 1.6, with one storage."""
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(head) + program + pickle.dumps(["0"], 2) + (6).to_bytes(8, "little") + numbers


def read(folder: Path, data: bytes, reader: Any = read_state_dict) -> dict[str, Any]:
    (folder / "weights.pth").write_bytes(data)
    return dict(reader(folder / "weights.pth"))


def assert_refuses(folder: Path, data: bytes, reader: Any = read_state_dict) -> str:
    """The error's text: one line that names the file."""
    with pytest.raises(UserError, match=r"weights\.pth: not a .* that is safe to read") as caught:
        read(folder, data, reader)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", VARIANTS)
def test_reads_the_wheels_own_files_as_torch_does(name: str) -> None:
    it = VARIANTS[name]
    path = package_file(it.package, it.file, name)
    wanted = torch.load(path, weights_only=True)
    found = read_state_dict(path)
    assert list(found) == list(wanted)
    assert all(np.array_equal(found[key], wanted[key].numpy()) for key in wanted)
    assert not any(array.flags.writeable for array in found.values())


def test_views_types_and_empty_tensors_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    whole = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    state = {
        "w": whole, "turned": whole.t(), "tail": whole.flatten()[4:], "none": whole[:0], "count": torch.tensor(7),
    }  # fmt: skip
    torch.save(state, tmp_path / "state.pth", _use_new_zipfile_serialization=False)
    found = read_state_dict(tmp_path / "state.pth")
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(found[name], tensor.numpy())


class Runs:
    """Pickles as a call that would leave the file `harmed`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


HOSTILE = {
    "system": Runs(os.system, "touch harmed"),
    "eval": Runs(eval, "__import__('pathlib').Path('harmed').touch()"),
    "getattr": Runs(getattr, Runs(os.system, "touch harmed"), "__class__"),
    "_load_from_bytes": Runs(torch.storage._load_from_bytes, b""),
    "defaultdict": defaultdict(int, a=1),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_only_names_on_the_allow_list_are_resolved(
    name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = dumped({"w": HOSTILE[name]}, protocol)
    assert_refuses(tmp_path, program)
    for message in (
        assert_refuses(tmp_path, legacy(program)),
        assert_refuses(tmp_path, program, read_counts),
    ):
        assert name in message or name == "getattr"
    assert not (tmp_path / "harmed").exists()


LIES: list[dict[str, Any]] = [
    {"shape": (2, 4)}, {"shape": (-2, 3)}, {"strides": (-3, 1)}, {"offset": -1}, {"offset": 1}, {"offset": 7},
    {"shape": (2**40,), "strides": (0,)}, {"shape": (7,), "strides": (0,)}, {"strides": (3,)},
    {"shape": (2,), "strides": (2**47,)}, {"shape": (2**63,), "strides": (1,)},
    {"shape": (1,) * 70, "strides": (1,) * 70}, {"type": torch.DoubleStorage}, {"type": torch.HalfStorage}, {"type": torch.UntypedStorage},
]  # what a tensor may claim falsely about its bounds  # fmt: skip
NO_STATE_DICT = [
    dumped(5), dumped({}), dumped({"epoch": 3}), dumped({1: Tensor()}), b".", b"(ios\nsystem\n.",
    b"\x80\x02}r\xff\xff\xff\x7f.", b"\x80\x02h\x05.", b"\x80\x02X\xff\xff\xff\xffabc", b"\x80\x02\x82\x01.",
    b"\x80\x02ccollections\nOrderedDict\n}b.", b"\x80\x02}(X\x01\x00\x00\x00w(X\x01\x00\x00\x000X\x01\x00\x00\x00OtQKKKttu.",
]  # other content, false memo indexes and lengths, attributes of a class, an object array  # fmt: skip
NO_VOCABULARY = [
    *(pickle.dumps(x) for x in ([1, 2], {}, {"a": 1.5}, {"a": True}, {1: 1}, {"a": {"b": 1}}, np.int64(3))),
    b"ctorch\nFloatStorage\n.", b"\x80\x02]q\x00" + b"h\x00h\x00\x86q\x01" * 40_000 + b".",
    pickle.dumps(COUNTS)[:-10], b"",
]  # fmt: skip
REFUSED = [
    *((legacy(dumped({"w": Tensor(**lie)})), read_state_dict) for lie in LIES),
    *((legacy(program), read_state_dict) for program in NO_STATE_DICT),
    *((data, read_counts) for data in NO_VOCABULARY),
]


@pytest.mark.parametrize(("data", "reader"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_state_dict_or_vocabulary_is_refused(data: bytes, reader: Any, tmp_path: Path) -> None:
    assert_refuses(tmp_path, data, reader)


def test_every_cut_of_a_good_file_is_refused(tmp_path: Path) -> None:
    data = legacy(dumped({"w": Tensor()}))
    assert list(read(tmp_path, data)) == ["w"]
    for length in range(len(data)):
        assert_refuses(tmp_path, data[:length])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_changed_bytes_are_read_or_refused_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    """A changed file gives tensors inside the file or a UserError."""
    good = legacy(dumped({"w": Tensor()}))
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensors = read(tmp_path, bytes(changed))
    except UserError:
        return
    assert sum(t.nbytes for t in tensors.values()) <= len(changed)


def test_an_absent_file_and_no_torch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_state_dict(tmp_path / "none.pth")
    code = "import sys, ctrlsynth.models.embedded.imagenet.weights; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", [dict, OrderedDict, Counter])
def test_a_pickled_vocabulary_is_read_in_its_order(kind: Any, protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps(kind(COUNTS), protocol)
    assert list(read(tmp_path, data, read_counts).items()) == list(COUNTS.items())
    many = {f"n{n}": n for n in range(60_000)}  # more than CatLIP's 24,320
    assert read(tmp_path, pickle.dumps(many, protocol), read_counts) == many
