"""Few-shot classification by SynthCLIP's protocol (METHODS, section 2): 5-way 5-shot, 5,000 episodes, 6
queries per class; subtracts the mean of the support, L2-normalises, predicts the nearest class mean.
Support comes from train, queries from test."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import UserError
from .. import layout
from ..encode import Array, Encoder, Split, encode_split, normalised
from ..results import mean_score
from .base import Evaluator, Scores

WAYS, SHOTS, QUERIES, EPISODES = 5, 5, 6, 5000


class FewShot(Evaluator):
    """acc1: mean accuracy of the episodes, with its interval over episodes."""

    splits = ("train", "test")
    seeded = True

    def protocol(self) -> dict[str, Any]:
        """The numbers of the protocol."""
        return {
            "ways": WAYS,
            "shots": SHOTS,
            "queries": QUERIES,
            "episodes": EPISODES,
            "seed": self.settings.seed,
        }

    def evaluate(self, model: Encoder) -> Scores:
        """Encodes both splits once and runs the episodes."""
        names = layout.classnames(self.folder, self.task.classes)
        train, test = (encode_split(model, self.folder, s, len(names)) for s in self.splits)
        found = episodes(train, test, self.settings.seed, where=str(self.folder))
        return Scores({"acc1": mean_score(found)}, len(test.labels), len(names))


def episodes(
    train: Split, test: Split, seed: int, count: int = EPISODES, where: str = "few-shot"
) -> npt.NDArray[np.float64]:
    """Accuracy of each episode. Skips classes with fewer than 5 training or 6 test images; at least 5 classes
    must be left."""
    supports, queries = (
        {c: np.flatnonzero(s.labels == c) for c in np.unique(s.labels)} for s in (train, test)
    )
    usable = sorted(c for c in supports if len(supports[c]) >= SHOTS and len(queries.get(c, ())) >= QUERIES)
    if len(usable) < WAYS:
        raise UserError(
            f"{where}: expected {WAYS} classes with {SHOTS} training and {QUERIES} test images, found "
            f"{len(usable)}"
        )
    rng = np.random.default_rng(seed)
    out = np.empty(count)
    for n in range(count):
        ways = [usable[w] for w in rng.choice(len(usable), WAYS, replace=False)]
        support = [train.features[rng.choice(supports[w], SHOTS, replace=False)] for w in ways]
        query = [test.features[rng.choice(queries[w], QUERIES, replace=False)] for w in ways]
        out[n] = accuracy(np.stack(support), np.stack(query))
    return out


def accuracy(support: Array, query: Array) -> float:
    """One episode: support (ways, shots, D), query (ways, queries, D)."""
    middle = support.mean(axis=(0, 1))
    means = normalised(support - middle).mean(axis=1)
    asked = normalised(query - middle)
    distances = ((asked[:, :, None, :] - means[None, None]) ** 2).sum(axis=-1)
    return float((distances.argmin(axis=-1) == np.arange(len(support))[:, None]).mean())
