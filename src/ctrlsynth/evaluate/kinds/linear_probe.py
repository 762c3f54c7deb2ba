"""Linear probe on frozen image features by SynthCLIP's protocol (METHODS, section 2): multinomial logistic
regression by L-BFGS with strong Wolfe line search, at most 1,000 iterations. Chooses C on the validation
split from 7 values 1e-6..1e6, then from 29 values within two decades of the best, and fits once more on
train + val. val is the official split, or else the last 20% of train.

The objective is scikit-learn's: ||W||^2 / 2 + C * sum of cross-entropies, the bias not penalised. Features
are the L2-normalised image embeddings; the paper does not say whether its were."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import UserError
from .. import layout
from ..encode import Encoder, Split, encode_split
from ..results import Score
from .base import Evaluator, Scores
from .zero_shot import classification

COARSE = np.logspace(-6, 6, 7)
FINE = 29
MAX_ITERATIONS = 1000
Weights = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


class LinearProbe(Evaluator):
    """acc1, acc5 and mean per-class recall on test. A note names the C that val chose."""

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """`val` takes part where the set has it."""
        return ("train", "val", "test") if (self.folder / "val").is_dir() else ("train", "test")

    def protocol(self) -> dict[str, Any]:
        """Where val comes from."""
        return {"val": "official" if "val" in self.splits else "last 20% of train"}

    def evaluate(self, model: Encoder) -> Scores:
        """Encodes the splits once, chooses C, and fits on train and val."""
        names, metric = layout.classnames(self.folder, self.task.classes), self.task.metric
        found = {s: encode_split(model, self.folder, s, len(names)) for s in self.splits}
        train, test = found["train"], found["test"]
        train, val = (train, found["val"]) if "val" in found else last_fifth(train, self.folder)
        best = choose_c(train, val, len(names), metric)
        notes = [f"C = {best:.3g}"]
        if not set(val.labels) <= set(train.labels):
            notes.append(
                "val holds classes that train lacks, so C means little: shuffle the training shards or give "
                "val/"
            )
        scores = score(fit(train + val, best, len(names)), test)
        return Scores(scores, len(test.labels), len(names), tuple(notes))


def last_fifth(train: Split, where: Path) -> tuple[Split, Split]:
    """The first 80% and the last 20% of a split."""
    cut = len(train.labels) - max(1, len(train.labels) // 5)
    if cut < 1:
        raise UserError(f"{where}: expected at least 2 training images, found {len(train.labels)}")
    return Split(train.features[:cut], train.labels[:cut]), Split(train.features[cut:], train.labels[cut:])


def choose_c(train: Split, val: Split, classes: int, metric: str) -> float:
    """The C with the best `metric` on val (the smallest of equals): a coarse grid, then a fine one around its
    best."""

    def best_of(grid: npt.NDArray[np.float64]) -> float:
        start: Weights | None = None
        scored = []
        for c in np.sort(grid):  # starting at the last fit's optimum takes fewer iterations
            start = fit(train, float(c), classes, start)
            scored.append((score(start, val)[metric].value, -float(c)))
        return -max(scored)[1]

    middle = np.log10(best_of(COARSE))
    return best_of(np.logspace(middle - 2, middle + 2, FINE))


def score(fitted: Weights, data: Split) -> dict[str, Score]:
    """The scores of fitted weights on labelled features."""
    logits = data.features.astype(np.float64) @ fitted[0].T + fitted[1]
    return classification(logits.astype(np.float32), data.labels)


def fit(data: Split, c: float, classes: int, start: Weights | None = None) -> Weights:
    """Weights (C, D) and bias (C,) that minimise the objective, in float64."""
    import torch

    features = torch.from_numpy(data.features.astype(np.float64))
    labels = torch.from_numpy(data.labels.astype(np.int64))
    start = start or (np.zeros((classes, features.shape[1])), np.zeros(classes))
    weight, bias = (torch.tensor(values, requires_grad=True) for values in start)
    scale = 1.0 / (c * len(labels))
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (
            torch.nn.functional.cross_entropy(features @ weight.T + bias, labels)
            + 0.5 * scale * (weight**2).sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach().numpy(), bias.detach().numpy()
