"""`ctrlsynth concepts build | match | balance | coverage` from end to end, on small captions, and what it
says to bad input."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ctrlsynth.concepts.bank import load_bank
from ctrlsynth.concepts.folder import MatchFolder, as_lists, of_lists
from ctrlsynth.concepts.match import Matches, spaced
from helpers import ctrlsynth

WORDS = ["dog", "cat", "hot dog", "sofa", "tree", "house", "lamp", "rose", "crystal ball", "zebra"]


def ok(*words: object) -> dict[str, Any]:
    code, out, err = ctrlsynth("concepts", *words, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def captions(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    weights = [2.0**-i for i in range(len(WORDS))]
    return [
        f"A {chance.choices(WORDS, weights)[0]} and a {chance.choices(WORDS, weights)[0]}, number {i}."
        for i in range(count)
    ]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, list[str]]:
    """A bank, and captions with duplicates among them."""
    bank, path = tmp_path / "bank.txt", tmp_path / "captions.txt"
    bank.write_text("\n".join([*WORDS, "unicorn"]) + "\n")
    texts = captions(2000)
    texts += texts[:100]
    path.write_text("\n".join(texts) + "\n")
    return bank, path, texts


def ids_of(path: Path) -> list[str]:
    found: list[str] = pq.read_table(path)["id"].to_pylist()
    return found


def test_from_captions_to_coverage(tmp_path: Path, files: tuple[Path, Path, list[str]]) -> None:
    bank, path, texts = files
    made = ok("match", path, "--bank", bank, "--out", tmp_path / "m")
    plain = [[i for i, e in enumerate(load_bank(bank).entries) if f" {e} " in spaced(t)] for t in texts]
    assert (made["texts"], made["matched"], made["pairs"]) == (
        2100,
        sum(map(bool, plain)),
        sum(map(len, plain)),
    )
    table = pq.read_table(tmp_path / "m" / "matches-00000.parquet")
    assert [sorted(e) for e in table["entries"].to_pylist()] == plain
    assert table["text"].to_pylist() == texts

    told = ok("balance", tmp_path / "m", "--size", 200, "--out", tmp_path / "s.parquet")
    assert (told["captions"], told["duplicates"]) == (2100, 100)
    assert told["expected"] == pytest.approx(200)
    kept = ids_of(tmp_path / "s.parquet")
    assert told["kept"] == len(kept) == pytest.approx(200, abs=4.5 * 200**0.5)
    assert ids_of(tmp_path / "s.parquet") == sorted(kept, key=int)
    chosen = pq.read_table(tmp_path / "s.parquet")
    assert len(set(chosen["text"].to_pylist())) == len(kept)
    assert [sorted(e) for e in chosen["entries"].to_pylist()] == [plain[int(i)] for i in kept]
    ok("balance", tmp_path / "m", "--size", 50, "--out", tmp_path / "small.parquet")
    assert set(ids_of(tmp_path / "small.parquet")) < set(kept)
    ok("balance", tmp_path / "m", "--size", 200, "--random", "--out", tmp_path / "r.parquet")
    assert len(ids_of(tmp_path / "r.parquet")) == pytest.approx(200, abs=4.5 * 200**0.5)

    shown = ok(
        "coverage",
        tmp_path / "m",
        "--vs",
        tmp_path / "s.parquet",
        "--plot",
        tmp_path / "c.png",
        "--lists",
        tmp_path / "l",
    )
    before, after = shown["sets"]
    counts = [sum(i in row for row in plain) for i in range(11)]
    assert before["seen"] == {str(k): sum(c >= k for c in counts) for k in (1, 5, 25)}
    assert before["mean"] == pytest.approx(sum(c for c in counts if c >= 25) / sum(c >= 25 for c in counts))
    assert before["never_seen_first"] == ["unicorn"]
    assert before["over_represented"][0] == ["dog", max(counts)]
    assert after["over_represented"][0][1] < max(counts) / 4
    rose, fell = (dict(change["entries"]) for change in shown["changes"])
    shares = {
        e: (sum(i in plain[int(k)] for k in kept) / len(kept), counts[i] / 2100)
        for i, e in enumerate([*WORDS, "unicorn"])
    }
    assert set(rose) == {e for e, (new, old) in shares.items() if new > old}
    assert set(fell) == {e for e, (new, old) in shares.items() if new < old}
    assert next(iter(fell)) == min(fell, key=fell.__getitem__)
    assert "unicorn" not in rose | fell, "what neither set holds has not changed"
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "l" / "never-seen.txt").read_text() == "unicorn\n"
    assert (
        (tmp_path / "l" / "over-represented.csv")
        .read_text()
        .startswith(f"entry,texts,share\ndog,{max(counts)},")
    )
    code, out, _ = ctrlsynth("concepts", "coverage", tmp_path / "m", "--vs", tmp_path / "s.parquet")
    assert code == 0
    assert "never seen 1: unicorn" in out


def test_the_subset_depends_on_neither_order_nor_parts(tmp_path: Path) -> None:
    """The same captions with the same ids: in one file, in another order, and in parts. Which
    duplicate stays depends on the id."""
    texts = captions(600) + captions(60)
    rows = [f"{i},{json.dumps(t)}\n" for i, t in enumerate(texts)]
    (tmp_path / "bank.txt").write_text("\n".join(WORDS))
    shuffled = rows[:]
    random.Random(1).shuffle(shuffled)
    cuts = {"one": [rows], "other": [shuffled], "parts": [shuffled[:50], shuffled[50:51], shuffled[51:]]}
    found = {}
    for name, pieces in cuts.items():
        (tmp_path / name).mkdir()
        for number, piece in enumerate(pieces):
            (tmp_path / name / f"{number}.csv").write_text("id,caption\n" + "".join(piece))
        ok(
            "match",
            tmp_path / name,
            "--bank",
            tmp_path / "bank.txt",
            "--key-column",
            "id",
            "--out",
            tmp_path / f"{name}.m",
        )
        told = ok("balance", tmp_path / f"{name}.m", "--size", 80, "--out", tmp_path / f"{name}.jsonl")
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        found[name] = (told["t"], {line["id"] for line in lines})
        if name == "parts":
            assert len(MatchFolder.open(tmp_path / "parts.m").parts) == 3
    assert found["one"] == found["other"] == found["parts"]


def test_other_formats_of_a_subset(tmp_path: Path, files: tuple[Path, Path, list[str]]) -> None:
    bank, path, texts = files
    ok("match", path, "--bank", bank, "--out", tmp_path / "m")
    for suffix in ("txt", "csv", "jsonl", "parquet"):
        ok("balance", tmp_path / "m", "--t", 3, "--out", tmp_path / f"s.{suffix}")
    ids = ids_of(tmp_path / "s.parquet")
    assert (tmp_path / "s.txt").read_text().splitlines() == [texts[int(i)] for i in ids]
    assert (tmp_path / "s.csv").read_text().startswith("id,text,concepts\n")
    first = json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])
    assert first["id"] == ids[0]
    assert all(f" {c} " in spaced(first["text"]) for c in first["concepts"])
    code, _, err = ctrlsynth("concepts", "balance", tmp_path / "m", "--t", 3, "--out", tmp_path / "s.txt")
    assert (code, err) == (2, f"ctrlsynth: {tmp_path / 's.txt'}: is there already; give another name\n")


def test_building_and_cutting_banks(tmp_path: Path, files: tuple[Path, Path, list[str]]) -> None:
    bank, path, _ = files
    made = ok(
        "build",
        "--source",
        "list",
        "--source",
        "numbers",
        "--add",
        bank,
        "--out",
        tmp_path / "b.parquet",
    )
    assert made["entries"] == 111
    ok("match", path, "--bank", tmp_path / "b.parquet", "--out", tmp_path / "m")
    args = ["build", "--from", tmp_path / "b.parquet"]
    assert ok(*args, "--random", 7, "--out", tmp_path / "r.txt")["entries"] == 7
    assert ok(*args, "--under", "animal.n.01", "--out", tmp_path / "u.txt")["entries"] == 3
    assert load_bank(tmp_path / "u.txt").entries == ("dog", "cat", "zebra")
    assert (
        ok(*args, "--found-in", tmp_path / "m", "--out", tmp_path / "f.json")["entries"] == len(WORDS) + 100
    )
    code, out, _ = ctrlsynth(
        "concepts", "build", "--source", "numbers", "--cap", 9, "--out", tmp_path / "c.txt"
    )
    assert code == 0
    assert "numbers           9 new of 100; 0 known already, 91 over the cap" in out
    for option in (["--cap", 9], ["--source", "wordnet"], ["--add", bank], ["--min-count", 3]):
        code, _, told = ctrlsynth("concepts", *args, *option, "--random", 7, "--out", tmp_path / "no.txt")
        assert code == 2
        assert f"{option[0]}: builds a bank, but --from cuts an existing one" in told


def test_bad_input_is_one_line_each(tmp_path: Path, files: tuple[Path, Path, list[str]]) -> None:
    bank, path, _ = files
    other, empty, m = tmp_path / "other.txt", tmp_path / "empty.txt", tmp_path / "m"
    other.write_text("dog\n")
    empty.write_text(" \n")
    ok("match", path, "--bank", bank, "--out", m)
    (tmp_path / "no.txt").write_text("nothing here\n")
    ok("match", tmp_path / "no.txt", "--bank", bank, "--out", tmp_path / "none")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("")
    one, two = load_bank(bank).digest, load_bank(other).digest
    pool = ok("balance", m, "--t", 1, "--out", tmp_path / "x.txt")["pool"]
    cases = {
        (
            "match",
            path,
            "--bank",
            other,
            "--out",
            m,
        ): f"{m}: was matched with the bank {one}, {other} is {two}; give another folder",
        (
            "match",
            path,
            "--bank",
            empty,
            "--out",
            tmp_path / "e",
        ): f"{empty}: the bank is empty (1 blank left out)",
        (
            "match",
            path,
            "--bank",
            bank,
            "--out",
            m,
            "--mode",
            "lower",
        ): f"{m}: was matched with --mode exact, not lower; give another folder",
        (
            "match",
            other,
            "--bank",
            bank,
            "--out",
            m,
        ): f"{m}: was matched with other captions ({path}, now {other}); give another folder",
        (
            "match",
            path,
            "--bank",
            bank,
            "--out",
            m,
            "--address",
            "auto",
        ): "--address auto: needs --engine ray",
        (
            "match",
            path,
            "--bank",
            bank,
            "--out",
            full,
        ): f"{full}: is not empty and holds no matches; give another folder",
        ("balance", m, "--t", 0, "--out", tmp_path / "s.txt"): "t 0: above 0; ",
        ("balance", m, "--size", 0, "--out", tmp_path / "s.txt"): "size 0: at least 1",
        (
            "balance",
            m,
            "--size",
            2001,
            "--out",
            tmp_path / "s.txt",
        ): f"size 2,001 is more than the pool: {pool:,} texts hold an entry",
        (
            "balance",
            m,
            "--size",
            2001,
            "--random",
            "--out",
            tmp_path / "s.txt",
        ): "size 2,001 is more than the pool of 2,000 texts",
        (
            "balance",
            m,
            "--out",
            tmp_path / "s.txt",
        ): "give the size of the subset (--size M) or the threshold (--t T)",
        (
            "balance",
            m,
            "--t",
            1,
            "--out",
            tmp_path / "s.xml",
        ): f"{tmp_path / 's.xml'}: a subset is written as .parquet",
        (
            "balance",
            tmp_path / "none",
            "--t",
            1,
            "--out",
            tmp_path / "s.txt",
        ): f"{tmp_path / 'none'}: no caption holds an entry of the bank",
        ("balance", full, "--t", 1, "--out", tmp_path / "s.txt"): f"{full}: no matches there; make them with",
        ("coverage", path): f"{path}: neither a folder of matches nor a .parquet subset",
    }
    for words, message in cases.items():
        code, out, err = ctrlsynth("concepts", *words)
        assert (code, out) == (2, ""), words
        assert err.splitlines()[-1].startswith(f"ctrlsynth: {message}"), err
        assert err.count("ctrlsynth: ") == 1
        assert not (tmp_path / "s.txt").exists()
    ok("match", path, "--bank", other, "--out", tmp_path / "m2")
    _, _, err = ctrlsynth("concepts", "coverage", m, "--vs", tmp_path / "m2")
    assert (
        err
        == f"ctrlsynth: {m} was matched with the bank {one}, {tmp_path / 'm2'} with {two}: not comparable\n"
    )


def test_sets_of_different_modes_are_not_compared(
    tmp_path: Path, files: tuple[Path, Path, list[str]]
) -> None:
    bank, path, _ = files
    for mode in ("lower", "lemma"):
        ok("match", path, "--bank", bank, "--mode", mode, "--out", tmp_path / mode)
    lower, lemma, subset, old = (tmp_path / n for n in ("lower", "lemma", "s.parquet", "old.parquet"))
    code, out, err = ctrlsynth("concepts", "coverage", lower, "--vs", lemma)
    assert (code, out) == (2, "")
    assert (
        err
        == f"ctrlsynth: {lower} was matched with --mode lower, {lemma} with --mode lemma: not comparable\n"
    )
    ok("balance", lower, "--t", 3, "--out", subset)
    _, _, err = ctrlsynth("concepts", "coverage", subset, "--vs", lemma)
    assert (
        err
        == f"ctrlsynth: {subset} was matched with --mode lower, {lemma} with --mode lemma: not comparable\n"
    )
    assert [s["mode"] for s in ok("coverage", lower, "--vs", subset)["sets"]] == ["lower", "lower"]
    table = pq.read_table(subset)
    facts = json.loads(table.schema.metadata[b"ctrlsynth"])
    assert facts.pop("mode") == "lower"
    pq.write_table(table.replace_schema_metadata({b"ctrlsynth": json.dumps(facts).encode()}), old)
    code, out, _ = ctrlsynth("concepts", "coverage", lemma, "--vs", old)
    assert code == 0
    assert f"{old}: was written before subsets recorded their mode" in out


def test_a_match_that_was_killed_before_its_plan_goes_on(
    tmp_path: Path, files: tuple[Path, Path, list[str]]
) -> None:
    bank, path, _ = files
    other, m = tmp_path / "other.txt", tmp_path / "m"
    other.write_text("dog\n")
    whole = ok("match", path, "--bank", bank, "--out", tmp_path / "whole")
    m.mkdir()
    (m / "bank.parquet").write_bytes((tmp_path / "whole" / "bank.parquet").read_bytes())
    (m / ".tmp-1-match.json").write_text("{")
    _, _, err = ctrlsynth("concepts", "match", path, "--bank", other, "--out", m)
    one, two = load_bank(bank).digest, load_bank(other).digest
    assert (
        err
        == f"ctrlsynth: {m}: holds no matches, but the bank {one}; {other} is {two}; give another folder\n"
    )
    assert {**ok("match", path, "--bank", bank, "--out", m), "matches": ""} == {
        **whole,
        "matches": "",
    }


def test_coverage_writes_over_nothing(tmp_path: Path, files: tuple[Path, Path, list[str]]) -> None:
    bank, path, _ = files
    m, plot, lists = tmp_path / "m", tmp_path / "c.svg", tmp_path / "l"
    ok("match", path, "--bank", bank, "--out", m)
    ok("coverage", m, "--lists", lists)
    plot.write_text("mine")
    (lists / "never-seen.txt").write_text("mine")
    for words, there in ((("--plot", plot), plot), (("--lists", lists), lists / "never-seen.txt")):
        code, out, err = ctrlsynth("concepts", "coverage", m, *words)
        assert (code, out, err) == (2, "", f"ctrlsynth: {there}: is there already; give another name\n")
        assert there.read_text() == "mine"
    (lists / "never-seen.txt").unlink()
    (lists / "over-represented.csv").unlink()
    (lists / "over-represented-2.csv").write_text("mine")
    ok("coverage", m, "--lists", lists)
    (lists / "never-seen.txt").unlink()
    (lists / "over-represented.csv").unlink()
    assert ctrlsynth("concepts", "coverage", m, "--vs", m, "--lists", lists)[2].startswith(
        f"ctrlsynth: {lists / 'over-represented-2.csv'}: is there"
    )


def test_coverage_shows_no_list_where_none_is_wanted(
    tmp_path: Path, files: tuple[Path, Path, list[str]]
) -> None:
    bank, path, _ = files
    m = tmp_path / "m"
    bank.write_text(bank.read_text() + "gnome\ntroll\n")
    ok("match", path, "--bank", bank, "--out", m)
    tails = {
        0: "never seen 3",
        2: "never seen 3: unicorn, gnome, ...",
        3: "never seen 3: unicorn, gnome, troll",
    }
    for top, tail in tails.items():
        lines = ctrlsynth("concepts", "coverage", m, "--vs", m, "--top", top)[1].splitlines()
        assert f"{m}: {tail}" in lines
        assert not [line for line in lines if line.endswith(": ")]
        assert any("seen most" in line for line in lines) == (top > 0)


def test_a_subset_as_csv_tells_any_entry_apart(tmp_path: Path) -> None:
    (tmp_path / "bank.txt").write_text('a|b\ndog\n"quoted"\n')
    (tmp_path / "c.txt").write_text('one a|b and a dog "quoted" here\n')
    ok("match", tmp_path / "c.txt", "--bank", tmp_path / "bank.txt", "--out", tmp_path / "m")
    ok("balance", tmp_path / "m", "--t", 5, "--out", tmp_path / "s.csv")
    with open(tmp_path / "s.csv", newline="") as handle:
        (row,) = csv.DictReader(handle)
    assert sorted(json.loads(row["concepts"])) == ['"quoted"', "a|b", "dog"]


def test_captions_that_cannot_be_read_are_counted_with_their_rows(tmp_path: Path) -> None:
    path, bank = tmp_path / "c.txt", tmp_path / "bank.txt"
    bank.write_text("dog\nhot dog\ndog \ncat,dog\ndog\n")
    path.write_bytes("a\tdog\rhere\nmy hot\u200b dog\n\nb\u0301 dog\n".encode() + b"a c\xe9t\n")
    code, out, _ = ctrlsynth("concepts", "match", path, "--bank", bank, "--out", tmp_path / "m")
    assert code == 0
    assert out.splitlines() == [
        "left out of the bank: 1 duplicate",
        "noted in the bank: 1 edge_spaces, 1 unmatchable",
        f"3 captions, 3 hold an entry, 1.00 entries per caption: {tmp_path / 'm'}",
        "skipped: 1 bad_utf8, 1 empty_caption",
        f"  {path} row 2: empty_caption",
        f"  {path} row 4: bad_utf8",
    ]


def test_a_killed_match_goes_on_where_it_was(tmp_path: Path) -> None:
    bank = tmp_path / "bank.txt"
    bank.write_text("\n".join(WORDS))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(40):
        (corpus / f"{number:02d}.csv").write_text(
            "caption\n" + "".join(f"{json.dumps(t)}\n" for t in captions(1500, number))
        )
    words = [
        sys.executable,
        "-c",
        "from ctrlsynth.cli.main import main; main()",
        "concepts",
        "match",
        corpus,
        "--bank",
        bank,
        "--out",
        tmp_path / "m",
    ]
    job = subprocess.Popen(
        [*map(str, words)], env=os.environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while (
        len(list((tmp_path / "m").glob("matches-*.parquet"))) < 3
        and time.monotonic() < deadline
        and job.poll() is None
    ):
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    job.wait()
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "m").glob("matches-*.parquet")}
    assert 3 <= len(done) < 40
    code, _, err = ctrlsynth("concepts", "balance", tmp_path / "m", "--t", 1, "--out", tmp_path / "s.txt")
    assert code == 2
    assert "are not matched yet; run the same `concepts match` again" in err
    again = ok("match", corpus, "--bank", bank, "--out", tmp_path / "m", "--workers", 2)
    assert again["rows"] == 60_000
    assert all(p.stat().st_mtime_ns == made for p, made in done.items())
    whole = ok("match", corpus, "--bank", bank, "--out", tmp_path / "whole")
    assert {**whole, "matches": ""} == {**again, "matches": ""}


def test_matches_go_through_arrow() -> None:
    matches = Matches.of([[3], [], [1, 2]])
    assert of_lists(as_lists(matches).slice(1, 2)).lists() == [[], [1, 2]]
