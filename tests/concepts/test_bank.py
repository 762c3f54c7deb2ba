"""The concept bank: MetaCLIP's numbers, sources in order, files in and out, sub-banks, and input that can't
be used."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrlsynth.concepts.bank import (
    Bank,
    build,
    by_score,
    digest_of,
    distinct,
    found_part,
    load_bank,
    random_part,
    read_bank,
    subtree,
    synset_names,
    table_of,
    with_flags,
    write_bank,
)
from ctrlsynth.concepts.gather import Wanted, gather
from ctrlsynth.data.sources import open_source
from ctrlsynth.recipe.schema import Source
from helpers import assert_refused


def test_wordnet_gives_metaclips_number() -> None:
    """MetaCLIP's paper counts 86,654 entries of WordNet; its script puts them beside the 100 numbers: 86,554
    + 100."""
    names = synset_names()
    assert len(names) == len(set(names)) == 86_554
    assert len({*names, *map(str, range(100))}) == 86_654
    assert {"swivel chair", "crystal ball"} < set(names)


def test_a_bank_from_every_source_is_the_same_each_time(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("my own thing\ndog\n")
    table, told = build(gather(Wanted(lists=[mine])))
    few = Wanted(sources=["list", "numbers", "wordnet"], lists=[mine])
    assert build(gather(few))[0].equals(build(gather(few))[0])
    entries = table["entry"].to_pylist()
    assert len(entries) == len(set(entries))
    source = dict(zip(entries, table["source"].to_pylist(), strict=True))
    assert {
        "dog": "list+wordnet+unigrams",
        "42": "numbers",
        "endoplasmic reticulum": "bigrams",  # in WordNet it is the second lemma of its synset
        "reticulum": "wordnet+unigrams",
        "my own thing": "list",
    }.items() <= source.items()
    for one in told:
        assert one.given == one.new + one.repeats + sum(one.dropped.values()) + one.over_cap
    assert [one.source for one in told] == ["list", "numbers", "wordnet", "unigrams", "bigrams"]
    assert sum(one.new for one in told) == len(entries)
    score = dict(zip(entries, table["score"].to_pylist(), strict=True))
    assert (score["42"] is None and score["the"] is None) or score["the"] > 1e9


def test_one_cap_holds_for_all_in_order() -> None:
    sources = [
        ("numbers", [("1", None), ("2", None)]),
        ("unigrams", [("dog", 9.0), ("2", 8.0), ("cat", 7.0)]),
        ("titles", [("Dog", 80.0)]),
    ]
    table, told = build(sources, cap=3)
    assert table["entry"].to_pylist() == ["1", "2", "dog"]
    assert table["source"].to_pylist() == ["numbers", "numbers+unigrams", "unigrams"]
    assert [(t.new, t.repeats, t.over_cap) for t in told] == [(2, 0, 0), (1, 1, 1), (0, 0, 1)]
    assert by_score([("b", 2), ("a", 2), ("c", 1), ("d", 3)], 2) == [("d", 3.0), ("a", 2.0), ("b", 2.0)]


def test_entries_of_nothing_but_blanks_or_marks_are_counted_out() -> None:
    entries = ["", "  ", "...", " dog ", "hot\t dog", "x" * 10_000]
    table, told = build([("list", [(entry, None) for entry in entries])])
    assert table["entry"].to_pylist() == ["dog", "hot dog", "x" * 10_000]
    assert told[0].dropped == {"blank": 2, "punctuation": 1}
    assert_refused(lambda: build([("list", [(" ", None)])]), r"^the bank would be empty")
    assert_refused(lambda: build([], cap=0), r"^cap 0: at least 1")


@pytest.mark.parametrize(
    "name", ["metadata.json", "bank.txt", "bank.txt.gz", "bank.csv", "bank.tsv", "plain.csv", "bank.parquet"]
)
def test_banks_are_read_from_every_format(tmp_path: Path, name: str) -> None:
    entries = ["dog", "hot dog", "ice, cream", " edge", "Ångström", "x" * 10_000, "`"]
    path = tmp_path / name
    lines = "\r\n".join(entries).encode()
    quoted = [f'"{entry}"\n' for entry in entries]
    forms = {
        "metadata.json": json.dumps(entries).encode(),
        "bank.txt": lines,
        "bank.txt.gz": gzip.compress(lines),
        "plain.csv": "".join(quoted).encode(),
        "bank.csv": ("n,concept\n" + "".join(f"7,{q}" for q in quoted)).encode(),
        "bank.tsv": ("n\tconcept\n" + "".join(f"7\t{q}" for q in quoted)).encode(),
    }
    if name in forms:
        path.write_bytes(forms[name])
    else:
        pq.write_table(pa.table({"entry": entries}), path)
    bank = load_bank(path)
    assert (list(bank.entries), bank.digest) == (entries, digest_of(entries))
    assert bank.noted == {"edge_spaces": 1, "very_long": 1, "punctuation": 1, "unmatchable": 1}


def test_what_is_left_out_of_a_bank_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(["dog", "", "  ", "dog", "cat", "\ud800lone"]))
    assert load_bank(path) == Bank(
        ("dog", "cat", "\ufffdlone"),
        digest_of(["dog", "cat", "\ufffdlone"]),
        {"blank": 2, "duplicate": 1},
        {},
    )


def test_flagged_entries_are_left_out_and_never_deleted(tmp_path: Path) -> None:
    table = table_of([("dog", "wordnet", None), ("gun", "wordnet", None), ("cat", "list", 3.0)])
    table = table.set_column(3, "flagged", pa.array([False, True, None]))
    write_bank(table, tmp_path / "bank.parquet")
    bank = load_bank(tmp_path / "bank.parquet")
    assert (bank.entries, bank.dropped) == (("dog", "cat"), {"flagged": 1})
    assert read_bank(tmp_path / "bank.parquet")["entry"].to_pylist() == ["dog", "gun", "cat"]
    for suffix in ("txt", "json", "csv"):
        write_bank(table, tmp_path / f"bank.{suffix}")
        assert load_bank(tmp_path / f"bank.{suffix}").entries == ("dog", "cat")
    assert_refused(lambda: write_bank(table, tmp_path / "bank.txt"), r"bank.txt: already exists")
    assert_refused(lambda: write_bank(table, tmp_path / "bank.xml"), r"bank.xml: a bank is written as")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".tmp")]


def test_an_added_bank_keeps_origins_scores_and_flags(tmp_path: Path) -> None:
    """Flagged once is flagged under every spelling of blanks, in whatever the bank becomes next."""
    mine = with_flags(
        table_of([("dog", "numbers+wordnet", 3.0), ("gore", "list", None)]),
        [False, True],
        ["harmless", "violence"],
    )
    write_bank(mine, tmp_path / "mine.parquet")
    (tmp_path / "plain.txt").write_text("gore\n gore\ncat\n")
    table, told = build(
        gather(Wanted(sources=["list", "numbers"], lists=[tmp_path / "mine.parquet", tmp_path / "plain.txt"]))
    )
    rows = {r["entry"]: r for r in table.to_pylist()}
    facts = ("source", "score", "flagged", "reason")
    assert {entry: tuple(rows[entry][f] for f in facts) for entry in ("dog", "gore", "cat")} == {
        "dog": ("numbers+wordnet", 3.0, False, "harmless"),
        "gore": ("list", None, True, "violence"),
        "cat": ("list", None, None, None),
    }
    assert (told[0].given, told[0].new, told[0].repeats) == (5, 3, 2)
    for suffix in ("parquet", "csv", "txt"):
        write_bank(table, tmp_path / f"all.{suffix}")
        assert "gore" not in load_bank(tmp_path / f"all.{suffix}").entries
    again = {r["entry"]: r for r in read_bank(tmp_path / "all.csv").to_pylist()}
    found = (again["dog"]["source"], again["dog"]["score"], again["7"]["source"])
    assert found == ("numbers+wordnet", 3.0, "numbers")
    spellings = table_of([(e, "list", None) for e in ("gore", "gore", " gore", "cat")])
    raw = with_flags(spellings, [None, True, None, None], [None] * 4)
    write_bank(raw, tmp_path / "raw.parquet")
    bank = load_bank(tmp_path / "raw.parquet")
    assert (bank.entries, bank.dropped) == (("cat",), {"flagged": 3})
    source = open_source(Source(concepts=tmp_path / "raw.parquet"), tmp_path)
    assert [r.reason for r in source.rows(source.parts()[0])][:3] == ["flagged"] * 3
    (tmp_path / "score.csv").write_text("entry,score\ndog,many\n")
    assert_refused(
        lambda: read_bank(tmp_path / "score.csv"), r"score\.csv:2: the score is not a number: 'many'"
    )


def test_a_cut_bank_has_no_repeats_and_no_blanks() -> None:
    given = pa.array(["dog", "dog", None, "  ", "cat", "gore", "caf\ufffd"])
    table = with_flags(
        table_of([(e or "", "list", None) for e in given.to_pylist()]), [None] * 5 + [True, None], [None] * 7
    )
    cut = distinct(table.set_column(0, "entry", given))
    assert cut["entry"].to_pylist() == ["dog", "cat", "gore", "caf\ufffd"]
    assert set(random_part(cut, 3, 0)["entry"].to_pylist()) == {
        "dog",
        "cat",
        "caf\ufffd",
    }  # never a flagged one
    assert build([("list", cut)])[1][0].dropped == {"undecodable": 1}


def test_sub_banks() -> None:
    table, _ = build(
        [("wordnet", [(n, None) for n in ("dog", "puppy", "Poodle", "cat", "sofa", "domestic dog", "42")])]
    )
    assert subtree(table, "dog.n.01")["entry"].to_pylist() == ["dog", "puppy", "Poodle", "domestic dog"]
    turned = table.take(list(reversed(range(table.num_rows))))
    draws = [(table, 2, 5), (table, 4, 5), (turned, 4, 5), (table, 4, 6)]
    small, large, again, other = (set(random_part(*drawn)["entry"].to_pylist()) for drawn in draws)
    assert (small < large, len(large), again == large, other == large) == (True, 4, True, False)
    found = found_part(table, ["cat", "sofa", "dog"], [3, 0, 1])
    assert (found["entry"].to_pylist(), set(found["source"].to_pylist())) == (["dog", "cat"], {"wordnet"})
    assert_refused(lambda: random_part(table, 8, 0), r"^a random draw of 8: the bank has 7 entries")
    assert_refused(
        lambda: subtree(table, "furnace.n.01"), r"no entry of the bank is a word of furnace\.n\.01"
    )
    assert_refused(lambda: subtree(table, "dogg.n.01"), r"unknown WordNet name")
    assert_refused(lambda: found_part(table, ["cat"], [0]), r"no entry of the bank is found")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "the bank is empty$"),
        ("blank.txt", b" \n\n  \n", r"the bank is empty \(3 blank left out\)"),
        ("bad.txt", b"dog\nc\xe9t\n", r"bad.txt:2: not UTF-8 \(byte 2 of the line\)"),
        ("bad.json", b"{}", "expected a list of strings"),
        ("number.json", b'["dog", 3]', "item 1 is not a string: 3"),
        ("cut.json", b'["dog"', "not JSON"),
        ("wide.csv", b"a,b\n1,2\n", "no column entry or concept"),
        ("bank.xml", b"<a/>", r"a bank is a \.parquet, \.json"),
        ("bank.parquet", b"PAR1", "not a readable bank"),
        ("bank.txt.gz", gzip.compress(b"dog\n" * 999, mtime=0)[:-9], "damaged or cut"),
    ],
)
def test_banks_that_cannot_be_used_are_told_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(lambda: load_bank(tmp_path / name), f"^(?=.*{name}).*{message}")
    assert_refused(lambda: load_bank(tmp_path / "none.txt"), "no such bank file")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(sources=["wordnett"]), "unknown source 'wordnett'; did you mean 'wordnet'"),
        (Wanted(bigrams=[Path("x")]), "bigrams need the unigrams"),
        (
            Wanted(sources=["wordnet"], lists=[Path("x")]),
            "x: only the source list reads it, and it is not among wordnet",
        ),
        (Wanted(sources=["wordnet"], pageviews=[Path("x")]), "x: only the source titles reads it"),
        (Wanted(sources=["titles"]), "titles: come from files"),
    ],
)
def test_sources_that_are_not_there_are_errors(wanted: Wanted, message: str) -> None:
    assert_refused(lambda: gather(wanted), message)


@pytest.mark.parametrize("entry", ["a\nb", "a\n"])
def test_a_list_cannot_hold_line_breaks(tmp_path: Path, entry: str) -> None:
    bank = table_of([(entry, "list", None)])
    assert_refused(lambda: write_bank(bank, tmp_path / "lines.txt"), "holds a line break")
