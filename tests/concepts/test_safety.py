"""Concepts that are flagged stay in the bank and out of synthesis; how varied captions are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest

from ctrlsynth.api.run import run
from ctrlsynth.concepts.bank import load_bank, read_bank, table_of, write_bank
from ctrlsynth.concepts.diversity import Diversity, measure, measure_place
from ctrlsynth.concepts.match import Matcher
from ctrlsynth.concepts.safety import Flags, answers, flag, holding, question, read_words
from ctrlsynth.models.base import Reply, Request
from ctrlsynth.recipe.file import parse_recipe
from helpers import assert_refused, ctrlsynth


class Judge:
    """Finds fit what is not in its list; cannot answer about silence."""

    id = "judge"
    digest = "1"

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        out = []
        for request in requests:
            assert request.schema is not None
            assert request.tags.objects[0] in request.instruction
            assert "caption" not in request.instruction
            bad = request.tags.objects[0] in ("brothel", "cocaine")
            said = json.dumps({"unfit": "yes" if bad else "no", "reason": "adult" if bad else "harmless"})
            out.append(Reply("hm" if request.tags.objects[0] == "silence" else said))
        return out


def bank_of(path: Path, *entries: str) -> Path:
    write_bank(table_of([(e, "list", None) for e in entries]), path)
    return path


def asked(tmp_path: Path, bank: Path) -> list[tuple[int, bool | None, str]]:
    made = run(question(bank, "test_safety:Judge"), tmp_path / "asked")
    return list(answers(made.rows("write", ["source_key", "status", "reason", "fields"])))


def test_flagged_concepts_stay_in_the_bank_and_out_of_synthesis(tmp_path: Path) -> None:
    bank = bank_of(
        tmp_path / "bank.parquet", "dog", "brothel", "gun shop", "silence", "Cocaine", "cocaine", "begun"
    )
    table, flags = flag(read_bank(bank), asked(tmp_path, bank), ["gun"], ["cocaine"])
    rows = {r["entry"]: (r["flagged"], r["reason"]) for r in table.to_pylist()}
    assert rows == {
        "dog": (False, "harmless"),
        "brothel": (True, "adult"),
        "gun shop": (True, "block list: gun"),
        "silence": (None, "not answered: bad_json"),
        "Cocaine": (False, "allowed"),
        "cocaine": (False, "allowed"),
        "begun": (False, "harmless"),
    }
    assert (flags, flags.share) == (Flags(7, 1, 1, 2, {"bad_json": 1}), 2 / 7)
    write_bank(table, tmp_path / "flagged.parquet")
    unflagged = ("dog", "silence", "Cocaine", "cocaine", "begun")
    assert load_bank(tmp_path / "flagged.parquet").entries == unflagged
    assert read_bank(tmp_path / "flagged.parquet").num_rows == 7
    data = {
        "name": "t",
        "source": {"concepts": "flagged.parquet"},
        "paths": {"c": ["concept", "text*"]},
        "judge": None,
    }
    made = run(parse_recipe(data), tmp_path / "captions", base=tmp_path)
    assert made.ledger()[0].dropped == {"flagged": 2}
    assert tuple(r["caption"] for r in made.rows("read") if r["status"] == "ok") == unflagged
    again, more = flag(read_bank(tmp_path / "flagged.parquet"), [])
    assert (more.by_model, again["flagged"].equals(table["flagged"])) == (2, True)  # flags stay


def test_an_answer_holds_for_every_entry_that_is_the_same_but_for_blanks(tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "bank.parquet", "dog", "brothel", "brothel", " brothel", "!!")
    table, flags = flag(read_bank(bank), asked(tmp_path, bank))
    assert (table["flagged"].to_pylist(), flags.by_model) == ([False, True, True, True, None], 3)
    assert flags.unanswered == {"blank, without words, or too long to be asked about": 1}
    later, more = flag(table.set_column(3, "flagged", pa.array([False, True, None, None, None])), [])
    # an earlier flag holds for them too
    assert (later["flagged"].to_pylist(), more.by_model) == ([False, True, True, True, None], 3)
    assert_refused(lambda: flag(table_of([("", "list", None)]), [], ["gun"]), "the bank is empty")


def test_a_block_list_takes_whole_words(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# mine\nweed\n\nnude beach\n")
    unfit = holding(read_words(tmp_path / "words.txt"))
    assert [unfit(e) for e in ("Weed", "weed killer", "seaweed", "a nude beach", "nude", "tweed")] == [
        "weed",
        "weed",
        None,
        "nude beach",
        None,
        None,
    ]
    assert holding([])("weed") is None
    assert_refused(lambda: read_words(tmp_path / "nowhere"), r"nowhere.*cannot read the list")


def test_the_small_model_is_given_the_question_and_answers_under_its_grammar(tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "bank.parquet", "teapot", "cocaine")
    recipe = question(bank, {"smollm2": None, "processes": 1})
    assert recipe.models.llm == {"smollm2": None, "processes": 1, "few_shot": False}
    told = list(answers(run(recipe, tmp_path / "run").rows("write")))
    assert [(place, type(bad)) for place, bad, _ in told] == [(0, bool), (1, bool)]


def test_diversity_tells_varied_from_repeated_captions() -> None:
    different = ["rain falls over a harbour", "two girls laugh", "an old violin lies near bread"]
    sets = (
        ["a dog sits on a red sofa"] * 50,
        [f"a dog sits on a red sofa, number {n}" for n in range(50)],
        [*different, "my cat sleeps", "snow on wires"] * 2,
    )
    same, alike, varied = (cast(Diversity, measure(texts)) for texts in sets)
    assert (same.similarity, alike.repeated, alike.openings) == (1.0, 0.0, 1.0)
    assert same.repeated == pytest.approx(49 / 50)
    assert varied.similarity < alike.similarity < same.similarity
    assert varied.distinct[0] > alike.distinct[0] > same.distinct[0]
    assert measure([]) is None


def test_diversity_against_the_plain_count() -> None:
    texts = ["a b c d", "a b c d e", "x y"]
    found = cast(Diversity, measure(texts, Matcher(["a", "d", "y"])))
    assert found.distinct == (7 / 11, 5 / 8, 3 / 5)
    assert (found.self_bleu, found.concepts) == pytest.approx(((1 + 1 / 2) / 2, 5 / 3))
    assert (found.captions, found.sample, found.vocabulary) == (3, 3, 7)


def test_diversity_of_a_file_and_a_run(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("a dog\n\na cat\n")
    assert measure_place(tmp_path / "c.txt").captions == 2
    bank = bank_of(tmp_path / "bank.parquet", "dog", "castle", "soup")
    data = {
        "name": "t",
        "source": {"concepts": "bank.parquet"},
        "paths": {"c": ["concept", "text*"]},
        "judge": None,
        "variants": {"write": 4},
    }
    run(parse_recipe(data), tmp_path / "run", base=tmp_path)
    found = measure_place(tmp_path / "run", bank)
    assert (found.captions, bool(found.concepts)) == (12, True)
    (tmp_path / "empty.txt").write_text("\n")
    assert_refused(lambda: measure_place(tmp_path / "empty.txt"), "captions")


def test_the_commands(tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "bank.parquet", "dog", "brothel", "castle")
    out, words, made = tmp_path / "flagged.parquet", tmp_path / "words.txt", tmp_path / "run"
    words.write_text("castle\n")
    judged = ("concepts", "flag", bank, "--llm", "test_safety:Judge", "--out", out)
    code, told, _ = ctrlsynth(*judged, "--blocklist", words)
    summary = (
        "2 of 3 concepts are flagged (66.67%; the paper: 3.15%): 1 by test_safety:Judge, 1 by the block "
        "list; 0 allowed"
    )
    assert (code, summary in told, "Do not rely on" in told) == (0, True, True)
    refused = {
        "already exists; give another name": judged,
        "name a model with --llm": ("concepts", "flag", bank, "--out", tmp_path / "x.parquet"),
        "flags are kept in a .parquet bank": (
            "concepts", "flag", bank, "--blocklist", words, "--out", tmp_path / "x.txt",
        ),
        "nonsense": ("concepts", "caption", out, "--llm", "nonsense", "--out", tmp_path / "y"),
    }  # fmt: skip
    for message, command in refused.items():
        code, _, told = ctrlsynth(*command)
        assert (code, message in told) == (2, True), told
    options = ("--llm", "{naive: clip7}", "--n", "3", "--out", made, "--json")
    code, told, _ = ctrlsynth("concepts", "caption", out, *options)
    ledger = {r["folder"]: r for r in json.loads(told)["ledger"]}
    assert (code, ledger["read"]["dropped"], ledger["write"]["ok"]) == (0, {"flagged": 2}, 3)
    code, told, _ = ctrlsynth("concepts", "diversity", made, words, "--json")
    assert (code, json.loads(told)[str(made)]["captions"]) == (0, 3)
    assert "self-BLEU" in ctrlsynth("concepts", "diversity", made, "--bank", bank)[1]
