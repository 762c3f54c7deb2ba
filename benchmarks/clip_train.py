"""CLIP training beside open_clip's own loop: the same model, data, threads, batch, precision and loader
processes, in turn.

    python benchmarks/clip_train.py [--model tiny] [--batch 128] [--steps 40] [--rounds 3] [--workers 1]
    [--precision float32|bf16]
                                    [--threads 1] [--rows 1024] [--size 96]

The peer is `open_clip_train.main` as installed, called in a process of its own; so is ours. Both read the
same csv of image files (its reader of webdataset shards does not run beside webdataset 1.0). Pairs/s are
taken from the end of step 5 to the end of the last step, with reading, decoding, augmentation and the
optimiser in them. Captions are those of tests/files (web alt-text, about 12 tokens). `cpu` is the processor
time of the training process alone (without the loader's), in pairs a second: it hardly minds what else the
machine does."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import harness
from ctrlsynth.data.images import encode
from ctrlsynth.export.writers import Sample, write_csv
from ctrlsynth.lang.clip_tokens import count

DATA = Path(__file__).parent.parent / "tests" / "files"
SKIP = 5


def write_data(folder: Path, rows: int, size: int) -> float:
    """Scenes drawn from the captions, as the csv that `ctrlsynth export --format csv` writes; the mean number
    of tokens."""
    from ctrlsynth.models.base import Prompt
    from ctrlsynth.models.embedded.scenes.painter import Scenes

    lines = [
        json.loads(line)
        for name in sorted(DATA.glob("web_captions*.jsonl"))
        for line in name.read_text("utf-8").splitlines()
    ]
    texts = [line["caption"] for line in lines if line["caption"]]
    painted = Scenes().generate([Prompt(t, seed=n, size=(size, size)) for n, t in enumerate(texts)])
    images = [encode(p.image) if p.image is not None else None for p in painted]
    pairs = [(i, t) for i, t in zip(images, texts, strict=True) if i is not None]
    folder.mkdir()
    write_csv(folder, (Sample(image, "jpg", text) for image, text in islice(cycle(pairs), rows)))
    return statistics.fmean(count(t) for _, t in pairs)


class Clock:
    """Wall and processor time at the end of every step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """A step has ended."""
        use = resource.getrusage(resource.RUSAGE_SELF)
        self.marks.append((time.perf_counter(), use.ru_utime + use.ru_stime))

    def rates(self, batch: int) -> dict[str, float]:
        """Pairs a second after the first steps."""
        first, last = self.marks[SKIP - 1], self.marks[-1]
        pairs = batch * (len(self.marks) - SKIP)
        return {"wall": pairs / (last[0] - first[0]), "cpu": pairs / (last[1] - first[1])}


def ours(args: argparse.Namespace, data: Path, out: Path) -> dict[str, float]:
    """Trains with `ctrlsynth.clip.train`."""
    import ctrlsynth.clip.train as loop
    from ctrlsynth.recipe.file import resolve

    clock = Clock()
    step: Callable[..., Any] = loop._Run._step

    def timed(self: Any, *given: Any) -> Any:
        made = step(self, *given)
        clock.mark()
        return made

    loop._Run._step = timed  # type: ignore[method-assign]
    block = resolve(
        {
            "data": [str(data)], "model": args.model, "batch": args.batch, "steps": args.steps,
            "workers": args.workers,
            "precision": args.precision, "save_every": 10**9, "lr": 5e-4, "warmup": 10,
        }
    )  # fmt: skip
    made = loop.train(block, out, base=Path())
    return {**clock.rates(args.batch), "loss": made.loss}


def theirs(args: argparse.Namespace, data: Path, out: Path) -> dict[str, float]:
    """Trains with `open_clip_train.main`."""
    from ctrlsynth.models.device import set_threads
    from ctrlsynth.models.open_clip.load import build, import_open_clip

    import_open_clip()
    set_threads()
    name = build(args.model).name  # also makes `tiny` known to open_clip
    import open_clip_train.main as program
    import open_clip_train.train as loop

    clock = Clock()
    unwrap = loop.unwrap_model  # called once a step, after the optimiser

    def timed(model: Any) -> Any:
        clock.mark()
        return unwrap(model)

    loop.unwrap_model = timed
    epochs = -(-args.steps // (args.rows // args.batch))
    os.chdir(data)  # the file names in the csv count from its folder
    program.main(
        [
            "--model", name, "--dataset-type", "csv", "--train-data", "data.csv", "--csv-separator", ",",
            "--batch-size", str(args.batch), "--epochs", str(epochs), "--workers", str(args.workers),
            "--precision", {"bf16": "amp_bf16", "float32": "fp32"}[args.precision], "--lr", "5e-4", "--wd",
            "0.2", "--beta1", "0.9",
            "--beta2", "0.98", "--eps", "1e-6", "--warmup", "10", "--logs", str(out), "--name", "peer",
            "--log-every-n-steps", "10",
        ]
    )  # fmt: skip
    clock.marks = clock.marks[: args.steps]
    return {**clock.rates(args.batch), "loss": float("nan")}


def main() -> None:
    """Runs both in turn and prints the ratio."""
    parser = harness.parser(__doc__, batch=128, steps=40, rounds=3, workers=1, threads=1, rows=1024, size=96)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--one", nargs=3, metavar=("WHO", "DATA", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        who, data, out = args.one
        print(json.dumps((ours if who == "ours" else theirs)(args, Path(data), Path(out))))
        return
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_data(Path(folder) / "data", args.rows, args.size)
        print(
            f"{args.rows} pairs, {tokens:.1f} tokens a caption; {args.model}, batch {args.batch}, "
            f"{args.precision}, {args.threads} threads"
        )
        rates: dict[str, list[dict[str, float]]] = {"ours": [], "open_clip": []}
        for turn in range(args.rounds):
            for who, made in rates.items():
                made.append(_run(who, Path(folder) / "data", Path(folder) / f"{who}{turn}", args.threads))
                print(
                    f"{who:10} round {turn + 1}: {made[-1]['wall']:8.1f} pairs/s wall, "
                    f"{made[-1]['cpu']:8.1f} cpu",
                    flush=True,
                )
    for kind in ("wall", "cpu"):
        best = {who: statistics.median(r[kind] for r in made) for who, made in rates.items()}
        print(
            f"{kind:5} ours {best['ours']:.1f}, open_clip {best['open_clip']:.1f} pairs/s: "
            f"{best['ours'] / best['open_clip']:.2f} times"
        )


def _run(who: str, data: Path, out: Path, threads: int) -> dict[str, float]:
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, *sys.argv, "--one", who, str(data), str(out)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{who}: {done.stderr[-3000:]}")
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return rates


if __name__ == "__main__":
    main()
