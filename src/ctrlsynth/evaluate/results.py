"""One JSON a model and task, written whole or not at all: scores with intervals, protocol, data digest,
model, versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..storage.files import SCHEMA, remove_leftovers, write_json

_PACKAGES = ("torch", "open_clip_torch", "transformers", "numpy", "scikit-learn", "pillow")


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value and its 95% bootstrap interval, as fractions 0..1."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """What an evaluator found: scores by metric, the protocol that decides whether two numbers may be
    compared, rows, data digest."""

    scores: Mapping[str, Score]
    protocol: Mapping[str, Any]
    rows: int
    data: str
    classes: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A row of `ctrlsynth compare`: one model on one task. `samples`: seen in training, where the checkpoint
    says it."""

    model: str
    model_digest: str
    task: str
    title: str
    group: str
    main: str
    chance: float | None
    rows: int
    classes: int | None
    data: str
    protocol: Mapping[str, Any]
    scores: Mapping[str, Score]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    seed: int | None = None
    samples: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Versions of what takes part in a score."""
    out = {"ctrlsynth": version("ctrlsynth")}
    for name in _PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def write_result(path: Path, result: Result) -> None:
    """Writes a result atomically."""
    remove_leftovers(path.parent)
    write_json(path, asdict(result))


def read_result(path: Path) -> Result:
    """A result file; one that is damaged, of another kind or of a newer schema is one line."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.pop("schema") > SCHEMA:
            raise UserError(f"{path}: written by a newer ctrlsynth; update ctrlsynth")
        data["scores"] = {name: Score(**score) for name, score in data["scores"].items()}
        data["notes"] = tuple(data["notes"])
        return Result(**data)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected a result that `ctrlsynth eval` wrote, found something else "
            f"({type(error).__name__}: {error})"
        ) from error
