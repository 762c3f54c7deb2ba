"""The pipeline's own speed: rows a second through read, tag, write, judge with null models, everything on
(keys, provenance, parts).

    python benchmarks/pipeline.py --rows 100000             # rows/s and peak memory of one run
    python benchmarks/pipeline.py --memory                  # peak memory at 10,000 and 500,000 rows
    python benchmarks/pipeline.py --distilabel [PYTHON]     # also in distilabel, which PYTHON has installed

Every run is a process of its own on one core. Processor time (user and system, children included) is shown
beside wall time, because a busy machine disturbs it less."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

RECIPE = """name: speed
source: {text: captions.jsonl, part_rows: 1000}
models: {tagger: "null_models:NullTagger", llm: "null_models:NullLLM"}
paths: [{speed: [text, tags, text*]}]
image_policy: {styles: {}}
"""
WORDS = (
    "dog cat table chair street mountain bicycle river woman children market flowers window bridge "
    "garden harbour kitchen horse station lighthouse bread orange train umbrella guitar forest snow "
    "beach tower"
).split()  # fmt: skip


def write_captions(path: Path, rows: int) -> None:
    """`rows` captions of about ten words."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as handle:
        for n in range(rows):
            a, b, c = rng.sample(WORDS, 3)
            handle.write(
                json.dumps(
                    {"key": f"{n:08d}", "caption": f"an old photo of the {a} near a small {b} and the {c}"}
                )
                + "\n"
            )


def one_run(rows: int) -> dict[str, float]:
    """Runs the recipe in this process; seconds from the recipe's file to the last part, of the clock and of
    processor time; peak MB."""
    from ctrlsynth.api.run import run

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_captions(base / "captions.jsonl", rows)
        (base / "recipe.yaml").write_text(RECIPE)
        started, used = time.perf_counter(), time.process_time()
        made = run(base / "recipe.yaml", base / "run")
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
        assert made.ledger()[-1].rows == rows
    return {
        "rows": rows,
        "seconds": seconds,
        "rows_per_s": rows / seconds,
        "cpu_s": cpu,
        "rows_per_cpu_s": rows / cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def distilabel_run(rows: int) -> dict[str, float]:
    """The same three steps, tag, write and filter, as distilabel steps with the same null models."""
    import distilabel_peer

    return distilabel_peer.run(
        [f"an old photo of the {WORDS[n % len(WORDS)]} near a small {WORDS[n % 7]}" for n in range(rows)]
    )


def in_process(what: str, rows: int, python: str = sys.executable) -> dict[str, float]:
    """One measurement in a fresh process on one core."""
    return harness.script(__file__, "--one", what, "--rows", rows, python=python, core=True)


def show(name: str, found: dict[str, float]) -> None:
    """One line of a measurement."""
    print(
        f"{name:12}{found['rows_per_s']:9,.0f} rows/s{found['rows_per_cpu_s']:9,.0f} rows a CPU second"
        f"{found['peak_mb']:7,.0f} MB peak  ({found['rows']:,.0f} rows)",
        flush=True,
    )


def beside_distilabel(ours: dict[str, float], python: str, rows: int) -> None:
    """The peer's line and the ratios, or one line that says that it is not installed."""
    if subprocess.run(
        [python, "-c", "import distilabel.pipeline"], capture_output=True, check=False
    ).returncode:
        print(
            f"distilabel  not installed for {python}: `pip install distilabel==1.5.3 pillow` into a venv of "
            f"its own, then name its python"
        )
        return
    peer = in_process("distilabel", rows, python)
    show("distilabel", peer)
    clock, cpu = (ours[name] / peer[name] for name in ("rows_per_s", "rows_per_cpu_s"))
    print(f"ratio       {clock:9.1f} by the clock, {cpu:.1f} by CPU")


def main() -> None:
    """Prints a line a measurement."""
    parser = harness.parser(__doc__, rows=100_000)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--distilabel", nargs="?", const=sys.executable, metavar="PYTHON")
    parser.add_argument("--one", choices=["ours", "distilabel"])
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one_run(args.rows) if args.one == "ours" else distilabel_run(args.rows)))
        return
    if args.memory:
        small, large = in_process("ours", 10_000), in_process("ours", 500_000)
        show("ctrlsynth", small)
        show("ctrlsynth", large)
        print(
            f"ratio       {large['peak_mb'] / small['peak_mb']:9.2f} of peak memory (goal: at most 1.2, and "
            f"under 500 MB)"
        )
        return
    ours = in_process("ours", args.rows)
    show("ctrlsynth", ours)
    print("goal            8,000 rows/s on one core")
    if args.distilabel:
        beside_distilabel(ours, args.distilabel, args.rows)


if __name__ == "__main__":
    main()
