"""The judge's matchers: examples, a slow reading of the rules beside the fast one, kinds, violations,
speed."""

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.errors import UserError
from ctrlsynth.lang import wordnet
from ctrlsynth.lang.matching import rules as matching
from ctrlsynth.lang.matching.phrases import compiled, names, thing
from ctrlsynth.lang.nouns import multiword, noun_form
from ctrlsynth.lang.phrases import split_attribute, split_relation
from ctrlsynth.lang.words import singular
from ctrlsynth.sample import Tags

OBJECTS = (
    "dog",
    "ball",
    "soccer ball",
    "hot dog",
    "sofa",
    "woman",
    "tennis ball",
    "house",
    "hat",
    "cow",
    "wine",
)


def held(phrase: str, text: str, matcher: str = "lemma") -> bool:
    return matching.in_text([phrase], text, matcher, OBJECTS)[0]


@pytest.mark.parametrize(
    ("phrase", "text", "expected"),
    [
        ("dog", "Two Dogs!", True),
        ("cow", "a cowboy", False),
        ("dog", "a hot dog", False),
        ("hot dog", "three hot dogs", True),
        ("hot dog", "a hot brown dog", False),
        ("dog", "a dog house", False),
        ("ball", "a tennis ball", True),  # a kind of ball
        ("dog", "the dog's bed", True),
        ("woman", "old women", True),
        ("red ball", "a red soccer ball", True),
        ("red ball", "red and white balls", True),
        ("red ball", "a red box and a ball", False),
        ("red ball", "a red hat, the ball", False),
        ("red ball", "the ball is red", True),
        ("red ball", "the balls are very big and red", False),  # three words between
        ("red ball", "the balls are big and red", True),
        ("red ball", "the ball looks red", True),
        ("red ball", "the ball is on a red sofa", False),
        ("red ball", "the ball is new. A red sofa", False),
        ("smiling woman", "a woman smiling", True),
        ("smiling woman", "the woman smiles", True),
        ("smiling woman", "the woman is smiling", True),
        ("two dogs", "2 dogs", True),
        ("two dogs", "two brown dogs", True),
        ("two dogs", "three dogs", False),
        ("dog on sofa", "a dog sits on the green sofa", True),
        ("dog on sofa", "a sofa on a dog", False),
        ("dog on sofa", "a dog on top of a sofa", True),
        ("woman with hat", "a woman with a ball, two dogs and a red hat", True),
        ("woman with ball", "a woman in a red hat is playing with a ball", True),
        ("woman with hat", "a woman with a dog near a hat", False),
        ("dog on sofa", "a dog on the hat near a sofa", False),
        ("dog on sofa", "A dog. On the sofa", False),
        ("dog sitting on sofa", "dogs sit quietly on a big old sofa", True),
        ("dog sitting on sofa", "a dog on a sofa", False),
        ("wearing hat", "she wears a funny hat", True),
        ("woman wearing hat", "a woman with a hat", False),
        # a new sentence, and a new clause with a subject of its own
        ("brown dog", "A white dog. There is also a brown ball.", False),
        ("brown dog", "A white dog and there is a brown ball", False),
        ("brown dog", "A dog, which is brown", True),
        ("brown dog", "A dog that is brown", True),
        ("brown dog", "The dog sitting there is brown", False),
        ("red ball", "The hat is red and a ball is white", False),
        ("red ball", "The hat is white and red. A ball", False),
        ("cow in front of house", "A house is in front of a cow, and a hat is in front of the house.", False),
        ("hat in front of house", "A house is in front of a cow, and a hat is in front of the house.", True),
        (
            "cow in front of house",
            "A house stands in front of a cow, a hat lies in front of the house.",
            False,
        ),
        ("dog on sofa", "A dog, a cow and a hat are on a sofa", True),
        ("dog on sofa", "A dog is on a hat and a cow is on a sofa", False),
        ("dog on sofa", "A dog is on a hat and sits near a sofa", False),
        ("dog near sofa", "A dog is on a hat and sits near a sofa", True),
        ("hat on sofa", "A dog is on a hat while a cow sits on a sofa", False),
        ("woman with ball", "A woman with a hat and a ball is near a house", True),
        ("woman with ball", "A woman is with a dog and a ball is near a house", False),
        ("red", "a reddish hat", False),
        ("red", "the red hat", True),
        ("🙂", "a dog 🙂", True),
        ("🙂", "a dog", False),
    ],
)
def test_lemma(phrase: str, text: str, expected: bool) -> None:
    assert held(phrase, text) is expected


@pytest.mark.parametrize(
    ("text", "objects", "attribute", "expected"),
    [
        ("An orange soda.", ["soda"], "orange soda", (True, True)),
        ("An orange soda.", ["soda"], "cold soda", (True, False)),  # a colour describes
        ("A red pine tree.", ["pine tree"], "red pine tree", (True, True)),
        ("A black cat.", ["cat"], "black cat", (True, True)),
        ("A chocolate cake.", ["cake"], "chocolate cake", (True, True)),
        ("A white sheep.", ["sheep"], "white sheep", (True, True)),
        ("A full moon.", ["moon"], "bright moon", (True, False)),
        ("Three hot dogs.", ["dog"], "hot dog", (True, True)),  # the row says so
        ("Three hot dogs.", ["dog"], "hot", (False, True)),
        ("Three hot dogs.", ["dog", "hot dog"], "big dog", (False, False)),
        ("A dog house.", ["dog"], "house dog", (False, False)),
    ],
)
def test_a_compound_hides_no_object_of_the_row(
    text: str, objects: list[str], attribute: str, expected: tuple[bool, bool]
) -> None:
    hits = matching.in_text([objects[0], attribute], text, "lemma", objects)
    assert tuple(hits) == expected
    tags = matching.in_tags(Tags((objects[0],), (attribute,)), Tags((text.lower().strip("."),)), "lemma")
    assert (objects[0] in tags[0]) is expected[0]


def test_substring_and_wordnet() -> None:
    pairs = [("cow", "a COWBOY"), ("red  ball", "A Red\n ball"), ("two dogs", "two brown dogs")]
    assert [held(p, text, "substring") for p, text in pairs] == [True, True, False]
    near = ["a puppy", "some animal", "a carnivore"]
    others = ["a cat", "some entity", "a hot dog"]  # an entity is an ancestor, but too far
    assert [held("dog", text, "wordnet") for text in near + others] == [True] * 3 + [False] * 3
    assert not any(held("dog", text) for text in near)
    assert held("red sofa", "a red couch", "wordnet")
    assert held("dog on sofa", "the puppy sleeps on a couch", "wordnet")
    with pytest.raises(UserError, match="did you mean 'lemma'"):
        matching.in_text(["dog"], "a dog", "lema")


# ---- the rules read slowly
# -------------------------------------------------------------------------------------------------------


class Slow:
    """The docstring of `matching.py` as a reader would follow it: every place of every part is tried."""

    def __init__(self, text: str, own: str = "") -> None:
        """`own`: an attribute of the row, modifier first."""
        self.own = own.split()
        for mark in ",.":
            text = text.replace(mark, f" {mark} ")
        self.words = [w for w in text.lower().split() if w not in ("a", "an", "the")]
        for i in range(len(self.words) - 1, 0, -1):
            if self.words[i : i + 2] == ["top", "of"] and self.words[i - 1] in (
                "on",
                "with",
                "near",
                "is",
                "or",
                "of",
            ):
                del self.words[i : i + 2]
        self.size = len(self.words)
        self.compounds: list[tuple[int, int, str]] = []
        i = 0
        while i < self.size:
            found = [
                (i, j, lemma)
                for j in range(min(i + 5, self.size), i + 1, -1)
                if (lemma := multiword(" ".join(self.words[i:j]), False))
            ]
            self.compounds += found[:1]
            i = found[0][1] if found else i + 1

    def finite(self, i: int) -> bool:
        """`is`, `are`, and words in -s that are rather verbs than plurals."""
        word = self.words[i]
        if word in ("is", "are"):
            return True
        base = wordnet.morphy(word, "v")
        if self.closed(word) or base is None or base + "s" != word:
            return False
        return wordnet.count(base, "v") >= max(5, 2 * wordnet.count(noun_form(word) or base, "n"))

    def apart(self, begin: int, end: int) -> bool:
        """Whether a clause begins in words[begin:end]: there is a joiner, the last before a noun, a verb
        comes before it in the sentence and the next verb after that noun."""
        joiners = [i for i in range(self.size) if self.words[i] in (",", "and", "or")]
        nouns = [i for i in range(self.size) if self.words[i] in SUBJECTS]
        verbs = [i for i in range(self.size) if self.finite(i)]
        for v in verbs:
            start = max((i for i in range(v) if self.words[i] == "." or i in verbs), default=-1)
            if start < 0 or self.words[start] == ".":
                continue  # the first verb of its sentence
            inside = [j for j in joiners if start < j < v]
            heads = [n for n in nouns if start < n < v and any(j < n for j in inside)]
            if not heads:
                continue
            # joiners with no noun between them are one, which begins at the first
            last = [
                j
                for j in inside
                if j < heads[-1] and not any(k < j and not any(k < n < j for n in nouns) for k in inside)
            ]
            after = [j for j in inside if j > heads[-1] and any(j < n for n in heads)]
            trailing = any(j > heads[-1] for j in inside)
            if not after and not trailing and begin <= last[-1] < end:
                return True
        return False

    @staticmethod
    def noun(word: str) -> str:
        numbers = {"two": "2", "three": "3"}
        return numbers.get(word) or (word if Slow.closed(word) else noun_form(word) or singular(word))

    @staticmethod
    def verb(word: str) -> str:
        closed = "be" if word in ("is", "are") else word
        return closed if Slow.closed(word) else wordnet.morphy(word, "v") or Slow.noun(word)

    @staticmethod
    def closed(word: str) -> bool:
        return word in ("of", "on", "with", "near", "and", "or", "is", "are", ",", ".")

    def same(self, a: str, b: str) -> bool:
        return self.noun(a) == self.noun(b) or self.verb(a) == self.verb(b)

    @staticmethod
    def kind_of(compound: str, name: str) -> bool:
        """Below the first sense of the name, or below one that makes up more than a twentieth of its use."""
        meaning = wordnet.first_sense(compound)
        counts = wordnet.sense_counts(name, "n")
        first, *rest = wordnet.synsets(name, "n")
        used = [
            first,
            *(s for s, n in zip(rest, counts[1:], strict=True) if n > sum(counts) / 20 or sum(counts) < 5),
        ]
        return meaning is not None and any(wordnet.is_a(meaning, s) for s in used)

    def objects(self, name: str) -> list[tuple[int, int]]:
        """A compound's last words count only when the compound is a kind of what they name."""
        want = [self.noun(w) for w in name.split()]
        places = []
        for a, b in product(range(self.size + 1), repeat=2):
            if [self.noun(w) for w in self.words[a:b]] != want or a >= b:
                continue
            clash = [c for c in self.compounds if a < c[1] and c[0] < b and not (a <= c[0] and c[1] <= b)]
            own = name.split() == self.own[1:]
            if all(
                (b == c[1] and self.kind_of(c[2], name))
                or (a == c[0] + 1 and self.words[c[0]] in ("red", "white", "big", "two"))
                or (
                    own
                    and any(
                        [self.noun(w) for w in self.words[c[0] : c[1]]] == self.own[i:j]
                        for i in (0, 1)
                        for j in (2, 3)
                    )
                )
                for c in clash
            ):
                places.append((a, b))
        return places

    def attribute(self, modifier: str, name: str) -> bool:
        for begin, end in self.objects(name):
            for m in range(self.size):
                if not self.same(modifier, self.words[m]):
                    continue
                gap = self.words[m + 1 : begin]
                if (
                    m < begin
                    and len(gap) <= 2
                    and all(
                        not self.closed(w) or (i == 0 and w in ("and", "or", ",")) for i, w in enumerate(gap)
                    )
                    and not self.apart(m + 1, begin)
                ):
                    return True
                for v in range(end, min(end + 3, m)):
                    inner = self.words[v + 1 : m]
                    links = (
                        self.verb(self.words[v]) in ("be", "look")
                        and len(inner) <= 2
                        and not self.apart(end, m)
                    )
                    links = links and not {",", ".", "there"} & set(self.words[end:v])
                    if links and all(not self.closed(w) or w in ("and", "or", ",") for w in inner):
                        return True
                if m == end and self.verb(modifier) not in (modifier, self.noun(modifier)):
                    return True
        return False

    def relation(self, subject: str | None, predicate: list[str], name: str | None) -> bool:
        starts = self.objects(subject) if subject else [None]
        ends = self.objects(name) if name else [None]
        for s, o in product(starts, ends):
            for places in product(range(self.size), repeat=len(predicate)):
                if not all(self.same(p, self.words[i]) for p, i in zip(predicate, places, strict=True)):
                    continue
                if not all(1 <= j - i <= 2 for i, j in pairwise(places)):
                    continue
                before = self.words[s[1] : places[0]] if s else []
                after = self.words[places[-1] + 1 : o[0]] if o else []
                ordered = (s is None or s[1] <= places[0]) and (o is None or places[-1] < o[0])
                members = " ".join(after).replace("and", ",").split(",")
                leads = len(after) <= 12 and all(
                    len(m.split()) <= 3 and not any(self.closed(w) for w in m.split()) for m in members
                )
                whole = not self.apart(s[1] if s else places[0], o[0] if o else places[-1] + 1)
                if ordered and len(before) <= 5 and "." not in before and leads and whole:
                    return True
        return False


WORDS = (
    "a dog dogs red white ball balls soccer hot tennis big on near and , . is looks sits sitting woman "
    "smiling smiles sofa house two with "
    "top of"
).split()
SUBJECTS = {
    w for w in WORDS if w in "dog dogs ball balls soccer tennis smiles smiling woman sofa house top".split()
}
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)
noun_phrases = st.tuples(
    st.sampled_from(["", "red", "big white", "hot", "two"]), st.sampled_from(["dog", "ball", "woman", "sofa"])
)
clauses = st.tuples(
    noun_phrases.map(" ".join), st.sampled_from(["is", "is on", "sits near", "near", "looks", "are big",
    "with", ", and"]),
    st.sampled_from(["red", "dog", "big sofa", "ball", "sitting", ""]), st.sampled_from(["and", ",", ", and",
    ".", ""]),
).map(" ".join)  # fmt: skip
texts = st.one_of(words, st.lists(clauses, min_size=1, max_size=3)).map(" ".join)


@settings(max_examples=500, deadline=None)
@given(texts)
def test_objects_against_the_slow_reading(text: str) -> None:
    slow = Slow(text)
    assert {o: held(o, text) for o in OBJECTS} == {o: bool(slow.objects(o)) for o in OBJECTS}


@settings(max_examples=700, deadline=None)
@given(texts, st.sampled_from(["red", "white", "big", "smiling", "two"]), st.sampled_from(OBJECTS[:7]))
def test_attributes_against_the_slow_reading(text: str, modifier: str, name: str) -> None:
    assert held(f"{modifier} {name}", text) == Slow(text).attribute(modifier, name)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from("a hot soccer dog dogs ball house red".split()), min_size=1, max_size=6).map(
        " ".join
    )
)
def test_a_row_that_binds_a_compound_apart_against_the_slow_reading(text: str) -> None:
    slow = Slow(text, "hot dog")
    hits = matching.in_text(["dog", "hot dog", "ball"], text, "lemma", ["dog", "ball"])
    assert hits == [bool(slow.objects("dog")), slow.attribute("hot", "dog"), bool(slow.objects("ball"))]


@settings(max_examples=700, deadline=None)
@given(
    texts,
    st.sampled_from(["dog", "woman", "hot dog", "ball", None]),
    st.sampled_from(["on", "near", "sitting on", "sits near", "with"]),
    st.sampled_from(["sofa", "ball", "dog", None]),
)
def test_relations_against_the_slow_reading(
    text: str, subject: str | None, predicate: str, name: str | None
) -> None:
    if subject == name or (subject is None and name is None):
        return
    phrase = " ".join(p for p in (subject, predicate, name) if p)
    assert held(phrase, text) == Slow(text).relation(subject, predicate.split(), name)


PARTS = st.lists(
    st.sampled_from([*OBJECTS, "dogs", "red", "on", "sitting", "wearing", "glasses"]), min_size=1, max_size=4
).map(" ".join)


@settings(max_examples=500, deadline=None)
@given(PARTS, st.lists(st.sampled_from([*OBJECTS, "red ball", "glasses"]), max_size=5, unique=True))
def test_phrases_are_split_as_everywhere(phrase: str, objects: list[str]) -> None:
    ready = compiled(phrase, names(objects))
    subject, middle, end = split_relation(phrase, objects)
    modifier, bound = split_attribute(phrase, objects)
    words = {
        "subject": ready.subject,
        "middle": " ".join(k.low for k in ready.middle),
        "object": ready.object,
    }
    if phrase in objects:
        assert ready.kind == "object"
    elif subject is not None and middle:
        assert (ready.kind, words) == (
            "relation",
            {"subject": thing(subject), "middle": middle, "object": end and thing(end)},
        )
    elif bound is not None:
        assert ready.kind in ("attribute", "relation")
        assert words == {"subject": None, "middle": modifier, "object": thing(bound)}
    else:
        assert (ready.kind, words["middle"]) == ("words", phrase)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_the_wordnet_matcher_finds_whatever_lemma_finds(text: str) -> None:
    phrases = [*OBJECTS, "red ball", "smiling woman", "two dogs", "dog on sofa", "dog sitting near ball"]
    narrow, wide = (matching.in_text(phrases, text, matcher, OBJECTS) for matcher in ("lemma", "wordnet"))
    assert all(w or not n for n, w in zip(narrow, wide, strict=True))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.text(max_size=20), st.sampled_from(matching.MATCHERS))
def test_any_text_is_read(text: str, phrase: str, matcher: str) -> None:
    assert (
        matching.in_text([phrase, "dog"], text, matcher, [phrase])[1]
        == matching.in_text(["dog"], text, matcher, ["dog"])[0]
    )


# ---- tags
# ------------------------------------------------------------------------------------------------------------------------


def test_tags_are_compared_kind_with_kind() -> None:
    reference = Tags(
        ("dog", "ball", "sofa"), ("red ball", "green", "two dogs"), ("dog on sofa", "dog near ball")
    )
    found = Tags(
        ("dog", "red"), ("red tennis ball", "two brown dogs", "green hat"), ("dog sitting on old sofa",)
    )
    assert matching.in_tags(reference, found, "lemma") == (
        ("dog", "red ball", "green", "two dogs", "dog on sofa"),
        ("ball", "sofa", "dog near ball"),
    )


@pytest.mark.parametrize(
    ("reference", "found", "matcher", "missed"),
    [
        (Tags(("dog", "sofa"), ("red ball",)), Tags(("beagle", "couch"), ("red ball",)), "lemma", ("dog", "sofa")),
        (Tags(("dog", "sofa"), ("red ball",)), Tags(("beagle", "couch"), ("red ball",)), "wordnet", ()),
        (Tags(("cow",)), Tags(("cowboy",)), "substring", ()),
        # the end of one phrase and the beginning of the next are no phrase
        (Tags(("hot dog",)), Tags(("hot", "dog")), "lemma", ("hot dog",)),
        (Tags(("hot dog",)), Tags(("hot", "dog")), "substring", ("hot dog",)),
        # a bare attribute is a modifier, not the thing
        (Tags((), ("orange",)), Tags(("orange",), ("ripe orange",)), "lemma", ("orange",)),
        (Tags((), ("orange",)), Tags(("cat",), ("orange cat",)), "lemma", ()),
        (Tags(("dog",), ("red",)), Tags(), "lemma", ("dog", "red")),
        (Tags(), Tags(("dog",)), "wordnet", ()),
    ],
)  # fmt: skip
def test_tags_by_every_matcher(reference: Tags, found: Tags, matcher: str, missed: tuple[str, ...]) -> None:
    have = tuple(p for p in reference.phrases() if p not in missed)
    assert matching.in_tags(reference, found, matcher) == (have, missed)


def test_removed_phrases_that_come_back() -> None:
    removed = ["watermark", "red ball", "dog on sofa", "hot dog"]
    text = "A ball that is red. A dog lies on a sofa"
    assert matching.violations_in_text(removed, text, "lemma", ["ball"]) == ("red ball", "dog on sofa")
    assert matching.violations_in_text([*removed, "dog"], "hot dogs", "lemma") == ("hot dog",)
    found = Tags(("dog", "Watermarks"), ("red ball",))
    assert matching.violations_in_tags(removed, found, "lemma") == ("watermark", "red ball")
    assert matching.violations_in_tags([], found, "lemma") == ()


HUGE = [
    "dog house red ball " * 25_000,
    "red " * 100_000,
    "x" * 100_000,
    "." * 100_000,
    "犬" * 100_000,
    "dog\t\x00\n" * 9_000,
]


@pytest.mark.parametrize("text", HUGE, ids=range(len(HUGE)))
@pytest.mark.parametrize("matcher", matching.MATCHERS)
def test_a_huge_text(text: str, matcher: str) -> None:
    hits = matching.in_text(["dog", "red ball", "dog on sofa", "red red red"], text, matcher, OBJECTS)
    assert hits[2] is False


def test_an_object_that_is_an_article_is_no_end_of_a_phrase() -> None:
    assert matching.in_text(["dog a"], "a dog is here", "lemma", ["a"]) == [True]
    assert matching.in_text(["a on dog"], "a cat is here", "lemma", ["a", "dog"]) == [False]
    assert matching.in_text(["a"], "a dog is here") == matching.in_text(["a"], "a cat", "lemma", ["a"])
