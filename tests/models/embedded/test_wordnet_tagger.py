"""The `wordnet` tagger: hand-labelled captions, examples of each rule, invariants on any text."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.lang import wordnet
from ctrlsynth.lang.phrases import split_attribute, split_relation
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText
from ctrlsynth.models.embedded.wordnet.lexicon import progressive
from ctrlsynth.models.embedded.wordnet.tagger import WordNetTagger, mine
from ctrlsynth.models.embedded.wordnet.tokens import MAX_WORDS
from ctrlsynth.sample import KINDS, Tags
from helpers import FILES

# How the captions were labelled: objects are the visible things that a caption names, singular; a compound
# that an English speaker takes as one thing is one object, another noun before a noun is its attribute;
# possessors, the picture itself, times, cities and persons by name are none. Attributes are modifiers with
# their object (`red ball`), counts with the plural; evaluations (best, free) are none. Relations: subject,
# predicate (verbs in -ing), object. Labels were written before looking at any output.


def labelled(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FILES / name).read_text(encoding="utf-8").splitlines()]


def precision_and_recall(rows: list[dict[str, Any]], kind: str) -> tuple[float, float]:
    """Phrases counted over all captions, without regard to case."""
    pairs = [
        ({p.lower() for p in row[kind]}, {p.lower() for p in getattr(mine(row["caption"]), kind)})
        for row in rows
    ]
    right = sum(len(want & have) for want, have in pairs)
    return right / sum(len(have) for _, have in pairs), right / sum(len(want) for want, _ in pairs)


def test_the_labelled_captions_are_a_hundred_and_differ() -> None:
    rows = labelled("web_captions.jsonl")
    assert len({row["caption"] for row in rows}) == 100
    for row in rows:
        assert set(row) == {"caption", *KINDS}
        for relation in row["relations"]:
            subject, middle, end = split_relation(relation, row["objects"])
            assert all((subject, middle, end)), relation


@pytest.mark.parametrize(
    "name", ["web_captions.jsonl", "web_captions_second.jsonl", "web_captions_heldout.jsonl"]
)
def test_precision_and_recall(name: str) -> None:
    rows = labelled(name)
    assert min(precision_and_recall(rows, "objects")) >= 0.85
    assert min(precision_and_recall(rows, "attributes")) >= 0.75


FUNCTION_WORDS = (
    "a an the in at it he be who can will as or no so us i me my am is are was do does did has have may "
    "might must shall on off out up "
    "down by to of for and but if not nor than then this that these those we you she they his her its our "
    "their what which when where "
    "how why while some any all each both few more most other such only own same too very just now here "
    "there with from into over under "
    "again once about against between through during before after above below an ok pm oh"
).split()


def test_function_words_never_become_objects() -> None:
    assert all(wordnet.synsets(word, "n") for word in ("in", "he", "a", "as"))  # WordNet has them as nouns
    for word in FUNCTION_WORDS:
        own = wordnet.morphy(word + "s", "n") == word + "s"  # `ass`, `afters`: nouns of their own
        plural = word if own else word + "s"
        for caption in (
            word,
            word.upper(),
            f"the {word} is here",
            f"{word} {word} {word}",
            f"a dog {word} a cat",
            f"two {plural}",
        ):
            assert set(mine(caption).objects) <= {"dog", "cat"}, (word, caption)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red soccer ball", Tags(("soccer ball",), ("red soccer ball",))),
        ("Two dogs", Tags(("dog",), ("two dogs",))),
        ("dogs, cats and geese", Tags(("dog", "cat", "goose"))),
        ("The ball is red", Tags(("ball",), ("red ball",))),
        ("A smiling woman", Tags(("woman",), ("smiling woman",))),
        ("The cat is sleeping", Tags(("cat",), ("sleeping cat",))),
        ("A man rides a horse", Tags(("man", "horse"), (), ("man riding horse",))),
        ("A man riding a horse", Tags(("man", "horse"), (), ("man riding horse",))),
        (
            "A dog and a cat sit on a sofa",
            Tags(("dog", "cat", "sofa"), (), ("dog sitting on sofa", "cat sitting on sofa")),
        ),
        (
            "a cat in front of a white house",
            Tags(("cat", "house"), ("white house",), ("cat in front of house",)),
        ),
        ("a cat to the left of a tree", Tags(("cat", "tree"), (), ("cat left of tree",))),
        ("a brown bear", Tags(("bear",), ("brown bear",))),
        ("a hot dog", Tags(("hot dog",))),
        ("fresh ice cream without nuts", Tags(("ice cream",), ("fresh ice cream",))),
        ("a red panda", Tags(("red panda",))),
        ("an orange", Tags(("orange",))),
        ("an orange cat", Tags(("cat",), ("orange cat",))),
        ("The Eiffel Tower", Tags(("Eiffel Tower",))),
        ("photo of a dog, stock image", Tags(("dog",))),
        ("#GoldenRetriever #beach", Tags(("golden retriever", "beach"))),
        ("IMG_2041.JPG", Tags()),
        ("https://example.com/dog.html", Tags()),
        ("red", Tags((), ("red",))),
    ],
)
def test_rules(caption: str, expected: Tags) -> None:
    assert mine(caption) == expected


def test_the_tagger_as_a_model() -> None:
    tagger = models.load("wordnet", "tagger")
    assert (type(tagger), tagger.id, tagger.reads) == (WordNetTagger, "wordnet", "caption")
    assert wordnet.digest() in tagger.digest
    items = [ImageAndText(None, text) for text in ("a dog", None, "", " \n\t", "a cat")]
    assert tagger.tag(items) == [Tags(("dog",)), Tags(), Tags(), Tags(), Tags(("cat",))]
    assert tagger.tag([]) == []


WORDS = (
    "a the dog cats red two sitting sits on and , . of with her Paris hot ball is without can 7 running "
    "photo #sunset no glasses, woman's"
).split()


def check(tags: Tags) -> None:
    """What every answer fulfils: no repeats, no blanks; ends of relations and attributes are among the
    objects."""
    for kind in KINDS:
        phrases = getattr(tags, kind)
        assert len(set(phrases)) == len(phrases)
        assert all(p == " ".join(p.split()) and p for p in phrases)
    for attribute in tags.attributes:
        assert split_attribute(attribute, tags.objects)[1] is not None or not tags.objects
    for relation in tags.relations:
        subject, middle, end = split_relation(relation, tags.objects)
        assert all((subject, middle, end)), relation


@settings(max_examples=800, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join) | st.text(max_size=120))
def test_any_text_gives_consistent_tags(caption: str) -> None:
    check(mine(caption))


ODD = [
    "\x00\x01\x1b[31mdog\x7f", "كلب أحمر على الأريكة", "🐶" * 5000, "{{dog}} {cat} \"ball\" 'sofa'", "ﬁsh",
    "a\u200bdog",
    "\ud800 dog", "x" * 100_000,
    "@" * 100_000, "<" * 100_000, "a" * 64 + "@" + "b" * 100_000, "-" * 100_000, "#" * 100_000,
    "dog-" * 25_000, "'" * 100_000, "www." * 25_000,
    "a dog and " * 10_000, "of the " * 14_000, "犬" * 100_000, "&amp;" * 20_000,
]  # fmt: skip


@pytest.mark.parametrize("caption", ODD, ids=range(len(ODD)))
def test_odd_and_huge_captions_are_read(caption: str) -> None:
    check(mine(caption))


def test_only_the_first_words_are_read() -> None:
    assert "zebra" in mine("of " * (MAX_WORDS - 1) + "zebra").objects
    assert mine("of " * MAX_WORDS + "zebra") == Tags()


def test_progressive_forms() -> None:
    verbs = map(progressive, "sit ride lie run see play walk stop".split())
    assert [*verbs] == "sitting riding lying running seeing playing walking stopping".split()
