"""The compiled part of matching: MetaCLIP's spacing rule and a trie over words, on the raw bytes of an arrow
string column.

Importing this module imports numba; `match.py` does so on first use. Compiled code is kept in the user's
cache folder, so the few seconds of compilation are paid once.

A hash only says where to look: a word's length and bytes are compared, and edges of the trie are keys of two
whole numbers, compared whole. No false match is possible. Memory is slow, so a word's record is one cache
line, words up to 8 bytes are stored inline, and a small bit table rejects
most edges that do not exist. The interpreter's lock is released."""

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ..models.cache import cache_dir

_CACHE = True
try:
    (cache_dir() / "numba").mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_dir() / "numba"))
except OSError:  # a home that can't be written to costs the compilation, each time
    _CACHE = False

import numpy as np  # noqa: E402
from numba import njit  # noqa: E402

Array = np.ndarray[Any, np.dtype[Any]]
F = TypeVar("F", bound=Callable[..., Any])

PLAIN, SPACE, WRAPPED = 0, 1, 2
KINDS = np.zeros(256, np.uint8)
"""What the spacing rule does to each byte. All of them are ASCII, so the bytes of longer characters are
plain."""
KINDS[[ord(c) for c in " \t\r\n"]] = SPACE
KINDS[[ord(c) for c in ",.;:?!`"]] = WRAPPED
SPACED = np.where(np.arange(256) == 32, SPACE, PLAIN).astype(np.uint8)
"""For texts that have been through the rule already."""

BITS = 1 << 22
_MIX, _TURN = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_0, _1, _2, _8, _29, _32 = (np.uint64(n) for n in (0, 1, 2, 8, 29, 32))
_63, _6, _LOW, _FILTER = (np.uint64(n) for n in (63, 6, 0xFFFFFFFF, BITS - 1))
_FEW = 48


_jit = cast(Callable[[F], F], njit(cache=_CACHE, nogil=True))
_inline = cast(Callable[[F], F], njit(cache=_CACHE, nogil=True, inline="always"))


@_inline
def _spread(h: Any) -> Any:
    h = (h ^ (h >> _29)) * _MIX
    return h ^ (h >> _32)


@_inline
def _hash(tail: Any, data: Array, start: int, length: int) -> Any:
    """Of a word whose last 8 bytes (or fewer) are `tail`."""
    h = tail ^ (np.uint64(length) * _TURN)
    for i in range(start, start + length - 8):
        h = (h ^ np.uint64(data[i])) * _MIX
    return _spread(h)


@_inline
def _find(h: Any, tail: Any, data: Array, start: int, length: int, words: Array, pool: Array) -> Any:
    """The row of a word in `words`, or -1. Columns: tail; length << 32 | number + 1; entry + 1 << 32 | node;
    its place in `pool`."""
    mask = np.uint64(len(words) - 1)
    at = h & mask
    size = np.uint64(length) << _32
    while True:
        second = words[at, 1]
        if second == _0:
            return np.int64(-1)
        if words[at, 0] == tail and (second & ~_LOW) == size:
            same = True
            first = np.int64(words[at, 3])
            for i in range(length - 8):
                if pool[first + i] != data[start + i]:
                    same = False
                    break
            if same:
                return np.int64(at)
        at = (at + _1) & mask


@_jit
def fill_words(pool: Array, ends: Array, words: Array, places: Array) -> None:
    """Puts the words pool[ends[i]:ends[i + 1]], all different, into the empty table `words` (longer than
    that); `places`: their rows."""
    mask = np.uint64(len(words) - 1)
    for word in range(len(ends) - 1):
        start, length = ends[word], ends[word + 1] - ends[word]
        tail = _0
        for i in range(start, start + length):
            tail = tail << _8 | np.uint64(pool[i])
        at = _hash(tail, pool, start, length) & mask
        while words[at, 1] != _0:
            at = (at + _1) & mask
        words[at, 0] = tail
        words[at, 1] = np.uint64(length) << _32 | np.uint64(word + 1)
        words[at, 3] = np.uint64(start)
        places[word] = at


@_jit
def fill_trie(
    flat: Array, ends: Array, words: Array, places: Array, edges: Array, bits: Array, same: Array
) -> int:
    """Enters every entry, the word numbers flat[ends[e]:ends[e + 1]]; returns how many entries are equal to
    an earlier one.

    words   column 2 of a word's row: the entry of that word alone + 1, and the node of longer entries that
            begin with it (0: none)
    edges   key node << 32 | word (0: free), value as in `words`
    bits    a bit for every edge's hash, more than it has edges
    same    entry -> an earlier entry with the same words, or -1
    """
    mask = np.uint64(len(edges) - 1)
    nodes = _0
    doubles = 0
    for entry in range(len(ends) - 1):
        row = np.uint64(places[flat[ends[entry]]])
        table, column = words, 2
        for i in range(ends[entry] + 1, ends[entry + 1]):
            if table[row, column] & _LOW == _0:
                nodes += _1
                table[row, column] |= nodes
            key = (table[row, column] & _LOW) << _32 | np.uint64(flat[i])
            h = _spread(key)
            bits[(h >> _32 & _FILTER) >> _6] |= _1 << (h >> _32 & _63)
            at = h & mask
            while edges[at, 0] != key and edges[at, 0] != _0:
                at = (at + _1) & mask
            edges[at, 0] = key
            table, column, row = edges, 1, at
        last = table[row, column] >> _32
        same[entry] = np.int64(last) - 1
        if last != _0:
            doubles += 1
        table[row, column] = (table[row, column] & _LOW) | np.uint64(entry + 1) << _32
    return doubles


@_inline
def _cut(data: Array, start: int, end: int, kinds: Array, tails: Array, spans: Array) -> int:
    """Cuts a text into words by the rule: their last 8 bytes, where they begin and how long they are. Returns
    how many."""
    count, first, tail = 0, start, _0
    for i in range(start, end):
        byte = data[i]
        kind = kinds[byte]
        if kind == 0:
            tail = tail << _8 | np.uint64(byte)
            continue
        tails[count], spans[count, 0], spans[count, 1] = tail, first, i - first
        count += 1
        if kind == 2:
            tails[count], spans[count, 0], spans[count, 1] = np.uint64(byte), i, 1
            count += 1
        first, tail = i + 1, _0
    tails[count], spans[count, 0], spans[count, 1] = tail, first, end - first
    return count + 1


@_inline
def _is_new(entry: Any, out: Array, before: int, used: int, seen: Array, stamp: int) -> bool:
    """Returns whether a text has not matched the entry yet: scans its first 48 entries, then uses `seen`."""
    if used - before < _FEW:
        for i in range(before, used):  # noqa: SIM110  (compiled)
            if out[i] == entry:
                return False
        return True
    if used - before == _FEW:
        for i in range(before, used):
            seen[out[i]] = stamp
    return bool(seen[entry] != stamp)


@_inline
def _next(node: Any, word: Any, edges: Array, bits: Array) -> Any:
    """The value of the edge from a node by a word, or 0."""
    key = node << _32 | word
    h = _spread(key)
    if bits[(h >> _32 & _FILTER) >> _6] >> (h >> _32 & _63) & _1 == _0:
        return _0
    mask = np.uint64(len(edges) - 1)
    at = h & mask
    while edges[at, 0] != key:
        if edges[at, 0] == _0:
            return _0
        at = (at + _1) & mask
    return edges[at, 1]


@_jit
def match_texts(
    column: tuple[Array, Array, Array],
    begin: int,
    kinds: Array,
    tables: tuple[Array, Array, Array, Array, Array],
    room: tuple[Array, Array, Array],
    out_offsets: Array,
    out: Array,
) -> int:
    """Matches texts begin.. until all are done or `out` is full, from out[out_offsets[begin]] on; returns how
    many are done. `out_offsets` holds where each text's entries end.

    column   bytes, offsets and validity of an arrow string column
    kinds    KINDS or SPACED
    tables   words, pool, edges, bits and same, as `fill_words` and `fill_trie` made them; `same` is empty
             where no two entries are equal
    room     tails and spans of one text's words, two more than twice its bytes; one number per entry, zero at
             first
    """
    data, offsets, valid = column
    words, pool, edges, bits, same = tables
    tails, spans, seen = room
    used = out_offsets[begin]
    for text in range(begin, len(offsets) - 1):
        before = used
        count = _cut(data, offsets[text], offsets[text + 1], kinds, tails, spans) if valid[text] else 0
        for i in range(count):
            start, length = spans[i, 0], spans[i, 1]
            spans[i, 0] = _find(
                _hash(tails[i], data, start, length), tails[i], data, start, length, words, pool
            )
        for start in range(count):
            if spans[start, 0] < 0:
                continue
            value = words[spans[start, 0], 2]
            at = start
            while True:
                entry = np.int64(value >> _32) - 1
                while entry >= 0:
                    if _is_new(entry, out, before, used, seen, text + 1):
                        if used == len(out):
                            for i in range(before, used):  # this text is matched again with more room
                                seen[out[i]] = 0
                            return text
                        if used - before >= _FEW:
                            seen[entry] = text + 1
                        out[used] = entry
                        used += 1
                    entry = np.int64(same[entry]) if len(same) else np.int64(-1)
                at += 1
                node = value & _LOW
                if node == _0 or at >= count or spans[at, 0] < 0:
                    break
                value = _next(node, (words[spans[at, 0], 1] & _LOW) - _1, edges, bits)
                if value == _0:
                    break
        out_offsets[text + 1] = used
    return len(offsets) - 1
