"""Edits and selectors (3a): each beside a slow rule that anybody can check by eye, and what must hold for any
tags."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ctrlsynth.control.edits import EditRecord, compile_edits
from ctrlsynth.control.select import Selectors, members
from ctrlsynth.errors import UserError
from ctrlsynth.lang import wordnet
from ctrlsynth.lang.words import plural, singular
from ctrlsynth.recipe.schema import Edit
from ctrlsynth.sample import KINDS, Kind, Tags, unique

OBJECTS = ["dog", "cat", "ball", "soccer ball", "sofa", "red car", "car", "glass", "person", "sofa bed"]
MODIFIERS = ["red", "blue", "big red", "two", "brown", "glass", "old wooden"]
PREDICATES = ["on", "next to", "in front of", "holding", "with ball on"]
PARK = Tags(
    ("dog", "soccer ball", "sofa"),
    ("brown dog", "big red soccer ball", "two dogs", "bright"),
    ("dog on sofa", "dogs with soccer ball", "wearing hat"),
    (0.9, 0.8, 0.7),
    "a caption",
)


def edit(
    tags: Tags, *edits: dict[str, Any], row: str = "part:a/tag/write.0", seed: int = 0
) -> tuple[Tags, tuple[EditRecord, ...]]:
    return compile_edits([Edit.model_validate(e) for e in edits]).apply(tags, seed, row)


@st.composite
def tags(draw: st.DrawFn) -> Tags:
    objects = draw(st.lists(st.sampled_from(OBJECTS), max_size=5, unique=True))
    some = st.sampled_from([*OBJECTS, *(plural(o) for o in OBJECTS)])
    attributes = draw(
        st.lists(
            st.one_of(st.sampled_from(MODIFIERS), st.tuples(st.sampled_from(MODIFIERS), some).map(" ".join)),
            max_size=6,
        )
    )
    relations = draw(st.lists(st.tuples(some, st.sampled_from(PREDICATES), some).map(" ".join), max_size=4))
    halves = draw(st.lists(st.tuples(st.sampled_from(["wearing", "near"]), some).map(" ".join), max_size=2))
    scores = tuple(draw(st.floats(0, 1, width=16)) for _ in objects) if draw(st.booleans()) else ()
    return Tags(tuple(objects), unique(attributes), unique([*relations, *halves]), scores)


chosen = st.lists(st.sampled_from([*OBJECTS, "dogs", "people"]), min_size=1, max_size=3, unique=True)


# --- the slow rules
# -------------------------------------------------------------------------------------------------------------


def matches(phrase: str, selectors: Sequence[str]) -> bool:
    return any(phrase.lower() in (s.lower(), plural(s.lower()), singular(s.lower())) for s in selectors)


def ending(phrase: str, objects: Sequence[str]) -> tuple[str, str] | None:
    """The longest object that a phrase ends with, and the form in which it stands there."""
    hits = [(o, form) for o in objects for form in (o, plural(o)) if phrase.endswith(" " + form)]
    return max(hits, key=lambda hit: len(hit[0]), default=None)


def words_inside(phrase: str) -> list[str]:
    words = phrase.split()
    return [" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]


def slow_removed(tags: Tags, selectors: Sequence[str]) -> tuple[list[str], list[str]]:
    """Objects and attributes that are left."""
    attributes = []
    for a in tags.attributes:
        bound, words = ending(a, tags.objects), a.split()
        tails = [bound[0]] if bound else [" ".join(words[i:]) for i in range(1, len(words))]
        if not any(matches(tail, selectors) for tail in tails):
            attributes.append(a)
    return [o for o in tags.objects if not matches(o, selectors)], attributes


# --- remove
# ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(tags(), chosen)
def test_remove_objects_as_the_slow_rule(given_tags: Tags, selectors: list[str]) -> None:
    out, records = edit(given_tags, {"remove": {"objects": selectors}})
    left = [r for r in given_tags.relations if r in out.relations]
    assert (list(out.objects), list(out.attributes)) == slow_removed(given_tags, selectors)
    assert list(out.relations) == left
    assert set(records) == {
        EditRecord(0, "remove", kind, p, None)
        for kind in KINDS
        for p in getattr(given_tags, kind)
        if p not in getattr(out, kind)
    }
    assert len(out.scores) == (len(out.objects) if given_tags.scores else 0)
    assert edit(out, {"remove": {"objects": selectors}})[0] == out  # once is enough
    gone = [o for o in given_tags.objects if o not in out.objects]
    for inside, o in product(map(words_inside, left), gone):
        longer = [x for x in given_tags.objects if o in x and x != o]  # `sofa bed` does not name the sofa
        named = o in inside or plural(o) in inside
        assert not named or any(x in inside or plural(x) in inside for x in longer)


MARKS = Tags(
    ("dog", "Watermark", "stock marks"),
    ("faint watermark", "blueish dog", "big blue dog"),
    ("dog on watermark",),
)
BEDS = Tags(
    ("dog", "sofa", "sofa bed", "ball"),
    ("old sofa bed", "old sofa"),
    ("dog with sofa bed near ball", "dog with sofa near ball"),
)
ODD = Tags(("[a]", "b", "x.y", "xzy"))
REDS = Tags(("ball",), ("big red ball", "red", "dark red ball"))
LAMP = Tags(("lamp", "table"), (), ("lamp on a table", "table near lamp"))


def removed(kind: Kind, selector: str) -> dict[str, Any]:
    return {"remove": {kind: [selector]}}


def replaced(kind: Kind, old: str, new: str) -> dict[str, Any]:
    return {"replace": {kind: {old: new}}}


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (MARKS, removed("objects", "*mark"), [["dog"], ["blueish dog", "big blue dog"], []]),
        (MARKS, removed("attributes", "re:^blu"), [..., ["faint watermark"], ...]),
        (MARKS, removed("attributes", "blue"), [..., ["faint watermark", "blueish dog"], ...]),
        (MARKS, removed("attributes", "blue*"), [..., ["faint watermark"], ...]),
        (MARKS, removed("attributes", "?lue"), [..., ["faint watermark", "blueish dog"], ...]),
        (MARKS, removed("relations", "on"), [..., ..., []]),
        (
            PARK,
            removed("objects", "animal.n.01"),
            [["soccer ball", "sofa"], ["big red soccer ball", "bright"], ["wearing hat"]],
        ),
        (PARK, removed("attributes", "color.n.01"), [..., ["two dogs", "bright"], ...]),
        (PARK, removed("attributes", "animal.n.01"), [..., ["big red soccer ball", "bright"], ...]),
        (PARK, removed("relations", "furniture.n.01"), [..., ..., ["dogs with soccer ball", "wearing hat"]]),
        (PARK, removed("objects", "hat"), [..., ..., ["dog on sofa", "dogs with soccer ball"]]),
        # a longer name is not the shorter one
        (
            BEDS,
            removed("objects", "sofa"),
            [["dog", "sofa bed", "ball"], ["old sofa bed"], ["dog with sofa bed near ball"]],
        ),
        # globs have no other signs than * and ?
        (ODD, removed("objects", "[a]*"), [["b", "x.y", "xzy"], ..., ...]),
        (ODD, removed("objects", "*.y"), [["[a]", "b", "xzy"], ..., ...]),
        # replace changes the part that was meant
        (REDS, replaced("attributes", "red", "blue"), [..., ["big blue ball", "blue", "dark blue ball"], ...]),
        (REDS, replaced("attributes", "re:^re", "blue"), [..., ["big blue ball", "blue", "dark blue ball"], ...]),
        (REDS, replaced("attributes", "re:re", "blue"), [..., ["big blue ball", "blue", "dark blue ball"], ...]),
        (REDS, replaced("attributes", "*", "blue"), [..., ["blue ball", "blue"], ...]),
        (
            REDS,
            replaced("attributes", "big red ball", "small ball"),
            [..., ["small ball", "red", "dark red ball"], ...],
        ),
        (
            PARK,
            replaced("attributes", "animal.n.01", "wet"),
            [..., ["wet dog", "big red soccer ball", "wet dogs", "bright"], ...],
        ),
        (
            LAMP,
            replaced("objects", "table", "armchair"),
            [["lamp", "armchair"], ..., ["lamp on an armchair", "armchair near lamp"]],
        ),
        (Tags(("dogs",), ("red dogs",)), replaced("objects", "dog", "cat"), [["cats"], ["red cats"], ...]),
        (Tags(), {"add": {"objects": ["cat"]}}, [["cat"], ..., ...]),
        (PARK, {"sample": {"objects": 1.0}}, [..., ..., ...]),
        (PARK, {"sample": {"objects": 0.0}}, [[], ["bright"], ["wearing hat"]]),
        (
            Tags(("ball", "car"), ("red ball", "blue car"), ("ball on car", "wearing hat")),
            {"swap": "relations"},
            [..., ..., ["car on ball", "wearing hat"]],
        ),
        (
            Tags(("dog", "ball"), ("two dogs", "red ball")),
            {"swap": "attributes"},
            [..., ["two balls", "red dog"], ...],
        ),
        (Tags(("dog", "ball"), (), ("dogs chasing ball",)), {"swap": "relations"}, [..., ..., ["ball chasing dogs"]]),
        (Tags(("ball", "car"), ("red ball", "red car")), {"swap": "attributes"}, [..., ..., ...]),
        (Tags(("ball", "car"), (), ("ball on",)), {"swap": "relations"}, [..., ..., ...]),
    ],
)  # fmt: skip
def test_edits_by_example(before: Tags, change: dict[str, Any], after: list[Any]) -> None:
    """`...`: this kind of tags stays as it is."""
    out, records = edit(before, change)
    wanted = [
        getattr(before, kind) if new is ... else tuple(new) for kind, new in zip(KINDS, after, strict=True)
    ]
    assert [getattr(out, kind) for kind in KINDS] == wanted
    assert bool(records) == (after != [..., ..., ...])


def test_a_class_takes_what_wordnet_puts_below_it() -> None:
    rng = random.Random(3)
    below = {s.row for s in wordnet.descendants("vehicle.n.01")} | {wordnet.synset("vehicle.n.01").row}
    nouns = [w for w in rng.sample(sorted(wordnet.lemma_names("n")), 300) if w.isalpha()]
    selectors = Selectors(["vehicle.n.01"], "objects", "here")
    for noun in [*nouns, "car", "bus", "sailboat", "dog"]:
        meaning = wordnet.first_sense(noun)
        assert (selectors.first(noun) == 0) == (meaning is not None and meaning.row in below), noun
    assert selectors.first("red sports cars") == 0


# --- replace
# --------------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(tags(), st.sampled_from(OBJECTS), st.sampled_from(["horse", "park bench", "knife", *OBJECTS]))
def test_replace_objects_as_the_slow_rule(given_tags: Tags, old: str, new: str) -> None:
    out, _ = edit(given_tags, {"replace": {"objects": {old: new}}})
    attributes = []
    for a in given_tags.attributes:
        bound, words = ending(a, given_tags.objects), a.split()
        tails = [" ".join(words[i:]) for i in range(len(words) - 1, 0, -1)]
        form = bound[1] if bound else next((t for t in tails if matches(t, [old])), "")
        many = form != bound[0] if bound else singular(form) != form
        if form and matches(bound[0] if bound else form, [old]):
            a = a[: -len(form)] + (plural(new) if many else new)
        attributes.append(a)
    assert out.objects == unique(new if matches(o, [old]) else o for o in given_tags.objects)
    assert out.attributes == unique(attributes)


PLAIN = ["dog", "cat", "ball", "person", "knife"]
End = tuple[str, bool]
"""An object and whether it stands in the plural."""
ends = st.tuples(st.sampled_from(PLAIN), st.booleans())


def relation_of(part: tuple[End, str, End | None, End], moved: dict[str, str]) -> str:
    def form(end: End) -> str:
        name = moved.get(end[0], end[0])
        return plural(name) if end[1] else name

    subject, predicate, middle, object_ = part
    return " ".join(
        [form(subject), predicate, *([] if middle is None else ["with", form(middle), "near"]), form(object_)]
    )


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(PLAIN), min_size=1, unique=True),
    st.dictionaries(st.sampled_from(PLAIN), st.sampled_from([*PLAIN, "horse", "park bench"]), min_size=1),
    st.lists(
        st.tuples(ends, st.sampled_from(["on", "next to", "eating"]), st.none() | ends, ends),
        min_size=1,
        max_size=4,
    ),
)
def test_relations_follow_word_by_word(
    objects: list[str], moves: dict[str, str], parts: list[tuple[End, str, End | None, End]]
) -> None:
    known = [p for p in parts if all(e is None or e[0] in objects for e in (p[0], p[2], p[3]))]
    before = Tags(tuple(objects), (), unique(relation_of(p, {}) for p in known))
    after, _ = edit(before, {"replace": {"objects": moves}})
    same = [
        p for p in known if p[0][0] != p[3][0] and moves.get(p[0][0], p[0][0]) == moves.get(p[3][0], p[3][0])
    ]
    assert after.relations == unique(relation_of(p, moves) for p in known if p not in same)
    left, _ = edit(before, {"remove": {"objects": list(moves)}})
    assert left.relations == unique(
        relation_of(p, {}) for p in known if all(e is None or e[0] not in moves for e in (p[0], p[2], p[3]))
    )


def test_what_follows_keeps_its_number_and_its_article() -> None:
    out, records = edit(PARK, {"replace": {"objects": {"dog": "ox"}, "relations": {"on": "under"}}})
    assert out == replace(
        PARK,
        objects=("ox", "soccer ball", "sofa"),
        attributes=("brown ox", "big red soccer ball", "two oxen", "bright"),
        relations=("ox under sofa", "oxen with soccer ball", "wearing hat"),
    )
    assert EditRecord(0, "replace", "relations", "dog on sofa", "ox under sofa") in records


def test_replace_exchanges_in_one_pass_and_merges_what_becomes_equal() -> None:
    two = Tags(("dog", "cat"), ("red dog", "blue cat"), ("dog near cat",), (0.25, 0.75))
    out, _ = edit(two, {"replace": {"objects": {"dog": "cat", "cat": "dog"}}})
    assert out == Tags(("cat", "dog"), ("red cat", "blue dog"), ("cat near dog",), two.scores)
    merged, records = edit(two, {"replace": {"objects": {"dog": "cat"}, "attributes": {"red": "blue"}}})
    assert merged == Tags(("cat",), ("blue cat",), (), (0.25,))
    assert [(r.before, r.after) for r in records] == [
        ("dog", "cat"),
        ("red dog", "blue cat"),
        ("dog near cat", None),
    ]


@pytest.mark.parametrize(
    ("source", "target"),
    [("animal.n.01", "vehicle.n.01"), ("dog", "animal.n.01"), ("animal.n.01", "animal.n.01")],
)
def test_class_to_class_draws_a_member_by_the_row(source: str, target: str) -> None:
    change = {"replace": {"objects": {source: target}}}
    wider = Tags(("tree", *PARK.objects), PARK.attributes)
    drawn = {}
    for row in (f"p:{n}" for n in range(200)):
        out, _ = edit(PARK, change, row=row)
        new = drawn[row] = out.objects[0]
        assert wordnet.is_a(new, target)
        assert out.attributes[::2] == (f"brown {new}", f"two {plural(new)}")
        assert edit(wider, change, row=row)[0].objects[1] == new
    assert "dog" not in drawn.values()
    assert len(set(drawn.values())) > 20
    assert {row: edit(PARK, change, row=row)[0].objects[0] for row in drawn} == drawn


def test_objects_are_drawn_without_replacement() -> None:
    zoo = Tags(
        ("turkey", "hippopotamus", "grape"),
        ("red apple",),
        ("turkey right of hippopotamus", "turkey on grape"),
    )
    for row in range(300):
        out, _ = edit(zoo, {"replace": {"objects": {"animal.n.01": "edible_fruit.n.01"}}}, row=f"p:{row}")
        one, two, three = out.objects
        assert len({one, two, three, "apple"}) == 4
        assert out.relations == (f"{one} right of {two}", f"{one} on {three}")
    many = Tags(tuple(w for w in members("animal.n.01", False))[:40])
    out, _ = edit(many, {"replace": {"objects": {"animal.n.01": "edible_fruit.n.01"}}})
    assert len(out.objects) == min(40, len(members("edible_fruit.n.01", False)))


def test_members_are_words_that_are_found_again_by_their_class() -> None:
    for name in ("animal.n.01", "vehicle.n.01", "furniture.n.01", "fruit.n.01", "dog.n.01"):
        found = [wordnet.is_a(w, name) and w.isalpha() for w in members(name, False)]
        assert found == [True] * max(5, len(found)), name
    assert {"cat", "dog", "horse"} <= set(members("animal.n.01", False))
    assert {"red", "blue", "white", "black"} <= set(members("color.n.01", True))


def test_colours_are_replaced_by_colours() -> None:
    change = {"replace": {"attributes": {"color.n.01": "color.n.01"}}}
    changed = {edit(PARK, change, row=str(row))[0].attributes[1] for row in range(100)}
    seen = {phrase.removeprefix("big ").removesuffix(" soccer ball") for phrase in changed}
    assert {f"big {colour} soccer ball" for colour in seen} == changed
    assert "red" not in seen
    assert all(len(colour.split()) == 1 for colour in seen)
    assert len(seen) > 10


# --- keep, add, sample
# ----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(tags(), chosen, st.sets(st.sampled_from(KINDS), min_size=1))
def test_keep_as_the_slow_rule(given_tags: Tags, selectors: list[str], kinds: set[Kind]) -> None:
    out, records = edit(given_tags, {"keep": sorted(kinds)})
    assert all(getattr(out, kind) == (getattr(given_tags, kind) if kind in kinds else ()) for kind in KINDS)
    assert len(records) == sum(len(getattr(given_tags, kind)) for kind in KINDS if kind not in kinds)
    kept, _ = edit(given_tags, {"keep": {"objects": selectors}})
    bound = {a: ending(a, given_tags.objects) for a in given_tags.attributes}
    assert list(kept.objects) == [o for o in given_tags.objects if matches(o, selectors)]
    assert list(kept.attributes) == [a for a, b in bound.items() if b is None or matches(b[0], selectors)]
    assert edit(kept, {"keep": {"objects": selectors}})[0] == kept


def test_add_appends_what_is_new() -> None:
    new = {"objects": ["cat", "Dog", "cat"], "attributes": ["green cat", "shiny key"]}
    out, records = edit(PARK, {"add": new})
    assert out == replace(
        PARK,
        objects=(*PARK.objects, "cat"),
        attributes=(*PARK.attributes, "green cat", "shiny key"),
        scores=(*PARK.scores, 1.0),
    )
    assert records[0] == EditRecord(0, "add", "objects", None, "cat")


@settings(max_examples=100, deadline=None)
@given(tags(), st.floats(0, 1), st.integers(0, 99))
def test_sample_judges_each_phrase_alone(given_tags: Tags, share: float, row: int) -> None:
    def kept(objects: tuple[str, ...], share: float) -> tuple[str, ...]:
        return edit(Tags(objects), {"sample": {"objects": share}}, row=str(row))[0].objects

    sampled, _ = edit(given_tags, {"sample": {"objects": share}}, row=str(row))
    assert sampled.objects == sum((kept((o,), share) for o in given_tags.objects), ())
    assert set(sampled.objects) <= set(kept(given_tags.objects, min(1.0, share + 0.2)))


def test_sample_keeps_about_its_share_and_others_draw_anew() -> None:
    many = Tags(tuple(f"thing{i}" for i in range(1000)), tuple(f"red thing{i}" for i in range(1000)))
    half, _ = edit(many, {"sample": {"objects": 0.3}}, row="a")
    assert 250 < len(half.objects) < 350
    assert half.attributes == tuple(f"red {o}" for o in half.objects)
    assert edit(many, {"sample": {"objects": 0.3}}, row="b")[0] != half
    assert edit(many, {"sample": {"objects": 0.3}}, row="a", seed=1)[0] != half


# --- swap
# -----------------------------------------------------------------------------------------------------------------------


def test_swap_makes_the_hard_cases() -> None:
    two = Tags(("ball", "car"), ("red ball", "blue car", "sunny"), ("ball on car", "wearing hat"))
    out, records = edit(two, {"swap": "attributes"})
    assert out.attributes == ("red car", "blue ball", "sunny")
    pairs = [("red ball", "red car"), ("blue car", "blue ball")]
    assert records == tuple(EditRecord(0, "swap", "attributes", *pair) for pair in pairs)
    # a pair that differs is found although another does not
    three = Tags(("ball", "car", "cup"), ("red ball", "red car", "blue cup"))
    assert {len(edit(three, {"swap": "attributes"}, row=str(row))[1]) for row in range(30)} == {2}


@settings(max_examples=300, deadline=None)
@given(tags(), st.integers(0, 9))
def test_swap_moves_modifiers_and_invents_none(given_tags: Tags, row: int) -> None:
    assume("red car" not in given_tags.objects)  # a swapped `red` before `car` would read as that object
    out, records = edit(given_tags, {"swap": "attributes"}, row=str(row))

    def bound(t: Tags) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for a in t.attributes:
            for name, form in filter(None, [ending(a, t.objects)]):
                found.setdefault(name, set()).add(a[: -len(form)].strip())
        return found

    before, after = bound(given_tags), bound(out)
    assert out == replace(given_tags, attributes=out.attributes)
    assert set().union(*before.values()) == set().union(*after.values())
    changed = {o for o in before.keys() | after.keys() if before.get(o) != after.get(o)}
    assert len(changed) == (2 if len(set(map(frozenset, before.values()))) > 1 else 0)
    assert bool(records) == bool(changed)


@settings(deadline=None)
@given(tags())
def test_swapped_relations_swapped_again_are_the_old_ones(given_tags: Tags) -> None:
    once, _ = edit(given_tags, {"swap": "relations"})
    assume(len(once.relations) == len(given_tags.relations))
    assert edit(once, {"swap": "relations"})[0].relations == given_tags.relations


# --- call
# -----------------------------------------------------------------------------------------------------------------------


def shout(tags: Tags, rng: random.Random) -> Tags:
    return Tags(
        tuple(o.upper() for o in tags.objects), (f"lucky {rng.randrange(1000)}",), tags.relations, tags.scores
    )


def repeats(tags: Tags, rng: random.Random) -> Tags:
    return Tags(("a", "b", " a ", ""), (), (), (0.1, 0.2, 0.3, 0.4))


def wrong(tags: Tags, rng: random.Random) -> Any:
    return {"objects": ["dog"]}


def breaks(tags: Tags, rng: random.Random) -> Tags:
    raise KeyError("no such thing")


def test_call_runs_a_function_of_the_users() -> None:
    (out, records), again, other = (edit(PARK, {"call": "test_edits:shout"}, row=row) for row in "xxy")
    assert out.objects == ("DOG", "SOCCER BALL", "SOFA")
    assert out == again[0] != other[0]
    changes = {EditRecord(0, "call", "objects", "dog", None), EditRecord(0, "call", "objects", None, "DOG")}
    assert changes < set(records)
    assert edit(PARK, {"call": "test_edits:repeats"})[0] == Tags(("a", "b"), (), (), (0.1, 0.2))
    with pytest.raises(
        UserError, match=r"text_policy.edits\[0\].call: test_edits:wrong returned dict on row r, not Tags"
    ):
        edit(PARK, {"call": "test_edits:wrong"}, row="r")
    with pytest.raises(UserError, match="test_edits:breaks failed on row r: KeyError"):
        edit(PARK, {"call": "test_edits:breaks"}, row="r")


# --- all of them
# ----------------------------------------------------------------------------------------------------------------

any_edit = st.one_of(
    st.builds(lambda s: {"remove": {"objects": s}}, chosen),
    st.builds(lambda s: {"remove": {"attributes": s}}, st.lists(st.sampled_from(MODIFIERS), min_size=1)),
    st.builds(
        lambda a, b: {"replace": {"objects": {a: b}}},
        st.sampled_from([*OBJECTS, "animal.n.01"]),
        st.sampled_from(OBJECTS),
    ),
    st.builds(lambda p: {"sample": {"attributes": p, "objects": p}}, st.floats(0, 1)),
    st.builds(lambda o: {"add": {"objects": [o]}}, st.sampled_from(OBJECTS)),
    st.sampled_from([{"swap": "attributes"}, {"swap": "relations"}, {"keep": ["objects", "relations"]}]),
)


@settings(max_examples=300, deadline=None)
@given(tags(), st.lists(any_edit, min_size=1, max_size=4), st.integers(0, 5))
def test_any_edits_leave_clean_tags_and_a_full_account(
    given_tags: Tags, edits: list[dict[str, Any]], row: int
) -> None:
    out, records = edit(given_tags, *edits, row=str(row))
    for kind in KINDS:
        account: list[str] = list(getattr(given_tags, kind))
        for n in range(len(edits)):
            mine = [r for r in records if r.kind == kind and r.edit == n]
            fate = {r.before: r.after for r in mine if r.before is not None}
            added = [r.after for r in mine if r.before is None]
            account = [p for p in (*(fate.get(p, p) for p in account), *added) if p is not None]
        assert getattr(out, kind) == unique(account)
    assert len(out.scores) == (len(out.objects) if out.scores else 0)
    assert [r.edit for r in records] == sorted(r.edit for r in records)
    assert records or out == given_tags
    assert (out, records) == edit(given_tags, *edits, row=str(row))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"remove": {"objects": ["re:(a"]}},
            r"text_policy.edits\[1\].remove.objects: 're:\(a' is not a regular expression",
        ),
        (
            {"keep": {"attributes": ["colr.n.01"]}},
            r"text_policy.edits\[1\].keep.attributes: unknown WordNet name 'colr.n.01'",
        ),
        (
            {"remove": {"objects": ["run.v.01"]}},
            r"edits\[1\].remove.objects: 'run.v.01' is no class of nouns",
        ),
        (
            {"replace": {"objects": {"dog": "anmal.n.01"}}},
            r"edits\[1\].replace.objects.dog: unknown WordNet name 'anmal.n.01'",
        ),
        (
            {"replace": {"objects": {"dog": " "}}},
            r"edits\[1\].replace.objects.dog: replaced by nothing; to drop tags use remove",
        ),
        ({"remove": {}}, r"edits\[1\].remove: is empty"),
        ({"remove": {"objects": [" "]}}, r"edits\[1\].remove.objects: a selector is empty"),
        ({"add": {"objects": [""]}}, r"edits\[1\].add.objects: a phrase is empty"),
        ({"keep": []}, r"edits\[1\].keep: is empty"),
        ({"call": "test_edits:nothing"}, r"edits\[1\].call: module 'test_edits' has no 'nothing'"),
    ],
)
def test_a_wrong_edit_names_its_key(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        edit(PARK, {"keep": ["objects"]}, bad)
