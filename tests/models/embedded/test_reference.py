"""`reference` (2a): reads pixels alone, names what `scenes` drew after a JPEG round trip and a resize, and
takes a folder of labelled pictures."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ctrlsynth.control.templates import styles
from ctrlsynth.errors import UserError
from ctrlsynth.models.base import ImageAndText, Prompt
from ctrlsynth.models.embedded.reference import index
from ctrlsynth.models.embedded.reference.match import Thing
from ctrlsynth.models.embedded.reference.tagger import ReferenceTagger
from ctrlsynth.models.embedded.reference.tags import tags_of
from ctrlsynth.models.embedded.regions import Box
from ctrlsynth.models.embedded.scenes.painter import Scenes
from ctrlsynth.models.embedded.scenes.sprites import paint, shades
from ctrlsynth.models.embedded.scenes.vocabulary import COLOURS, vocabulary
from ctrlsynth.sample import Tags


@pytest.fixture(scope="module")
def tagger() -> ReferenceTagger:
    return ReferenceTagger()


def read_back(tagger: ReferenceTagger, text: str, seed: int = 0, factor: float = 0.8) -> Tags:
    image = Scenes().generate([Prompt(text, seed=seed)])[0].image
    assert image is not None
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    with Image.open(data) as worn:
        size = (round(worn.width * factor), round(worn.height * factor))
        return tagger.tag([ImageAndText(worn.convert("RGB").resize(size))])[0]


@pytest.mark.parametrize("style", ["", *styles()])
def test_one_cat_in_every_style(tagger: ReferenceTagger, style: str) -> None:
    text = styles()[style].fill({"prompt": "a cat"}) if style else "a cat"
    tags = read_back(tagger, text)
    assert (tags.objects, tags.relations) == (("cat",), ())
    assert [0.5 < score <= 1 for score in tags.scores] == [True]


def test_random_scenes_meet_the_goal(tagger: ReferenceTagger) -> None:
    names = [n for n in vocabulary().drawings if n != "orange"]
    pairs = []
    for number in range(24):
        chance = random.Random(number)
        picked = set(chance.sample(names, chance.randint(1, 4)))
        tags = read_back(tagger, ", ".join(sorted(picked)), number, chance.uniform(0.6, 1.4))
        pairs.append((picked, set(tags.objects)))
    right, asked, found = (
        sum(map(len, sets)) for sets in zip(*((p & f, p, f) for p, f in pairs), strict=True)
    )
    assert right / asked >= 0.95
    assert right / found >= 0.9


def test_colours_counts_and_relations(tagger: ReferenceTagger) -> None:
    tags = read_back(tagger, "a purple dog left of a green car. Three apples. A man wearing a hat.")
    assert {"dog", "car", "apple", "man", "hat"} == set(tags.objects)
    assert {"purple dog", "green car", "three apples"} <= set(tags.attributes)
    assert {"dog left of car", "car right of dog", "man wearing hat"} <= set(tags.relations)
    tags = read_back(tagger, "a blue cat on a sofa")
    assert {"cat on sofa", "sofa under cat"} <= set(tags.relations)
    assert "blue cat" in tags.attributes


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a goat behind a cyclist", "goat behind cyclist"),
        ("a horse in front of a student", "horse in front of student"),
        ("a man in front of a dog", "man in front of dog"),
        ("a suitcase in front of a farmer", "suitcase in front of farmer"),
        ("a key behind a girl", "key behind girl"),
        ("a farmer holding a suitcase", "farmer holding suitcase"),
        ("a girl holding a ball", "girl holding ball"),
    ],
)
def test_holding_is_told_apart_from_in_front_and_behind(
    tagger: ReferenceTagger, text: str, wanted: str
) -> None:
    tags = read_back(tagger, text, seed=4)
    assert wanted in tags.relations
    assert any(" holding " in relation for relation in tags.relations) == ("holding" in text)


def _thing(name: str, heap: int, *box: int) -> Thing:
    return Thing(name, None, Box(*box), 0.01, heap, 900, np.zeros((0, 3), np.float32))


@pytest.mark.parametrize(
    ("things", "wanted"),
    [
        # pieces that white parted from what they stand on
        (
            [_thing("moon", 0, 86, 122, 196, 232), _thing("bed", 2, 59, 209, 225, 312)],
            {"moon on bed", "bed under moon"},
        ),
        # rims that met
        (
            [_thing("castle", 0, 154, 143, 353, 298), _thing("camera", 0, 30, 184, 131, 259)],
            {
                "camera left of castle", "castle right of camera", "camera next to castle",
                "castle next to camera",
            },
        ),
        # a column beside one thing
        (
            [
                _thing("house", 0, 72, 42, 230, 243), _thing("chicken", 1, 261, 221, 348, 340),
                _thing("sign", 2, 112, 264, 192, 364),
            ],
            {
                "house above sign", "sign under house", "sign left of chicken", "chicken right of sign",
                "sign next to chicken", "chicken next to sign", "house left of chicken",
                "chicken right of house", "house next to chicken", "chicken next to house",
            },
        ),
        ([_thing("dog", 0, 0, 0, 50, 50), _thing("cat", 1, 300, 300, 350, 350)], set()),
    ],
)  # fmt: skip
def test_relations_of_boxes(things: list[Thing], wanted: set[str]) -> None:
    assert sorted(tags_of(things).relations) == sorted(wanted)


def test_it_reads_pixels_only_whatever_the_order(tagger: ReferenceTagger) -> None:
    """Two samples' pictures swapped: the tags go with the pictures, and the captions change nothing."""
    dog, house, red = (
        Scenes().generate([Prompt(t)])[0].image for t in ("a dog", "a house", "a red kite on a bed")
    )
    items = [ImageAndText(dog, "a house"), ImageAndText(house, "a dog"), ImageAndText(red, None)]
    tags = tagger.tag(items)
    assert ([t.objects for t in tags[:2]], tagger.reads) == ([("dog",), ("house",)], "pixels")
    assert tags == tagger.tag(items[::-1])[::-1] == [tagger.tag([item])[0] for item in items]


def test_nothing_in_nothing(tagger: ReferenceTagger) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 200, 3), np.uint8))
    blank = Image.new("RGB", (300, 200), (90, 120, 150))
    items = [
        ImageAndText(None, "a dog"),
        ImageAndText(noise),
        ImageAndText(blank),
        ImageAndText(Image.new("RGB", (1, 1))),
    ]
    assert (tagger.tag(items), read_back(tagger, "").objects) == ([Tags()] * 4, ())


def test_the_cache_gives_the_same_index_and_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = str(_shapes(tmp_path / "mine"))
    first = index.load_index(folder)
    (stored,) = (tmp_path / "cache" / "ctrlsynth").glob("reference-*.npz")
    whole = stored.read_bytes()
    for content in (whole, whole[:100]):
        stored.write_bytes(content)
        index._load.cache_clear()
        again = index.load_index(folder)
        assert (again.names, again.digest, stored.read_bytes()) == (first.names, first.digest, whole)
        np.testing.assert_array_equal(again.shapes, first.shapes)
        np.testing.assert_array_equal(again.looks, first.looks)


def _shapes(folder: Path) -> Path:
    """Labelled pictures of one's own on plain ground."""
    for name in ("arrow", "ring"):
        (folder / name).mkdir(parents=True)
        _shape(name, (40, 40), (60, 60)).save(folder / name / "1.png")
    return folder


def _shape(name: str, corner: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", (160, 140), (235, 230, 210))
    draw = ImageDraw.Draw(image)
    (x, y), (w, h) = corner, size
    if name == "ring":
        draw.ellipse([x, y, x + w, y + h], fill=(40, 60, 160), outline=(0, 0, 0), width=4)
        draw.ellipse([x + w // 4, y + h // 4, x + 3 * w // 4, y + 3 * h // 4], fill=(230, 90, 40))
    else:
        draw.polygon(
            [(x, y), (x + w, y + h // 2), (x, y + h), (x + w // 3, y + h // 2)],
            fill=(200, 40, 40),
            outline=(0, 0, 0),
        )
    return image


def test_a_folder_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = ReferenceTagger(folder=str(_shapes(tmp_path / "mine")))
    for name in ("arrow", "ring"):
        assert own.tag([ImageAndText(_shape(name, (20, 30), (80, 80)))])[0].objects == (name,)
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine" / "ring" / "2.png").write_bytes(b"not a picture")
    for name, message in (("nowhere", "not there"), ("empty", "no pictures"), ("mine", r"2\.png")):
        with pytest.raises(UserError, match=message):
            ReferenceTagger(folder=str(tmp_path / name))


def test_looks_by_means_are_the_means_of_painted_pixels() -> None:
    rng = np.random.default_rng(0)
    large = np.asarray(rng.integers(0, 256, (2 * index.SIDE, 2 * index.SIDE, 3)), np.float32)
    cover = np.asarray(rng.random((2 * index.SIDE, 2 * index.SIDE)), np.float32)
    step = 2 * index.SIDE // index.LOOK
    pictures = [large]
    pictures += [np.where(cover[..., None] > 0.5, paint(colour, *shades(large)), large) for colour in COLOURS]
    slow = [
        [
            [p[y : y + step, x : x + step].mean((0, 1)) for x in range(0, len(p), step)]
            for y in range(0, len(p), step)
        ]
        for p in pictures
    ]
    assert np.abs(index._looks(large, cover).astype(float) - np.array(slow)).max() <= 0.51


def test_the_quick_test_finds_drawings_that_run_into_their_paper() -> None:
    """Against the whole way, a cut-out sticker on a ground: the quick test misses no drawing that is seen
    otherwise."""
    drawings = vocabulary().drawings
    sample = [drawings[name] for name in random.Random(1).sample(sorted(drawings), 40)]
    quick = [index._runs_into_paper(*index._silhouette(drawing, False)) for drawing in sample]
    slow = [index._as_found(drawing, False) is not None for drawing in sample]
    assert all(q for q, s in zip(quick, slow, strict=True) if s)
    assert 0 < sum(quick) < 30
