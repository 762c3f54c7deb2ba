"""2a by a language model: the grammar allows nothing but the caption's spans, replies are read strictly,
phrases become Tags."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ctrlsynth.api.run import run
from ctrlsynth.errors import ModelError, UserError
from ctrlsynth.lang.replies import LINES, LISTS_SCHEMA, named_lists, named_lists_json
from ctrlsynth.lang.words import singular
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText, Reply, Request
from ctrlsynth.models.embedded.small_llm.grammar import MAX_WORDS, extraction, words_of
from ctrlsynth.models.taggers.extract import ExtractTagger, instruction, normalise
from ctrlsynth.sample import Tags
from helpers import FILES, recipe, write_captions

CAPTIONS = [json.loads(line) for line in (FILES / "web_captions.jsonl").read_text("utf-8").splitlines()]


class Fixed:
    """A language model with given replies: what another backend might say."""

    id = "fixed"
    digest = "fixed"
    replies: tuple[Reply, ...] = ()
    asked: tuple[Request, ...] = ()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        Fixed.asked = tuple(requests)
        return list(Fixed.replies)


@pytest.fixture(scope="module")
def smollm2() -> Iterator[ExtractTagger]:
    built = models.load({"extract": "smollm2"}, "tagger")
    yield built
    built.close()


def tagger(*replies: Reply) -> ExtractTagger:
    Fixed.replies = replies
    return ExtractTagger(f"{__name__}:Fixed")


def test_the_instruction_is_the_papers_around_the_caption() -> None:
    text = instruction("A {caption} in {braces}")
    assert text.startswith("For a given image caption, identify all the attributes, objects or entities")
    assert text.endswith("caption: A {caption} in {braces}")
    assert text.count("\nrelations: ") == 3  # the format and two examples
    assert "#" not in text


def test_smollm2_says_only_spans_of_the_caption(smollm2: ExtractTagger) -> None:
    texts = [
        "A brown dog is sleeping on a red sofa",
        "",
        "Two kids playing soccer in the park",
        "🙂 !!",
        'quote " back\\slash, résumé 東京 tower',
    ]
    first = smollm2.tag([ImageAndText(None, text) for text in texts])
    again = smollm2.tag([ImageAndText(None, text) for text in texts[::-1]])[::-1]
    assert first == again
    assert all(tags.error is None for tags in first)
    assert first[1] == first[3] == Tags()
    assert {"dog", "sofa"} <= set(first[0].objects)
    assert "brown dog" in first[0].attributes
    for text, tags in zip(texts, first, strict=True):
        there = {singular(word) for word in re.findall(r"[^\W_]+", text.lower())}
        assert {
            singular(word) for phrase in tags.phrases() for word in re.findall(r"[^\W_]+", phrase)
        } <= there


def test_other_models_are_held_to_the_caption_too() -> None:
    reply = "attributes: brown dog, purple hat\nobjects: dog, hat, sofa\nrelations: dog sleeping on the sofa"
    built = tagger(Reply(reply), Reply("objects: dog"), Reply("", error="prompt_too_long"))
    good, bad, long = built.tag([ImageAndText(None, "The brown dog sleeping on the sofa")] * 3)
    assert good == Tags(("dog", "sofa"), ("brown dog",), ("dog sleeping on sofa",))
    assert good.dropped == 2  # purple hat, hat
    assert (bad, long) == (Tags(error="not_three_lines"), Tags(error="prompt_too_long"))
    assert Fixed.asked[0].family == "extract"
    assert Fixed.asked[0].instruction == instruction("The brown dog sleeping on the sofa")


def test_a_reply_as_json() -> None:
    Fixed.replies = (
        Reply('{"objects": ["dog", "cat"], "attributes": ["Brown dog."], "relations": []}'),
        Reply("objects: dog"),
    )
    good, bad = ExtractTagger(f"{__name__}:Fixed", mode="json").tag([ImageAndText(None, "the brown dog")] * 2)
    assert (good, good.dropped, bad) == (Tags(("dog",), ("brown dog",)), 1, Tags(error="bad_json"))
    asked = Fixed.asked[0]
    assert asked.schema == LISTS_SCHEMA
    objects = [json.loads(line) for line in asked.instruction.splitlines() if line.startswith("{")]
    assert [set(o) for o in objects] == [set(LINES)] * 3  # the format and the paper's two examples
    assert "white cowboy hat" in objects[1]["attributes"]
    assert "three lines" not in asked.instruction
    assert asked.instruction.endswith("caption: the brown dog")
    with pytest.raises(UserError, match="unknown mode 'jsn'; did you mean 'json'"):
        ExtractTagger(f"{__name__}:Fixed", mode="jsn")


def test_rows_fail_alone_with_their_reason(tmp_path: Path) -> None:
    """In a run: the row whose reply is none has failed, the ledger names why, and the others are there."""
    write_captions(tmp_path / "captions.jsonl", 3)
    Fixed.replies = (
        Reply("I cannot."),
        Reply("objects: cat\nattributes: red cat\nrelations:"),
        Reply("", error="empty_reply"),
    )
    made = run(
        recipe(tmp_path, models={"tagger": {"extract": f"{__name__}:Fixed"}, "llm": "realizer"}),
        tmp_path / "run",
        base=tmp_path,
    )
    assert [(row["status"], row["reason"]) for row in made.rows("tag")][::2] == [
        ("failed", "not_three_lines"),
        ("failed", "empty_reply"),
    ]
    ledger = next(row for row in made.ledger() if row.folder == "tag")
    assert (ledger.ok, ledger.failed) == (1, {"not_three_lines": 1, "empty_reply": 1})


def test_too_few_replies_are_an_error() -> None:
    with pytest.raises(ModelError, match="0 replies for 1"):
        tagger().tag([ImageAndText(None, "a dog")])
    with pytest.raises(UserError, match="extract: smollm2"):
        ExtractTagger()
    assert tagger().tag([ImageAndText(None, None)]) == [Tags()]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "attributes: a b\nobjects: b, c.\n\nrelations:",
            {"attributes": ["a b"], "objects": ["b", "c"], "relations": [""]},
        ),
        ("Objects: b\nattributes:\nRelations: x", {"objects": ["b"], "attributes": [""], "relations": ["x"]}),
        ("attributes: a\nobjects: b", None),
        ("attributes: a\nobjects: b\nobjects: c\nrelations:", None),
        (
            "1. **Objects:** b, c\n2. **Attributes**: `a b`\n3. Relations: x",
            {"attributes": ["a b"], "objects": ["b", "c"], "relations": ["x"]},
        ),
        (
            '- objects: 1. b, 2) c\n* relations:\n• attributes: "a"',
            {"attributes": ["a"], "objects": ["b", "c"], "relations": [""]},
        ),
        (
            "objects:\n- b\n- c, d\nattributes:\n\n1. a\nrelations: x",
            {"attributes": ["", "a"], "objects": ["", "b", "c", "d"], "relations": ["x"]},
        ),
        (
            "```\nattributes: a\nobjects: b\nrelations: c\n```",
            {"attributes": ["a"], "objects": ["b"], "relations": ["c"]},
        ),
        ("objects: b\n- c\nattributes: a\nrelations:", None),
        ("objects: b\nand more\nattributes: a\nrelations:", None),
        ("colours: red\nattributes: a\nobjects: b\nrelations: c", None),
        ("Here you are:\nattributes: a\nobjects: b\nrelations: c", None),
        ("", None),
        (
            '{"objects": ["b"], "attributes": ["a b"], "relations": []}',
            {"attributes": ["a b"], "objects": ["b"], "relations": []},
        ),
        (
            '```json\n{"objects": [], "attributes": [], "relations": ["x"]}\n```',
            {"attributes": [], "objects": [], "relations": ["x"]},
        ),
        ('{"objects": ["b"], "attributes": ["a b"]}', None),
        ('{"objects": ["b"], "attributes": [], "relations": [], "more": []}', None),
        ('{"objects": "b", "attributes": [], "relations": []}', None),
        ('{"objects": [1], "attributes": [], "relations": []}', None),
        ('["b"]', None),
        ("{", None),
    ],
)
def test_three_lists_and_nothing_else(text: str, wanted: dict[str, list[str]] | None) -> None:
    """As lines, and where the text begins as JSON does, as an object."""
    read = named_lists_json if re.match(r"[{\[]|```json", text) else named_lists
    assert read(text) == wanted


@pytest.mark.parametrize(
    ("caption", "objects", "attributes", "relations", "wanted"),
    [
        ("Two children near an old wooden house", "children, house", "Two children, old wooden house",
        "children near an " "old wooden house",
         Tags(("child", "house"), ("two children", "old house", "wooden house"), ("child near house",))),
        ("The brown dog", "brown dog", "brown dog", "", Tags(("dog",), ("brown dog",))),
        ("A plate of pasta", "plate, pasta", "plate of pasta", "plate of pasta", Tags(("plate", "pasta"), (),
        ("plate of pasta",))),
        ("A woman wearing a hat", "hat", "", "wearing a hat", Tags(("hat",), (), ("wearing hat",))),
        ("A cat in the park", "cat, park, dog", "", "cat is in the park, in the park", Tags(("cat", "park"))),
    ],
)  # fmt: skip
def test_phrases_become_tags(
    caption: str, objects: str, attributes: str, relations: str, wanted: Tags
) -> None:
    lines = {
        "objects": objects.split(", "),
        "attributes": attributes.split(", "),
        "relations": relations.split(", "),
    }
    assert normalise(lines, caption) == wanted


def spans_by_hand(caption: str) -> set[str]:
    """Every run of up to five words between marks: what the grammar may name at most."""
    return {
        " ".join(run[i:j])
        for run in words_of(caption)
        for i in range(len(run))
        for j in range(i + 1, min(i + 5, len(run)) + 1)
    }


def test_the_grammars_phrases_are_spans() -> None:
    for caption in [
        "A brown dog, asleep on the red sofa. Nice!",
        "one",
        "the of a",
        'say "hi" \\ there',
        "word " * 500,
    ]:
        grammar = extraction(caption)
        literals = {text for text in re.findall(r'"((?:[^"\\]|\\.)*)"', grammar) if text.startswith(" ")}
        assert {text[1:] for text in literals} <= spans_by_hand(caption)
        assert len(literals) <= 12 * MAX_WORDS
        names = set(re.findall(r"^(\w+) ::=", grammar, flags=re.M))
        used = set(re.findall(r"\b([klm][aor]\d*)\b", re.sub(r'"(?:[^"\\]|\\.)*"', "", grammar)))
        assert used <= names  # no rule without a definition, so nothing dead-ends
    assert '" brown dog"' in extraction("A brown dog")
    assert '" dog asleep"' not in extraction("A dog, asleep")


def test_smollm2_finds_most_objects_of_web_captions(smollm2: ExtractTagger) -> None:
    """A small model: far behind the `wordnet` tagger; the floor is what it reaches with room for another
    build of llama.cpp."""
    some = CAPTIONS[::12]
    found = smollm2.tag([ImageAndText(None, one["caption"]) for one in some])
    hits = sum(len(set(tags.objects) & set(one["objects"])) for tags, one in zip(found, some, strict=True))
    named, labelled = sum(len(tags.objects) for tags in found), sum(len(one["objects"]) for one in some)
    assert min(hits / named, hits / labelled) > 0.5, (hits, named, labelled)
