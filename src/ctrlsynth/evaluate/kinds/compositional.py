"""SugarCrepe and any set of its form: the share of images that prefer their caption to a changed one. A tie
counts as wrong (METHODS, section 3).

A folder holds `images/` and json files, each a mapping index -> {filename, caption, negative_caption}. The
average of files is unweighted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .. import layout
from ..encode import Array, Encoder, encode_images, encode_texts
from ..metrics import bootstrap
from ..results import Score, mean_score
from .base import Evaluator, Scores

SUGARCREPE = {
    "add_att": 692, "add_obj": 2062, "replace_att": 788, "replace_obj": 1652, "replace_rel": 1406,
    "swap_att": 666, "swap_obj": 245,
}  # fmt: skip
"""Its seven files and their rows (METHODS, section 3)."""


class Compositional(Evaluator):
    """Accuracy by file and `acc`, their unweighted average."""

    def files(self) -> list[Path]:
        """The json files of pairs; SugarCrepe must have all seven."""
        files = sorted(self.folder.glob("*.json"))
        if self.task.name == "sugarcrepe":
            missing = [n for n in SUGARCREPE if n not in {f.stem for f in files}]
            if missing:
                raise UserError(
                    f"{self.folder}: expected SugarCrepe's seven json files, missing: {', '.join(missing)}"
                )
            files = [f for f in files if f.stem in SUGARCREPE]
        if not files:
            raise UserError(
                f"{self.folder}: expected json files of pairs (filename, caption, negative_caption), found "
                f"none"
            )
        return files

    def protocol(self) -> dict[str, Any]:
        """The files' names."""
        return {"files": [path.stem for path in self.files()]}

    def test_samples(self) -> Iterator[layout.Sample]:
        """Streams each row's image with its right caption."""
        return (self._sample(row[0], row[1]) for path in self.files() for row in read(path))

    def _sample(self, name: str, *captions: str) -> layout.Sample:
        path = layout.inside(self.folder / "images", name, self.folder)
        return layout.read_sample(path, "the evaluation set", captions=captions)

    def evaluate(self, model: Encoder) -> Scores:
        """Encodes every image and text once and compares."""
        sets = {path.stem: read(path) for path in self.files()}
        names = list(dict.fromkeys(row[0] for rows in sets.values() for row in rows))
        image_of = dict(zip(names, encode_images(model, map(self._sample, names))[0], strict=True))
        texts = list({t for rows in sets.values() for row in rows for t in row[1:]})
        text_of = dict(zip(texts, encode_texts(model, texts), strict=True))

        def similarities(rows: list[tuple[str, str, str]], column: int) -> Array:
            images, captions = [image_of[r[0]] for r in rows], [text_of[r[column]] for r in rows]
            return np.asarray(np.einsum("nd,nd->n", np.stack(images), np.stack(captions)))

        # a tie is wrong
        hits = {name: similarities(rows, 1) > similarities(rows, 2) for name, rows in sets.items()}
        file = np.repeat(np.arange(len(hits)), [len(h) for h in hits.values()])
        scores = {name: mean_score(h) for name, h in hits.items()}
        interval = bootstrap(np.concatenate(list(hits.values())), file)
        scores["acc"] = Score(float(np.mean([s.value for s in scores.values()])), *interval)
        published = SUGARCREPE if self.task.name == "sugarcrepe" else {}
        notes = tuple(
            f"{name}: {len(h)} rows, the published file has {published[name]}"
            for name, h in hits.items()
            if published.get(name, len(h)) != len(h)
        )
        return Scores(scores, len(file), notes=notes)


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
