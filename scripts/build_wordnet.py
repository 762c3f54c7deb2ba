"""Packs the WordNet 3.0 database files into the two tables that `ctrlsynth.lang.wordnet` opens.

    python scripts/build_wordnet.py /usr/share/wordnet src/ctrlsynth/lang/data

The folder is the `dict/` of WordNet 3.0 (Debian: package wordnet-base). The same files give the same bytes.
Format of the database files: wndb(5WN), cntlist(5WN). What each array holds: `TABLE` below, and
`ctrlsynth/lang/wordnet.py`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

POS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}  # the order of rows and of sense lists
TYPES = "nvars"  # ss_type of a synset; `s` is an adjective satellite
SENSE_TYPE = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}  # the number in a sense key -> part of speech


@dataclass
class Synsets:
    """The data.* files in row order: nouns, verbs, adjectives, adverbs, each by offset."""

    offsets: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    lexfiles: list[int] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    glosses: list[str] = field(default_factory=list)
    above: list[tuple[list[tuple[str, int]], list[tuple[str, int]]]] = field(
        default_factory=list
    )  # (kinds, instances) as (pos, offset)
    rows: dict[tuple[str, int], int] = field(default_factory=dict)


def records(path: Path) -> list[str]:
    """The lines of a database file behind its licence, which is indented by two spaces."""
    return [line for line in path.read_text(encoding="ascii").splitlines() if not line.startswith("  ")]


def read_data(folder: Path) -> Synsets:
    """`offset lex_filenum ss_type w_cnt word lex_id ... p_cnt symbol offset pos source ... [frames] |
    gloss`."""
    out = Synsets()
    for pos, name in POS.items():
        for line in records(folder / f"data.{name}"):
            head, _, gloss = line.partition(" | ")
            parts = head.split()
            count = int(parts[3], 16)
            words = [
                w.partition("(")[0] for w in parts[4 : 4 + 2 * count : 2]
            ]  # `galore(ip)`: a marker of adjectives
            at = 4 + 2 * count
            pointers = [
                (parts[i], parts[i + 2], int(parts[i + 1]))
                for i in range(at + 1, at + 1 + 4 * int(parts[at]), 4)
            ]
            out.rows[pos, int(parts[0])] = len(out.offsets)
            out.offsets.append(int(parts[0]))
            out.types.append(TYPES.index(parts[2]))
            out.lexfiles.append(int(parts[1]))
            out.words.append("|".join(words))
            out.glosses.append(gloss.strip())
            out.above.append(
                ([p[1:] for p in pointers if p[0] == "@"], [p[1:] for p in pointers if p[0] == "@i"])
            )
    return out


def read_index(folder: Path, rows: dict[tuple[str, int], int]) -> dict[str, dict[str, list[int]]]:
    """pos -> lemma -> synset rows, first sense first: `lemma pos synset_cnt p_cnt [symbols] sense_cnt
    tagsense_cnt offset ...`."""
    out: dict[str, dict[str, list[int]]] = {}
    for pos, name in POS.items():
        out[pos] = {}
        for line in records(folder / f"index.{name}"):
            parts = line.split()
            out[pos][parts[0]] = [rows[pos, int(offset)] for offset in parts[-int(parts[2]) :]]
    return out


def read_counts(folder: Path) -> dict[tuple[str, str, int], int]:
    """(pos, lemma, sense number) -> times tagged in the semantic concordances: `sense_key sense_number
    tag_cnt`."""
    out: dict[tuple[str, str, int], int] = {}
    for line in (folder / "cntlist.rev").read_text(encoding="ascii").splitlines():
        key, sense, count = line.split()
        lemma, _, rest = key.partition("%")
        out[SENSE_TYPE[rest[0]], lemma, int(sense)] = int(count)
    return out


def text(value: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(value.encode("ascii"), dtype=np.uint8)


def build(folder: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """The arrays of `wordnet.npz` and of `wordnet_glosses.npz`."""
    synsets = read_data(folder)
    index = read_index(folder, synsets.rows)
    counts = read_counts(folder)
    lemmas = sorted({lemma for by_lemma in index.values() for lemma in by_lemma})
    senses = [row for pos in POS for lemma in lemmas for row in index[pos].get(lemma, ())]
    tagged = [
        counts.get((pos, lemma, i + 1), 0)
        for pos in POS
        for lemma in lemmas
        for i in range(len(index[pos].get(lemma, ())))
    ]
    kinds = [[synsets.rows[p] for p in above[0]] for above in synsets.above]
    instances = [[synsets.rows[p] for p in above[1]] for above in synsets.above]
    offsets = np.array(synsets.offsets, dtype=np.int32)
    exceptions = [
        "\n".join(" ".join(line.split()) for line in records(folder / f"{name}.exc")) for name in POS.values()
    ]
    table = {
        "lemmas": text("\n".join(lemmas)),  # lower case, underscores, sorted
        "sense_counts": np.array(
            [[len(index[pos].get(lemma, ())) for lemma in lemmas] for pos in POS], dtype=np.uint8
        ),
        "senses": np.array(senses, dtype=np.int32),  # synset rows by pos, lemma, sense order
        "tag_counts": np.array(tagged, dtype=np.uint16),  # beside `senses`
        "offset_steps": np.diff(offsets, prepend=np.int32(0)).astype(np.int32),
        "types": np.array(synsets.types, dtype=np.uint8),
        "lexfiles": np.array(synsets.lexfiles, dtype=np.uint8),
        "words": text("\n".join(synsets.words)),  # with case, `|` between a synset's words
        "kind_counts": np.array([len(k) for k in kinds], dtype=np.uint8),
        "instance_counts": np.array([len(i) for i in instances], dtype=np.uint8),
        "above": np.array(
            [row for k, i in zip(kinds, instances, strict=True) for row in (*k, *i)], dtype=np.int32
        ),
        "exceptions": text("\n\n".join(exceptions)),  # per pos, each line: form, then base forms
    }
    return table, {"glosses": text("\n".join(synsets.glosses))}


def main(folder: Path, out: Path) -> None:
    table, glosses = build(folder)
    for name, arrays in (("wordnet.npz", table), ("wordnet_glosses.npz", glosses)):
        np.savez_compressed(out / name, **arrays)  # type: ignore[arg-type]
        print(f"{out / name}: {(out / name).stat().st_size:,} bytes")
    print(
        f"{table['types'].size:,} synsets, {np.count_nonzero(table['sense_counts'].any(axis=0)):,} lemmas, "
        f"{table['senses'].size:,} senses"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
