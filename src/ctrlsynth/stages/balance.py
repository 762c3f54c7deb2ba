"""Fewer captions, and no concept over-represented (SynthCLIP, section 3.2; MetaCLIP's rule): `match` finds
which entries of the bank a caption holds, `balance` decides which captions are kept.

`match` works a part at a time and its result is kept, so that another size costs no matching. `balance` is a
barrier: it counts over all parts (equal captions once), solves t for a wanted size in a few rounds, and then
decides each row by itself. The draw depends on the caption's id."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..concepts import balance, dedupe
from ..concepts.match import Matches, open_matcher
from ..errors import UserError
from ..recipe.paths import Step
from ..sample import child, digest_of, hash_int, key_of
from ..storage.parts import PartView
from .base import Barrier, Each, Item, Stage, kept_rows
from .materials import Materials
from .tables import BALANCE, MATCH


class MatchStage(Stage):
    """One row per caption; one that holds no entry is dropped as `no_match`."""

    schema = MATCH
    reuses = True

    def __init__(self, step: Step, materials: Materials) -> None:
        super().__init__(step, materials)
        self._matcher = open_matcher(materials.recipe, materials.base)
        self._column = materials.text_column(self._parent)
        self._prefix = digest_of("match", self.version, self._matcher.digest)

    def settings(self) -> dict[str, Any]:
        return {"bank": f"{self._matcher.name} {self._matcher.digest}"}

    def items(self, up: PartView) -> Iterator[Item]:
        for i, source_key, text in self.parents(up, [self._column]):
            yield Item(child(i, "match"), i, source_key, key_of(self._prefix, text or ""), text or "")

    def call(self, items: list[Item]) -> list[Any]:
        return self._matcher.match([i.payload for i in items]).lists()

    def columns(self, items: list[Item], answers: list[Any]) -> dict[str, list[Any]]:
        entries = self._matcher.entries
        for item, found in zip(items, answers, strict=True):
            if not found and item.status == "ok":
                item.drop("no_match")
        return {
            "matches": answers,
            "concepts": [[entries[e] for e in found] if found is not None else None for found in answers],
        }


@dataclass(frozen=True, slots=True)
class BarrierPart:
    """One part as the barrier sees it; picklable, so that any process can do its share. `captions`: its rows
    (id, source key, text) that take part; `gone`: the numbers of those that are duplicates."""

    up: PartView
    captions: Callable[[PartView], Iterator[tuple[Any, ...]]]
    matches: str | None
    seed: int
    gone: NDArray[np.int32] | None = None

    def scan(self) -> tuple[int, NDArray[np.uint64], NDArray[np.uint64]]:
        """Returns the part's number, digests, and ranks: by id alone, and another chance than the one that is
        drawn later."""
        rows = list(self.captions(self.up))
        ranks = np.array([hash_int(self.seed, i, "duplicate") for i, _, _ in rows], np.uint64)
        return self.up.index, dedupe.digests([text or "" for _, _, text in rows]), ranks

    def matched(self) -> Matches:
        """Returns the matches of the part's captions that are not duplicates."""
        assert self.matches is not None
        found = stored_matches(self.up, self.matches)
        return found if self.gone is None else found.select(~np.isin(np.arange(len(found)), self.gone))


def stored_matches(up: PartView, folder: str) -> Matches:
    """Returns one part's matches, in the order of its captions; captions without an entry (null in the table)
    have none."""
    lengths, found = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for batch in up.arrow(folder, ["matches"], 8192):
        column = batch.column(0)
        lengths.append(column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
        found.append(column.flatten().to_numpy(zero_copy_only=False).astype(np.int32))
    return Matches(np.cumsum(np.concatenate(lengths)), np.concatenate(found))


class BalanceStage(Barrier):
    """One row per caption that takes part: `ok` with its text, or dropped as `no_match`, `duplicate` or
    `not_sampled`."""

    schema = BALANCE

    def __init__(self, step: Step, materials: Materials) -> None:
        super().__init__(step, materials)
        assert materials.recipe.balance is not None
        self._rule, self._matches = materials.recipe.balance, step.uses.get("matches")
        column = materials.text_column(self._parent)
        self._captions = partial(kept_rows, folder=self._parent, names=[column], rejects=self._rejects)
        self._t, self._share = 0.0, 1.0
        self._counts: NDArray[np.int64] = np.empty(0, np.int64)
        self._gone: Mapping[str, Mapping[str, str]] = {}

    def settings(self) -> dict[str, Any]:
        rule = self._rule.model_dump(mode="json", exclude_none=True, exclude={"bank"})
        return rule | {"near_duplicates": False}  # an option of version 0.1, which is part of the digest

    def policy(self) -> Any:
        return self._seed

    def gather(self, parts: Sequence[PartView], each: Each) -> dict[str, Any]:
        """Returns duplicates, counts and t over all parts, and the expected number of captions.

        Raises UserError for a size that the pool cannot fill. Memory: the counts, one bucket of digests, and
        the numbers of the duplicates."""
        views = [BarrierPart(up, self._captions, self._matches, self._seed) for up in parts]
        sizes: list[int] = []

        def scanned() -> Iterator[Any]:
            for found in each(BarrierPart.scan, views):
                sizes.append(len(found[1]))
                yield found

        gone = dedupe.find(scanned())
        views = [replace(view, gone=gone.get(view.up.index)) for view in views]
        lost, packed = sum(map(len, gone.values())), {str(p): {"duplicate": pack(r)} for p, r in gone.items()}
        state: dict[str, Any] = {"captions": sum(sizes), "duplicates": lost, "gone": packed}
        if self._matches is not None:
            return state | self._by_concepts(views, each)
        pool, wanted = sum(sizes) - lost, self._rule.random or 0
        self._enough("random", wanted, pool, "are no duplicates")
        return state | {"pool": pool, "share": wanted / pool, "expected": wanted}

    def _by_concepts(self, views: Sequence[BarrierPart], each: Each) -> dict[str, Any]:
        pool = 0
        counts = np.zeros(0, np.int64)
        for number, times in each(count_part, views):
            pool += number
            counts, times = (counts, times) if len(counts) >= len(times) else (times.copy(), counts)
            counts[: len(times)] += times

        def sizes(grid: Sequence[float]) -> list[int]:
            found = list(each(partial(size_part, counts=counts, grid=grid), views))
            return [int(size) for size in np.sum(found, axis=0, dtype=object)]

        if self._rule.size is not None:
            self._enough("size", self._rule.size, pool, "hold an entry of the bank and are no duplicates")
            t = balance.solve_t(sizes, counts, self._rule.size)
        else:
            t = float(self._rule.t or 0)
        expected = sizes([t])[0] / balance.UNIT
        seen = int((counts > 0).sum())
        return {"pool": pool, "t": t, "expected": expected, "entries_seen": seen, "counts": pack(counts)}

    def _enough(self, key: str, wanted: int, pool: int, what: str) -> None:
        if wanted > pool:
            raise UserError(
                f"balance.{key}: {wanted:,} captions are wanted, but only {pool:,} {what}; lower it, or "
                f"write "
                f"more captions a concept (variants.write)"
            )

    def settle(self, state: Mapping[str, Any]) -> None:
        """Takes what `gather` found."""
        self._t, self._share = state.get("t", 0.0), state.get("share", 1.0)
        self._counts = unpack(state["counts"], np.int64) if "counts" in state else self._counts
        self._gone = state["gone"]

    def items(self, up: PartView) -> Iterator[Item]:
        gone = self._gone.get(str(up.index), {})
        fates = {row: why for why, rows in gone.items() for row in unpack(rows).tolist()}
        chances, rows = self._chances(up), list(self._captions(up))
        draws = balance.draws(self._seed, [row_id for row_id, _, _ in rows])
        for number, (row_id, source_key, text) in enumerate(rows):
            chance = self._share if chances is None else float(chances[number])
            why = fates.get(number) or ("no_match" if chance == 0 else None)
            payload = (text or "", None if why else chance)
            key = key_of("balance", text or "")
            item = Item(child(row_id, "balance"), row_id, source_key, key, payload)
            if why or draws[number] >= chance:
                item.drop(why or "not_sampled")
            yield item

    def _chances(self, up: PartView) -> Any:
        """The chance of every caption of the part, 0 without an entry; None if captions are drawn at
        random."""
        if self._matches is None:
            return None
        found = stored_matches(up, self._matches)
        if not len(self._counts):
            return np.zeros(len(found))
        lacking = max(int(found.entries.max(initial=-1)) + 1 - len(self._counts), 0)
        counts = np.pad(self._counts, (0, lacking))  # an entry that only duplicates hold was not counted
        return balance.keep_probabilities(found, counts, self._t)

    def columns(self, items: list[Item], answers: list[Any]) -> dict[str, list[Any]]:
        return {
            "text": [i.payload[0] if i.status == "ok" else None for i in items],
            "chance": [i.payload[1] for i in items],
        }


def count_part(part: BarrierPart) -> tuple[int, Any]:
    """Counts one part: captions that hold an entry, and how many hold each entry."""
    found = part.matched()
    entries = int(found.entries.max(initial=-1)) + 1
    return int((found.lengths() > 0).sum()), balance.counts([found], entries)


def size_part(part: BarrierPart, counts: Any, grid: Sequence[float]) -> list[int]:
    """Returns one part's share of the expected size for each t of a grid."""
    return balance.expected_sizes(part.matched(), counts, grid)


def pack(numbers: NDArray[Any]) -> str:
    """Encodes an array of integers as text for a JSON file."""
    return base64.b85encode(np.ascontiguousarray(numbers).tobytes()).decode()


def unpack(text: str, kind: Any = np.int32) -> NDArray[Any]:
    """Decodes the array of `pack`, whose numbers are of this kind."""
    return np.frombuffer(base64.b85decode(text), kind)
