"""The text controller (3a): templates, what an instruction holds, and how replies are read."""

import json
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.control.schema import check_schema, problem
from ctrlsynth.control.templates import FAMILIES, Family, constraint, cut, text_template, text_templates
from ctrlsynth.control.text import Instruction, Parsed, TextController, reminder
from ctrlsynth.errors import UserError
from ctrlsynth.lang.phrases import holds
from ctrlsynth.recipe.schema import TextPolicy
from ctrlsynth.sample import Tags, model_seed
from helpers import assert_refused

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


def asked(
    row: str = "r",
    family: Family = "tags",
    tags: Tags | None = PARK,
    caption: str | None = None,
    **policy: Any,
) -> Instruction:
    return controller(**policy).instruct(row, family, tags, caption)


# --- templates as data
# ----------------------------------------------------------------------------------------------------------


def test_the_ten_templates_of_the_paper_are_quoted_with_their_section() -> None:
    known = text_templates()
    both = {"phrases", "caption"}
    assert Counter((t.source, t.section, t.family) for t in known.values()) == {
        ("paper", "A.1", "tags"): 5, ("paper", "A.1", "tags+text"): 5,
        ("ours", None, "text"): 4, ("ours", None, "concept"): 1,
    }  # fmt: skip
    paper = [t for t in known.values() if t.source == "paper"]
    assert all(t.placeholders == ({"phrases"} if t.family == "tags" else both) for t in paper)
    assert known["phrases-5"].text == (
        "Construct a comprehensive and expressive caption by integrating phrases that detail the entities, "
        "their features, and the spatial or thematic relationships in an image. Phrases: {phrases}."
    )
    assert known["faithful-2"].text == (
        "Write a faithful caption by integrating the given phrases with the original sentence. Given "
        "sentence: {caption}. Given phrases: {phrases}. Ensure any objects or specific nouns from the "
        "original caption are preserved while elaborating on the visual relationships and attributes "
        "provided in the phrases to create a more detailed depiction."
    )
    assert known["phrases-2"].note, "words that our copy lost are marked"
    assert known["faithful-1"].note


def test_the_constraint_of_figure_3_stands_behind_the_content() -> None:
    start = (
        "Create a detailed and high-quality caption using phrases that represent the entities or objects, "
        "their unique attributes, and the visual relationships in the scene depicted. Phrases: dog, sofa, "
        "brown dog, red sofa, dog on sofa."
    )
    papers = (
        " The caption should not contain any NSFW words. It should be grammatically correct. It should be "
        "concise, but not too short. Directly output the caption and do not add any formatting."
    )
    policies: dict[str, dict[str, Any]] = {
        papers: {}, "": {"constraint": ""},
        " Be brief. Write between 5 and 9 words.": {"constraint": "Be brief.", "words": (5, 9)},
    }  # fmt: skip
    for end, policy in policies.items():
        request = asked(templates=["phrases-1"], **policy).request
        assert (request.instruction, request.words) == (start + end, policy.get("words"))


def test_the_concept_template_asks_for_one_short_sentence() -> None:
    made = asked(family="concept", tags=None, caption="rocking chair")
    assert all(text in made.request.instruction for text in ("rocking chair", "15 words"))
    assert constraint()[0] not in made.request.instruction
    assert made.tags == Tags(("rocking chair",))
    assert asked(family="concept", tags=Tags(("axe",))).request.tags.objects == ("axe",)


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
    (tmp_path / "own.yaml").write_text(json.dumps({"mine": {"family": family, "text": text}}))
    with pytest.raises(UserError, match=f"own.yaml: mine: .*{message}"):
        controller(templates_file=tmp_path / "own.yaml")


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
        (None, "cannot read the templates"),
    ],
)
def test_a_wrong_template_file_says_what_is_wrong(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        controller(templates_file=path)


def test_own_templates_see_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "mine: {family: tags+text, text: '{{x}} {objects} | {attributes} | {relations} | {caption}'}"
    )
    caption = "Hi {objects} }{ {{}}"
    made = asked(family="tags+text", caption=caption, templates_file=path, templates=["mine"], constraint="")
    assert made.request.instruction == f"{{x}} dog, sofa | brown dog, red sofa | dog on sofa | {caption}"
    both = controller(templates_file=path)
    drawn = {both.instruct(f"r{i}", "tags+text", PARK, "Hi").template for i in range(200)}
    assert drawn == {made.template, *(f"faithful-{i}" for i in range(1, 6))}


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


def test_the_template_depends_on_the_row_alone_and_all_are_drawn_alike() -> None:
    one, other = controller(), controller(seed=1)
    rows = [f"p:{i}/tag/write.0" for i in range(2000)]
    drawn = {row: one.instruct(row, "tags", PARK, None).template for row in rows}
    counts = Counter(drawn.values())
    assert set(counts) == {f"phrases-{i}" for i in range(1, 6)}
    assert all(330 < n < 470 for n in counts.values())
    again = controller()
    assert {r: again.instruct(r, "tags", Tags(("x",)), None).template for r in reversed(rows)} == drawn
    assert {r: other.instruct(r, "tags", PARK, None).template for r in rows} != drawn
    assert one.instruct("p:1", "tags", PARK, None).request.seed == model_seed(0, "p:1")


def test_a_path_that_no_chosen_template_can_serve_is_an_error() -> None:
    some = controller(templates=["phrases-1", "rewrite-1"])
    assert some.families() == ("tags", "text")
    assert controller().families() == FAMILIES
    some.check("tags")
    calls: dict[str, Callable[[], object]] = {
        r"none of the chosen is of family 'tags\+text', .* e.g. 'faithful-1'": lambda: some.check(
            "tags+text"
        ),
        "none of the chosen": lambda: some.instruct("r", "concept", None, "dog"),
        "unknown template 'phrases1'; did you mean 'phrases-1'": lambda: controller(templates=["phrases1"]),
        "names no template": lambda: controller(templates=[]),
    }
    for message, call in calls.items():
        assert_refused(call, f"^text_policy.templates: {message}")


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
    assert asked("r", family, tags, caption).missing == missing


def test_edits_that_leave_nothing_leave_a_row_without_tags() -> None:
    made = asked(edits=[{"remove": {"objects": ["*"], "attributes": ["*"]}}])
    assert (made.missing, len(made.edits)) == ("no_tags", 5)


def test_each_family_carries_what_it_may_know() -> None:
    c = controller(edits=[{"remove": {"objects": ["sofa"]}}])
    tags = c.instruct("r", "tags", PARK, "Some words")
    assert tags.request.caption is None
    assert tags.request.tags == tags.tags == Tags(("dog",), ("brown dog",), (), (0.9,))
    assert not any(word in tags.request.instruction for word in ("Some words", "sofa"))
    text = c.instruct("r", "text", PARK, "Some words")
    assert (text.request.tags, text.edits) == (Tags(), ())
    assert "dog" not in text.request.instruction
    both = c.instruct("r", "tags+text", PARK, "Some words.").request.instruction
    assert "Some words. " in both  # one full stop, the template's
    assert c.edited("r", PARK) == (tags.tags, tags.edits)


def test_order_puts_first_what_matters() -> None:
    made = asked(order=["red", "animal.n.01"], templates=["phrases-1"])
    assert "Phrases: red sofa, dog, brown dog, dog on sofa, sofa." in made.request.instruction
    assert made.tags.attributes == ("red sofa", "brown dog")
    assert controller(order=["red sofa"]).edited("r", PARK)[0].attributes == ("red sofa", "brown dog")
    sofa = replace(PARK, objects=("sofa", "dog"), scores=(0.7, 0.9), attributes=("red sofa", "brown dog"))
    assert controller(order=["sofa"]).edited("r", PARK)[0] == sofa


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


@pytest.mark.parametrize(
    ("family", "caption", "told"),
    [
        ("tags+text", "Dogs on a red sofa.", "depiction. Leave out: dog. Write blue sofa in place of red sofa. The"),
        ("tags+text", "A hotdog and a sofa.", None),
        ("tags", "A dog.", None),
    ],
)  # fmt: skip
def test_a_writer_who_sees_the_caption_is_told_what_the_edits_took_away(
    family: Family, caption: str, told: str | None
) -> None:
    edits = [{"remove": {"objects": ["dog"]}}, {"replace": {"attributes": {"red": "blue"}}}]
    said = asked("r", family, PARK, caption, edits=edits, templates=["faithful-2", "phrases-1"])
    assert (
        (told or "Leave out") in said.request.instruction
        if told
        else "Leave out" not in said.request.instruction
    )


def replacing(**objects: str) -> dict[str, Any]:
    return {"replace": {"objects": objects}}


SWAPPED, REMOVED = {"swap": "attributes"}, {"remove": {"objects": ["dog"]}}
KEPT = [{"keep": ["objects"]}, {"sample": {"objects": 0.0}}]


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ([replacing(dog="cat", cat="dog")], " Write cat in place of dog. Write dog in place of cat."),
        ([replacing(dog="cat", cat="dog")] * 2, ""),
        ([replacing(dog="fox"), {"remove": {"objects": ["fox"]}}], " Leave out: dog."),
        ([replacing(dog="fox"), replacing(fox="owl")], " Write owl in place of dog."),
        ([replacing(dog="cat"), replacing(cat="fox")], " Write fox in place of cat. Write fox in place of dog."),
        ([{"add": {"objects": ["owl"]}}, SWAPPED], ""),
        (KEPT, ""),
    ],
)  # fmt: skip
def test_the_reminder_follows_a_phrase_through_all_edits(edits: list[dict[str, Any]], told: str) -> None:
    _, records = controller(edits=edits).edited("r", Tags(("dog", "cat"), ("brown dog",)))
    assert reminder("A brown dog and a cat on a sofa.", records) == told


DOGS = Tags(("dog",), ("brown dog",), ("dog on sofa",))
TURNED = (("brown dog", "red dog"), ("red sofa", "brown sofa"))


@pytest.mark.parametrize(
    ("edits", "gone", "instead"),
    [
        ([REMOVED], DOGS, ()),
        ([{"add": {"objects": ["owl"]}}], Tags(), ()),
        (KEPT, Tags(), ()),
        ([replacing(dog="cat")], DOGS, (("dog", "cat"), ("brown dog", "brown cat"))),
        ([replacing(dog="cat"), replacing(cat="fox")], None,
         (("cat", "fox"), ("brown cat", "brown fox"), ("dog", "fox"), ("brown dog", "brown fox"))),
        ([replacing(dog="cat"), {"remove": {"objects": ["cat"]}}], None, ()),
        ([SWAPPED], Tags((), PARK.attributes), TURNED),
        ([SWAPPED] * 2, Tags((), ("brown sofa", "red dog")), None),  # where the two stood in between
        ([{"swap": "relations"}], Tags((), (), ("dog on sofa",)), ()),
    ],
)  # fmt: skip
def test_a_request_carries_what_its_caption_must_not_say(
    edits: list[dict[str, Any]], gone: Tags | None, instead: tuple[tuple[str, str], ...] | None
) -> None:
    request = asked(family="tags+text", caption="A dog.", edits=edits).request
    assert gone is None or request.gone == gone
    assert instead is None or request.instead == instead


def test_other_attributes_of_a_swapped_object_have_nothing_in_their_place() -> None:
    many = Tags(("dog", "sofa"), ("brown dog", "old dog", "red sofa"))
    assert asked("r", "tags+text", many, "A dog.", edits=[SWAPPED]).request.instead == TURNED
    without = asked("r", "tags", PARK, "A dog.", edits=[REMOVED]).request
    assert (without.gone, without.instead) == (Tags(), ())


# --- replies
# --------------------------------------------------------------------------------------------------------------------


def test_plain_replies_lose_only_what_surrounds_them() -> None:
    c, ask = controller(), asked()
    replies = ["  A dog.\n", '"A dog."', "“A dog.”", '"Sit" and "stay"', 'A "dog"']
    assert [c.parse(r, ask).text for r in replies] == ["A dog."] * 3 + replies[3:]
    assert [c.parse(r, ask).reason for r in (" \n", '""')] == ["empty_reply"] * 2


@pytest.mark.parametrize(
    ("reply", "reason", "where"),
    [
        ("", "empty_reply", "empty"),
        ("A dog.", "bad_json", "line 1"),
        ('{"caption": "A dog."', "bad_json", "line 1"),
        ('{"caption": "A dog.", "count": NaN}', "bad_json", "NaN"),
        ("[" * 100_000, "bad_json", ""),
        ('{"title": "x"}', "schema_mismatch", "'caption' is a required property"),
        ('{"caption": "A"}', "schema_mismatch", "$.caption: 'A' is too short"),
        ('{"caption": "A dog.", "count": "two"}', "schema_mismatch", "$.count: 'two' is not of type 'integer'"),
        ('{"caption": "A dog.", "mood": "x"}', "schema_mismatch", "'mood' was unexpected"),
        ('{"caption": "    "}', "empty_reply", "$.caption"),
        ('["A dog."]', "schema_mismatch", "$: ['A dog.'] is not of type 'object'"),
    ],
    ids=range(11),
)  # fmt: skip
def test_a_json_reply_that_breaks_the_schema_has_a_reason(reply: str, reason: str, where: str) -> None:
    policy: Any = {"style": "json", "json_schema": SCHEMA, "caption_field": "caption"}
    got = controller(**policy).parse(reply, asked(**policy))
    assert (got.reason, got.text, got.fields) == (reason, "", None)
    assert where in got.problem


def test_json_replies_give_a_property_of_the_schema() -> None:
    c = controller(style="json", json_schema=SCHEMA, caption_field="caption")
    ask = c.instruct("r", "tags", PARK, None)
    assert ask.request.schema == SCHEMA
    assert "Directly output the caption" not in ask.request.instruction
    assert json.dumps(SCHEMA) in ask.request.instruction
    fields = {"caption": " A dog. ", "count": 2}
    assert c.parse(json.dumps(fields), ask) == Parsed("A dog.", fields)
    assert c.parse('```json\n{"caption": "A dog."}\n```', ask).text == "A dog."
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


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"style": "json", "json_schema": SCHEMA, "caption_field": "captoin"},
         "caption_field: unknown property of type string 'captoin'; did you mean 'caption'"),
        ({"words": (9, 3)}, "text_policy.words: least and most words"),
        ({"caption_field": "caption"}, "caption_field goes with style: json"),
        ({"style": "json", "json_schema": __file__}, r"test_text_controller.py: not JSON"),
    ],
)  # fmt: skip
def test_wrong_settings_name_their_keys(policy: dict[str, Any], message: str) -> None:
    assert_refused(lambda: controller(**policy), message)


def test_a_schema_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    assert controller(style="json", json_schema=str(tmp_path / "schema.json")).schema == SCHEMA


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

    def made(name: str, text: str) -> TextController:
        (tmp_path / name).write_text(f"mine: {{family: tags, text: '{text} {{phrases}}.'}}\n")
        return controller(templates=["mine", "rewrite-1"], templates_file=tmp_path / name)

    one, moved, other = made("a.yaml", "Use"), made("b.yaml", "Use"), made("c.yaml", "Mention")
    families: tuple[Family | None, ...] = ("tags", "text", None)
    assert [one.content(f) == moved.content(f) for f in families] == [True, True, True]
    assert [one.content(f) == other.content(f) for f in families] == [False, True, True]
