"""Wikipedia's dump formats, on small files written as the dumps are."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from ctrlsynth.concepts.sources import Wanted, gather
from ctrlsynth.concepts.wikipedia import (
    PairCounts,
    articles,
    count_articles,
    count_views,
    pair_scores,
    plain_text,
    read_counts,
    read_titles,
)
from ctrlsynth.errors import UserError

PAGE = """{{Short description|A bird}}{{Infobox bird
| name = {{nowrap|Crystal bird}}
| range = [[Asia]]
}}
[[File:Bird.jpg|thumb|A [[small]] bird]]
'''Crystal birds''' are [[bird|small birds]] of [[Asia]].<ref name="a">{{cite web|title=Hidden words}}</ref> They&nbsp;sing<ref name="b" />
at [https://example.org the dawn]; don't they?
== Hidden heading ==
{| class="wikitable"
! Hidden
|-
| cell
|}
* crystal birds &amp; more<!-- hidden comment -->
:<math>x_{hidden}</math>
[[Category:Hidden birds]]
[[de:Versteckt]]
"""

DUMP = f"""<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
  <siteinfo><sitename>Wikipedia</sitename><namespaces><namespace key="0" case="first-letter" /></namespaces></siteinfo>
  <page><title>Crystal bird</title><ns>0</ns><id>1</id><revision><id>7</id><text bytes="9" xml:space="preserve">{
    PAGE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
}</text></revision></page>
  <page><title>Bird (crystal)</title><ns>0</ns><id>2</id><redirect title="Crystal bird" /><revision><text>#REDIRECT [[Crystal bird]]</text></revision></page>
  <page><title>Talk:Crystal bird</title><ns>1</ns><id>3</id><revision><text>hidden talk</text></revision></page>
  <page><title>Empty</title><ns>0</ns><id>4</id><revision><text /></revision></page>
</mediawiki>
"""


def test_wikitext_becomes_the_words_a_reader_sees() -> None:
    text = " ".join(plain_text(PAGE).split())
    assert (
        text == "Crystal birds are small birds of Asia. They sing at the dawn; don't they? * crystal birds & "
        "more :"
    )
    assert "hidden" not in text.lower()
    assert plain_text("a {{b} c [[d") == "a {{b} c [[d"  # unclosed: as it stands, and soon
    assert plain_text("{{" * 3000 + "}}" * 3000) in ("", "{{" * 2960 + "}}" * 2960)


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".bz2", bz2.compress), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_dumps_are_counted(tmp_path: Path, suffix: str, pack: object) -> None:
    path = tmp_path / f"enwiki-pages-articles.xml{suffix}"
    path.write_bytes(pack(DUMP.encode()))  # type: ignore[operator]
    assert [title for title, _ in articles(path)] == ["Crystal bird", "Empty"]
    words, pairs = count_articles([path])
    assert words["birds"] == 3
    assert words["Crystal"] == 1
    assert words["don't"] == 1
    assert "Hidden" not in words
    found = dict(pairs.items())
    assert found["small birds"] == 1
    assert found["crystal birds"] == 1
    assert "dawn don't" not in found
    assert "Asia They" not in found


def test_damaged_dumps_are_told_in_one_line(tmp_path: Path) -> None:
    cases = {
        "cut.xml": DUMP[:900].encode(),
        "cut.xml.bz2": bz2.compress(DUMP.encode())[:-20],
        "other.xml": b"<html><body/></html>",
        "binary.xml": b"\x00\x01\x02",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"^\S*{name}: ") as error:
            list(articles(tmp_path / name))
        assert "\n" not in str(error.value)


def test_pairs_on_disk_are_the_pairs_in_memory() -> None:
    chain = [f"w{i * i % 37} w{i % 11}" for i in range(3000)]
    small, large = PairCounts(limit=50), PairCounts()
    for at in range(0, 3000, 30):
        small.update(chain[at : at + 30])
        large.update(chain[at : at + 30])
    assert list(small.items()) == list(large.items()) == sorted(Counter(chain).items())


def test_pmi_is_nltks() -> None:
    words = {"hot": 20, "dog": 30, "the": 950}
    scored = pair_scores(words, [("hot dog", 10), ("the dog", 20), ("hot cat", 9)], 0.0)
    assert [pair for pair, _ in scored] == ["hot dog"]
    assert scored[0][1] == pytest.approx(math.log2(10 * 1000 / (20 * 30)))
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
    with pytest.raises(UserError, match=r"not\.txt: no line looks like a pageviews file's"):
        count_views([tmp_path / "not.txt"])


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
    with pytest.raises(UserError, match=r"counts:2: expected word and a count, found 'the'"):
        list(read_counts(path, 1))


def test_a_bank_from_dumps(tmp_path: Path) -> None:
    dump, views, titles = tmp_path / "dump.xml.zst", tmp_path / "views", tmp_path / "titles"
    dump.write_bytes(zstandard.compress(DUMP.encode()))
    views.write_text("en Dog 60 0\nen Dog 60 0\nen Cat 69 0\nen Gone 99 0\n")
    titles.write_text("page_title\nDog\nCat\n")
    wanted = Wanted(
        sources=["unigrams", "bigrams", "titles"],
        dumps=[dump],
        pageviews=[views],
        titles=[titles],
        min_count=2,
        min_pmi=2.0,
    )
    got = {name: list(entries) for name, entries in gather(wanted)}
    assert [entry for entry, _ in got["unigrams"]] == ["birds"]
    assert dict(got["bigrams"])["crystal birds"] == pytest.approx(
        math.log2(17 / 3)
    )  # 17 words, 1 crystal, 3 birds
    assert got["titles"] == [("Dog", 120.0)]
    assert list(dict(gather(Wanted(sources=["titles"], titles=[titles])))["titles"]) == [
        ("Cat", None),
        ("Dog", None),
    ]
