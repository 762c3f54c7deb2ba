"""The text controller (3a): templates, what an instruction holds, and how replies are read."""

import json
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.control.schema import check_schema, problem
from ctrlsynth.control.templates import FAMILIES, Family, constraint, cut, text_template, text_templates
from ctrlsynth.control.text import TextController, reminder
from ctrlsynth.errors import UserError
from ctrlsynth.lang.phrases import holds
from ctrlsynth.recipe.schema import TextPolicy
from ctrlsynth.sample import Tags, model_seed

PARK = Tags(("dog", "sofa"), ("brown dog", "red sofa"), ("dog on sofa",), (0.9, 0.7))
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "caption": {"type": "string", "minLength": 3},
        "count": {"type": "integer"},
    },
    "required": ["caption"],
    "additionalProperties": False,
}


def controller(seed: int = 0, **policy: Any) -> TextController:
    return TextController(TextPolicy.model_validate(policy), seed)


# --- templates as data
# ----------------------------------------------------------------------------------------------------------


def test_the_ten_templates_of_the_paper_are_quoted_with_their_section() -> None:
    paper = [t for t in text_templates().values() if t.source == "paper"]
    assert Counter(t.family for t in paper) == {"tags": 5, "tags+text": 5}
    assert all(t.section == "A.1" for t in paper)
    assert all(
        t.placeholders == ({"phrases"} if t.family == "tags" else {"phrases", "caption"}) for t in paper
    )
    assert text_templates()["phrases-5"].text == (
        "Construct a comprehensive and expressive caption by integrating phrases that detail the entities, "
        "their features, and the spatial "
        "or thematic relationships in an image. Phrases: {phrases}."
    )
    assert text_templates()["faithful-2"].text == (
        "Write a faithful caption by integrating the given phrases with the original sentence. Given "
        "sentence: {caption}. Given phrases: "
        "{phrases}. Ensure any objects or specific nouns from the original caption are preserved while "
        "elaborating on the visual "
        "relationships and attributes provided in the phrases to create a more detailed depiction."
    )
    assert all(
        text_templates()[name].note for name in ("phrases-2", "faithful-1")
    )  # words that our copy lost are marked
    ours = [t for t in text_templates().values() if t.source == "ours"]
    assert Counter(t.family for t in ours) == {"text": 4, "concept": 1}
    assert all(t.section is None for t in ours)


def test_the_constraint_of_figure_3_stands_behind_the_content() -> None:
    text = controller(templates=["phrases-1"]).instruct("r", "tags", PARK, None).request.instruction
    assert text == (
        "Create a detailed and high-quality caption using phrases that represent the entities or objects, "
        "their unique attributes, and the "
        "visual relationships in the scene depicted. Phrases: dog, sofa, brown dog, red sofa, dog on sofa. "
        "The caption should not contain "
        "any NSFW words. It should be grammatically correct. It should be concise, but not too short. "
        "Directly output the caption and do "
        "not add any formatting."
    )
    none = (
        controller(templates=["phrases-1"], constraint="")
        .instruct("r", "tags", PARK, None)
        .request.instruction
    )
    assert none.endswith("Phrases: dog, sofa, brown dog, red sofa, dog on sofa.")
    own = (
        controller(templates=["phrases-1"], constraint="Be brief.", words=(5, 9))
        .instruct("r", "tags", PARK, None)
        .request
    )
    assert own.instruction.endswith("dog on sofa. Be brief. Write between 5 and 9 words.")
    assert own.words == (5, 9)


def test_the_concept_template_asks_for_one_short_sentence() -> None:
    made = controller().instruct("r", "concept", None, "rocking chair")
    assert "rocking chair" in made.request.instruction
    assert "15 words" in made.request.instruction
    assert constraint()[0] not in made.request.instruction
    assert made.tags == Tags(("rocking chair",))
    assert controller().instruct("r", "concept", Tags(("axe",)), None).request.tags.objects == ("axe",)


# --- the strict language
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "text", "message"),
    [
        ("tags", "Write. {phrase}", "unknown placeholder 'phrase'; did you mean 'phrases'"),
        ("tags", "Write. {phrases!r}", "unknown placeholder 'phrases!r'; did you mean 'phrases'"),
        ("tags", "Write. {}", "unknown placeholder ''"),
        ("tags", "Write. { phrases }", "unknown placeholder"),
        ("tags", "Write. {phrases", r"'\{' at character 8 stands alone; write it twice"),
        ("tags", "Write. phrases}", r"'\}' at character 15 stands alone"),
        ("tags", "Write. {caption}: {phrases}", "{caption} is not available in family 'tags'"),
        ("tags", "Write something.", "must contain {phrases}"),
        ("tags+text", "Write. {phrases}", "must contain {caption} and {phrases}"),
        ("text", "Write. {phrases} {caption}", "{phrases} is not available in family 'text'"),
        ("concept", "Write.", "must contain {concept}"),
        ("tag", "Write. {phrases}", "unknown family 'tag'; did you mean 'tags'"),
    ],
)
def test_a_wrong_template_says_what_is_wrong(tmp_path: Path, family: str, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps({"mine": {"family": family, "text": text}}))
    with pytest.raises(UserError, match=f"own.yaml: mine: .*{message}"):
        controller(templates_file=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mine: {family: tags}", "mine: text: Field required"),
        ("mine: {family: tags, text: '{phrases}', colour: red}", "unknown key 'colour'"),
        ("mine: '{phrases}'", "mine: family: Field required"),
        ("phrases-1: {family: tags, text: '{phrases}'}", "comes with the package"),
        ("mine: {family: tags, text: 7}", "mine: text: .*valid string .*given: 7"),
        ("[a, b]", "a mapping of names"),
        ("a: {family: tags, text: '{phrases}'}\na: {family: tags, text: '{phrases}'}", "'a' is given twice"),
    ],
)
def test_a_wrong_template_file_says_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        controller(templates_file=path)
    with pytest.raises(UserError, match="cannot read the templates"):
        controller(templates_file=tmp_path / "absent.yaml")


def test_own_templates_see_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "mine: {family: tags+text, text: '{{x}} {objects} | {attributes} | {relations} | {caption}'}"
    )
    made = controller(templates_file=path, templates=["mine"], constraint="").instruct(
        "r", "tags+text", PARK, "Hi {objects} }{ {{}}"
    )
    assert (
        made.request.instruction == "{x} dog, sofa | brown dog, red sofa | dog on sofa | Hi {objects} }{ {{}}"
    )
    assert made.template == "mine"
    both = controller(templates_file=path)
    drawn = {both.instruct(f"r{i}", "tags+text", PARK, "Hi").template for i in range(200)}
    assert drawn == {"mine", *(f"faithful-{i}" for i in range(1, 6))}


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet=string.printable, max_size=30),
    st.lists(st.text(alphabet="{}abc_0!%$\\", max_size=12), min_size=1, max_size=4),
)
def test_what_stands_in_captions_and_tags_is_plain_text(caption: str, phrases: list[str]) -> None:
    template = text_template("t", "tags+text", "A {caption}~ B {phrases}~ {caption}~ {{caption}}", "here")
    filled = template.fill({"caption": caption, "phrases": ", ".join(phrases)})
    assert filled == "A " + caption + "~ B " + ", ".join(phrases) + "~ " + caption + "~ {caption}"


@settings(deadline=None)
@given(st.text(alphabet="ab{} ", max_size=20))
def test_cut_takes_every_text_with_doubled_braces_and_refuses_others(text: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")
    assert "".join(cut(doubled, {"caption"}, "here")) == text
    if text.count("{") != text.count("}") and "{{" not in text and "}}" not in text:
        with pytest.raises(UserError):
            cut(text, {"caption"}, "here")


# --- choosing
# -------------------------------------------------------------------------------------------------------------------


def test_the_template_hangs_on_the_row_alone_and_all_come_alike() -> None:
    one = controller()
    drawn = {
        f"p:{i}/tag/write.0": one.instruct(f"p:{i}/tag/write.0", "tags", PARK, None).template
        for i in range(2000)
    }
    assert set(drawn.values()) == {f"phrases-{i}" for i in range(1, 6)}
    assert all(330 < n < 470 for n in Counter(drawn.values()).values())
    backwards = controller()
    assert all(
        backwards.instruct(row, "tags", Tags(("x",)), None).template == name
        for row, name in reversed(drawn.items())
    )
    other = controller(seed=1)
    assert any(other.instruct(row, "tags", PARK, None).template != name for row, name in drawn.items())
    assert one.instruct("p:1", "tags", PARK, None).request.seed == model_seed(0, "p:1")


def test_a_path_that_no_chosen_template_can_serve_is_an_error() -> None:
    some = controller(templates=["phrases-1", "rewrite-1"])
    assert some.families() == ("tags", "text")
    some.check("tags")
    with pytest.raises(
        UserError,
        match=r"text_policy.templates: none of the chosen is of family 'tags\+text', .* e.g. 'faithful-1'",
    ):
        some.check("tags+text")
    with pytest.raises(UserError, match="none of the chosen"):
        some.instruct("r", "concept", None, "dog")
    assert controller().families() == FAMILIES
    with pytest.raises(UserError, match="unknown template 'phrases1'; did you mean 'phrases-1'"):
        controller(templates=["phrases1"])
    with pytest.raises(UserError, match="names no template"):
        controller(templates=[])


@pytest.mark.parametrize(
    ("family", "tags", "caption", "missing"),
    [
        ("tags", Tags(), "a dog", "no_tags"),
        ("tags", None, None, "no_tags"),
        ("tags", Tags((), ("red",)), None, None),
        ("tags+text", Tags(), "a dog", None),
        ("tags+text", PARK, "  ", "no_caption"),
        ("text", None, None, "no_caption"),
        ("text", None, "a dog", None),
        ("concept", None, " ", "no_concept"),
    ],
)
def test_a_row_that_cannot_be_asked_says_why(
    family: Family, tags: Tags | None, caption: str | None, missing: str | None
) -> None:
    assert controller().instruct("r", family, tags, caption).missing == missing


def test_edits_that_leave_nothing_leave_a_row_without_tags() -> None:
    made = controller(edits=[{"remove": {"objects": ["*"], "attributes": ["*"]}}]).instruct(
        "r", "tags", PARK, None
    )
    assert made.missing == "no_tags"
    assert len(made.edits) == 5


def test_each_family_carries_what_it_may_know() -> None:
    c = controller(edits=[{"remove": {"objects": ["sofa"]}}])
    tags = c.instruct("r", "tags", PARK, "Some words")
    assert tags.request.caption is None
    assert "Some words" not in tags.request.instruction
    assert tags.request.tags == tags.tags == Tags(("dog",), ("brown dog",), (), (0.9,))
    assert "sofa" not in tags.request.instruction
    text = c.instruct("r", "text", PARK, "Some words")
    assert (text.request.tags, text.edits) == (Tags(), ())
    assert "dog" not in text.request.instruction
    both = c.instruct("r", "tags+text", PARK, "Some words.")
    assert "Some words. " in both.request.instruction  # one full stop, the template's
    assert "Some words.." not in both.request.instruction
    assert c.edited("r", PARK) == (tags.tags, tags.edits)


def test_order_puts_first_what_matters() -> None:
    made = controller(order=["red", "animal.n.01"], templates=["phrases-1"]).instruct("r", "tags", PARK, None)
    assert "Phrases: red sofa, dog, brown dog, dog on sofa, sofa." in made.request.instruction
    assert made.tags.attributes == ("red sofa", "brown dog")
    assert controller(order=["red sofa"]).edited("r", PARK)[0].attributes == ("red sofa", "brown dog")
    sofa = controller(order=["sofa"]).edited("r", PARK)[0]
    assert (sofa.objects, sofa.scores) == (("sofa", "dog"), (0.7, 0.9))


@pytest.mark.parametrize(
    ("text", "phrase", "held"),
    [
        ("Two Dogs play.", "dog", True),
        ("A dog-sled", "dog", True),
        ("A hotdog and doggy", "dog", False),
        ("the red sofa.", "red sofa", True),
        ("the red, sofa", "red sofa", False),
        ("C++ code (x)", "c++", True),
    ],
)
def test_holds_asks_for_whole_words_in_either_number(text: str, phrase: str, held: bool) -> None:
    assert holds(text, phrase) is held


def test_a_writer_who_sees_the_caption_is_told_what_the_edits_took_away() -> None:
    edits = [{"remove": {"objects": ["dog"]}}, {"replace": {"attributes": {"red": "blue"}}}]
    c = controller(edits=edits, templates=["faithful-2", "phrases-1"])
    said = c.instruct("r", "tags+text", PARK, "Dogs on a red sofa.").request.instruction
    assert "depiction. Leave out: dog. Write blue sofa in place of red sofa. The caption should" in said
    assert "Leave out" not in c.instruct("r", "tags+text", PARK, "A hotdog and a sofa.").request.instruction
    assert "Leave out" not in c.instruct("r", "tags", PARK, "A dog.").request.instruction
    kept = controller(edits=[{"keep": ["objects"]}, {"sample": {"objects": 0.0}}])
    assert "Leave out" not in kept.instruct("r", "tags+text", PARK, "A brown dog.").request.instruction


def test_the_reminder_follows_a_phrase_through_all_edits() -> None:
    def told(*edits: dict[str, Any]) -> str:
        return reminder(
            "A brown dog and a cat on a sofa.",
            controller(edits=list(edits)).edited("r", Tags(("dog", "cat"), ("brown dog",)))[1],
        )

    swap = {"replace": {"objects": {"dog": "cat", "cat": "dog"}}}
    assert told(swap) == " Write cat in place of dog. Write dog in place of cat."
    assert told(swap, swap) == ""
    assert (
        told({"replace": {"objects": {"dog": "fox"}}}, {"remove": {"objects": ["fox"]}}) == " Leave out: dog."
    )
    assert (
        told({"replace": {"objects": {"dog": "fox"}}}, {"replace": {"objects": {"fox": "owl"}}})
        == " Write owl in place of dog."
    )
    both = told({"replace": {"objects": {"dog": "cat"}}}, {"replace": {"objects": {"cat": "fox"}}})
    assert both == " Write fox in place of cat. Write fox in place of dog."
    assert told({"add": {"objects": ["owl"]}}, {"swap": "attributes"}) == ""


def test_a_request_carries_what_its_caption_must_not_say() -> None:
    def made(
        *edits: dict[str, Any], family: Family = "tags+text", tags: Tags = PARK
    ) -> tuple[Tags, tuple[tuple[str, str], ...]]:
        request = controller(edits=list(edits)).instruct("r", family, tags, "A dog.").request
        return request.gone, request.instead

    removed = {"remove": {"objects": ["dog"]}}
    assert made(removed) == (Tags(("dog",), ("brown dog",), ("dog on sofa",)), ())
    assert made(removed, family="tags") == made({"add": {"objects": ["owl"]}}) == (Tags(), ())
    assert made({"keep": ["objects"]}, {"sample": {"objects": 0.0}}) == (Tags(), ())
    replaced = {"replace": {"objects": {"dog": "cat"}}}
    assert made(replaced) == (
        Tags(("dog",), ("brown dog",), ("dog on sofa",)),
        (("dog", "cat"), ("brown dog", "brown cat")),
    )
    assert made(replaced, {"replace": {"objects": {"cat": "fox"}}})[1] == (
        ("cat", "fox"), ("brown cat", "brown fox"), ("dog", "fox"), ("brown dog", "brown fox"),
    )  # fmt: skip
    assert made(replaced, {"remove": {"objects": ["cat"]}})[1] == ()
    swapped = {"swap": "attributes"}
    assert made(swapped) == (
        Tags((), PARK.attributes),
        (("brown dog", "red dog"), ("red sofa", "brown sofa")),
    )
    assert made(swapped, swapped)[0] == Tags((), ("brown sofa", "red dog"))  # where the two stood in between
    assert made({"swap": "relations"}) == (Tags((), (), ("dog on sofa",)), ())
    many = Tags(("dog", "sofa"), ("brown dog", "old dog", "red sofa"))
    assert made(swapped, tags=many)[1] == (("brown dog", "red dog"), ("red sofa", "brown sofa"))


# --- replies
# --------------------------------------------------------------------------------------------------------------------


def test_plain_replies_lose_only_what_surrounds_them() -> None:
    c = controller()
    ask = c.instruct("r", "tags", PARK, None)
    replies = ["  A dog.\n", '"A dog."', "“A dog.”", '"Sit" and "stay"', 'A "dog"']
    assert [c.parse(r, ask).text for r in replies] == ["A dog."] * 3 + replies[3:]
    assert [c.parse(r, ask).reason for r in (" \n", '""')] == ["empty_reply"] * 2


def test_json_replies_are_held_against_the_schema() -> None:
    c = controller(style="json", json_schema=SCHEMA, caption_field="caption")
    ask = c.instruct("r", "tags", PARK, None)
    assert ask.request.schema == SCHEMA
    assert "Directly output the caption" not in ask.request.instruction
    assert json.dumps(SCHEMA) in ask.request.instruction
    good = c.parse('{"caption": " A dog. ", "count": 2}', ask)
    assert (good.text, good.fields, good.reason) == ("A dog.", {"caption": " A dog. ", "count": 2}, None)
    assert c.parse('```json\n{"caption": "A dog."}\n```', ask).text == "A dog."
    for reply, reason, where in [
        ("", "empty_reply", "empty"),
        ("A dog.", "bad_json", "line 1"),
        ('{"caption": "A dog."', "bad_json", "line 1"),
        ('{"caption": "A dog.", "count": NaN}', "bad_json", "NaN"),
        ("[" * 100_000, "bad_json", ""),
        ('{"title": "x"}', "schema_mismatch", "'caption' is a required property"),
        ('{"caption": "A"}', "schema_mismatch", "$.caption: 'A' is too short"),
        (
            '{"caption": "A dog.", "count": "two"}',
            "schema_mismatch",
            "$.count: 'two' is not of type 'integer'",
        ),
        ('{"caption": "A dog.", "mood": "x"}', "schema_mismatch", "'mood' was unexpected"),
        ('{"caption": "    "}', "empty_reply", "$.caption"),
        ('["A dog."]', "schema_mismatch", "$: ['A dog.'] is not of type 'object'"),
    ]:
        got = c.parse(reply, ask)
        assert (got.reason, got.text, got.fields) == (reason, "", None), reply[:40]
        assert where in got.problem
    first = controller(style="json", json_schema=SCHEMA)
    assert first.parse('{"title": "T", "caption": "A dog."}', ask).text == "T"
    assert first.parse('{"caption": "A dog."}', ask).reason == "schema_mismatch"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"type": "object", "properties": {"a": {"type": "string", "patern": "x"}}},
            "properties.a: unknown schema keyword 'patern'",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "strng"}}},
            "properties.a.type: unknown type 'strng'; did you mean 'string'",
        ),
        ({"type": "array", "items": {"type": "string"}}, "type: object and properties"),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, "no property is of type string"),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]},
            "required: unknown property 'b'",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string", "minLength": -1}}},
            "properties.a.minLength: -1 is less than the minimum of 0",
        ),
        ({"type": "object", "properties": {"a": {"type": "string", "enum": []}}}, "enum: lists no value"),
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"text_policy.json_schema.*{message}"):
        controller(style="json", json_schema=schema)


def test_wrong_settings_name_their_keys(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"caption_field: unknown property of type string 'captoin'; did you mean 'caption'"
    ):
        controller(style="json", json_schema=SCHEMA, caption_field="captoin")
    with pytest.raises(UserError, match=r"text_policy.words: least and most words"):
        controller(words=(9, 3))
    with pytest.raises(UserError, match="caption_field goes with style: json"):
        controller(caption_field="caption")
    path = tmp_path / "schema.json"
    path.write_text("{nope")
    with pytest.raises(UserError, match=r"schema.json: not JSON"):
        controller(style="json", json_schema=str(path))
    path.write_text(json.dumps(SCHEMA))
    assert controller(style="json", json_schema=str(path)).schema == SCHEMA


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, [1, 2.0, -3], [True, 1.5, "1", None]),
        ({"type": "number", "minimum": 0, "maximum": 1}, [0, 1, 0.5], [-0.1, 2, True]),
        ({"type": ["string", "null"]}, ["", None], [0, []]),
        ({"enum": ["a", 1]}, ["a", 1], ["b", True, None]),
        (
            {"type": "array", "items": {"type": "string", "maxLength": 2}, "minItems": 1, "maxItems": 2},
            [["a"], ["a", "bc"]],
            [[], ["abc"], ["a"] * 3, [1]],
        ),
        ({"type": "object", "required": ["a"]}, [{"a": 1}, {"a": 1, "b": 2}], [{}, {"b": 1}, []]),
        ({"type": "boolean"}, [True, False], [0, 1, "true"]),
    ],
)
def test_values_against_schemas(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    check_schema(schema, "here")
    assert [v for v in good if problem(v, schema)] == []
    assert [v for v in bad if not problem(v, schema)] == []


def test_content_holds_what_the_family_uses_and_nothing_else(tmp_path: Path) -> None:
    """What a step's digest is made of: another template of the family changes it, a file's name or another
    family's template does not."""
    own = tmp_path / "own.yaml"
    own.write_text("mine: {family: tags, text: 'Use {phrases}.'}\n", encoding="utf-8")
    policy = TextPolicy(templates=["mine", "rewrite-1"], templates_file=own)
    before = TextController(policy, 0)
    own.rename(tmp_path / "renamed.yaml")
    moved = policy.model_copy(update={"templates_file": tmp_path / "renamed.yaml"})
    assert TextController(moved, 0).content("tags") == before.content("tags")
    (tmp_path / "renamed.yaml").write_text(
        "mine: {family: tags, text: 'Mention {phrases}.'}\n", encoding="utf-8"
    )
    after = TextController(moved, 0)
    assert after.content("tags") != before.content("tags")
    assert after.content("text") == before.content("text")
    assert after.content(None) == before.content(None)
