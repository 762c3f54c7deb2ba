"""Captions about concepts: what is cleaned away and counted, the baselines of SynthCLIP's appendix B, and
what the embedded writers say."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ctrlsynth.api.run import Run, run
from ctrlsynth.cli.main import main
from ctrlsynth.control.text import TextController
from ctrlsynth.errors import UserError, WorkFailed
from ctrlsynth.lang.replies import LONGEST, clean, read_json, strip_wrapping, taken_off, unquoted
from ctrlsynth.models.base import Reply, Request
from ctrlsynth.models.llms.naive import Naive
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.recipe.schema import Recipe, TextPolicy
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
        (
            "One short, grammatically correct sentence of at most 15 words that contains the teapot.",
            "",
            "echo",
        ),
        ("A teapot " + "and a cup " * 10, "", "too_long"),
        ("A nurse is unable to help a patient.", "A nurse is unable to help a patient.", None),
        ("I cannot believe how cute the dog is.", "I cannot believe how cute the dog is.", None),
        ("I can't help but smile at the dog.", "I can't help but smile at the dog.", None),
        ("A woman works as an assistant in a shop.", "A woman works as an assistant in a shop.", None),
        ("A protest against the policy of the city.", "A protest against the policy of the city.", None),
        ("A man cannot write with a broken pen.", "A man cannot write with a broken pen.", None),
        ("I’m sorry, I cannot.", "", "refusal"),
        ("Unfortunately, I cannot help you.", "", "refusal"),
        ("That is harmful, so I can't describe it.", "", "refusal"),
        ("I won't write that.", "", "refusal"),
        ("Cannot write about this.", "", "refusal"),
        ("It is against the guidelines to write this.", "", "refusal"),
    ],
)
def test_cleaning(reply: str, text: str, reason: str | None) -> None:
    assert clean(reply, "teapot", ASKED) == (text, reason)


@pytest.mark.parametrize(
    ("reply", "text", "off"),
    [
        ("A dog runs.", "A dog runs.", ()),
        ('"A dog runs.\n"', "", None),
        ('A dog "runs".\n', "A dog runs.", ("quotes",)),
        ("Caption: A dog runs.", "A dog runs.", ("labels",)),
        ("Sure, here is a caption: A dog runs.", "A dog runs.", ("labels",)),
        ("Here is your sentence: a dog.", "a dog.", ("labels",)),
        ("Sure! Here's the one-sentence description of a dog: *A dog.*", "A dog.", ("marks", "labels")),
        ("**A dog naps.**", "A dog naps.", ("marks",)),
        ("**Caption:** A dog.", "A dog.", ("marks", "labels")),
        ("1. A dog in the park", "A dog in the park", ("numbering",)),
        ('2) "A dog naps."', "A dog naps.", ("quotes", "numbering")),
        ("A dog runs. (15 words)", "A dog runs.", ("word counts",)),
        ("A dog runs. (Word count: 3)", "A dog runs.", ("word counts",)),
        (
            "1.5 litres of milk stand on a table (in red).",
            "1.5 litres of milk stand on a table (in red).",
            (),
        ),
        ("Here is a dog: happy.", "Here is a dog: happy.", ()),
        ("Sure-footed goats climb.", "Sure-footed goats climb.", ()),
    ],
)
def test_what_stands_around_a_caption_is_taken_off_and_told(
    reply: str, text: str, off: tuple[str, ...] | None
) -> None:
    assert clean(reply, "teapot", ASKED) == (text, None if off is not None else "line_break")
    if off is not None:
        assert strip_wrapping(reply) == (text, off)
        assert taken_off(
            [{"status": "ok", "raw": reply}] * 2 + [{"status": "dropped", "raw": reply}]
        ) == dict.fromkeys(off, 2)


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

    def __init__(self, *lines: str, says: Sequence[str] = (), batch: int = 256) -> None:
        self._says, self.batch = list(says), batch

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [
            Reply(self._says[n % len(self._says)].replace("{}", r.tags.objects[0]))
            for n, r in enumerate(requests)
        ]


class Sampler(Sayer):
    """Says with which options it was made."""

    def __init__(
        self, *lines: str, temperature: float = 0.0, top_p: float = 1.0, presence_penalty: float = 0.0
    ) -> None:
        super().__init__(says=[f'"A {{}} at {temperature}, {top_p}, {presence_penalty}."'])


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
    recipe = captioned(
        tmp_path,
        "concept\n" + "".join(f"thing{n}\n" for n in range(10)),
        {"test_captions:Sayer": None, "says": says},
    )
    made = run(recipe, tmp_path / "run", base=tmp_path)
    assert reasons(made, "write") == {"refusal": 2, "line_break": 2, "no_words": 2, "too_long": 2}
    rows = list(made.rows("write"))
    assert {r["status"] for r in rows if r["reason"]} == {"dropped"}
    assert all(r["raw"] and r["text"] is None for r in rows if r["reason"])


@pytest.mark.parametrize("batch", [2, 3, 256])
def test_a_concept_has_every_caption_once(tmp_path: Path, batch: int) -> None:
    """However the rows fall into calls; another concept may have the same, and more variants keep what is
    there."""
    model = {"test_captions:Sayer": None, "says": ["A scene.", '"A scene."'], "batch": batch}
    made = run(
        captioned(tmp_path, "concept\na\nb\nc\n", model, variants={"write": 3}),
        tmp_path / "run",
        base=tmp_path,
    )
    assert reasons(made, "write") == {"duplicate": 6}
    assert [r["id"][-1] for r in made.rows("write") if r["status"] == "ok"] == ["0"] * 3
    assert not any(r["chosen"] for r in made.rows("write") if r["status"] != "ok")
    again = captioned(tmp_path, "concept\na\nb\nc\n", model, variants={"write": 5})
    more = run(again, tmp_path / "run", base=tmp_path, update=True)
    assert reasons(more, "write") == {"duplicate": 12}
    assert sum(r.reused for r in more.ledger() if r.folder == "write") == 9


def caption(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What `ctrlsynth concepts caption` prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["ctrlsynth", "concepts", "caption", *map(str, words)])
        with contextlib.suppress(SystemExit):
            main()
    return capsys.readouterr().out


def test_the_command_samples_as_the_paper_does_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = tmp_path / "bank.txt"
    bank.write_text("dog\ncat\n")
    told = json.loads(
        caption(capsys, bank, "--llm", "test_captions:Sampler", "--n", 2, "--out", tmp_path / "a", "--json")
    )
    assert told["taken_off"] == {"quotes": 2}
    assert {r["folder"]: r["dropped"] for r in told["ledger"]}["write"] == {"duplicate": 2}
    assert [r["text"] for r in Run.open(tmp_path / "a").rows("write")] == [
        f"A {c} at 0.7, 0.95, 1.0." for c in ("dog", "dog", "cat", "cat")
    ]
    shown = caption(
        capsys, bank, "--llm", "{'test_captions:Sampler': null, temperature: 0}", "--out", tmp_path / "b"
    )
    assert "removed from captions that are kept: quotes of 2" in shown
    assert next(Run.open(tmp_path / "b").rows("write"))["text"] == "A dog at 0, 1.0, 0.0."
    caption(capsys, bank, "--llm", "naive:clip7", "--out", tmp_path / "c")
    assert Run.open(tmp_path / "c").recipe.models.llm == {"naive": "clip7"}


def test_a_model_that_refuses_everything_stops_the_run_with_the_reasons(tmp_path: Path) -> None:
    recipe = captioned(
        tmp_path,
        "concept\na\nb\nc\n",
        {"test_captions:Sayer": None, "says": ["I'm sorry, I cannot help with that."]},
    )
    with pytest.raises(WorkFailed, match=r"write: none of 3 rows came through \(refusal x 3\)"):
        run(recipe, tmp_path / "run", base=tmp_path)


def test_odd_concepts_have_a_reason_or_a_caption(tmp_path: Path) -> None:
    bank = (
        'concept\n"say ""hi"" to {braces}"\n"two\nlines"\n'
        + "x" * 10_000
        + "\n...\n  spaced  \n\u00fc\u4e2d\n"
    )
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
    made = run(
        captioned(tmp_path, "concept\ncastle\nsoup\n", "realizer", variants={"write": 6}),
        tmp_path / "run",
        base=tmp_path,
    )
    texts = [r["text"] for r in made.rows("write")]
    assert len(set(texts)) >= 10
    again = run(
        captioned(tmp_path, "concept\ncastle\nsoup\n", "realizer", variants={"write": 6}, seed=1),
        tmp_path / "run2",
        base=tmp_path,
    )
    assert [r["text"] for r in again.rows("write")] != texts


def test_naive_puts_the_concept_into_clips_prompts() -> None:
    naive = Naive()
    assert len(naive.templates) == len(set(naive.templates)) == 80
    assert set(Naive("clip7").templates) < set(naive.templates)
    said = {
        r.text
        for r in naive.generate([Request("", Tags(("tram",)), family="concept", seed=s) for s in range(80)])
    }
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
    free = (
        TextController(TextPolicy(templates=["unconditioned"]), 0)
        .instruct("r", "concept", None, "leopard")
        .request
    )
    assert "leopard" not in free.instruction
    topic = (
        TextController(TextPolicy(templates=["topic"]), 0)
        .instruct("r", "concept", None, "Wild Animals")
        .request
    )
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
    with pytest.raises(UserError, match="2 captions; it takes at least 3"):
        TextController(TextPolicy(templates=["in-context"], examples=few), 0)
    with pytest.raises(UserError, match="no chosen template of family 'concept' shows captions"):
        TextController(TextPolicy(examples=few), 0)
    with pytest.raises(UserError, match="cannot read the example captions"):
        TextController(TextPolicy(templates=["in-context"], examples=tmp_path / "no"), 0)


def test_plain_replies_lose_what_surrounds_all_of_them() -> None:
    assert unquoted('"A dog runs."') == unquoted("“A dog runs.”") == "A dog runs."
    for kept in ('He says "hi" and "ho"', '"hi", he says', '"', "'a dog's ball'"):
        assert unquoted(kept) == kept
    assert read_json('```json\n{"a": 1}\n```') == read_json(' {"a": 1} ') == {"a": 1}
    for bad in ("NaN", "{", "[" * 100_000):
        with pytest.raises(ValueError, match=r"not JSON|line 1|deeply"):
            read_json(bad)
