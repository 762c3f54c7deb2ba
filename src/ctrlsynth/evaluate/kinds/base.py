"""The interface that all kinds of evaluation share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import layout
from ..encode import Encoder
from ..results import Score
from ..tasks import Task


@dataclass(frozen=True, slots=True)
class Settings:
    """The user's choices.

    templates  zero-shot: the template set; None for each task's own
    extra      long-tail: synthetic images to train the head on as well
    head       long-tail: cosine (starts from text features) or plain
    loss       long-tail: cross-entropy, or adjusted by the log share of each class in the training data
    seed       of few-shot episodes and long-tail heads"""

    templates: str | None = None
    extra: Path | None = None
    head: Literal["cosine", "plain"] = "cosine"
    loss: Literal["cross-entropy", "logit-adjusted"] = "cross-entropy"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """What an evaluator found. `protocol` holds the facts of the protocol that only the evaluation shows."""

    scores: Mapping[str, Score]
    rows: int
    classes: int | None = None
    notes: tuple[str, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)


class Evaluator(ABC):
    """One task on one folder of data. A kind implements `evaluate`, and overrides the others where it differs
    from a set of classes with a test split."""

    splits: tuple[str, ...] = ("test",)
    seeded = False
    """Whether the scores depend on the seed."""

    def __init__(self, task: Task, folder: Path, settings: Settings) -> None:
        self.task, self.folder, self.settings = task, folder, settings

    def files(self) -> list[Path]:
        """The files that identify the data: their digest is part of the result."""
        shards = (path for split in self.splits for path in layout.shards(self.folder, split))
        return [self.folder / "classnames.txt", *shards]

    def protocol(self) -> dict[str, Any]:
        """The settings that decide whether two scores may be compared, apart from kind and metric."""
        return {}

    def test_samples(self) -> Iterator[layout.Sample]:
        """Streams the test images with their labels or captions."""
        return layout.samples(self.folder, "test", len(layout.classnames(self.folder, None)))

    @abstractmethod
    def evaluate(self, model: Encoder) -> Scores:
        """Scores a model. UserError if the data is not as expected."""
