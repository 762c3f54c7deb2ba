"""`realizer` (2b): every tag is said, in sentences that agree; captions, edits, lengths and schemas."""

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.control.text import TextController
from ctrlsynth.lang.matching import rules as matching
from ctrlsynth.lang.words import singular
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import Request
from ctrlsynth.models.embedded.realizer.caption import held, in_line, shown, tidy
from ctrlsynth.models.embedded.realizer.scene import determiner, plan, predicate, reduced
from ctrlsynth.models.embedded.realizer.writer import Realizer, Unsupported, fill, leaves_out
from ctrlsynth.models.embedded.small_llm import grammar
from ctrlsynth.recipe.schema import TextPolicy
from ctrlsynth.sample import Tags
from helpers import FILES

WEB = [json.loads(line) for line in (FILES / "web_captions.jsonl").read_text("utf-8").splitlines()]
TAGS = [
    Tags(tuple(one["objects"]), tuple(one["attributes"]), tuple(one["relations"]))
    for one in WEB
    if one["objects"]
]
REALIZER = Realizer()


def say(
    tags: Tags,
    *,
    seed: int = 0,
    family: str = "tags",
    caption: str | None = None,
    words: tuple[int, int] | None = None,
) -> str:
    [reply] = REALIZER.generate([Request("", tags, caption, family, words=words, seed=seed)])
    assert (reply.error, reply.prompt_tokens) == (None, None)
    return reply.text


def lemmas(text: str) -> list[str]:
    return [singular(word) for word in re.findall(r"[a-z0-9'-]+", text.lower())]


def test_every_word_of_every_tag_is_said_and_nothing_else() -> None:
    """In the singular, in any frame; the other words are function words and the frames' own."""
    frame = set(
        """a an the and is are there we can see with also in of on to it scene seen up close together plain view someone that
        by has this""".split()
    )
    frame |= set(map(singular, frame))
    for seed, tags in itertools.product(range(40), TAGS):
        own = {word for phrase in tags.phrases() for word in lemmas(phrase)}
        assert own <= set(lemmas(say(tags, seed=seed))) <= own | frame, (tags, say(tags, seed=seed))


def test_the_judge_finds_the_tags() -> None:
    hits = [
        hit
        for seed in range(10)
        for tags in TAGS
        for hit in matching.in_text(tags.phrases(), say(tags, seed=seed), "lemma", tags.objects)
    ]
    assert sum(hits) / len(hits) > 0.97


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        (Tags(("dog", "sofa"), ("brown dog", "red sofa"), ("dog on sofa",)), "A brown dog is on a red sofa."),
        (Tags(("man", "horse"), (), ("man riding horse",)), "A man is riding a horse."),
        (Tags(("child", "ball"), ("two children",), ("children playing with ball",)), "Two children are " "playing with a ball."),
        (Tags(("dog", "ball"), ("three dogs", "brown dog"), ("dog chases ball",)), "Three brown dogs chase " "a ball."),
        (Tags(("dog", "ball"), (), ("dog has ball",)), "A dog has a ball."),
        (
            Tags(("woman", "hat", "scarf"), ("old woman",), ("woman wearing hat", "woman wearing scarf")),
            "An old woman is wearing a hat and a scarf.",
        ),
        (
            Tags(("man", "hat", "horse"), (), ("man wearing hat", "man riding horse")),
            "A man is wearing a hat, and the man is riding a horse.",
        ),
        (Tags(("man", "horse", "road"), (), ("man riding horse", "horse on road")), "A man is riding a " "horse on a road."),
        (Tags(("hat", "man"), (), ("wearing hat",)), "A man is wearing a hat."),
        (Tags(("hat",), (), ("wearing hat",)), "Someone is wearing a hat."),
        (Tags(("dog",), ("dog running",), ()), "A dog is running."),
        (Tags(("dog", "sofa"), ("red sofa",), ("dog on red sofa",)), "A dog is on a red sofa."),
        (Tags(("sunglasses", "table"), (), ("sunglasses on table",)), "Sunglasses are on a table."),
        (Tags(("book", "lamp", "desk"), (), ("book on desk", "lamp on desk")), "A book is on a desk, and a " "lamp is on the desk."),
        (Tags((), ("bright",), ()), "This is a bright scene."),
        (Tags(("snow", "sky"), ("blue sky",), ("snow under sky",)), "Snow is under a blue sky."),
        (Tags(("umbrella", "hour"), (), ("umbrella behind hour",)), "An umbrella is behind an hour."),
        (Tags(("dog", "tree"), ("bright", "tall tree")), "A dog and a tall tree are in plain view, in a bright scene."),
        (Tags(("dog", "tree"), ("bright", "tall tree")), "In a bright scene, there is a dog and a tall tree."),
    ],
)  # fmt: skip
def test_plain_frame(tags: Tags, wanted: str) -> None:
    assert wanted in {say(tags, seed=seed) for seed in range(200)}


def test_bare_attributes_and_objects_without_relation_have_eight_frames() -> None:
    tags = Tags(("dog", "tree"), ("bright", "tall tree"))
    assert len({say(tags, seed=seed) for seed in range(200)}) == 8


def test_the_same_request_says_the_same() -> None:
    many = [Request("", tags, seed=n) for n, tags in enumerate(TAGS)]
    assert (
        REALIZER.generate(many)
        == REALIZER.generate(many[::-1])[::-1]
        == models.load("realizer", "llm").generate(many)
    )


def test_caption_families() -> None:
    tags = Tags(("dog", "sofa", "lamp"), ("brown dog", "red sofa"), ("dog on sofa",))
    text = say(tags, family="tags+text", caption="A photo of a dog on a red sofa #cute")
    assert re.fullmatch(r"A dog on a red sofa\. (?=.*the brown dog)(?=.*a lamp).*", text)
    assert say(Tags(("dog",)), family="tags+text", caption="my dog") == "My dog."
    assert {say(Tags(), family="text", caption="two dogs run", seed=seed) for seed in range(40)} == {
        "Two dogs run.", "In plain view: two dogs run.", "Seen here: two dogs run.", "Here we have this: " "two dogs run.",
    }  # fmt: skip
    concepts = {say(Tags(("igloo",)), family="concept", seed=seed) for seed in range(60)}
    assert len(concepts) > 30
    assert all("an igloo" in text.lower() and len(text.split()) <= 15 for text in concepts)
    many = {say(Tags(("tigers",)), family="concept", seed=seed) for seed in range(2000)}
    assert {"Tigers sleep under a tall tree.", "Tigers lie in the snow."} <= many
    assert all(
        text.startswith("Justice ")
        for text in (say(Tags(("justice",)), family="concept", seed=s) for s in range(20))
    )


@pytest.mark.parametrize(
    ("caption", "tags", "gone", "instead", "wanted"),
    [
        ("A red dog is on a sofa", Tags(("cat",)), Tags(("dog",)), (("dog", "cat"),), "A red cat is on a sofa"),
        ("A dog is on a sofa", Tags(("owl",)), Tags(("dog",)), (("dog", "owl"),), "An owl is on a sofa"),
        ("Two dogs run", Tags(("cat",)), Tags(("dog",)), (("dog", "cat"),), "Two cats run"),
        ("A black cat runs", Tags(("moon",)), Tags(("cat",)), (("cat", "moon"), ("black cat", "black moon")), "A black moon runs"),
        ("A dog runs. There is also a cat", Tags(), Tags(("dog",)), (), "There is a cat"),
        ("A dog chases a cat", Tags(("dog", "cat")), Tags(), (("dog", "cat"), ("cat", "dog")), "A cat chases a dog"),
        ("A hat is on a bed", Tags(("sunglasses",)), Tags(("hat",)), (("hat", "sunglasses"),), "Sunglasses are on a bed"),
        ("A man wearing sunglasses", Tags(("hat",)), Tags(("sunglasses",)), (("sunglasses", "hat"),), "A man wearing a hat"),
        ("Her sunglasses", Tags(("hat",)), Tags(("sunglasses",)), (("sunglasses", "hat"),), "Her hat"),
        ("A big red ball", Tags(("ball",)), Tags((), ("big ball",)), (("big ball", "old ball"),), "An old red ball"),
        ("A red ball", Tags(("ball",)), Tags((), ("red ball",)), (), "A ball"),
        ("An orange and white ball", Tags(("ball",)), Tags((), ("orange ball",)), (), "A white ball"),
        ("A white and red ball", Tags(("ball",)), Tags((), ("red ball",)), (), "A white ball"),
        ("A lamp and red ball", Tags(("ball",)), Tags((), ("red ball",)), (), "A lamp and ball"),
        ("A shiny, red ball", Tags(("ball",)), Tags((), ("red ball",)), (), "A shiny ball"),
        ("The ball is red. It rolls", Tags(("ball",)), Tags((), ("red ball",)), (), "It rolls"),
        ("A hot dog", Tags(), Tags(("dog",)), (("dog", "cat"),), "A hot dog"),
        ("A man with a dog in a park", Tags(), Tags(("dog",)), (), "A man in a park"),
        ("A ball in front of a dog with a hat", Tags(), Tags(("dog",)), (), "A ball"),
        ("A picture on a wall of a man smoking a pipe", Tags(), Tags(("man",)), (), "A picture on a wall"),
        ("A cat by a sleeping dog", Tags(), Tags(("dog",)), (), "A cat"),
        ("View of a couple holding hands", Tags(), Tags(("hand",)), (), ""),
        ("A cat, a dog, and a bird", Tags(), Tags(("dog",)), (), "A cat, and a bird"),
        ("A cat and a dog", Tags(), Tags(("dog",)), (), "A cat"),
        ("A dog is on a sofa", Tags(), Tags(("dog",)), (), ""),
        ("A dog is on a sofa", Tags(), Tags(("sofa",)), (), ""),
        ("A dog sleeps, and a lamp is on a desk", Tags(), Tags(("dog",)), (), "A lamp is on a desk"),
        ("A dog sleeps on a sofa", Tags(("dog", "sofa")), Tags((), (), ("dog on sofa",)), (), ""),
        ("A photo of a cat #nap", Tags(), Tags(("dog",)), (("dog", "cat"),), "a cat"),
    ],
)  # fmt: skip
def test_a_caption_in_line_with_the_edits(
    caption: str, tags: Tags, gone: Tags, instead: tuple[tuple[str, str], ...], wanted: str
) -> None:
    request = Request("", tags, caption, "tags+text", gone=gone, instead=instead)
    assert (shown(request), held(request, wanted)) == (wanted, 0)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_odd_captions_and_phrases_are_survived(data: st.DataObject) -> None:
    """Whatever they hold, nothing is raised, and what is left names nothing that was removed.

    Phrases over the end of a sentence are in the next test.
    """
    word = st.sampled_from(
        [
            "dog",
            "Dogs",
            "a",
            "an",
            "red",
            "on",
            "is",
            "and",
            ",",
            ".",
            "hot dog",
            "with",
            "(",
            "\\1",
            "[a-z",
            "ſ",
            "İ",
            "🐶",
            "while",
        ]
    )
    phrase = st.lists(word, min_size=1, max_size=3).map(" ".join).filter(lambda words: ". " not in words)
    gone = Tags(*(tuple(data.draw(st.lists(phrase, max_size=2, unique=True))) for _ in range(2)))  # type: ignore[arg-type]
    instead = tuple(data.draw(st.lists(st.tuples(phrase, phrase), max_size=2)))
    request = Request("", Tags(("dog",)), None, "tags+text", gone=gone, instead=instead)
    caption = data.draw(st.lists(word, max_size=12).map(" ".join))
    left = in_line(caption, request)
    assert held(request, left) == 0
    if not held(request, caption) and not instead:
        assert left == caption


@pytest.mark.xfail(strict=True, reason="in_line keeps a phrase that spans the end of a sentence, since 0.1.0")
def test_known_fault_a_phrase_over_the_end_of_a_sentence_stays() -> None:
    request = Request("", Tags(("dog",)), None, "tags+text", gone=Tags((), (". dog",)))
    assert held(request, in_line(". dog", request)) == 0


def test_what_the_edits_took_away_is_not_said() -> None:
    """Removed and replaced objects of real captions' tags: the text says none of them, and all that the tags
    still hold."""
    asked = 0
    for edit in ("remove", "replace"):
        for n, tags in enumerate(TAGS):
            name = tags.objects[n % len(tags.objects)]
            change: Any = {"objects": {name: "bucket"}} if edit == "replace" else {"objects": [name]}
            made = TextController(TextPolicy.model_validate({"edits": [{edit: change}]}), 0)
            request = made.instruct(
                str(n), "tags+text", tags, WEB[n].get("caption") or say(tags, seed=n)
            ).request
            if not request.tags.phrases():
                continue
            [reply] = REALIZER.generate([request])
            asked += 1
            assert held(request, reply.text) == 0, (request, reply.text)
    assert asked > 40


def test_rows_that_fail() -> None:
    requests = [
        Request(""),
        Request("", caption="!!! ...", family="text"),
        Request("", family="concept"),
        Request("", Tags(("dog",)), schema={"type": "array"}),
    ]
    wanted = ["no_content"] * 3 + ["schema_unsupported"]
    assert [reply.error for reply in REALIZER.generate(requests)] == wanted


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("A photo of a dog.", "a dog"),
        ("THE RED BARN", "the red barn"),
        ("dog on beach | stock photo", "dog on beach"),
        ("nice #sunset http://x.y/z.jpg", "nice"),
        ("#sunset #beach", "sunset beach"),
        ("a 🐶 {dog} \n\t runs!!!", "a 🐶 {dog} runs"),
    ],
)
def test_tidy(caption: str, wanted: str) -> None:
    assert tidy(caption) == wanted


SOFA = Tags(("dog", "sofa", "lamp"), ("brown dog", "red sofa"), ("dog on sofa",))


@pytest.mark.parametrize(
    ("text", "tags", "wanted"),
    [
        ("two dogs on a red sofa", SOFA, Tags(("dog", "lamp"), ("brown dog",))),
        ("brown dogs on red sofas, lamps", SOFA, Tags()),
        (
            "A gift is in front of a red biplane.",
            Tags(("gift", "biplane"), ("red gift",), ("gift in front of biplane",)),
            Tags(("gift",), ("red gift",)),
        ),
        # the matcher sees no soda in it, in our own words either
        ("An orange soda.", Tags(("soda",), ("orange soda",)), Tags()),
        ("A hot dog.", Tags(("dog",)), Tags(("dog",))),
    ],
)
def test_leaves_out_keeps_the_objects_that_it_speaks_of(text: str, tags: Tags, wanted: Tags) -> None:
    assert leaves_out(text, tags) == wanted


def test_words_are_honoured() -> None:
    tags = Tags(("dog", "sofa", "lamp", "table"), ("brown dog", "red sofa"), ("dog on sofa",))
    for seed in range(30):
        assert len(say(tags, seed=seed, words=(3, 8)).split()) <= 8
        assert 20 <= len(say(tags, seed=seed, words=(20, 40)).split()) <= 40
    assert len(say(Tags(), family="text", caption="word " * 100, words=(5, 10)).split()) == 10


def test_schemas() -> None:
    tags = Tags(("dog",), ("brown dog",))
    text = {"type": "string"}
    phrases = {"type": "array", "items": text}
    one = {"type": "object", "properties": {"title": text, "caption": text}, "required": ["caption"]}
    two = {"properties": {"description": text, "objects": phrases}, "required": ["description"]}
    assert [json.loads(fill(schema, "A dog.", tags)) for schema in (one, two)] == [
        {"caption": "A dog."},
        {"description": "A dog.", "objects": ["dog"]},
    ]
    for schema in (
        {
            "properties": {"caption": text, "mood": {"type": "string", "enum": ["gay", "sad"]}},
            "required": ["caption", "mood"],
        },
        {"properties": {"count": {"type": "integer"}}, "required": ["count"]},
        {"type": "array", "items": text},
    ):
        with pytest.raises(Unsupported):
            fill(schema, "A dog.", tags)


@pytest.mark.parametrize(
    ("noun", "many", "modifier", "wanted"),
    [
        ("dog", False, None, "a"), ("dog", False, "old", "an"), ("dog", True, None, ""), ("snow", False, None, ""),
        ("sky", False, None, "the"), ("sky", False, "blue", "a"), ("Eiffel Tower", False, None, "the"),
    ],
)  # fmt: skip
def test_determiners(noun: str, many: bool, modifier: str | None, wanted: str) -> None:
    assert determiner(noun, many, modifier) == wanted


def test_predicates() -> None:
    words = ("on", "riding", "parked on", "chases", "has")
    plural = ["are on", "are riding", "are parked on", "chase", "have"]
    assert [predicate(one, True) for one in words] == plural
    assert predicate("across", False) == "is across"
    assert (reduced("chases"), reduced("parked on")) == (None, "parked on")


def test_odd_tags_are_survived() -> None:
    odd = [
        Tags(('say "hi" \\ there', "{braces}", "東京", "🐶"), ("red 東京",), ("🐶 on 東京",)),
        Tags(
            ("dog", "dog house"), ("red dog house", "dog dog"), ("dog dog house", "dog in dog house", "dog")
        ),
        Tags(("a",), ("a a",), ("a a a",)),
        Tags((), (), ("visible in the distance",)),
        Tags(("dog",), (), ("dog on dog", "on dog", "dog on")),
    ]
    for tags, seed in itertools.product(odd, range(20)):
        text = say(tags, seed=seed)
        assert text.endswith(".")
        assert "  " not in text
    for tags in TAGS + odd[:1]:
        bound = grammar.sentence(plan(tags))
        assert bound.startswith("root ::= ")
        assert all(grammar.quote(n.full())[1:-1].lower() in bound.lower() for n in plan(tags).nouns)
