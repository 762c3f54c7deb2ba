"""The Ray engine on this machine: two workers against one on CPU-bound tagging, and the engine's own time a
row with Ray and without.

    python benchmarks/ray_engine.py                        # both; needs two free cores and about ten minutes
    python benchmarks/ray_engine.py --rows 20000 --images 200    # smaller

Tagging: the stage `tag` alone, by one actor and by two, over drawn scenes, with the `reference` tagger and
with `imagenet` (EfficientNet), on one thread per actor. Measures the steady state, from the first finished
part to the last; prints the actors' start-up time and the number of busy cores beside it. Own time: the null
models of `pipeline.py` through read, tag, write and judge, so that only the engine's time remains."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import harness

GOAL_RATIO, GOAL_MS = 1.7, 1.0


class ActorsClock(harness.StageClock):
    """A clock that also notes the processor time of all actors at each part."""

    def part(self, folder: str, index: int, counts: dict[str, int]) -> None:
        """Notes a part and the processor time so far."""
        super().part(folder, index, counts)
        if folder == self.folder:
            self.spent = [*getattr(self, "spent", []), actors_seconds()]

    def busy(self, workers: int) -> float:
        """Returns the cores that the actors kept busy between the first parts of all workers and the last
        part. Some of the last seconds are missing if an actor has ended."""
        seconds = self.parts[-1][0] - self.parts[workers - 1][0]
        return (max(self.spent) - self.spent[workers - 1]) / seconds


def pictures(folder: Path, count: int) -> None:
    """Scenes of two things, 192 pixels, each with a caption."""
    import random

    from ctrlsynth.models.base import Prompt
    from ctrlsynth.models.embedded.scenes.painter import Scenes
    from ctrlsynth.models.embedded.scenes.vocabulary import COLOURS

    folder.mkdir()
    rng, painter = random.Random(0), Scenes(192)
    for n in range(count):
        (one, two), (three, four) = (
            rng.sample(list(COLOURS), 2),
            rng.sample(["dog", "cat", "car", "tree", "house", "boat", "horse"], 2),
        )
        text = f"a {one} {three} left of a {two} {four}"
        image = painter.generate([Prompt(text, seed=n, size=(192, 192))])[0].image
        assert image is not None
        image.save(folder / f"{n:05d}.png")
        (folder / f"{n:05d}.txt").write_text(f"{text}\n")


def actors_seconds() -> float:
    """Processor seconds of all actors that run a stage by now."""
    import psutil

    spent = (p.cpu_times() for p in psutil.process_iter(["name"]) if "MapWorker" in (p.info["name"] or ""))
    return sum(t.user + t.system for t in spent)


def tagging(base: Path, tagger: str, images: int) -> None:
    """Two actors against one."""
    from ctrlsynth.api.run import run
    from ctrlsynth.recipe.file import parse_recipe

    if not (base / "pictures").exists():
        pictures(base / "pictures", images)
    rates = {}
    for workers in (1, 2, 1, 2):
        recipe = parse_recipe(
            {
                "name": "tagging",
                "source": {"folder": str(base / "pictures"), "part_rows": 20},
                "models": {"tagger": tagger},
                "paths": [{"tags": ["image", "tags"]}],
                "judge": None,
                "engines": {"ray": {"tag": {"concurrency": workers}}},
            }
        )
        shutil.rmtree(base / tagger / "tag", ignore_errors=True)
        clock = ActorsClock("tag")
        run(recipe, base / tagger, base=base, engine="ray", watcher=clock)
        rates[workers] = max(rates.get(workers, 0.0), clock.rate(workers))
        start = clock.parts[0][0] - clock.began
        print(
            f"{tagger}, {workers} actors {clock.rate(workers):9,.1f} rows/s, {clock.busy(workers):.2f} "
            f"cores busy "
            f"({images} images; the first part after {start:.1f} s)",
            flush=True,
        )
    print(
        f"{tagger}, ratio     {rates[2] / rates[1]:9.2f} (goal: {GOAL_RATIO} on 2 cores; best of two each)",
        flush=True,
    )


def own_time(base: Path, rows: int) -> None:
    """Milliseconds a row through four stages with models that do nothing."""
    import pipeline
    from ctrlsynth.api.run import run

    pipeline.write_captions(base / "captions.jsonl", rows)
    (base / "recipe.yaml").write_text(pipeline.RECIPE)
    for engine in ("local", "ray"):
        clock = harness.StageClock("judge-text")
        started = time.perf_counter()
        made = run(base / "recipe.yaml", base / engine, engine=engine, watcher=clock)  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        assert made.ledger()[-1].rows == rows
        steady = 1000 / clock.rate(1)
        print(
            f"own time, {engine:5} {1000 * seconds / rows:7.3f} ms a row with everything, {steady:.3f} once "
            f"the last stage runs "
            f"({rows:,} rows; goal: under {GOAL_MS:g})",
            flush=True,
        )


def main() -> None:
    """Starts a Ray of two CPUs, prints a line a measurement."""
    parser = harness.parser(__doc__, rows=100_000, images=600)
    parser.add_argument("--only", choices=["tagging", "own"])
    args = parser.parse_args()
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(harness.PATHS),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    sys.path[:0] = harness.PATHS
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            if args.only != "own":
                for tagger in ("reference", "imagenet"):
                    tagging(Path(folder), tagger, args.images)
            if args.only != "tagging":
                own_time(Path(folder), args.rows)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
