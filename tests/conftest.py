"""What tests of many files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny("sdxl")`: the folder of a tiny real checkpoint (tiny_models.py, tiny_vision.py), made when first asked for.
    Tests only read it."""
    from ctrlsynth.models.torchvision_fix import make_torchvision_importable

    make_torchvision_importable()
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            from tiny_models import BUILDERS
            from tiny_vision import VISION_BUILDERS

            made[name] = (BUILDERS | VISION_BUILDERS)[name](tmp_path_factory.mktemp("tiny") / name)
        return made[name]

    return folder
