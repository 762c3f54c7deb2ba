"""The `hybrid` tagger: joins real taggers, in order, without repeats, with their scores."""

from __future__ import annotations

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
HERE = __name__
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
    assert both.objects[0] == "espresso"
    assert both.objects.count("espresso") == 1
    assert {"spoon", "cup"} <= set(both.objects)
    assert 0.5 < both.scores[0] < 1  # the network's own number, although the caption names it too
    assert both.scores[both.objects.index("spoon")] == 1.0
    assert "dog" in only_text.objects
    assert "espresso" in only_image.objects
    assert hybrid.reads == "both"
    assert hybrid.id.startswith("hybrid(imagenet:lite0+")


def test_reads_and_digest_follow_the_members() -> None:
    assert HybridTagger([PIXELS]).reads == "pixels"
    assert HybridTagger([PIXELS, PIXELS]).reads == "pixels"
    assert HybridTagger([f"{HERE}:Echo", f"{HERE}:Echo"]).reads == "caption"
    assert HybridTagger([PIXELS, f"{HERE}:Echo"]).reads == "both"
    nested = HybridTagger([{"hybrid": [PIXELS, f"{HERE}:Echo"]}, PIXELS])
    assert nested.reads == "both"
    orders = [
        [PIXELS, f"{HERE}:Echo"],
        [f"{HERE}:Echo", PIXELS],
        [PIXELS],
        [{**PIXELS, "cutoff": 0.5}, f"{HERE}:Echo"],
    ]
    assert len({HybridTagger(order).digest for order in orders}) == 4
    assert HybridTagger(orders[0]).digest == HybridTagger(orders[0]).digest


def test_the_smallest_batch_holds_and_close_reaches_the_members() -> None:
    hybrid = HybridTagger([{f"{HERE}:Echo": "a", "batch": 8}, {f"{HERE}:Echo": "b", "batch": 16}, PIXELS])
    assert hybrid.batch == 8
    hybrid.close()
    assert [getattr(tagger, "closed", None) for tagger in hybrid.parts] == [True, True, None]
    assert hybrid.tag([ImageAndText(None, "sun moon")])[0].objects == ("sun", "moon")


def test_the_same_by_text() -> None:
    assert (
        models.load("hybrid:imagenet+wordnet", "tagger").digest
        == HybridTagger(["imagenet", "wordnet"]).digest
    )


@pytest.mark.parametrize("model", [None, [], "", {"imagenet": 1}, 3])
def test_without_a_list_it_is_one_line(model: Any) -> None:
    with pytest.raises(UserError, match="hybrid"):
        HybridTagger(model)


def test_a_wrong_member_is_named_with_its_place() -> None:
    with pytest.raises(UserError, match=r"hybrid\[1\].*did you mean 'wordnet'"):
        HybridTagger([PIXELS, "wordnett"])


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
        HybridTagger([f"{HERE}:Echo", f"{HERE}:Short"]).tag(
            [ImageAndText(None, "a"), ImageAndText(None, "b")]
        )
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
    assert join([Tags(("dog",)), Tags(("cat",))]).scores == ()
    assert join([Tags(), Tags()]) == Tags()


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


def test_a_row_that_one_tagger_cannot_answer_has_failed_alone() -> None:
    hybrid = HybridTagger([f"{HERE}:Echo", f"{HERE}:Fails"])
    good, bad = hybrid.tag([ImageAndText(None, "dog"), ImageAndText(None, "bad")])
    assert (good.objects, good.dropped, good.error) == (("dog",), 2, None)
    assert bad == Tags(error="unreadable")


def test_preflight_and_full_hash_go_through() -> None:
    hybrid = HybridTagger([f"{HERE}:Echo", f"{HERE}:Fails"])
    with pytest.raises(UserError, match="no key"):
        hybrid.check()
    HybridTagger([f"{HERE}:Echo"]).check()
    assert hybrid.content_digest() != HybridTagger([f"{HERE}:Echo", f"{HERE}:Echo"]).content_digest()
