"""What the pipeline costs beside its tables, and how fast `--help` answers.

    python benchmarks/overhead.py [--rows 5000] [--rounds 5]

Prints processor time of read, tag, write and judge with null models as a ratio to a plain loop that parses,
hashes and writes the same four tables (goal: at most 2.6), and seconds of `ctrlsynth --help` as a ratio to
`python -c "import typer, rich"` (goal: at most 5). The sides take turns, so that
a busy machine slows both."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import harness
import pipeline
from ctrlsynth.api.run import run


def plain(base: Path) -> float:
    """Processor seconds of what no pipeline can do without, for four tables: parse, hash, dump JSON, write
    and read parquet, a thousand rows at a time."""
    started = time.process_time()
    rows = [json.loads(line) for line in (base / "captions.jsonl").read_text().splitlines()]
    for step in range(4):
        for start in range(0, len(rows), 1000):
            some = rows[start : start + 1000]
            texts = [json.dumps({"step": step, **row}, sort_keys=True) for row in some]
            ids = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]
            out = [
                {"id": i, "record": t, "words": t.split(), **r}
                for i, t, r in zip(ids, texts, some, strict=True)
            ]
            pq.write_table(pa.Table.from_pylist(out), base / "table.parquet", compression="zstd")
            assert pq.read_table(base / "table.parquet").to_pylist() == out
    return time.process_time() - started


def main() -> None:
    """Prints two ratios."""
    given = harness.parser(__doc__, rows=5000, rounds=5).parse_args()
    ours, theirs, helps, bare = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        pipeline.write_captions(base / "captions.jsonl", given.rows)
        (base / "recipe.yaml").write_text(pipeline.RECIPE)
        run(base / "recipe.yaml", base / "warm", limit=500)  # loads tables and words
        for number in range(given.rounds):
            theirs.append(plain(base))
            started = time.process_time()
            run(base / "recipe.yaml", base / str(number))
            ours.append(time.process_time() - started)
            main_ = "from ctrlsynth.cli.main import main; main()"
            helps.append(harness.command(sys.executable, "-c", main_, "--help").seconds)
            bare.append(harness.command(sys.executable, "-c", "import typer, rich").seconds)
    harness.ratio("pipeline / plain loop, processor time", ours, theirs, 2.6)
    harness.ratio("ctrlsynth --help / import typer, rich", helps, bare, 5)


if __name__ == "__main__":
    main()
