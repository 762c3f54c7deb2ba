"""models/hub and device.py: finding models, their digests, devices and faults; on tiny real checkpoints and a hub cache
laid out on disk."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.numpy import save_file

from ctrlsynth.errors import ModelError
from ctrlsynth.models.device import make_torchvision_importable, memory_faults
from ctrlsynth.models.hub import load
from ctrlsynth.models.hub.files import content_digest, folder_digest
from ctrlsynth.models.hub.find import QUANTIZATIONS, HFOptions, Located, check_quantization, locate
from ctrlsynth.models.hub.load import load_pretrained, quantization_call
from ctrlsynth.models.installed import need
from helpers import assert_refused

make_torchvision_importable()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ViT classifier of three classes, saved to disk."""
    folder = tmp_path_factory.mktemp("vit")
    transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
            num_labels=3,
        )
    ).save_pretrained(folder)
    return folder


def found(model: Any, **options: Any) -> Located:
    return locate(model, HFOptions.read(options, "models.tagger"), "models.tagger")


def in_cache(
    monkeypatch: pytest.MonkeyPatch, root: Path, folder: Path, commit: str = "a" * 40, ref: str = "main"
) -> Path:
    """Lays a folder out as the hub's cache does, for the name acme/tiny."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    base = root / "models--acme--tiny"
    place = shutil.copytree(folder, base / "snapshots" / commit)
    (base / "refs").mkdir(exist_ok=True)
    (base / "refs" / ref).write_text(commit)
    return place


def test_a_local_folder_and_a_hub_name_are_found(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (found(tiny).folder, found(str(tiny)).commit) == (tiny, None)
    place = in_cache(monkeypatch, tmp_path, tiny)
    in_cache(monkeypatch, tmp_path, tiny, "b" * 40, "v2")
    here = found("acme/tiny")
    assert (here.folder, here.commit, found("acme/tiny", revision="v2").commit) == (place, "a" * 40, "b" * 40)
    assert found("acme/tiny", revision="b" * 40).commit == "b" * 40
    assert here.digest() != found("acme/tiny", revision="v2").digest()


def test_what_is_not_at_hand_is_one_sentence_with_the_command(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "empty").mkdir()
    fetch = "^models.tagger: acme/none is not on this machine; fetch it with `hf download acme/none`"
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ("acme/none", {}, fetch),
        ("acme/none", {"revision": "v3"}, "hf download acme/none --revision v3"),
        (str(tmp_path / "gone"), {}, "no such folder"),
        (["a"], {}, "a hub name such as"),
        (tmp_path / "empty", {}, "empty folder"),
        (tiny, {"revision": "main"}, "no revisions"),
    ]
    for model, options, message in wrong:
        assert_refused(lambda m, o: found(m, **o).digest(), message, model, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtyp": "auto"}, "unknown option 'dtyp'; did you mean 'dtype'"),
        ({"dtype": "float8"}, "dtype: auto, float32, float16 or bfloat16, not 'float8'"),
        ({"device": "gpu"}, "device: auto, cpu, mps, cuda"),
        ({"adapters": 3}, "adapters: a list"),
        ({"quantization": "int3"}, "quantization: int8, int4, torchao-int8 or torchao-int4, not 'int3'"),
        ({"quantization": "int8", "adapters": ["a", "b"]}, "one adapter"),
        ({"revision": 7}, "revision: a branch"),
        ({"download": "yes"}, "download: true or false"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    assert_refused(HFOptions.read, rf"^models\.tagger.*{message}", options, "models.tagger")


def test_every_option_but_download_belongs_to_the_digest(tiny: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    shaping: list[dict[str, Any]] = [
        {}, {"dtype": "float16"}, {"device": "cpu"}, {"quantization": "int8"}, {"adapters": [adapter]}
    ]  # fmt: skip
    digests = [found(tiny, **options).digest() for options in shaping]
    assert (len(set(digests)), found(tiny, download=True).digest()) == (5, digests[0])
    assert found(tiny, device="cuda:0").digest() == found(tiny, device="cuda:1").digest()
    (adapter / "adapter_config.json").write_text('{"r": 2}')
    assert found(tiny, adapters=str(adapter)).digest() != digests[4]


def changed(offset: Callable[[int], int]) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[offset(len(data))] ^= 1
        file.write_bytes(data)

    return change


@pytest.mark.parametrize(
    "change",
    [changed(lambda n: n - 1), changed(lambda n: n // 2), lambda f: f.write_bytes(f.read_bytes() + b"x")],
)
def test_a_change_of_a_local_file_changes_both_digests(
    change: Callable[[Path], None], tiny: Path, tmp_path: Path
) -> None:
    place, before = shutil.copytree(tiny, tmp_path / "copy"), found(tiny)
    digests = before.digest(), before.content_digest()
    assert (found(place).digest(), found(place).content_digest()) == digests
    change(place / "model.safetensors")
    assert not {found(place).digest(), found(place).content_digest()} & set(digests)


def test_of_large_files_samples_are_looked_at(tmp_path: Path) -> None:
    """Another training run writes the same header and size; one flipped bit between the samples is for
    --verify."""
    one, two = tmp_path / "a", tmp_path / "b"
    for seed, folder in enumerate((one, two)):
        rng = np.random.default_rng(seed)
        folder.mkdir()
        weights = {f"w{n}": rng.standard_normal((600, 1000), np.float32) for n in range(3)}
        save_file(weights, folder / "model.safetensors")
        (folder / "old.bin").write_bytes(bytes(6 << 20))
    before, whole = folder_digest(one), content_digest(one)
    assert folder_digest(two) != before
    changed(lambda n: 5000)(one / "old.bin")
    assert (folder_digest(one), content_digest(one) == whole) == (before, False)
    changed(lambda n: n - 1)(one / "old.bin")
    assert folder_digest(one) != before


def test_a_damaged_safetensors_file_still_has_a_digest(tmp_path: Path) -> None:
    for name, head in (
        ("a", b"\xff" * 8),
        ("b", (10).to_bytes(8, "little") + b"not json .."),
        ("c", (2).to_bytes(8, "little") + b"[]"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.safetensors").write_bytes(head + bytes(5 << 20))
    assert len({folder_digest(tmp_path / name) for name in "abc"}) == 3


def test_hidden_files_and_the_card_are_passed_over(tiny: Path, tmp_path: Path) -> None:
    place = shutil.copytree(tiny, tmp_path / "copy")
    (place / "README.md").write_text("card")
    shutil.copytree(tiny, place / ".cache")
    assert found(place).digest() == found(tiny).digest()


def test_a_model_loads_with_its_options(tiny: Path) -> None:
    model = load_pretrained(
        transformers.AutoModelForImageClassification,
        found(tiny, dtype="bfloat16", device="cpu"),
        "models.tagger",
    )
    assert model.dtype == torch.bfloat16
    assert not model.training
    for cls, device, message in (
        (transformers.AutoModelForCausalLM, "auto", ": .* cannot be loaded as AutoModelForCausalLM"),
        (transformers.ViTForImageClassification, "mps", ".device: mps is not on this machine; it has cpu"),
    ):
        assert_refused(
            load_pretrained, f"^models.tagger{message}", cls, found(tiny, device=device), "models.tagger"
        )


def test_adapters_are_merged(tiny: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    plain = load_pretrained(transformers.AutoModelForImageClassification, found(tiny))
    base = transformers.AutoModelForImageClassification.from_pretrained(tiny)
    lora = get_peft_model(base, LoraConfig(r=2, target_modules=["classifier"], init_lora_weights=False))
    lora.save_pretrained(tmp_path / "lora")
    adapted = load_pretrained(
        transformers.AutoModelForImageClassification, found(tiny, adapters=[tmp_path / "lora"])
    )
    pixels = torch.zeros(1, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(adapted(pixels).logits, lora.eval()(pixel_values=pixels).logits)
        assert not torch.allclose(adapted(pixels).logits, plain(pixels).logits)
    assert_refused(
        load_pretrained,
        "no adapter_config.json",
        transformers.ViTForImageClassification,
        found(tiny, adapters=[tiny]),
    )


def test_a_quantization_whose_package_is_absent_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, package in QUANTIZATIONS.items():
        message = f"quantization: {name} needs the package {package}; pip install {package}"
        assert_refused(check_quantization, message, found(tiny, quantization=name).options)


def test_quantizations_as_the_packages_name_them() -> None:
    four_bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "x"}
    assert quantization_call("int8", None) == ("BitsAndBytesConfig", {"load_in_8bit": True})
    assert quantization_call("int4", "x") == ("BitsAndBytesConfig", four_bits)


def test_a_quantization_that_does_nothing_is_told(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao leaves narrow layers as they are, and says nothing; here no configuration reaches transformers
    at all."""
    plain = transformers.AutoModelForImageClassification.from_pretrained(tiny)
    monkeypatch.setattr(load, "quantization_config", lambda options, where: {})
    loads = Mock(from_pretrained=Mock(return_value=plain))
    message = r"^models.tagger.quantization: torchao-int4 changes no layer of"
    assert_refused(load_pretrained, message, loads, found(tiny, quantization="torchao-int4"), "models.tagger")


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (lambda: torch.empty(2**55), "out_of_memory"),
        (lambda: bytearray(2**60), "out_of_memory"),
        (Mock(side_effect=OUT_OF_MEMORY), "out_of_memory"),
        (Mock(side_effect=RuntimeError("CUDA error: device-side assert triggered\nmore")), "engine_died"),
    ],
)
def test_faults_of_memory_and_device_are_told_apart(work: Callable[[], Any], reason: str) -> None:
    with pytest.raises(ModelError, match="tiny: ") as caught, memory_faults("tiny"):
        work()
    assert caught.value.reason == reason
    with pytest.raises(RuntimeError, match="mat1 and mat2"), memory_faults("tiny"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def test_an_absent_package_is_one_sentence_with_the_pip_line() -> None:
    assert_refused(
        need,
        r"^models.llm: nowhere.to_be is not installed; pip install 'ctrlsynth\[server\]'$",
        "nowhere.to_be",
        "server",
        "models.llm",
    )
    need("json.decoder", "server")


def test_torchvision_imports_here_and_leaves_no_trace_where_it_did_before() -> None:
    code = """
import gc, sys
import ctrlsynth.models.hub.load
from ctrlsynth.models.device import _kept, make_torchvision_importable
assert "torch" not in sys.modules
make_torchvision_importable(), make_torchvision_importable()
import timm, torch, torchvision
gc.collect()
try:
    torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    ran = True
except (NotImplementedError, RuntimeError):
    ran = False
assert ran != bool(_kept), (ran, _kept)
print("fine")
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "fine", out.stderr
