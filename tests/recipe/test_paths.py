"""The path language of DESIGN section 6: what a path becomes, what paths share, and how a wrong one is
told."""

import pytest

from ctrlsynth.errors import UserError
from ctrlsynth.recipe.paths import Step, places, plan_steps


def names(steps: list[Step]) -> list[str]:
    return [s.folder for s in steps]


def test_the_four_paths_of_the_paper_share_what_they_share() -> None:
    steps = plan_steps({p: [p] for p in ("SP1", "SP2", "SP3", "SP4")}, judged=False)
    assert sorted(names(steps)) == ["paint", "paint.2", "read", "tag", "write", "write.2"]
    by = {s.folder: s for s in steps}
    assert by["tag"].paths == ("SP1", "SP2", "SP3")
    assert by["write"].paths == ("SP1", "SP3")
    assert (by["write.2"].label, by["write.2"].family, by["write.2"].uses) == (
        "write+text",
        "tags+text",
        {"text": "read"},
    )
    assert (by["paint"].parent, by["paint.2"].parent) == ("write", "read")


def test_judges_tag_what_was_painted_again() -> None:
    steps = plan_steps({"SP3": ["SP3"]}, judged=True)
    by = {s.folder: s for s in steps}
    assert set(by) == {"read", "tag", "write", "judge-text", "paint", "tag.2", "judge-image"}
    assert by["tag.2"].parent == "paint"
    assert by["judge-image"].uses == {"paint": "paint", "text": "write", "original": "tag"}
    order = names(steps)
    assert order.index("paint") < order.index("tag.2") < order.index("judge-image")


def test_a_gate_puts_the_judge_before_the_painter() -> None:
    by = {s.folder: s for s in plan_steps({"SP3": ["SP3"]}, judged=True, gate=True)}
    assert by["paint"].uses == {"gate write": "judge-text"}


def test_rounds_go_on_and_captions_come_from_the_tagger() -> None:
    loop = plan_steps({"mine": ["text", "text*", "image*", "tags*", "text*", "image*"]}, judged=False)
    assert [(s.folder, s.parent) for s in loop][1:] == [
        ("write", "read"), ("paint", "write"), ("tag", "paint"), ("write.2", "tag"), ("paint.2",
        "write.2")]  # fmt: skip
    caption = plan_steps({"c": ["image", "text*", "image*"]}, judged=False)
    assert [(s.folder, s.label, s.family) for s in caption][1:3] == [
        ("tag", "tag", None),
        ("write", "caption", "caption"),
    ]


def test_a_path_that_joins_a_synthetic_text() -> None:
    steps = plan_steps({"p": ["text", "text*", "image*", "tags*+text*", "text*"]}, judged=False)
    last = steps[-1]
    assert (last.family, last.uses, last.parent) == ("tags+text", {"text": "write"}, "tag")


def test_adding_or_renaming_a_path_changes_no_folder() -> None:
    one = plan_steps({"SP4": ["SP4"]}, judged=True)
    two = plan_steps({"SP3": ["SP3"], "again": ["SP4"]}, judged=True, known=places(one))
    place_one, place_two = places(one), places(two)
    assert place_one.items() <= place_two.items()
    assert len(set(place_two.values())) == len(place_two)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (["image", "image*"], "tags and text* could go between"),
        (["image", "tags", "image*"], "from 'tags' to 'image*'; text* could go between"),
        (["tags", "text*"], "starts with image, text or concept"),
        (["image"], "unknown path|needs a step"),
        (["image", "tags*", "text*"], "tags of image are tags, not tags*"),
        (["image", "tags", "text"], "did you mean 'text*'"),
        (["image", "tag", "text*"], "unknown node 'tag'; did you mean 'tags'"),
        (["image", "tags+text*", "text*"], "there is no text* yet"),
        (["image", "tags+image", "text*"], "only tags and a text can be joined"),
        (["SP5"], "unknown path 'SP5'"),
    ],
)
def test_impossible_paths_say_what_could_stand_between(nodes: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        plan_steps({"mine": nodes}, judged=True)
    assert any(m in str(error.value) for m in message.split("|")), str(error.value)


def test_a_gate_leaves_out_what_the_judge_of_these_very_rows_rejected() -> None:
    """The tagger behind an image serves its judge, so the gate of an image stands before whatever reads those
    tags."""
    steps = {
        s.folder: s
        for s in plan_steps({"p": ["image", "tags", "text*", "image*", "tags*", "text*"]}, True, True)
    }
    assert steps["paint"].uses == {"gate write": "judge-text"}
    assert steps["tag.2"].uses == {}
    assert steps["write.2"].uses == {"gate tag.2": "judge-image"}
    caption = {s.folder: s for s in plan_steps({"p": ["text", "image*", "text*"]}, True, True)}
    assert caption["write"].uses == {"gate tag": "judge-image"}
    join = {s.folder: s for s in plan_steps({"p": ["text", "text*", "tags*+text*", "text*"]}, True, True)}
    assert join["tag"].uses == {"gate write": "judge-text"}
    assert join["write.2"].uses == {"text": "write"}
