"""`scenes` (2c): what it reads from a text, where it puts things, and that it sees only the text."""

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ctrlsynth.control.templates import styles
from ctrlsynth.errors import UserError
from ctrlsynth.models.base import Painting, Prompt
from ctrlsynth.models.embedded.regions import Box, boxes, label, outside, widen
from ctrlsynth.models.embedded.scenes.painter import Scenes
from ctrlsynth.models.embedded.scenes.plan import Scene, Thing
from ctrlsynth.models.embedded.scenes.read import Reading, read
from ctrlsynth.models.embedded.scenes.vocabulary import CLOTHES, PEOPLE, drawings_digest, vocabulary


def plan(text: str, seed: int = 0, **weights: float) -> Scene:
    return Scenes().plan(Prompt(text, seed=seed, weights=weights))


def bound(reading: Reading) -> set[tuple[str, str, str]]:
    return {(reading.mentions[a].name, p, reading.mentions[b].name) for a, p, b in reading.relations}


def paint(text: str, **options: object) -> Painting:
    painting = Scenes().generate([Prompt(text, **options)])[0]  # type: ignore[arg-type]
    assert painting.image is not None, painting.error
    return painting


def overlap(one: Thing, two: Thing) -> bool:
    return min(one.box.overlap(two.box, axis) for axis in (0, 1)) > 0


def test_vocabulary_is_large_and_each_name_finds_itself() -> None:
    vocab = vocabulary()
    assert len(vocab.drawings) >= 300
    assert {name for name in vocab.drawings if vocab.find(name) != name} == set()
    assert set(vocab.drawings) >= PEOPLE | CLOTHES
    others = {"puppies": "dog", "men": "man", "couch": "sofa", "unheard": None}
    assert {word: vocab.find(word) for word in others} == others


@pytest.mark.parametrize(
    ("text", "mentions", "relations"),
    [
        ("A dog on a sofa.", {("dog", 1, None), ("sofa", 1, None)}, {("dog", "on", "sofa")}),
        ("two cats under the red table", {("cat", 2, None), ("table", 1, "red")}, {("cat", "under",
        "table")}),
        ("There is a brown dog. A red ball is left of the dog.", {("dog", 1, "brown"), ("ball", 1, "red")},
        {("ball", "left of", "dog")}),
        ("dog, red ball, dog on sofa", {("dog", 1, None), ("ball", 1, "red"), ("sofa", 1, None)}, {("dog",
        "on", "sofa")}),
        ("a woman in a blue dress holding an umbrella", {("woman", 1, None), ("dress", 1, "blue"),
        ("umbrella", 1, None)},
         {("woman", "wearing", "dress"), ("woman", "holding", "umbrella")}),
        ("a man with a hat", {("man", 1, None), ("hat", 1, None)}, {("man", "wearing", "hat")}),
        ("On the table is a cup. The cup is blue.", {("table", 1, None), ("cup", 1, "blue")}, {("cup", "on",
        "table")}),
        ("an orange cat next to an orange", {("cat", 1, "orange"), ("orange", 1, None)}, {("cat", "next to",
        "orange")}),
        ("A man watches a dog", {("man", 1, None), ("dog", 1, None)}, set()),
        ("a dog without a ball, no cats", {("dog", 1, None)}, set()),
        ("ten birds above a house", {("bird", 10, None), ("house", 1, None)}, {("bird", "above", "house")}),
        ("a dog and a cat on a bed", {("dog", 1, None), ("cat", 1, None), ("bed", 1, None)}, {("dog", "on",
        "bed"), ("cat", "on", "bed")}),
        ("An orange ferris wheel. Two orange kick scooters", {("ferris wheel", 1, "orange"), ("kick scooter",
        2, "orange")}, set()),
        ("an orange wooden chair, a lime solar panel", {("chair", 1, "orange"), ("solar panel", 1, "green")},
        set()),
        ("An orange and white cat. The car is orange and the ball is blue", {("cat", 1, "orange"), ("car", 1,
        "orange"),
         ("ball", 1, "blue")}, set()),
        ("two limes. On the table are oranges", {("lime", 2, None), ("table", 1, None), ("orange", 2, None)},
        {("orange", "on", "table")}),
        ("an orange left of a lime, an orange sliced on a plate", {("orange", 1, None), ("lime", 1, None),
        ("plate", 1, None)},
         {("orange", "left of", "lime"), ("orange", "on", "plate")}),
        ("A rainbow is right of a statue in front of a lemon", {("rainbow", 1, None), ("statue", 1, None),
        ("lemon", 1, None)},
         {("rainbow", "right of", "statue"), ("statue", "in front of", "lemon")}),
        ("A dog is left of a cat and is in front of a house", {("dog", 1, None), ("cat", 1, None), ("house",
        1, None)},
         {("dog", "left of", "cat"), ("dog", "in front of", "house")}),
        ("A man on a bench is next to a tree", {("man", 1, None), ("bench", 1, None), ("tree", 1, None)},
         {("man", "on", "bench"), ("man", "next to", "tree")}),
        ("On the table is a cup next to a plate", {("table", 1, None), ("cup", 1, None), ("plate", 1, None)},
         {("cup", "on", "table"), ("cup", "next to", "plate")}),
        ("a man with a hat on a bench", {("man", 1, None), ("hat", 1, None), ("bench", 1, None)},
         {("man", "wearing", "hat"), ("man", "on", "bench")}),
        ("A dog and a pig are next to a cat and a bird, and a lime is in a bowl", {("dog", 1, None), ("pig",
        1, None), ("cat", 1, None),
         ("bird", 1, None), ("lime", 1, None), ("bowl", 1, None)}, {("dog", "next to", "cat"), ("dog",
         "next to", "bird"),
         ("pig", "next to", "cat"), ("pig", "next to", "bird"), ("lime", "in", "bowl")}),
        ("A dog is next to a cat and a bird is on a tree", {("dog", 1, None), ("cat", 1, None), ("bird", 1,
        None), ("tree", 1, None)},
         {("dog", "next to", "cat"), ("bird", "on", "tree")}),
        ("A man wears a shirt and shorts and is next to a fire hydrant", {("man", 1, None), ("shirt", 1,
        None), ("shorts", 1, None)},
         {("man", "wearing", "shirt"), ("man", "wearing", "shorts")}),
        ("a plate of cookies", {("plate", 1, None), ("cookie", 2, None)}, {("cookie", "on", "plate")}),
    ],
)  # fmt: skip
def test_reads_objects_attributes_and_relations(
    text: str, mentions: set[object], relations: set[object]
) -> None:
    reading = read(text)
    assert ({(m.name, m.count, m.colour) for m in reading.mentions}, bound(reading)) == (mentions, relations)


def test_places_weather_and_sizes() -> None:
    reading = read("A huge elephant and a tiny mouse on the beach at sunset in the rain")
    assert (reading.place, set(reading.weather)) == ("beach", {"sunset", "rain"})
    scales = {m.name: m.scale for m in reading.mentions}
    assert scales["elephant"] > 1.2 > 0.6 > scales["mouse"]


@pytest.mark.parametrize(
    ("prompt", "drawn", "not_drawn"),
    [
        (
            Prompt("an astronomer next to a wooden dog, happiness, and a seagull"),
            {"scientist", "dog", "pigeon", "scientist next to dog"},
            {"astronomer (drawn as scientist)", "wooden dog", "happiness", "seagull (drawn as pigeon)"},
        ),
        # two relations ask for one thing's position
        (
            Prompt("a cat on a table. The cat is under a tree."),
            {"cat", "table", "tree", "cat on table"},
            {"cat under tree"},
        ),
        (
            Prompt("a dog, a cat and a man", negative="blurry, cats, ugly"),
            {"dog", "man"},
            {"cat (weight 0 or named in the negative prompt)"},
        ),
        (
            Prompt("a dog and a red ball", weights={"red ball": 0.0}),
            {"dog"},
            {"ball (weight 0 or named in the negative prompt)"},
        ),
    ],
)
def test_what_is_not_drawn_is_reported(prompt: Prompt, drawn: set[str], not_drawn: set[str]) -> None:
    scene = Scenes().plan(prompt)
    assert (set(scene.drawn), set(scene.not_drawn)) == (drawn, not_drawn)
    assert {thing.name for thing in scene.objects} == {name for name in drawn if " " not in name}


@pytest.mark.parametrize("style", ["", *styles()])
def test_style_templates_add_no_object(style: str) -> None:
    text = styles()[style].fill({"prompt": "a cat"}) if style else "a cat"
    painting = paint(text)
    assert (painting.drawn, painting.not_drawn, len(plan(text).objects)) == (("cat",), (), 1)


def test_every_style_looks_different() -> None:
    texts = [styles()[style].fill({"prompt": "a cat on a table"}) for style in styles() if style != "nocap"]
    assert len({np.asarray(paint(text).image).tobytes() for text in texts}) == len(texts)
    assert read(styles()["cinematic"].fill({"prompt": "a cat"})).style == "cinematic"


def test_text_seed_and_size_alone_decide_the_picture() -> None:
    text = "two dogs, a red car and a tree"
    same, styled, other = (
        paint(text, **options).image for options in ({"seed": 5}, {"seed": 5, "style": "real"}, {"seed": 6})
    )
    assert same == styled != other
    assert [t.box for t in plan(text, 5).objects] != [t.box for t in plan(text, 6).objects]


@pytest.mark.parametrize("size", [(64, 64), (200, 333), (640, 256)])
def test_any_size_and_all_inside(size: tuple[int, int]) -> None:
    text = "three dogs, a man holding a ball, and a house"
    assert np.asarray(paint(text, size=size).image).shape == (*size[::-1], 3)
    for thing in Scenes().plan(Prompt(text, size=size)).objects:
        left, top, right, bottom = thing.box
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_no_accidental_overlap_in_random_scenes() -> None:
    names = [n for n in vocabulary().drawings if n != "orange"]
    for number in range(40):
        chance = random.Random(number)
        picked = chance.sample(names, chance.randint(2, 7))
        scene = plan(", ".join(picked), seed=number)
        assert {t.name for t in scene.objects} == set(picked)
        for i, one in enumerate(scene.objects):
            assert not any(overlap(one, two) for two in scene.objects[i + 1 :]), (number, picked)


def box_of(scene: Scene, name: str) -> Box:
    return next(t.box for t in scene.objects if t.name == name)


@pytest.mark.parametrize("seed", range(6))
def test_relations_hold_in_the_layout(seed: int) -> None:
    scene = plan("a dog left of a cat. A car is right of the cat.", seed)
    assert box_of(scene, "dog")[2] <= box_of(scene, "cat")[0]
    assert box_of(scene, "cat")[2] <= box_of(scene, "car")[0]
    scene = plan("a dog on a sofa. A ball is under a table.", seed)
    dog, sofa = box_of(scene, "dog"), box_of(scene, "sofa")
    assert dog[1] < sofa[1] < dog[3] < sofa[3]
    assert box_of(scene, "ball")[1] >= box_of(scene, "table")[3]
    for text, order in (("in front of", ["house", "dog"]), ("behind", ["dog", "house"])):
        scene = plan(f"a dog {text} a house", seed)
        assert [t.name for t in scene.objects] == order
        assert overlap(*scene.objects)


def test_weights_scale_and_are_reported_if_unused() -> None:
    def ratio(text: str, one: str, two: str, **weights: float) -> float:
        """How much higher one thing is than another."""
        scene = Scenes().plan(Prompt(text, weights={k.replace("_", " "): w for k, w in weights.items()}))
        assert scene.weights_unused == ()
        return box_of(scene, one).height / box_of(scene, two).height

    text = "a dog and a red ball"
    assert ratio(text, "dog", "ball", dog=2.0) > 1.2 * ratio(text, "dog", "ball")
    pair = ("a christmas tree next to a dog", "christmas tree", "dog")
    assert ratio(*pair, christmas_tree=2.0) > 1.2 * ratio(*pair)
    assert Scenes().plan(Prompt(text, weights={"red ball": 0.0, "zebra": 1.5})).weights_unused == ("zebra",)


def test_colours_are_easy_to_see() -> None:
    for colour, channel in (("red", 0), ("green", 1), ("blue", 2)):
        scene = plan(f"a {colour} car")
        image = paint(f"a {colour} car").image
        assert image is not None
        pixels = np.asarray(image.crop(scene.objects[0].box), np.float32).reshape(-1, 3)
        vivid = pixels[(pixels.max(1) - pixels.min(1)) > 60]
        assert (vivid.argmax(1) == channel).mean() > 0.7


@pytest.mark.parametrize(
    "text", ["", "   ", "…", "}{ {prompt} %s", "日本語 🐶", "a" * 5000, "dog " * 3000, "\x00\x07", "مرحبا"]
)
def test_odd_texts_give_a_picture(text: str) -> None:
    assert paint(text).image is not None


def test_bad_sizes() -> None:
    assert Scenes().generate([Prompt("a cat", size=(10, 100000))])[0].error == "bad_size"
    with pytest.raises(UserError, match="size"):
        Scenes(size=3)


def test_regions_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(80):
        mask = rng.random((int(rng.integers(1, 30)), int(rng.integers(1, 30)))) < rng.random()
        labels, count = label(mask)
        wanted, wanted_count = ndimage.label(mask)
        assert (count, labels.tolist()) == (wanted_count, wanted.tolist())
        slices = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(wanted)]
        assert boxes(labels, count) == slices
        by = int(rng.integers(0, 5))
        square = np.ones((2 * by + 1, 2 * by + 1), bool)
        assert np.array_equal(widen(mask, by), ndimage.binary_dilation(mask, square))
        filled = ndimage.binary_fill_holes(np.pad(mask, 1))[1:-1, 1:-1]
        assert np.array_equal(~outside(mask), filled)


def test_another_vendors_drawings_from_a_folder(tmp_path: Path) -> None:
    """A PNG named by code point takes the drawing's place; a text that names what the folder lacks fails its
    row."""
    Image.new("RGBA", (64, 64), (10, 200, 30, 255)).save(tmp_path / "1f415.png")
    dog = Scenes(128, str(tmp_path))
    made, lacking = dog.generate([Prompt("a dog"), Prompt("a dog and a cat")])
    assert made.drawn == ("dog",)
    assert made.image is not None
    assert np.abs(np.asarray(made.image.resize((8, 8)), int) - (10, 200, 30)).sum(-1).min() < 60
    assert (lacking.image, lacking.error) == (None, "no_drawing")
    Image.new("RGBA", (64, 64), (200, 10, 30, 255)).save(tmp_path / "1f415.png")
    drawings_digest.cache_clear()
    assert len({dog.digest, Scenes(128).digest, Scenes(128, str(tmp_path)).digest}) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"drawings: .*empty: expected PNG files named by code points"):
        Scenes(128, str(tmp_path / "empty"))
