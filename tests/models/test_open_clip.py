"""CLIP models in and out: what open_clip and transformers compute from the same weights is what we
compute."""

import json
import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from clip_fixture import MICRO, micro
from ctrlsynth.models.open_clip import load as clip
from ctrlsynth.models.open_clip.attention import use_views
from ctrlsynth.models.open_clip.encode import LoadedClip, Tokenizer, croppable, encode_tokens
from helpers import assert_refused

open_clip = clip.import_open_clip()

TEXTS = [
    "a red dog",
    "a photo of a very small cat beside a chair, at night",
    "",
    "word " * 200,
    "naïve café ☕ &amp; <b>",
]


def pictures(n: int = 3) -> list[Image.Image]:
    return [
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (50 + 9 * i, 71, 3), dtype=np.uint8))
        for i in range(n)
    ]


def close(one: Any, two: Any, tolerance: float = 1e-5) -> bool:
    return bool(np.allclose(one.detach().numpy(), two.detach().numpy(), atol=tolerance, rtol=tolerance))


def theirs(module: Any, name: str) -> tuple[Any, Any]:
    """Features by open_clip alone: its preprocessing, its tokens of full length, its encoders."""
    preprocess = open_clip.transform.PreprocessCfg(**module.visual.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(preprocess, is_train=False)
    images = torch.stack([transform(p) for p in pictures()])
    with torch.no_grad():
        return module.eval().encode_image(images), module.encode_text(open_clip.get_tokenizer(name)(TEXTS))


def assert_same_features(ours: Any, wanted: tuple[Any, Any], tolerance: float = 1e-5) -> None:
    assert close(ours.encode_image(pictures()), wanted[0], tolerance)
    assert close(ours.encode_text(TEXTS), wanted[1], tolerance)


def saved(folder: Path, name: str, **options: Any) -> LoadedClip:
    built = clip.build(name, **options)
    folder.mkdir(exist_ok=True)
    clip.save_folder(folder, built.module, built.config)
    return built


def test_tokens_are_open_clips() -> None:
    theirs = open_clip.get_tokenizer("ViT-B-32")
    wanted = theirs(TEXTS).numpy()
    np.testing.assert_array_equal(Tokenizer(crop=False)(TEXTS), wanted)
    np.testing.assert_array_equal(Tokenizer()(TEXTS), wanted)  # one is too long: nothing to cut
    for tokenizer in (Tokenizer(), Tokenizer(77, theirs)):
        np.testing.assert_array_equal(tokenizer(TEXTS[:3]), wanted[:3, :16])
    assert not wanted[:3, 16:].any()


@pytest.mark.parametrize("change", [{}, {"custom_text": True}, {"quick_gelu": True}])
def test_ours_opens_in_open_clip_with_equal_embeddings(tmp_path: Path, change: dict[str, Any]) -> None:
    name = f"micro-{len(change)}{next(iter(change), '')}"
    (tmp_path / f"{name}.json").write_text(json.dumps({**MICRO, **change}))
    built = saved(tmp_path / "ours", str(tmp_path / f"{name}.json"), seed=3)
    ours = clip.load_model(tmp_path / "ours")
    for module in (
        open_clip.create_model(f"local-dir:{tmp_path / 'ours'}"),
        open_clip.create_model(name, pretrained=str(tmp_path / "ours" / clip.WEIGHTS)),
    ):
        assert_same_features(ours, theirs(module, f"local-dir:{tmp_path / 'ours'}"))
    assert close(ours.module.logit_scale, built.module.logit_scale)
    assert (ours.size, ours.dim, len(ours.digest)) == (32, 16, 16)


def test_a_model_that_open_clip_knows_by_name(tmp_path: Path) -> None:
    saved(tmp_path / "ours", "ViT-S/16", seed=1)
    ours = clip.load_model(tmp_path / "ours")
    module = open_clip.create_model("ViT-S-16", pretrained=str(tmp_path / "ours" / clip.WEIGHTS))
    assert_same_features(ours, theirs(module, "ViT-S-16"), 1e-4)
    by_file = clip.load_model(f"ViT-S-16={tmp_path / 'ours' / clip.WEIGHTS}")
    assert close(by_file.encode_text(TEXTS[:1]), ours.encode_text(TEXTS[:1]))
    assert by_file.digest != clip.build("tiny").digest


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_hugging_faces_models_have_equal_embeddings(tmp_path: Path, act: str) -> None:
    tower = {"hidden_act": act, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = transformers.CLIPConfig(
        text_config={**tower, "hidden_size": 16},
        vision_config={
            **tower,
            "hidden_size": 32,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=12,
    )
    torch.manual_seed(5)
    module = transformers.CLIPModel(config).eval()
    module.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf/preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    )
    ours = clip.load_model(tmp_path / "hf")
    pixels = ours.normalise(torch.from_numpy(np.stack([ours.preprocess(p) for p in pictures()])))
    assert float(pixels.min()) >= -2.0001
    ids = torch.from_numpy(Tokenizer(crop=False)(TEXTS))
    with torch.no_grad():
        seen = module.visual_projection(module.vision_model(pixels).pooler_output)
        read = module.text_projection(module.text_model(ids).pooler_output)
    assert_same_features(ours, (seen, read))
    assert close(ours.module.logit_scale, module.logit_scale)


def test_padding_that_no_caption_needs_changes_no_embedding() -> None:
    torch.manual_seed(0)
    full = torch.from_numpy(Tokenizer(crop=False)(TEXTS[:2]))
    for kind in (open_clip.model.CLIP, open_clip.model.CustomTextCLIP):
        module = kind(**deepcopy(MICRO))
        assert croppable(module)
        for length in (16, 17, 40, 77):
            assert close(encode_tokens(module, full[:, :length]), module.encode_text(full))
    seeing = open_clip.model.CustomTextCLIP(
        **{**MICRO, "text_cfg": {**MICRO["text_cfg"], "no_causal_mask": True}}
    )
    assert not croppable(seeing)
    assert close(encode_tokens(seeing, full), seeing.encode_text(full))
    assert Tokenizer(crop=croppable(seeing))(TEXTS[:1]).shape == (1, 77)


@pytest.mark.parametrize("length", [16, 77])
def test_attention_without_copies_is_the_same(length: int) -> None:
    """Embeddings and every gradient, against the blocks as open_clip has them."""

    plain, ours = (clip.build(str(micro()), seed=2).module for _ in range(2))
    use_views(ours)
    assert all("attention" in vars(b) for m in (ours.visual, ours) for b in m.transformer.resblocks)
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.from_numpy(Tokenizer(crop=False)(TEXTS[:4]))[:, :length]
    for module in (plain, ours):
        (module.encode_image(pixels).square().sum() + encode_tokens(module, ids).square().sum()).backward()
    assert close(plain.encode_image(pixels), ours.encode_image(pixels))
    for (name, one), two in zip(plain.named_parameters(), ours.parameters(), strict=True):
        if one.grad is not None:
            assert torch.allclose(one.grad, two.grad, atol=1e-4, rtol=1e-4), name
    assert plain.state_dict().keys() == ours.state_dict().keys()


def test_tiny_is_as_small_as_it_says() -> None:
    built = clip.build("tiny")
    table = built.module.token_embedding.weight.numel()
    rest = sum(p.numel() for p in built.module.parameters()) - table
    assert (round(rest / 1e6, 1), round(table / 1e6, 1)) == (2.4, 4.7)
    assert close(clip.build("tiny").module.visual.proj, built.module.visual.proj)
    assert not close(clip.build("tiny", seed=1).module.visual.proj, built.module.visual.proj)


def test_folders_that_hold_no_model_are_one_line(tmp_path: Path) -> None:
    for folder in ("empty", "bare", "part"):
        (tmp_path / folder).mkdir()
    for folder in ("other", "cut"):
        saved(tmp_path / folder, str(micro()))
    saved(tmp_path / "tiny", "tiny")
    for file, content in {
        "bare/" + clip.CONFIG: {"model_cfg": MICRO, "preprocess_cfg": {}},
        "other/" + clip.CONFIG: {"model_cfg": {**MICRO, "embed_dim": 24}, "preprocess_cfg": {}},
        "part/config.json": {"model_type": "clip"},
        "words.json": {},
        "odd.json": {**MICRO, "vision_cfg": {"layrs": 2}},
    }.items():
        (tmp_path / file).write_text(json.dumps(content))
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    shutil.copy(tmp_path / "x.safetensors", tmp_path / "part/model.safetensors")
    (tmp_path / "cut" / clip.WEIGHTS).write_bytes(b"cut off")
    for name, words in (
        (f"{tmp_path}/nowhere", "is not a folder"),
        *((f"{tmp_path}/{n}", "the weights do not fit the configuration") for n in ("cut", "part", "other")),
        (f"{tmp_path}/empty", "holds no CLIP: expected open_clip_config.json"),
        (f"{tmp_path}/bare", "no weights"),
        ("ViT-B-61", "unknown model 'ViT-B-61'; did you mean 'ViT-B-16'"),
        ("nosuch", "unknown model 'nosuch'; known: ViT-B-16, ViT-B-32, "),
        ("nosuch", ", tiny"),
        ("coca_ViT-B-32", "caption loss"),
        (f"ViT-S-16={tmp_path / 'no.bin'}", "no such file"),
        (f"tiny={tmp_path / 'x.safetensors'}", "not the weights of ctrlsynth-tiny"),
        (f"ViT-S-16={tmp_path / 'tiny' / clip.WEIGHTS}", "not the weights of ViT-S-16: "),
        (
            "roberta-ViT-B-32",
            "takes the text tower of roberta-base, which is not on this machine; fetch it with `hf download "
            "roberta-base`",
        ),
        ("ViT-B-16-SigLIP", "takes the tokenizer of timm/ViT-B-16-SigLIP, which is not on this machine"),
    ):
        assert_refused(clip.load_model, re.escape(words), name)
    for name, words in (
        ("words", "missing embed_dim, vision_cfg, text_cfg"),
        ("odd", r"odd\.json: open_clip cannot build this model: .*layrs"),
    ):
        assert_refused(clip.build, words, str(tmp_path / f"{name}.json"))
