"""The pipeline's own speed: rows a second through read, tag, write, judge with null models, everything on (keys, provenance, parts).

    python benchmarks/pipeline.py --rows 100000             # rows/s and peak memory of one run
    python benchmarks/pipeline.py --memory                  # peak memory at 10,000 and 500,000 rows
    python benchmarks/pipeline.py --distilabel              # tag, write, filter in distilabel in the same run, where it is installed

Every run is a process of its own, held on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
RECIPE = """name: speed
source: {text: captions.jsonl, part_rows: 1000}
models: {tagger: "null_models:NullTagger", llm: "null_models:NullLLM"}
paths: [{speed: [text, tags, text*]}]
image_policy: {styles: {}}
"""
WORDS = ("dog cat table chair street mountain bicycle river woman children market flowers window bridge garden harbour kitchen horse "
         "station lighthouse bread orange train umbrella guitar forest snow beach tower").split()  # fmt: skip


def write_captions(path: Path, rows: int) -> None:
    """`rows` captions of about ten words."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as handle:
        for n in range(rows):
            a, b, c = rng.sample(WORDS, 3)
            handle.write(json.dumps({"key": f"{n:08d}", "caption": f"an old photo of the {a} near a small {b} and the {c}"}) + "\n")


def one_run(rows: int) -> dict[str, float]:
    """Runs the recipe in this process; seconds from the first row to the last part, peak memory in MB."""
    from ctrlsynth.runs import run

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_captions(base / "captions.jsonl", rows)
        (base / "recipe.yaml").write_text(RECIPE)
        started = time.perf_counter()
        made = run(base / "recipe.yaml", base / "run")
        seconds = time.perf_counter() - started
        assert made.ledger()[-1].rows == rows
    return {
        "rows": rows,
        "seconds": seconds,
        "rows_per_s": rows / seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def distilabel_run(rows: int) -> dict[str, float]:
    """The same three steps, tag, write and filter, as distilabel steps with the same null models."""
    import distilabel_peer

    return distilabel_peer.run([f"an old photo of the {WORDS[n % len(WORDS)]} near a small {WORDS[n % 7]}" for n in range(rows)])


def in_process(what: str, rows: int) -> dict[str, float]:
    """One measurement in a fresh process on one core."""
    env = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", core, sys.executable, __file__, "--one", what, "--rows", str(rows)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    return dict(json.loads(out.strip().splitlines()[-1]))


def main() -> None:
    """Prints a line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--distilabel", action="store_true")
    parser.add_argument("--one", choices=["ours", "distilabel"])
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one_run(args.rows) if args.one == "ours" else distilabel_run(args.rows)))
        return
    ours = in_process("ours", args.rows)
    print(f"ctrlsynth   {ours['rows_per_s']:9,.0f} rows/s  {ours['peak_mb']:6.0f} MB peak  (goal: 8,000 rows/s on one core)")
    if args.distilabel:
        peer = in_process("distilabel", min(args.rows, 20_000))
        print(f"distilabel  {peer['rows_per_s']:9,.0f} rows/s  {peer['peak_mb']:6.0f} MB peak")
        print(f"ratio       {ours['rows_per_s'] / peer['rows_per_s']:9.1f}")
    if args.memory:
        small, large = in_process("ours", 10_000), in_process("ours", 500_000)
        ratio = large["peak_mb"] / small["peak_mb"]
        print(f"10,000 rows {small['peak_mb']:.0f} MB, 500,000 rows {large['peak_mb']:.0f} MB, ratio {ratio:.2f} (goal: 1.2)")


if __name__ == "__main__":
    main()
