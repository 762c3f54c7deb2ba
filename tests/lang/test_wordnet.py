"""The WordNet table: the published numbers, every rule beside a slow one, opening time."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.lang import wordnet
from ctrlsynth.lang.wordnet import Synset
from helpers import ROOT, assert_refused

SOME_WORDS = (
    "dog ball man glass boxful bus quiz baby photo leaf half run take stop try big happy nice red "
    "woman".split()
)


def test_the_published_numbers_of_wordnet_3() -> None:
    # wnstats(7WN): unique strings and synsets of each part of speech
    assert {p: sum(1 for _ in wordnet.all_synsets(p)) for p in "nvar"} == {
        "n": 82_115,
        "v": 13_767,
        "a": 18_156,
        "r": 3_621,
    }
    assert {p: sum(1 for _ in wordnet.lemma_names(p)) for p in "nvar"} == {
        "n": 117_798,
        "v": 11_529,
        "a": 21_479,
        "r": 4_481,
    }
    t = wordnet._table()
    assert len(t.senses) == 206_941
    assert sum(1 for row in range(82_115) if t.instances[row]) == 7_730  # grep -c ' @i [0-9]' data.noun


def test_a_known_synset_in_full() -> None:
    dog = wordnet.synset("dog.n.01")
    assert (dog.name, dog.pos, dog.offset, dog.lexfile) == ("dog.n.01", "n", "n02084071", "noun.animal")
    assert dog.words == ("dog", "domestic dog", "Canis familiaris")
    assert [h.name for h in dog.hypernyms] == ["canine.n.02", "domestic_animal.n.01"]
    assert dog.gloss.startswith("a member of the genus Canis")
    assert [s.name for s in wordnet.synsets("dogs", "n")[:3]] == ["dog.n.01", "frump.n.01", "dog.n.03"]
    assert wordnet.synsets("dog")[-1].name == "chase.v.01"
    # the marker `(ip)` of galore is gone
    known = [wordnet.synset(name) for name in ("bantam.s.01", "galore.s.01", "paris.n.01")]
    facts = [("s", "bantam", False), ("s", "galore", False), ("n", "Paris", True)]
    assert [(s.pos, s.words[0], s.is_instance) for s in known] == facts
    assert wordnet.count("dog", "n") == 42


def test_every_name_and_offset_leads_back_to_its_synset() -> None:
    names: set[str] = set()
    for synset in wordnet.all_synsets():
        names.add(synset.name)
        if synset.row % 37 == 0:
            assert wordnet.synset(synset.name) == synset
            assert wordnet.from_offset(synset.offset) == synset
    assert len(names) == 117_659


def test_the_table_is_small() -> None:
    files = [wordnet._FOLDER / n for n in ("wordnet.npz", "wordnet_glosses.npz")]
    assert sum(f.stat().st_size for f in files) < 6_000_000
    assert "Princeton University" in (wordnet._FOLDER / "wordnet_LICENSE.txt").read_text()


def test_importing_opens_nothing() -> None:
    code = (
        "import ctrlsynth.lang.wordnet as w; t = w._table; assert not t.cache_info().misses; "
        "w.synsets('dog'); assert 'glosses' not in vars(t())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_makes_the_same_bytes_where_wordnet_base_is_installed(tmp_path: Path) -> None:
    source = Path("/usr/share/wordnet")
    if not (source / "data.noun").exists():
        pytest.skip("needs the database files of WordNet 3.0 (Debian: wordnet-base)")
    script = ROOT / "scripts" / "build_wordnet.py"
    subprocess.run([sys.executable, str(script), str(source), str(tmp_path)], check=True, capture_output=True)
    for name in ("wordnet.npz", "wordnet_glosses.npz"):
        with np.load(tmp_path / name) as new, np.load(wordnet._FOLDER / name) as ours:
            assert new.files == ours.files
            assert all(np.array_equal(new[k], ours[k]) for k in ours.files)


@pytest.mark.parametrize(
    ("word", "pos", "base"),
    [
        ("geese", "n", "goose"), ("Dogs", "n", "dog"), ("soccer balls", "n", "soccer ball"), ("men", "n",
        "man"),
        ("policewomen", "n", "policewoman"),
        ("glass", "n", "glass"), ("buses", "n", "bus"), ("boxesful", "n", "boxful"), ("churches", "n",
        "church"), ("stories", "n", "story"),
        ("hot dogs", "n", "hot dog"), ("leaves", "n", "leaf"), ("xyzzy", "n", None), ("", "n", None),
        ("running", "v", "run"), ("sat", "v", "sit"),
        ("riding", "v", "ride"), ("denied", "v", "deny"), ("stands", "v", "stand"), ("tallest", "a", "tall"),
        ("better", "a", "good"),
        ("s", "n", "s"), ("🙂", "n", None), ("\0", "v", None), ("naïve", "a", None),
    ],
)  # fmt: skip
def test_morphy_on_known_forms(word: str, pos: str, base: str | None) -> None:
    assert wordnet.morphy(word, pos) == base


def slow_morphy(word: str, pos: str, lemmas: set[str]) -> str | None:
    """morphy(7WN) as a reader would follow it by hand, over a plain set of lemmas."""
    form = " ".join(word.lower().split())
    head, _, last = form.rpartition(" ")
    exceptions = wordnet._table().exceptions[pos]
    tries = [
        exceptions.get(form.replace(" ", "_"), "").replace("_", " "),
        f"{head} {exceptions.get(last)}".strip(),
        form,
    ]
    if not (pos == "n" and form.endswith("ss")) and len(form) > 2:
        tries += [form.removesuffix(end) + new for end, new in wordnet._RULES[pos] if form.endswith(end)]
    found = next((candidate for candidate in tries if candidate in lemmas), None)
    if found is None and pos == "n" and form.endswith("ful"):
        base = slow_morphy(form.removesuffix("ful"), "n", lemmas)
        found = f"{base}ful" if f"{base}ful" in lemmas else None
    return found


@pytest.fixture(scope="module")
def lemma_sets() -> dict[str, set[str]]:
    return {p: set(wordnet.lemma_names(p)) for p in "nvar"}


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SOME_WORDS),
    st.sampled_from(["", "s", "es", "ed", "ing", "er", "est", "ies", "men", "ful", "sful", "zes", "ches"]),
    st.sampled_from("nvar"),
    st.booleans(),
)
def test_morphy_follows_the_rules(
    lemma_sets: dict[str, set[str]], word: str, end: str, pos: str, head: bool
) -> None:
    form = ("soccer " if head else "") + word + end
    assert wordnet.morphy(form, pos) == slow_morphy(form, pos, lemma_sets[pos])


def slow_steps(a: Synset, b: Synset, steps: int = 0) -> int | None:
    """Fewest hypernym steps from a up to b, by walking every way."""
    if a == b:
        return steps
    found = [n for up in a.hypernyms if (n := slow_steps(up, b, steps + 1)) is not None]
    return min(found, default=None)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 82_114), st.integers(0, 30), st.booleans())
def test_distance_is_the_shortest_way_up_or_down(row: int, climb: int, other: bool) -> None:
    a = b = Synset(row)
    for _ in range(climb):
        if b.hypernyms:
            b = b.hypernyms[-1]
    if other:
        b = Synset((row * 7) % 82_115)
    ways = [n for n in (slow_steps(a, b), slow_steps(b, a)) if n is not None]
    assert wordnet.distance(a, b) == wordnet.distance(b, a) == min(ways, default=None)
    assert wordnet.is_a(a, b) == (slow_steps(a, b) is not None)


def test_is_a_goes_by_the_first_sense_of_the_head() -> None:
    asked = {
        ("two small dogs", "animal.n.01"): True,
        ("dog.n.01", "domestic_dog.n.01"): True,
        ("hot dog", "animal.n.01"): False,
        ("crane", "artifact.n.01"): True,  # not the writer Stephen Crane
        ("qwertz", "entity.n.01"): False,
    }
    assert {pair: wordnet.is_a(*pair) for pair in asked} == asked
    assert [wordnet.distance("dog", other) for other in ("animal", "cat")] == [2, None]


def test_noun_lemma_takes_the_longest_noun_at_the_end() -> None:
    asked = {
        "red soccer balls": "soccer ball",
        "cup of coffee": "cup",
        "hot dogs": "hot dog",
        "golden retrievers": "golden retriever",
        "the very": None,
        "": None,
    }
    assert {phrase: wordnet.noun_lemma(phrase) for phrase in asked} == asked


def test_descendants_are_exactly_what_is_below() -> None:
    canine = wordnet.synset("canine.n.02")
    below = list(wordnet.descendants("canine.n.02"))
    slow = {s for s in wordnet.all_synsets("n") if s != canine and slow_steps(s, canine) is not None}
    assert len(below) == len(set(below))
    assert set(below) == slow
    assert wordnet.synset("poodle.n.01") in slow


@pytest.mark.parametrize(
    ("call", "names", "message"),
    [
        (wordnet.synset, ["animl.n.01"], "did you mean 'animal.n.01'"),
        (wordnet.synset, ["dog.n.08"], "has 7 senses"),
        (wordnet.synset, ["dog"], "look like 'dog.n.01'"),
        (wordnet.from_offset, ["n00000000", "n2084071", "dog", ""], "unknown WordNet offset"),
        (lambda pos: wordnet.synsets("dog", pos), ["noun"], "part of speech"),
    ],
)
def test_unknown_names_name_the_nearest(
    call: Callable[[str], object], names: list[str], message: str
) -> None:
    for name in names:
        assert_refused(partial(call, name), message)
