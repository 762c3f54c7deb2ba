"""The Python face: `run(recipe) -> Run`, and what can be done with a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..recipe.file import load_recipe
from ..recipe.schema import Recipe
from ..runs import drive
from ..runs.reader import RunReader
from ..storage.location import Location

if TYPE_CHECKING:
    from ..export.card import Summary
    from ..report.explain import Story
    from ..report.sweep import Sweep

__all__ = ["Run", "load_recipe", "run"]


class Run(RunReader):
    """A run's folder: its rows and ledger, and what is made from them without a model."""

    def explain(self, row_id: str | None = None) -> Story:
        """Returns the story of a row, a source key, or (None) the first kept sample."""
        from ..report.explain import explain, first_kept

        return explain(self, row_id or first_kept(self))

    def sweep(self) -> Sweep:
        """Returns how many samples each threshold p_f would keep, from the stored scores."""
        from ..report.sweep import sweep

        return sweep(self)

    def export(self, out: Path | str, **options: Any) -> Summary:
        """Writes the kept pairs as a data set; `options` as `export.export` takes them."""
        from ..export.export import export

        summary = export(self, Path(out), **options)
        drive.add_product(self.root, "dataset", Path(out))
        return summary

    def report(self, out: Path | str, **options: Any) -> Path:
        """Writes the gallery and returns its index.html; `options` as `gallery.write_report` takes them."""
        from ..report.gallery import write_report

        page = write_report(self, Path(out), **options)
        drive.add_product(self.root, "report", Path(out))
        return page


def run(recipe: Recipe | Path | str, out: Location | str | None = None, **options: Any) -> Run:
    """Runs a recipe into `out` (`runs/NAME` unless given) and returns the run; `options` as `drive.run`
    takes them."""
    return Run.open(drive.run(recipe, out, **options))
