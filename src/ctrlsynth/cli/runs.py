"""Commands about runs: init, plan, run, status, models."""

from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from .options import Address, Engine, Json, Limit, Out, RecipeFile, RunDir, Set, open_run
from .output import answer, ledger_rows, say
from .progress import run_bars
from .show import show_ledger, show_models, show_plan


def init(
    folder: Annotated[Path, Argument(help="a folder of images, tar or parquet files, or captions")],
    out: Annotated[Path, Option(help="the recipe to write", metavar="FILE")] = Path("recipe.yaml"),
) -> None:
    """Look into a folder and write a commented recipe for its data."""
    from .init import write_recipe

    write_recipe(folder, out)
    say(f"wrote {out}; next: ctrlsynth plan {out}, then ctrlsynth run {out}")


def plan(
    recipe: RecipeFile, out: Out = None, limit: Limit = None, set_: Set = None, as_json: Json = False
) -> None:
    """Check a recipe and show what a run would do: stages, rows, models, costs, and what is already done.

    Runs no model. Exits with 2 if something would stop the run.
    """
    from ..recipe.file import load_recipe
    from ..runs.estimate import estimate
    from ..storage.location import output_location

    loaded = load_recipe(recipe, set_)
    found = estimate(loaded, recipe.parent, output_location(out or Path("runs") / loaded.name), limit)
    answer(as_json, found, lambda: show_plan(found))
    if found["problems"]:
        raise SystemExit(2)


def run(
    recipe: RecipeFile,
    *,
    out: Out = None,
    limit: Limit = None,
    set_: Set = None,
    update: Annotated[
        bool, Option("--update", help="continue although the recipe has changed; reuse unchanged rows")
    ] = False,
    retry: Annotated[Literal["failed"] | None, Option(help="failed: also retry the rows that failed")] = None,
    verify: Annotated[
        bool, Option("--verify", help="compare source and model files by content, not by size and date")
    ] = False,
    engine: Engine = "local",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Run a recipe. If a run was interrupted or killed, the same command continues it."""
    from ..api import run as api

    loaded = api.load_recipe(recipe, set_)
    text = recipe.read_text(encoding="utf-8")
    with run_bars(quiet=as_json) as watcher:
        made = api.run(
            loaded, out, base=recipe.parent, text=text, limit=limit, update=update, retry=retry is not None,
            verify=verify, watcher=watcher, engine=engine, address=address,
        )  # fmt: skip
    _show_run(made, as_json)


def status(run_dir: RunDir, as_json: Json = False) -> None:
    """Show the ledger of a run: how many rows each stage received, kept, dropped and failed, and why."""
    _show_run(open_run(run_dir), as_json)


def models(as_json: Json = False) -> None:
    """List the models, drawings and data that recipes can use, their licences, and what is installed."""
    from ..models.catalogue import entries

    found = entries()
    answer(as_json, found, lambda: show_models(found))


def _show_run(made: Any, as_json: bool) -> None:
    facts = {"run": str(made.root), "ledger": ledger_rows(made), "products": made.products()}
    answer(as_json, {**facts, "balances": made.balances()}, lambda: show_ledger(made))
