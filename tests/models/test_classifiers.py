"""2a by classifiers: transformers, timm, CatLIP and open_clip on tiny real checkpoints, their labels, and the
tags of a whole hybrid."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as f

import tiny_vision
from conformance import Tiny, check_tagger, other_weights, photo
from ctrlsynth.api.run import run
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText
from ctrlsynth.models.cache import cache_dir
from ctrlsynth.models.taggers.catlip import middle
from ctrlsynth.models.taggers.labels import Chooser, object_names, read_labels
from ctrlsynth.models.taggers.open_clip import OpenCLIPTagger, read_vocabulary
from ctrlsynth.sample import Tags
from helpers import assert_refused, recipe

TOLERANCE = 2e-4
"""How far a score (rounded to 4 digits) may move with its batch: float32 sums in another order."""


def tag(value: Any, image: str = "coffee.png") -> Any:
    """The tags of a photograph by the model that a recipe names so."""
    return models.load(value, "tagger").tag([ImageAndText(photo(image))])[0]


def scores(tags: Tags) -> dict[str, float]:
    return dict(zip(tags.objects, tags.scores, strict=True))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "labels.csv"
    path.write_text(
        "label,kind\ndog,objects\ncat,objects\ncup of coffee,objects\nrocket,objects\nred,attributes\nblack "
        "and white,attributes\n"
    )
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return cache_dir()


def spec(name: str, folder: Path, vocabulary: Path = Path()) -> Any:
    return {
        "vit": {"classifier": str(folder), "cut": 0.0},
        "timm": {"classifier": str(folder), "cut": 0.0},
        "catlip": {"catlip": str(folder / "vit.pt"), "vocabulary": str(folder / "vocab.pkl"), "classes": 5},
        "open_clip": {"open_clip": str(folder), "vocabulary": str(vocabulary), "score": "softmax"},
    }[name]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vit", "model.safetensors"),
        ("timm", "model.safetensors"),
        ("catlip", "vit.pt"),
        ("open_clip", "open_clip_model.safetensors"),
    ],
)
def test_every_classifier_keeps_the_contract(
    name: str, file: str, tiny: Tiny, vocabulary: Path, tmp_path: Path
) -> None:
    folders = (tiny(name), other_weights(tiny(name), tmp_path / "other", file))
    tagger, other = (models.load(spec(name, folder, vocabulary), "tagger") for folder in folders)
    check_tagger(lambda: tagger, lambda: other, tolerance=TOLERANCE)
    assert tagger.reads == "pixels"
    assert tagger.content_digest() != other.content_digest()
    odd = [
        Image.new(mode, size)
        for mode in ("L", "P", "RGBA", "1", "CMYK", "I;16")
        for size in ((1, 1), (3, 400), (400, 3))
    ]
    *read, without = tagger.tag([*(ImageAndText(image) for image in odd), ImageAndText(None, "text")])
    assert [tags.error for tags in read] == [None] * len(odd)
    assert without == Tags()
    tagger.check()
    tagger.close()
    assert tagger.tag([ImageAndText(odd[0])]) == read[:1]


def test_labels_become_objects_and_scores_are_the_models(tiny: Tiny) -> None:
    """Against transformers' own pipeline: `tabby` twice counts together, WordNet's number becomes its word."""
    value, pipe = spec("vit", tiny("vit")), transformers.pipeline("image-classification", str(tiny("vit")))
    for multi_label, function, join in ((False, "softmax", sum), (True, "sigmoid", max)):
        found = pipe(photo("chelsea.png"), function_to_apply=function)
        by_label = {one["label"]: one["score"] for one in found}
        wanted = {
            "tabby": join((by_label["tabby, tabby cat"], by_label["tabby"])),
            "dog": by_label["n02084071"],
            "traffic light": by_label["Traffic_Light"],
        }
        tags = tag(value | {"multi_label": multi_label}, "chelsea.png")
        assert scores(tags) == pytest.approx(wanted, abs=TOLERANCE)
        assert list(tags.scores) == sorted(tags.scores, reverse=True)
    least = tags.scores[1] - 0.001
    for more, count in (({"cut": least}, 2), ({"top_k": 1}, 1)):
        assert tag(value | {"multi_label": True} | more, "chelsea.png").objects == tags.objects[:count]


def test_a_timm_name_with_a_file(tiny: Tiny, tmp_path: Path) -> None:
    import timm

    model = timm.create_model("test_vit", pretrained=False, num_classes=3)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    names = tmp_path / "names.txt"
    value = {
        "classifier": "test_vit",
        "checkpoint": str(tmp_path / "w.safetensors"),
        "labels": str(names),
        "cut": 0.0,
    }
    names.write_text("dog\ncat\nboat\n")
    assert set(tag(value).objects) == {"dog", "cat", "boat"}
    names.write_text("dog\ncat\n")
    assert_refused(partial(tag, value), "its weights do not fit the model")
    wrong = value | {"classifier": "test_vitt"}
    assert_refused(partial(tag, wrong), "unknown timm model 'test_vitt'; did you mean 'test_vit")


def corenet(state: dict[str, Any], pixels: Any) -> Any:
    """corenet's forward pass in its own names, written out: the oracle for the mapping onto timm."""

    def linear(x: Any, name: str) -> Any:
        return f.linear(x, state[name + ".weight"], state[name + ".bias"])

    def norm(x: Any, name: str) -> Any:
        return f.layer_norm(x, x.shape[-1:], state[name + ".weight"], state[name + ".bias"], 1e-6)

    x = pixels
    for n, (size, padding) in enumerate(((4, 1), (2, 0), (2, 0))):
        base = f"patch_emb.{n}.block."
        x = f.conv2d(
            x, state[base + "conv.weight"], state.get(base + "conv.bias"), stride=size, padding=padding
        )
        if n < 2:
            of = [state[f"{base}norm.{p}"] for p in ("running_mean", "running_var", "weight", "bias")]
            x = f.gelu(f.batch_norm(x, *of))
    x = x.flatten(2).transpose(1, 2) + state["pos_embed.pos_embed.pos_embed"][0]
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1)
    for n in range(2):
        base = f"transformer.{n}."
        qkv = linear(norm(x, base + "pre_norm_mha.0"), base + "pre_norm_mha.1.qkv_proj")
        query, key, value = qkv.reshape(len(x), -1, 3, 2, 64).permute(2, 0, 3, 1, 4)
        attention = ((query @ key.transpose(-1, -2)) / 8).softmax(-1) @ value
        x = x + linear(attention.transpose(1, 2).flatten(2), base + "pre_norm_mha.1.out_proj_attn")
        x = x + linear(
            f.gelu(linear(norm(x, base + "pre_norm_ffn.0"), base + "pre_norm_ffn.1")), base + "pre_norm_ffn.4"
        )
    return linear(norm(x, "post_transformer_norm")[:, 0], "classifier")


def test_catlip_gives_what_corenet_would(tiny: Tiny) -> None:
    from torchvision import transforms

    tagger = models.load(spec("catlip", tiny("catlip")), "tagger")
    assert tagger._choosers["objects"].top_k == 20
    assert tagger.labels == ["n2084071", "n2121620", "n4379243", "n2858304", "n7929519"]  # the most frequent
    image = photo("chelsea.png")
    evaluation = transforms.Compose([transforms.Resize(232), transforms.CenterCrop(224)])
    apart = np.asarray(evaluation(image)).astype(int) - middle(image)
    assert np.abs(apart).mean() < 4  # the same square, to a fraction of a pixel
    pixels = torch.from_numpy(middle(image).transpose(2, 0, 1)[None] / 255).float()
    logits = corenet(torch.load(tiny("catlip") / "vit.pt", weights_only=True), pixels)[0]
    named = zip(("dog", "cat", "table", "boat", "coffee"), logits.sigmoid().tolist(), strict=True)
    wanted = {name: round(p, 4) for name, p in named if round(p, 4) > 0}
    assert scores(tagger.tag([ImageAndText(image)])[0]) == pytest.approx(wanted, abs=TOLERANCE)


def test_a_checkpoint_that_is_no_catlip_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    value = spec("catlip", tiny("catlip")) | {"catlip": str(tmp_path / "vit.pt")}
    state = torch.load(tiny("catlip") / "vit.pt", weights_only=True)
    for content, message in (
        (state | {"stranger.weight": torch.zeros(1)}, "'stranger.weight' is no part of corenet's ViT"),
        (state | {"transformer.0.pre_norm_ffn.9.weight": torch.zeros(1)}, "no part of corenet's ViT"),
        (state | {"classifier.bias": torch.zeros(7)}, "has 7 classes, its vocabulary 5"),
        (state | {"post_transformer_norm.bias": torch.zeros(7)}, "do not fit the model"),
        ({k: v for k, v in state.items() if k != "cls_token"}, "cls_token is missing"),
        ({"state": torch.nn.Linear(1, 1)}, "not a weight file that is safe to read"),
    ):
        torch.save(content, tmp_path / "vit.pt")
        assert_refused(partial(tag, value), message)


def test_open_clip_scores_are_the_models(tiny: Tiny, vocabulary: Path, tmp_path: Path) -> None:
    """Against open_clip used by hand, all three scores, two templates."""
    import open_clip

    image, templates = photo("rocket.jpg"), ["a photo of a {}.", "{}"]
    labels = ["dog", "cat", "cup of coffee", "rocket"]
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{tiny('open_clip')}")
    model.eval()
    with torch.inference_mode():
        texts = sum(
            model.encode_text(open_clip.tokenize([t.format(x) for x in labels]), normalize=True)
            for t in templates
        )
        seen = model.encode_image(prepare(image)[None], normalize=True)
        cosine = (seen @ torch.nn.functional.normalize(texts, dim=-1).T)[0]
        logits = cosine * model.logit_scale.exp()
    by_hand = {"cosine": cosine.clamp(0), "softmax": logits.softmax(-1), "sigmoid": logits.sigmoid()}
    value = spec("open_clip", tiny("open_clip"), vocabulary) | {"templates": templates, "top_k": 9}
    for score, wanted in by_hand.items():
        tags = tag(value | {"score": score}, "rocket.jpg")
        named = zip(labels, wanted.tolist(), strict=True)
        positive = {label: round(p, 4) for label, p in named if round(p, 4) > 0}
        assert scores(tags) == pytest.approx(positive, abs=TOLERANCE)
    assert set() < set(tags.attributes) <= {"red", "black and white"}


def test_thousands_of_labels_are_embedded_once(tiny: Tiny, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(f"thing {n}" for n in range(3000)))
    value = spec("open_clip", tiny("open_clip"), tmp_path / "labels.txt")
    tags = tag(value)
    assert len(tags.objects) == 10
    (file,) = (cache / "open_clip").iterdir()
    with patch.object(OpenCLIPTagger, "_embed", side_effect=AssertionError("embedded again")):
        assert tag(value) == tags
    file.write_bytes(file.read_bytes()[:-1])  # damaged: made again
    assert tag(value) == tags
    other = value | {"templates": ["{}!"]}
    assert models.load(other, "tagger").digest != models.load(value, "tagger").digest
    tag(other)
    assert len(list((cache / "open_clip").iterdir())) == 2


def test_a_siglip_gives_probabilities(vocabulary: Path, tmp_path: Path) -> None:
    folder = tiny_vision.open_clip(tmp_path / "siglip", bias=True)
    value = spec("open_clip", folder, vocabulary) | {"score": None}
    assert tag(value) == tag(value | {"score": "sigmoid"}) != tag(value | {"score": "cosine"})


def test_wrong_values_are_one_sentence(tiny: Tiny, vocabulary: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(tiny("vit"), tmp_path / "bare")
    config = json.loads((bare / "config.json").read_text())
    config["id2label"] = {str(n): f"LABEL_{n}" for n in range(4)}
    (bare / "config.json").write_text(json.dumps(config))
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    vit, named = spec("vit", tiny("vit")), spec("open_clip", Path("ViT-B-32"), vocabulary)
    for value, message in (
        ({"classifier": str(bare)}, "names none of its 4 classes; give a label file as `labels`"),
        ({"classifier": str(bare), "labels": str(tmp_path / "three.txt")}, "has 4 classes, but 3 labels"),
        (vit | {"top_k": 0}, "top_k: a whole number from 1 up"),
        (vit | {"cut": -1}, "cut: a number from 0 to 1"),
        (vit | {"multi_labl": True}, "unknown option 'multi_labl'; did you mean 'multi_label'"),
        ({"classifier": "acme/none"}, "fetch it with `hf download acme/none`"),
        ("classifier", "takes a model"),
        ({"catlip": "vit.pt"}, "takes its two files"),
        (named, "ViT-B-32: it has no weights; give a local checkpoint as `pretrained`"),
        (named | {"pretrained": "laion2b_s34b_b79k"}, "'laion2b_s34b_b79k' is no file"),
        (
            named | {"open_clip": "ViT-B-33", "pretrained": "x.pt"},
            "unknown model of open_clip 'ViT-B-33'; did you mean 'ViT-B-32",
        ),
        (named | {"open_clip": str(tmp_path)}, "holds no open_clip_config.json"),
        (named | {"open_clip": "acme/none"}, "fetch it with `hf download acme/none`"),
        (named | {"templates": "a photo"}, "templates: a list of sentences"),
        (named | {"score": "cos"}, "unknown score 'cos'; did you mean 'cosine'"),
        (named | {"cut": 2}, "cut: a number from 0 to 1"),
        (named | {"vocabulary": None}, "takes a model and a vocabulary"),
    ):
        assert_refused(partial(tag, value), message)


def test_label_files(tmp_path: Path) -> None:
    def made(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    good = {"a.txt": "\ufeffdog\ncat\n\n", "a.json": '["dog", "cat"]', "b.json": '{"1": "cat", "0": "dog"}'}
    assert [read_labels(made(*file), "x") for file in good.items()] == [["dog", "cat"]] * 3
    assert read_vocabulary(made("v.txt", "dog\ncat\ndog\n")) == {"objects": ["dog", "cat"]}
    labels = {
        "n02084071": "dog", "n2084071": "dog", "tench, Tinca tinca": "tench", "kite (bird of prey)": "kite",
        "Egyptian_Mau": "egyptian mau", "TV": "TV",
    }  # fmt: skip
    assert object_names(list(labels)) == list(labels.values())
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: read_labels(made("c.json", '{"1": "cat", "3": "dog"}'), "x"), r"^x: .*c.json"),
        (lambda: read_labels(made("d.json", "[1]"), "x"), r"^x: .*d.json"),
        (lambda: read_labels(made("e.json", "{"), "x"), r"^x: .*e.json"),
        (lambda: read_labels(made("f.txt", ""), "x"), r"^x: .*f.txt"),
        (lambda: read_labels(made("g.txt", "a\n\nb"), "x"), r"^x: .*g.txt"),
        (lambda: object_names(["n3"]), "unknown WordNet offset 'n00000003'"),
        (lambda: read_vocabulary(made("v.csv", "label\ndog\n")), "columns label and kind"),
        (lambda: read_vocabulary(made("v.csv", "label,kind\ndog,thing\n")), "line 2: unknown kind 'thing'"),
        (lambda: read_vocabulary(made("v.csv", "label,kind\n ,objects\n")), "line 2: an empty label"),
        (lambda: read_vocabulary(made("v.csv", "label,kind\n")), "no labels"),
    ]
    for read, message in bad:
        assert_refused(read, message)


def test_the_chooser_breaks_ties_by_the_order_of_classes() -> None:
    chooser = Chooser(["b", "a", "B", "c"], 2, 0.3, add=True)
    assert chooser.tags(np.array([0.2, 0.4, 0.2, 0.2], np.float32)) == Tags(("b", "a"), scores=(0.4, 0.4))
    assert chooser.tags(np.array([np.nan, 0, 0, 0], np.float32)) == Tags(error="not_a_number")


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12),
    st.lists(st.integers(0, 6), min_size=12, max_size=12),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.3, 0.5]),
    st.booleans(),
)
def test_the_chooser_against_plain_sorting(
    names: list[str], sixths: list[int], top_k: int, cut: float, add: bool
) -> None:
    scores = [n / 12 for n in sixths[: len(names)]]
    by_name: dict[str, float] = {}
    for name, score in zip(names, scores, strict=True):
        by_name[name] = by_name.get(name, 0.0) + score if add else max(by_name.get(name, 0.0), score)
    rounded = {name: min(round(score, 4), 1.0) for name, score in by_name.items() if score > 0}
    ranked = sorted(rounded.items(), key=lambda pair: -pair[1])  # stable: ties in the order of the names
    wanted = [(name, score) for name, score in ranked if score >= cut][:top_k]
    found = Chooser(names, top_k, cut, add).tags(np.array(scores, np.float32))
    assert found.objects == tuple(name for name, _ in wanted)
    assert found.scores == pytest.approx([score for _, score in wanted], abs=1e-4)


def test_the_papers_hybrid_tags_a_run_and_judges_its_images(tiny: Tiny, tmp_path: Path) -> None:
    """CatLIP's objects joined with those extracted from a captioner's text, as tagger and as judge of painted
    images; `plan` shows it."""
    for name in ("coffee.png", "chelsea.png"):
        photo(name).save(tmp_path / name)
    catlip = spec("catlip", tiny("catlip"))
    captioner = {
        "captioner": str(tiny("blip")),
        "max_new_tokens": 6,
        "extract": {"smollm2": None, "processes": 1},
    }
    chosen: dict[str, Any] = {
        "source": {"folder": "."},
        "models": {
            "tagger": {"hybrid": [catlip, captioner]},
            "llm": "realizer",
            "text_to_image": "scenes",
        },
        "paths": ["SP3"],
        "judge": {"tagger": {"hybrid": [catlip, spec("vit", tiny("vit"))]}, "threshold": 0.0},
    }
    made = run(recipe(tmp_path, **chosen), tmp_path / "run", base=tmp_path)
    tagged = list(made.rows("tag"))
    known = {"dog", "cat", "table", "boat", "coffee"}
    for row in tagged:
        own = [name in known for name in row["objects"]]
        assert own == sorted(own, reverse=True)  # in the order of the taggers, CatLIP's own first
        assert len(row["objects"]) == len(set(row["objects"])) == len(row["scores"])
        assert set(row["scores"][sum(own) :]) <= {1.0}
    assert any(row["caption"] for row in tagged)
    settings = {s["folder"]: s["settings"] for s in made.plan["steps"]}
    assert settings["tag"]["reads"] == settings["tag.2"]["reads"] == "pixels"
    assert settings["tag"]["model"].startswith("hybrid(catlip:vit.pt+captioner:")
    assert "classifier:" in settings["tag.2"]["model"]
    assert all(r["status"] == "ok" for r in [*tagged, *made.rows("tag.2")])
