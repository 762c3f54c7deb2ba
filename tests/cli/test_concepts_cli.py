"""`ctrlsynth concepts build | match | balance | coverage` from end to end, on small captions, and what it
says to bad input."""

import csv
import json
import random
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ctrlsynth.concepts.bank import load_bank
from ctrlsynth.concepts.folder import MatchFolder, as_lists, of_lists
from ctrlsynth.concepts.match import Matches, spaced
from helpers import ctrlsynth, start

WORDS = ["dog", "cat", "hot dog", "sofa", "tree", "house", "lamp", "rose", "crystal ball", "zebra"]


def refused(*words: object) -> str:
    """What a command says that exits with 2 and prints nothing: one line."""
    code, out, err = ctrlsynth("concepts", *words)
    last = err.splitlines()[-1]
    assert (code, out, err.count("ctrlsynth: ")) == (2, "", 1), words
    return last.removeprefix("ctrlsynth: ")


def shown(*words: object) -> str:
    """What a command prints that succeeds."""
    code, out, err = ctrlsynth("concepts", *words)
    assert code == 0, err
    return out


def ok(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown(*words, "--json"))
    return found


def captions(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    weights = [2.0**-i for i in range(len(WORDS))]
    pairs = (chance.choices(WORDS, weights, k=2) for _ in range(count))
    return [f"A {one} and a {other}, number {i}." for i, (one, other) in enumerate(pairs)]


Files = tuple[Path, Path, list[str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A bank, and captions with duplicates among them. Tests only read them."""
    folder = tmp_path_factory.mktemp("concepts")
    bank, path = folder / "bank.txt", folder / "captions.txt"
    bank.write_text("\n".join([*WORDS, "unicorn"]) + "\n")
    texts = captions(2000)
    texts += texts[:100]
    path.write_text("\n".join(texts) + "\n")
    return bank, path, texts


@pytest.fixture(scope="module")
def matched(files: Files) -> Path:
    """The folder of their matches."""
    folder = files[0].parent / "m"
    ok("match", files[1], "--bank", files[0], "--out", folder)
    return folder


def ids_of(path: Path) -> list[str]:
    return [str(i) for i in pq.read_table(path)["id"].to_pylist()]


def test_from_captions_to_coverage(tmp_path: Path, files: Files) -> None:
    bank, path, texts = files
    made = ok("match", path, "--bank", bank, "--out", tmp_path / "m")
    plain = [[i for i, e in enumerate(load_bank(bank).entries) if f" {e} " in spaced(t)] for t in texts]
    numbers = (2100, sum(map(bool, plain)), sum(map(len, plain)))
    assert (made["texts"], made["matched"], made["pairs"]) == numbers
    table = pq.read_table(tmp_path / "m" / "matches-00000.parquet")
    assert [sorted(e) for e in table["entries"].to_pylist()] == plain
    assert table["text"].to_pylist() == texts

    told = ok("balance", tmp_path / "m", "--size", 200, "--out", tmp_path / "s.parquet")
    assert (told["captions"], told["duplicates"], told["expected"]) == (2100, 100, pytest.approx(200))
    kept = ids_of(tmp_path / "s.parquet")
    assert told["kept"] == len(kept) == pytest.approx(200, abs=4.5 * 200**0.5)
    assert kept == sorted(kept, key=int)
    chosen = pq.read_table(tmp_path / "s.parquet")
    assert len(set(chosen["text"].to_pylist())) == len(kept)
    assert [sorted(e) for e in chosen["entries"].to_pylist()] == [plain[int(i)] for i in kept]
    ok("balance", tmp_path / "m", "--size", 50, "--out", tmp_path / "small.parquet")
    assert set(ids_of(tmp_path / "small.parquet")) < set(kept)
    ok("balance", tmp_path / "m", "--size", 200, "--random", "--out", tmp_path / "r.parquet")
    assert len(ids_of(tmp_path / "r.parquet")) == pytest.approx(200, abs=4.5 * 200**0.5)

    compared = ("coverage", tmp_path / "m", "--vs", tmp_path / "s.parquet")
    found = ok(*compared, "--plot", tmp_path / "c.png", "--lists", tmp_path / "l")
    before, after = found["sets"]
    counts = [sum(i in row for row in plain) for i in range(11)]
    assert before["seen"] == {str(k): sum(c >= k for c in counts) for k in (1, 5, 25)}
    assert before["mean"] == pytest.approx(sum(c for c in counts if c >= 25) / sum(c >= 25 for c in counts))
    assert before["never_seen_first"] == ["unicorn"]
    assert before["over_represented"][0] == ["dog", max(counts)]
    assert after["over_represented"][0][1] < max(counts) / 4
    rose, fell = (dict(change["entries"]) for change in found["changes"])
    shares = {
        e: (sum(i in plain[int(k)] for k in kept) / len(kept), counts[i] / 2100)
        for i, e in enumerate([*WORDS, "unicorn"])
    }
    assert set(rose) == {e for e, (new, old) in shares.items() if new > old}
    assert set(fell) == {e for e, (new, old) in shares.items() if new < old}
    assert next(iter(fell)) == min(fell, key=fell.__getitem__)
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "l" / "never-seen.txt").read_text() == "unicorn\n"
    most = (tmp_path / "l" / "over-represented.csv").read_text()
    assert most.startswith(f"entry,texts,share\ndog,{max(counts)},")
    assert "never seen 1: unicorn" in shown(*compared)


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
        matches, subset = tmp_path / f"{name}.m", tmp_path / f"{name}.jsonl"
        options = ("--bank", tmp_path / "bank.txt", "--key-column", "id", "--out", matches)
        ok("match", tmp_path / name, *options)
        told = ok("balance", matches, "--size", 80, "--out", subset)
        found[name] = (told["t"], {json.loads(line)["id"] for line in subset.read_text().splitlines()})
    assert len(MatchFolder.open(tmp_path / "parts.m").parts) == 3
    assert found["one"] == found["other"] == found["parts"]


def test_other_formats_of_a_subset(tmp_path: Path, files: Files, matched: Path) -> None:
    texts = files[2]
    for suffix in ("txt", "csv", "jsonl", "parquet"):
        ok("balance", matched, "--t", 3, "--out", tmp_path / f"s.{suffix}")
    ids = ids_of(tmp_path / "s.parquet")
    assert (tmp_path / "s.txt").read_text().splitlines() == [texts[int(i)] for i in ids]
    assert (tmp_path / "s.csv").read_text().startswith("id,text,concepts\n")
    first = json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])
    assert first["id"] == ids[0]
    assert all(f" {c} " in spaced(first["text"]) for c in first["concepts"])


def test_building_and_cutting_banks(tmp_path: Path, files: Files, matched: Path) -> None:
    bank = files[0]
    whole, under = tmp_path / "b.parquet", tmp_path / "u.txt"
    sources = ("--source", "list", "--source", "numbers", "--add", bank)
    args = ("build", "--from", whole)
    assert [
        ok(*words)["entries"]
        for words in (
            ("build", *sources, "--out", whole),
            (*args, "--random", 7, "--out", tmp_path / "r.txt"),
            (*args, "--under", "animal.n.01", "--out", under),
            (*args, "--found-in", matched, "--out", tmp_path / "f.json"),
        )
    ] == [111, 7, 3, len(WORDS)]
    assert load_bank(under).entries == ("dog", "cat", "zebra")
    capped = shown("build", "--source", "numbers", "--cap", 9, "--out", tmp_path / "c.txt")
    assert "numbers           9 new of 100; 0 known already, 91 over the cap" in capped
    for option in (["--cap", 9], ["--source", "wordnet"], ["--add", bank], ["--min-count", 3]):
        told = refused(*args, *option, "--random", 7, "--out", tmp_path / "no.txt")
        assert told == f"{option[0]}: builds a bank, but --from cuts an existing one"


def test_bad_input_is_one_line_each(tmp_path: Path, files: Files, matched: Path) -> None:
    bank, path, _ = files
    other, empty, new, there = (tmp_path / f"{n}.txt" for n in ("other", "empty", "s", "there"))
    m, m2, none, full = matched, *(tmp_path / n for n in ("m2", "none", "full"))
    other.write_text("dog\n")
    empty.write_text(" \n")
    there.write_text("nothing here\n")
    full.mkdir()
    (full / "mine").write_text("")
    ok("match", path, "--bank", other, "--out", m2)
    ok("match", there, "--bank", bank, "--out", none)
    one, two = load_bank(bank).digest, load_bank(other).digest
    pool = ok("balance", m, "--t", 1, "--out", tmp_path / "x.txt")["pool"]
    matching = ("match", path, "--bank", bank, "--out")
    balance = ("balance", m, "--out", new)
    cases: dict[tuple[object, ...], str] = {
        (*matching, full): f"{full}: is not empty and holds no matches; give another folder",
        (
            *matching,
            m,
            "--mode",
            "lower",
        ): f"{m}: was matched with --mode exact, not lower; give another folder",
        (*matching, m, "--address", "auto"): "--address auto: needs --engine ray",
        ("match", path, "--bank", empty, "--out", tmp_path / "e"): (
            f"{empty}: the bank is empty (1 blank left out)"
        ),
        ("match", path, "--bank", other, "--out", m): (
            f"{m}: was matched with the bank {one}, {other} is {two}; give another folder"
        ),
        ("match", other, "--bank", bank, "--out", m): (
            f"{m}: was matched with other captions ({path}, now {other}); give another folder"
        ),
        balance: "give the size of the subset (--size M) or the threshold (--t T)",
        (*balance, "--t", 0): "t 0: above 0; ",
        (*balance, "--size", 0): "size 0: at least 1",
        (*balance, "--size", 2001): f"size 2,001 is more than the pool: {pool:,} texts hold an entry",
        (*balance, "--size", 2001, "--random"): "size 2,001 is more than the pool of 2,000 texts",
        ("balance", m, "--t", 3, "--out", there): f"{there}: already exists; give another name",
        ("balance", m, "--t", 1, "--out", "s.xml"): "s.xml: a subset is written as .parquet",
        ("balance", none, "--t", 1, "--out", new): f"{none}: no caption holds an entry of the bank",
        ("balance", full, "--t", 1, "--out", new): f"{full}: no matches there; make them with",
        ("coverage", path): f"{path}: neither a folder of matches nor a .parquet subset",
        ("coverage", m, "--vs", m2): (
            f"{m} was matched with the bank {one}, {m2} with {two}: not comparable"
        ),
    }
    for words, message in cases.items():
        assert refused(*words).startswith(message), words
    assert not new.exists()


def test_sets_of_different_modes_are_not_compared(tmp_path: Path, files: Files) -> None:
    bank, path, _ = files
    lower, lemma, subset, old = (tmp_path / n for n in ("lower", "lemma", "s.parquet", "old.parquet"))
    for mode in (lower, lemma):
        ok("match", path, "--bank", bank, "--mode", mode.name, "--out", mode)
    ok("balance", lower, "--t", 3, "--out", subset)
    for one in (lower, subset):
        told = f"{one} was matched with --mode lower, {lemma} with --mode lemma: not comparable"
        assert refused("coverage", one, "--vs", lemma) == told
    assert [s["mode"] for s in ok("coverage", lower, "--vs", subset)["sets"]] == ["lower", "lower"]
    table = pq.read_table(subset)
    facts = json.loads(table.schema.metadata[b"ctrlsynth"])
    assert facts.pop("mode") == "lower"
    pq.write_table(table.replace_schema_metadata({b"ctrlsynth": json.dumps(facts).encode()}), old)
    assert f"{old}: was written before subsets recorded their mode" in shown("coverage", lemma, "--vs", old)


def test_a_match_that_was_killed_before_its_plan_continues(tmp_path: Path, files: Files) -> None:
    bank, path, _ = files
    other, m = tmp_path / "other.txt", tmp_path / "m"
    other.write_text("dog\n")
    whole = ok("match", path, "--bank", bank, "--out", tmp_path / "whole")
    m.mkdir()
    (m / "bank.parquet").write_bytes((tmp_path / "whole" / "bank.parquet").read_bytes())
    (m / ".tmp-1-match.json").write_text("{")
    one, two = load_bank(bank).digest, load_bank(other).digest
    told = refused("match", path, "--bank", other, "--out", m)
    assert told == f"{m}: holds no matches, but the bank {one}; {other} is {two}; give another folder"
    assert ok("match", path, "--bank", bank, "--out", m) == {**whole, "matches": str(m)}


def test_coverage_writes_over_nothing(tmp_path: Path, matched: Path) -> None:
    m, plot, lists = matched, tmp_path / "c.svg", tmp_path / "l"
    ok("coverage", m, "--lists", lists)
    plot.write_text("mine")
    (lists / "never-seen.txt").write_text("mine")
    for words, there in ((("--plot", plot), plot), (("--lists", lists), lists / "never-seen.txt")):
        assert refused("coverage", m, *words) == f"{there}: already exists; give another name"
        assert there.read_text() == "mine"
    for there in lists.iterdir():
        there.unlink()
    second = lists / "over-represented-2.csv"
    second.write_text("mine")
    ok("coverage", m, "--lists", lists)
    for name in ("never-seen.txt", "over-represented.csv"):
        (lists / name).unlink()
    assert refused("coverage", m, "--vs", m, "--lists", lists).startswith(f"{second}: already exists")


def test_coverage_shows_no_list_where_none_is_wanted(tmp_path: Path, files: Files) -> None:
    bank, m = tmp_path / "bank.txt", tmp_path / "m"
    bank.write_text(files[0].read_text() + "gnome\ntroll\n")
    ok("match", files[1], "--bank", bank, "--out", m)
    tails = {
        0: "never seen 3",
        2: "never seen 3: unicorn, gnome, ...",
        3: "never seen 3: unicorn, gnome, troll",
    }
    for top, tail in tails.items():
        lines = shown("coverage", m, "--vs", m, "--top", top).splitlines()
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
    assert shown("match", path, "--bank", bank, "--out", tmp_path / "m").splitlines() == [
        "left out of the bank: 1 duplicate",
        "noted in the bank: 1 edge_spaces, 1 unmatchable",
        f"3 captions, 3 hold an entry, 1.00 entries per caption: {tmp_path / 'm'}",
        "skipped: 1 bad_utf8, 1 empty_caption",
        f"  {path} row 2: empty_caption",
        f"  {path} row 4: bad_utf8",
    ]


def test_a_killed_match_continues_where_it_stopped(tmp_path: Path) -> None:
    bank = tmp_path / "bank.txt"
    bank.write_text("\n".join(WORDS))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(40):
        (corpus / f"{number:02d}.csv").write_text(
            "caption\n" + "".join(f"{json.dumps(t)}\n" for t in captions(1500, number))
        )
    m = tmp_path / "m"
    words = ("match", corpus, "--bank", bank, "--out", m)
    job = start("concepts", *words, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while len(list(m.glob("matches-*"))) < 3 and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.005)
    job.kill()
    job.communicate()
    done = {p: p.stat().st_mtime_ns for p in m.glob("matches-*")}
    assert 3 <= len(done) < 40
    told = refused("balance", m, "--t", 1, "--out", tmp_path / "s.txt")
    assert "are not matched yet; run the same `concepts match` again" in told
    again = ok(*words, "--workers", 2)
    assert again["rows"] == 60_000
    assert {p: p.stat().st_mtime_ns for p in done} == done
    whole = ok("match", corpus, "--bank", bank, "--out", tmp_path / "whole")
    assert {**whole, "matches": str(m)} == again


def test_matches_go_through_arrow() -> None:
    matches = Matches.of([[3], [], [1, 2]])
    assert of_lists(as_lists(matches).slice(1, 2)).lists() == [[], [1, 2]]
