"""Balance to 10% on captions of five entries each: time and peak memory of `concepts match` and `concepts
balance` as the pool grows.

    python benchmarks/balance.py [--captions 1000000 10000000] [--work DIR] [--out results.json]

The captions are generated: five words of the bank, drawn by Zipf's law, a million lines a file. The bank is
the single words of `match.py`'s (170,000), so that a caption holds five entries exactly. Every stage is the
command itself in a process of its own, on one core. Goals: a million captions balanced in under 20 s; the
same peak memory whatever the number of captions."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import harness
import match as peers
from million import timed

MATCHES, LINES = 5, 1_000_000


def write_captions(folder: Path, words: list[str], count: int) -> None:
    """`count` lines of `MATCHES` distinct words."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number, start in enumerate(range(0, count, LINES)):
        lines = min(LINES, count - start)
        ranks = np.exp(rng.uniform(0, np.log(len(words)), size=(lines, 2 * MATCHES))).astype(
            np.int64
        )  # rank r by about 1 / r
        with open(folder / f"{number:05}.txt", "w", encoding="utf-8") as out:
            for row in ranks.tolist():
                chosen = list(dict.fromkeys(row))[:MATCHES]
                while len(chosen) < MATCHES:
                    chosen = list(dict.fromkeys([*chosen, int(rng.integers(len(words)))]))
                out.write(" ".join(words[r] for r in chosen) + "\n")


def main() -> None:
    """Prints what was measured as JSON, and writes it with --out."""
    parser = harness.parser(__doc__)
    parser.add_argument("--captions", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument(
        "--work", type=Path, help="a folder for captions and matches; a temporary one unless given"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="ctrlsynth-balance-"))
    work.mkdir(parents=True, exist_ok=True)
    words = [entry for entry in peers.bank(10_000_000) if entry.isalpha()]
    (work / "bank.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    told: dict[str, Any] = {"entries": len(words)}
    for count in options.captions:
        corpus, matches, subset = (
            work / f"captions-{count}",
            work / f"matches-{count}",
            work / f"subset-{count}.parquet",
        )
        write_captions(corpus, words, count)
        told[f"{count:,} captions"] = {
            "match": timed("concepts", "match", corpus, "--bank", work / "bank.txt", "--out", matches),
            "balance to 10%": timed("concepts", "balance", matches, "--size", count // 10, "--out", subset),
        }
        print(json.dumps(told, indent=1), flush=True)
        shutil.rmtree(corpus)
        shutil.rmtree(matches)
        subset.unlink()
    if options.out:
        options.out.write_text(json.dumps(told, indent=1) + "\n")
    if options.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
