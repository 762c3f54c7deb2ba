"""What a run will do, as plain data: frozen, picklable, the same in every process.

A step's digest covers everything that can change its rows: the stage's version, its model, the policy, and
the digests upstream. A part's digest adds the source part's fingerprint, so a part's file name says whether
it is the wanted one (`storage.parts`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..data.rows import SourcePart
from ..recipe.paths import Step, places
from ..recipe.schema import Recipe, dump_recipe
from ..sample import digest_of
from ..stages.boxes import BOXES, Box


@dataclass(frozen=True)
class Plan:
    """A recipe resolved for one source. Mappings go by folder.

    base        the folder that the recipe's relative paths start from
    source      the source, described; `parts` its parts: index, name, fingerprint
    settings    what each stage says of itself; with the digests part of plan.json
    candidates  the wave that `judge.target` has reached
    retries     folder -> part -> how often its failed rows were tried again
    contents    whole-file hashes of models, taken by `--verify`
    """

    recipe: Recipe
    base: Path
    limit: int | None
    steps: tuple[Step, ...]
    source: str
    has_images: bool
    parts: tuple[SourcePart, ...]
    candidates: int = 1
    retries: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _wholes: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def step(self, folder: str) -> Step:
        """Returns the step that fills a folder."""
        return next(s for s in self.steps if s.folder == folder)

    def box(self, folder: str) -> Box:
        """Returns the box of the figure that a folder is."""
        return BOXES[self.step(folder).kind]

    def part_digest(self, folder: str, part: SourcePart) -> str:
        """Returns 12 hex digits that decide whether a part's file is the wanted one."""
        upstream, barriers = self._upstream[folder]
        again = [self.retries.get(f, {}).get(str(part.index), 0) for f in upstream]
        wholes = [self.whole_digest(f) for f in barriers]
        return digest_of(self.digests[folder], part.fingerprint, again if any(again) else 0, *wholes)[:12]

    def whole_digest(self, folder: str) -> str:
        """Returns the digest of a barrier, which looks at all parts at once: it changes with any part and any
        retry upstream."""
        if folder not in self._wholes:
            again = {f: self.retries[f] for f in self.lineage(folder) if self.retries.get(f)}
            name = f"{folder} {self.digests[folder]} {sorted(again.items())}"
            self._wholes[folder] = digest_of(name, [p.fingerprint for p in self.parts])[:12]
        return self._wholes[folder]

    def lineage(self, folder: str) -> list[str]:
        """Returns the folder and everything upstream of it, in the order of the steps."""
        return self._upstream[folder][0]

    @cached_property
    def _upstream(self) -> dict[str, tuple[list[str], list[str]]]:
        """Folder -> its lineage, and the barriers in it."""
        order = [s.folder for s in self.steps]
        above: dict[str, set[str]] = {}
        for step in self.steps:  # parents come before children
            sources = [*([step.parent] if step.parent else []), *step.uses.values()]
            above[step.folder] = {step.folder}.union(*(above[f] for f in sources))
        lineages = {folder: [f for f in order if f in wanted] for folder, wanted in above.items()}
        return {f: (found, [b for b in found if self.box(b).barrier]) for f, found in lineages.items()}

    def retry(self, folder: str, indexes: Iterable[int]) -> Plan:
        """Returns the plan with these parts, and what depends on them, to be made again."""
        counts = dict(Counter(self.retries.get(folder, {})) + Counter(map(str, indexes)))
        return replace(self, retries={**self.retries, folder: counts} if counts else self.retries)

    def describe(self) -> dict[str, Any]:
        """Returns what plan.json holds."""
        return {
            "version": version("ctrlsynth"),
            "recipe": dump_recipe(self.recipe),
            "base": str(self.base),
            "limit": self.limit,
            "source": self.source,
            "parts": [p.name for p in self.parts],
            "candidates": self.candidates,
            "retries": self.retries,
            "contents": self.contents,
            "places": places(self.steps),
            "steps": [
                {
                    "folder": s.folder,
                    "kind": s.kind,
                    "label": s.label,
                    "parent": s.parent,
                    "uses": dict(s.uses),
                    "family": s.family,
                    "paths": list(s.paths),
                    "digest": self.digests[s.folder],
                    "settings": self.settings[s.folder],
                }
                for s in self.steps
            ],
        }


def described_steps(steps: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    """Returns the steps of a plan.json."""
    return tuple(
        Step(s["folder"], s["kind"], s["label"], s["parent"], s["uses"], s["family"], tuple(s["paths"]))
        for s in steps
    )
