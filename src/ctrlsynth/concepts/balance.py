"""Balancing (METHODS, section 2): few texts of each frequent concept, all texts of the rare ones. Pure
functions over `Matches`.

With c[e] texts that hold entry e and a threshold t, p[e] = t / max(c[e], t), and a text is kept if any of
independent draws over its entries succeeds: P(keep) = 1 - prod(1 - p[e]). A text without an entry is dropped.

**One draw a text.** The reference draws once for every pair of text and entry. All those draws are
independent, so whether a text is kept is independent of every other text, with probability P. One uniform u a
text and `u < P` gives the same joint distribution, and more: P grows with t, so with the same u a smaller t
keeps a subset of what a larger t keeps. u depends on (seed, caption's id) alone, so the subset depends
neither on the order of the texts nor on the number of parts.

**t for a wanted size M.** Sum of P over all texts grows with t, so it is bracketed: in four rounds every part
returns its expected size for a grid of 17 t. Sizes are whole numbers of 2**-32 texts, so that adding them up
in another order changes nothing, not even the last bit."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from ..recipe.paths import Step
from ..recipe.schema import Recipe
from ..sample import draw, hash_int
from ..storage.files import SCHEMA, disk_errors, making, publish, remove_leftovers
from . import dedupe
from .folder import COLUMNS, MatchFolder, as_lists, of_lists
from .match import Array, Matches

SUFFIXES = (".parquet", ".jsonl", ".csv", ".txt")
Say = Callable[[str, int], None]
"""Called with the name of a pass and the number of captions that it has just done."""

UNIT = 1 << 32
"""Expected sizes are counted in units of 1 / UNIT texts."""
ROUNDS, POINTS = 4, 17


def counts(parts: Iterable[Matches], entries: int) -> Array:
    """c: how many texts of all parts hold each of the bank's `entries` entries, as int64. Call it without
    duplicates."""
    total = np.zeros(entries, np.int64)
    for part in parts:
        total += np.bincount(part.entries, minlength=entries)
    return total


def keep_probabilities(matches: Matches, counts: Array, t: float) -> Array:
    """P(keep) of each text, in 0..1; 0 for a text without an entry. Never falls when t grows, rounding
    included."""
    check_t(t)
    miss = 1.0 - t / np.maximum(counts, t)
    lengths = matches.lengths()
    some = lengths > 0
    out = np.zeros(len(lengths))
    if len(matches.entries):
        out[some] = 1.0 - np.multiply.reduceat(miss[matches.entries], matches.offsets[:-1][some])
    return out


def expected_sizes(matches: Matches, counts: Array, grid: Sequence[float]) -> list[int]:
    """One part's share of the expected size for each t of the grid, in units of 1 / UNIT texts."""
    return [int((keep_probabilities(matches, counts, t) * UNIT).astype(np.int64).sum()) for t in grid]


def solve_t(sizes: Callable[[Sequence[float]], Sequence[int]], counts: Array, size: int) -> float:
    """The t at which `size` texts are expected to be kept.

    `sizes(grid)` gives the expected sizes of the whole pool: `expected_sizes` of every part, added up. It is
    called four times. The answer lies between size / (entries that occur), since a concept keeps t texts at
    most, and the largest count, where all are kept. Raises UserError for a size under 1, a pool without
    matches, and a size above the pool."""
    check_size(size)
    seen = int(np.count_nonzero(counts))
    if seen == 0:
        raise UserError("no text holds an entry of the bank: nothing to balance; is it the right bank?")
    target = size * UNIT
    low, high = size / seen, float(counts.max())
    for number in range(ROUNDS):
        grid = np.geomspace(min(low, high), high, POINTS)
        grid[-1] = high
        found = list(sizes(grid.tolist()))
        if number == 0 and found[-1] < target:
            raise UserError(
                f"size {size:,} is more than the pool: {found[-1] // UNIT:,} texts hold an entry of the bank"
            )
        at = max(i for i, value in enumerate(found) if value <= target or i == 0)
        if at == POINTS - 1:
            return high
        low, high = float(grid[at]), float(grid[at + 1])
    below, above = found[at], found[at + 1]
    return low + (high - low) * max(0, target - below) / (above - below) if above > below else low


def draws(seed: int, ids: Iterable[str]) -> Array:
    """u of each text, in [0, 1): a hash of the seed and the caption's id."""
    return np.fromiter((draw(seed, one, "balance") for one in ids), np.float64)


def keep_mask(matches: Matches, counts: Array, t: float, u: Array) -> Array:
    """Boolean mask of the texts to keep, given uniform draws `u`. Monotone: a larger t keeps a superset."""
    return np.asarray(u < keep_probabilities(matches, counts, t))


def random_mask(u: Array, size: int, pool: int) -> Array:
    """The paper's ablation: every text of the `pool` is as likely as any other, whatever it holds. A smaller
    size is a subset of a larger.

    Raises UserError for a size under 1 or above the pool.
    """
    check_size(size)
    if size > pool:
        raise UserError(f"size {size:,} is more than the pool of {pool:,} texts")
    return np.asarray(u < size / pool)


def check_t(t: float) -> None:
    """Raises UserError for a threshold that is not above 0."""
    if not t > 0 or t == float("inf"):
        raise UserError(
            f"t {t:g}: above 0; SynthCLIP's sample uses 10, MetaCLIP 20,000 for 400 million texts"
        )


def check_size(size: int) -> None:
    """Raises UserError for a wanted size under 1."""
    if size < 1:
        raise UserError(f"size {size}: at least 1")


@dataclass(frozen=True, slots=True)
class Balanced:
    """How a subset was or will be drawn. `captions` = `duplicates` + those without an entry (none with random
    sampling) + `pool`.

    t          None with random sampling
    expected   the mean size over all seeds
    kept       None before the sampling
    """

    captions: int
    duplicates: int
    pool: int
    t: float | None
    expected: float
    seed: int
    kept: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a draw needs to know of all captions: the rows of each batch that are duplicates, and the counts
    of the others."""

    folder: MatchFolder
    duplicates: dict[int, Array]
    counts: Array
    told: Balanced

    def unique(self, number: int, rows: int) -> Array:
        """Boolean mask of the captions of a batch that are not duplicates."""
        mask = np.ones(rows, bool)
        mask[self.duplicates.get(number, [])] = False
        return mask


def plan(
    folder: MatchFolder, *, size: int | None = None, t: float | None = None, random: bool = False,
    seed: int = 0, duplicates: bool = False, say: Say = lambda name, rows: None,
) -> Plan:  # fmt: skip
    """Counts the captions of a folder of matches, and solves t for a wanted size, in passes over its parts.

    Exactly one of `size` and `t`; `random` goes with `size`; `duplicates` leaves them in. Equal captions are
    found in buckets on disk before anything is counted, and which of them stays depends on the ids alone.
    Memory: the counts (8 bytes per entry), a batch of captions, one bucket, and 8 bytes per duplicate.

    Raises UserError for a t that is not above 0, a size under 1 and one above the pool.
    """
    if (size is None) == (t is None) or (random and size is None):
        raise UserError(
            "give the size of the subset (--size M) or the threshold (--t T), one of them; --random goes "
            "with --size"
        )
    if size is not None:
        check_size(size)
    if t is not None:
        check_t(t)
    captions = folder.counts().texts
    repeats = {} if duplicates else _duplicates(folder, seed, say)
    pool = captions - sum(map(len, repeats.values()))
    made = Plan(
        folder,
        repeats,
        np.zeros(folder.entries, np.int64),
        Balanced(captions, captions - pool, pool, t, float(size or 0), seed),
    )

    def batches(name: str) -> Iterator[Matches]:
        for number, batch in enumerate(folder.batches(["entries"])):
            say(name, len(batch))
            yield of_lists(batch["entries"]).select(made.unique(number, len(batch)))

    matched = 0
    for found in batches("counts"):
        made.counts[:] += counts([found], folder.entries)
        matched += int(np.count_nonzero(found.lengths()))
    if random:
        random_mask(np.zeros(0), size or 0, pool)
        return made
    if not matched:
        raise UserError(
            f"{folder.root}: no caption holds an entry of the bank: nothing to balance; is it the right bank?"
        )

    def sizes(grid: Sequence[float]) -> list[int]:
        found = [expected_sizes(batch, made.counts, grid) for batch in batches("sizes")]
        return [sum(column) for column in zip(*found, strict=True)]

    if t is None:
        t = solve_t(sizes, made.counts, size or 0)
    return replace(made, told=replace(made.told, pool=matched, t=t, expected=sizes([t])[0] / UNIT))


def _duplicates(folder: MatchFolder, seed: int, say: Say) -> dict[int, Array]:
    """The rows of each batch that repeat another caption."""

    def scanned() -> Iterator[tuple[int, Any, Any]]:
        for number, batch in enumerate(folder.batches(["id", "text"])):
            say("duplicates", len(batch))
            ranks = np.array([hash_int(seed, i, "duplicate") for i in batch["id"].to_pylist()], np.uint64)
            yield number, dedupe.digests(batch["text"].to_pylist()), ranks

    return dict(dedupe.find(scanned()))


def sample(made: Plan, out: Path, say: Say = lambda name, rows: None) -> Balanced:
    """Draws the subset and writes it, in the corpus' order: .parquet (`id`, `text`, `entries`), .jsonl and
    .csv (`id`, `text`, `concepts`; in csv as a JSON list, since an entry may hold any character) or .txt (a
    text per line). Raises UserError for a file that exists."""
    check_out(out)
    remove_leftovers(out.parent)
    told, kept = made.told, 0
    with disk_errors(out), making(out) as temp:
        with _writer(made, temp, out.suffix) as write:
            for number, batch in enumerate(made.folder.batches(COLUMNS.names)):
                found, u = of_lists(batch["entries"]), draws(told.seed, batch["id"].to_pylist())
                mask = (
                    random_mask(u, int(told.expected), told.pool)
                    if told.t is None
                    else keep_mask(found, made.counts, told.t, u)
                ) & made.unique(number, len(batch))
                chosen = batch.filter(pa.array(mask))
                write(chosen["id"], chosen["text"], found.select(mask))
                kept += chosen.num_rows
                say("sample", len(batch))
        publish(temp, out)
    return replace(told, kept=kept)


def check_out(out: Path) -> None:
    """Raises UserError for a file that exists or whose suffix is not known."""
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out}: a subset is written as {', '.join(SUFFIXES)}")
    if out.exists():
        raise UserError(f"{out}: already exists; give another name")


@contextmanager
def _writer(made: Plan, path: Path, suffix: str) -> Iterator[Callable[[pa.Array, pa.Array, Matches], object]]:
    """A function that appends captions to a subset's file, of any of the formats."""
    folder = made.folder
    if suffix == ".parquet":
        bank = {"bank": folder.bank_digest, "entries_in_bank": folder.entries, "mode": folder.mode}
        facts = {"schema": SCHEMA, **bank, **asdict(made.told)}
        schema = COLUMNS.with_metadata({b"ctrlsynth": json.dumps(facts).encode()})
        with pq.ParquetWriter(path, schema, compression="zstd", write_statistics=False) as table:
            yield lambda *columns: table.write_batch(
                pa.record_batch([*columns[:2], as_lists(columns[2])], schema=COLUMNS)
            )
        return
    names = folder.bank().entries
    with open(path, "w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        if suffix == ".csv":
            rows.writerow(["id", "text", "concepts"])

        def write(ids: pa.Array, texts: pa.Array, found: Matches) -> None:
            for one, text, entries in zip(ids.to_pylist(), texts.to_pylist(), found.lists(), strict=True):
                fields = {"id": one, "text": text, "concepts": [names[e] for e in entries]}
                if suffix == ".txt":
                    stream.write(" ".join(text.split("\n")).replace("\r", " ") + "\n")
                elif suffix == ".csv":
                    rows.writerow([one, text, json.dumps(fields["concepts"], ensure_ascii=False)])
                else:
                    stream.write(json.dumps(fields, ensure_ascii=False) + "\n")

        yield write


def check_balance(recipe: Recipe, steps: Sequence[Step], parts: Sequence[Any]) -> None:
    """Raises UserError for a node without its block, a block without a node, no bank, and a size above the
    number of captions."""
    rule = recipe.balance
    balanced = [s for s in steps if s.kind == "balance"]
    if rule is None:
        if balanced:
            raise UserError(
                f"paths.{balanced[0].paths[0]} holds balance: add a block to the recipe, such as balance: "
                f"{{size: 1000}} or {{t: 10}}"
            )
        return
    if not balanced:
        raise UserError(
            "balance: no path of the recipe holds the node balance; write it behind text or text*"
        )
    if rule.random is None and rule.bank is None and recipe.source.concepts is None:
        raise UserError(
            "balance.bank: name the bank that captions are matched with (the source holds no concepts)"
        )
    key, wanted = ("size", rule.size) if rule.size else ("random", rule.random)
    rows = [part.rows for part in parts]
    if wanted is None or None in rows:
        return
    times = {"write": recipe.variants.write, "paint": recipe.variants.paint}
    by_folder: dict[str | None, Step] = {step.folder: step for step in steps}
    for step in balanced:
        captions, above = sum(rows), by_folder[step.parent]
        while above.parent is not None:
            captions *= 1 if above.family == "caption" else times.get(above.kind, 1)
            above = by_folder[above.parent]
        if wanted > captions:
            raise UserError(
                f"balance.{key}: {wanted:,} captions are wanted, but there will be {captions:,} at most; "
                f"lower it (--set balance.{key}=...), or write more captions a row (variants.write)"
            )
