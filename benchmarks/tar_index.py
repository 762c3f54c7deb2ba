"""Indexes generated webdataset tars: our one walk over the headers beside `tarfile`'s iteration, each in a
process of its own.

    python benchmarks/tar_index.py [--samples 200000] [--repeats 3]

Prints the best seconds and the peak memory of both, and their ratio. A sample is an image of 2 KB, a .txt and
a .json; the tars are read from the page cache."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import harness

WALKS = ("ours", "tarfile")


def make(folder: Path, samples: int, shard: int = 50_000) -> list[Path]:
    """Shards as webdataset writes them: ustar, keys of nine digits."""
    files = []
    for first in range(0, samples, shard):
        files.append(folder / f"{len(files):05d}.tar")
        with open(files[-1], "wb") as out:
            for number in range(first, min(samples, first + shard)):
                for suffix, size in (("jpg", 2048), ("txt", 60), ("json", 200)):
                    info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    info.size = size
                    out.write(info.tobuf(tarfile.USTAR_FORMAT) + bytes(-(-size // 512) * 512))
            out.write(bytes(1024))
    return files


def ours(path: str) -> int:
    from ctrlsynth.data.tar import samples

    return sum(m.size for sample in samples(path) for m in sample.members.values())


def peer(path: str) -> int:
    """`tarfile` with the same question; its list of headers is cleared, or memory would grow with the tar."""
    total = 0
    with tarfile.open(path, "r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]
            total += member.size if member.isreg() else 0
    return total


def measure(walk: str, files: list[str]) -> None:
    """Prints seconds, peak memory in MB and the sum of all sizes of one walk over the files."""
    read = ours if walk == "ours" else peer
    started = time.perf_counter()
    total = sum(map(read, files))
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, total]))


def main() -> None:
    parser = harness.parser(__doc__, samples=200_000, repeats=3)
    parser.add_argument("--walk", choices=WALKS, help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.walk:
        measure(given.walk, given.files)
        return
    found: dict[str, list[list[float]]] = {walk: [] for walk in WALKS}
    with tempfile.TemporaryDirectory() as folder:
        files = [str(path) for path in make(Path(folder), given.samples)]
        for _ in range(given.repeats):
            for walk in WALKS:
                found[walk].append(
                    json.loads(harness.command(sys.executable, __file__, "--walk", walk, *files).out)
                )
    assert len({total for runs in found.values() for _, _, total in runs}) == 1, "the walks disagree"
    best = {walk: (min(r[0] for r in runs), max(r[1] for r in runs)) for walk, runs in found.items()}
    for walk, (seconds, memory) in best.items():
        print(
            f"{walk:8} {seconds:7.2f} s  {given.samples / seconds:10,.0f} samples/s  {memory:6.0f} MB at most"
        )
    print(f"ours takes {best['ours'][0] / best['tarfile'][0]:.2f} of tarfile's time")


if __name__ == "__main__":
    main()
