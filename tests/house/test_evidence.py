"""The honest experiments at toy size, end to end: what is made, in which folders, that a second run resumes,
and what the report says."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from ctrlsynth.evaluate.kinds import evaluator
from ctrlsynth.evaluate.results import read_result
from ctrlsynth.evaluate.tasks import choose
from ctrlsynth.lang.words import singular
from ctrlsynth.models.embedded.scenes.sprites import coloured
from ctrlsynth.models.embedded.scenes.vocabulary import PEOPLE, drawings_of, vocabulary
from helpers import ROOT

SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

import evidence  # noqa: E402
import evidence_clipart  # noqa: E402


def _vendor(folder: Path, things: int, colour: str | None) -> Path:
    """Another vendor's drawings: OpenMoji's, painted over, as PNG files named by code points."""
    folder.mkdir()
    drawings = vocabulary().drawings
    names = sorted(n for n in drawings if n.isalpha() and n not in PEOPLE and singular(n) == n)
    chosen = [drawings[n] for n in names if not drawings[n].source.startswith("own/")][:things]
    for drawing in chosen:
        coloured(drawing, colour, False, 64).save(folder / f"{drawing.source.lower()}.png")
    assert len(drawings_of(folder)) >= things
    return folder


def test_scenes_at_toy_size_run_resume_and_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, out = _vendor(tmp_path / "a", 12, None), _vendor(tmp_path / "b", 12, "blue"), tmp_path / "out"
    size = "--scenes 60 --held-out 20 --things 10 --probe 10 --steps 20 --batch 8 --seeds 0".split()
    arms = ["baseline", "mix", "mix-pf50"]
    asked = [
        "scenes",
        "--out",
        str(out),
        "--drawings",
        str(a),
        "--test-drawings",
        str(b),
        *size,
        "--arms",
        *arms,
    ]
    evidence.main([*asked, "--report", str(tmp_path / "docs")])
    for arm in arms:
        for task in ("walls", "walls-other", "crepe"):
            assert read_result(out / "evals" / arm / "seed0" / f"{task}.json").samples == 20 * 8
        points = sorted((out / "curves" / arm / "seed0").iterdir())
        assert [read_result(p / "walls.json").samples for p in points] == [40, 80, 120, 160]
    done = {p.stem: json.loads(p.read_text())["found"] for p in (out / "seed0" / "done").iterdir()}
    found = {p: done[f"synthesis-{p}"] for p in (0, 20, 50)}
    assert found[0]["mix"] >= found[20]["mix"] >= found[50]["mix"] > 0
    assert found[20]["mix"] > found[20]["capimg"]
    rows = [done[f"train-{arm}"]["rows"] for arm in ("baseline", "mix")]
    assert rows == [[60], [60, found[20]["mix"]]]
    assert 0 < done["tagger"]["object recall"] <= 1
    text = (tmp_path / "docs" / "scenes.md").read_text(encoding="utf-8")
    assert all(f"| {arm} | " in text for arm in arms)
    assert str(tmp_path) not in text
    assert (tmp_path / "docs" / "scenes.svg").exists()
    capsys.readouterr()
    evidence.main(asked)
    assert capsys.readouterr().out == "", "everything was done"
    with pytest.raises(SystemExit, match="name another --out"):
        evidence.main([*asked, "--steps", "21"])


def _clipart(root: Path) -> None:
    """Four drawings as Debian's packages lay them out: one twice, one without a title, and three stamps, one
    of them without a text."""
    rdf = (
        '<svg xmlns:dc="http://purl.org/dc/elements/1.1/"><Work '
        'xmlns="http://web.resource.org/cc/"><dc:title>{}</dc:title></Work></svg>'
    )
    for name, told in (("a/dog_01", "A  dog"), ("b/dog_01", "A dog"), ("b/cat", ""), ("b/car", "gramastar")):
        for kind in ("png", "svg"):
            (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (30, 60), (200, 0, 0, 128)).save(root / "png" / f"{name}.png")
        (root / "svg" / f"{name}.svg").write_text(rdf.format(told))
    for name, said in (("x/horse", "A brown horse.\naf.utf8=perd\n"), ("x/fish", "\n"), ("y/bee", "A bee.")):
        (root / "stamps" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), "red").save(root / "stamps" / f"{name}.png")
        (root / "stamps" / f"{name}.txt").write_text(said)


def test_clip_art_is_read_as_the_packages_lay_it_out(tmp_path: Path) -> None:
    _clipart(tmp_path)
    vendor = _vendor(tmp_path / "a", 5, None)
    told = evidence_clipart.make(tmp_path / "out", vendor, 100, 3, 0, tmp_path, tmp_path / "stamps")
    assert told == {"real": 2, "unreadable": 0, "titles": 2, "tuxpaint": 2, "emoji": 3}
    lines = (tmp_path / "out" / "real" / "captions.csv").read_text().splitlines()
    assert sorted(line.partition(",")[2] for line in lines[1:]) == ["A dog", "gramastar"]
    ((task, place),) = choose(tmp_path / "out" / "eval", ["tuxpaint"])
    texts = {sample.captions for sample in evaluator(task, place).test_samples()}
    assert texts == {("A brown horse.",), ("A bee.",)}
    with Image.open(next((tmp_path / "out" / "real").glob("*.jpg"))) as image:
        assert (image.size, image.getpixel((0, 0))) == ((96, 96), (255, 255, 255))
    shutil.rmtree(tmp_path / "png")
    with pytest.raises(SystemExit, match="apt-get install openclipart-png"):
        evidence_clipart.make(tmp_path / "again", vendor, 100, 3, 0, tmp_path, tmp_path / "stamps")
