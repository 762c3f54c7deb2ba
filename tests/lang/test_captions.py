"""Captions about concepts: what is cleaned away and counted, the baselines of SynthCLIP's appendix B, and
what the embedded writers say."""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from ctrlsynth.api.run import Run, run
from ctrlsynth.control.text import TextController
from ctrlsynth.errors import UserError, WorkFailed
from ctrlsynth.lang.replies import LONGEST, clean, read_json, strip_wrapping, taken_off, unquoted
from ctrlsynth.models.base import Reply, Request
from ctrlsynth.models.llms.naive import Naive
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.recipe.schema import TextPolicy
from ctrlsynth.sample import Tags
from helpers import assert_refused, ctrlsynth


def asked(concept: str, row: str = "r", **policy: Any) -> str:
    return TextController(TextPolicy(**policy), 0).instruct(row, "concept", None, concept).request.instruction


ASKED = asked("teapot")


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
        ('"A dog runs.\n"', "", "line_break"),
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
def test_what_surrounds_a_caption_is_removed_and_counted(reply: str, text: str, off: tuple[str, ...]) -> None:
    assert clean(reply, "teapot", ASKED) == (text, None)
    assert strip_wrapping(reply) == (text, off)
    rows = [{"status": status, "raw": reply} for status in ("ok", "ok", "dropped")]
    assert taken_off(rows) == dict.fromkeys(off, 2)


def test_what_was_cut_is_not_whole_and_the_recipe_may_bound_the_length() -> None:
    assert clean("A teapot stands on", "teapot", ASKED, cut=True) == ("", "too_long")
    assert clean("A teapot " + "x " * (LONGEST - 2), "teapot", ASKED)[1] is None
    assert clean("A teapot stands on a table.", "teapot", ASKED, most=5) == ("", "too_long")
    assert clean("A teapot is here.", "teapot", ASKED, most=5)[1] is None


def test_a_concept_that_is_a_long_phrase_is_no_echo() -> None:
    concept = "one flew over the cuckoo's nest and never came back again"
    assert clean(f"A poster of {concept} hangs on a wall.", concept, asked(concept))[1] is None


class Sayer:
    """Says its lines one after the other, again and again."""

    id, digest = "sayer", "1"

    def __init__(self, *lines: str, says: Sequence[str] = (), batch: int = 256) -> None:
        self._says, self.batch = says, batch

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        lines = zip(cycle(self._says), requests, strict=False)
        return [Reply(line.replace("{}", r.tags.objects[0])) for line, r in lines]


class Sampler(Sayer):
    """Says with which options it was made."""

    def __init__(
        self, *lines: str, temperature: float = 0.0, top_p: float = 1.0, presence_penalty: float = 0.0
    ) -> None:
        super().__init__(says=[f'"A {{}} at {temperature}, {top_p}, {presence_penalty}."'])


def sayer(*says: str, **options: Any) -> dict[str, Any]:
    return {"test_captions:Sayer": None, "says": list(says), **options}


def captioned(
    base: Path, concepts: str, llm: Any = "realizer", out: str = "run", update: bool = False, **changes: Any
) -> Run:
    """A run of captions about concepts, one per line."""
    (base / "bank.csv").write_text(f"concept\n{concepts}", encoding="utf-8")
    data = {
        "name": "test",
        "source": {"concepts": "bank.csv"},
        "models": {"llm": llm},
        "paths": {"captions": ["concept", "text*"]},
        "judge": None,
        **changes,
    }
    return run(parse_recipe(data), base / out, base=base, update=update)


def reasons(made: Run, folder: str) -> dict[str, int]:
    row = next(r for r in made.ledger() if r.folder == folder)
    assert row.adds_up
    return {**row.dropped, **row.failed}


def test_the_ledger_counts_every_reason(tmp_path: Path) -> None:
    long = "Output the sentence only and nothing else but {} at most 15 words " * 3
    says = sayer("A {} here.", "I'm sorry, I can't.", "A {}.\nSecond line.", "...", long)
    made = captioned(tmp_path, "".join(f"thing{n}\n" for n in range(10)), says)
    assert reasons(made, "write") == {"refusal": 2, "line_break": 2, "no_words": 2, "too_long": 2}
    dropped = [r for r in made.rows("write") if r["reason"]]
    assert {(r["status"], r["text"]) for r in dropped} == {("dropped", None)}
    assert all(r["raw"] for r in dropped)


@pytest.mark.parametrize("batch", [2, 3, 256])
def test_a_concept_has_every_caption_once(tmp_path: Path, batch: int) -> None:
    """However the rows fall into calls; another concept may have the same, and more variants keep what is
    there."""
    model = sayer("A scene.", '"A scene."', batch=batch)
    made = captioned(tmp_path, "a\nb\nc\n", model, variants={"write": 3})
    assert reasons(made, "write") == {"duplicate": 6}
    kept = [(r["id"][-1], r["chosen"]) for r in made.rows("write") if r["status"] == "ok" or r["chosen"]]
    assert kept == [("0", True)] * 3
    more = captioned(tmp_path, "a\nb\nc\n", model, update=True, variants={"write": 5})
    assert reasons(more, "write") == {"duplicate": 12}
    assert sum(r.reused for r in more.ledger() if r.folder == "write") == 9


def test_the_command_samples_as_the_paper_does_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "bank.txt").write_text("dog\ncat\n")

    def caption(llm: str, out: str, *words: object) -> tuple[str, Run]:
        command = ("concepts", "caption", tmp_path / "bank.txt", "--llm", llm, "--out", tmp_path / out)
        return ctrlsynth(*command, *words)[1], Run.open(tmp_path / out)

    shown, made = caption("test_captions:Sampler", "a", "--n", 2, "--json")
    told = json.loads(shown)
    assert told["taken_off"] == {"quotes": 2}
    assert {r["folder"]: r["dropped"] for r in told["ledger"]}["write"] == {"duplicate": 2}
    texts = [f"A {c} at 0.7, 0.95, 1.0." for c in ("dog", "dog", "cat", "cat")]
    assert [r["text"] for r in made.rows("write")] == texts
    shown, made = caption("{'test_captions:Sampler': null, temperature: 0}", "b")
    assert "removed from captions that are kept: quotes of 2" in shown
    assert next(made.rows("write"))["text"] == "A dog at 0, 1.0, 0.0."
    assert caption("naive:clip7", "c")[1].recipe.models.llm == {"naive": "clip7"}


@pytest.mark.parametrize(
    ("concepts", "llm", "error", "message"),
    [
        ("a\nb\nc\n", sayer("I'm sorry, I cannot help."), WorkFailed, r"write: none of 3 .* \(refusal x 3\)"),
        ("---\n!\n", "realizer", WorkFailed, r"read: none of 2 rows came through \(no_words x 2\)"),
        ("", "realizer", UserError, "holds no rows"),
    ],
)
def test_a_run_without_one_caption_stops_with_the_reasons(
    tmp_path: Path, concepts: str, llm: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        captioned(tmp_path, concepts, llm)


def test_odd_concepts_have_a_reason_or_a_caption(tmp_path: Path) -> None:
    bank = '"say ""hi"" to {braces}"\n"two\nlines"\n' + "x" * 10_000 + "\n...\n  spaced  \n\u00fc\u4e2d\n"
    made = captioned(tmp_path, bank)
    assert reasons(made, "read") == {"no_words": 1, "too_long": 1}
    captions = [r["caption"] for r in made.rows("read") if r["status"] == "ok"]
    assert captions == ['say "hi" to {braces}', "two lines", "spaced", "\u00fc\u4e2d"]
    assert all(r["text"] and not set(r["text"]) & {"\n", '"'} for r in made.rows("write"))


def test_variants_differ_by_seed(tmp_path: Path) -> None:
    texts = [
        [
            r["text"]
            for r in captioned(tmp_path, "castle\nsoup\n", out=str(n), variants={"write": 6}, seed=n).rows(
                "write"
            )
        ]
        for n in range(2)
    ]
    assert len(set(texts[0])) >= 10
    assert texts[0] != texts[1]


def test_naive_puts_the_concept_into_clips_prompts() -> None:
    naive = Naive()
    assert len(naive.templates) == len(set(naive.templates)) == 80
    assert set(Naive("clip7").templates) < set(naive.templates)
    trams = [Request("", Tags(("tram",)), family="concept", seed=s) for s in range(80)]
    said = {r.text for r in naive.generate(trams)}
    assert len(said) == 80
    assert "a photo of a tram." in said
    assert naive.generate([Request("")])[0].error == "no_content"


def test_own_templates_of_naive_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("# mine\na {} on the moon.\n")
    assert Naive(str(path)).templates == ("a {} on the moon.",)
    path.write_text("a moon.\n")
    assert_refused(lambda: Naive(str(path)), r"template 1 holds \{\} 0 times")
    assert_refused(lambda: Naive(f"{path}/nowhere"), r"takes clip80, clip7 or a text file .*nowhere")


def test_the_three_attempts_of_the_appendix(tmp_path: Path) -> None:
    every = TextController(TextPolicy(), 0)
    assert {every.instruct(f"r{n}", "concept", None, "leopard").template for n in range(40)} == {"concept-1"}
    assert "leopard" not in asked("leopard", templates=["unconditioned"])
    topic = asked("Wild Animals", templates=["topic"])
    assert all(word in topic for word in ("topic", "Wild Animals"))
    (tmp_path / "shown.txt").write_text("".join(f"A cat sits near tower {n}.\n" for n in range(9)))
    first, second, again = (
        asked("dog", row, templates=["in-context"], examples=tmp_path / "shown.txt") for row in "aba"
    )
    assert first == again != second
    assert first.count("A cat sits near tower") == 3


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"templates": ["in-context"]}, "template 'in-context' shows captions; name a text file"),
        ({"templates": ["in-context"], "examples": "few.txt"}, "2 captions; it takes at least 3"),
        ({"examples": "few.txt"}, "no chosen template of family 'concept' shows captions"),
        ({"templates": ["in-context"], "examples": "no"}, "cannot read the example captions"),
    ],
)
def test_examples_and_templates_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("few.txt").write_text("one\none\ntwo\n")
    assert_refused(lambda: asked("dog", **policy), message)


def test_plain_replies_lose_what_surrounds_all_of_them() -> None:
    assert unquoted('"A dog runs."') == unquoted("“A dog runs.”") == "A dog runs."
    for kept in ('He says "hi" and "ho"', '"hi", he says', '"', "'a dog's ball'"):
        assert unquoted(kept) == kept
    assert read_json('```json\n{"a": 1}\n```') == read_json(' {"a": 1} ') == {"a": 1}
    for bad in ("NaN", "{", "[" * 100_000):
        with pytest.raises(ValueError, match=r"not JSON|line 1|deeply"):
            read_json(bad)
