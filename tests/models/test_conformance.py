"""The embedded backends keep the contract that all backends keep (conformance.py), and the suite sees each
way of breaking it."""

import io
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conformance import check_llm, check_painter, check_tagger, photo, request
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText, Painting, Prompt, Reply, Request
from ctrlsynth.models.embedded.reference.tagger import ReferenceTagger
from ctrlsynth.models.embedded.scenes.painter import Scenes
from ctrlsynth.models.llms.llama_cpp.engine import SmolLM2
from ctrlsynth.sample import Tags
from helpers import assert_refused

FEW = [request(text) for text in ("red dog", "blue car", "green tree")]


def test_writers_by_rule() -> None:
    check_llm(lambda: models.load("realizer", "llm"))
    rows = [replace(request(text, seed=n), family="concept") for n, text in enumerate(("dog", "car", "tree"))]
    check_llm(
        lambda: models.load("naive:clip80", "llm"),
        lambda: models.load("naive:clip7", "llm"),
        rows=rows,
        poison=Request(""),
    )


class Lister:
    """A language model that takes a caption apart by its spaces: every word is an object. SmolLM2 as the
    extractor: test_composite.py."""

    id = "lister"

    def __init__(self, model: str = "1") -> None:
        self.digest = model

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [
            Reply(f"objects: {', '.join((r.caption or '').split())}\nattributes:\nrelations:")
            for r in requests
        ]


def test_a_class_without_a_base_gets_the_hooks_that_it_lacks() -> None:
    model: Any = models.load(f"{__name__}:Lister", "llm")
    assert (model.batch, model.prompt(request("a dog")), model.check()) == (256, None, None)
    assert model.content_digest() == model.digest
    assert_refused(models.load, "Lister is not a class with the method tag", f"{__name__}:Lister", "tagger")


def test_extract() -> None:
    """The second half of a captioner; it reads captions only, and its digest holds the language model's."""
    rows = [
        ImageAndText(None, text)
        for text in ("a brown dog on a red sofa", "a white cup on a table", "two cats near a tree")
    ]
    name = f"{__name__}:Lister"
    check_tagger(
        lambda: models.load({"extract": name}, "tagger"),
        lambda: models.load({"extract": {name: "2"}}, "tagger"),
        rows=rows,
    )


def test_smollm2() -> None:
    with closing(SmolLM2(processes=1)) as model:
        check_llm(lambda: model, lambda: SmolLM2(bound=False), rows=FEW, poison=Request("", max_tokens=8))


def test_llama_cpp_with_its_chat_template() -> None:
    long = request("very " * 3000)
    with closing(SmolLM2(processes=1, few_shot=False, max_tokens=6)) as model:
        check_llm(lambda: model, lambda: SmolLM2(temperature=1.0), rows=FEW, long=long)


def cut_short() -> ImageAndText:
    """A picture whose file ends in the middle: it can be opened and not read."""
    data = io.BytesIO()
    photo("coffee.png").save(data, "JPEG")
    return ImageAndText(Image.open(io.BytesIO(data.getvalue()[: len(data.getvalue()) // 2])), "a cup")


@pytest.mark.parametrize(
    ("value", "other", "poison"),
    [
        ("wordnet", None, None),
        ({"imagenet": "lite0", "threads": 1}, "imagenet", True),
        (
            {"hybrid": [{"imagenet": "lite0", "threads": 1}, "wordnet"]},
            {"hybrid": ["imagenet", "wordnet"]},
            None,
        ),
    ],
)
def test_taggers(value: Any, other: Any, poison: bool | None) -> None:
    check_tagger(
        lambda: models.load(value, "tagger"),
        other and (lambda: models.load(other, "tagger")),
        poison=cut_short() if poison else None,
    )


def test_reference(tmp_path: Any) -> None:
    texts = ("a cat", "a red car", "a dog on a sofa")
    rows = [ImageAndText(painting.image) for painting in Scenes().generate([Prompt(text) for text in texts])]
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
            tmp_path / name / "1.png"
        )
    check_tagger(
        ReferenceTagger,
        lambda: ReferenceTagger(str(tmp_path)),
        rows=rows,
        image=rows[0].image,
        poison=cut_short(),
    )


def test_scenes() -> None:
    check_painter(Scenes, lambda: Scenes(size=128), poison=Prompt("a dog", size=(8, 8)))


class Broken:
    """A language model that breaks the contract in one way."""

    id = "broken"

    def __init__(self, how: str = "", seed: int = 0) -> None:
        self.how = how
        self.digest = "one" if how == "digest" else f"{how} {seed}"

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        if self.how == "crash" and any(len(r.instruction) > 9999 for r in requests):
            raise RuntimeError("too long")
        replies = [
            Reply(f"A {r.caption}.") if isinstance(r.caption, str) else Reply("", error="no_caption")
            for r in requests
        ]
        failed, many = any(r.error for r in replies), len(replies) > 1
        how: dict[str, Callable[[], list[Reply]]] = {
            "order": lambda: sorted(replies, key=lambda r: r.text),
            "fewer": lambda: replies[:-1],
            "more": lambda: [*replies, Reply("and so on")],
            "merges duplicates": lambda: list({r.text: r for r in replies}.values()),
            "answers nothing": lambda: replies or [Reply("What?")],
            "alike": lambda: [Reply("A dog.") for _ in replies],
            "surrogate": lambda: [replace(r, text="\ud800") if "🐕" in r.text else r for r in replies],
            "neighbour": lambda: [Reply("", error="batch_failed") if failed else r for r in replies],
            "answers the poison": lambda: [replace(r, error=None) for r in replies],
            "batch": lambda: [replace(r, text=f"{r.text} Or so.") if many else r for r in replies],
        }
        return how.get(self.how, lambda: replies)()


FAULTS = (
    "order", "fewer", "more", "merges duplicates", "answers nothing", "alike", "crash", "surrogate",
    "neighbour", "answers the poison",
    "batch", "digest",
)  # fmt: skip


def test_a_sound_model_passes() -> None:
    check_llm(Broken, lambda: Broken(seed=1))


@pytest.mark.parametrize("how", FAULTS)
def test_the_suite_sees(how: str) -> None:
    with pytest.raises(AssertionError):
        check_llm(lambda: Broken(how), lambda: Broken(how, seed=1))


def test_a_tolerance_is_kept_to() -> None:
    class Wavering:
        id, digest, reads = "wavering", "1", "pixels"

        def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
            if not all(item.image is None or isinstance(item.image, Image.Image) for item in items):
                raise TypeError("no image")
            return [
                Tags((str(item.image and item.image.getpixel((0, 0))),), scores=(0.5 + len(items) / 1000,))
                for item in items
            ]

    class Grainy:
        id, digest = "grainy", "1"

        def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
            return [
                Painting(Image.new("RGB", (8, 8), (len(prompts), len(p.text) * 20 % 256, 0))) for p in prompts
            ]

    for check, model, wide, narrow in ((check_tagger, Wavering, 0.05, 0.001), (check_painter, Grainy, 12, 1)):
        check(model, tolerance=wide)
        with pytest.raises(AssertionError, match=r"depends on its batch|order|duplicates"):
            check(model, tolerance=narrow)
