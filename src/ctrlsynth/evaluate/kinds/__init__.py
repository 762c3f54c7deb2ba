"""The kinds of evaluation, by name: one class per kind, imported when a task needs it."""

from pathlib import Path

from ...recipe.code import load_code
from ..tasks import Task
from .base import Evaluator, Settings

KINDS = {
    "zero-shot": "ctrlsynth.evaluate.kinds.zero_shot:ZeroShot",
    "retrieval": "ctrlsynth.evaluate.kinds.retrieval:Retrieval",
    "pairs": "ctrlsynth.evaluate.kinds.compositional:Compositional",
    "linear-probe": "ctrlsynth.evaluate.kinds.linear_probe:LinearProbe",
    "few-shot": "ctrlsynth.evaluate.kinds.few_shot:FewShot",
    "long-tail": "ctrlsynth.evaluate.kinds.long_tail:LongTail",
}


def evaluator(task: Task, folder: Path, settings: Settings | None = None) -> Evaluator:
    """The evaluator of a task on a folder of data."""
    made: Evaluator = load_code(KINDS[task.kind], "evaluate")(task, folder, settings or Settings())
    return made
