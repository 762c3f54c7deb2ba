"""What tests of many files share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# The suite runs in one process a core: two threads in each would wait for one another, and sums would depend
# on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny("sdxl")`: the folder of a tiny real checkpoint (tiny_models.py, tiny_vision.py), made when first
    asked for. Tests only read it."""
    from ctrlsynth.models.device import make_torchvision_importable

    make_torchvision_importable()
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            from tiny_models import BUILDERS
            from tiny_vision import VISION_BUILDERS

            made[name] = (BUILDERS | VISION_BUILDERS)[name](tmp_path_factory.mktemp("tiny") / name)
        return made[name]

    return folder
