"""Counts, views and titles as Wikipedia publishes them, on small files."""

import bz2
import gzip
import math
from pathlib import Path

import pyarrow as pa
import pytest

from ctrlsynth.concepts.gather import (
    Wanted,
    count_views,
    gather,
    pair_scores,
    read_counts,
    read_titles,
)
from helpers import assert_refused


def test_pmi_is_nltks() -> None:
    words = {"hot": 20, "dog": 30, "the": 950}
    scored = pair_scores(words, [("hot dog", 10), ("the dog", 20), ("hot cat", 9)], 0.0)
    assert dict(scored) == pytest.approx({"hot dog": math.log2(10 * 1000 / (20 * 30))})
    assert [p for p, _ in pair_scores(words, [("hot dog", 10), ("the dog", 20)], -9)] == [
        "hot dog",
        "the dog",
    ]


def test_views_of_hourly_and_daily_files(tmp_path: Path) -> None:
    hourly, daily = tmp_path / "pageviews-20220829-000000.gz", tmp_path / "pageviews-20220829-user.bz2"
    lines = [
        "de Hund 900 0",
        "en Dog 60 0",
        "en.m Dog 70 0",
        "en Rare 49 0",
        "en Talk:Dog 99 0",
        "en Hot_dog 80 0",
        '"" - 5 0',
    ]
    hourly.write_bytes(gzip.compress("\n".join(lines).encode() + b"\nen Bad\xff 88 0\n"))
    daily.write_bytes(
        bz2.compress(
            b"en.wikipedia Dog 4269567 desktop 12 A5B7\nen.wikipedia Cat null mobile-web 75 A75\nde.wikipedia Hund 1 desktop 9 A9\n"
        )
    )
    views = count_views([hourly, daily])
    assert views == {"Dog": 142, "Hot dog": 80, "Cat": 75, "Bad\ufffd": 88}
    assert count_views([hourly], wiki="de") == {"Hund": 900}
    assert count_views([hourly], hourly_least=1)["Rare"] == 49
    (tmp_path / "sums.txt").write_text("en.wikipedia Dog 71\n")
    assert count_views([tmp_path / "sums.txt"]) == {"Dog": 71}
    (tmp_path / "not.txt").write_text("a b c d\n")
    assert_refused(
        lambda: count_views([tmp_path / "not.txt"]), r"not\.txt: no line looks like a pageviews file's"
    )


def test_title_lists(tmp_path: Path) -> None:
    (tmp_path / "enwiki-all-titles-in-ns0.gz").write_bytes(gzip.compress(b"page_title\nDog\nHot_dog\n"))
    (tmp_path / "enwiki-all-titles").write_text("page_namespace\tpage_title\n0\tDog\n1\tDog_talk\n")
    assert list(read_titles(tmp_path / "enwiki-all-titles-in-ns0.gz")) == ["Dog", "Hot dog"]
    assert list(read_titles(tmp_path / "enwiki-all-titles")) == ["Dog"]


def test_count_files_in_both_orders(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    path.write_text("\ufeffthe 900\n1990 25\n\n25\tyear\n")
    assert list(read_counts(path, 1)) == [("the", 900), ("1990", 25), ("year", 25)]
    path.write_text("hot dog 7\n8\tice\tcream\n")
    assert list(read_counts(path, 2)) == [("hot dog", 7), ("ice cream", 8)]
    path.write_text("the 900\nthe\n")
    assert_refused(lambda: list(read_counts(path, 1)), r"counts:2: expected word and a count, found 'the'")


def test_a_bank_from_counts_and_views(tmp_path: Path) -> None:
    words, pairs, views, titles = (tmp_path / name for name in ("words.zst", "pairs", "views", "titles"))
    words.write_bytes(pa.compress(b"birds 3\ncrystal 1\nof 13\n", "zstd", asbytes=True))
    pairs.write_text("crystal birds 1\nof birds 1\n")
    views.write_text("en Dog 60 0\nen Dog 60 0\nen Cat 69 0\nen Gone 99 0\n")
    titles.write_text("page_title\nDog\nCat\n")
    wanted = Wanted(
        sources=["unigrams", "bigrams", "titles"],
        unigrams=[words],
        bigrams=[pairs],
        pageviews=[views],
        titles=[titles],
        min_count=2,
        min_pmi=2.0,
    )
    got = {name: list(entries) for name, entries in gather(wanted)}
    assert got["unigrams"] == [("of", 13.0), ("birds", 3.0)]
    assert got["bigrams"] == [("crystal birds", pytest.approx(math.log2(17 / 3)))]  # 17 words
    assert got["titles"] == [("Dog", 120.0)]
    assert list(dict(gather(Wanted(sources=["titles"], titles=[titles])))["titles"]) == [
        ("Cat", None),
        ("Dog", None),
    ]
    words.write_bytes(words.read_bytes()[:-9])
    assert_refused(lambda: list(read_counts(words, 1)), r"words\.zst: damaged or cut")
