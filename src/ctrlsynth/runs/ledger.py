"""Counts of rows: of a stage's parts (`Ledger`, kept in `_stage.json`), and of a stage (`LedgerRow`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..data.rows import SourcePart
from ..errors import WorkFailed
from ..storage.files import part_counts, read_json, write_json
from ..storage.parts import RunFolder, drop
from .plan import Plan
from .watch import Watcher


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Row counts of one stage. `expected` = rows kept upstream x variants; it adds up when expected = ok +
    dropped + failed. `cost`: US dollars by the price table of the recipe's model, if it has one."""

    folder: str
    kind: str
    paths: tuple[str, ...]
    expected: int | None
    rows: int
    ok: int
    dropped: Mapping[str, int]
    failed: Mapping[str, int]
    reused: int
    seconds: float
    tokens: int
    bytes: int
    parts: int
    parts_wanted: int
    first_error: str | None = None
    cost: float | None = None

    @property
    def adds_up(self) -> bool:
        """Whether no row was lost silently; true of every complete stage."""
        return self.parts < self.parts_wanted or self.expected in (
            None,
            self.ok + sum(self.dropped.values()) + sum(self.failed.values()),
        )


def totals(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Adds up the counts of parts: rows, ok, dropped and failed by reason, seconds, tokens, reused."""
    out: dict[str, Any] = {"rows": 0, "ok": 0, "dropped": {}, "failed": {}, "seconds": 0.0, "reused": 0}
    for part in parts:
        for name, value in part.items():
            if name in ("dropped", "failed"):
                for reason, count in value.items():
                    out[name][reason] = out[name].get(reason, 0) + count
            elif isinstance(value, (int, float)):
                out[name] = out.get(name, 0) + value
    return out


def measured(run: RunFolder, folder: str, most: int | None = None) -> dict[str, Any]:
    """Returns the totals of a stage's newest parts (the first `most`), of any plan: from `_stage.json`, else
    from their footers. With `parts`, `bytes`, `counted` (parts in `_stage.json`) and `first_error`."""
    stored = read_json(run.stage_file(folder)) or {}
    counted = {(int(i), p["digest"]): p for i, p in stored.get("parts", {}).items()}
    written = sorted(run.entries(folder), key=lambda found: (found[2].written, found[1]))
    newest = {index: (digest, entry.size) for index, digest, entry in written}
    files = sorted(newest.items())[:most]
    total = totals(counted.get((i, d)) or part_counts(run.part(folder, i, d)) for i, (d, _) in files)
    total |= {"parts": len(files), "bytes": sum(size for _, (_, size) in files)}
    return total | {"counted": len(counted), "first_error": stored.get("first_error")}


class Ledger(Watcher):
    """The counts of a stage's parts, kept in `_stage.json` so that no footer needs to be opened again.

    Passes what it hears of the stage on to the run's watcher."""

    def __init__(self, plan: Plan, run: RunFolder, folder: str, watch: Watcher) -> None:
        self._plan, self._run, self._folder, self._watch = plan, run, folder, watch
        stored = read_json(run.stage_file(folder)) or {}
        self.parts: dict[str, Any] = dict(stored.get("parts", {}))
        self.first_error: str | None = stored.get("first_error")
        self._changed = False

    def begin(self, number: int) -> list[tuple[SourcePart, list[str]]]:
        """Begins the stage, the run's `number`th. Returns its parts that are to be made, each with the
        digests of its earlier versions.

        Removes what finished parts supersede, and what the source no longer has."""
        plan, run, folder = self._plan, self._run, self._folder
        listing = run.listing(folder)
        todo = []
        for part in plan.parts:
            versions = listing.pop(part.index, [])
            wanted = plan.part_digest(folder, part)
            if wanted in versions:
                drop([run.part(folder, part.index, d) for d in versions if d != wanted])
            else:
                todo.append((part, versions))
        drop([run.part(folder, index, d) for index, digests in listing.items() for d in digests])
        self._changed = bool(todo)
        self._watch.stage(folder, number, len(plan.parts), len(plan.parts) - len(todo))
        return todo

    def rows(self, folder: str, rows: int, made: int) -> None:
        self._watch.rows(folder, rows, made)

    def part(self, folder: str, index: int, counts: dict[str, Any]) -> None:
        self.parts[str(index)] = counts
        self._watch.part(folder, index, counts)

    def error(self, folder: str, message: str) -> None:
        self.first_error = self.first_error or message

    def complete(self) -> None:
        """Adds the parts that an interrupted run left out, writes the file and ends the stage.

        Raises WorkFailed when no row is left to continue with."""
        wanted = {str(p.index): self._plan.part_digest(self._folder, p) for p in self._plan.parts}
        for index, digest in wanted.items():
            if self.parts.get(index, {}).get("digest") != digest:
                self._changed = True
                counts = self._run.counts(self._folder, int(index), digest)
                self.parts[index] = {"digest": digest, **counts}
        if self._changed or self.parts.keys() != wanted.keys():
            self.parts = {i: self.parts[i] for i in wanted}
            if not any(p["failed"] for p in self.parts.values()):
                self.first_error = None
            self.save()
        total = totals(self.parts.values())
        may_reject_all = self._plan.box(self._folder).judges is not None
        if total["rows"] and not total["ok"] and (total["failed"] or not may_reject_all):
            reasons = sorted({**total["dropped"], **total["failed"]}.items(), key=lambda r: -r[1])
            causes = ", ".join(f"{reason} x {count}" for reason, count in reasons)
            first = f"; first error: {self.first_error}" if self.first_error else ""
            raise WorkFailed(
                f"{self._folder}: none of {total['rows']} rows came through ({causes}){first}; later stages "
                f"were not run"
            )
        self._watch.finished(self._folder)

    def save(self) -> None:
        """Writes `_stage.json`."""
        state = {"folder": self._folder, "digest": self._plan.digests[self._folder]}
        counts = {"first_error": self.first_error, "parts": self.parts}
        write_json(self._run.stage_file(self._folder), state | counts)
