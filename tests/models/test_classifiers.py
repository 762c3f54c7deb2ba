"""2a by classifiers: transformers, timm, CatLIP and open_clip on tiny real checkpoints, their labels, and the
tags of a whole hybrid."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tiny_vision
from conformance import Tiny, check_tagger, other_weights, photo
from ctrlsynth.api.run import run
from ctrlsynth.errors import UserError
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText
from ctrlsynth.models.taggers.catlip import middle
from ctrlsynth.models.taggers.labels import Chooser, object_names, read_labels
from ctrlsynth.models.taggers.open_clip import OpenCLIPTagger, read_vocabulary
from ctrlsynth.sample import Tags
from helpers import recipe

TOLERANCE = 2e-4
"""How far a score (rounded to 4 digits) may move with its batch: float32 sums in another order."""


def tag(value: dict[str, Any], image: str = "coffee.png") -> Tags:
    """The tags of a photograph by the model that a recipe names so."""
    (tags,) = models.load(value, "tagger").tag([ImageAndText(photo(image))])
    assert isinstance(tags, Tags)
    return tags


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
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place / "ctrlsynth"


def spec(name: str, folder: Path, vocabulary: Path) -> dict[str, Any]:
    specs: dict[str, dict[str, Any]] = {
        "vit": {"classifier": str(folder), "cut": 0.0},
        "timm": {"classifier": str(folder), "cut": 0.0},
        "catlip": {"catlip": str(folder / "vit.pt"), "vocabulary": str(folder / "vocab.pkl"), "classes": 5},
        "open_clip": {"open_clip": str(folder), "vocabulary": str(vocabulary), "score": "softmax"},
    }
    return specs[name]


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
    tagger = models.load(spec(name, tiny(name), vocabulary), "tagger")
    folder = other_weights(tiny(name), tmp_path / "other", file)
    other = models.load(spec(name, folder, vocabulary), "tagger")
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
    """Against transformers used by hand: softmax, `tabby` twice counts together, WordNet's number becomes its
    word."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    image = photo("chelsea.png")
    model = AutoModelForImageClassification.from_pretrained(tiny("vit")).eval()
    with torch.inference_mode():
        pixels = AutoImageProcessor.from_pretrained(tiny("vit"))(image, return_tensors="pt")
        logits = model(**pixels).logits[0]
    share, alone = logits.softmax(-1).tolist(), logits.sigmoid().tolist()
    value: dict[str, Any] = {"classifier": str(tiny("vit")), "cut": 0.0}
    tags = tag(value | {"top_k": 9}, "chelsea.png")
    wanted = {"tabby": share[0] + share[3], "dog": share[1], "traffic light": share[2]}
    assert scores(tags) == pytest.approx(wanted, abs=2e-4)
    assert list(tags.scores) == sorted(tags.scores, reverse=True)
    value["multi_label"] = True
    tags = tag(value, "chelsea.png")
    wanted = {"tabby": max(alone[0], alone[3]), "dog": alone[1], "traffic light": alone[2]}
    assert scores(tags) == pytest.approx(wanted, abs=2e-4)
    second = sorted(wanted.values())[1]
    assert tag(value | {"cut": second - 0.001}, "chelsea.png").objects == tags.objects[:2]
    assert tag(value | {"top_k": 1}, "chelsea.png").objects == tags.objects[:1]


def test_a_timm_name_with_a_file(tiny: Tiny, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    model = timm.create_model("test_vit", pretrained=False, num_classes=3)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "names.txt").write_text("dog\ncat\nboat\n")
    value = {
        "classifier": "test_vit",
        "checkpoint": str(tmp_path / "w.safetensors"),
        "labels": str(tmp_path / "names.txt"),
        "cut": 0.0,
    }
    assert set(tag(value).objects) == {"dog", "cat", "boat"}
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    with pytest.raises(UserError, match="its weights do not fit the model"):
        tag(value)
    with pytest.raises(UserError, match="unknown timm model 'test_vitt'; did you mean 'test_vit"):
        models.load(value | {"classifier": "test_vitt"}, "tagger")


def corenet(state: dict[str, Any], pixels: Any) -> Any:
    """corenet's forward pass in its own names, written out: the oracle for the mapping onto timm."""
    from torch.nn import functional as f

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
    tagger = models.load(spec("catlip", tiny("catlip"), Path()), "tagger")
    assert tagger._choosers["objects"].top_k == 20
    assert tagger.labels == [
        "n2084071",
        "n2121620",
        "n4379243",
        "n2858304",
        "n7929519",
    ]  # the first five of the vocabulary, by count
    image = photo("chelsea.png")
    width, height = image.size
    scale = 232 / min(width, height)
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
    by_hand = np.asarray(resized.crop((left, top, left + 224, top + 224))).astype(int)
    assert np.abs(middle(image).astype(int) - by_hand).mean() < 4  # the same square, to a fraction of a pixel
    pixels = torch.from_numpy(middle(image).transpose(2, 0, 1)[None] / 255).float()
    logits = corenet(torch.load(tiny("catlip") / "vit.pt", weights_only=True), pixels)[0]
    names = ("dog", "cat", "table", "boat", "coffee")
    (tags,) = tagger.tag([ImageAndText(image)])
    wanted = {
        name: round(p, 4) for name, p in zip(names, logits.sigmoid().tolist(), strict=True) if round(p, 4) > 0
    }
    assert scores(tags) == pytest.approx(wanted, abs=2e-4)


def test_a_checkpoint_that_is_no_catlip_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    value = spec("catlip", tiny("catlip"), Path()) | {"catlip": str(tmp_path / "vit.pt")}
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
        with pytest.raises(UserError, match=message) as caught:
            tag(value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="takes its two files"):
        models.load({"catlip": "vit.pt"}, "tagger")


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
        cosine = (
            model.encode_image(prepare(image)[None], normalize=True)
            @ torch.nn.functional.normalize(texts, dim=-1).T
        )
        logits = (cosine * model.logit_scale.exp())[0]
    by_hand = {"cosine": cosine[0].clamp(0), "softmax": logits.softmax(-1), "sigmoid": logits.sigmoid()}
    for score, wanted in by_hand.items():
        value = {
            "open_clip": str(tiny("open_clip")),
            "vocabulary": str(vocabulary),
            "templates": templates,
            "score": score,
            "top_k": 9,
        }
        tags = tag(value, "rocket.jpg")
        named = {
            label: round(p, 4) for label, p in zip(labels, wanted.tolist(), strict=True) if round(p, 4) > 0
        }
        assert scores(tags) == pytest.approx(named, abs=2e-4)
    assert set() < set(tags.attributes) <= {"red", "black and white"}


def test_thousands_of_labels_are_embedded_once(
    tiny: Tiny, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(f"thing {n}" for n in range(3000)))
    value = spec("open_clip", tiny("open_clip"), tmp_path / "labels.txt")
    tags = tag(value)
    assert len(tags.objects) == 10
    (file,) = (cache / "open_clip").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(OpenCLIPTagger, "_embed", lambda *_: pytest.fail("embedded again"))
        assert tag(value) == tags
    file.write_bytes(file.read_bytes()[:-1])  # damaged: made again
    assert tag(value) == tags
    other = value | {"templates": ["{}!"]}
    assert models.load(other, "tagger").digest != models.load(value, "tagger").digest
    tag(other)
    assert len(list((cache / "open_clip").iterdir())) == 2


def test_a_siglip_gives_probabilities(vocabulary: Path, tmp_path: Path) -> None:
    value = {
        "open_clip": str(tiny_vision.open_clip(tmp_path / "siglip", bias=True)),
        "vocabulary": str(vocabulary),
    }
    assert tag(value) == tag(value | {"score": "sigmoid"}) != tag(value | {"score": "cosine"})


def test_open_clip_by_name_takes_a_local_file(vocabulary: Path, tmp_path: Path) -> None:
    value = {"open_clip": "ViT-B-32", "vocabulary": str(vocabulary)}
    for more, message in (
        ({}, "ViT-B-32: it has no weights; give a local checkpoint as `pretrained`"),
        ({"pretrained": "laion2b_s34b_b79k"}, "'laion2b_s34b_b79k' is no file"),
        (
            {"open_clip": "ViT-B-33", "pretrained": "x.pt"},
            "unknown model of open_clip 'ViT-B-33'; did you mean 'ViT-B-32",
        ),
        ({"open_clip": str(tmp_path)}, "holds no open_clip_config.json"),
        ({"open_clip": "acme/none"}, "fetch it with `hf download acme/none`"),
        ({"templates": "a photo"}, "templates: a list of sentences"),
        ({"score": "cos"}, "unknown score 'cos'; did you mean 'cosine'"),
        ({"cut": 2}, "cut: a number from 0 to 1"),
        ({"vocabulary": None}, "takes a model and a vocabulary"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            models.load(value | more, "tagger")
        assert "\n" not in str(caught.value)


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
        with pytest.raises(UserError, match=message):
            read()


def test_the_chooser_breaks_ties_by_the_order_of_classes() -> None:
    chooser = Chooser(["b", "a", "B", "c"], 2, 0.3, add=True)
    assert chooser.tags(np.array([0.2, 0.4, 0.2, 0.2], np.float32)) == Tags(("b", "a"), scores=(0.4, 0.4))
    best = Chooser(["a", "b"], 5, 0.0, add=False).tags(np.array([0.0, 0.5], np.float32))
    assert best == Tags(("b",), scores=(0.5,))
    assert chooser.tags(np.array([np.nan, 0, 0, 0], np.float32)).error == "not_a_number"


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
    ranked = sorted(
        by_name.items(), key=lambda pair: -min(round(pair[1], 4), 1.0)
    )  # stable: ties in the order of the names
    wanted = [
        (name, min(round(score, 4), 1.0)) for name, score in ranked if round(score, 4) >= cut and score > 0
    ][:top_k]
    found = Chooser(names, top_k, cut, add).tags(np.array(scores, np.float32))
    assert found.objects == tuple(name for name, _ in wanted)
    assert found.scores == pytest.approx([score for _, score in wanted], abs=1e-4)


def test_wrong_classifiers_are_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    bare = shutil.copytree(tiny("vit"), tmp_path / "bare")
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(
        json.dumps(config | {"id2label": {str(n): f"LABEL_{n}" for n in range(4)}})
    )
    for value, message in (
        ({"classifier": str(bare)}, "names none of its 4 classes; give a label file as `labels`"),
        ({"classifier": str(tiny("vit")), "top_k": 0}, "top_k: a whole number from 1 up"),
        ({"classifier": str(tiny("vit")), "cut": -1}, "cut: a number from 0 to 1"),
        (
            {"classifier": str(tiny("vit")), "multi_labl": True},
            "unknown option 'multi_labl'; did you mean 'multi_label'",
        ),
        ({"classifier": "acme/none"}, "fetch it with `hf download acme/none`"),
        ("classifier", "takes a model"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            models.load(value, "tagger")
        assert "\n" not in str(caught.value)
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match="has 4 classes, but 3 labels"):
        tag({"classifier": str(bare), "labels": str(tmp_path / "three.txt")})


def test_the_papers_hybrid_tags_a_run_and_judges_its_images(tiny: Tiny, tmp_path: Path) -> None:
    """CatLIP's objects joined with those extracted from a captioner's text, as tagger and as judge of painted
    images; `plan` shows it."""
    for name in ("coffee.png", "chelsea.png"):
        photo(name).save(tmp_path / name)
    catlip = spec("catlip", tiny("catlip"), Path())
    captioner = {
        "captioner": str(tiny("blip")),
        "max_new_tokens": 6,
        "extract": {"smollm2": None, "processes": 1},
    }
    hybrid = {"hybrid": [catlip, captioner]}
    chosen: dict[str, Any] = {
        "source": {"folder": "."},
        "models": {"tagger": hybrid, "llm": "realizer", "text_to_image": "scenes"},
        "paths": ["SP3"],
        "judge": {"tagger": {"hybrid": [catlip, {"classifier": str(tiny("vit"))}]}, "threshold": 0.0},
    }
    made = run(recipe(tmp_path, **chosen), tmp_path / "run", base=tmp_path)
    tagged = list(made.rows("tag"))
    known = ["dog", "cat", "table", "boat", "coffee"]
    for row in tagged:
        catlips = [name for name in row["objects"] if name in known]
        assert row["objects"][: len(catlips)] == catlips  # in the order of the taggers, CatLIP's own first
        assert len(row["objects"]) == len(set(row["objects"])) == len(row["scores"])
        assert set(row["scores"][len(catlips) :]) <= {1.0}
    assert any(row["caption"] for row in tagged)
    settings = {s["folder"]: s["settings"] for s in made.plan["steps"]}
    assert settings["tag"]["reads"] == settings["tag.2"]["reads"] == "pixels"
    assert settings["tag"]["model"].startswith("hybrid(catlip:vit.pt+captioner:")
    assert "classifier:" in settings["tag.2"]["model"]
    assert all(r["status"] == "ok" for r in [*tagged, *made.rows("tag.2")])
