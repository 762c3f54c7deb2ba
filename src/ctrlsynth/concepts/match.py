"""Matching (METHODS, section 2): which entries of a bank a text holds, by MetaCLIP's rule.

The rule: a space is put before and after the text; each of `, . ; : ? !` and the backtick is wrapped in
spaces; tab, CR and LF become a space; nothing else is touched, neither case nor doubled spaces. An entry is
in the text if " entry " is a substring of that. Each entry counts once per text.

Read as words it is this. Cut the spaced text at every single space: doubled spaces enclose an empty word. Cut
the entry the same way. The entry is in the text if its words follow each other there. That is no
approximation: both begin and end with a space, so a substring's spaces fall on the text's. An entry with
`a,b` inside is in no text, since the text's comma has spaces by then and the entry's has not; an entry with a
space at its edge needs a doubled space there. UTF-8 keeps all of it true for bytes. `spaced` is the plain
rule, the tests' oracle; `Matcher` walks a trie over words in compiled code (`kernel.py`).

Two deviations by name: `lower` puts texts and entries in lower case first; `lemma` also puts every word in
its WordNet base form, as a noun, else as a verb, else as an adjective (`dogs`, `running` -> `dog`, `run`),
and reads texts in Python, so it is slower."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import UserError, unknown
from ..lang import wordnet
from ..models.installed import need
from ..recipe.schema import Recipe
from .bank import load_bank

Array = np.ndarray[Any, np.dtype[Any]]
Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""`map`, or the same on many machines: over parts, for a decision that needs the whole set."""
Mode = Literal["exact", "lower", "lemma"]
MODES: tuple[Mode, ...] = ("exact", "lower", "lemma")
_SPACING = str.maketrans({**{c: f" {c} " for c in ",.;:?!`"}, **dict.fromkeys("\t\n\r", " ")})
_PLAIN_WORD = re.compile(r"[!-^`-~]+")


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """The entries of n texts. Text i holds `entries[offsets[i] : offsets[i + 1]]`, each entry once, in the
    order of where they begin.

    offsets   int64, n + 1 of them, the first 0
    entries   int32, numbers of entries in their bank
    """

    offsets: Array
    entries: Array

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Matches:
        """Builds matches from one sequence of entry numbers per text."""
        listed = [np.asarray(row, dtype=np.int32) for row in rows]
        return cls(offsets_of([len(row) for row in listed]), np.concatenate([np.zeros(0, np.int32), *listed]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lists(self) -> list[list[int]]:
        """One list of entry numbers per text."""
        flat, ends = self.entries.tolist(), self.offsets.tolist()
        return [flat[a:b] for a, b in pairwise(ends)]

    def lengths(self) -> Array:
        """How many entries each text holds."""
        return np.diff(self.offsets)

    def select(self, mask: Array) -> Matches:
        """The matches of the texts whose boolean `mask` is true, in order."""
        lengths = self.lengths()
        return Matches(offsets_of(lengths[mask]), self.entries[np.repeat(mask, lengths)])


def offsets_of(lengths: Sequence[int] | Array) -> Array:
    """Where each text's entries begin, and the end, as int64."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def spaced(text: str) -> str:
    """The text by MetaCLIP's spacing rule."""
    return f" {text.translate(_SPACING)} "


@lru_cache(maxsize=1 << 20)
def base_form(word: str) -> str:
    """A word in lower case as the `lemma` mode compares it; a word that WordNet does not know stays as it
    is."""
    if _PLAIN_WORD.fullmatch(word) is None:
        return word
    found = (wordnet.morphy(word, pos) for pos in "nvar")
    return next((form for form in found if form is not None and " " not in form), word)


class Matcher:
    """A bank's entries, ready to be matched. Takes about a second and 100 to 200 bytes an entry; may be
    shared by threads.

    Entries are numbered as given; equal ones (in `lower` and `lemma`, those that become equal) all match.
    Raises UserError for an empty bank, an unknown mode, and where numba is not installed."""

    def __init__(self, entries: Sequence[str], mode: Mode = "exact") -> None:
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        if not entries:
            raise UserError("the bank is empty: nothing to match")
        need("numba", "concepts", "matching concepts")
        from . import kernel

        self.mode, self.size = mode, len(entries)
        self._kernel = kernel
        self._kinds = kernel.SPACED if mode == "lemma" else kernel.KINDS
        if mode != "exact":  # lowered by arrow, as texts are, since not all libraries agree on every letter
            entries = pc.utf8_lower(pa.array(entries, pa.large_string())).to_pylist()
        split = [entry.split(" ") for entry in entries]
        if mode == "lemma":
            split = [list(map(base_form, words)) for words in split]
        numbers: dict[str, int] = {}
        flat = np.fromiter((numbers.setdefault(w, len(numbers)) for words in split for w in words), np.int32)
        ends = np.fromiter(accumulate((len(words) for words in split), initial=0), np.int64)
        encoded = [w.encode("utf-8", "surrogatepass") for w in numbers]
        pool = np.frombuffer(b"".join(encoded) or b"\0", np.uint8).copy()
        word_ends = np.fromiter(accumulate(map(len, encoded), initial=0), np.int64)
        words = np.zeros((_power(len(numbers) * 3 // 2), 4), np.uint64)
        places = np.zeros(len(numbers), np.int64)
        kernel.fill_words(pool, word_ends, words, places)
        edges = np.zeros((_power(2 * (len(flat) - len(split)) + 2), 2), np.uint64)
        bits, same = np.zeros(kernel.BITS // 64, np.uint64), np.full(len(split), -1, np.int32)
        doubles = kernel.fill_trie(flat, ends, words, places, edges, bits, same)
        self._tables = (words, pool, edges, bits, same if doubles else same[:0].copy())

    @property
    def nbytes(self) -> int:
        """Memory of the tables."""
        return sum(a.nbytes for a in self._tables)

    def match(self, texts: Sequence[str | None] | pa.Array) -> Matches:
        """The entries of each text; none for a null. An arrow array is read where it lies and must hold valid
        UTF-8 (`corpus.py` looks).

        Memory beside the answer: 48 times the longest text's bytes, and four bytes an entry.
        """
        column = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
        if self.mode != "exact":
            column = pc.utf8_lower(column)
        if self.mode == "lemma":
            column = pa.array(
                [
                    text if text is None else " ".join(map(base_form, text.translate(_SPACING).split(" ")))
                    for text in column.to_pylist()
                ],
                pa.large_string(),
            )
        data, offsets, valid = _buffers(column)
        count = len(column)
        longest = int(np.diff(offsets).max()) if count else 0
        room = (
            np.empty(2 * longest + 2, np.uint64),
            np.empty((2 * longest + 2, 2), np.int64),
            np.zeros(self.size, np.int32),
        )
        ends, out = np.zeros(count + 1, np.int64), np.empty(16 * count + 64, np.int32)
        done = 0
        while (
            done := self._kernel.match_texts(
                (data, offsets, valid), done, self._kinds, self._tables, room, ends, out
            )
        ) < count:
            out = np.concatenate([out, np.empty(len(out), np.int32)])
        return Matches(ends, out[: ends[-1]].copy())


def _buffers(column: pa.Array) -> tuple[Array, Array, Array]:
    """(bytes, offsets as int64, validity) of a string column, the bytes uncopied."""
    column = column.cast(pa.large_string())
    _, ends, data = column.buffers()
    offsets = np.zeros(1, np.int64)
    if len(column):
        offsets = np.frombuffer(ends, np.int64, len(column) + 1, column.offset * 8).copy()
    raw = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    raw.flags.writeable = False  # one type, one compilation
    return raw, offsets, np.array(pc.is_valid(column), bool)


def _power(least: int) -> int:
    """The smallest power of two that is at least this (and 8)."""
    return 1 << max(3, (least - 1).bit_length())


class BankMatcher:
    """A bank as `stages.balance.Matcher`; the trie is built when the first captions come, once a process."""

    def __init__(self, path: Path, mode: Mode) -> None:
        need("numba", "concepts", "balance")
        bank = load_bank(path)
        self.name, self.digest, self.entries = path.name, f"{bank.digest} {mode}", bank.entries
        self._mode: Mode = mode

    @cached_property
    def _matcher(self) -> Matcher:
        return Matcher(self.entries, self._mode)

    def match(self, texts: Sequence[str]) -> Matches:
        """Which entries each text holds."""
        return self._matcher.match(list(texts))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_matcher"}


def open_matcher(recipe: Recipe, base: Path) -> BankMatcher:
    """The matcher of `balance.bank`, or of the source's own concepts."""
    assert recipe.balance is not None
    named = recipe.balance.bank or recipe.source.concepts
    assert named is not None
    return BankMatcher(base / named.expanduser(), recipe.balance.match)
