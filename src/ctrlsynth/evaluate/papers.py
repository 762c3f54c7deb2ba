"""The numbers printed in the papers (`papers.yaml`), and SynthCLIP's aggregate over five tasks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from .results import Result

FIVE = ("linear-probe", "few-shot", "image-retrieval", "text-retrieval", "zero-shot")
"""SynthCLIP's five tasks: averages over its data sets; retrieval is recall@5, zero-shot is ImageNet
(papers/002, section 4.1)."""


@dataclass(frozen=True, slots=True)
class Table:
    """One printed table: model -> column (`task:metric`) -> percent."""

    paper: str
    table: str
    protocol: Mapping[str, Any]
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, float]]
    note: str = ""
    printed: Mapping[str, Any] | None = None


@lru_cache(maxsize=1)
def tables() -> tuple[Table, ...]:
    """All tables, in the order of the papers."""
    text = (resources.files("ctrlsynth.evaluate") / "papers.yaml").read_text(encoding="utf-8")
    return tuple(map(_table, yaml.safe_load(text)))


def _table(raw: dict[str, Any]) -> Table:
    rows = {name: dict(zip(raw["columns"], values, strict=True)) for name, values in raw["rows"].items()}
    return Table(**{**raw, "columns": tuple(raw["columns"]), "rows": rows})


def as_averaged(results: Sequence[Result]) -> list[Result]:
    """The results that can be compared with SynthCLIP's averages (its Tables 1 and 2: linear probe, few-shot,
    retrieval and zero-shot): those of tasks with all of the paper's data sets."""
    probe, shots, other = (
        {column.partition(":")[0] for column in table.columns}
        for table in tables()
        if table.paper == "SynthCLIP" and table.table[:1] in "12"
    )
    names = {r.task for r in results}
    whole = [sets for sets in (probe, shots, other - {"imagenet"}, {"imagenet"}) if sets <= names]
    return [r for r in results if any(r.task in sets for sets in whole)]


def five_tasks(results: Iterable[Result]) -> dict[str, float]:
    """SynthCLIP's task averages in percent, for the tasks of `FIVE` that the results cover (zero-shot is
    ImageNet alone)."""
    found: dict[str, list[float]] = {}
    for result in results:
        kind = str(result.protocol["kind"])
        metrics = {kind: result.main} if kind != "zero-shot" or result.task == "imagenet" else {}
        if kind == "retrieval":
            metrics = {"image-retrieval": "t2i_recall@5", "text-retrieval": "i2t_recall@5"}
        for task, metric in metrics.items():
            found.setdefault(task, []).append(result.scores[metric].value)
    return {task: 100 * sum(found[task]) / len(found[task]) for task in FIVE if task in found}
