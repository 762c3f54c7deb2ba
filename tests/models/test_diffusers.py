"""The diffusers backend on tiny real checkpoints: SD1.5, SDXL, SD3 and FLUX are loaded and run by diffusers
itself, with random weights."""

import json
import shutil
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from operator import methodcaller
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import diffusers
import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from conformance import Tiny, check_painter, other_weights
from ctrlsynth.lang import clip_tokens
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import Painting, Prompt
from ctrlsynth.models.text_to_image.diffusers.load import save_memory
from ctrlsynth.models.text_to_image.diffusers.prompt import FAMILIES, pieces
from helpers import assert_fails, assert_refused
from tiny_models import lora
from tiny_vision import Cramped

FAMILY = ("sd15", "sdxl", "sd3", "flux")
LONG = "a red dog on a blue car. " * 12 + "a green tree near a house"
LEVEL = 1
"""By how many levels of 255 an image may differ from the same one painted in another batch."""


@pytest.fixture(scope="module")
def painter(tiny: Tiny) -> Callable[..., Any]:
    """`painter("sd15", steps=3)`: a model with small settings, each set of options loaded once."""
    return cache(lambda name, **options: build(tiny(name), **options))


def build(folder: Path, **options: Any) -> Any:
    return models.load(
        {"diffusers": str(folder), "steps": 2, "size": 64, "batch": 3, "device": "cpu", **options},
        "text_to_image",
    )


def apart(a: Painting, b: Painting) -> int:
    """The largest difference of two images, in levels."""
    assert (a.error, b.error) == (None, None)
    one, two = (np.asarray(painting.image, dtype=np.int16) for painting in (a, b))
    return int(np.abs(one - two).max())


def paint(model: Any, text: str, **more: Any) -> Any:
    return model.generate([Prompt(text, **more)])[0]


@pytest.mark.parametrize("name", FAMILY)
def test_conformance(painter: Callable[..., Any], tiny: Tiny, tmp_path: Path, name: str) -> None:
    part = "unet" if (tiny(name) / "unet").exists() else "transformer"
    other = other_weights(tiny(name), tmp_path / "other", f"{part}/diffusion_pytorch_model.safetensors")
    check_painter(lambda: painter(name), lambda: build(other), tolerance=LEVEL)


@pytest.mark.parametrize("name", FAMILY)
def test_a_prompt_without_weights_is_encoded_as_the_pipeline_encodes_it(
    painter: Callable[..., Any], name: str
) -> None:
    """The pipeline's own `encode_prompt` is the oracle of what the weighing path makes of plain text,
    brackets and all."""
    (pipe, reader), family = painter(name).loaded(), painter(name).family
    given: dict[str, Any] = {"device": "cpu", "num_images_per_prompt": 1}
    given |= dict.fromkeys({"sd": [], "sd3": ["prompt_2", "prompt_3"]}.get(family, ["prompt_2"]))
    if family != "flux":
        given |= {"do_classifier_free_guidance": True, "negative_prompt": ["blue"]}
    kinds = ("", "pooled_") if family == "flux" else ("", "negative_", "pooled_", "negative_pooled_")
    for text in ("a red dog on a car", 'a (((dog)))++ and (cat)1.5, "ball".swap(red) -- a-b', "", LONG):
        found = reader.encode([(text, 1.0)], "blue" if family != "flux" else None)
        with torch.no_grad():
            wanted = pipe.encode_prompt(prompt=[text], **given)
        for kind, tensor in zip(kinds, wanted, strict=False):
            key = f"{kind}prompt_embeds"
            torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=1e-5, msg=f"{key} of {text!r}")


@pytest.mark.parametrize("name", FAMILY)
def test_weights_change_the_image_and_a_weight_of_one_does_not(
    painter: Callable[..., Any], name: str
) -> None:
    model, text = painter(name), "a red dog on a blue car"
    plain = paint(model, text, seed=1)
    same, little, more, most, less = (
        apart(paint(model, text, seed=1, weights={"dog": factor}), plain)
        for factor in (1.0, 1.1, 1.6, 3.0, 0.4)
    )
    assert 0 == same < little < more < most
    assert less > 0
    lacking = paint(model, text, seed=1, weights={"cat": 2.0, "dogs": 1.0})
    assert lacking.weights_unused == ("cat",)
    assert apart(lacking, plain) <= LEVEL


def test_a_weight_multiplies_what_the_tokens_add_to_an_empty_prompt(painter: Callable[..., Any]) -> None:
    (_, reader), text = painter("sd15").loaded(), "a small red dog, sitting"
    parts, _ = pieces(text, {"red dog": 1.5})
    one, empty, got = (
        reader.encode(p, None)["prompt_embeds"][0] for p in ([(text, 1.0)], [("", 1.0)], parts)
    )
    ids = clip_tokens.encode(text)
    where = [ids.index(clip_tokens.encode(word)[1]) for word in ("red", "dog")]
    wanted = one.clone()
    wanted[where] = empty[where] + 1.5 * (one - empty)[where]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_a_caption_brings_no_syntax(painter: Callable[..., Any]) -> None:
    """What compel's prompt language would weigh is text like any other: the same image as without the
    weighing path."""
    model, text = painter("sd15"), "a (((dog)))++ on a (car)1.8"
    ended = "a dog <|endoftext|> and a <|startoftext|> cat <|endoftext|>"
    for one in (ended, text):
        literal, weighed = (paint(model, one, seed=3, weights=w) for w in ({}, {"tree": 2.0}))
        assert apart(weighed, literal) <= LEVEL
    assert literal.tokens == weighed.tokens == clip_tokens.count(text)
    assert apart(paint(model, "a dog on a car", seed=3), literal) > 10
    began = "<|startoftext|> dog </s> cat"
    for text, weights in product((began, ended), ({"dog": 1.5}, {"dog": 0.5, "cat": 0.2})):
        assert paint(model, text, seed=3, weights=weights).image is not None
    assert paint(model, began).tokens == clip_tokens.count("< |startoftext|> dog </s> cat")


@pytest.mark.parametrize(
    ("text", "weights", "wanted"),
    [
        (
            "a big dog and Dogs, hotdog",
            {"dog": 2},
            ([("a big ", 1.0), ("dog", 2.0), (" and ", 1.0), ("Dogs", 2.0), (", hotdog", 1.0)], ()),
        ),
        ("a big dog", {"dog": 2, "big dog": 0.5}, ([("a ", 1.0), ("big dog", 0.5)], ("dog",))),
        ("dog", {"dog": 1, "cat": 3}, ([("dog", 1.0)], ("cat",))),
        ("dog dog", {"dog": 0}, ([("dog", 0.0), ("dog", 0.0)], ())),
        ("", {}, ([("", 1.0)], ())),
        ("İ dog", {"dog": 2}, ([("İ ", 1.0), ("dog", 2.0)], ())),
    ],
)
def test_where_weights_apply(text: str, weights: dict[str, float], wanted: Any) -> None:
    assert pieces(text, weights) == wanted


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_long_prompt_is_cut_or_chunked(painter: Callable[..., Any], name: str) -> None:
    cut, chunked = painter(name), painter(name, long_prompt="chunk")
    other, number = LONG.replace("green tree", "red ball"), clip_tokens.count(LONG)
    made = [paint(cut, LONG), paint(chunked, LONG), paint(chunked, "a red dog")]
    wanted = [(number, True, None), (number, False, 2), (5, False, 1)]
    assert [(p.tokens, p.truncated, p.chunks) for p in made] == wanted
    assert apart(made[0], paint(cut, other)) == 0
    assert apart(made[1], paint(chunked, other)) > LEVEL
    assert apart(made[2], paint(cut, "a red dog")) <= LEVEL


def test_chunks_and_negatives_of_any_length_share_no_batch(painter: Callable[..., Any]) -> None:
    model = painter("sdxl", long_prompt="chunk")
    prompts = [
        Prompt("a dog", seed=1),
        Prompt(LONG, seed=2),
        Prompt("a cat", negative=LONG, seed=3),
        Prompt(LONG * 2, negative="red", seed=4, weights={"green tree": 1.5, "dog": 0.5}),
        Prompt("a cat", negative="blue", seed=5),
    ]
    together = model.generate(prompts)
    for prompt, painting in zip(prompts, together, strict=True):
        assert apart(painting, model.generate([prompt])[0]) <= LEVEL
    assert [p.chunks for p in together] == [1, 2, 1, 3, 1]


@pytest.mark.parametrize(("name", "limit"), [("sd3", 256), ("flux", 512)])
def test_t5_reads_further_than_clip(painter: Callable[..., Any], name: str, limit: int) -> None:
    texts = ("a dog", "dog " * 120, "dog " * (limit - 1), "dog " * (limit + 1))
    made = painter(name).generate([Prompt(text) for text in texts])
    assert [p.truncated for p in made] == [False, False, False, True]
    assert [(p.tokens, p.chunks) for p in made[:2]] == [(4, None), (122, None)]


def test_a_batch_shrinks_when_memory_runs_out_and_grows_again(tiny: Tiny) -> None:
    model = build(tiny("sd15"), batch=8, steps=1, size=16)
    prompts = [Prompt(f"a dog {n}", seed=n) for n in range(20)]
    roomy = model.generate(prompts)
    pipe, reader = model.loaded()
    cramped = Cramped(pipe, 2)
    model._loaded = cramped, reader
    tight = model.generate(prompts)
    assert cramped.seen == [8, 4, *[2] * 8, 4, 2, 2]
    assert max(apart(a, b) for a, b in zip(roomy, tight, strict=True)) <= LEVEL
    cramped.most, cramped.seen = 99, []
    model.generate(prompts * 6)
    assert (cramped.seen[:15], max(cramped.seen)) == ([2] * 14 + [4], 8)
    cramped.most = 0
    assert [p.error for p in model.generate(prompts[:3])] == ["out_of_memory"] * 3


def test_another_fault_passes_and_names_itself(tiny: Tiny) -> None:
    model = build(tiny("sd15"))
    model._loaded = Mock(side_effect=RuntimeError("CUDA error: device-side assert triggered")), None
    assert_fails(partial(paint, model, "a dog"), "engine_died")


def test_the_safety_checkers_verdict(tiny: Tiny) -> None:
    safe, flags = build(tiny("sd15-safe")), build(tiny("sd15-flags"))
    unchecked = build(tiny("sd15-flags"), safety=False)
    white, black, plain = (paint(model, "a dog") for model in (safe, flags, unchecked))
    assert (white.flagged, plain.flagged, apart(plain, white)) == (False, None, 0)
    assert (black.flagged, black.image, black.error) == (True, None, None)
    assert unchecked.digest != flags.digest


def test_schedulers_by_name(tiny: Tiny) -> None:
    names = {
        "ddim": "DDIMScheduler",
        "dpm++": "DPMSolverMultistepScheduler",
        "Euler a": "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler": "EulerDiscreteScheduler",
    }
    made = {name: build(tiny("sd15"), scheduler=name, steps=3) for name in names}
    images = {name: paint(model, "a dog", seed=5) for name, model in made.items()}
    assert {name: type(model.loaded()[0].scheduler).__name__ for name, model in made.items()} == names
    assert all(paint(model, "a dog", seed=5).image == images[name].image for name, model in made.items())
    assert apart(images["ddim"], images["dpm++"]) > LEVEL
    noisy = made["Euler a"].generate([Prompt("a cat", seed=9), Prompt("a dog", seed=5)])
    assert apart(noisy[1], images["Euler a"]) <= LEVEL
    made["ddim"].check()


def test_adapters_change_the_image_and_the_digest(
    painter: Callable[..., Any], tiny: Tiny, tmp_path: Path
) -> None:
    folder = lora(tmp_path / "lora", tiny("sd15"))
    plain, adapted = painter("sd15"), build(tiny("sd15"), adapters=[str(folder)])
    assert plain.digest != adapted.digest
    a, b = paint(plain, "a dog"), paint(adapted, "a dog")
    assert apart(a, b) > LEVEL
    assert not any("lora" in name for name, _ in adapted.loaded()[0].unet.named_parameters())
    one_file: Any = build(tiny("sd15"), adapters=str(next(folder.glob("*.safetensors"))))
    assert apart(paint(one_file, "a dog"), b) == 0
    wrong = build(tiny("sd15"), adapters=[str(tiny("sd15") / "vae")])
    assert_refused(partial(paint, wrong, "a dog"), r"adapters: .*vae is no LoRA for StableDiffusionPipeline")


def test_precision_and_its_files(painter: Callable[..., Any], tiny: Tiny, tmp_path: Path) -> None:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny("sd15"), dtype=torch.float16, local_files_only=True
    )
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    half, brain = build(tmp_path / "half"), build(tiny("sd15"), dtype="bfloat16")
    a, b, c = (paint(model, "a dog") for model in (half, brain, painter("sd15")))
    assert (half.loaded()[0].unet.dtype, brain.loaded()[0].unet.dtype) == (torch.float16, torch.bfloat16)
    assert 0 < apart(a, c) < 40
    assert 0 < apart(b, c) < 120
    assert apart(paint(brain, "a dog", weights={"dog": 2.0}), b) > LEVEL


def test_what_belongs_to_the_digest(tiny: Tiny) -> None:
    folder = tiny("sd15")
    same: Any = [{}, {"batch": 7}, {"vae_slicing": True}, {"compile": True}, {"offload": "model"}]
    other: Any = [
        {"steps": 3}, {"guidance": 2.0}, {"scheduler": "ddim"}, {"size": [64, 72]}, {"long_prompt": "chunk"},
        {"dtype": "float16"},
        {"safety": False},
    ]  # fmt: skip
    assert len({build(folder, **options).digest for options in same}) == 1
    assert len({build(folder, **options).digest for options in [{}, *other]}) == 1 + len(other)
    assert build(folder).id == "diffusers:sd15"
    assert build(folder).content_digest() == build(folder).content_digest()


def test_memory_savers_are_calls_of_the_pipeline(tiny: Tiny) -> None:
    """No GPU here: what is asked of diffusers is seen, its effect is not."""
    for offload, asked in (
        ("model", call.enable_model_cpu_offload(device="cuda:1")),
        ("sequential", call.enable_sequential_cpu_offload(device="cuda:1")),
        (None, call.to("cuda:1")),
    ):
        pipe = Mock()
        save_memory(pipe, "cuda:1", offload, vae_slicing=True)
        assert pipe.mock_calls == [asked, call.vae.enable_slicing()]
    compiled, _ = build(tiny("sd15"), compile=True, vae_slicing=True).loaded()
    assert compiled.unet._compiled_call_impl is not None
    assert compiled.vae.use_slicing


CHECK = methodcaller("check")
ACCEPTS = methodcaller("accepts", weights=True, negative=True)
GPU = "offload: model moves weights between a GPU and main memory"
WRONG: list[tuple[str, dict[str, Any], Callable[[Any], Any], str]] = [
    ("sd15", {"step": 3}, CHECK, "unknown option 'step'; did you mean 'steps'"),
    ("sd15", {"steps": 0}, CHECK, r"text_to_image\.steps: a whole number from 1 up, not 0"),
    ("sd15", {"batch": True}, CHECK, "batch: a whole number"),
    ("sd15", {"guidance": "7"}, CHECK, "guidance: a number from 0 to 100"),
    ("sd15", {"size": 65}, CHECK, "size: one edge or .*multiples of 8, not 65"),
    ("sd15", {"size": [64]}, CHECK, "size: one edge or"),
    ("sd15", {"long_prompt": "chunks"}, CHECK, "unknown long_prompt 'chunks'; did you mean 'chunk'"),
    ("sd15", {"offload": "modle"}, CHECK, "unknown offload 'modle'; did you mean 'model'"),
    ("sd15", {"dtype": "fp16"}, CHECK, "dtype: auto, float32, float16 or bfloat16, not 'fp16'"),
    ("sd15", {"scheduler": "euller"}, CHECK, "unknown scheduler 'euller'; did you mean 'euler'"),
    ("flux", {"scheduler": "ddim"}, CHECK, "unknown scheduler 'ddim'"),
    ("sd15", {"offload": "model"}, CHECK, GPU),
    ("sd15", {"offload": "model"}, methodcaller("generate", [Prompt("a dog")]), GPU),
    ("flux", {"long_prompt": "chunk"}, CHECK, "FluxPipeline takes no chunks"),
    (
        "flux",
        {},
        ACCEPTS,
        r"FluxPipeline takes no negative prompt as it is; leave image_policy\.negative out",
    ),
    ("sdxl", {"guidance": 0.0}, ACCEPTS, r"takes no negative prompt with guidance 0\.0"),
]


@pytest.mark.parametrize(("name", "options", "use", "message"), WRONG)
def test_what_a_pipeline_cannot_do_is_one_line(
    tiny: Tiny, name: str, options: dict[str, Any], use: Callable[[Any], Any], message: str
) -> None:
    assert_refused(lambda: use(build(tiny(name), **options)), message)


def test_other_pipelines_of_diffusers(tiny: Tiny, tmp_path: Path) -> None:
    ACCEPTS(build(tiny("sd3")))
    assert paint(build(tiny("flux")), "a dog", negative="a cat").error == "negative_unsupported"
    index = tmp_path / "model_index.json"
    for name, use, message in (
        ("AudioLDMPipeline", CHECK, "AudioLDMPipeline of diffusers paints no images"),
        (
            "PixArtAlphaPipeline",
            ACCEPTS,
            r"models\.text_to_image: PixArtAlphaPipeline cannot weigh tags; leave image_policy\.weights out",
        ),
    ):
        index.write_text(json.dumps({"_class_name": name}))
        assert_refused(partial(use, build(tmp_path)), message)
    build(tmp_path).accepts(weights=False, negative=True)
    index.write_text("{")
    assert_refused(partial(build, tmp_path), "its model_index.json is damaged")


def test_preflight_names_what_is_missing(tiny: Tiny, tmp_path: Path) -> None:
    build(tiny("sd3")).check()
    cut = shutil.copytree(tiny("sd15"), tmp_path / "cut")
    for file in (cut / "unet").glob("*.safetensors"):
        file.unlink()
    assert_refused(build(cut).check, r"has no weights in unet; fetch the whole model again")
    shutil.rmtree(cut / "tokenizer")
    assert_refused(build(cut).check, r"cut lacks its tokenizer")
    assert_refused(partial(paint, build(cut), "a dog"), r"cannot be loaded as StableDiffusionPipeline")


def test_sizes(painter: Callable[..., Any]) -> None:
    model = painter("sd15")
    prompts = [
        Prompt("a dog", seed=1),
        Prompt("a dog", seed=1, size=(72, 64)),
        Prompt("a dog", size=(65, 64)),
        Prompt("a dog", seed=1),
    ]
    made = model.generate(prompts)
    assert [p.image.size if p.image else p.error for p in made] == [(64, 64), (72, 64), "bad_size", (64, 64)]
    assert apart(made[0], made[3]) <= LEVEL


def test_the_tiny_clip_tokenizer_is_the_real_one(tiny: Tiny) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tiny("sd15") / "tokenizer", local_files_only=True)
    for text in ("", "A red dog's (((ball)))++, 1234 café naïve—日本 🐶", "many words " * 60):
        assert tokenizer(text, verbose=False).input_ids == clip_tokens.encode(text)


def test_every_known_family_is_a_pipeline_of_diffusers(tiny: Tiny) -> None:
    assert {build(tiny(name)).index["_class_name"] for name in FAMILY} == set(FAMILIES)
