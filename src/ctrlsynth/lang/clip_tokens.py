"""Counts the CLIP tokens of a text (1d) or a prompt with the real byte-pair table, without torch.

CLIP's text tower, and the diffusion models that use it, silently cut at 77 tokens; every text and prompt of a
run therefore carries its count. The ids equal those of open_clip's tokenizer for the OpenAI vocabulary: text
repaired by ftfy, HTML entities resolved twice, white space joined, lower case, split into words, bytes merged
by rank."""

import gzip
import heapq
import html
from functools import cache, lru_cache
from importlib import resources
from typing import Any

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
def _splitter() -> Any:
    import regex

    return regex.compile(_WORD, regex.IGNORECASE)


_chunk = lru_cache(maxsize=32768)(_ids)  # words repeat; long chunks are not kept, so memory stays bounded


@cache
def _table() -> tuple[dict[int, str], dict[str, int], dict[str, int]]:
    """Byte -> its letter in the table, `"a b"` -> rank of this merge, token -> id. About 50 ms, once."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    letter_of = {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(rest)}
    letters = list(letter_of.values())
    path = resources.files("ctrlsynth.lang") / "data" / "bpe_simple_vocab_16e6.txt.gz"
    with path.open("rb") as packed, gzip.open(packed) as file:
        file.readline()  # a line about the version
        merges = [file.readline().decode("utf-8").rstrip("\n") for _ in range(_MERGES)]
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    vocabulary = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    vocabulary.update((merge.replace(" ", "", 1), 512 + rank) for rank, merge in enumerate(merges))
    return letter_of, ranks, vocabulary


def _merged(word: bytes) -> list[int]:
    """The ids of one word: merges the neighbours of the lowest rank, from the left, until no pair has a rank.

    A heap of ranks and links between neighbours take n log n, so even a word of 100,000 letters is fast.
    Merging pair by pair equals the reference's merging rank by rank, because in this table a token is made
    before any merge that uses it: new pairs have higher ranks."""
    letter_of, ranks, vocabulary = _table()
    tokens = [letter_of[b] for b in word]
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
