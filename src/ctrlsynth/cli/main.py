"""The command line: with the other `cli*.py` the only files that know typer. Every command imports what it
needs when it runs, so that `--help` answers at once.

Exit codes: 0 done, 1 the work failed, 2 the user's mistake, 130 Ctrl-C (everything finished so far is kept).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ..errors import UserError, WorkFailed, disk_fault
from . import evaluate as cli_eval
from . import train as cli_clip
from .captions import concepts
from .options import Engine, Json
from .output import plain, print_json, say

app = typer.Typer(
    name="ctrlsynth",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Makes image-text data under your control: tags an image, edits the tags by policy, writes texts, "
    "paints images,\n"
    "judges what came out.\n\n"
    "Start with `ctrlsynth init FOLDER`, then `ctrlsynth run recipe.yaml`, `ctrlsynth report runs/NAME`.",
)

app.add_typer(concepts, name="concepts")

RecipeFile = Annotated[
    Path, typer.Argument(help="a recipe (YAML); `ctrlsynth init FOLDER` writes one", metavar="RECIPE")
]
RunDir = Annotated[
    str, typer.Argument(help="a run's folder, such as runs/quickstart, or its URL", metavar="RUN")
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        help="the run's folder, a path or a URL such as s3://bucket/runs/x; runs/NAME unless given",
        metavar="DIR",
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", help="only the first N rows of the source", metavar="N", min=1)
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="change one key of the recipe: --set judge.threshold=0.3", metavar="KEY=VALUE"
    ),
]


class Retry(StrEnum):
    """What `--retry` may be given."""

    failed = "failed"


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="a folder of images, tars or parquet files")],
    out: Annotated[Path, typer.Option("--out", help="the recipe to write", metavar="FILE")] = Path(
        "recipe.yaml"
    ),
) -> None:
    """Look into a folder and write a commented recipe for it."""
    from .init import write_recipe

    write_recipe(folder, out)
    say(f"wrote {out}; next: ctrlsynth plan {out}, then ctrlsynth run {out}")


@app.command()
def plan(
    recipe: RecipeFile, out: Out = None, limit: Limit = None, set_: Set = None, as_json: Json = False
) -> None:
    """Check a recipe and show what a run would do: stages, parts, rows, models, cost, and what is done
    already. Runs no model."""
    from ..recipe.file import load_recipe
    from ..runs.estimate import estimate
    from ..storage.location import output_location
    from .show import show_plan

    loaded = load_recipe(recipe, set_)
    rows = estimate(loaded, recipe.parent, output_location(out or Path("runs") / loaded.name), limit)
    if as_json:
        print_json(rows)
    else:
        show_plan(rows)
    if rows["problems"]:
        raise SystemExit(2)


@app.command()
def run(
    recipe: RecipeFile,
    out: Out = None,
    limit: Limit = None,
    set_: Set = None,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="go on although the recipe has changed; rows whose key is unchanged are taken over",
        ),
    ] = False,
    retry: Annotated[
        Retry | None, typer.Option("--retry", help="failed: ask again for the rows that failed")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="compare the source by content, not by size and date, and hash whole model files"
        ),
    ] = False,
    engine: Annotated[
        Engine, typer.Option("--engine", help="local: this machine; ray: a Ray cluster")
    ] = Engine.local,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="of the Ray cluster; else RAY_ADDRESS, one that runs here, or a Ray of this machine alone",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a recipe. Interrupted, killed or extended, the same command goes on where it stopped."""
    from ..api.run import run as run_recipe
    from ..recipe.file import load_recipe
    from .show import progress

    loaded = load_recipe(recipe, set_)
    try:
        with progress(quiet=as_json) as watcher:
            made = run_recipe(
                loaded, out, base=recipe.parent, text=recipe.read_text(encoding="utf-8"), limit=limit,
                update=update,
                retry=retry is not None, verify=verify, watcher=watcher, engine=engine.value, address=address,
            )  # fmt: skip
    except KeyboardInterrupt:  # typer would leave without a word
        _fail("interrupted; what is finished is kept, the same command goes on", 130)
    _show_run(made, as_json)


@app.command()
def status(run_dir: RunDir, as_json: Json = False) -> None:
    """Show the ledger of a run: what every stage got, kept, dropped and failed, with reasons; it adds up."""
    from ..api.run import Run

    _show_run(Run.open(run_dir), as_json)


@app.command()
def explain(
    run_dir: RunDir,
    row_id: Annotated[
        str | None,
        typer.Argument(
            help="any row's id, or a source key; the first kept sample unless given", metavar="ID"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell one sample's whole story: tags, edits, instruction, text, prompt, image, scores, verdict."""
    from ..api.run import Run
    from ..report.explain import as_dict, first_kept
    from .show import as_text

    made = Run.open(run_dir)
    chosen = row_id or first_kept(made)
    if as_json:
        print_json(as_dict(made, chosen))
    else:
        say(as_text(made, chosen))


@app.command()
def sweep(
    run_dir: RunDir,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="write the curves as a plot (.svg or .png)", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how many samples every threshold p_f would keep, and their mean recall, from the stored scores.
    Runs no model."""
    from ..api.run import Run
    from ..report.figures import plot_sweep
    from ..report.sweep import as_table
    from ..report.sweep import sweep as sweep_run
    from .show import show_sweep

    found = sweep_run(Run.open(run_dir))
    if plot is not None:
        plot_sweep(found, plot)
    if as_json:
        print_json(found.plain())
        return
    show_sweep(*as_table(found), found.notes)
    if plot is not None:
        say(f"plot: {plot}")


@app.command()
def export(
    run_dir: RunDir,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="the data set's folder; RUN/dataset unless given", metavar="DIR"),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="webdataset, parquet, imagefolder or csv")
    ] = "webdataset",
    mix: Annotated[
        str | None, typer.Option("--mix", help="cap, img, capimg or mix; the recipe's unless given")
    ] = None,
    max_per_shard: Annotated[int, typer.Option("--max-per-shard", help="samples a shard", min=1)] = 10_000,
    as_json: Json = False,
) -> None:
    """Write the kept pairs as a data set with a data card: for open_clip (webdataset), Hugging Face (parquet,
    imagefolder), or csv."""
    from ..api.run import Run
    from .show import counting

    made = Run.open(run_dir)
    place = out or _below(made, "dataset")
    with counting("pairs", quiet=as_json) as tick:
        summary = made.export(place, format=format_, mix=mix, max_per_shard=max_per_shard, tick=tick)
    if as_json:
        print_json(
            {
                "dataset": str(place),
                "format": format_,
                "written": dict(summary.written),
                "lost": dict(summary.lost),
            }
        )
        return
    say(f"{summary}\n{place}")


@app.command()
def report(
    run_dir: RunDir,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="the gallery's folder; RUN/report unless given", metavar="DIR"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a static gallery that opens from disk: originals beside synthetic samples, found and missed tags,
    scores, verdicts, plots."""
    from ..api.run import Run
    from .show import counting

    made = Run.open(run_dir)
    place = out or _below(made, "report")
    with counting("samples", quiet=as_json) as tick:
        page = made.report(place, tick=tick)
    if as_json:
        print_json({"report": str(page)})
        return
    say(f"gallery: {page}")


@app.command()
def models(as_json: Json = False) -> None:
    """List the models, drawings and data that ctrlsynth can use: what is installed, where weights come from,
    under which licence."""
    from ..models.catalogue import entries
    from .show import show_models

    found = entries()
    if as_json:
        print_json([plain(e) for e in found])
    else:
        show_models(found)


def _show_run(made: Any, as_json: bool) -> None:
    from .show import show_ledger

    if as_json:
        told = {
            "run": str(made.root),
            "ledger": [_ledger_row(r) for r in made.ledger()],
            "products": made.products(),
        }
        print_json({**told, "balances": made.balances()})
    else:
        show_ledger(made)


def _below(made: Any, name: str) -> Path:
    """A folder inside the run's; a run behind a URL needs a local one to be named."""
    if not isinstance(made.root, Path):
        raise UserError(f"{made.root}: name a folder of this machine with --out")
    return Path(made.root / name)


def _ledger_row(row: Any) -> dict[str, Any]:
    return {**plain(row), "adds_up": row.adds_up}


cli_clip.add(app)
cli_eval.add(app)


def main() -> None:
    """Entry point: turns errors into one line and an exit code."""
    try:
        app(prog_name="ctrlsynth")
    except UserError as error:
        _fail(str(error), 2)
    except WorkFailed as error:
        _fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
    except OSError as error:
        told = disk_fault(error, _outputs(sys.argv))
        if told is None:
            raise
        _fail(told, 1)


def _outputs(words: Sequence[str]) -> str:
    """Where a command line says that something is to be written."""
    return (
        ", ".join(after for word, after in pairwise(words) if word in ("--out", "--plot", "--lists"))
        or "output"
    )


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"ctrlsynth: {_printable(message)}\n")
    raise SystemExit(code)


def _printable(text: str) -> str:
    """Data may stand in a message: control characters must not reach the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
