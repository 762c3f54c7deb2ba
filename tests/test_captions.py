"""Captions about concepts: what is cleaned away and counted, the baselines of SynthCLIP's appendix B, and what the embedded writers say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ctrlsynth.concepts.captions import LONGEST, clean
from ctrlsynth.control.text import TextController
from ctrlsynth.errors import UserError, WorkFailed
from ctrlsynth.models.base import Reply, Request
from ctrlsynth.models.llms.naive import Naive
from ctrlsynth.recipe import Recipe, TextPolicy
from ctrlsynth.recipe_file import parse_recipe
from ctrlsynth.runs import Run, run
from ctrlsynth.sample import Tags

ASKED = TextController(TextPolicy(), 0).instruct("r", "concept", None, "teapot").request.instruction


@pytest.mark.parametrize(
    ("reply", "text", "reason"),
    [
        ("A teapot stands on a table.", "A teapot stands on a table.", None),
        ('\n "A teapot stands on a table." \n', "A teapot stands on a table.", None),
        ('A "red" teapot.', "A red teapot.", None),
        ("Caption: A teapot on a stove.", "A teapot on a stove.", None),
        ("Caption: “A teapot on a stove.”", "A teapot on a stove.", None),
        ("Two boys say sorry to a teapot.", "Two boys say sorry to a teapot.", None),
        ("A teapot.\nIt is red.", "", "line_break"),
        ("A teapot.\r\n\r\nNote: I kept it short.", "", "line_break"),
        ("A teapot.\u2028Again.", "", "line_break"),
        ("", "", "empty_reply"),
        (' "" ', "", "empty_reply"),
        ("Caption:", "", "empty_reply"),
        ("...!", "", "no_words"),
        ("I'm sorry, but I can't write a caption about that.", "", "refusal"),
        ("As an AI language model, I do not see photographs.", "", "refusal"),
        ("I cannot create content about weapons.", "", "refusal"),
        ("I am unable to help with this request.", "", "refusal"),
        ("Write a caption for a photograph that shows this concept in a scene: teapot.", "", "echo"),
        ("One short, grammatically correct sentence of at most 15 words that contains the teapot.", "", "echo"),
        ("A teapot " + "and a cup " * 10, "", "too_long"),
    ],
)
def test_cleaning(reply: str, text: str, reason: str | None) -> None:
    assert clean(reply, "teapot", ASKED) == (text, reason)


def test_what_was_cut_is_not_whole_and_the_recipe_may_bound_the_length() -> None:
    assert clean("A teapot stands on", "teapot", ASKED, cut=True) == ("", "too_long")
    assert clean("A teapot " + "x " * (LONGEST - 2), "teapot", ASKED)[1] is None
    assert clean("A teapot stands on a table.", "teapot", ASKED, most=5) == ("", "too_long")
    assert clean("A teapot is here.", "teapot", ASKED, most=5)[1] is None


def test_a_concept_that_is_a_long_phrase_is_no_echo() -> None:
    concept = "one flew over the cuckoo's nest and never came back again"
    asked = TextController(TextPolicy(), 0).instruct("r", "concept", None, concept).request.instruction
    assert clean(f"A poster of {concept} hangs on a wall.", concept, asked)[1] is None


class Sayer:
    """Says what is told it, over and over."""

    id = "sayer"
    digest = "1"

    def __init__(self, *lines: str, says: Sequence[str] = ()) -> None:
        self._says = list(says)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(self._says[n % len(self._says)].replace("{}", r.tags.objects[0])) for n, r in enumerate(requests)]


def captioned(base: Path, bank: str, llm: Any, **changes: Any) -> Recipe:
    (base / "bank.csv").write_text(bank, encoding="utf-8")
    data = {
        "name": "test",
        "source": {"concepts": "bank.csv"},
        "models": {"llm": llm},
        "paths": {"captions": ["concept", "text*"]},
        "judge": None,
        **changes,
    }
    return parse_recipe(data)


def reasons(made: Run, folder: str) -> dict[str, int]:
    row = next(r for r in made.ledger() if r.folder == folder)
    assert row.adds_up
    return {**row.dropped, **row.failed}


def test_the_ledger_counts_every_reason(tmp_path: Path) -> None:
    says = [
        "A {} here.",
        "I'm sorry, I can't.",
        "A {}.\nSecond line.",
        "...",
        "Output the sentence only and nothing else but {} at most 15 words " * 3,
    ]
    recipe = captioned(tmp_path, "concept\n" + "".join(f"thing{n}\n" for n in range(10)), {"test_captions:Sayer": None, "says": says})
    made = run(recipe, tmp_path / "run", base=tmp_path)
    assert reasons(made, "write") == {"refusal": 2, "line_break": 2, "no_words": 2, "too_long": 2}
    rows = list(made.rows("write"))
    assert {r["status"] for r in rows if r["reason"]} == {"dropped"}
    assert all(r["raw"] and r["text"] is None for r in rows if r["reason"])


def test_a_model_that_refuses_everything_stops_the_run_with_the_reasons(tmp_path: Path) -> None:
    recipe = captioned(tmp_path, "concept\na\nb\nc\n", {"test_captions:Sayer": None, "says": ["I'm sorry, I cannot help with that."]})
    with pytest.raises(WorkFailed, match=r"write: none of 3 rows came through \(refusal x 3\)"):
        run(recipe, tmp_path / "run", base=tmp_path)


def test_odd_concepts_have_a_reason_or_a_caption(tmp_path: Path) -> None:
    bank = 'concept\n"say ""hi"" to {braces}"\n"two\nlines"\n' + "x" * 10_000 + "\n...\n  spaced  \n\u00fc\u4e2d\n"
    recipe = captioned(tmp_path, bank, "realizer")
    made = run(recipe, tmp_path / "run", base=tmp_path)
    assert reasons(made, "read") == {"no_words": 1, "too_long": 1}
    assert [r["caption"] for r in made.rows("read") if r["status"] == "ok"] == [
        'say "hi" to {braces}',
        "two lines",
        "spaced",
        "\u00fc\u4e2d",
    ]
    texts = [r["text"] for r in made.rows("write")]
    assert all(t and "\n" not in t and '"' not in t for t in texts)


def test_an_empty_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no rows"):
        run(captioned(tmp_path, "concept\n", "realizer"), tmp_path / "run", base=tmp_path)
    with pytest.raises(WorkFailed, match=r"read: none of 2 rows came through \(no_words x 2\)"):
        run(captioned(tmp_path, "concept\n---\n!\n", "realizer"), tmp_path / "run2", base=tmp_path)


def test_variants_differ_by_seed(tmp_path: Path) -> None:
    made = run(captioned(tmp_path, "concept\ncastle\nsoup\n", "realizer", variants={"write": 6}), tmp_path / "run", base=tmp_path)
    texts = [r["text"] for r in made.rows("write")]
    assert len(set(texts)) >= 10
    again = run(captioned(tmp_path, "concept\ncastle\nsoup\n", "realizer", variants={"write": 6}, seed=1), tmp_path / "run2", base=tmp_path)
    assert [r["text"] for r in again.rows("write")] != texts


def test_naive_puts_the_concept_into_clips_prompts() -> None:
    naive = Naive()
    assert len(naive.templates) == len(set(naive.templates)) == 80
    assert set(Naive("clip7").templates) < set(naive.templates)
    said = {r.text for r in naive.generate([Request("", Tags(("tram",)), family="concept", seed=s) for s in range(80)])}
    assert len(said) == 80
    assert "a photo of a tram." in said
    assert naive.generate([Request("")])[0].error == "no_content"


def test_own_templates_of_naive_are_checked(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("# mine\na {} on the moon.\n")
    assert Naive(str(tmp_path / "t.txt")).templates == ("a {} on the moon.",)
    (tmp_path / "bad.txt").write_text("a moon.\n")
    with pytest.raises(UserError, match=r"template 1 holds \{\} 0 times"):
        Naive(str(tmp_path / "bad.txt"))
    with pytest.raises(UserError, match=r"takes clip80, clip7 or a text file .*nowhere"):
        Naive(str(tmp_path / "nowhere"))


def test_the_three_attempts_of_the_appendix(tmp_path: Path) -> None:
    every = TextController(TextPolicy(), 0)
    assert {every.instruct(f"r{n}", "concept", None, "leopard").template for n in range(40)} == {"concept-1"}
    free = TextController(TextPolicy(templates=["unconditioned"]), 0).instruct("r", "concept", None, "leopard").request
    assert "leopard" not in free.instruction
    topic = TextController(TextPolicy(templates=["topic"]), 0).instruct("r", "concept", None, "Wild Animals").request
    assert "topic" in topic.instruction
    assert "Wild Animals" in topic.instruction
    shown = tmp_path / "shown.txt"
    shown.write_text("".join(f"A cat sits near tower {n}.\n" for n in range(9)))
    controller = TextController(TextPolicy(templates=["in-context"], examples=shown), 0)
    first, second = (controller.instruct(r, "concept", None, "dog").request.instruction for r in ("a", "b"))
    assert first != second
    assert first.count("A cat sits near tower") == 3
    assert first == controller.instruct("a", "concept", None, "dog").request.instruction


def test_examples_and_templates_go_together(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="template 'in-context' shows captions; name a text file"):
        TextController(TextPolicy(templates=["in-context"]), 0)
    few = tmp_path / "few.txt"
    few.write_text("one\none\ntwo\n")
    with pytest.raises(UserError, match="2 captions; at least 3"):
        TextController(TextPolicy(templates=["in-context"], examples=few), 0)
    with pytest.raises(UserError, match="no chosen template of family 'concept' shows captions"):
        TextController(TextPolicy(examples=few), 0)
    with pytest.raises(UserError, match="cannot read the example captions"):
        TextController(TextPolicy(templates=["in-context"], examples=tmp_path / "no"), 0)
