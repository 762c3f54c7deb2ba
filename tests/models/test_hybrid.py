"""The `hybrid` tagger: joins real taggers, in order, without repeats, with their scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import skimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ctrlsynth.errors import ModelError, UserError
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText
from ctrlsynth.models.taggers.hybrid import HybridTagger, join
from ctrlsynth.sample import Tags

COFFEE = Path(skimage.__file__).parent / "data/coffee.png"
ECHO = f"{__name__}:Echo"
PIXELS = {"imagenet": "lite0", "threads": 1}


class Echo:
    """A caption reader of the tests: every word is an object, without scores."""

    id, digest = "echo", "echo-1"
    reads: ClassVar[Literal["pixels", "caption", "both"]] = "caption"

    def __init__(self, model: str = "", batch: int = 64) -> None:
        self.caption, self.batch, self.closed = model or None, batch, False

    def close(self) -> None:
        self.closed = True

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        return [Tags(tuple((item.text or "").split()), caption=self.caption) for item in items]


class Short(Echo):
    """Breaks the contract: one answer too few."""

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        return super().tag(items)[1:]


def test_pixels_and_caption_joined() -> None:
    hybrid = models.load({"hybrid": [PIXELS, "wordnet"]}, "tagger")
    image = Image.open(COFFEE).convert("RGB")
    both, only_text, only_image = hybrid.tag(
        [
            ImageAndText(image, "a spoon beside a cup of espresso"),
            ImageAndText(None, "a brown dog"),
            ImageAndText(image),
        ]
    )
    assert (both.objects[0], both.objects.count("espresso")) == ("espresso", 1)
    assert {"spoon", "cup"} <= set(both.objects)
    assert 0.5 < both.scores[0] < 1  # the network's own number, although the caption names it too
    assert both.scores[both.objects.index("spoon")] == 1.0
    assert "dog" in only_text.objects
    assert "espresso" in only_image.objects
    assert hybrid.reads == "both"
    assert hybrid.id.startswith("hybrid(imagenet:lite0+")


@pytest.mark.parametrize(
    ("members", "reads"),
    [
        ([PIXELS], "pixels"),
        ([PIXELS, PIXELS], "pixels"),
        ([ECHO, ECHO], "caption"),
        ([PIXELS, ECHO], "both"),
        ([{"hybrid": [PIXELS, ECHO]}, PIXELS], "both"),
    ],
)
def test_it_reads_what_its_members_read(members: list[Any], reads: str) -> None:
    assert HybridTagger(members).reads == reads


def test_the_digest_follows_the_members() -> None:
    orders = [
        [PIXELS, ECHO],
        [ECHO, PIXELS],
        [PIXELS],
        [{**PIXELS, "cutoff": 0.5}, ECHO],
        ["imagenet", "wordnet"],
    ]
    digests = [HybridTagger(order).digest for order in orders]
    assert len(set(digests)) == 5
    assert HybridTagger(orders[0]).digest == digests[0]
    assert models.load("hybrid:imagenet+wordnet", "tagger").digest == digests[4]


def test_the_smallest_batch_holds_and_close_reaches_the_members() -> None:
    hybrid = HybridTagger([{ECHO: "a", "batch": 8}, {ECHO: "b", "batch": 16}, PIXELS])
    assert hybrid.batch == 8
    hybrid.close()
    assert [getattr(tagger, "closed", None) for tagger in hybrid.parts] == [True, True, None]
    assert hybrid.tag([ImageAndText(None, "sun moon")])[0].objects == ("sun", "moon")


@pytest.mark.parametrize("model", [None, [], "", {"imagenet": 1}, 3, [PIXELS, "wordnett"]])
def test_without_a_list_of_taggers_it_is_one_line(model: Any) -> None:
    named = r"hybrid\[1\].*did you mean 'wordnet'" if model == [PIXELS, "wordnett"] else "hybrid"
    with pytest.raises(UserError, match=named):
        HybridTagger(model)


def test_all_that_its_members_lack_is_told_at_once() -> None:
    captioner = {"captioner": "nobody/captions", "extract": {"transformers": "nobody/extracts"}}
    with pytest.raises(UserError) as caught:
        HybridTagger([{"classifier": "nobody/labels"}, captioner])
    lines = str(caught.value).splitlines()
    assert [name for line in lines for name in ("labels", "captions",
    "extracts") if f" nobody/{name} is " f"not on this machine" in line] == [
        "labels", "captions", "extracts",
    ]  # fmt: skip
    assert len(lines) == 3


def test_a_member_that_loses_a_row_fails_the_batch() -> None:
    with pytest.raises(ModelError, match="gave 1 answers for 2") as caught:
        HybridTagger([ECHO, f"{__name__}:Short"]).tag([ImageAndText(None, "a"), ImageAndText(None, "b")])
    assert caught.value.reason == "wrong_number"


def test_the_first_caption_and_every_kind() -> None:
    joined = join(
        [
            Tags(("dog",), ("red",), (), (0.4,)),
            Tags(("ball", "Dog"), ("red ball", "Red"), ("dog on ball",), (), "first"),
            Tags(("cat",), (), ("dog on ball", "cat under ball"), (0.9,), "second"),
        ]
    )
    assert joined == Tags(
        ("dog", "ball", "cat"), ("red", "red ball"), ("dog on ball", "cat under ball"), (0.4, 1.0, 0.9),
        "first"
    )  # fmt: skip
    assert (join([Tags(("dog",)), Tags(("cat",))]).scores, join([Tags(), Tags()])) == ((), Tags())


words = st.lists(st.sampled_from(["dog", "Dog", "cat", "red ball", "sun"]), max_size=4, unique=True)


@st.composite
def tags(draw: st.DrawFn) -> Tags:
    objects = tuple(draw(words))
    scored = draw(st.booleans())
    return Tags(
        objects,
        tuple(draw(words)),
        tuple(draw(words)),
        tuple(draw(st.floats(0, 1)) for _ in objects) if scored else (),
    )


@given(st.lists(tags(), min_size=1, max_size=4))
def test_join_against_the_slow_rule(parts: list[Tags]) -> None:
    joined = join(parts)
    for kind in ("objects", "attributes", "relations"):
        slow: list[str] = []
        for part, phrase in ((p, x) for p in parts for x in getattr(p, kind)):
            assert phrase in getattr(part, kind)
            if not any(phrase.lower() == other.lower() for other in slow):
                slow.append(phrase)
        assert getattr(joined, kind) == tuple(slow)
    if any(p.scores for p in parts):
        for name, score in zip(joined.objects, joined.scores, strict=True):
            given_scores = [
                s
                for p in parts
                for o, s in zip(p.objects, p.scores, strict=False)
                if o.lower() == name.lower()
            ]
            assert score == (max(given_scores) if given_scores else 1.0)
    else:
        assert joined.scores == ()


class Fails(Echo):
    """Cannot answer for the row `bad`; its preflight has something to say."""

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        return [
            Tags(error="unreadable") if i.text == "bad" else Tags((str(i.text),), dropped=2) for i in items
        ]

    def check(self) -> None:
        raise UserError("models.tagger: no key")

    def content_digest(self) -> str:
        return "whole"


def test_a_row_preflight_and_full_hash_fail_or_change_with_one_member() -> None:
    hybrid, sound = HybridTagger([ECHO, f"{__name__}:Fails"]), HybridTagger([ECHO, ECHO])
    good, bad = hybrid.tag([ImageAndText(None, "dog"), ImageAndText(None, "bad")])
    assert (good.objects, good.dropped, good.error, bad) == (("dog",), 2, None, Tags(error="unreadable"))
    sound.check()
    with pytest.raises(UserError, match="no key"):
        hybrid.check()
    assert hybrid.content_digest() != sound.content_digest()
