"""benchmarks/control.py: its counting against cases worked out by hand, its scenes, and a small run of the
whole with real parts."""

import numpy as np
import pytest
from PIL import Image

import control
import control_scenes
from ctrlsynth.control.edits import EditRecord
from ctrlsynth.lang.phrases import split_attribute, split_relation
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import Request
from ctrlsynth.models.embedded.scenes.vocabulary import vocabulary
from ctrlsynth.sample import Tags

BEFORE = Tags(("dog", "sofa"), ("red dog",), ("dog on sofa",))
AFTER = Tags(("cat", "sofa"), ("red cat",), ("cat on sofa",))
FOLLOWED = (
    EditRecord(0, "replace", "objects", "dog", "cat"),
    EditRecord(0, "replace", "attributes", "red dog", "red cat"),
    EditRecord(0, "replace", "relations", "dog on sofa", "cat on sofa"),
)
DROPPED = EditRecord(0, "keep", "relations", "dog on sofa", None)
REPLACED = control.Case("0", BEFORE, AFTER, FOLLOWED, Request(""))


@pytest.mark.parametrize(
    ("text", "visible", "back", "lost"),
    [
        ("A red cat is on a sofa.", 3, 0, 0),
        ("A red dog is on a sofa.", 0, 3, 0),
        (
            "A red dog is on a sofa, and a red cat is there.",
            0,
            3,
            0,
        ),  # the new ones do not count while the old are there
        ("A red cat.", 2, 0, 1),
        ("A cat and a sofa.", 1, 0, 0),
        ("", 0, 0, 1),
    ],
)
def test_counts_in_a_text(text: str, visible: int, back: int, lost: int) -> None:
    assert control.in_text(REPLACED, text) == control.Counts((visible, 3), (back, 3), (lost, 1))


def test_counts_in_a_picture_go_by_kind() -> None:
    found = Tags(("cat", "sofa"), ("red cat",), ("sofa under cat",))
    assert control.in_tags(REPLACED, found) == control.Counts((2, 3), (0, 3), (0, 1))
    assert control.in_tags(REPLACED, Tags(("dog",), (), ())) == control.Counts((0, 3), (1, 3), (1, 1))


def test_a_kitten_is_drawn_as_a_cat_but_a_stand_in_is_not_it() -> None:
    tags = Tags(("kitten", "nurse"), ("red kitten",), ("kitten on nurse",))
    assert control.drawers_names(tags) == Tags(("cat", "nurse"), ("red cat",), ("cat on nurse",))


@pytest.mark.parametrize(
    ("edit", "before", "after", "shown"),
    [
        (DROPPED, BEFORE, Tags(("dog", "sofa")), False),
        (DROPPED, BEFORE, Tags(("sofa",)), True),  # the dog is removed too: then the relation must be
        (EditRecord(0, "keep", "attributes", "red dog", None), BEFORE, BEFORE, True),
        (EditRecord(0, "swap", "relations", "dog on sofa", "sofa on dog"), BEFORE, BEFORE, True),
        (
            EditRecord(0, "swap", "relations", "dog next to sofa", "sofa next to dog"),
            Tags(("dog", "sofa"), (), ("dog next to sofa",)),
            Tags(("dog", "sofa")),
            False,
        ),
    ],
)
def test_a_picture_is_not_asked_for_what_it_cannot_show(
    edit: EditRecord, before: Tags, after: Tags, shown: bool
) -> None:
    assert control_scenes.shows(edit, before, after) is shown


def test_scenes_are_drawable_fixed_and_tell_their_colours() -> None:
    scenes = [control_scenes.scene(n) for n in range(120)]
    assert scenes == [control_scenes.scene(n) for n in range(120)]
    assert {len(tags.objects) for tags in scenes} == {1, 2, 3, 4}
    assert len(set(scenes)) > 110
    assert sum(len(t.attributes) for t in scenes) > 120
    assert sum(len(t.relations) for t in scenes) > 80
    for tags in scenes:
        assert all(name in vocabulary().drawings for name in tags.objects)
        assert not any(control_scenes.alike(a, b) for a in tags.objects for b in tags.objects if a != b)
        for attribute in tags.attributes:
            colour, name = split_attribute(attribute, tags.objects)
            assert control_scenes.own_colour(name or "") != colour
        for relation in tags.relations:
            one, predicate, two = split_relation(relation, tags.objects)
            assert predicate in control_scenes.PREDICATES
            assert {one, two} <= set(tags.objects)


def test_own_colour_is_what_the_drawing_shows() -> None:
    for name, colour in (("tomato", "red"), ("broccoli", "green"), ("lemon", "yellow")):
        assert control_scenes.own_colour(name) == colour


@pytest.mark.parametrize("edit", [name for name in control_scenes.EDITS if name != "none"])
def test_every_edit_makes_cases_and_does_what_its_name_says(edit: str) -> None:
    made = control.cases(edit, "tags", range(40), 8)
    assert len(made) >= 5
    for case in made:
        assert {record.op for record in case.records} == {edit.split()[0]}
        assert (case.request.tags, case.request.caption) == (case.after, None)
        assert case.before != case.after


def test_the_caption_of_tags_and_text_says_the_tags_before_the_edit() -> None:
    for case in control.cases("remove object", "tags+text", range(20), 5):
        gone = [r.before for r in case.records if r.kind == "objects"]
        assert all(name in (case.request.caption or "") for name in gone if name)


def test_shares_and_their_intervals() -> None:
    assert control.percent([(0, 0)]) == "-"
    assert control.percent([(3, 4), (1, 4)]) == "50"
    middle, _, rest = control.percent([(1, 1)] * 60 + [(0, 1)] * 40, interval=True).partition(" (")
    low, high = (int(end) for end in rest.rstrip(")").split("-"))
    # the normal interval of 60 in 100 is 60 +- 9.6; the bootstrap must come close
    assert middle == "60"
    assert max(abs(low - 50), abs(high - 70)) <= 2


def test_the_tagger_gets_pixels_after_a_jpeg() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    again = control.through_jpeg(noise)
    assert again.size == noise.size
    assert again.tobytes() != noise.tobytes()


def test_small_run_from_edit_to_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    control.main(["--scenes", "8", "--images", "1", "--llm-scenes", "0", "--styled", "2"])
    table = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    ]
    total = next(line for line in table if line[:2] == ["all edits", "tags"])
    assert int(total[2]) > 40
    assert int(total[4].split()[0]) >= 95  # the text holds what was asked for
    assert int(total[8].split()[0]) >= 70  # most of it is seen in a dozen pictures
    styles = {line[0]: line[2:] for line in table if line[0] in ("none", *control.STYLES) and len(line) == 5}
    assert set(styles) == {"none", *control.STYLES}
    assert styles["none"][2] == "0"  # nothing is changed by no style
    assert styles["isometric"][2] == "100"


def test_weights_and_styles_are_measured_on_the_plan_and_in_pixels() -> None:
    drawer, tagger = models.load("scenes", "text_to_image"), models.load("reference", "tagger")
    assert control.weighted(range(2), drawer, tagger, 2.0)[:2] == (2, 2)
    assert control.weighted(range(2), drawer, tagger, 1.0)[0] == 0  # weight 1 moves nothing
