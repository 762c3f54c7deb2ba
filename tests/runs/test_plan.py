"""The plan of a run is plain data: the same in every process."""

import pickle
from pathlib import Path

from ctrlsynth.runs.build import build_one, open_workshop
from helpers import recipe


def test_a_plan_travels_and_its_stages_are_built_elsewhere(tmp_path: Path) -> None:
    workshop = open_workshop(recipe(tmp_path, judge={"threshold": 0.2}), tmp_path)
    plan = pickle.loads(pickle.dumps(workshop.plan))  # noqa: S301  (our own)
    assert plan == workshop.plan
    for step in plan.steps:
        assert list(build_one(plan, step.folder).stages) == [step.folder]
        here, there = ([p.part_digest(step.folder, part) for part in p.parts] for p in (workshop.plan, plan))
        assert here == there
