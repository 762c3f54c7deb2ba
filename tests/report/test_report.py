"""The gallery: complete, safe whatever the data hold, the same for the same run, and opened in a real
browser."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from browser import Page, needs_browser, open_page, parse
from ctrlsynth.api.run import Run, run
from ctrlsynth.report.figures import MOST_WORDS, recall_histograms, word_histograms
from ctrlsynth.report.gallery import MARKER, write_report
from ctrlsynth.runs.pairs import Shape, families
from helpers import assert_refused, recipe
from report_fixture import HOSTILE, make_run

EXTERNAL = re.compile(
    r"""(?:src|href|srcset|action)\s*=\s*["']?\s*(?:[a-z]+:)?//|url\(\s*["']?(?:[a-z]+:)?//|@import|fetch\(|XMLHttpRequest|innerHTML""",
    re.I,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("report") / "demo", rows=30)


@pytest.fixture(scope="module")
def gallery(finished: Run) -> Path:
    return write_report(finished, Path(str(finished.root)) / "report", page_rows=7)


def script(path: Path) -> list[Any]:
    """The arguments of the one call that a data file is."""
    text = path.read_text(encoding="ascii").strip()
    return list(
        json.loads(re.sub(r",(\s*\])", r"\1", "[" + text[text.index("(") + 1 : text.rindex(")")] + "]"))
    )


def cards(page: Path) -> list[dict[str, Any]]:
    return [c for path in sorted((page.parent / "data").glob("page-*.js")) for c in script(path)[1]]


def digest(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_every_sample_is_there_with_its_fate(finished: Run, gallery: Path) -> None:
    """Kept ones beside the pairs; every source row has a card on every path."""
    told = Counter((path, c["verdict"]) for c in cards(gallery) for path in c["paths"])
    shape = Shape(finished)
    kept = Counter(
        str(p.kind)
        for source, family in families(finished, shape)
        for p in shape.pairs(source, family)
        if p.reason is None
    )
    for path, kind in (("SP1", "cap"), ("SP3", "capimg"), ("SP4", "img")):
        assert told[path, "kept"] == kept[kind]
        assert sum(n for (p, _), n in told.items() if p == path) == 30
    assert {v for _, v in told} == {"kept", "rejected", "failed"}
    assert {(c["verdict"], c["reason"], c["where"]) for c in cards(gallery)} >= {
        ("failed", "truncated_image", "read"),
        ("failed", "empty_reply", "write"),
        ("rejected", "low_recall", "judge-text"),
        ("rejected", "no_reference", "judge-image"),
    }


def test_pages_and_index_agree(gallery: Path) -> None:
    rows, more = script(gallery.parent / "data" / "index.js")
    every = cards(gallery)
    sizes = [len(script(p)[1]) for p in sorted((gallery.parent / "data").glob("page-*.js"))]
    assert sizes[:-1] == [7] * ((len(every) - 1) // 7)
    assert [(more["pathSets"][paths], more["fates"][fate]) for paths, fate, _ in rows] == [
        (c["paths"], [c["verdict"], c["reason"], c["where"]]) for c in every
    ]
    for (_, _, text), card in zip(rows, every, strict=True):
        assert text.startswith(f"{card['id']}\n{card['caption'] or ''}".lower())


def test_a_card_holds_the_stored_values(finished: Run, gallery: Path) -> None:
    stored = {s.folder: {r["id"]: r for r in finished.rows(s.folder)} for s in finished.steps}
    card = next(c for c in cards(gallery) if c["id"] == "00000:photo2.jpg/tag/write.0.1/paint.0")
    tag, write, paint = card["steps"]
    row = stored["write"]["00000:photo2.jpg/tag/write.0.1"]
    for name in ("text", "instruction", "template"):
        assert write[name] == row[name]
    edits = [("watermark", None), ("red bicycle", "blue bicycle")]
    assert [(e["before"], e["after"]) for e in write["edits"]] == edits
    assert [o["text"] for o in write["others"]] == ["There is a bicycle on the wall, number 2."]
    assert write["judge"]["references"]["edited"]["found"] == ["bicycle", "wall", "blue bicycle"]
    assert tag["objects"] == ["bicycle", "wall", "watermark"]
    assert paint["prompt"] == stored["paint"][card["id"]]["prompt"]
    score = {"recall": 0.5, "found": ["bicycle"], "missed": ["wall"], "back": []}
    assert paint["judge"]["references"]["text"] == score
    assert (gallery.parent / paint["image"]).read_bytes() == stored["paint"][card["id"]]["image"]["bytes"]
    came_back = next(c for c in cards(gallery) if c["key"].endswith("photo13.jpg") and c["paths"] == ["SP3"])
    assert came_back["steps"][2]["judge"]["references"]["text"]["back"] == ["watermark"]


def test_originals_are_small_and_a_missing_one_is_noted(gallery: Path) -> None:
    every = cards(gallery)
    for name in {c["original"] for c in every if c["original"]}:
        with Image.open(gallery.parent / name) as image:
            assert (image.format, max(image.size) <= 256) == ("JPEG", True)
    notes = [(c["original"], c["note"]) for c in every if c["key"].endswith("photo7.jpg")]
    assert notes == [(None, "the original no longer exists")] * 3
    referred = {c["original"] for c in every} | {s.get("image") for c in every for s in c["steps"]}
    on_disk = {p.relative_to(gallery.parent).as_posix() for p in (gallery.parent / "images").rglob("*.*")}
    assert referred - {None} == on_disk


def test_nothing_leaves_the_disk_and_no_data_becomes_markup(gallery: Path) -> None:
    for path in gallery.parent.rglob("*"):
        if path.suffix in (".html", ".js", ".css", ".svg"):
            comments = r"//.*$|<!--.*?-->" if path.suffix == ".js" else r"\Z"
            assert not EXTERNAL.search(re.sub(comments, "", path.read_text(), flags=re.M)), path
        if path.parent.name == "data":
            assert not re.search("[<>&\u2028\u2029]", path.read_text()), path
    index = parse(gallery.read_text())
    heads = {e.attributes.get("http-equiv"): str(e.attributes.get("content")) for e in index.find("meta")}
    policy = heads["Content-Security-Policy"]
    assert ("default-src 'none'" in policy, "unsafe" in policy) == (True, False)
    assert all(e.attributes.get("src") for e in index.find("script"))
    assert index.find("style") == []
    assert any(c["caption"] == HOSTILE for c in cards(gallery))


def test_the_page_shows_ledger_sweep_recipe_and_plots(finished: Run, gallery: Path) -> None:
    index = parse(gallery.read_text(encoding="utf-8"))
    numbers = " ".join(index.one("numbers").text.split())
    for text in (*(row.folder for row in finished.ledger()), "truncated_image 3", "0.20 <"):
        assert text in numbers
    assert "does not add up" not in numbers
    assert "judge:" in index.one("recipe").text
    plots = {f"plots/{n}-{t}.svg" for n in ("words", "recall", "sweep") for t in ("light", "dark")}
    images = {e.attributes.get("src") for e in index.find("img")}
    assert images | {e.attributes.get("srcset") for e in index.find("source")} == plots
    assert {f"plots/{p.name}" for p in (gallery.parent / "plots").iterdir()} == plots


def test_the_same_run_gives_the_same_bytes(finished: Run, gallery: Path, tmp_path: Path) -> None:
    again = write_report(finished, tmp_path / "again", page_rows=7)
    assert digest(again.parent) == digest(gallery.parent)


def test_a_report_replaces_only_a_report_of_ours(tmp_path: Path) -> None:
    made = make_run(tmp_path / "r", rows=6)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert_refused(lambda: write_report(made, out), r"not a report of ours: it holds thesis\.txt")
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    write_report(made, out, page_rows=1)
    assert len(list((out / "data").glob("page-*.js"))) == 17  # 6 x 3; SP1 and SP3 share the text that failed
    (out / "STALE.txt").write_text("an update has gone by")
    write_report(made, out)
    assert [p.name for p in (out / "data").glob("page-*.js")] == ["page-00000.js"]
    assert not (out / "STALE.txt").exists()
    (out / "notes.txt").write_text("mine")
    assert_refused(lambda: write_report(made, out), r"holds notes\.txt")
    assert_refused(lambda: write_report(made, out / MARKER), "is a file")


def test_a_fault_on_the_way_leaves_the_older_report_and_no_rest(tmp_path: Path) -> None:
    made = make_run(tmp_path / "r", rows=12, part_rows=6)
    out = tmp_path / "out"
    write_report(made, out)
    before = digest(out)
    part = made.files("write")[1]
    part.write_bytes(part.read_bytes()[:200])
    assert_refused(lambda: write_report(made, out), r"damaged .*remove the file and run again")
    assert digest(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "r", "r-photos"]


def test_unfinished_gated_and_unjudged_runs(tmp_path: Path) -> None:
    made = make_run(tmp_path / "cut", rows=8, part_rows=4)
    for folder in ("judge-image", "judge-image.2", "paint.2"):
        for path in made.files(folder):
            path.unlink()
    fates = {(c["verdict"], c["reason"]) for c in cards(write_report(made, tmp_path / "a"))}
    assert {("unfinished", "no row in judge-image"), ("unfinished", "no row in paint.2")} <= fates
    gated = cards(write_report(make_run(tmp_path / "gated", gate=True, threshold=0.6), tmp_path / "b"))
    unpainted = [c for c in gated if "SP3" in c["paths"] and c["where"] == "judge-text"]
    found = {(c["verdict"], *(s["kind"] for s in c["steps"])) for c in unpainted}
    assert found == {("rejected", "tag", "write")}


def test_a_run_by_the_real_pipeline(tmp_path: Path) -> None:
    """Text only, two rounds of rewriting, no judge at first: no image, no recall, and still a gallery."""
    bare = run(recipe(tmp_path, rows=2, judge=None), tmp_path / "bare", base=tmp_path)
    assert [c["verdict"] for c in cards(write_report(bare, tmp_path / "a"))] == ["unjudged"] * 2
    two_rounds = recipe(tmp_path, paths={"p": ["text", "tags", "text*", "tags*", "text*"]})
    judged = run(two_rounds, tmp_path / "two", base=tmp_path)
    page = write_report(judged, tmp_path / "b")
    (first, second) = cards(page)
    assert [s["kind"] for s in first["steps"]] == ["tag", "write", "tag", "write"]
    assert {first["verdict"], second["verdict"]} <= {"kept", "rejected"}
    assert "wordnet" in page.read_text()


def test_histograms_beside_counting(finished: Run) -> None:
    words = {h.name: h for h in word_histograms(finished)}
    for name, folder, column in (
        ("original captions", "read", "caption"),
        ("synthetic texts (write)", "write", "text"),
    ):
        lengths = [len(r[column].split()) for r in finished.rows(folder) if r["status"] == "ok"]
        counts = Counter(min(n, MOST_WORDS) for n in lengths)
        assert {n: c for n, c in enumerate(words[name].counts) if c} == counts
        assert words[name].mean == pytest.approx(sum(lengths) / len(lengths))
    recalls = {h.name: h for h in recall_histograms(finished)}
    for name, column in (("judge-text", "edited"), ("judge-image", "text")):
        values = [r[column]["recall"] for r in finished.rows(name) if r[column]["recall"] is not None]
        counts = Counter(min(int(v * 20 + 1e-5), 19) for v in values)
        assert {n: c for n, c in enumerate(recalls[name].counts) if c} == counts
        assert recalls[name].total == len(values)


def shown(page: Page) -> list[str]:
    return [str(e.attributes["data-id"]) for e in page.find("article", "card")]


@needs_browser
def test_in_chromium_the_gallery_opens_from_disk(gallery: Path) -> None:
    page = open_page(gallery.as_uri())
    assert page.find("body")[0].attributes.get("data-ready") == "yes"
    every = cards(gallery)
    assert shown(page) == [c["id"] for c in every[:7]]
    assert page.one("count").text == f"{len(every)} samples"
    assert page.requests == [], "the page asked for something that is not on disk"
    card = page.find("article", "card", **{"data-id": every[1]["id"]})[0]
    assert "In the text" in card.text
    assert {e.text for e in page.find("li", "found")} >= {"dog", "grass"}
    assert any(e.text.startswith("watermark") for e in page.find("li", "cut"))


@needs_browser
def test_in_chromium_hostile_captions_stay_text(gallery: Path) -> None:
    page = open_page(gallery.as_uri() + "#" + "text=" + quote("<script>alert(1)</script>"))
    hostile = [c for c in cards(gallery) if c["caption"] == HOSTILE]
    assert shown(page) == [c["id"] for c in hostile][:7]
    assert len(hostile) == 9
    assert page.find("title")[0].text == "demo · ctrlsynth"
    assert HOSTILE in [e.text for e in page.find("p", "words")]
    assert all(e.attributes.get("src", "").startswith(("gallery.js", "data/")) for e in page.find("script"))  # type: ignore[union-attr]
    assert not [e for e in page.elements if "onerror" in e.attributes]


@needs_browser
@pytest.mark.parametrize(
    ("path", "verdict", "text"),
    [
        ("SP3", "kept", "dog"),
        ("SP1", "low_recall", ""),
        ("", "rejected", "BOAT lake"),
        ("SP4", "low_recall@judge-image.2", ""),
        ("", "", "no such words"),
    ],
)
def test_in_chromium_filters_reach_all_pages(gallery: Path, path: str, verdict: str, text: str) -> None:
    page = open_page(f"{gallery.as_uri()}#path={path}&verdict={verdict}&text={quote(text)}")
    wanted = []
    for card in cards(gallery):
        written = (s["text"] or "" for s in card["steps"] if s["kind"] == "write")
        texts = "\n".join([card["id"], card["caption"], *written]).lower()
        fate = ("", card["verdict"], card["reason"], f"{card['reason'] or card['verdict']}@{card['where']}")
        if path in ("", *card["paths"]) and verdict in fate and all(w in texts for w in text.lower().split()):
            wanted.append(card["id"])
    assert page.one("count").attributes["data-found"] == str(len(wanted))
    assert shown(page) == wanted[:7]
    if len(wanted) > 7:
        second = open_page(f"{gallery.as_uri()}#path={path}&verdict={verdict}&text={quote(text)}&page=2")
        assert shown(second) == wanted[7:14]


@needs_browser
def test_in_chromium_a_single_sample_shows_everything(gallery: Path) -> None:
    page = open_page(f"{gallery.as_uri()}#id={quote('00000:photo2.jpg/tag/write.0.1/paint.0')}")
    assert shown(page) == ["00000:photo2.jpg/tag/write.0.1/paint.0"]
    assert {e.text for e in page.find("dd")} >= {
        "Describe: bicycle, wall.\nOnly the caption.",
        "a real photo. A blue bicycle on the wall, number 2. 35mm photograph",
        "0.33: found bicycle; missed wall, tree",
        "0 (not_chosen): There is a bicycle on the wall, number 2.",
    }
    assert {e.text for e in page.find("li", "new")} == {"old → new", "red bicycle → blue bicycle"}
