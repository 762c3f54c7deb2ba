"""The restricted reader: real weight files, both containers, and files that mean harm."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
import struct
import subprocess
import sys
import time
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctrlsynth.errors import UserError
from ctrlsynth.models.embedded.imagenet.graph import VARIANTS
from ctrlsynth.models.embedded.imagenet.weights import read_counts, read_state_dict
from ctrlsynth.models.installed import package_file


class Assembler:
    """Writes the pickle of a state dict opcode by opcode, the way torch's own comes out; its arguments may
    lie."""

    def __init__(self) -> None:
        self.code = b"\x80\x02"

    def text(self, value: str) -> Assembler:
        self.code += b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        return self

    def number(self, value: int) -> Assembler:
        body = pickle.encode_long(value)
        self.code += b"\x8a" + bytes([len(body)]) + body
        return self

    def numbers(self, values: tuple[int, ...]) -> Assembler:
        self.code += b"("
        for value in values:
            self.number(value)
        self.code += b"t"
        return self

    def raw(self, code: bytes) -> Assembler:
        self.code += code
        return self

    def tensor(
        self, kind: str, key: str, count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Assembler:
        self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((").text("storage").raw(
            b"ctorch\n" + kind.encode() + b"\n"
        )
        self.text(key).text("cpu").number(count).raw(b"tQ")
        return self.number(offset).numbers(shape).numbers(strides).raw(b"\x89ccollections\nOrderedDict\n)RtR")


def state(*tensors: tuple[str, str, str, int, int, tuple[int, ...], tuple[int, ...]]) -> bytes:
    """The pickle of an OrderedDict of (name, kind, key, count, offset, shape, strides)."""
    pickled = Assembler().raw(b"ccollections\nOrderedDict\n)R(")
    for name, *rest in tensors:
        pickled.text(name).tensor(*rest)  # type: ignore[arg-type]
    return pickled.raw(b"u}").text("_metadata").raw(b"}sb.").code


def legacy(program: bytes, storages: dict[str, tuple[int, bytes]]) -> bytes:
    head = [
        pickle.dumps(x, 2)
        for x in (
            0x1950A86A20F9469CFC6C,
            1001,
            {"protocol_version": 1001, "little_endian": True, "type_sizes": {}},
        )
    ]
    tail = b"".join(count.to_bytes(8, "little", signed=True) + data for count, data in storages.values())
    return b"".join(head) + program + pickle.dumps(list(storages), 2) + tail


def zipped(program: bytes, storages: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("net/data.pkl", program)
        archive.writestr("net/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"net/data/{key}", data)
    return buffer.getvalue()


def read(tmp_path: Path, data: bytes) -> dict[str, Any]:
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    return read_state_dict(path)


def refused(tmp_path: Path, data: bytes) -> str:
    """The error's text; the file must be refused in one line that names it, and within ten seconds."""
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        read(tmp_path, data)
    assert time.perf_counter() - start < 10
    message = str(caught.value)
    assert "weights.pth" in message
    assert "\n" not in message
    return message


NUMBERS = np.arange(6, dtype="<f4")
GOOD = ("w", "FloatStorage", "0", 6, 0, (2, 3), (3, 1))


@pytest.mark.parametrize("name", VARIANTS)
def test_reads_the_wheels_own_files(name: str) -> None:
    it = VARIANTS[name]
    tensors = read_state_dict(package_file(it.package, it.file, name))
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_fc.weight"].shape == (1000, 1280)
    assert len({key.split(".")[1] for key in tensors if key.startswith("_blocks.")}) == sum(it.repeats)
    for key, value in tensors.items():
        assert np.isfinite(value).all(), key
        assert not value.flags.writeable
        if key.endswith("running_var"):
            assert (value >= 0).all()
        if key.endswith("num_batches_tracked"):
            assert value.dtype == np.int64
            assert value.shape == ()
    assert 0.001 < float(np.abs(tensors["_fc.weight"]).mean()) < 1  # weights, not bytes read a place too far


def test_both_containers_give_the_same_tensors(tmp_path: Path) -> None:
    program = state(
        GOOD,
        ("turned", "FloatStorage", "0", 6, 0, (3, 2), (1, 3)),
        ("tail", "FloatStorage", "0", 6, 4, (2,), (1,)),
        ("half", "HalfStorage", "1", 2, 0, (2,), (1,)),
        ("brain", "BFloat16Storage", "2", 2, 0, (2,), (1,)),
        ("count", "LongStorage", "3", 1, 0, (), ()),
        ("none", "FloatStorage", "0", 6, 0, (0, 3), (3, 1)),
    )
    raw = {
        "0": NUMBERS.tobytes(),
        "1": np.array([0.5, -2], "<f2").tobytes(),
        "2": (np.array([1.5, -3], "<f4").view("<u4") >> 16).astype("<u2").tobytes(),
        "3": np.array([7], "<i8").tobytes(),
    }
    counts = {"0": 6, "1": 2, "2": 2, "3": 1}
    old = read(tmp_path, legacy(program, {key: (counts[key], data) for key, data in raw.items()}))
    new = read(tmp_path, zipped(program, raw))
    expected = {
        "w": [[0, 1, 2], [3, 4, 5]], "turned": [[0, 3], [1, 4], [2, 5]], "tail": [4, 5], "half": [0.5, -2],
        "brain": [1.5, -3], "count": 7,
    }  # fmt: skip
    for tensors in (old, new):
        assert list(tensors) == [*expected, "none"]
        for name, value in expected.items():
            np.testing.assert_array_equal(tensors[name], value)
        assert tensors["none"].shape == (0, 3)
        assert (tensors["half"].dtype, tensors["brain"].dtype, tensors["count"].dtype) == (
            np.float16,
            np.float32,
            np.int64,
        )


class Shell:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


class Evaluates:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("__import__('pathlib').Path('harmed').touch()",)


class Gets:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (Shell(), "__class__")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("make", [Shell, Evaluates, Gets])
@pytest.mark.parametrize("container", ["zip", "legacy", "bare"])
def test_a_file_that_would_run_code_is_refused(
    make: type[object], protocol: int, container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = pickle.dumps({"w": make()}, protocol)
    assert protocol < 2 or "REDUCE" in {opcode.name for opcode, _, _ in pickletools.genops(program)}
    wrapped = {"zip": zipped(program, {}), "legacy": legacy(program, {}), "bare": program}[container]
    message = refused(tmp_path, wrapped)
    if protocol >= 2 and container != "bare":
        assert any(name in message for name in ("system", "eval", "getattr")), message
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "name",
    ["os system", "builtins eval", "builtins getattr", "torch load", "torch._utils _rebuild_tensor",
    "collections " "OrderedDict.update",
     "collections defaultdict", "numpy.core.multiarray _reconstruct", "torch.storage _load_from_bytes",
     "ctrlsynth.models.embedded.imagenet.weights _run"],
)  # fmt: skip
def test_a_global_that_is_not_on_the_list_is_named(name: str, tmp_path: Path) -> None:
    module, _, attribute = name.partition(" ")
    for program in (
        Assembler().raw(f"c{module}\n{attribute}\n)R.".encode()).code,
        Assembler().text(module).text(attribute).raw(b"\x93)R.").code,
    ):
        assert f"{module}.{attribute}" in refused(tmp_path, zipped(program, {}))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (2, 4)}, {"shape": (-2, 3)}, {"shape": (2, -3)}, {"strides": (-3, 1)}, {"offset": -1},
        {"offset": 1}, {"offset": 7},
        {"shape": (2**40,), "strides": (0,)}, {"shape": (7,), "strides": (0,)}, {"shape": (2,),
        "strides": (2**47,)},
        {"shape": (2, 3), "strides": (3,)}, {"count": -6}, {"count": 2**47}, {"shape": (1,) * 40,
        "strides": (1,) * 40},
        {"shape": (2**63,), "strides": (1,)}, {"kind": "UntypedStorage"}, {"kind": "FloatTensor"},
    ],
)  # fmt: skip
def test_a_tensor_that_lies_about_its_bounds_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    fields = (
        dict(zip(("name", "kind", "key", "count", "offset", "shape", "strides"), GOOD, strict=True)) | change
    )
    program = state(tuple(fields.values()))  # type: ignore[arg-type]
    reason = (
        r"a tensor (reaches beyond its storage|has an impossible \w+)$|storage '0' is cut short|which "
        r"is no part of a state dict$"
    )
    assert re.search(reason, refused(tmp_path, zipped(program, {"0": NUMBERS.tobytes()})))
    assert re.search(reason, refused(tmp_path, legacy(program, {"0": (6, NUMBERS.tobytes())})))


def test_storages_that_are_missing_short_or_described_twice(tmp_path: Path) -> None:
    assert "missing" in refused(tmp_path, zipped(state(GOOD), {}))
    assert "missing" in refused(tmp_path, legacy(state(GOOD), {}))
    assert "cut short" in refused(tmp_path, zipped(state(GOOD), {"0": NUMBERS.tobytes()[:-1]}))
    assert "cut short" in refused(tmp_path, legacy(state(GOOD), {"0": (6, NUMBERS.tobytes()[:-1])}))
    assert "another size" in refused(tmp_path, legacy(state(GOOD), {"0": (5, NUMBERS.tobytes())}))
    twice = state(GOOD, ("v", "LongStorage", "0", 3, 0, (3,), (1,)))
    assert "two ways" in refused(tmp_path, zipped(twice, {"0": NUMBERS.tobytes()}))
    stranger = {"0": (6, NUMBERS.tobytes()), "1": (1, b"1234")}
    assert "no tensor" in refused(tmp_path, legacy(state(GOOD), stranger))
    assert "compressed" in refused(
        tmp_path, zipped(state(GOOD), {"0": NUMBERS.tobytes()}, zipfile.ZIP_DEFLATED)
    )


@pytest.mark.parametrize(
    ("program", "word"),
    [
        (Assembler().number(5).raw(b".").code, "mapping"),
        (Assembler().raw(b"}.").code, "mapping"),
        (Assembler().raw(b"}").text("epoch").number(3).raw(b"s.").code, "epoch"),
        (Assembler().raw(b"}").number(1).number(3).raw(b"s.").code, "not texts"),
        (
            Assembler().raw(b"r\xff\xff\xff\x7f.").code,
            "memo",
        ),  # a memo slot far out: pickle would take 32 GB for the slots before it
        (Assembler().raw(b"}r\xff\xff\xff\x7f.").code, "memo"),
        (Assembler().raw(b"}q\x01.").code, "memo"),
        (Assembler().raw(b"h\x05.").code, "damaged"),
        (Assembler().raw(b"t.").code, "damaged"),
        (Assembler().raw(b"R.").code, "damaged"),
        (Assembler().raw(b".").code, "damaged"),
        (Assembler().raw(b"X\xff\xff\xff\xffabc").code, "damaged"),
        (Assembler().raw(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f").code, "damaged"),
        (
            Assembler().raw(b"ccollections\nOrderedDict\n}b.").code,
            "no mapping",
        ),  # attributes of the class itself
        (Assembler().raw(b"ctorch\nFloatStorage\n)R.").code, "calls"),
        (Assembler().raw(b"ccollections\nOrderedDict\n((tR.").code, "damaged"),
        (Assembler().raw(b"ccollections\nOrderedDict\n((ttR.").code, "calls"),
        (Assembler().raw(b"ctorch._utils\n_rebuild_tensor_v2\n)R.").code, "wrongly"),
        (Assembler().raw(b")Q.").code, "wrongly"),
        (Assembler().raw(b"ccollections\nOrderedDict\n)\x81.").code, "NEWOBJ"),
        (Assembler().raw(b"\x82\x01.").code, "EXT1"),
        (Assembler().raw(b"(ios\nsystem\n.").code, "INST"),
    ],
)
def test_programs_that_are_damaged_or_strange(program: bytes, word: str, tmp_path: Path) -> None:
    assert word in refused(tmp_path, zipped(program, {}))
    refused(tmp_path, legacy(program, {}))


def test_bombs_stay_small(tmp_path: Path) -> None:
    """Ten thousand nested tuples, each twice in the next: as a key, hashing them would take for ever; as a
    value, they stay 10,000."""
    double = Assembler().raw(b")q\x00")
    for i in range(200):
        double.raw(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]))
    assert "not texts" in refused(tmp_path, zipped(Assembler().raw(b"}").code + double.code[2:] + b"Ns.", {}))
    assert "not a tensor" in refused(
        tmp_path, zipped(Assembler().raw(b"}").text("k").code + double.code[2:] + b"s.", {})
    )
    deep = Assembler().raw(b"}").text("k").raw(b")" + b"\x85" * 300_000 + b"s.")
    assert "not a tensor" in refused(tmp_path, zipped(deep.code, {}))
    long = Assembler().raw(b"}" + b"N\x85" * 500_001)
    assert "steps" in refused(tmp_path, zipped(long.code, {}))


def test_every_cut_of_a_good_file_is_refused(tmp_path: Path) -> None:
    for data in (
        legacy(state(GOOD), {"0": (6, NUMBERS.tobytes())}),
        zipped(state(GOOD), {"0": NUMBERS.tobytes()}),
    ):
        assert list(read(tmp_path, data)) == ["w"]
        for length in range(len(data)):
            refused(tmp_path, data[:length])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_changed_bytes_are_read_or_refused_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a changed file says, the reader answers with tensors inside the file or with a UserError."""
    good = data.draw(
        st.sampled_from(
            [
                legacy(state(GOOD), {"0": (6, NUMBERS.tobytes())}),
                zipped(state(GOOD), {"0": NUMBERS.tobytes()}),
            ]
        )
    )
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensors = read(tmp_path, bytes(changed))
    except UserError:
        return
    assert sum(t.nbytes for t in tensors.values()) <= len(changed)


def test_absent_and_empty_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_state_dict(tmp_path / "none.pth")
    assert "safe" in refused(tmp_path, b"")
    assert "safe" in refused(tmp_path, b"PK\x03\x04")


def test_the_assembler_writes_what_pickle_reads() -> None:
    """The hostile programs above are hostile only if they are well formed: pickletools takes the good one to
    its STOP."""
    names = [opcode.name for opcode, _, _ in pickletools.genops(state(GOOD))]
    assert names[-1] == "STOP"
    assert names.count("BINPERSID") == 1
    code = "import sys, ctrlsynth.models.embedded.imagenet.weights; print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


COUNTS = {"n2084071": 52_418_327, "n2121620": 3, "n9638875": 2**40}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [dict, OrderedDict, Counter])
def test_a_pickled_vocabulary_is_read_in_its_order(
    kind: type[dict[str, int]], protocol: int, tmp_path: Path
) -> None:
    path = tmp_path / "vocab.pkl"
    path.write_bytes(pickle.dumps(kind(COUNTS), protocol))
    assert list(read_counts(path).items()) == list(COUNTS.items())
    path.write_bytes(pickle.dumps({f"n{n}": n for n in range(60_000)}, protocol))  # more than CatLIP's 24,320
    assert len(read_counts(path)) == 60_000


def refused_counts(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "vocab.pkl"
    path.write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(UserError, match="not a vocabulary that is safe to read") as caught:
        read_counts(path)
    assert time.perf_counter() - start < 10
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("make", [Shell, Evaluates, Gets])
def test_a_vocabulary_that_would_run_code_is_refused(
    make: type[object], protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for harm in ({"n1": make()}, make(), Counter({"n1": 1, "n2": make()})):
        message = refused_counts(tmp_path, pickle.dumps(harm, protocol))
        assert protocol < 2 or any(name in message for name in ("system", "eval", "getattr")), message
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (pickle.dumps([1, 2]), "no mapping"),
        (pickle.dumps({}), "no mapping"),
        (pickle.dumps({"a": 1.5}), "no mapping"),
        (pickle.dumps({"a": True}), "no mapping"),
        (pickle.dumps({1: 1}), "not texts"),
        (pickle.dumps({"a": {"b": 1}}), "no mapping"),
        (pickle.dumps(np.int64(3)), "numpy"),
        (pickle.dumps(defaultdict(int, a=1)), "defaultdict"),
        (b"ctorch\nFloatStorage\n.", "torch.FloatStorage"),  # part of a state dict, not of a mapping
        (b"\x80\x02r\xff\xff\xff\x7f.", "memo"),
        (b"\x80\x02]q\x00" + b"h\x00h\x00\x86q\x01" * 40_000 + b".", "memo"),
        (b"\x80\x02" + b"(" * 2_000_000 + b".", "steps"),
        (b"\x80\x02X\xff\xff\xff\xff.", "damaged"),
        (pickle.dumps(COUNTS)[:-10], "damaged"),
        (b"", "damaged"),
    ],
    ids=range(15),
)
def test_what_is_no_vocabulary_is_refused(data: bytes, word: str, tmp_path: Path) -> None:
    assert word in refused_counts(tmp_path, data)
