"""Reads label files of classifiers (2a) and turns labels into names of objects."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...lang import wordnet
from ...sample import Tags, unique
from ..embedded.imagenet.weights import read_counts

Scores = NDArray[np.float32]
"""Scores in 0..1, one for each label."""


def read_labels(path: Path, where: str) -> list[str]:
    """Reads a label file, in the order of the classes: `.txt`, a label per line; `.json`, a list or a mapping
    from numbers; `.pkl`, CatLIP's vocabulary, through an allow-list."""
    if path.suffix == ".pkl":
        return list(read_counts(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
        found: Any = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {path}: cannot be read as labels ({error})") from error
    if isinstance(found, dict):
        if sorted(map(str, found)) != sorted(map(str, range(len(found)))):
            raise UserError(
                f"{where}: {path}: its keys are not the numbers of {len(found)} classes from 0 on"
            )
        found = [found[str(n)] for n in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise UserError(f"{where}: {path}: no list of labels")
    while found and not found[-1].strip():
        found.pop()
    if not found or not all(label.strip() for label in found):
        raise UserError(f"{where}: {path}: no labels, or an empty one between others")
    return found


def object_names(labels: Sequence[str]) -> list[str]:
    """Turns labels into objects: `n2084071` (offset of a noun in WordNet 3.0) -> `dog`, its first lemma;
    `tench, Tinca tinca` -> `tench`; `traffic_light` -> `traffic light`. UserError for an offset that WordNet
    lacks."""
    out = []
    for label in labels:
        match = re.fullmatch(r"n(\d{1,8})", label)
        if match is not None:
            offset = f"n{match[1]:>08}"
            synset = _nouns().get(offset) or wordnet.from_offset(offset)  # raises the UserError
            out.append(synset.words[0] if synset.is_instance else synset.words[0].lower())
        else:
            first = label.partition(",")[0].partition(" (")[0].replace("_", " ")
            name = " ".join(first.split())
            out.append(name if name[1:] != name[1:].lower() and " " not in name else name.lower())
    return out


@lru_cache(maxsize=1)
def _nouns() -> dict[str, wordnet.Synset]:
    """Offset of every noun of WordNet -> its synset; 24,320 calls of `from_offset` would take seconds."""
    return {synset.offset: synset for synset in wordnet.all_synsets("n")}


class Chooser:
    """Scores of classes -> tags: the best `top_k` objects of at least `cut`, best first, ties in the order of
    the classes.

    Classes of one name count once: with the sum of their scores where these are shares of one (`softmax`),
    else with the highest."""

    def __init__(self, names: Sequence[str], top_k: int, cut: float, add: bool) -> None:
        self.names = unique(names)
        place = {name.lower(): n for n, name in enumerate(self.names)}
        self._place = np.array([place[" ".join(name.split()).lower()] for name in names])
        self.top_k, self.cut, self._join = top_k, cut, np.add if add else np.maximum

    def tags(self, scores: Scores) -> Tags:
        """Scores of the classes -> objects and their scores, rounded to 4 digits. Scores that are no
        numbers are an error of the row."""
        if not np.isfinite(scores).all():
            return Tags(error="not_a_number")
        by_name = np.zeros(len(self.names), np.float64)
        self._join.at(by_name, self._place, scores)
        by_name = np.clip(np.round(by_name, 4), 0.0, 1.0)
        least = max(self.cut, 1e-9)
        if self.top_k < len(by_name):  # sorting 24,320 classes per picture would cost more than the network
            least = max(least, float(np.partition(by_name, -self.top_k)[-self.top_k]))
        among = np.flatnonzero(by_name >= least)
        best = among[np.argsort(-by_name[among], kind="stable")][: self.top_k].tolist()
        return Tags(tuple(self.names[n] for n in best), scores=tuple(by_name[best].tolist()))
