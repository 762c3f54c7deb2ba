"""BOXES, the grammar of paths and the stages' classes agree."""

from typing import get_args

from ctrlsynth.recipe.paths import Kind
from ctrlsynth.stages.boxes import BOXES


def test_boxes_and_paths_name_the_same_kinds() -> None:
    assert tuple(BOXES) == get_args(Kind)
    assert all(box.load().schema == box.schema for box in BOXES.values())
