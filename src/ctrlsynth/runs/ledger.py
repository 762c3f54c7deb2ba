"""Counts of rows: of a stage's parts (`Ledger`, kept in `_stage.json`), and of a stage (`LedgerRow`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import WorkFailed
from ..storage.files import part_counts, read_json, write_json
from ..storage.parts import RunFolder
from .plan import Plan


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
    written = sorted(run.entries(folder), key=lambda found: found[2].written)
    newest = {index: (digest, entry.size) for index, digest, entry in written}
    files = sorted(newest.items())[:most]
    total = totals(counted.get((i, d)) or part_counts(run.part(folder, i, d)) for i, (d, _) in files)
    total |= {"parts": len(files), "bytes": sum(size for _, (_, size) in files)}
    return total | {"counted": len(counted), "first_error": stored.get("first_error")}


class Ledger:
    """The counts of a stage's parts, kept in `_stage.json` so that no footer needs to be opened again."""

    def __init__(self, plan: Plan, run: RunFolder, folder: str) -> None:
        self._plan, self._run, self._folder = plan, run, folder
        self._path = run.stage_file(folder)
        stored = read_json(self._path) or {}
        self.parts: dict[str, Any] = dict(stored.get("parts", {}))
        self.first_error: str | None = stored.get("first_error")

    def add(self, index: int, digest: str, counts: dict[str, Any]) -> None:
        """Takes the counts of a finished part."""
        self.parts[str(index)] = {"digest": digest, **counts}

    def note(self, error: str | None) -> None:
        """Keeps the stage's first error."""
        self.first_error = self.first_error or error

    def complete(self, changed: bool) -> None:
        """Adds the parts that an interrupted run left out and writes the file.

        Raises WorkFailed when no row is left to continue with."""
        wanted = {str(p.index): self._plan.part_digest(self._folder, p) for p in self._plan.parts}
        for index, digest in wanted.items():
            if self.parts.get(index, {}).get("digest") != digest:
                changed = True
                self.add(int(index), digest, self._run.counts(self._folder, int(index), digest))
        if changed or self.parts.keys() != wanted.keys():
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

    def save(self) -> None:
        """Writes `_stage.json`."""
        state = {"folder": self._folder, "digest": self._plan.digests[self._folder]}
        write_json(self._path, {**state, "first_error": self.first_error, "parts": self.parts})
