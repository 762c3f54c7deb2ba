"""What several benchmarks share: a command measured in its own process, and the clock of a stage."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctrlsynth.runs.watch import Watcher

HERE = Path(__file__).parent
PATHS = [str(HERE), str(HERE.parent / "src"), str(HERE.parent / "tests")]
_CTRLSYNTH = """
import atexit, re, sys
from pathlib import Path
from ctrlsynth.cli.main import main
peak = lambda: re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
atexit.register(lambda: print(f"\\npeak {peak()}", file=sys.stderr))
main()
"""
"""`ctrlsynth`, and its peak memory in kB at the end: the one that wait4 reports includes the parent's."""


@dataclass(frozen=True)
class Measured:
    """Wall seconds, processor seconds (user and system, children included), peak MB if known, output."""

    seconds: float
    cpu: float
    out: str
    peak_mb: float = 0.0


def parser(doc: str | None, **numbers: int) -> argparse.ArgumentParser:
    """Returns a parser that shows a script's docstring, with an option per number and its default."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in numbers.items():
        made.add_argument(f"--{name}", type=int, default=default)
    return made


def command(*words: object, cwd: Path | None = None, core: bool = False) -> Measured:
    """Runs a command that finds src, tests and benchmarks; with `core` on one core. Exits if it fails."""
    pinned = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if core else []
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"}
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        [*pinned, *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, words))}\n{done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    peak = done.stderr.rpartition("peak ")[2].strip()
    return Measured(seconds, cpu, done.stdout, int(peak) / 1024 if peak.isdigit() else 0.0)


def ctrlsynth(*words: object, cwd: Path | None = None) -> Measured:
    """Runs a command of ours with --json in a process of its own."""
    return command(sys.executable, "-c", _CTRLSYNTH, *words, "--json", cwd=cwd)


def script(file: str, *words: object, python: str = sys.executable, core: bool = False) -> dict[str, float]:
    """Runs a benchmark script that measures one thing; returns the JSON in its last line."""
    return dict(json.loads(command(python, file, *words, core=core).out.strip().splitlines()[-1]))


@dataclass
class StageClock(Watcher):
    """A run's watcher that notes when a stage begins and ends and when each of its parts is done."""

    folder: str
    began: float = 0.0
    ended: float = 0.0
    parts: list[tuple[float, int]] = field(default_factory=list)
    """(time, rows) of each finished part."""

    def stage(self, folder: str, number: int, parts: int, done: int) -> None:
        """Notes the beginning."""
        self.began = time.perf_counter() if folder == self.folder else self.began

    def part(self, folder: str, index: int, counts: dict[str, int]) -> None:
        """Notes a part."""
        if folder == self.folder:
            self.parts.append((time.perf_counter(), counts["rows"]))

    def finished(self, folder: str) -> None:
        """Notes the end."""
        self.ended = time.perf_counter() if folder == self.folder else self.ended

    def rate(self, workers: int = 1) -> float:
        """Returns rows per second between the first parts of all workers and the last part."""
        seconds = self.parts[-1][0] - self.parts[workers - 1][0]
        return sum(rows for _, rows in self.parts[workers:]) / seconds


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], goal: float) -> None:
    """Prints the ratio of the best of two series of seconds, and its goal."""
    print(f"{name}: {min(ours) / min(theirs):.2f} (goal: at most {goal:g})", flush=True)
