"""The grammar of row ids against slow rules, and the values that keys, digests and chance must keep for ever."""

import re

from hypothesis import given
from hypothesis import strategies as st

from ctrlsynth.errors import first_line
from ctrlsynth.sample import (
    Tags,
    ancestor,
    child,
    digest_of,
    hash_int,
    key_of,
    last_step,
    lineage,
    parent,
    range_name,
    stem,
    variant,
)

KEYS = st.from_regex(r"\A(r[0-9]{5}|shard):[a-z./0-9]{1,8}\Z").filter(lambda k: "/write" not in k)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["tag", "tag+text", "caption", "judge", "match", "balance"]), st.just(())),
    st.tuples(st.just("paint"), st.tuples(st.integers(0, 12))),
    st.tuples(
        st.sampled_from(["write", "write+text"]),
        st.one_of(st.tuples(st.integers(0, 12)), st.tuples(st.integers(0, 12), st.integers(1, 12))),
    ),
)


@given(KEYS, st.lists(STEPS, max_size=6))
def test_ids_are_read_as_they_were_built(key: str, steps: list[tuple[str, tuple[int, ...]]]) -> None:
    ids = [key]
    for label, numbers in steps:
        ids.append(child(ids[-1], label, *numbers))
        assert parent(ids[-1]) == ids[-2]
        assert last_step(ids[-1]) == ".".join([label, *map(str, numbers)])
    texts = [numbers[0] for label, numbers in steps if label.startswith("write")]
    assert variant(ids[-1]) == (texts[-1] if texts else 0)
    if steps:
        label, numbers = steps[-1]
        assert stem(ids[-1]) == child(ids[-2], label, *numbers[:1])
    assert [i for i in lineage(ids[-1]) if i in ids] == ids[::-1]


@given(st.text("ab/.", min_size=1, max_size=12), st.dictionaries(st.text("ab/.", max_size=12), st.integers()))
def test_the_nearest_ancestor_is_the_longest_prefix_that_ends_at_a_step(
    row_id: str, table: dict[str, int]
) -> None:
    slow = [i for i in table if i and (row_id + "/").startswith(i + "/")]
    assert ancestor(row_id, table) == (table[max(slow, key=len)] if slow else None)


@given(st.integers(0, 99_999), st.text(max_size=9), st.text("rs:/0123456789", max_size=9))
def test_chance_ignores_the_range_that_a_row_was_read_in(index: int, key: str, other: str) -> None:
    assert hash_int(7, f"{range_name(index)}:{key}", "") == hash_int(7, key, "") or re.match(
        "r[0-9]{5}:", key
    )
    if not re.match("r[0-9]{5}:", other):
        assert hash_int(7, f"shard:{other}", "") != hash_int(7, other, "")


def test_keys_digests_and_chance_keep_their_values() -> None:
    """Every stored run depends on them."""
    assert key_of("p", "a", "bc") == "239940130c796611ee8c76ab9a7e31c3"
    assert key_of("p", "ab", "c") != key_of("p", "a", "bc")
    assert digest_of("tag", 1, {"a": [None, "é"]}) == "a19be45f2d98371cb7680b99913418cc"
    assert hash_int(0, "r00012:dog/tag/write.1", "model") == 5975415386421270014


def test_tags_are_read_from_a_row() -> None:
    row = {"objects": ["dog"], "attributes": [], "relations": None, "other": 1}
    assert Tags.of(row) == Tags(("dog",))
    assert Tags.of({}) == Tags()


def test_first_line_says_something_short() -> None:
    said = ["bad.\nmore", "\nmissing keys:\n\tweight, bias\n", "", "x" * 999]
    lines = ["bad", "missing keys: weight, bias", "ValueError", "x" * 300]
    assert [first_line(ValueError(text)) for text in said] == lines
