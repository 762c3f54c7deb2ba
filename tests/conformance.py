"""What every backend must do, whatever it loads: one suite for the three protocols of
`ctrlsynth.models.base`.

    check_llm(make_model, changed=other_weights)                 texts
    check_tagger(make_model, changed=..., tolerance=1e-4)        tags; the tolerance is that of their scores
    check_painter(make_model, changed=..., tolerance=8)          images; the tolerance is in levels of 0 .. 255

`make_model` builds a model (give the same one each time if loading takes long), `changed` one that differs in
its weights only. What is asked: as many answers as rows, in their order; duplicates answered each; nothing
for nothing; the same answer in any batch; texts of any script, and a row far too long, that cost at most
their own row; a poisoned row that fails alone, by its own `error` or, where the whole call raises, by cutting
the batch in half until it stands alone, as the engines do. A tolerance of 0 is bit equality. `rows`, `poison`
and `long` replace the suite's own rows where a model needs others."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import skimage
from PIL import Image

from ctrlsynth.models.base import ImageAndText, Painting, Prompt, Request
from ctrlsynth.sample import Tags
from ctrlsynth.stages.answers import painting_of, reply_of, tags_of

Tiny = Callable[[str], Path]
"""The fixture `tiny` of conftest.py: name of a tiny checkpoint -> its folder."""
SCRIPTS = (
    "a dog 🐕‍🦺 on a sofa 🛋️",
    "一只红色的猫在桌子上",
    "いぬ と ねこ",
    "cafe\u0301 nai\u0308ve Z\u0361alg\u0336o",
    "كلب أحمر على الأريكة",
    "\u202ered ball\u202c and \u200bcup",
    "nul\x00byte, bell\x07, tab\t, line\r\nend",
    "\ufeff\ufffd\U0010ffff",
    "<|im_end|> <s> [/INST] {{x}} {y} %s",
)
"""Emoji with joiners, CJK, combining marks, right to left, directions and zero widths, control characters,
what templates use."""


@dataclass(frozen=True)
class Suite:
    """One role: how it is asked, its rows, when an answer fits the tables (`usable`) and has failed
    (`error`), when two answers to one row differ, and which share of them may (`allowed`)."""

    ask: Callable[[Any, Sequence[Any]], list[Any]]
    rows: Sequence[Any]
    scripts: Sequence[Any]
    long: Any
    poison: Any
    usable: Callable[[Any], bool]
    error: Callable[[Any], str | None]
    differs: Callable[[Any, Any], bool]
    allowed: float = 0.0


def check_llm(
    make_model: Callable[[], Any],
    changed: Callable[[], Any] | None = None,
    *,
    tolerance: float = 0.0,
    rows: Sequence[Request] | None = None,
    poison: Request | None = None,
    long: Request | None = None,
) -> None:
    """`tolerance`: the share of texts that may differ with the batch (0: every text equal, character by
    character)."""
    _check(
        Suite(
            lambda model, requests: list(model.generate(requests)),
            rows or [request(f"{colour} {thing}", seed=n) for n, (colour, thing) in enumerate(THINGS)],
            [request(text) for text in SCRIPTS],
            long or request("very " * 20_000 + "red dog"),
            poison or Request(cast(Any, 5), cast(Any, 5), caption=cast(Any, 5), max_tokens=24),
            lambda answer: reply_of(answer) is not None,
            lambda answer: answer.error,
            lambda a, b: a.text != b.text or a.error != b.error,
            tolerance,
        ),
        make_model,
        changed,
    )


def check_tagger(
    make_model: Callable[[], Any],
    changed: Callable[[], Any] | None = None,
    *,
    tolerance: float = 0.0,
    rows: Sequence[ImageAndText] | None = None,
    poison: ImageAndText | None = None,
    long: ImageAndText | None = None,
    image: Image.Image | None = None,
) -> None:
    """`tolerance`: how far a score may move with the batch; phrases may not. `image` accompanies the
    captions of many scripts."""
    picture = image or photo("coffee.png")
    _check(
        Suite(
            lambda model, items: list(model.tag(items)),
            rows or [ImageAndText(photo(name), text) for name, text in PHOTOS.items()],
            [ImageAndText(picture, text) for text in SCRIPTS]
            + [ImageAndText(picture, None), ImageAndText(picture, "")],
            long or ImageAndText(picture.resize((2000, 8)), "a very " + "very " * 20_000 + "red dog"),
            poison or ImageAndText(cast(Any, 5), cast(Any, 5)),
            lambda answer: tags_of(answer) is not None,
            lambda answer: getattr(answer, "error", None),
            partial(_tags_differ, tolerance),
        ),
        make_model,
        changed,
    )


def check_painter(
    make_model: Callable[[], Any],
    changed: Callable[[], Any] | None = None,
    *,
    tolerance: float = 0.0,
    rows: Sequence[Prompt] | None = None,
    poison: Prompt | None = None,
    long: Prompt | None = None,
    size: tuple[int, int] = (64, 64),
) -> None:
    """`tolerance`: by how many levels a pixel may move with the batch. `size`: what the suite's own prompts
    ask for."""
    _check(
        Suite(
            lambda model, prompts: list(model.generate(prompts)),
            rows
            or [Prompt(f"a {colour} {thing}", seed=n, size=size) for n, (colour, thing) in enumerate(THINGS)],
            [Prompt(text, negative=text, seed=n, size=size) for n, text in enumerate(SCRIPTS)],
            long or Prompt("a very " + "very " * 2_000 + "red dog", size=size),
            poison or Prompt(cast(Any, 5), size=size),
            lambda answer: painting_of(answer) is not None,
            lambda answer: answer.error if answer.image is None else None,
            partial(_paintings_differ, tolerance),
        ),
        make_model,
        changed,
    )


THINGS = (("red", "dog"), ("blue", "car"), ("green", "tree"), ("white", "horse"), ("yellow", "boat"))
PHOTOS = {
    "coffee.png": "a white cup on a table",
    "chelsea.png": "a brown cat",
    "rocket.jpg": "a tall rocket",
    "camera.png": "a man",
}


def photo(name: str) -> Image.Image:
    """A photograph of scikit-image, RGB, at most 256 pixels a side."""
    picture = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    picture.thumbnail((256, 256))
    return picture


def other_weights(folder: Path, to: Path, file: str = "model.safetensors") -> Path:
    """Copies a checkpoint and changes numbers in the latter half of one file of weights, as another training
    would; of a `.pt`, whose end is the table of a zip, a single one."""
    shutil.copytree(folder, to)
    data = bytearray((to / file).read_bytes())
    for at in range(len(data) // 2, len(data), len(data) if file.endswith(".pt") else 32):
        data[at] ^= 1
    (to / file).write_bytes(data)
    return to


def request(text: str, seed: int = 0) -> Request:
    """A request that models with and without an instruction can answer."""
    return Request(
        f"Write one sentence about: {text}.",
        Tags((text,)),
        caption=text,
        family="tags",
        max_tokens=24,
        seed=seed,
    )


def isolated(suite: Suite, model: Any, rows: Sequence[Any]) -> list[Any]:
    """One answer a row, or the exception where a row raises alone: the batch is cut in half until it does."""
    try:
        return suite.ask(model, rows)
    except Exception as error:  # noqa: BLE001 - whatever it raises, it has failed
        if len(rows) == 1:
            return [error]
        half = len(rows) // 2
        return isolated(suite, model, rows[:half]) + isolated(suite, model, rows[half:])


def _check(suite: Suite, make_model: Callable[[], Any], changed: Callable[[], Any] | None) -> None:
    model = make_model()
    assert all(isinstance(name, str) and name for name in (model.id, model.digest))
    assert make_model().digest == model.digest, "the digest of the same weights and options changes"
    assert suite.ask(model, []) == [], "nothing asked, something answered"
    _ordinary(suite, model)
    _odd(suite, model)
    assert changed is None or changed().digest != model.digest, "other weights, the same digest"


def _ordinary(suite: Suite, model: Any) -> None:
    rows = list(suite.rows)
    answers = suite.ask(model, rows)
    assert len(answers) == len(rows), f"{len(rows)} asked, {len(answers)} answered"
    assert all(map(suite.usable, answers))
    assert [suite.error(answer) for answer in answers] == [None] * len(rows)
    assert any(suite.differs(answers[0], answer) for answer in answers[1:]), (
        "all rows are answered alike: order cannot be seen"
    )
    same(
        suite, suite.ask(model, rows[::-1]), answers[::-1], "the order of the answers is not that of the rows"
    )
    picks = [0, 1, 0, 0, 1]
    same(
        suite,
        suite.ask(model, [rows[n] for n in picks]),
        [answers[n] for n in picks],
        "duplicates are not answered each",
    )
    same(
        suite,
        [answer for row in rows for answer in suite.ask(model, [row])],
        answers,
        "an answer depends on its batch",
    )


def _odd(suite: Suite, model: Any) -> None:
    """Odd rows between ordinary ones: the ordinary rows' answers stay, the odd ones are answered or fail
    alone."""
    first, second = suite.rows[:2]
    plain = suite.ask(model, [first, second])
    mixed = isolated(suite, model, [first, *suite.scripts, second])
    assert len(mixed) == len(suite.scripts) + 2
    same(suite, [mixed[0], mixed[-1]], plain, "a row of another script changes its neighbours")
    for row, answer in zip(suite.scripts, mixed[1:-1], strict=True):
        assert suite.usable(answer), f"{row!r} gives or raises {answer!r}, which no table takes"
    before, long, after = isolated(suite, model, [first, suite.long, second])
    same(suite, [before, after], plain, "a row too long changes its neighbours")
    assert suite.usable(long), f"a row too long gives or raises {long!r}"
    before, poisoned, after = isolated(suite, model, [first, suite.poison, second])
    same(suite, [before, after], plain, "a poisoned row changes its neighbours")
    assert isinstance(poisoned, Exception) or suite.error(poisoned), (
        f"the poisoned row was answered: {poisoned!r}"
    )


def same(suite: Suite, got: Sequence[Any], wanted: Sequence[Any], fault: str) -> None:
    """At most the allowed share of answers differs; exceptions always do."""
    assert len(got) == len(wanted), f"{fault}: {len(wanted)} asked, {len(got)} answered"
    pairs = list(zip(got, wanted, strict=True))
    wrong = [(a, b) for a, b in pairs if isinstance(a, Exception) or suite.differs(a, b)]
    assert len(wrong) <= suite.allowed * len(pairs), f"{fault}: {wrong[0][0]!r} instead of {wrong[0][1]!r}"


def _tags_differ(tolerance: float, a: Tags, b: Tags) -> bool:
    """Phrases must be equal, scores within the tolerance."""
    return (a.phrases(), a.objects, a.attributes, a.caption, len(a.scores)) != (
        *(b.phrases(), b.objects, b.attributes, b.caption, len(b.scores)),
    ) or any(abs(x - y) > tolerance for x, y in zip(a.scores, b.scores, strict=True))


def _paintings_differ(tolerance: float, a: Painting, b: Painting) -> bool:
    if a.image is None or b.image is None:
        return a.image is not b.image or a.error != b.error
    one, two = (np.asarray(p.image.convert("RGB"), dtype=np.int16) for p in (a, b) if p.image is not None)
    return one.shape != two.shape or int(np.abs(one - two).max()) > tolerance
