"""Looks up lemmas, classes, ancestors and distances in the WordNet 3.0 table that comes with the package. The
edits of 3a, the `wordnet` tagger (2a), the judge's matchers and the concept bank use it.

The table (`data/wordnet.npz`, made by `scripts/build_wordnet.py` from the public database files) is opened on
first use, never at import. Synsets are rows in the order of the files: nouns, verbs, adjectives, adverbs,
each by offset. Words are accepted with spaces or underscores and in any case, and returned with spaces. Names
follow the usual convention: `dog.n.01` is the first noun sense of `dog`, and a synset is named by its first
lemma."""

from __future__ import annotations

import difflib
import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError

_FOLDER = Path(__file__).parent / "data"
_TYPES = "nvars"
_PARTS = "nvar"  # the parts of speech that have sense lists; satellites (`s`) are among the adjectives
LEXFILES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body "
    "noun.cognition noun.communication "
    "noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant "
    "noun.possession noun.process noun.quantity noun.relation noun.shape noun.state noun.substance "
    "noun.time verb.body verb.change "
    "verb.cognition verb.communication verb.competition verb.consumption verb.contact verb.creation "
    "verb.emotion verb.motion "
    "verb.perception verb.possession verb.social verb.stative verb.weather adj.ppl"
).split()
# The detachment rules of morphy(7WN), tried in this order.
_RULES = {
    "n": (
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "v": (
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}
_NAME = re.compile(r"(.+)\.([nvars])\.(\d{1,3})")
_OFFSET = re.compile(r"([nvars])(\d{8})")
_TAIL = re.compile(r" (?:of|in|on|with|at|for|from|under|over|behind|near|by) .*")
Array = np.ndarray[Any, np.dtype[Any]]


class _Table:
    """The arrays, the less common ones decoded on first use. `senses[starts[p, i] : starts[p, i + 1]]` are
    lemma i's synset rows as part of speech p."""

    def __init__(self) -> None:
        with np.load(_FOLDER / "wordnet.npz", allow_pickle=False) as arrays:
            self.lemmas: list[str] = arrays["lemmas"].tobytes().decode("ascii").split("\n")
            counts = np.concatenate([[0], arrays["sense_counts"].ravel()])
            self.starts = memoryview(np.cumsum(counts, dtype=np.int32).data)
            self.senses = memoryview(arrays["senses"].data)
            self.types = arrays["types"].tobytes()
            self.instances = arrays["instance_counts"].tobytes()
            above = arrays["kind_counts"].astype(np.int32) + arrays["instance_counts"]
            self.above_ends = memoryview(np.cumsum(above, dtype=np.int32).data)
            self.above_rows = memoryview(arrays["above"].data)

    def _array(self, name: str, file: str = "wordnet.npz") -> Array:
        with np.load(_FOLDER / file, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])

    @cached_property
    def words(self) -> list[str]:
        return self._array("words").tobytes().decode("ascii").split("\n")

    @cached_property
    def tag_counts(self) -> Array:
        return self._array("tag_counts")

    @cached_property
    def offsets(self) -> Array:
        return np.cumsum(self._array("offset_steps"), dtype=np.int32)

    @cached_property
    def lexfiles(self) -> bytes:
        return self._array("lexfiles").tobytes()

    @cached_property
    def glosses(self) -> list[str]:
        return self._array("glosses", "wordnet_glosses.npz").tobytes().decode("ascii").split("\n")

    @cached_property
    def exceptions(self) -> dict[str, dict[str, str]]:
        """Part of speech -> irregular form -> its first base form."""
        parts = self._array("exceptions").tobytes().decode("ascii").split("\n\n")
        return {
            p: {w[0]: w[1] for w in map(str.split, part.split("\n")) if len(w) > 1}
            for p, part in zip(_PARTS, parts, strict=True)
        }

    @cached_property
    def below(self) -> tuple[Array, Array]:
        """The hypernym arrays turned round: children sorted by parent, and the parents beside them."""
        ends = np.asarray(self.above_ends)
        child = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        order = np.argsort(np.asarray(self.above_rows), kind="stable")
        return child[order], np.asarray(self.above_rows)[order]

    def slot(self, lemma: str, part: str) -> tuple[int, int]:
        """The range in `senses` of a lemma in its stored form (`soccer_ball`); empty when it has no senses.
        Searches the sorted list, which spares building a dictionary of 147,306 words."""
        i = bisect_left(self.lemmas, lemma)
        if i == len(self.lemmas) or self.lemmas[i] != lemma:
            return 0, 0
        at = _PARTS.index(part) * len(self.lemmas) + i
        return self.starts[at], self.starts[at + 1]

    def rows(self, lemma: str, part: str) -> tuple[int, ...]:
        a, b = self.slot(lemma, part)
        return tuple(self.senses[a:b])


@cache
def _table() -> _Table:
    return _Table()


@dataclass(frozen=True, slots=True, order=True)
class Synset:
    """One meaning: a row of the table. Equal, ordered and hashed by row; its properties are looked up on
    access."""

    row: int

    @property
    def pos(self) -> str:
        """`n`, `v`, `a`, `r`, or `s` (an adjective satellite)."""
        return _TYPES[_table().types[self.row]]

    @property
    def words(self) -> tuple[str, ...]:
        """Its words with case, spaces for underscores, the most telling first: (`domestic dog`, ...)."""
        return tuple(word.replace("_", " ") for word in _table().words[self.row].split("|"))

    @property
    def name(self) -> str:
        """`dog.n.01`: first lemma in lower case, part of speech, number of this sense among that lemma's."""
        return _name(self.row)

    @property
    def offset(self) -> str:
        """`n02084071`, as ImageNet and CatLIP write synsets; satellites are written with `a`."""
        return f"{self.pos.replace('s', 'a')}{int(_table().offsets[self.row]):08d}"

    @property
    def hypernyms(self) -> tuple[Synset, ...]:
        """The classes right above, instances' classes included."""
        return tuple(Synset(row) for row in _above(self.row))

    @property
    def is_instance(self) -> bool:
        """Whether this is a single thing with a name (`Paris`), not a class."""
        return bool(_table().instances[self.row])

    @property
    def gloss(self) -> str:
        return _table().glosses[self.row]

    @property
    def lexfile(self) -> str:
        """The lexicographer file: `noun.animal`, `noun.artifact`, ..."""
        return LEXFILES[_table().lexfiles[self.row]]

    def __repr__(self) -> str:
        return f"Synset({self.name!r})"


@lru_cache(maxsize=32768)
def _name(row: int) -> str:
    lemma = _table().words[row].partition("|")[0].lower()
    letter = _TYPES[_table().types[row]]
    return f"{lemma}.{letter}.{_table().rows(lemma, letter.replace('s', 'a')).index(row) + 1:02d}"


@lru_cache(maxsize=32768)
def _above(row: int) -> tuple[int, ...]:
    t = _table()
    return tuple(t.above_rows[t.above_ends[row - 1] if row else 0 : t.above_ends[row]])


def _stored(word: str) -> str:
    return "_".join(word.lower().split())


@cache
def digest() -> str:
    """SHA-256 of the table's file, 16 hex digits: equal for equal tables."""
    return hashlib.sha256((_FOLDER / "wordnet.npz").read_bytes()).hexdigest()[:16]


def _parts(pos: str | None) -> str:
    if pos is not None and (len(pos) != 1 or pos not in _TYPES):
        raise UserError(
            f"unknown part of speech {pos!r}; known: n (noun), v (verb), a or s (adjective), r (adverb)"
        )
    return _PARTS if pos is None else pos.replace("s", "a")


def lemma_names(pos: str | None = None) -> Iterator[str]:
    """All lemmas (or those of one part of speech) in lower case, sorted as stored, with spaces."""
    t = _table()
    first = _PARTS.index(_parts(pos)) * len(t.lemmas) if pos is not None else 0
    for i, lemma in enumerate(t.lemmas, first):
        if pos is None or t.starts[i] < t.starts[i + 1]:
            yield lemma.replace("_", " ")


def all_synsets(pos: str | None = None) -> Iterator[Synset]:
    """All synsets in row order, or those of one part of speech (`a` and `s` both give adjectives with
    satellites)."""
    for row, kind in enumerate(_table().types):
        if pos is None or _TYPES[kind].replace("s", "a") == _parts(pos):
            yield Synset(row)


@lru_cache(maxsize=16384)
def synsets(word: str, pos: str | None = None) -> tuple[Synset, ...]:
    """The senses of a word or of its base form, the most frequent first within each part of speech (nouns,
    verbs, adjectives, adverbs)."""
    found: dict[Synset, None] = {}
    for part in _parts(pos):
        base = morphy(word, part)
        if base is not None:
            found.update(dict.fromkeys(Synset(row) for row in _table().rows(_stored(base), part)))
    return tuple(found)


def synset(name: str) -> Synset:
    """`animal.n.01` -> its synset; any of its lemmas may name it. An unknown name is a UserError with the
    nearest right one."""
    stored = _stored(name)
    match = _NAME.fullmatch(stored)
    if match is None:
        raise UserError(
            f"{name!r} is no WordNet name; names look like 'dog.n.01' (word, one of n v a r s, sense "
            f"number){_nearest(stored, 'n')}"
        )
    lemma, letter, number = match[1], match[2], int(match[3])
    rows = _table().rows(lemma, letter.replace("s", "a"))
    if 1 <= number <= len(rows):
        return Synset(rows[number - 1])
    senses = f"; {lemma!r} has {len(rows)} senses, the first is '{lemma}.{letter}.01'"
    raise UserError(f"unknown WordNet name {name!r}{senses if rows else _nearest(lemma, letter)}")


def _nearest(lemma: str, letter: str) -> str:
    """`; did you mean 'animal.n.01'?`: the closest lemma with the same first letter (searching them all
    would be slow)."""
    t = _table()
    near = (
        w
        for w in t.lemmas[bisect_left(t.lemmas, lemma[:1]) : bisect_left(t.lemmas, lemma[:1] + "~")]
        if abs(len(w) - len(lemma)) <= 2 and t.rows(w, letter.replace("s", "a"))
    )
    best = difflib.get_close_matches(lemma, near, n=1, cutoff=0.6)
    return f"; did you mean '{best[0]}.{letter}.01'?" if best else ""


def from_offset(offset: str) -> Synset:
    """`n02084071` (part of speech, eight digits of WordNet 3.0) -> its synset; unknown is a UserError."""
    match = _OFFSET.fullmatch(offset)
    t = _table()
    if match is not None:
        kinds = np.frombuffer(t.types, dtype=np.uint8)
        wanted = np.isin(kinds, (2, 4)) if match[1] in "as" else kinds == _TYPES.index(match[1])
        rows = np.flatnonzero(wanted & (t.offsets == int(match[2])))
        if len(rows):
            return Synset(int(rows[0]))
    raise UserError(
        f"unknown WordNet offset {offset!r}; offsets look like 'n02084071' and are those of WordNet 3.0"
    )


def sense_counts(lemma: str, pos: str) -> tuple[int, ...]:
    """How often WordNet's tagged texts (SemCor and others) use each sense of the lemma, beside `synsets`; 0
    where never tagged."""
    a, b = _table().slot(_stored(lemma), _parts(pos))
    return tuple(_table().tag_counts[a:b].tolist())


def count(lemma: str, pos: str) -> int:
    """How often WordNet's tagged texts use the lemma as this part of speech."""
    return sum(sense_counts(lemma, pos))


@lru_cache(maxsize=32768)
def morphy(word: str, pos: str) -> str | None:
    """The base form that WordNet knows (`geese` -> `goose`, `soccer balls` -> `soccer ball`), or None.

    In this order: the exception list (whole, then on the last word), the word itself, the detachment rules of
    morphy(7WN), and for nouns in -ful the part before it (`boxesful` -> `boxful`)."""
    t, part, form = _table(), _parts(pos), _stored(word)
    if not form:
        return None
    head, _, last = form.rpartition("_")
    head += "_" if head else ""
    irregular = t.exceptions[part]
    candidates = [irregular.get(form), head + irregular[last] if last in irregular else None, form]
    if len(form) > 2 and not (part == "n" and form.endswith("ss")):  # `glass` is no plural
        candidates += [form.removesuffix(end) + new for end, new in _RULES[part] if form.endswith(end)]
    for candidate in candidates:
        if candidate and t.rows(candidate, part):
            return candidate.replace("_", " ")
    if part == "n" and form.endswith("ful") and len(form) > 3:
        base = morphy(form[:-3], "n")
        full = _stored(base) + "ful" if base else ""
        return full if full and t.rows(full, "n") else None
    return None


@lru_cache(maxsize=32768)
def noun_lemma(phrase: str) -> str | None:
    """The noun that a phrase is about, as WordNet's lemma in lower case: its longest ending that is a noun
    there, in the singular.

    `red soccer balls` -> `soccer ball`. A phrase with a preposition is looked up as a whole, then without its
    tail: `cup of coffee` -> `cup`. None when not even the last word is a noun."""
    low = " ".join(phrase.lower().split())
    words = _TAIL.sub("", low).split()
    endings = [low, *(" ".join(words[i:]) for i in range(len(words)))]
    return next((base for ending in endings if (base := morphy(ending, "n")) is not None), None)


@lru_cache(maxsize=32768)
def first_sense(phrase: str) -> Synset | None:
    """The meaning that a bare phrase is taken to have: the first noun sense of its `noun_lemma` that is a
    class, not a single thing with a name (`crane`'s first sense in WordNet is a writer); the first of all
    when every sense is a name (`paris`)."""
    lemma = noun_lemma(phrase)
    if lemma is None:
        return None
    rows = _table().rows(_stored(lemma), "n")
    return Synset(next((row for row in rows if not _table().instances[row]), rows[0]))


@lru_cache(maxsize=8192)
def steps_up(row: int) -> dict[int, int]:
    """Row -> fewest hypernym steps from `row` up to it, the row itself with 0. Shared: not to be changed."""
    steps = {row: 0}
    for at in (queue := [row]):
        for up in _above(at):
            if up not in steps:
                steps[up] = steps[at] + 1
                queue.append(up)
    return steps


def _meaning(what: str | Synset) -> Synset | None:
    if isinstance(what, Synset):
        return what
    return synset(what) if _NAME.fullmatch(what) else first_sense(what)


def is_a(what: str | Synset, name: str | Synset) -> bool:
    """Whether a phrase's `first_sense` (or a synset, or a name such as `dog.n.01`) is the class `name` or
    below it.

    A phrase without a WordNet noun is in no class. An unknown class is a UserError.
    """
    meaning = _meaning(what)
    top = name if isinstance(name, Synset) else synset(name)
    return meaning is not None and top.row in steps_up(meaning.row)


def distance(a: str | Synset, b: str | Synset) -> int | None:
    """Hypernym steps between two meanings when one is the other or above it; None for siblings and
    strangers."""
    one, two = _meaning(a), _meaning(b)
    if one is None or two is None:
        return None
    up, down = steps_up(one.row).get(two.row), steps_up(two.row).get(one.row)
    return up if down is None else down if up is None else min(up, down)


def descendants(name: str | Synset) -> Iterator[Synset]:
    """Every synset below a class, instances too, each once, nearest first; the class itself is not among
    them."""
    child, parent = _table().below
    top = (name if isinstance(name, Synset) else synset(name)).row
    seen = {top}
    for row in (queue := [top]):
        a, b = np.searchsorted(parent, [row, row + 1])
        for below in child[a:b].tolist():
            if below not in seen:
                seen.add(below)
                queue.append(below)
                yield Synset(below)
