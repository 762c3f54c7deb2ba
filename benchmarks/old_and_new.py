"""This checkout beside an older one: the same work by both in turn, each in a process of its own.

    python benchmarks/old_and_new.py OLD [--rounds 5] [--only pipeline again ...]

OLD is a checkout of another commit with an environment in OLD/.venv (`git worktree add OLD COMMIT`, then
`make .stamps/dev` in it). Prints the median processor seconds (children included) and the largest peak memory
of a process for both, and the ratio new / old. A ratio above 1.05 is marked.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import clip_train
import harness

ROOT = Path(__file__).parent.parent
_TARS = """
import io, sys, tarfile
from collections import Counter
from pathlib import Path
try:
    from ctrlsynth.clip.data.tars import _scan_all
except ImportError:
    from ctrlsynth.clip.tars import _scan_all
path = Path(sys.argv[1])
if not path.exists():
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as out:
        for n in range(int(sys.argv[2])):
            for end, size in ((".jpg", 2048), (".txt", 60), (".json", 200)):
                member = tarfile.TarInfo(f"{n:09d}{end}")
                member.size = size
                out.addfile(member, io.BytesIO(b"x" * size))
    sys.exit()
print(len(_scan_all([str(path)], ["text"], Counter())))
"""
WORK: dict[str, Sequence[str]] = {
    "pipeline": ("benchmarks/pipeline.py", "--one", "ours", "--rows", "50000"),
    "again": ("benchmarks/again.py", "--images", "3000", "--shards", "5"),
    "scale": ("benchmarks/scale.py", "--rows", "3000", "--parts", "500"),
    "server_stage": ("benchmarks/server_stage.py", "--rows", "32", "--rounds", "1", "--part", "16"),
    "clip_train": ("benchmarks/clip_train.py", "--steps", "12", "--one", "ours", "{pairs}", "{out}"),
    "tar_index": ("-c", _TARS, "{tar}", "150000"),
}
"""Name -> the words behind `python`, run from the checkout. `{pairs}` is a small data set to train on,
`{out}` a new folder."""


def measure(checkout: Path, words: Sequence[str]) -> tuple[float, float]:
    """Runs one piece of work; returns its processor seconds and the peak memory of its largest process in
    MB."""
    python = checkout / ".venv" / "bin" / "python"
    paths = [str(checkout / "src"), str(checkout / "tests"), str(checkout / "benchmarks")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [str(python), *words], cwd=checkout, env=env, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, used = os.wait4(child.pid, 0)
        if status:
            errors.seek(0)
            sys.exit(f"failed in {checkout}: {' '.join(words)[:200]}\n{errors.read().decode()[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Prints one line per piece of work."""
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("old", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(WORK), default=list(WORK))
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(f"{'':14}{'old s':>9}{'new s':>9}{'ratio':>8}{'old MB':>9}{'new MB':>9}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            if "{pairs}" in WORK[name]:
                clip_train.write_data(Path(folder, "pairs"), rows=512, size=96)
            sides = {"old": args.old.resolve(), "new": ROOT}
            found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
            for turn in range(args.rounds + 1):  # the first warms caches up and is not counted
                for side, checkout in sides.items():
                    places = {"tar": "index.tar", "pairs": "pairs", "out": f"{side}{turn}"}
                    words = WORK[name]
                    for place, file in places.items():
                        words = [word.replace(f"{{{place}}}", f"{folder}/{file}") for word in words]
                    found[side].append(measure(checkout, words))
            cpu = [statistics.median(s for s, _ in found[side][1:]) for side in sides]
            peak = [statistics.median(m for _, m in found[side][1:]) for side in sides]
            mark = "  slower" if cpu[1] > 1.05 * cpu[0] else "  larger" if peak[1] > 1.05 * peak[0] else ""
            print(
                f"{name:14}{cpu[0]:9.2f}{cpu[1]:9.2f}{cpu[1] / cpu[0]:8.2f}"
                f"{peak[0]:9.0f}{peak[1]:9.0f}{peak[1] / peak[0]:8.2f}{mark}",
                flush=True,
            )


if __name__ == "__main__":
    main()
