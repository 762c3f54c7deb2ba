"""The compiled matcher against MetaCLIP's rule as it is written: " entry " is a substring of the spaced
text."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctrlsynth.concepts.match import Matcher, Matches, Mode, base_form, spaced
from ctrlsynth.lang import wordnet
from helpers import assert_refused

LETTERS = "abAé　\u200b\u0301🐕s"
TEXT = st.text(LETTERS + "  ,.;`\t\n\r-'", max_size=24)


def plain_spacing(text: str) -> str:
    """METHODS, section 2, word for word."""
    text = f" {text} "
    for old, new in [*((mark, f" {mark} ") for mark in ",.;:?!`"), ("\t", " "), ("\r", " "), ("\n", " ")]:
        text = text.replace(old, new)
    return text


def plain(entries: list[str], texts: list[str]) -> list[set[int]]:
    return [{i for i, entry in enumerate(entries) if f" {entry} " in plain_spacing(text)} for text in texts]


def found(entries: list[str], texts: list[str], mode: Mode = "exact") -> list[set[int]]:
    rows = Matcher(entries, mode).match(texts).lists()
    assert all(len(row) == len(set(row)) for row in rows)
    return [set(row) for row in rows]


@settings(max_examples=400, deadline=None)
@given(
    entries=st.lists(st.text(LETTERS + "  ,.`\t", max_size=8), min_size=1, max_size=12),
    texts=st.lists(TEXT, max_size=6),
)
@example(
    entries=["", " ", "  ", " a", "a ", "a  b", ",", "a ,", ", a", "a,b"],
    texts=["", " ", "a", " a", "a  b", "a,b", "a, b", "a ,b", ",,"],
)
@example(entries=["a b", "b", "a", "a b c", "b c d"], texts=["a b c d", "a b a b", "a\tb\r\nc", "aa b"])
@example(entries=["a", "a"], texts=["a"])
def test_it_is_the_plain_rule(entries: list[str], texts: list[str]) -> None:
    assert found(entries, texts) == plain(entries, texts)
    assert [spaced(t) for t in texts] == [plain_spacing(t) for t in texts]


def test_it_is_the_plain_rule_where_entries_come_from_the_texts() -> None:
    chance = random.Random(4)
    for _ in range(150):
        texts = ["".join(chance.choices("ab  ,.é\t", k=chance.randrange(40))) for _ in range(20)]
        entries = []
        for _ in range(60):
            text = plain_spacing(chance.choice(texts))
            a = chance.randrange(len(text))
            entries.append(text[a : a + chance.randrange(12)])
        assert found(entries, texts) == plain(entries, texts)


@pytest.mark.parametrize("tail", ["", "-one-tail-for-all"])
def test_a_hash_is_never_taken_for_a_word(tail: str) -> None:
    """60,000 words in a table whose hashes are cut to few bits by its size: 250,000 other words must all stay
    unknown. With the tail, all words agree in their length and last 8 bytes, which is what a table's row
    holds of them."""
    words = [f"w{i:05x}{tail}" for i in range(60_000)]
    others = [f"v{i:05x}{tail}" for i in range(250_000)]
    matches = Matcher(words).match(
        [" ".join(others[i : i + 50]) for i in range(0, len(others), 50)] + [" ".join(words)]
    )
    assert (matches.lengths()[:-1].sum(), matches.lists()[-1]) == (0, list(range(60_000)))


def test_long_entries_and_many_matches() -> None:
    long = " ".join(f"w{i}" for i in range(5000))
    entries = [long, "x" * 10_000, *(f"w{i}" for i in range(5000))]
    texts = [long, f"a {entries[1]}, b", long[:-1], "w0 w1"]
    assert found(entries, texts) == plain(entries, texts)


def test_arrow_columns_are_read_where_they_lie() -> None:
    texts = ["a b", None, "", "b, a", "b"]
    entries = ["a", "a b", "b"]
    expected = [[0, 1, 2], [], [], [2, 0], [2]]
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        column = pa.array(texts, kind)
        assert Matcher(entries).match(column).lists() == expected
        assert Matcher(entries).match(column.slice(1, 3)).lists() == expected[1:4]
    assert Matcher(entries).match(pa.array([], pa.string())).lists() == []
    assert Matcher(entries).match(pa.array([None], pa.string())).lists() == [[]]


def test_threads_share_a_matcher() -> None:
    chance = random.Random(1)
    texts = [" ".join(chance.choices("abcdefgh", k=12)) for _ in range(4000)]
    matcher = Matcher([" ".join(chance.choices("abcdefgh", k=k)) for k in (1, 2, 3) for _ in range(30)])
    one = matcher.match(texts).lists()
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(matcher.match, (texts[i : i + 500] for i in range(0, 4000, 500)))
        assert [row for found in parts for row in found.lists()] == one


@settings(max_examples=100, deadline=None)
@given(
    entries=st.lists(st.text("abAÉ ,", max_size=6), min_size=1, max_size=9),
    texts=st.lists(st.text("abAéB ,.", max_size=20), max_size=5),
)
def test_lower_case_is_the_rule_on_lowered_texts(entries: list[str], texts: list[str]) -> None:
    assert found(entries, texts, "lower") == plain([e.lower() for e in entries], [t.lower() for t in texts])


def test_lemmas_are_the_rule_on_base_forms() -> None:
    chance = random.Random(2)
    forms = (
        "dogs Dog dog's running ran mice mouse glasses was , .  ; children's boxesful oxen bigger "
        "soccer_ball x\x0by 1990s".split(" ")
    )

    def plainly(text: str) -> str:
        return " ".join(base_form(w) for w in text.lower().split(" "))

    for _ in range(60):
        entries = [" ".join(chance.choices(forms, k=chance.randrange(1, 4))) for _ in range(10)]
        texts = [" ".join(chance.choices(forms, k=chance.randrange(12))) for _ in range(10)]
        assert found(entries, texts, "lemma") == [
            {i for i, e in enumerate(entries) if f" {plainly(e)} " in f" {plainly(plain_spacing(t)[1:-1])} "}
            for t in texts
        ]
    assert found(["dog", "run", "mouse", "hot dog"], ["Dogs ran, mice!", "two hot dogs"], "lemma") == [
        {0, 1, 2},
        {0, 3},
    ]
    assert (base_form("mice"), base_form("soccer_ball")) == (wordnet.morphy("mice", "n"), "soccer_ball")


def test_what_cannot_be_matched_is_said_in_one_line() -> None:
    assert_refused(lambda: Matcher([]), r"^the bank is empty")
    assert_refused(
        lambda: Matcher(["a"], cast(Any, "lemmas")), r"^unknown mode 'lemmas'; did you mean 'lemma'"
    )


def test_without_numba_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ctrlsynth.concepts.kernel", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delattr("ctrlsynth.concepts.kernel", raising=False)
    assert_refused(
        lambda: Matcher(["a"]),
        r"^matching concepts: numba is not installed; pip install 'ctrlsynth\[concepts\]'$",
    )


def test_matches_keep_their_rows() -> None:
    matches = Matches.of([[1, 2], [], [0]])
    assert matches.lists() == [[1, 2], [], [0]]
    assert matches.select(np.array([True, False, True])).lists() == [[1, 2], [0]]
    assert Matches.of([]).lists() == []
