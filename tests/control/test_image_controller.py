"""The image controller (3b): styles by weight, order, weights, a user's own function."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.control.image import ImageController
from ctrlsynth.control.templates import styles
from ctrlsynth.errors import UserError
from ctrlsynth.lang import clip_tokens
from ctrlsynth.models.base import Prompt
from ctrlsynth.recipe.schema import ImagePolicy
from ctrlsynth.sample import model_seed


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
    made = controller(styles=name).prompt("r", "A cat {sits}.")
    assert made.style == name
    assert made.text == styles()[name].text.replace("{prompt}", "A cat {sits}")
    assert ".." not in made.text
    assert controller(styles=name).prompt("r", "A cat?").text == styles()[name].text.replace(
        "{prompt}", "A cat?"
    )


def test_without_a_style_the_text_is_the_prompt() -> None:
    made = controller(styles={}, negative="blurry", size=64).prompt("p:1", " A cat. ")
    assert made == Prompt("A cat.", "blurry", "", {}, model_seed(0, "p:1"), (64, 64))
    assert controller(size=(96, 64)).prompt("p:1", "A cat.").size == (96, 64)
    assert controller().prompt("p:1", "A cat.").size is None


def test_styles_are_drawn_by_weight_from_the_row_alone() -> None:
    one = controller(styles={"real": 3, "art": 1, "nocap": 0})
    drawn = {f"p:{i}": one.prompt(f"p:{i}", "A cat.").style for i in range(4000)}
    counts = Counter(drawn.values())
    assert set(counts) == {"real", "art"}
    assert 0.72 < counts["real"] / 4000 < 0.78
    again = controller(styles={"real": 3, "art": 1, "nocap": 0})
    assert all(again.prompt(row, "Another text.").style == style for row, style in reversed(drawn.items()))
    assert any(
        controller(seed=1, styles={"real": 3, "art": 1}).prompt(row, "A cat.").style != style
        for row, style in drawn.items()
    )


def test_wrong_settings_name_their_keys(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"image_policy.styles: unknown style 'cinematc'; did you mean 'cinematic'"
    ):
        controller(styles={"cinematc": 1})
    with pytest.raises(UserError, match=r"image_policy.styles: every weight is 0"):
        controller(styles={"real": 0})
    with pytest.raises(UserError, match=r"image_policy.order: 're:\(' is not a regular expression"):
        controller(order=["re:("])
    path = tmp_path / "styles.yaml"
    path.write_text("noir: 'black and white, {promt}'")
    with pytest.raises(
        UserError, match=r"styles.yaml: noir: unknown placeholder 'promt'; did you mean 'prompt'"
    ):
        controller(styles_file=path)
    path.write_text("noir: black and white")
    with pytest.raises(UserError, match=r"noir: a style contains \{prompt\} once, this one 0 times"):
        controller(styles_file=path)
    path.write_text("real: '{prompt}'")
    with pytest.raises(UserError, match="comes with the package"):
        controller(styles_file=path)
    path.write_text("noir: 'film noir {{1940}} {prompt}, grain'")
    assert (
        controller(styles_file=path, styles="noir").prompt("r", "a cat").text
        == "film noir {1940} a cat, grain"
    )


def test_what_matters_comes_first_before_77_tokens_cut() -> None:
    filler = "The wall behind is plain and grey and has no pictures at all."
    text = " ".join([filler] * 6 + ["A dog sleeps on the red sofa.", "Two cats look out!"])
    plain, ordered = controller(), controller(order=["cat", "dog"])
    assert clip_tokens.truncated(clip_tokens.count(plain.prompt("r", text).text))
    got = ordered.prompt("r", text).text
    assert got.startswith("a real photo. Two cats look out! A dog sleeps on the red sofa. The wall")
    words = sorted(w.strip(".!") for w in got.split())
    assert words == sorted(w.strip(".!") for w in plain.prompt("r", text).text.split())
    by_class = (
        controller(order=["furniture.n.01"], styles={})
        .prompt("r", "It is late. A dog sleeps on the sofa")
        .text
    )
    assert by_class == "A dog sleeps on the sofa. It is late."
    two = (
        controller(order=["red sofa"], styles={})
        .prompt("r", "The sofa is red. Here, a red sofa, at last.")
        .text
    )
    assert two == "Here, a red sofa, at last. The sofa is red."
    assert (
        controller(order=["zebra"], styles={})
        .prompt("r", "One. Two. Three")
        .text.startswith("One. Two. Three")
    )


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
    policy = {"dog": 1.5, "red": 0.0}
    made = controller(weights=policy).prompt("r", "A cat.")
    assert made.weights == policy
    assert "dog" not in made.text  # a phrase that the text lacks never gets into it
    with pytest.raises(UserError, match=r"image_policy.weights: a tag is empty"):
        controller(weights={" ": 2})


def brighter(prompt: Prompt, rng: random.Random) -> Prompt:
    return replace(prompt, text=f"{prompt.text} sunny {rng.randrange(1000)}", weights={"sunny": 1.3})


def wrong(prompt: Prompt, rng: random.Random) -> Any:
    return prompt.text


def test_call_runs_a_function_of_the_users() -> None:
    c = controller(call="test_image_controller:brighter", styles={})
    made = c.prompt("a", "A cat")
    assert made.text.startswith("A cat sunny ")
    assert made.weights == {"sunny": 1.3}
    assert made == c.prompt("a", "A cat")
    assert made.text != c.prompt("b", "A cat").text
    with pytest.raises(
        UserError, match=r"image_policy.call: test_image_controller:wrong returned str on row a, not Prompt"
    ):
        controller(call="test_image_controller:wrong").prompt("a", "A cat")
    with pytest.raises(UserError, match="has no 'absent'"):
        controller(call="test_image_controller:absent")
