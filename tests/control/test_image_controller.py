"""The image controller (3b): styles by weight, order, weights, a user's own function."""

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.control.image import ImageController
from ctrlsynth.control.templates import styles
from ctrlsynth.lang import clip_tokens
from ctrlsynth.models.base import Prompt
from ctrlsynth.recipe.schema import ImagePolicy
from ctrlsynth.sample import model_seed
from helpers import assert_refused


def controller(seed: int = 0, **policy: Any) -> ImageController:
    return ImageController(ImagePolicy.model_validate(policy), seed)


def test_the_five_styles_of_the_paper_are_quoted_and_two_are_ours() -> None:
    assert {name: s.text for name, s in styles().items() if s.source == "paper"} == {
        "real": "a real photo. {prompt}. 35mm photograph, film, bokeh, professional, 4k, highly detailed",
        "nocap": "a real photo showing {prompt}. highly detailed",
        "isometric": "isometric style {prompt} . vibrant, beautiful, crisp, detailed, ultra detailed, "
        "intricate",
        "enhance": "breathtaking {prompt}. award-winning, professional, highly detailed",
        "quality": "masterpiece, best quality, ultra detailed, {prompt}. intricate details",
    }
    assert [s.section for s in styles().values()] == ["A.1"] * 5 + [None] * 2
    assert [name for name, s in styles().items() if s.source == "ours"] == ["cinematic", "art"]


@pytest.mark.parametrize("name", list(styles()))
def test_each_style_goes_around_the_text(name: str) -> None:
    full_stop, question = (controller(styles=name).prompt("r", text) for text in ("A cat {sits}.", "A cat?"))
    assert full_stop.style == name
    assert full_stop.text == styles()[name].text.replace("{prompt}", "A cat {sits}")
    assert ".." not in full_stop.text
    assert question.text == styles()[name].text.replace("{prompt}", "A cat?")


def test_without_a_style_the_text_is_the_prompt() -> None:
    made = controller(styles={}, negative="blurry", size=64).prompt("p:1", " A cat. ")
    assert made == Prompt("A cat.", "blurry", "", {}, model_seed(0, "p:1"), (64, 64))
    assert controller(size=(96, 64)).prompt("p:1", "A cat.").size == (96, 64)
    assert controller().prompt("p:1", "A cat.").size is None


def test_styles_are_drawn_by_weight_from_the_row_alone() -> None:
    one, again, other = (
        controller(seed=seed, styles={"real": 3, "art": 1, "nocap": 0}) for seed in (0, 0, 1)
    )
    drawn = {f"p:{i}": one.prompt(f"p:{i}", "A cat.").style for i in range(4000)}
    counts = Counter(drawn.values())
    assert set(counts) == {"real", "art"}
    assert 0.72 < counts["real"] / 4000 < 0.78
    assert {row: again.prompt(row, "Another text.").style for row in reversed(drawn)} == drawn
    assert {row: other.prompt(row, "A cat.").style for row in drawn} != drawn


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"styles": {"cinematc": 1}}, "image_policy.styles: unknown style 'cinematc'; did you mean 'cinematic'"),
        ({"styles": {"real": 0}}, "image_policy.styles: every weight is 0"),
        ({"order": ["re:("]}, r"image_policy.order: 're:\(' is not a regular expression"),
        ({"size": (0, 5)}, "image_policy.size: pixels above 0"),
        ({"weights": {" ": 2}}, "image_policy.weights: a tag is empty"),
        ({"call": "test_image_controller:absent"}, "has no 'absent'"),
    ],
)  # fmt: skip
def test_wrong_settings_name_their_keys(policy: dict[str, Any], message: str) -> None:
    assert_refused(lambda: controller(**policy), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("noir: 'black and white, {promt}'", "noir: unknown placeholder 'promt'; did you mean 'prompt'"),
        ("noir: black and white", r"noir: a style contains \{prompt\} once, this one 0 times"),
        ("real: '{prompt}'", "real: this name comes with the package"),
        ("noir: 'film noir {{1940}} {prompt}, grain'", None),
    ],
)
def test_own_styles_come_from_a_file(tmp_path: Path, text: str, message: str | None) -> None:
    (tmp_path / "styles.yaml").write_text(text)
    own: Any = {"styles_file": tmp_path / "styles.yaml"}
    if message is None:
        assert controller(**own, styles="noir").prompt("r", "a cat").text == "film noir {1940} a cat, grain"
    else:
        assert_refused(lambda: controller(**own), f"styles.yaml: {message}")


def test_what_matters_comes_first_before_77_tokens_cut() -> None:
    filler = "The wall behind is plain and grey and has no pictures at all."
    text = " ".join([filler] * 6 + ["A dog sleeps on the red sofa.", "Two cats look out!"])
    plain, ordered = (controller(order=order).prompt("r", text).text for order in ([], ["cat", "dog"]))
    assert clip_tokens.truncated(clip_tokens.count(plain))
    assert ordered.startswith("a real photo. Two cats look out! A dog sleeps on the red sofa. The wall")
    assert sorted(re.findall(r"[\w,]+", ordered)) == sorted(re.findall(r"[\w,]+", plain))


@pytest.mark.parametrize(
    ("order", "text", "prompt"),
    [
        ("furniture.n.01", "It is late. A dog sleeps on the sofa", "A dog sleeps on the sofa. It is late."),
        ("red sofa", "The sofa is red. Here, a red sofa, at last.", "Here, a red sofa, at last. The sofa is red."),
        ("zebra", "One. Two. Three", "One. Two. Three."),
    ],
)  # fmt: skip
def test_sentences_are_ordered_by_what_they_name(order: str, text: str, prompt: str) -> None:
    assert controller(order=[order], styles={}).prompt("r", text).text == prompt


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["A dog runs.", "It rains!", "Is it late?", "The cat is red."]),
        min_size=1,
        max_size=6,
    )
)
def test_order_is_stable_and_loses_no_sentence(sentences: list[str]) -> None:
    got = controller(order=["cat"], styles={}).prompt("r", " ".join(sentences)).text
    first = [s for s in sentences if "cat" in s]
    assert got == " ".join(first + [s for s in sentences if "cat" not in s])


def test_weights_go_along_as_the_policy_gives_them() -> None:
    made = controller(weights={"dog": 1.5, "red": 0.0}).prompt("r", "A cat.")
    assert made.weights == {"dog": 1.5, "red": 0.0}
    assert "dog" not in made.text  # a phrase that the text lacks never gets into it


def brighter(prompt: Prompt, rng: random.Random) -> Prompt:
    return replace(prompt, text=f"{prompt.text} sunny {rng.randrange(1000)}", weights={"sunny": 1.3})


def wrong(prompt: Prompt, rng: random.Random) -> Any:
    return prompt.text


def test_call_runs_a_function_of_the_users() -> None:
    c = controller(call="test_image_controller:brighter", styles={})
    made, again, other = (c.prompt(row, "A cat") for row in "aab")
    assert made.text.startswith("A cat sunny ")
    assert made.weights == {"sunny": 1.3}
    assert made == again
    assert made.text != other.text
    wrong = controller(call="test_image_controller:wrong")
    message = "image_policy.call: test_image_controller:wrong returned str on row a, not Prompt"
    assert_refused(lambda: wrong.prompt("a", "A cat"), message)
