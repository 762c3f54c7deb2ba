"""The evaluators' metrics against scikit-learn, torchmetrics and loops: random scores, ties, one class, empty
classes, one row."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.neighbors import NearestCentroid

from ctrlsynth.evaluate import metrics
from ctrlsynth.evaluate.encode import Split
from ctrlsynth.evaluate.kinds import few_shot, linear_probe, long_tail
from ctrlsynth.evaluate.kinds.base import Settings
from ctrlsynth.evaluate.papers import FIVE, tables
from ctrlsynth.models.device import make_torchvision_importable


def _scores(rows: int, classes: int, seed: int, ties: bool) -> tuple[metrics.Floats, metrics.Ints]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, classes)).astype(np.float32)
    return (np.round(scores) if ties else scores), rng.integers(0, classes, rows)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("rows", "classes"), [(1, 7), (1, 1), (200, 7), (500, 30)])
@pytest.mark.parametrize("k", [1, 5])
def test_top_k_is_scikit_learns_with_classes_turned_around(
    rows: int, classes: int, k: int, ties: bool
) -> None:
    """scikit-learn lets the higher index win a tie, we the lower: reversed classes make the two rules one."""
    scores, labels = _scores(rows, classes, 3, ties)
    theirs = (
        top_k_accuracy_score(classes - 1 - labels, scores[:, ::-1], k=k, labels=np.arange(classes))
        if k < classes
        else 1.0
    )
    assert metrics.top_k_hits(scores, labels, k).mean() == pytest.approx(theirs, abs=1e-12)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@pytest.mark.parametrize(("rows", "classes"), [(1, 5), (50, 1), (300, 12)])
def test_mean_per_class_recall_is_balanced_accuracy_also_with_classes_that_do_not_occur(
    rows: int, classes: int
) -> None:
    scores, labels = _scores(rows, classes, 5, False)
    labels[labels == classes - 1] = 0  # the last class never occurs
    hits = metrics.top_k_hits(scores, labels, 1)
    assert metrics.mean_per_class_recall(hits, labels) == pytest.approx(
        balanced_accuracy_score(labels, scores.argmax(1)), abs=1e-12
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("width", [1, 3])
def test_recall_ranks_against_torchmetrics_and_a_loop(
    ties: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_torchvision_importable("clip")  # torchmetrics imports it
    from torchmetrics.functional.retrieval import retrieval_hit_rate

    rng = np.random.default_rng(11)
    queries, gallery = (_scores(rows, 6, 11 + rows, ties)[0] for rows in (40, 57))
    positives = [
        sorted(rng.choice(57, size=rng.integers(1, width + 1), replace=False).tolist()) for _ in range(40)
    ]
    monkeypatch.setattr(metrics, "BLOCK_VALUES", 57 * 7)  # several blocks, the last one short
    ranks = metrics.recall_ranks(queries, gallery, positives)
    for q in range(40):
        scores = queries[q] @ gallery.T
        order = sorted(range(57), key=lambda g: (-scores[g], g))
        assert ranks[q] == min(order.index(p) for p in positives[q])
        if not ties:
            target = torch.zeros(57, dtype=torch.bool)
            target[positives[q]] = True
            hits = [float(retrieval_hit_rate(torch.from_numpy(scores), target, top_k=k)) for k in (1, 5, 10)]
            assert [float(ranks[q] < k) for k in (1, 5, 10)] == hits


def test_delta_mtl_is_the_papers_within_a_tenth_of_a_point() -> None:
    table, tuned = (
        next(t for t in tables() if t.table == name) for name in ("3 (Delta_MTL)", "3 to 7 (ablations)")
    )
    cases = [
        (table.rows[model], baseline, delta)
        for model, printed in (table.printed or {}).items()
        for baseline, delta in zip(("CLIP, CC3M", "CLIP, CC12M"), printed, strict=True)
    ]
    cases += [(tuned.rows[m], "CLIP, CC12M", delta) for m, delta in (tuned.printed or {}).items()]
    assert len(cases) == 2 * 5 + 6
    for row, baseline, delta in cases:
        assert metrics.delta_mtl(row, table.rows[baseline]) == pytest.approx((delta, 5), abs=0.1)
    exact = metrics.delta_mtl(table.rows["SynthCI-3M"], table.rows["CLIP, CC3M"])
    assert exact == pytest.approx((-5.67, 5), abs=0.005)
    assert table.columns == FIVE
    assert metrics.delta_mtl({"a": 1.0}, {"b": 1.0}) is None
    with pytest.raises(ValueError, match="baseline is 0"):
        metrics.delta_mtl({"a": 1.0}, {"a": 0.0})


def test_the_papers_averages_follow_from_their_columns() -> None:
    """Table 1 to 4 and the SynthCLIP tables: printed averages within a rounding, and the contradiction that
    METHODS names is there."""
    means = {
        (table.paper, table.table): {m: sum(row.values()) / len(row) for m, row in table.rows.items()}
        for table in tables()
    }
    for table in tables():
        if printed := (table.printed or {}).get("average"):
            found = list(means[table.paper, table.table].values())
            assert found == pytest.approx(printed, abs=0.11), table.table
    one = next(t for t in tables() if t.paper == "CtrlSynth" and t.table == "1")
    mean = means["CtrlSynth", "1"]
    assert round(mean["CtrlSynth, CC12M"] - mean["CLIP, CC12M"], 1) == 2.7
    assert (one.printed or {})["gain"][1] == 2.5


def test_bootstrap_covers_the_mean_and_shrinks_with_rows() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.random(50) < 0.6, rng.random(5000) < 0.6
    low, high = metrics.bootstrap(many)
    assert low < many.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.24 / 5000), rel=0.15)
    assert metrics.bootstrap(few)[1] - metrics.bootstrap(few)[0] > 5 * (high - low)
    assert metrics.bootstrap(few) == metrics.bootstrap(few)
    values = rng.normal(size=400)
    low, high = metrics.bootstrap(values)
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)


def test_interval_over_seeds_is_the_t_interval() -> None:
    half = 4.302652 * 2 / math.sqrt(3)
    assert metrics.interval_over_seeds([50.0, 52.0, 54.0]) == pytest.approx((52.0, half), rel=1e-6)
    assert math.isnan(metrics.interval_over_seeds([50.0])[1])


@pytest.mark.parametrize("c", [1e-2, 1.0, 1e3])
def test_the_probe_finds_scikit_learns_optimum(c: float) -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(120) % 4
    features = (rng.normal(size=(120, 8)) + 2 * np.eye(8)[labels]).astype(np.float32)
    weight, bias = linear_probe.fit(Split(features, labels), c, 4)
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(features.astype(np.float64), labels)
    ours = features.astype(np.float64) @ weight.T + bias
    reference = theirs.decision_function(features.astype(np.float64))
    np.testing.assert_allclose(
        ours - ours.mean(1, keepdims=True),
        reference - reference.mean(1, keepdims=True),
        atol=2e-3 * max(1.0, c**0.25),
    )


def test_the_probe_chooses_c_on_val_and_takes_the_last_fifth_without_one() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 100)
    features = (rng.normal(size=(100, 5)) * 3 + 2 * np.eye(5)[labels]).astype(np.float32)
    train, val = linear_probe.last_fifth(Split(features, labels), Path("data"))
    assert (len(train.labels), len(val.labels)) == (80, 20)
    np.testing.assert_array_equal(val.labels, labels[80:])
    best = linear_probe.choose_c(train, val, 3, "acc1")
    chosen, *grid = (
        linear_probe.score(linear_probe.fit(train, c, 3), val)["acc1"].value
        for c in (best, *linear_probe.COARSE)
    )
    assert chosen >= max(grid)


def test_an_episode_is_the_nearest_centroid_after_centring() -> None:
    rng = np.random.default_rng(6)
    for _ in range(20):
        support = (rng.normal(size=(5, 5, 7)) + 2 * rng.normal(size=(5, 1, 7))).astype(np.float32)
        query = (rng.normal(size=(5, 6, 7)) + support.mean(1, keepdims=True)).astype(np.float32)
        middle = support.reshape(25, 7).mean(0)
        rows, asked = support.reshape(25, 7) - middle, query.reshape(30, 7) - middle
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)
        model = NearestCentroid().fit(rows, np.repeat(np.arange(5), 5))
        assert few_shot.accuracy(support, query) == pytest.approx(
            (model.predict(asked) == np.repeat(np.arange(5), 6)).mean()
        )


def test_groups_are_the_papers_and_stay_when_images_are_added() -> None:
    """Classes 0 and 1 are head, 2 and 3 medium, the others tail."""
    counts = np.array([4980, 101, 100, 20, 19, 5, 0])
    logits = np.eye(7, dtype=np.float32)
    scores = long_tail.group_scores(logits, np.array([0, 1, 2, 3, 4, 5, 0]), counts)
    assert {k: round(v.value, 3) for k, v in scores.items()} == {
        "acc1": 0.857,
        "head": 0.667,
        "medium": 1.0,
        "tail": 1.0,
    }


def test_logit_adjustment_lifts_the_tail() -> None:
    rng = np.random.default_rng(8)
    counts = [300, 60, 12]
    labels = np.repeat(np.arange(3), counts)
    centres = np.array([[1, 0.3, 0, 0], [0.3, 1, 0, 0], [0.6, 0.6, 0.6, 0]], dtype=np.float32)
    features = centres[labels] + rng.normal(size=(372, 4)).astype(np.float32) * 0.5
    asked = np.repeat(np.arange(3), 200)
    test = centres[asked] + rng.normal(size=(600, 4)).astype(np.float32) * 0.5
    tail = {}
    for loss in ("cross-entropy", "logit-adjusted"):
        how = Settings(head="plain", loss=loss)
        logits, again = (
            long_tail.train_head(Split(features, labels), test, 3, 2000, how, None) for _ in range(2)
        )
        np.testing.assert_array_equal(logits, again)
        tail[loss] = long_tail.group_scores(logits, asked, np.array(counts))["tail"].value
    assert tail["logit-adjusted"] > tail["cross-entropy"] + 0.1
