"""The judge: recall, violations and verdicts, against the rules written out slowly; a threshold changes no
stored score."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrlsynth.api.run import run
from ctrlsynth.errors import UserError
from ctrlsynth.runs.build import open_workshop
from ctrlsynth.sample import KINDS, Tags
from ctrlsynth.stages.judge import Score, removed_phrases, score_tags, score_text, verdict, weighted_recall
from helpers import recipe

PHRASES = st.lists(
    st.sampled_from(["dog", "cat", "red dog", "blue", "dog on cat", "tree", "big tree"]),
    unique=True,
    max_size=4,
)
WEIGHTS = st.dictionaries(st.sampled_from(KINDS), st.sampled_from([0.0, 0.5, 1.0, 2.0]))


@given(PHRASES, PHRASES, PHRASES, st.data(), WEIGHTS)
def test_recall_is_the_weighted_share_of_the_reference(
    objects: list[str], attributes: list[str], relations: list[str], data: Any, weights: Any
) -> None:
    reference = Tags(tuple(objects), tuple(attributes), tuple(relations))
    found = (
        data.draw(st.lists(st.sampled_from(sorted(set(reference.phrases())) or ["x"]), unique=True))
        if reference.phrases()
        else []
    )
    have = want = 0.0
    for kind, phrases in (("objects", objects), ("attributes", attributes), ("relations", relations)):
        for phrase in phrases:
            want += weights.get(kind, 1.0)
            have += weights.get(kind, 1.0) if phrase in found else 0.0
    got = weighted_recall(reference, found, weights)
    assert got == (None if want == 0 else pytest.approx(have / want))


def test_a_text_is_held_against_the_tags_as_edited_and_removed_ones_are_violations() -> None:
    score = score_text(
        "A dog sits on a red sofa.",
        Tags(("dog", "sofa", "cat"), ("red sofa",), ("dog on sofa",)),
        ("sofa", "bird"),
        "lemma",
        {},
    )
    found = ("dog", "sofa", "red sofa", "dog on sofa")
    wanted: Any = (pytest.approx(4 / 5), found, ("cat",), ("sofa",))
    assert score == wanted
    assert score_text("anything", Tags(), (), "lemma", {}).recall is None


def test_tags_are_held_against_tags() -> None:
    score = score_tags(
        Tags(("puppy",), ("red ball",)),
        Tags(("dog", "tree"), ("red",)),
        ("boat",),
        "wordnet",
        {"attributes": 2.0},
    )
    wanted: Any = (pytest.approx((1 + 2) / (2 + 2)), ("dog", "red"), ("tree",), ())
    assert score == wanted
    assert score_tags(Tags(("cat",)), Tags(("dog",)), ("cat",), "lemma", {}).violations == ("cat",)


@pytest.mark.parametrize(
    ("score", "more", "expected"),
    [
        (Score(0.2), {}, "kept"),
        (Score(0.2 - 1e-9), {}, "kept"),  # 0.2 in 32 bits
        (Score(0.19), {}, "low_recall"),
        (Score(None), {}, "no_reference"),
        (None, {}, "no_reference"),
        (Score(1.0, violations=("x",)), {}, "kept"),
        (Score(1.0, violations=("x",)), {"forbid_violations": True}, "violation"),
        (Score(1.0), {"unsafe": 0.9, "limit": 0.8}, "unsafe"),
        (Score(1.0), {"unsafe": 0.7, "limit": 0.8}, "kept"),
    ],
)
def test_verdicts(score: Score | None, more: dict[str, Any], expected: str) -> None:
    assert verdict(score, 0.2, **more) == expected


def test_only_what_was_not_wanted_is_a_violation() -> None:
    records: list[dict[str, Any]] = [
        {"op": "remove", "before": "dog", "after": None},
        {"op": "keep", "before": "tree", "after": None},
        {"op": "sample", "before": "sky", "after": None},
        {"op": "add", "before": None, "after": "hat"},
        {"op": "replace", "before": "red ball", "after": "blue ball"},
        {"op": "remove", "before": "cat", "after": None},
    ]
    assert removed_phrases(records, Tags(("cat",), ("blue ball",))) == ("dog", "red ball")


def test_a_threshold_changes_verdicts_and_no_score(tmp_path: Path) -> None:
    words = {"words": [1, 6]}
    low = run(recipe(tmp_path, judge={"threshold": 0.1}, text_policy=words), tmp_path / "run", base=tmp_path)
    scores = [(r["id"], r["edited"]) for r in low.rows("judge-text")]
    high = run(
        recipe(tmp_path, judge={"threshold": 0.9}, text_policy=words),
        tmp_path / "run",
        base=tmp_path,
        update=True,
    )
    assert [(r["id"], r["edited"]) for r in high.rows("judge-text")] == scores
    for row in high.rows("judge-text"):
        assert row["verdict"] == ("kept" if row["edited"]["recall"] >= 0.9 - 1e-6 else "low_recall")
    assert {r.folder: r.reused for r in high.ledger()}["write"] in (0, 40)


def test_a_caption_reader_cannot_judge_images(tmp_path: Path) -> None:
    for tagger in ("wordnet", {"hybrid": ["imagenet", "wordnet"]}, "helpers:CaptionReader"):
        plan = recipe(tmp_path, paths=["SP4"], judge={"tagger": tagger})
        with pytest.raises(UserError, match="takes a tagger that reads pixels"):
            run(plan, tmp_path / "run", base=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_safety_judge_scores_every_image_and_its_threshold_decides(tmp_path: Path) -> None:
    judge = {"tagger": "reference", "threshold": 0.0, "matcher": {"image": "wordnet"}}
    plans = {
        limit: recipe(
            tmp_path, paths=["SP4"], judge={**judge, "safety": {"model": "opennsfw", "threshold": limit}}
        )
        for limit in (1.0, 0.0)
    }
    safe = run(plans[1.0], tmp_path / "run", base=tmp_path, limit=3)
    rows = list(safe.rows("judge-image"))
    assert [r["verdict"] for r in rows] == ["kept"] * 3
    assert all(0 <= r["unsafe"] < 0.5 for r in rows), "drawings of dogs and cats"
    strict = run(plans[0.0], tmp_path / "run", base=tmp_path, limit=3, update=True)
    assert [r["verdict"] for r in strict.rows("judge-image")] == ["unsafe"] * 3
    assert [r["unsafe"] for r in strict.rows("judge-image")] == [r["unsafe"] for r in rows]


def test_another_caption_miner_judges_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The miner gives the reference of a text that was written from a caption alone, so its digest belongs to
    the judge's step."""
    rewrite = recipe(tmp_path, rows=4, paths=[{"rewrite": ["text", "text*"]}], judge={"threshold": 0.1})
    before = open_workshop(rewrite, tmp_path).plan.digests
    monkeypatch.setattr("ctrlsynth.models.embedded.wordnet.tagger.VERSION", 99)
    after = open_workshop(rewrite, tmp_path).plan.digests
    assert {f for f in before if before[f] != after[f]} == {"judge-text"}
