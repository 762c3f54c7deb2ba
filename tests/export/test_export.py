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
from ctrlsynth.export.export import export
from ctrlsynth.models.base import ImageAndText, Painting, Prompt
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.runs.pairs import count_pairs
from ctrlsynth.sample import Tags

THINGS = ("dog", "cat", "ball", "car", "tree", "bird", "boat", "chair")


class Painter:
    """Paints one colour; two prompts of three get a reddish one."""

    id = "painter"
    digest = "1"
    batch = 8

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        return [
            Painting(Image.new("RGB", (20, 12), (200 if p.seed % 3 else 0, p.seed % 200, 50)))
            for p in prompts
        ]


class Eye:
    """Sees every thing in a reddish image and nothing known in others."""

    id = "eye"
    digest = "1"
    reads = "pixels"

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
    """Samples of webdataset shards by plain tarfile: name parts by suffix, `__key__`."""
    samples: list[dict[str, Any]] = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                if not samples or samples[-1]["__key__"] != key:
                    samples.append({"__key__": key, "__shard__": shard.name})
                stream = tar.extractfile(member)
                assert stream is not None
                samples[-1][suffix] = stream.read()
    for sample in samples:
        sample["json"] = json.loads(sample["json"])
        sample["text"] = sample["txt"].decode()
        sample["image"] = next(sample[s] for s in ("jpg", "png", "webp") if s in sample)
    return samples


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("export"), ["SP1", "SP3", "SP4"], variants=2)


@pytest.mark.parametrize("use", ["cap", "img", "capimg", "mix"])
def test_every_mix_is_the_plain_rule(full: Run, tmp_path: Path, use: str) -> None:
    summary = export(full, tmp_path / "out", mix=use, max_per_shard=7)
    samples, wanted = read_shards(tmp_path / "out"), plain_rule(full, use)
    assert sorted(s["json"]["id"] for s in samples) == wanted
    assert len(wanted) == count_pairs(full, use) > 5
    assert (summary.lost.total(), summary.written.total()) == (0, len(samples))
    sizes = json.loads((tmp_path / "out/sizes.json").read_text())
    assert sizes == Counter(s["__shard__"] for s in samples)
    assert max(sizes.values()) <= 7
    assert f"--train-num-samples {len(samples)}" in (tmp_path / "out/README.md").read_text()
    assert len({s["__key__"] for s in samples}) == len(samples)


def test_members_are_what_the_tables_say(full: Run, tmp_path: Path) -> None:
    export(full, tmp_path / "out", mix="mix")
    tables = {s.folder: {r["id"]: r for r in full.rows(s.folder)} for s in full.steps}
    source = {r["id"]: r for r in full.rows("read")}
    samples = read_shards(tmp_path / "out")
    for sample in samples:
        facts = sample["json"]
        row = source[facts["source_key"]]
        assert sample["text"] == tables["write"][facts["text_id"]]["text"]
        assert facts["text_recall"] >= 0.2
        assert facts["original_caption"] == row["caption"]
        assert facts["source"] == {"licence": "CC0"}
        if facts["pair"] == "cap":
            if row["file"].endswith(".gif"):  # the pixels, without loss
                found = Image.open(io.BytesIO(sample["png"]))
                assert found.tobytes() == Image.open(row["file"]).convert("RGB").tobytes()
            else:
                assert sample[Path(row["file"]).suffix[1:]] == Path(row["file"]).read_bytes()
            assert facts["paths"] == ["SP1", "SP3"]
        else:
            painted = next(t[facts["image_id"]] for t in tables.values() if facts["image_id"] in t)
            assert sample["image"] == painted["image"]["bytes"]
            assert facts["text_id"].endswith("write.1")
            assert facts["image_verdict"] == "kept"
            assert facts["style"] == "real"
    seen = {(s["json"]["pair"], s["json"]["source_key"]) for s in samples}
    assert len(seen) == len(samples)
    assert {k for k, _ in seen} == {"cap", "capimg"}


def test_same_run_same_bytes(full: Run, tmp_path: Path) -> None:
    for format in ("webdataset", "parquet", "imagefolder", "csv"):
        folders = [tmp_path / f"{format}{n}" / "data" for n in (1, 2)]
        for folder in folders:
            export(full, folder, format=format, mix="cap")
        files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders]
        assert files[0] == files[1]
        assert len(files[0]) > 1


def test_formats_hold_the_same_pairs(full: Run, tmp_path: Path) -> None:
    for format in ("webdataset", "parquet", "imagefolder", "csv"):
        export(full, tmp_path / format, format=format, max_per_shard=11)
    wanted = [
        (s["json"]["id"], s["text"], hashlib.sha256(s["image"]).hexdigest())
        for s in read_shards(tmp_path / "webdataset")
    ]

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    rows = [r for f in sorted((tmp_path / "parquet").glob("*.parquet")) for r in pq.read_table(f).to_pylist()]
    assert [(r["id"], r["text"], hashlib.sha256(r["image"]["bytes"]).hexdigest()) for r in rows] == wanted
    assert len(list((tmp_path / "parquet").glob("*.parquet"))) == -(-len(wanted) // 11)
    lines = [json.loads(line) for line in (tmp_path / "imagefolder/metadata.jsonl").read_text().splitlines()]
    assert [(r["id"], r["text"], digest(tmp_path / "imagefolder" / r["file_name"])) for r in lines] == wanted
    with open(tmp_path / "csv/data.csv", newline="") as stream:
        cells = list(csv.DictReader(stream))
    assert [(r["id"], r["title"], digest(tmp_path / "csv" / r["filepath"])) for r in cells] == wanted
    features = json.loads(pq.read_schema(tmp_path / "parquet/train-00000.parquet").metadata[b"huggingface"])[
        "info"
    ]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(pq.read_schema(tmp_path / "parquet/train-00000.parquet").names)


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
    pairs = count_pairs(full, "cap")
    chosen: list[set[str]] = []
    for ratio in (0.2, 0.4, 0.4, 50):
        out = tmp_path / f"{len(chosen)}"
        summary = export(full, out, mix="cap", originals=ratio)
        samples = [s for s in read_shards(out) if s["json"]["pair"] == "original"]
        possible = sum(bool(r["status"] == "ok" and r["caption"]) for r in full.rows("read"))
        assert len(samples) == summary.written["original"] == min(round(ratio * pairs), possible)
        source = {r["id"]: r for r in full.rows("read")}
        for sample in samples:
            assert sample["text"] == source[sample["json"]["id"]]["caption"]
        chosen.append({s["json"]["id"] for s in samples})
    assert chosen[0] < chosen[1] == chosen[2] < chosen[3]
    assert "were asked for" in (tmp_path / "3/README.md").read_text()


def test_runs_that_make_one_kind(tmp_path: Path) -> None:
    made = make_run(tmp_path, ["SP1"], variants=2)
    summary = export(made, tmp_path / "out")
    assert dict(summary.written) == {"cap": len(plain_rule(made, "cap"))}
    with pytest.raises(UserError, match=r"no path of this run makes capimg pairs.*SP3"):
        export(made, tmp_path / "other", mix="capimg")
    assert not (tmp_path / "other").exists()
    painted = make_run(tmp_path, ["SP4"])
    assert set(export(painted, tmp_path / "img").written) == {"img"}


def test_second_round_pairs(tmp_path: Path) -> None:
    made = make_run(tmp_path, [{"again": ["text", "image*", "tags*", "text*"]}], rows=12)
    export(made, tmp_path / "out", mix="capimg")
    samples = read_shards(tmp_path / "out")
    assert samples
    for sample in samples:
        facts = sample["json"]
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
    export(made, tmp_path / "out")
    kept = [s["json"]["id"] for s in read_shards(tmp_path / "out")]
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
    with pytest.raises(UserError, match=r"no pair to export.*sweep"):
        export(made, tmp_path / "out")


def test_originals_that_went_away_are_counted(tmp_path: Path) -> None:
    made = make_run(tmp_path, ["SP1"], rows=12)
    kept = plain_rule(made, "cap")
    (tmp_path / "photos/p01.png").unlink()
    (tmp_path / "photos/p03.jpg").write_bytes(b"other")
    summary = export(made, tmp_path / "out")
    assert dict(summary.lost) == {"original_missing": 1, "original_changed": 1}
    assert summary.written["cap"] == len(kept) - 2
    card = (tmp_path / "out/README.md").read_text()
    assert "1 original_changed, 1 original_missing" in card


def test_texts_without_images(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("".join(f"a red {t} on a table\n" for t in THINGS))
    data = {
        "name": "t",
        "source": {"text": "c.txt"},
        "models": {"tagger": "wordnet"},
        "paths": {"r": ["text", "tags", "text*"]},
    }
    made = run(parse_recipe(data), tmp_path / "run", base=tmp_path)
    assert count_pairs(made) == 8
    export(made, tmp_path / "out", format="csv")
    with open(tmp_path / "out/data.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8
    assert all(r["title"] and not r["filepath"] for r in rows)
    with pytest.raises(UserError, match="no_image"):
        export(made, tmp_path / "wds")


def test_card_counts_everything(full: Run, tmp_path: Path) -> None:
    summary = export(full, tmp_path / "out", originals=0.5)
    card = (tmp_path / "out/README.md").read_text()
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
    low = sum(n for (kind, reason), n in summary.pairs.items() if kind == "img" and reason == "low_recall")
    assert low == sum(r["verdict"] == "low_recall" for f in _judges_of_img(full) for r in full.rows(f))


def test_what_data_and_recipe_say_is_text_in_the_card(tmp_path: Path) -> None:
    made = make_run(tmp_path, [{"SP|1 <i>": ["image", "tags", "text*"]}], rows=6)
    made.plan["recipe"]["source"]["licence"] = "<script>alert(3)</script> ![x](http://t) | `a`"
    made.plan["recipe"]["image_policy"]["negative"] = "```\n<script>alert(4)</script>"
    export(made, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "Licence: &lt;script&gt;alert(3)&lt;/script&gt; !\\[x\\](http://t) \\| \\`a\\`." in card
    assert "| SP\\|1 &lt;i&gt; |" in card
    assert card.count("````yaml\n") == 1
    assert card.endswith("\n````\n")
    assert "<" not in re.sub(r"(?s)````yaml.*````", "", card)


def _judges_of_img(made: Run) -> list[str]:
    paints = {s.folder for s in made.steps if s.kind == "paint" and s.parent == "read"}
    return [s.folder for s in made.steps if s.kind == "judge-image" and s.uses["paint"] in paints]


def test_one_text_is_shared_and_the_card_says_so(tmp_path: Path) -> None:
    made = make_run(tmp_path, ["SP1", "SP3"])
    export(made, tmp_path / "out")
    samples = read_shards(tmp_path / "out")
    assert sorted(s["json"]["id"] for s in samples) == plain_rule(made, "mix")
    assert {s["json"]["pair"] for s in samples} == {"cap", "capimg"}
    assert "variants.write is 1" in (tmp_path / "out/README.md").read_text()


def test_every_folder_of_texts_gives_a_cap_pair(tmp_path: Path) -> None:
    made = make_run(tmp_path, ["SP1", "SP2", "SP3"], rows=12)
    export(made, tmp_path / "out")
    found = Counter((s["json"]["pair"], s["json"]["source_key"]) for s in read_shards(tmp_path / "out"))
    assert {(kind, number) for (kind, _), number in found.items()} == {("cap", 2), ("capimg", 1)}
    assert "each of write, write.2 gives a cap pair" in (tmp_path / "out/README.md").read_text()
