"""SugarCrepe and any file of its form: does an image prefer its caption to a changed one? Strictly: a tie is
wrong (METHODS, section 3).

A folder holds `images/` and json files, each a mapping index -> {filename, caption, negative_caption}. The
average of files is unweighted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .. import layout
from ..encode import Encoder, encode_images, encode_texts
from ..metrics import bootstrap, strict_preference
from ..results import Score, Scores
from ..tasks import Task

SUGARCREPE = {
    "add_att": 692, "add_obj": 2062, "replace_att": 788, "replace_obj": 1652, "replace_rel": 1406,
    "swap_att": 666, "swap_obj": 245,
}  # fmt: skip
"""Its seven files and their rows (METHODS, section 3)."""


def evaluate(model: Encoder, folder: Path, task: Task, tick: Callable[[int], None] | None = None) -> Scores:
    """Accuracy by file and `acc`, their unweighted average."""
    files = files_of(folder, task)
    sets = {path.stem: read(path) for path in files}
    names = list(dict.fromkeys(row[0] for rows in sets.values() for row in rows))
    features = encode_images(model, _images(folder / "images", names), tick=tick)
    place = {name: n for n, name in enumerate(names)}
    texts = sorted({t for rows in sets.values() for row in rows for t in row[1:]})
    encoded = encode_texts(model, texts)
    number = {text: n for n, text in enumerate(texts)}
    scores: dict[str, Score] = {}
    notes, found = [], []
    for name, rows in sets.items():
        image = features[[place[r[0]] for r in rows]]
        positive = np.einsum("nd,nd->n", image, encoded[[number[r[1]] for r in rows]])
        negative = np.einsum("nd,nd->n", image, encoded[[number[r[2]] for r in rows]])
        hits = strict_preference(positive, negative)
        found.append(hits)
        scores[name] = Score(float(hits.mean()), *bootstrap(hits))
        if SUGARCREPE.get(name, len(rows)) != len(rows) and task.name == "sugarcrepe":
            notes.append(f"{name}: {len(rows)} rows, the published file has {SUGARCREPE[name]}")
    file = np.repeat(np.arange(len(found)), [len(hits) for hits in found])
    scores["acc"] = Score(
        float(np.mean([s.value for s in scores.values()])), *bootstrap(np.concatenate(found), file)
    )
    protocol = {"kind": "pairs", "metric": "acc", "files": sorted(sets)}
    return Scores(scores, protocol, sum(map(len, sets.values())), layout.digest(files), notes=tuple(notes))


def files_of(folder: Path, task: Task) -> list[Path]:
    """The json files of pairs."""
    files = sorted(folder.glob("*.json"))
    if task.name == "sugarcrepe":
        gone = [n for n in SUGARCREPE if n not in {f.stem for f in files}]
        if gone:
            raise UserError(f"{folder}: expected SugarCrepe's seven json files, missing: {', '.join(gone)}")
        files = [f for f in files if f.stem in SUGARCREPE]
    if not files:
        raise UserError(
            f"{folder}: expected json files of pairs (filename, caption, negative_caption), found none"
        )
    return files


def read(path: Path) -> list[tuple[str, str, str]]:
    """(filename, caption, negative caption) of every row of a file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = list(data.values()) if isinstance(data, dict) else data
        out = [(str(r["filename"]), _text(r["caption"]), _text(r["negative_caption"])) for r in rows]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected rows of filename, caption, negative_caption ({type(error).__name__}: {error})"
        ) from error
    if not out:
        raise UserError(f"{path}: holds no pair")
    return out


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"a caption is text, not {value!r}")
    return value


def _images(folder: Path, names: list[str]) -> Iterator[tuple[bytes, str]]:
    for name in names:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{folder}: {name!r} leads out of the folder")
        try:
            yield path.read_bytes(), str(path)
        except OSError as error:
            raise UserError(
                f"{path}: expected an image that the pairs name; cannot read it ({error.strerror})"
            ) from error
