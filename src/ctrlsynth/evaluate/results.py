"""The result files: one JSON per model and task, with scores and intervals, protocol, data digest, model and
versions."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import UserError
from ..models.installed import version_of
from ..storage.files import SCHEMA, remove_leftovers, write_json
from .metrics import bootstrap

_PACKAGES = ("ctrlsynth", "torch", "open_clip_torch", "transformers", "numpy", "scikit-learn", "pillow")


@dataclass(frozen=True, slots=True)
class Score:
    """The value of a metric and its 95% bootstrap interval, as fractions 0..1."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One model on one task: a cell of `ctrlsynth compare`. `samples`: seen in training, if the checkpoint
    says so."""

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


def mean_score(values: npt.NDArray[Any]) -> Score:
    """The mean of the values of the test rows, with its bootstrap interval."""
    return Score(float(values.mean()), *bootstrap(values))


def result_files(path: Path, pattern: str) -> list[Path]:
    """The files in a folder that match `pattern`, or a single file. UserError if there are none."""
    files = sorted(path.glob(pattern)) if path.is_dir() else [path]
    if not files or not path.exists():
        raise UserError(f"{path}: expected result files that `ctrlsynth eval` wrote, found none")
    return files


def versions() -> dict[str, str]:
    """Versions of the packages that affect scores."""
    return {name: found for name in _PACKAGES if (found := version_of(name))}


def write_result(path: Path, result: Result) -> None:
    """Writes a result atomically."""
    remove_leftovers(path.parent)
    write_json(path, asdict(result))


def read_result(path: Path) -> Result:
    """Reads a result file. UserError for one that is damaged, of another kind or of a newer schema."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("schema") > SCHEMA:
            raise UserError(f"{path}: written by a newer ctrlsynth; update ctrlsynth")
        data["scores"] = {name: Score(**score) for name, score in data["scores"].items()}
        return Result(**{**data, "notes": tuple(data["notes"])})
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected a result that `ctrlsynth eval` wrote, found something else "
            f"({type(error).__name__}: {error})"
        ) from error
