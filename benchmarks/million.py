"""Match, balance to 10%, coverage on at least a million real short texts: wall time, processor time and peak
memory of each command.

    python benchmarks/million.py [--texts 1000000] [--work DIR] [--dict FILE ...] [--ray] [--out results.json]

The texts are what a machine has: WordNet's definitions and examples, the sentences of the docstrings and
documents of the Python packages in this environment, dictionaries in dictd's format (Debian's dict-gcide,
dict-foldoc, dict-jargon and dict-devil, found where that system keeps them, or given with --dict), the
one-line descriptions of Debian's packages, and the documents of those that are installed. Repeats stay: real
captions have them. When all of that is fewer than --texts, captions generated from WordNet's words by Zipf's
law fill it up, and the output says how many. The bank is that of `match.py`: 500,000 entries.

Every stage is the command itself in a process of its own. The ratios compare `concepts match` as a whole
(reading, matching, writing) with what pyahocorasick and the plain rule alone need for a sample of the same
texts, and the matcher alone with the same. With --ray, matching and coverage run with `--engine ray` too, and
a recipe of match and balance with both engines, which must keep as many (peak memory is the driver's)."""

from __future__ import annotations

import contextlib
import glob
import gzip
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

import harness
import match as peers
from ctrlsynth.api.run import Run
from ctrlsynth.concepts.match import Matcher
from ctrlsynth.lang import wordnet

_DOC = re.compile(r'(?:"""|\'\'\')(.*?)(?:"""|\'\'\')', re.S)
_END = re.compile(r"(?<=[.!?;])\s+|\n\s*\n")
FILES = 8
_PROSE = re.compile(r"[A-Z][^\n{}<>=_|\\\[\]()#*/@$%^~+]{19,299}")

RECIPE = """
name: million
source: {{text: corpus/*.txt, part_rows: 25000}}
paths: {{balanced: [text, balance]}}
balance: {{size: {size}, bank: bank.txt}}
judge: null
"""
"""Match and balance as nodes of a path: the part of a run that `concepts match` and `concepts balance` do
alone."""


def sentences(text: str) -> Iterator[str]:
    """What reads like a sentence: 20 to 300 letters, four words at least, no code."""
    for piece in _END.split(text):
        line = " ".join(piece.split())
        if _PROSE.fullmatch(line) and line.count(" ") >= 3:
            yield line


def from_wordnet() -> Iterator[str]:
    """Definitions and examples."""
    for synset in wordnet.all_synsets():
        yield from (clause.strip(' "') for clause in synset.gloss.split(";") if clause.strip(' "'))


def from_packages() -> Iterator[str]:
    """Docstrings, comments of several lines and documents of the installed Python packages."""
    for path in sorted(Path(sys.prefix, "lib").rglob("*")):
        code = path.suffix in (".py", ".pyi")
        if not code and path.suffix not in (".md", ".rst", ".txt") and path.name != "METADATA":
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for block in _DOC.findall(text) if code else [text]:
            yield from sentences(block)


def from_dictionaries(files: Sequence[str]) -> Iterator[str]:
    """Definitions of dictd's dictionaries, cut at their sentences."""
    for file in files:
        with gzip.open(file) as stream:
            text = stream.read().decode("utf-8", "replace")
        for piece in _END.split(text):
            line = " ".join(piece.split())
            if 20 <= len(line) <= 300 and line.count(" ") >= 3:
                yield line


def from_debian() -> Iterator[str]:
    """One-line descriptions of all packages that apt knows, and sentences of the documents under
    /usr/share/doc, where there are such."""
    if shutil.which("apt-cache"):
        told = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
        lines = (line.partition(": ")[2] for line in told.splitlines() if line.startswith("Description: "))
        yield from (line for line in lines if line.count(" ") >= 3)
    for path in sorted(Path("/usr/share/doc").rglob("*")):
        if path.is_file() and path.name != "copyright" and "changelog" not in path.name.lower():
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            yield from sentences(data.decode("utf-8", "replace"))


def generated(count: int) -> Iterator[str]:
    """Captions of WordNet's nouns, drawn by Zipf's law."""
    chance = random.Random(0)
    nouns = list(wordnet.lemma_names("n"))
    chance.shuffle(nouns)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(nouns))))
    for _ in range(count):
        one, two, three = chance.choices(nouns, cum_weights=weights, k=3)
        yield f"A photo of a {one} and a {two}, near the {three}."


def write_corpus(folder: Path, count: int, dictionaries: Sequence[str]) -> dict[str, int]:
    """Writes `count` texts, a line each, into `FILES` files in turn (a file is what a thread takes); returns
    how many came from where."""
    told: dict[str, int] = {}
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{n}.txt", "w", encoding="utf-8")) for n in range(FILES)]
        outs = itertools.cycle(files)
        sources = {
            "wordnet": from_wordnet(),
            "dictionaries": from_dictionaries(dictionaries),
            "python packages": from_packages(),
            "debian": from_debian(),
        }
        for name, texts in sources.items():
            told[name] = 0
            for text in texts:
                if sum(told.values()) >= count:
                    break
                next(outs).write(text + "\n")
                told[name] += 1
        told["generated"] = max(0, count - sum(told.values()))
        for text in generated(told["generated"]):
            next(outs).write(text + "\n")
    return told


def timed(*words: object) -> dict[str, float]:
    """One `ctrlsynth` command in a process of its own."""
    found = harness.ctrlsynth(*words)
    return {
        "wall s": round(found.seconds, 1),
        "processor s": round(found.cpu, 1),
        "peak MB": round(found.peak_mb),
    }


def main() -> None:
    """Prints what was measured as JSON, and writes it with --out."""
    parser = harness.parser(__doc__, texts=1_000_000, entries=500_000)
    parser.add_argument(
        "--work", type=Path, help="a folder for corpus, matches and subset; a temporary one unless given"
    )
    parser.add_argument("--dict", nargs="*", default=sorted(glob.glob("/usr/share/dictd/*.dict.dz")))
    parser.add_argument(
        "--ray",
        action="store_true",
        help="match once more with --engine ray, and match and balance as a recipe, with both engines",
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="ctrlsynth-million-"))
    work.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"texts": write_corpus(work / "corpus", options.texts, options.dict)}
    texts = [
        line
        for path in sorted((work / "corpus").iterdir())
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]
    ]
    told["letters a text"] = round(sum(map(len, texts)) / len(texts), 1)
    entries = peers.bank(options.entries)
    (work / "bank.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    told["entries"] = len(entries)
    match = ("concepts", "match", work / "corpus", "--bank", work / "bank.txt", "--out")
    told["match"] = timed(*match, work / "matches")
    told["match, 2 threads"] = timed(*match, work / "matches-2", "--workers", 2)
    if options.ray:
        told["match, ray"] = timed(*match, work / "matches-ray", "--engine", "ray")
    told["balance to 10%"] = timed(
        "concepts", "balance", work / "matches", "--size", len(texts) // 10, "--out", work / "subset.parquet"
    )
    told["coverage"] = timed(
        "concepts",
        "coverage",
        work / "matches",
        "--vs",
        work / "subset.parquet",
        "--plot",
        work / "coverage.png",
    )
    if options.ray:
        told["coverage, ray"] = timed(
            "concepts", "coverage", work / "matches", "--vs", work / "subset.parquet", "--engine", "ray"
        )
        (work / "recipe.yaml").write_text(RECIPE.format(size=len(texts) // 10), encoding="utf-8")
        for engine in ("local", "ray"):
            told[f"recipe, {engine}"] = timed(
                "run", work / "recipe.yaml", "--out", work / f"run-{engine}", "--engine", engine
            )
            told[f"recipe, {engine}"]["kept"] = sum(
                row.ok for row in Run.open(work / f"run-{engine}").ledger() if row.kind == "balance"
            )
        if told["recipe, local"]["kept"] != told["recipe, ray"]["kept"]:
            raise SystemExit("the two engines keep different captions")
    sample = random.Random(0).sample(texts, min(len(texts), 20_000))
    rates, _ = peers.peers(entries, sample, 2)
    rates["ours"] = peers.ours(Matcher(entries), pa.array(texts[:: max(1, len(texts) // 200_000)]), 3)["ours"]
    told["texts a second"] = {name: round(rate) for name, rate in rates.items()}
    whole = len(texts) / told["match"]["processor s"]
    told["matcher against"] = {
        name: round(rates["ours"] / rate, 1) for name, rate in rates.items() if name != "ours"
    }
    told["concepts match as a whole against"] = {
        name: round(whole / rate, 1) for name, rate in rates.items() if name != "ours"
    }
    print(json.dumps(told, indent=1))
    if options.out:
        options.out.write_text(json.dumps(told, indent=1) + "\n")
    if options.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
