"""2a by taggers made of other models: `extract` (a language model; the grammar allows nothing but the caption's
spans, replies are read strictly, phrases become Tags) and `hybrid` (joins real taggers, in order, without
repeats, with their scores)."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import skimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ctrlsynth.api.run import run
from ctrlsynth.errors import UserError
from ctrlsynth.lang.replies import LINES, LISTS_SCHEMA, named_lists, named_lists_json
from ctrlsynth.lang.words import singular
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText, Reply, Request
from ctrlsynth.models.embedded.small_llm.grammar import MAX_WORDS, extraction, words_of
from ctrlsynth.models.taggers.extract import ExtractTagger, instruction, normalise
from ctrlsynth.models.taggers.hybrid import HybridTagger, join
from ctrlsynth.sample import Tags
from helpers import FILES, assert_fails, assert_refused, recipe, write_captions

CAPTIONS = [json.loads(line) for line in (FILES / "web_captions.jsonl").read_text("utf-8").splitlines()]


class Fixed:
    """A language model with given replies: what another backend might say."""

    id = digest = "fixed"
    replies: tuple[Reply, ...] = ()
    asked: Sequence[Request] = ()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        Fixed.asked = requests
        return list(Fixed.replies)


@pytest.fixture(scope="module")
def smollm2() -> Iterator[ExtractTagger]:
    built = models.load({"extract": "smollm2"}, "tagger")
    yield built
    built.close()


def tagger(*replies: Reply, mode: str = "lines") -> ExtractTagger:
    Fixed.replies = replies
    return ExtractTagger(f"{__name__}:Fixed", mode=mode)


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
        there, named = (
            {singular(word) for word in re.findall(r"[^\W_]+", " ".join(phrases).lower())}
            for phrases in ([text], tags.phrases())
        )
        assert named <= there


def test_other_models_are_held_to_the_caption_too() -> None:
    reply = "attributes: brown dog, purple hat\nobjects: dog, hat, sofa\nrelations: dog sleeping on the sofa"
    built = tagger(Reply(reply), Reply("objects: dog"), Reply("", error="prompt_too_long"))
    good, bad, long = built.tag([ImageAndText(None, "The brown dog sleeping on the sofa")] * 3)
    wanted = Tags(("dog", "sofa"), ("brown dog",), ("dog sleeping on sofa",))
    assert (good, good.dropped) == (wanted, 2)  # purple hat, hat
    assert (bad, long) == (Tags(error="not_three_lines"), Tags(error="prompt_too_long"))
    assert Fixed.asked[0].family == "extract"
    assert Fixed.asked[0].instruction == instruction("The brown dog sleeping on the sofa")


def test_a_reply_as_json() -> None:
    reply = '{"objects": ["dog", "cat"], "attributes": ["Brown dog."], "relations": []}'
    built = tagger(Reply(reply), Reply("objects: dog"), mode="json")
    good, bad = built.tag([ImageAndText(None, "the brown dog")] * 2)
    assert (good, good.dropped, bad) == (Tags(("dog",), ("brown dog",)), 1, Tags(error="bad_json"))
    asked = Fixed.asked[0]
    assert asked.schema == LISTS_SCHEMA
    objects = [json.loads(line) for line in asked.instruction.splitlines() if line.startswith("{")]
    assert [set(o) for o in objects] == [set(LINES)] * 3  # the format and the paper's two examples
    assert "white cowboy hat" in objects[1]["attributes"]
    assert "three lines" not in asked.instruction
    assert asked.instruction.endswith("caption: the brown dog")
    assert_refused(partial(tagger, mode="jsn"), "unknown mode 'jsn'; did you mean 'json'")


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
    reasons = [(row["status"], row["reason"]) for row in made.rows("tag")]
    assert reasons == [("failed", "not_three_lines"), ("ok", None), ("failed", "empty_reply")]
    ledger = next(row for row in made.ledger() if row.folder == "tag")
    assert (ledger.ok, ledger.failed) == (1, {"not_three_lines": 1, "empty_reply": 1})


def test_too_few_replies_are_an_error() -> None:
    assert_fails(partial(tagger().tag, [ImageAndText(None, "a dog")]), "wrong_number", "0 replies for 1")
    assert_refused(ExtractTagger, "extract: smollm2")
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
    named = zip(("objects", "attributes", "relations"), (objects, attributes, relations), strict=True)
    assert normalise({kind: phrases.split(", ") for kind, phrases in named}, caption) == wanted


def test_the_grammars_phrases_are_spans() -> None:
    """By hand: every run of up to five words between marks is what the grammar may name at most."""
    for caption in [
        "A brown dog, asleep on the red sofa. Nice!",
        "one",
        "the of a",
        'say "hi" \\ there',
        "word " * 500,
    ]:
        grammar = extraction(caption)
        spans = {
            " ".join(run[i:j])
            for run in words_of(caption)
            for i in range(len(run))
            for j in range(i + 1, min(i + 5, len(run)) + 1)
        }
        literals = {text[1:] for text in re.findall(r'"((?:[^"\\]|\\.)*)"', grammar) if text.startswith(" ")}
        assert literals <= spans
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
    pairs = [(set(tags.objects), set(one["objects"])) for tags, one in zip(found, some, strict=True)]
    hits = sum(len(named & labelled) for named, labelled in pairs)
    totals = [sum(len(objects) for objects in of) for of in zip(*pairs, strict=True)]
    assert hits / max(totals) > 0.5, (hits, totals)


COFFEE = Path(skimage.__file__).parent / "data/coffee.png"
ECHO = f"{__name__}:Echo"
PIXELS = {"imagenet": "lite0", "threads": 1}


class Echo:
    """A caption reader of the tests: every word is an object, without scores; `bad` fails its row. Loses the
    first `lost` answers of a batch."""

    id, digest = "echo", "echo-1"
    reads: ClassVar[Literal["pixels", "caption", "both"]] = "caption"

    def __init__(self, model: str = "", batch: int = 64, lost: int = 0) -> None:
        self.caption, self.batch, self.lost, self.closed = model or None, batch, lost, False

    def close(self) -> None:
        self.closed = True

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        found = [Tags(tuple((item.text or "").split()), caption=self.caption) for item in items]
        return [Tags(error="unreadable") if tags.objects == ("bad",) else tags for tags in found][self.lost :]


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
    assert (both.objects[0], both.objects.count("espresso")) == ("espresso", 1)
    assert {"spoon", "cup"} <= set(both.objects)
    assert 0.5 < both.scores[0] < 1  # the network's own number, although the caption names it too
    assert both.scores[both.objects.index("spoon")] == 1.0
    assert "dog" in only_text.objects
    assert "espresso" in only_image.objects
    assert hybrid.reads == "both"
    assert hybrid.id.startswith("hybrid(imagenet:lite0+")


@pytest.mark.parametrize(
    ("members", "reads"),
    [
        ([PIXELS], "pixels"),
        ([PIXELS, PIXELS], "pixels"),
        ([ECHO, ECHO], "caption"),
        ([PIXELS, ECHO], "both"),
        ([{"hybrid": [PIXELS, ECHO]}, PIXELS], "both"),
    ],
)
def test_it_reads_what_its_members_read(members: list[Any], reads: str) -> None:
    assert HybridTagger(members).reads == reads


def test_the_digest_follows_the_members() -> None:
    orders = [
        [PIXELS, ECHO],
        [ECHO, PIXELS],
        [PIXELS],
        [{**PIXELS, "cutoff": 0.5}, ECHO],
        ["imagenet", "wordnet"],
    ]
    digests = [HybridTagger(order).digest for order in (*orders, orders[0])]
    assert len(set(digests)) == 5
    assert digests[5] == digests[0]
    assert models.load("hybrid:imagenet+wordnet", "tagger").digest == digests[4]


def test_the_smallest_batch_holds_and_close_reaches_the_members() -> None:
    hybrid = HybridTagger([{ECHO: "a", "batch": 8}, {ECHO: "b", "batch": 16}, PIXELS])
    assert hybrid.batch == 8
    hybrid.close()
    assert [getattr(tagger, "closed", None) for tagger in hybrid.parts] == [True, True, None]
    assert hybrid.tag([ImageAndText(None, "sun moon")])[0].objects == ("sun", "moon")


@pytest.mark.parametrize("model", [None, [], "", {"imagenet": 1}, 3, [PIXELS, "wordnett"]])
def test_without_a_list_of_taggers_it_is_one_line(model: Any) -> None:
    named = r"hybrid\[1\].*did you mean 'wordnet'" if model == [PIXELS, "wordnett"] else "hybrid"
    assert_refused(partial(HybridTagger, model), named)


def test_all_that_its_members_lack_is_told_at_once() -> None:
    captioner = {"captioner": "nobody/captions", "extract": {"transformers": "nobody/extracts"}}
    with pytest.raises(UserError) as caught:
        HybridTagger([{"classifier": "nobody/labels"}, captioner])
    named = re.findall(r"^.* nobody/(\w+) is not on this machine.*$", str(caught.value), flags=re.M)
    assert named == ["labels", "captions", "extracts"]
    assert len(str(caught.value).splitlines()) == 3


def test_a_member_that_loses_a_row_fails_the_batch() -> None:
    losing = HybridTagger([ECHO, {ECHO: "", "lost": 1}])
    two = [ImageAndText(None, "a"), ImageAndText(None, "b")]
    assert_fails(partial(losing.tag, two), "wrong_number", "gave 1 answers for 2")


def test_the_first_caption_and_every_kind() -> None:
    joined = join(
        [
            Tags(("dog",), ("red",), (), (0.4,), dropped=2),
            Tags(("ball", "Dog"), ("red ball", "Red"), ("dog on ball",), (), "first"),
            Tags(("cat",), (), ("dog on ball", "cat under ball"), (0.9,), "second", dropped=1),
        ]
    )
    assert joined.dropped == 3
    assert joined == Tags(
        ("dog", "ball", "cat"), ("red", "red ball"), ("dog on ball", "cat under ball"), (0.4, 1.0, 0.9),
        "first"
    )  # fmt: skip
    assert (join([Tags(("dog",)), Tags(("cat",))]).scores, join([Tags(), Tags()])) == ((), Tags())


words = st.lists(st.sampled_from(["dog", "Dog", "cat", "red ball", "sun"]), max_size=4, unique=True)


@st.composite
def tags(draw: st.DrawFn) -> Tags:
    objects, attributes, relations = (tuple(draw(words)) for _ in range(3))
    scores = tuple(draw(st.floats(0, 1)) for _ in objects) if draw(st.booleans()) else ()
    return Tags(objects, attributes, relations, scores)


@given(st.lists(tags(), min_size=1, max_size=4))
def test_join_against_the_slow_rule(parts: list[Tags]) -> None:
    joined = join(parts)
    for kind in ("objects", "attributes", "relations"):
        named = [phrase for part in parts for phrase in getattr(part, kind)]
        lower = [phrase.lower() for phrase in named]
        slow = [phrase for n, phrase in enumerate(named) if phrase.lower() not in lower[:n]]
        assert getattr(joined, kind) == tuple(slow)
    scored = [(name.lower(), score) for p in parts for name, score in zip(p.objects, p.scores, strict=False)]
    best = {name: max(s for n, s in scored if n == name) for name, _ in scored}
    wanted = tuple(best.get(name.lower(), 1.0) for name in joined.objects)
    assert joined.scores == (wanted if scored else ())


class Fails(Echo):
    """Its preflight has something to say."""

    def check(self) -> None:
        raise UserError("models.tagger: no key")

    def content_digest(self) -> str:
        return "whole"


def test_a_row_preflight_and_full_hash_fail_or_change_with_one_member() -> None:
    hybrid, sound = HybridTagger([ECHO, f"{__name__}:Fails"]), HybridTagger([ECHO, ECHO])
    good, bad = hybrid.tag([ImageAndText(None, "dog"), ImageAndText(None, "bad")])
    assert (good, bad) == (Tags(("dog",)), Tags(error="unreadable"))
    sound.check()
    assert_refused(hybrid.check, "no key")
    assert hybrid.content_digest() != sound.content_digest()
