"""Export: real runs through the real stages; what leaves is compared with the plain rule over all tables."""

import csv
import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ctrlsynth.api.run import Run, run
from ctrlsynth.errors import UserError
from ctrlsynth.export.card import Summary
from ctrlsynth.export.export import export
from ctrlsynth.models.base import ImageAndText, Painting, Prompt
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.runs.pairs import count_pairs
from ctrlsynth.sample import Tags
from helpers import THINGS, assert_refused, recipe


class Painter:
    """Paints one colour; two prompts of three get a reddish one."""

    id, digest, batch = "painter", "1", 8

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        return [
            Painting(Image.new("RGB", (20, 12), (200 if p.seed % 3 else 0, p.seed % 200, 50)))
            for p in prompts
        ]


class Eye:
    """Sees every thing in a reddish image and nothing known in others."""

    id, digest, reads = "eye", "1", "pixels"

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        red = [i.image is not None and np.asarray(i.image)[..., 0].mean() > 100 for i in items]
        return [Tags(objects=THINGS if r else ("fog",)) for r in red]


def make_run(base: Path, paths: list[Any], variants: int = 1, rows: int = 30, **changes: Any) -> Run:
    """A finished run over real images of three formats; captions hold two things each."""
    folder = base / "photos"
    if not folder.exists():
        folder.mkdir(parents=True)
        lines = ["file,caption,licence"]
        for n in range(rows):
            suffix = ("jpg", "png", "gif")[n % 3] if n != 5 else "jpg"
            picture = Image.fromarray(np.random.default_rng(n).integers(0, 255, (10, 16, 3), dtype=np.uint8))
            picture.save(folder / f"p{n:02d}.{suffix}")
            caption = f"a {THINGS[n % 8]} beside a {THINGS[(n + 3) % 8]}" if n % 7 else ""
            lines.append(f'p{n:02d}.{suffix},"{caption}",CC0')
        (folder / "p05.jpg").write_bytes(b"")
        (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    here = Path(__file__).stem
    data: dict[str, Any] = {
        "name": "export",
        "source": {"folder": str(folder), "captions": "captions.csv", "part_rows": 8, "licence": "CC0-1.0"},
        "models": {"tagger": "wordnet", "llm": "realizer", "text_to_image": f"{here}:Painter"},
        "paths": paths,
        "variants": {"write": variants},
        "judge": {"tagger": f"{here}:Eye", "threshold": 0.2},
        **changes,
    }
    name = hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return run(parse_recipe(data), base / "runs" / name, base=base)


def plain_rule(made: Run, use: str) -> list[str]:
    """The oracle: ids of the pairs that leave, from whole tables in memory."""
    tables = {s.folder: {r["id"]: r for r in made.rows(s.folder)} for s in made.steps}
    judged = [r for s in made.steps if s.kind.startswith("judge") for r in tables[s.folder].values()]
    kept = {re.sub("(paint.*)/tag$", r"\1", r["parent"]) for r in judged if r["verdict"] == "kept"}
    good = [(s.kind, i) for s in made.steps for i in tables[s.folder] if i in kept]
    caps = [i for kind, i in good if kind == "write"]
    imgs = [i for kind, i in good if kind == "paint" and "/write" not in i]
    capimgs = [i for kind, i in good if kind == "paint" and "/write" in i and i.rpartition("/")[0] in kept]
    if use == "mix":
        shared = made.recipe.variants.write == 1 or made.recipe.mix.share_text
        caps = [i for i in caps if i.endswith("write.0")]
        first: dict[str, str] = {}
        for i in capimgs:
            if ("/write.0/" in i) == bool(shared):
                first.setdefault(i.split("/")[0], i)
        return sorted([*caps, *first.values()])
    return sorted({"cap": caps, "img": imgs, "capimg": capimgs}[use])


def read_shards(folder: Path) -> list[dict[str, Any]]:
    """Samples of webdataset shards by plain tarfile: shard, name parts by suffix, facts, text, image."""
    samples: dict[str, dict[str, Any]] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                samples.setdefault(key, {"shard": shard.name})[suffix] = data
    return [
        {**s, "json": json.loads(s["json"]), "text": s["txt"].decode(), "image": s.get("jpg") or s["png"]}
        for s in samples.values()
    ]


def exported(made: Run, out: Path, **options: Any) -> tuple[Summary, list[dict[str, Any]], str]:
    """Exports a run; returns the summary, the samples in the shards, and the card."""
    summary = export(made, out, **options)
    return summary, read_shards(out), (out / "README.md").read_text()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("export"), ["SP1", "SP3", "SP4"], variants=2)


@pytest.mark.parametrize("use", ["cap", "img", "capimg", "mix"])
def test_every_mix_is_the_plain_rule(full: Run, tmp_path: Path, use: str) -> None:
    summary, samples, card = exported(full, tmp_path / "out", mix=use, max_per_shard=7)
    wanted = plain_rule(full, use)
    assert sorted(s["json"]["id"] for s in samples) == wanted
    assert len(wanted) == count_pairs(full, use) > 5
    assert (summary.lost.total(), summary.written.total()) == (0, len(samples))
    sizes = json.loads((tmp_path / "out/sizes.json").read_text())
    assert sizes == Counter(s["shard"] for s in samples)
    assert max(sizes.values()) <= 7
    assert f"{{00000..{len(sizes) - 1:05d}}}.tar' --train-num-samples {len(samples)}" in card


def test_members_are_what_the_tables_say(full: Run, tmp_path: Path) -> None:
    _, samples, _ = exported(full, tmp_path / "out", mix="mix")
    rows = {r["id"]: r for s in full.steps for r in full.rows(s.folder)}
    for sample in samples:
        facts = sample["json"]
        row = rows[facts["source_key"]]
        assert sample["text"] == rows[facts["text_id"]]["text"]
        assert facts["text_recall"] >= 0.2
        assert (facts["original_caption"], facts["source"]) == (row["caption"], {"licence": "CC0"})
        if facts["pair"] == "capimg":
            assert sample["image"] == rows[facts["image_id"]]["image"]["bytes"]
            assert facts["text_id"].endswith("write.1")
            assert (facts["image_verdict"], facts["style"]) == ("kept", "real")
            continue
        assert facts["paths"] == ["SP1", "SP3"]
        if row["file"].endswith(".gif"):  # the pixels, without loss
            found = Image.open(io.BytesIO(sample["png"]))
            assert found.tobytes() == Image.open(row["file"]).convert("RGB").tobytes()
        else:
            assert sample[Path(row["file"]).suffix[1:]] == Path(row["file"]).read_bytes()
    seen = {(s["json"]["pair"], s["json"]["source_key"]) for s in samples}
    assert len(seen) == len(samples)
    assert {k for k, _ in seen} == {"cap", "capimg"}


@pytest.mark.parametrize("format", ["webdataset", "parquet", "imagefolder", "csv"])
def test_same_run_same_bytes(full: Run, tmp_path: Path, format: str) -> None:
    folders = [tmp_path / str(n) / "data" for n in (1, 2)]
    for folder in folders:
        export(full, folder, format=format, mix="cap")
    files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders]
    assert files[0] == files[1]
    assert len(files[0]) > 1


def test_formats_hold_the_same_pairs(full: Run, tmp_path: Path) -> None:
    shards, parquet, images, table = (tmp_path / f for f in ("webdataset", "parquet", "imagefolder", "csv"))
    for folder in (shards, parquet, images, table):
        export(full, folder, format=folder.name, max_per_shard=11)
    wanted = [(s["json"]["id"], s["text"], s["image"]) for s in read_shards(shards)]
    files = sorted(parquet.glob("*.parquet"))
    rows = [r for f in files for r in pq.read_table(f).to_pylist()]
    assert [(r["id"], r["text"], r["image"]["bytes"]) for r in rows] == wanted
    assert len(files) == -(-len(wanted) // 11)
    lines = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    assert [(r["id"], r["text"], (images / r["file_name"]).read_bytes()) for r in lines] == wanted
    with open(table / "data.csv", newline="") as stream:
        cells = [(r["id"], r["title"], (table / r["filepath"]).read_bytes()) for r in csv.DictReader(stream)]
    assert cells == wanted
    schema = pq.read_schema(files[0])
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(schema.names)


def test_hugging_face_opens_it_with_images(full: Run, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the hf extra is not installed")
    opened = {
        "parquet": {"data_files": f"{tmp_path}/parquet/*.parquet"},
        "imagefolder": {"data_dir": str(tmp_path / "imagefolder")},
    }
    for format, where in opened.items():
        export(full, tmp_path / format, format=format)
        data = datasets.load_dataset(format, split="train", cache_dir=str(tmp_path / "cache"), **where)
        assert data[0]["image"].size in ((16, 10), (20, 12))
        assert len(data) == count_pairs(full)


def test_webdataset_opens_it(full: Run, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    export(full, tmp_path / "out")
    data = (
        webdataset.WebDataset(str(tmp_path / "out/00000.tar"), shardshuffle=False)
        .decode("pilrgb")
        .rename(image="jpg;png;webp", text="txt")
    )
    assert sum(1 for s in data if s["image"].size and s["text"]) == count_pairs(full)


def test_originals_at_a_ratio(full: Run, tmp_path: Path) -> None:
    captions = {r["id"]: r["caption"] for r in full.rows("read") if r["status"] == "ok" and r["caption"]}
    chosen: list[set[str]] = []
    for ratio in (0.2, 0.4, 0.4, 50):
        summary, samples, card = exported(full, tmp_path / f"{len(chosen)}", mix="cap", originals=ratio)
        found = {s["json"]["id"]: s["text"] for s in samples if s["json"]["pair"] == "original"}
        assert found.items() <= captions.items()
        wanted = min(round(ratio * count_pairs(full, "cap")), len(captions))
        assert len(found) == summary.written["original"] == wanted
        chosen.append(set(found))
    assert chosen[0] < chosen[1] == chosen[2] < chosen[3]
    assert "were requested" in card


def test_runs_that_make_one_kind(tmp_path: Path) -> None:
    made = make_run(tmp_path, ["SP1"], variants=2)
    assert export(made, tmp_path / "out").written == {"cap": len(plain_rule(made, "cap"))}
    assert_refused(
        lambda: export(made, tmp_path / "other", mix="capimg"), r"no path of this run makes capimg pairs.*SP3"
    )
    assert not (tmp_path / "other").exists()
    painted = make_run(tmp_path, ["SP4"])
    assert set(export(painted, tmp_path / "img").written) == {"img"}


def test_second_round_pairs(tmp_path: Path) -> None:
    made = make_run(tmp_path, [{"again": ["text", "image*", "tags*", "text*"]}], rows=12)
    _, samples, _ = exported(made, tmp_path / "out", mix="capimg")
    assert samples
    for facts in (s["json"] for s in samples):
        assert re.fullmatch(r".*/paint\.0/tag/write\.0", facts["id"])
        assert facts["id"].startswith(facts["image_id"] + "/")
        assert facts["image_verdict"] == facts["text_verdict"] == "kept"


def test_no_judge_keeps_all(tmp_path: Path) -> None:
    made = make_run(tmp_path, ["SP1", "SP3"], judge=None)
    ok = sum(r["status"] == "ok" for f in ("write", "paint") for r in made.rows(f))
    assert export(made, tmp_path / "out").written.total() == ok


def test_target_takes_the_first(tmp_path: Path) -> None:
    judge = {"tagger": f"{Path(__file__).stem}:Eye", "threshold": 0.2, "target": 4}
    made = make_run(tmp_path, ["SP1"], judge=judge)
    kept = [s["json"]["id"] for s in exported(made, tmp_path / "out")[1]]
    assert kept == [r["parent"] for r in made.rows("judge-text") if r["verdict"] == "kept"][:4]


def test_refusals_leave_nothing_behind(full: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("keep me")
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("full", {}, "not empty"),
        ("out", {"format": "webdatset"}, "'webdatset'; did you mean 'webdataset'"),
        ("out", {"mix": "capp"}, "unknown mix"),
    ]
    for name, options, message in wrong:
        with pytest.raises(UserError, match=message):
            export(full, tmp_path / name, **options)
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "mine.txt"]
    (tmp_path / "empty").mkdir()
    export(full, tmp_path / "empty")
    assert (tmp_path / "empty/00000.tar").exists()


def test_nothing_kept_is_an_error(tmp_path: Path) -> None:
    made = make_run(tmp_path, ["SP4"], judge={"tagger": "helpers:PixelCounter", "threshold": 1.0}, rows=4)
    assert_refused(lambda: export(made, tmp_path / "out"), r"no pair to export.*sweep")


def test_originals_that_went_away_are_counted(tmp_path: Path) -> None:
    made = make_run(tmp_path, ["SP1"], rows=12)
    kept = plain_rule(made, "cap")
    (tmp_path / "photos/p01.png").unlink()
    (tmp_path / "photos/p03.jpg").write_bytes(b"other")
    summary, _, card = exported(made, tmp_path / "out")
    assert summary.lost == {"original_missing": 1, "original_changed": 1}
    assert summary.written["cap"] == len(kept) - 2
    assert "1 original_changed, 1 original_missing" in card


def test_texts_without_images(tmp_path: Path) -> None:
    made = run(recipe(tmp_path, rows=8, judge=None), tmp_path / "run", base=tmp_path)
    assert count_pairs(made) == 8
    export(made, tmp_path / "out", format="csv")
    with open(tmp_path / "out/data.csv", newline="") as stream:
        assert [bool(r["title"] and not r["filepath"]) for r in csv.DictReader(stream)] == [True] * 8
    assert_refused(lambda: export(made, tmp_path / "wds"), "no_image")


def test_card_counts_everything(full: Run, tmp_path: Path) -> None:
    summary, _, card = exported(full, tmp_path / "out", originals=0.5)
    assert card.startswith("---\n")
    for kind, number in summary.written.items():
        assert re.search(rf"\| {kind} \|.*\| {number} \|", card)
    originals = summary.written["cap"] + summary.written["original"]
    for row in full.ledger():
        assert re.search(rf"\| {re.escape(row.folder)} \|.*\| {row.rows} \| {row.ok} \|", card)
    for word in (
        "CC0-1.0",
        "wordnet",
        "realizer",
        "WordNet",
        "threshold: 0.2",
        "empty_file",
        "low_recall",
        "stored as PNG",
        f"{originals} CC0",
    ):
        assert word in card
    assert "{{" not in card
    paints = {s.folder for s in full.steps if s.kind == "paint" and s.parent == "read"}
    judges = [s.folder for s in full.steps if s.kind == "judge-image" and s.uses["paint"] in paints]
    low = sum(r["verdict"] == "low_recall" for f in judges for r in full.rows(f))
    assert low == summary.pairs["img", "low_recall"]


def test_what_data_and_recipe_say_is_text_in_the_card(tmp_path: Path) -> None:
    made = make_run(tmp_path, [{"SP|1 <i>": ["image", "tags", "text*"]}], rows=6)
    made.plan["recipe"]["source"]["licence"] = "<script>alert(3)</script> ![x](http://t) | `a`"
    made.plan["recipe"]["image_policy"]["negative"] = "```\n<script>alert(4)</script>"
    _, _, card = exported(made, tmp_path / "out")
    assert "Licence: &lt;script&gt;alert(3)&lt;/script&gt; !\\[x\\](http://t) \\| \\`a\\`." in card
    assert "| SP\\|1 &lt;i&gt; |" in card
    assert card.count("````yaml\n") == 1
    assert card.endswith("\n````\n")
    assert "<" not in re.sub(r"(?s)````yaml.*````", "", card)


def test_one_text_is_shared_and_the_card_says_so(tmp_path: Path) -> None:
    made = make_run(tmp_path, ["SP1", "SP3"])
    _, samples, card = exported(made, tmp_path / "out")
    assert sorted(s["json"]["id"] for s in samples) == plain_rule(made, "mix")
    assert {s["json"]["pair"] for s in samples} == {"cap", "capimg"}
    assert "variants.write is 1" in card


def test_every_folder_of_texts_gives_a_cap_pair(tmp_path: Path) -> None:
    _, samples, card = exported(make_run(tmp_path, ["SP1", "SP2", "SP3"], rows=12), tmp_path / "out")
    found = Counter((s["json"]["pair"], s["json"]["source_key"]) for s in samples)
    assert {(kind, number) for (kind, _), number in found.items()} == {("cap", 2), ("capimg", 1)}
    assert "each of write, write.2 gives a cap pair" in card
