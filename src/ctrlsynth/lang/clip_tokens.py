"""How many tokens CLIP makes of a text (1d) or a prompt, by its real byte-pair table, without torch.

CLIP's text tower, and those of the diffusion models that use it, cut at 77 tokens without a word; every text
and prompt of a run therefore carries its count. The ids are those of open_clip's tokenizer for the OpenAI
vocabulary: text repaired by ftfy, HTML entities resolved twice, white space joined, lower case, split into
words, bytes merged by rank."""

from __future__ import annotations

import gzip
import heapq
import html
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from re import Pattern

CONTEXT = 77
"""Tokens that CLIP reads, both special ones included."""
START, END = 49406, 49407
_MERGES = 49152 - 256 - 2
_SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}
_WORD = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_LONG = 48


def encode(text: str) -> list[int]:
    """The ids of a text, uncut, between START and END. Never fails: every text has bytes (lone surrogates
    count as `?`)."""
    ids = [START]
    for chunk in _clean(text).split():
        ids += _chunk(chunk) if len(chunk) <= _LONG else _ids(chunk)
    ids.append(END)
    return ids


def count(text: str) -> int:
    """The number of tokens, both special ones included."""
    return sum([len(_chunk(c) if len(c) <= _LONG else _ids(c)) for c in _clean(text).split()]) + 2


def truncated(n: int) -> bool:
    """Whether CLIP cuts a text of `n` tokens."""
    return n > CONTEXT


def _clean(text: str) -> str:
    """Lower case after ftfy and two rounds of HTML entities. Printable ASCII without `&` has nothing for
    either to mend."""
    if text.isascii() and "&" not in text and text.isprintable():
        return text.lower()
    import ftfy

    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate has no bytes
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


@lru_cache(maxsize=32768)
def _chunk(chunk: str) -> tuple[int, ...]:
    """`_ids` of the text between two spaces, cached, since words repeat. Long ones are not kept, so memory
    stays bounded."""
    return _ids(chunk)


def _ids(chunk: str) -> tuple[int, ...]:
    ids: list[int] = []
    for word in _splitter().findall(chunk):
        special = _SPECIAL.get(word)
        if special is not None:
            ids.append(special)
        else:
            ids += _merged(word.encode("utf-8", "replace"))
    return tuple(ids)


@cache
def _splitter() -> Pattern[str]:
    import regex

    pattern: Any = regex.compile(_WORD, regex.IGNORECASE)
    return pattern  # type: ignore[no-any-return]


@cache
def _table() -> tuple[list[str], dict[str, int], dict[str, int]]:
    """Byte -> its letter in the table, `"a b"` -> rank of this merge, token -> id. About 50 ms, once."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    order = printable + rest
    letters = [chr(b) for b in printable] + [chr(256 + n) for n in range(len(rest))]
    by_byte = [""] * 256
    for byte, letter in zip(order, letters, strict=True):
        by_byte[byte] = letter
    path = resources.files("ctrlsynth.lang") / "data" / "bpe_simple_vocab_16e6.txt.gz"
    with path.open("rb") as packed, gzip.open(packed) as file:
        file.readline()  # a line about the version
        merges = [file.readline().decode("utf-8").rstrip("\n") for _ in range(_MERGES)]
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    vocabulary = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    vocabulary.update((merge.replace(" ", "", 1), 512 + rank) for rank, merge in enumerate(merges))
    return by_byte, ranks, vocabulary


def _merged(word: bytes) -> list[int]:
    """The ids of one word: of all neighbours those of the lowest rank are merged, from the left, until no
    pair has a rank.

    A heap of ranks and links between neighbours: n log n, so that a word of 100,000 letters is no trap. To
    merge pair by pair is the same as the reference's rank by rank, since in this table a token is made before
    any merge that uses it: new pairs rank behind."""
    by_byte, ranks, vocabulary = _table()
    tokens: list[str] = [by_byte[b] for b in word]
    tokens[-1] += "</w>"
    after = list(range(1, len(tokens) + 1))
    before = list(range(-1, len(tokens) - 1))
    heap = [(ranks[p], i) for i in range(len(tokens) - 1) if (p := f"{tokens[i]} {tokens[i + 1]}") in ranks]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        j = after[i]
        if not tokens[i] or j >= len(tokens) or ranks.get(f"{tokens[i]} {tokens[j]}") != rank:
            continue  # an older pair, of which one half has been merged since
        tokens[i] += tokens[j]
        tokens[j] = ""
        after[i] = after[j]
        if after[i] < len(tokens):
            before[after[i]] = i
        for left in (before[i], i):
            right = after[left] if left >= 0 else len(tokens)
            if right < len(tokens) and (new := ranks.get(f"{tokens[left]} {tokens[right]}")) is not None:
                heapq.heappush(heap, (new, left))
    return [vocabulary[t] for t in tokens if t]
