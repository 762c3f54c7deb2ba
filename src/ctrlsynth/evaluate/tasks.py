"""The papers' tasks, read from `tasks.yaml`: name, metric, number of classes, test size, and the folders that
may hold the data.

Other folders can be evaluated too: the files in them determine the kind, classnames.txt the classes."""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml

from ..errors import UserError, unknown
from .layout import find_folder

Kind = Literal["zero-shot", "retrieval", "pairs", "linear-probe", "few-shot", "long-tail"]
_NEEDED = {
    "linear-probe": ("train/nshards.txt", "test/nshards.txt"),
    "few-shot": ("train/nshards.txt", "test/nshards.txt"),
    "long-tail": ("train.txt",),
}
"""Files that a kind needs, which a folder of the task's name may lack: a data set for zero-shot may have no
train split."""


@dataclass(frozen=True, slots=True)
class Task:
    """One evaluation.

    metric     the main one: acc1, mean_per_class_recall, recall@1, acc
    folder     its name in the public layout
    classes    their number, or None if the folder determines it
    size       rows of the papers' test set, or None
    captions   retrieval: how many captions of each image count, the first ones; None for all
    group      the group whose average the papers print
    templates  zero-shot: the template set unless the user names another
    """

    name: str
    title: str
    kind: Kind
    metric: str
    folder: str
    classes: int | None = None
    size: int | None = None
    captions: int | None = None
    group: str = ""
    templates: str = "folder"

    @property
    def chance(self) -> float | None:
        """The expected score of guessing; None for retrieval, where it depends on the gallery."""
        return {"pairs": 0.5, "few-shot": 0.2}.get(self.kind, 1 / self.classes if self.classes else None)

    def folders(self) -> list[str]:
        """Possible names of its folder, in the order in which they are tried."""
        plain = self.folder.replace("/", "-")
        base = self.name.removeprefix("linear-").removeprefix("few-shot-")
        return list(
            dict.fromkeys(
                [
                    base,
                    self.folder,
                    f"wds_{plain}_test",
                    f"wds_{plain}",
                    plain,
                    self.folder.rpartition("/")[2],
                ]
            )
        )


@lru_cache(maxsize=1)
def tasks() -> dict[str, Task]:
    """Name -> task, in the papers' order."""
    text = (resources.files("ctrlsynth.evaluate") / "tasks.yaml").read_text(encoding="utf-8")
    return {row["name"]: Task(**row) for row in yaml.safe_load(text)}


def choose(data: Path, names: list[str] | None) -> list[tuple[Task, Path]]:
    """The tasks to run and their folders: the named ones (UserError if one is not found), else all whose data
    is in `data`, the user's own folders last."""
    if not data.is_dir():
        raise UserError(
            f"{data}: expected a folder of data sets, found {'a file' if data.exists() else 'nothing'}"
        )
    known = tasks()
    if names:
        return [_named(data, name, known) for name in names]
    found = [
        (task, folder)
        for task in known.values()
        if (folder := find_folder(data, task.folders()))
        and all((folder / name).exists() for name in _NEEDED.get(task.kind, ()))
    ]
    taken = {folder.resolve() for _, folder in found}
    others = sorted(p for p in data.iterdir() if p.is_dir() and p.resolve() not in taken)
    found += [(task, folder) for folder in others if (task := own_task(folder))]
    if not found:
        there = ", ".join(sorted(p.name for p in data.iterdir())[:8]) or "nothing"
        raise UserError(
            f"{data}: no data set that is known by name or layout; found {there}; see docs/evaluation.md"
        )
    return found


def _named(data: Path, name: str, known: dict[str, Task]) -> tuple[Task, Path]:
    task = known.get(name)
    names = task.folders() if task else [name]
    folder = find_folder(data, names)
    if folder is None and task is None:
        raise unknown("task", name, [*known, *(p.name for p in data.iterdir() if p.is_dir())], "--tasks")
    if folder is None:
        raise UserError(f"{data}: task {name} expects a folder {' or '.join(names[:3])}, none is there")
    task = task or own_task(folder)
    if task is None:
        raise UserError(
            f"{folder}: expected classnames.txt, test/ with captions, or pairs as .json; see "
            f"docs/evaluation.md"
        )
    return task, folder


def own_task(folder: Path) -> Task | None:
    """The task for a folder that is none of the papers', judging by its files, or None."""
    captions = (folder / "captions.json").exists()
    pairs = any(folder.glob("*.json")) and (folder / "images").is_dir() and not captions
    kinds: tuple[tuple[Kind, str, bool], ...] = (
        ("long-tail", "acc1", (folder / "train.txt").exists() and (folder / "test.txt").exists()),
        ("zero-shot", "acc1", (folder / "classnames.txt").exists()),
        ("pairs", "acc", pairs),
        ("retrieval", "recall@1", captions or (folder / "test" / "nshards.txt").exists()),
    )
    fitting = (
        Task(folder.name, folder.name, kind, metric, folder.name) for kind, metric, fits in kinds if fits
    )
    return next(fitting, None)
