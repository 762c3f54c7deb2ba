"""The Python face: `run(recipe) -> Run`, and what can be done with a run."""

from pathlib import Path
from typing import Any, Literal

from ..export.card import Summary
from ..export.export import export
from ..recipe.file import load_recipe
from ..recipe.schema import Recipe
from ..report.explain import Story, explain, first_kept
from ..report.gallery import write_report
from ..report.sweep import Sweep, sweep
from ..runs import drive
from ..runs.reader import RunReader
from ..runs.watch import Watcher
from ..storage.location import Location

__all__ = ["Run", "load_recipe", "run"]


class Run(RunReader):
    """A run's folder: its rows and ledger, and what is made from them without a model."""

    def explain(self, row_id: str | None = None) -> Story:
        """Returns the story of a row, a source key, or (None) the first kept sample."""
        return explain(self, row_id or first_kept(self))

    def sweep(self) -> Sweep:
        """Returns how many samples each threshold p_f would keep, from the stored scores."""
        return sweep(self)

    def export(self, out: Path | str, **options: Any) -> Summary:
        """Writes the kept pairs as a data set; `options` as `export.export` takes them."""
        summary = export(self, Path(out), **options)
        drive.add_product(self.root, "dataset", Path(out))
        return summary

    def report(self, out: Path | str, **options: Any) -> Path:
        """Writes the gallery and returns its index.html; `options` as `gallery.write_report` takes them."""
        page = write_report(self, Path(out), **options)
        drive.add_product(self.root, "report", Path(out))
        return page


def run(
    recipe: Recipe | Path | str,
    out: Location | str | None = None,
    *,
    base: Path | None = None,
    text: str | None = None,
    limit: int | None = None,
    update: bool = False,
    retry: bool = False,
    verify: bool = False,
    watcher: Watcher | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
) -> Run:
    """Runs a recipe into `out` (`runs/NAME` by default) and returns the run.

    Args:
        base: folder that the recipe's relative paths start from (default: that of the recipe's file)
        text: the recipe as written, to keep a copy of (default: the content of the recipe's file)
        limit: use only the first rows of the source
        update: continue although the recipe has changed; reuse unchanged rows
        retry: also retry the rows that failed
        verify: compare source and model files by content, not by size and date
        watcher: is called as parts are made, for a progress display
        engine: `local` (this machine) or `ray`, the Ray cluster at `address`; no row depends on it

    Raises UserError for what the user can fix, and WorkFailed if nothing came through. Finished work is kept.
    """
    root = drive.run(
        recipe, out, base=base, text=text, limit=limit, update=update, retry=retry, verify=verify,
        watcher=watcher, engine=engine, address=address,
    )  # fmt: skip
    return Run.open(root)
