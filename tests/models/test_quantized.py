"""Quantization by its real packages, adapters and dtype in every backend that loads Hugging Face weights; on
tiny checkpoints, on a CPU.

Not run here: bitsandbytes in diffusers and torchao-int4, whose kernels need a GPU. They are refused in one
sentence."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import tiny_llms
from conformance import Tiny, photo, request
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText, Prompt
from ctrlsynth.models.hub.load import is_quantized, quantization_call
from ctrlsynth.models.text_to_image.diffusers import load as diffusers_load
from helpers import assert_refused

ROW = [ImageAndText(photo("coffee.png"))]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A timm name with a file of random weights and its labels."""
    import timm
    from safetensors.torch import save_file

    place = tmp_path_factory.mktemp("timm")
    save_file(timm.create_model("test_vit", num_classes=3).state_dict(), place / "w.safetensors")
    (place / "names.txt").write_text("dog\ncat\nboat\n")
    return {
        "classifier": "test_vit",
        "checkpoint": str(place / "w.safetensors"),
        "labels": str(place / "names.txt"),
        "cut": 0.0,
    }


def spec(name: str, tiny: Tiny, timm_file: dict[str, Any], place: Path) -> dict[str, Any]:
    if name == "timm name":
        return timm_file
    folder = tiny(name)
    (place / "labels.txt").write_text("dog\ncat\ncup of coffee\nrocket\n")
    special: dict[str, dict[str, Any]] = {
        "open_clip": {"open_clip": str(folder), "vocabulary": str(place / "labels.txt"), "score": "softmax"},
        "catlip": {"catlip": str(folder / "vit.pt"), "vocabulary": str(folder / "vocab.pkl"), "classes": 5},
    }
    return special.get(name, {"classifier": str(folder), "cut": 0.0})


def tagger(value: dict[str, Any], **options: Any) -> Any:
    made = models.load({**value, "device": "cpu", **options}, "tagger")
    made.check()
    return made


def scores(model: Any) -> dict[str, float]:
    (tags,) = model.tag(ROW)
    assert tags.error is None
    return dict(zip(tags.objects, tags.scores, strict=True))


def apart(a: dict[str, float], b: dict[str, float]) -> float:
    return max(abs(a.get(name, 0.0) - b.get(name, 0.0)) for name in {*a, *b})


@pytest.mark.parametrize("kind", ["int8", "int4", "torchao-int8"])
def test_a_language_model(tiny: Tiny, kind: str, tmp_path: Path) -> None:
    value = {"transformers": str(tiny("qwen2")), "dtype": "float32", "device": "cpu"}
    adapter = tiny_llms.llm_lora(tiny("qwen2"), tmp_path / "lora")
    plain, small, adapted = (
        models.load(value | more, "llm")
        for more in ({}, {"quantization": kind}, {"quantization": kind, "adapters": [str(adapter)]})
    )
    asked = [replace(request(text), max_tokens=12) for text in ("red dog", "blue car under a tree")]
    small.check()
    told = small.generate(asked)
    assert [r.error for r in told] == [None, None]
    assert [is_quantized(model.loaded()[0]) for model in (plain, small)] == [False, True]
    assert len({plain.digest, small.digest, adapted.digest}) == 3
    assert [r.text for r in adapted.generate(asked)] != [r.text for r in told]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vit", "int8"), ("wide_vit", "int4"), ("vit", "torchao-int8"), ("timm", "int8"), ("timm", "torchao-int8"),
    ("timm name", "torchao-int8"),
     ("catlip", "torchao-int8"), ("open_clip", "torchao-int8")],
)  # fmt: skip
def test_a_classifier(name: str, kind: str, tiny: Tiny, timm_file: dict[str, Any], tmp_path: Path) -> None:
    value = spec(name, tiny, timm_file, tmp_path)
    plain, small = tagger(value), tagger(value, quantization=kind)
    assert plain.digest != small.digest
    assert 0 < apart(scores(plain), scores(small)) < (0.5 if kind == "int4" else 0.25)
    small.close()
    assert scores(small) == scores(small)


def test_a_captioner(tiny: Tiny) -> None:
    value = {"captioner": str(tiny("blip")), "max_new_tokens": 6}
    small = tagger(value, quantization="int8")
    assert small.captions([ROW[0].image])[0] is not None
    assert is_quantized(small.loaded()[0])


def test_a_painter(tiny: Tiny) -> None:
    """torchao in the denoiser by diffusers' class, in T5 by transformers' of the same name."""
    from torchao.quantization import Int8WeightOnlyConfig

    for name, text_encoder in (("sd15", None), ("sd3", "text_encoder_3")):
        value = {"diffusers": str(tiny(name)), "steps": 2, "size": 64, "device": "cpu"}
        plain, small = (
            models.load(value | more, "text_to_image") for more in ({}, {"quantization": "torchao-int8"})
        )
        small.check()
        one, two = (
            np.asarray(m.generate([Prompt("a dog", seed=1)])[0].image, dtype=int) for m in (plain, small)
        )
        assert 0 < np.abs(one - two).max() < 60
        assert plain.digest != small.digest
        assert is_quantized(diffusers_load.denoiser(small.loaded()[0]))
        assert text_encoder is None or is_quantized(getattr(small.loaded()[0], text_encoder))
    assert isinstance(quantization_call("torchao-int8", None)[1]["quant_type"], Int8WeightOnlyConfig)
    needs_gpu = models.load(
        {"diffusers": str(tiny("sd15")), "device": "cpu", "quantization": "int8"}, "text_to_image"
    )
    message = r"^models.text_to_image.quantization: int8 needs a GPU in diffusers; torchao-int8 does not$"
    assert_refused(needs_gpu.check, message)
    assert_refused(needs_gpu.generate, message, [Prompt("a dog")])


def test_what_does_not_go_is_one_sentence(
    tiny: Tiny, timm_file: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no adapter")
    for name in ("timm name", "catlip", "open_clip"):
        value = spec(name, tiny, timm_file, tmp_path)
        message = (
            r"^models.tagger.quantization: torchao-int8 or torchao-int4 for a model of timm or open_clip"
        )
        assert_refused(tagger, message, value, quantization="int8")
        assert_refused(tagger, "holds no weights", value, adapters=[str(tmp_path / "empty")])
    monkeypatch.setattr(
        "torchao.quantization.quantize_", Mock(side_effect=ImportError("Requires mslk >= 1.0.0"))
    )
    lacks = tagger(spec("catlip", tiny, timm_file, tmp_path), quantization="torchao-int8")
    message = r"^models.tagger.quantization: torchao-int8 fails on .*vit.pt: Requires mslk"
    assert_refused(scores, message, lacks)


@pytest.mark.parametrize(("name", "layer"), [("open_clip", "c_fc"), ("catlip", "fc1"), ("timm name", "fc1")])
def test_adapters_of_networks_that_other_libraries_load(
    name: str,
    layer: str,
    tiny: Tiny,
    timm_file: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Merged as peft computes it: the scores of the network with the adapter beside its weights."""
    from peft import LoraConfig, get_peft_model

    value = spec(name, tiny, timm_file, tmp_path)
    plain, beside = tagger(value), tagger(value)
    model = beside.loaded()[0]
    network = model.module if name == "open_clip" else model
    torch.manual_seed(0)
    get_peft_model(network, LoraConfig(r=2, target_modules=[layer], init_lora_weights=False)).save_pretrained(
        tmp_path / "lora"
    )
    adapted = tagger(value, adapters=[str(tmp_path / "lora")])
    assert adapted.digest != plain.digest
    assert apart(scores(adapted), scores(plain)) > 1e-3
    if name == "open_clip":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # which holds no embeddings of `plain`
        beside._loaded = model, beside._embedded(model)
    # peft has put its layers into the network that `beside` uses
    assert apart(scores(adapted), scores(beside)) < 3e-4
    both = tagger(value, adapters=[str(tmp_path / "lora")], quantization="torchao-int8")
    assert len({plain.digest, adapted.digest, both.digest}) == 3
    assert apart(scores(both), scores(adapted)) < 0.25
    get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraConfig(target_modules=["0"])
    ).save_pretrained(tmp_path / "strange")
    assert_refused(
        scores,
        r"^models.tagger.adapters: .* does not take them: ",
        tagger(value, adapters=[str(tmp_path / "strange")]),
    )


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("vit", "bfloat16"),
        ("timm name", "bfloat16"),
        ("catlip", "float16"),
        ("open_clip", "bfloat16"),
        ("open_clip", "float16"),
    ],
)
def test_half_precision(name: str, dtype: str, tiny: Tiny, timm_file: dict[str, Any], tmp_path: Path) -> None:
    value = spec(name, tiny, timm_file, tmp_path)
    plain, half = tagger(value), tagger(value, dtype=dtype)
    assert plain.digest != half.digest
    assert apart(scores(plain), scores(half)) < 0.05
