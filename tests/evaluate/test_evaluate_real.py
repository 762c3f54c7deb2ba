"""The evaluators on real embeddings (pictures painted by `scenes`, an open_clip model) against scikit-learn
and torchmetrics, to 1e-6."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score
from torch import from_numpy, zeros

from ctrlsynth.evaluate.encode import class_weights, encode_images, encode_texts
from ctrlsynth.evaluate.layout import samples
from ctrlsynth.evaluate.run import evaluate_all
from ctrlsynth.models.open_clip.load import build, load_model, save_folder
from eval_sets import TEMPLATES, draw, write_files, write_shards

NAMES = ["dog", "cat", "car", "tree", "boat", "horse", "chair"]
LABELS = [n % 6 for n in range(30)]  # nothing shows a chair: an empty class
CAPTIONS = [f"a {NAMES[label]} {n}" for n, label in enumerate(LABELS)]


def place(base: Path) -> None:
    """Writes `model/`, `data/shapes` (classes) and `data/walls` (two captions an image)."""
    built = build("tiny", seed=3)
    (base / "model").mkdir()
    save_folder(base / "model", built.module, built.config)
    images = [draw(f"a {NAMES[label]}", 64, n) for n, label in enumerate(LABELS)]
    write_shards(
        base / "data/shapes/test",
        [{"png": i, "cls": str(n).encode()} for i, n in zip(images, LABELS, strict=True)],
    )
    templates = "a photo of a {c}.\na drawing of a {c}.\n"
    write_files(base / "data/shapes", {"classnames.txt": "\n".join(NAMES), TEMPLATES: templates})
    write_shards(
        base / "data/walls/test",
        [{"png": i, "txt": f"{t}\nlook, {t}".encode()} for i, t in zip(images, CAPTIONS, strict=True)],
    )


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_scores_are_the_libraries(tmp_path: Path) -> None:
    place(tmp_path)
    model = load_model(tmp_path / "model")
    found = {r.task: r.scores for r in evaluate_all(model, tmp_path / "data", tmp_path / "out")}
    images, _ = encode_images(model, samples(tmp_path / "data/shapes", "test", len(NAMES)))
    logits = images @ class_weights(model, NAMES, ["a photo of a {c}.", "a drawing of a {c}."]).T
    assert len(np.unique(logits.round(6))) > 100, "no degenerate embeddings"
    theirs = {
        "acc1": accuracy_score(LABELS, logits.argmax(1)),
        "acc5": top_k_accuracy_score(LABELS, logits, k=5, labels=range(7)),
        "mean_per_class_recall": balanced_accuracy_score(LABELS, logits.argmax(1)),
    }
    assert {name: s.value for name, s in found["shapes"].items()} == pytest.approx(theirs, abs=1e-6)
    from torchmetrics.functional.retrieval import retrieval_hit_rate

    texts = encode_texts(model, [t for c in CAPTIONS for t in (c, f"look, {c}")])
    for way, queries, gallery, positives in (
        ("i2t", images, texts, [[2 * n, 2 * n + 1] for n in range(30)]),
        ("t2i", texts, images, [[n // 2] for n in range(60)]),
    ):
        targets = zeros(len(queries), len(gallery)).bool()
        for target, right in zip(targets, positives, strict=True):
            target[right] = True
        rows = list(zip(from_numpy(queries @ gallery.T), targets, strict=True))
        for k in (1, 5, 10):
            hits = [float(retrieval_hit_rate(scores, target, top_k=k)) for scores, target in rows]
            assert found["walls"][f"{way}_recall@{k}"].value == pytest.approx(np.mean(hits), abs=1e-6)
