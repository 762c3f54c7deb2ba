"""Bad rows and bad models through the whole pipeline: a typed reason in the ledger or one line with the
remedy, while the rest continues."""

import csv
import io
import re
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctrlsynth.api.run import Run, run
from ctrlsynth.cli.show import as_text
from ctrlsynth.errors import ModelError, WorkFailed
from ctrlsynth.export.export import export
from ctrlsynth.models.base import ImageAndText, Painting, Prompt, Reply, Request
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.recipe.schema import Recipe
from ctrlsynth.report.explain import first_kept
from ctrlsynth.report.gallery import write_report
from ctrlsynth.report.sweep import sweep
from ctrlsynth.runs.ledger import LedgerRow
from ctrlsynth.runs.pairs import count_pairs
from ctrlsynth.sample import Tags
from helpers import assert_refused, recipe, write_tar


def ledger(made: Run) -> dict[str, LedgerRow]:
    """The ledger by folder, after every stage has been seen to add up."""
    rows = made.ledger()
    assert [r.folder for r in rows if not r.adds_up] == []
    return {r.folder: r for r in rows}


class OddError(Exception):
    """An exception of a library's own, of no built-in kind."""


def lazy() -> Image.Image:
    """An image that fails when it is decoded."""
    cut = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(cut, "PNG")
    return Image.open(io.BytesIO(cut.getvalue()[:600]))


SQUARE = Image.new("RGB", (32, 32), (200, 30, 30))
TAGS: dict[str, Any] = {
    "none": None, "string": "boat", "text_for_tuple": Tags("boat"), "numbers": Tags((1, 2)),  # type: ignore[arg-type]
    "surrogate": Tags(("boat\ud800",)), "nan": Tags(("boat",), scores=(float("nan"),)),
    "scores": Tags(("boat",), scores=(0.5, 0.5)), "score_text": Tags(("boat",), scores=("high",)),  # type: ignore[arg-type]
    "caption": Tags(("boat",), caption=3),  # type: ignore[arg-type]
}  # fmt: skip
REPLIES: dict[str, Any] = {
    "none": None, "string": "a boat", "bytes": Reply(b"a boat"), "text_none": Reply(None),  # type: ignore[arg-type]
    "surrogate": Reply("a boat \udcff"), "tokens": Reply("a boat", prompt_tokens="many"),  # type: ignore[arg-type]
    "huge": Reply("a boat", prompt_tokens=2**40), "error": Reply(None, error="too_wet"),  # type: ignore[arg-type]
}  # fmt: skip
PAINTINGS: dict[str, Any] = {
    "none": None, "image": SQUARE, "bytes": Painting(b"JFIF"), "empty": Painting(Image.new("RGB", (0, 0))),  # type: ignore[arg-type]
    "wide": Painting(Image.new("RGB", (70_000, 1))), "both": Painting(SQUARE, error="too_wet"),
    "drawn": Painting(SQUARE, drawn=(1, 2)),  # type: ignore[arg-type]
}  # fmt: skip


class Odd:
    """A model of any role: answers as `how` says if an input holds a boat, else correctly."""

    id, digest, reads, batch = "odd", "1", "caption", 1

    def __init__(self, how: str) -> None:
        self._how = how

    def _answer(self, inputs: Sequence[str], right: list[Any], odd: dict[str, Any]) -> Any:
        if not any("boat" in text for text in inputs):
            return right
        if self._how == "raise":
            raise OddError("no boats")
        if self._how == "model_error":
            raise ModelError("too_wet", "boats are too wet")
        whole = {"nothing": None, "too_few": [], "too_many": right * 2}
        return whole[self._how] if self._how in whole else [odd[self._how]] * len(inputs)

    def tag(self, items: Sequence[ImageAndText]) -> Any:
        return self._answer(
            [i.text or "" for i in items], [Tags(("dog",), ("red dog",)) for _ in items], TAGS
        )


class OddLLM(Odd):
    """A writer."""

    def generate(self, requests: Sequence[Request]) -> Any:
        phrases = [", ".join(r.tags.phrases()) for r in requests]
        return self._answer(phrases, [Reply(f"There is {p}.") for p in phrases], REPLIES)


class OddPainter(Odd):
    """A painter."""

    def generate(self, prompts: Sequence[Prompt]) -> Any:
        odd = {**PAINTINGS, "lazy": Painting(lazy())}
        return self._answer([p.text for p in prompts], [Painting(SQUARE) for _ in prompts], odd)


class OddSafety:
    """Gives every third image the score that `how` names."""

    id, digest = "odd-safety", "1"

    def __init__(self, how: str) -> None:
        self._how = how

    def score(self, images: Sequence[Image.Image]) -> Any:
        if self._how == "raise":
            raise OddError("will not look")
        bad = {"nan": float("nan"), "none": None, "text": "safe", "big": 7.0}.get(self._how)
        scores = [bad if n % 3 == 0 else 0.1 for n in range(len(images))]
        return scores[:-1] if self._how == "too_few" else scores


ROLES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tagger": ("tag", "judge-text", {}),
    "llm": ("write", "judge-text", {}),
    "text_to_image": (
        "paint",
        "judge-image",
        {"paths": ["SP4"], "judge": {"tagger": "helpers:PixelCounter"}},
    ),
}
CLASSES = {"tagger": "Odd", "llm": "OddLLM", "text_to_image": "OddPainter"}
REASONS = {
    "tagger": {
        **dict.fromkeys(TAGS, "bad_output"), "nothing": "model_error:TypeError", "too_few": "no_output",
        "too_many": "too_many_outputs", "raise": "model_error:OddError", "model_error": "too_wet",
    },
    "llm": {**dict.fromkeys(REPLIES, "bad_output"), "error": "too_wet", "raise": "model_error:OddError"},
    "text_to_image": {
        **dict.fromkeys(PAINTINGS, "bad_output"), "lazy": "cannot_encode", "wide": "cannot_encode",
        "both": "too_wet", "too_many": "too_many_outputs", "raise": "model_error:OddError",
    },
}  # fmt: skip


@pytest.mark.parametrize(("role", "how"), [(role, how) for role, hows in REASONS.items() for how in hows])
def test_a_model_that_answers_oddly_costs_its_rows(tmp_path: Path, role: str, how: str) -> None:
    folder, later, changes = ROLES[role]
    models = {"tagger": "wordnet", "llm": "realizer", role: {f"test_bad_input:{CLASSES[role]}": how}}
    made = run(recipe(tmp_path, models=models, **changes), tmp_path / "run", base=tmp_path)
    rows = ledger(made)
    assert (rows[folder].ok, rows[folder].failed, rows[later].rows) == (30, {REASONS[role][how]: 10}, 30)
    if role == "text_to_image":
        assert all((r["image"] is None) == (r["status"] == "failed") for r in made.rows("paint"))


@pytest.mark.parametrize("how", ["nan", "none", "text", "big"])
def test_an_image_that_safety_could_not_score_is_never_kept(tmp_path: Path, how: str) -> None:
    made = run(judged_by(tmp_path, how), tmp_path / "run", base=tmp_path)
    failed = ledger(made)["judge-image"].failed
    assert failed.keys() == {"bad_output"}
    found = [(r["unsafe"], r["verdict"]) for r in made.rows("judge-image") if r["status"] == "failed"]
    assert found == [(None, None)] * failed["bad_output"]
    scores = [r["unsafe"] for r in made.rows("judge-image") if r["status"] != "failed"]
    assert scores == pytest.approx([0.1] * (40 - failed["bad_output"]))


@pytest.mark.parametrize(("how", "reason"), [("too_few", "no_output"), ("raise", "model_error:OddError")])
def test_a_safety_judge_that_fails_altogether_stops_the_run_with_its_cause(
    tmp_path: Path, how: str, reason: str
) -> None:
    with pytest.raises(WorkFailed, match=rf"judge-image: none of 40 rows came through \({reason} x 40\)"):
        run(judged_by(tmp_path, how), tmp_path / "run", base=tmp_path)


def judged_by(base: Path, how: str) -> Recipe:
    """Captions painted by `scenes` and looked at by `OddSafety`."""
    judge = {
        "tagger": "helpers:PixelCounter",
        "threshold": 0.0,
        "safety": {"model": {"test_bad_input:OddSafety": how}},
    }
    return recipe(base, paths=["SP4"], judge=judge, image_policy={"size": 64})


CAPTIONS = {
    "sound.jpg": "a red dog on a blue sofa",
    "cut.jpg": "a dog",
    "cut.png": "a cat",
    "page.jpg": "a tree",
    "empty.jpg": "a car",
    "bomb.png": "a boat",
    "cmyk.jpg": "",
    "deep.png": "dog " * 25_000,
    "alpha.png": "a \x1b[31mred\x1b[0m \x07dog\x00 on a \x9b5msofa",
    "palette.png": "\u05db\u05dc\u05d1 \u05d0\u05d3\u05d5\u05dd dog \u202eevil",
    "clear.gif": "a \U0001f436 dog \U0001f469\u200d\U0001f469\u200d\U0001f467 and ball",
    "turned.jpg": "a \"dog\" & 'cat' {caption} {{phrases}} {{ 7*7 }} {% raw %} <script>alert(1)</script> "
    "[bold] %s {0}",
    "bits.png": "   \t ",
    "lines.png": "a\ndog\r\non\u2028a\u2029sofa",
    "dot.png": "a boat",
    "thin.png": "a bird",
}
FATES = {
    "cut": "truncated_image",
    "cut.png": "truncated_image",
    "page": "not_an_image",
    "empty": "empty_file",
    "bomb": "image_too_large",
    "absent": "missing_file",
    "..:..:etc:passwd": "unsafe_path",
}


def hostile_images() -> dict[str, bytes]:
    """Every kind of image file that breaks careless readers, by name."""
    photo = Image.effect_noise((160, 120), 80).convert("RGB")

    def saved(image: Image.Image, form: str, **options: Any) -> bytes:
        out = io.BytesIO()
        image.save(out, form, **options)
        return out.getvalue()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "sound.jpg": saved(photo, "JPEG"),
        "cut.jpg": saved(photo, "JPEG")[:1500],
        "cut.png": saved(photo, "PNG")[:2000],
        "page.jpg": b"<html>no image</html>",
        "empty.jpg": b"",
        "bomb.png": bomb,
        "cmyk.jpg": saved(photo.convert("CMYK"), "JPEG"),
        "deep.png": saved(Image.effect_noise((50, 50), 80).convert("I;16"), "PNG"),
        "alpha.png": saved(photo.convert("RGBA"), "PNG"),
        "palette.png": saved(photo.convert("P"), "PNG"),
        "clear.gif": saved(photo.convert("P"), "GIF", transparency=3),
        "turned.jpg": saved(photo, "JPEG", exif=turned),
        "bits.png": saved(photo.convert("1"), "PNG"),
        "lines.png": saved(photo.convert("LA"), "PNG"),
        "dot.png": saved(Image.new("RGB", (1, 1)), "PNG"),
        "thin.png": saved(Image.new("RGB", (5000, 2)), "PNG"),
    }


def write_folder(base: Path) -> dict[str, Any]:
    (base / "images").mkdir()
    for name, data in hostile_images().items():
        (base / "images" / name).write_bytes(data)
    more = (
        ("sound.jpg", "a second caption of a dog"),
        ("absent.jpg", "nowhere"),
        ("../../etc/passwd", "evil"),
    )
    with open(base / "captions.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("file_name", "caption"), *CAPTIONS.items(), *more])
    return {"folder": "images", "captions": "captions.csv", "part_rows": 6}


def write_tars(base: Path) -> dict[str, Any]:
    """A sound tar with hostile members, and one that is cut in the middle."""
    images = hostile_images()
    members = [("../../escape.jpg", images["sound.jpg"])]
    for name, data in images.items():
        key, _, suffix = name.rpartition(".")
        key += "2" if name == "cut.png" else ""
        members += [(f"{key}.{suffix}", data), (f"{key}.txt", CAPTIONS[name].encode())]
    path = write_tar(base / "00000.tar", [*members, ("sound.jpg", images["sound.jpg"])])
    with tarfile.open(path, "a") as tar:
        for kind, link in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "sound.jpg")):
            info = tarfile.TarInfo(f"link{kind.decode()}.jpg")
            info.type, info.linkname = kind, link
            tar.addfile(info)
    whole = path.read_bytes()
    (base / "00001.tar").write_bytes(whole[: len(whole) // 3])
    return {"webdataset": "0000?.tar"}


@pytest.fixture(scope="module", params=[write_folder, write_tars], ids=["folder", "tars"])
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of SP1 to SP4 over hostile input, with the embedded models."""
    base = tmp_path_factory.mktemp("hostile")
    data = {
        "name": "hostile",
        "source": request.param(base),
        "models": {
            "tagger": {"hybrid": ["imagenet", "wordnet"]},
            "llm": "realizer",
            "text_to_image": "scenes",
        },
        "paths": ["SP1", "SP2", "SP3", "SP4"],
        "image_policy": {"size": 96},
        "judge": {"tagger": "reference", "threshold": 0.1, "image_against": "text"},
    }
    return run(parse_recipe(data), base / "run", base=base)


def test_hostile_input_gets_typed_reasons_and_the_rest_continues(hostile: Run) -> None:
    rows = ledger(hostile)
    fates = {
        row["source_key"].partition(":")[2]: row["reason"]
        for folder in ("read", "tag")
        for row in hostile.rows(folder, ["source_key", "status", "reason"])
        if row["status"] != "ok"
    }
    if hostile.recipe.source.folder:
        assert sorted(fates.values()) == sorted(FATES.values())
        assert {k: v for k, v in fates.items() if k in FATES} == {k: FATES[k] for k in fates if k in FATES}
    else:
        inside = {"truncated_image", "not_an_image", "empty_file", "image_too_large"}
        assert set(fates.values()) == inside | {"duplicate_key", "truncated_archive", "unsafe_member"}, fates
    assert rows["write"].ok == rows["tag"].ok >= 9
    assert rows["judge-image"].rows == rows["paint"].ok > 0
    assert {"no_caption"} >= set(rows["paint.2"].dropped)


def test_hostile_captions_stay_data(hostile: Run) -> None:
    """No template is run over a caption, no control character comes through, and braces stay as they
    were."""
    captions = {r["source_key"].partition(":")[2]: r["caption"] for r in hostile.rows("read") if r["caption"]}
    assert "{{ 7*7 }} {% raw %}" in captions["turned"]
    assert not any(set("\x00\x07\x1b\x9b") & set(c) for c in captions.values())
    asked = [r["instruction"] for r in hostile.rows("write.2") if ":turned/" in r["id"] and r["instruction"]]
    assert all("{caption} {{phrases}} {{ 7*7 }} {% raw %}" in text and "49" not in text for text in asked)
    for folder in ("write", "write.2", "paint", "paint.2"):
        counted = [r for r in hostile.rows(folder) if r["clip_tokens"] is not None]
        assert all(r["clip_tokens"] >= 2 and r["truncated"] == (r["clip_tokens"] > 77) for r in counted)


def test_everything_else_works_on_a_hostile_run(hostile: Run, tmp_path: Path) -> None:
    for row in hostile.rows("read", ["id"]):
        assert row["id"].isprintable()
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", as_text(hostile, row["id"]))
    assert as_text(hostile, first_kept(hostile))
    assert sweep(hostile).plain()
    page = write_report(hostile, tmp_path / "report").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    for form in ("webdataset", "parquet", "imagefolder", "csv"):
        summary = export(hostile, tmp_path / form, format=form, mix="capimg")
        assert sum(summary.written.values()) == count_pairs(hostile, "capimg") > 0
    with tarfile.open(tmp_path / "webdataset" / "00000.tar") as tar:
        assert all(re.fullmatch(r"\d{9}\.(jpg|txt|json)", name) for name in tar.getnames())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\nname: b\n", r":2:1: key 'name' is given twice"),
        ("name: a\nsource: {text: c.csv}\npathz: [SP1]\n", "did you mean 'paths'"),
        (
            "name: a\nsource: {text: c.csv, caption_column: titel}\npaths: [{p: [text, tags, "
            "text*]}]\nmodels: {tagger: wordnet}\n",
            "title",
        ),
        (
            "name: a\nsource: {text: bare.csv}\npaths: [{p: [text, tags, text*]}]\nmodels: {tagger: "
            "wordnet}\n",
            "caption_column",
        ),
        ("name: [a\n", r"r\.yaml"),
        ("\x00", "not YAML"),
        ("- a\n", r"r\.yaml"),
    ],
)
def test_bad_recipes_are_one_line_with_the_remedy(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "c.csv").write_text("title,n\na dog,1\n")
    (tmp_path / "bare.csv").write_text("a,b\n1,2\n")
    (tmp_path / "r.yaml").write_text(text)
    assert_refused(lambda: run(tmp_path / "r.yaml", tmp_path / "run"), told)
    assert not (tmp_path / "run").exists()
