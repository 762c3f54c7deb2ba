"""Coverage for people and for files: the report that the command line shows, and the lists beside it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .bank import load_bank
from .coverage import Counted, changes, coverage, never_seen, over_represented


def names_of(paths: Sequence[Path], bank: Path | None, digest: str) -> Sequence[str]:
    """The bank's entries: of `bank`, else of the first folder of matches among `paths`. UserError when none
    is at hand or it is another."""
    at = bank or next((p / "bank.parquet" for p in paths if p.is_dir()), None)
    if at is None:
        raise UserError(
            "a subset names its bank by digest alone; say where the bank is with --bank, or compare with "
            "its folder of matches"
        )
    found = load_bank(at)
    if found.digest != digest:
        raise UserError(f"{at} is the bank {found.digest}; the captions were matched with {digest}")
    return found.entries


def report(sets: Sequence[Counted], names: Sequence[str], top: int) -> dict[str, Any]:
    """The concept table with the first `top` entries of each list; of two sets also the entries whose share
    rose and fell most."""
    lines = []
    for one in sets:
        never = never_seen(one)
        most = [[names[i], count] for i, count in over_represented(one)[:top]]
        first = [names[i] for i in never[:top]]
        lines.append(
            {
                **asdict(coverage(one)),
                "never_seen": len(never),
                "never_seen_first": first,
                "over_represented": most,
            }
        )
    told = []
    if len(sets) == 2:
        change = changes(*sets)
        rose, fell = (
            [i for i in np.argsort(sign * change, kind="stable")[:top] if sign * change[i] < 0]
            for sign in (-1, 1)
        )
        for what, some in (("share of texts rose most", rose), ("share of texts fell most", fell)):
            told.append({"what": what, "entries": [[names[i], float(2 ** change[i])] for i in some]})
    return {"bank": sets[0].bank_digest, "sets": lines, "changes": told}


def check_new(sets: int, plot: Path | None, lists: Path | None) -> None:
    """Raises UserError for a plot or a list of this many sets that is there already."""
    wanted = [plot] if plot is not None else []
    if lists is not None:
        wanted += [path for number in range(1, sets + 1) for path in _list_files(lists, number)]
    for path in wanted:
        if path.exists():
            raise UserError(f"{path}: is there already; give another name")


def _list_files(folder: Path, number: int) -> tuple[Path, Path]:
    """Never seen and over-represented, of the set with this number (from 1)."""
    tail = "" if number == 1 else f"-{number}"
    return folder / f"never-seen{tail}.txt", folder / f"over-represented{tail}.csv"


def write_lists(sets: Sequence[Counted], names: Sequence[str], folder: Path) -> None:
    """`never-seen.txt` and `over-represented.csv` (entry, texts, share of texts) of each set; the second
    set's names end in `-2`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(sets, 1):
        never, most = _list_files(folder, number)
        never.write_text("".join(f"{names[i]}\n" for i in never_seen(one)), encoding="utf-8")
        with open(most, "w", encoding="utf-8", newline="") as handle:
            rows = csv.writer(handle, lineterminator="\n")
            rows.writerow(["entry", "texts", "share"])
            rows.writerows(
                [names[i], count, f"{count / max(one.texts, 1):.6f}"] for i, count in over_represented(one)
            )
