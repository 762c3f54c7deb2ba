"""`ctrlsynth init`: the recipe that it writes loads, its source opens with the captions found, and nothing is
overwritten."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ctrlsynth.cli.init import write_recipe
from ctrlsynth.data.rows import SourceRow
from ctrlsynth.data.sources import open_source
from ctrlsynth.errors import UserError
from ctrlsynth.recipe.file import load_recipe
from ctrlsynth.recipe.paths import plan_steps
from helpers import write_tar


def photo(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def images(folder: Path) -> None:
    (folder / "deep").mkdir(parents=True)
    for n in range(3):
        (folder / "deep" / f"{n}.jpg").write_bytes(photo(n))


def with_table(folder: Path) -> None:
    images(folder)
    (folder / "readme.csv").write_text("a,b\n1,2\n")
    (folder / "meta.csv").write_text(
        "path,text,caption\n" + "".join(f"deep/{n}.jpg,t{n},caption {n}\n" for n in range(3))
    )


def with_sidecars(folder: Path) -> None:
    images(folder)
    for n in range(3):
        (folder / "deep" / f"{n}.txt").write_text(f"caption {n}")


def tars(folder: Path) -> None:
    for shard in ("train", "val"):
        (folder / shard).mkdir(parents=True)
        write_tar(folder / shard / "00000.tar", [("0.jpg", photo(0)), ("0.txt", b"caption 0")])


def parquet(folder: Path) -> None:
    folder.mkdir()
    pq.write_table(pa.table({"image": [photo(0)], "alt": ["caption 0"]}), folder / "a.parquet")


def saved(folder: Path) -> None:
    (folder / "set/train").mkdir(parents=True)
    (folder / "set/dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    table = pa.table({"image": pa.array([{"bytes": photo(0), "path": None}]), "text": ["caption 0"]})
    with (
        pa.OSFile(str(folder / "set/train/d.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    (folder / "set/train/state.json").write_text(json.dumps({"_data_files": [{"filename": "d.arrow"}]}))


def captions(folder: Path) -> None:
    folder.mkdir()
    (folder / "c.jsonl").write_text('{"text": "t", "caption": "caption 0"}\n')


@pytest.mark.parametrize("make", [images, with_table, with_sidecars, tars, parquet, saved, captions])
@pytest.mark.parametrize("place", ["recipe.yaml", "recipes/sub/r.yaml"])
def test_recipe_loads_and_its_source_opens(tmp_path: Path, make: Callable[[Path], None], place: str) -> None:
    folder = tmp_path / "my photos: 2024"
    make(folder)
    out = tmp_path / place
    text = write_recipe(folder, out)
    assert out.read_text() == text
    assert text.count("#") > 12, "it explains itself"
    assert ("could also be text" in text) == (make in (with_table, captions))
    recipe = load_recipe(out)
    source = open_source(recipe.source, out.parent)
    rows: list[SourceRow] = [r for p in source.parts() for r in source.rows(p)]
    assert {r.status for r in rows} == {"ok"}
    assert {s.kind for s in plan_steps(recipe.paths, True)} == {
        "read", "tag", "write", "paint", "judge-text", "judge-image"}  # fmt: skip
    assert (recipe.name, rows[0].caption, source.has_images, "SP2" in recipe.paths) == (
        "my-photos--2024",
        None if make is images else "caption 0",
        make is not captions,
        make not in (images, captions),
    )


def test_it_overwrites_nothing_and_names_what_is_missing(tmp_path: Path) -> None:
    images(tmp_path / "p")
    out = tmp_path / "recipe.yaml"
    out.write_text("mine")
    (tmp_path / "bare").mkdir()
    for folder, file, message in (
        ("p", "recipe.yaml", r"recipe\.yaml: exists"),
        ("nope", "r.yaml", "does not exist"),
        ("bare", "r.yaml", "no images, tars"),
    ):
        with pytest.raises(UserError, match=message):
            write_recipe(tmp_path / folder, tmp_path / file)
    assert out.read_text() == "mine"
    assert not (tmp_path / "r.yaml").exists()
