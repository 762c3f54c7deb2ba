"""Lists the differences between two plans of one run's folder, in lines that a person can act on."""

from collections.abc import Mapping, Sequence
from typing import Any

_FREE = ("train", "evaluate", "name", "faults", "engines")
"""Blocks of the recipe that no row depends on."""


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns one line per difference of two plan.json: recipe keys first, then stages whose digest changed
    for another reason."""
    lines = [
        f"{key}: {_show(a)} -> {_show(b)}"
        for key, a, b in _flat_diff(old.get("recipe", {}), new["recipe"])
        if key.split(".")[0] not in _FREE
    ]
    limits = old.get("limit"), new["limit"]
    limited = [f"limit: {_show(limits[0])} -> {_show(limits[1])}"] if limits[0] != limits[1] else []
    lost = [] if limited else _lost_parts(old.get("parts", []), new["parts"])
    lines += limited
    before = {s["folder"]: s for s in old.get("steps", [])}
    after = {s["folder"]: s for s in new["steps"]}
    moved = [f for f, s in after.items() if f in before and before[f]["digest"] != s["digest"]]
    banks = {
        f: [(s.get(f) or {}).get("settings", {}).get("bank") for s in (before, after)]
        for f in ("read", "match")
    }
    lines += [f"{f}: bank: {_show(a)} -> {_show(b)}" for f, (a, b) in banks.items() if a and b and a != b]
    if moved and not lines:
        lines = [
            f"{f}: {key}: {_show(a)} -> {_show(b)}"
            for f in moved
            for key, a, b in _flat_diff(before[f].get("settings", {}), after[f]["settings"])
        ] or [f"{', '.join(moved)}: made by other code or files than now"]
    if not (moved or limited or lost) and before.keys() == after.keys():
        return []  # a change that no row depends on (train, evaluate, mix, a path's name)
    return lines + lost or [f"stages: {', '.join(before)} -> {', '.join(after)}"]


def _lost_parts(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Lines for a source that lost parts (a disk that is not mounted?) or reordered them. It may grow at its
    end."""
    lost = sorted(set(old) - set(new))
    if lost:
        named = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        return [
            f"source: {len(lost)} of {len(old)} parts are gone ({named}); --update drops what was made from "
            f"them"
        ]
    if list(new[: len(old)]) != list(old):
        return ["source: its parts are in another order; --update makes those that moved again"]
    return []


def _flat_diff(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [(f"{key}.{n}" if key else str(n), old.get(n), new.get(n)) for n in {**old, **new}]
        return [found for name, a, b in inner for found in _flat_diff(a, b, name)]
    return [] if old == new else [(key, old, new)]


def _show(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
