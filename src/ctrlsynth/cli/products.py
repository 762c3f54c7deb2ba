"""Commands about what a finished run holds: explain, sweep, export, report."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ..errors import UserError
from .options import Json, Plot, RunDir, open_run
from .output import answer, say
from .progress import counting
from .show import as_text, show_sweep


def explain(
    run_dir: RunDir,
    row_id: Annotated[
        str | None,
        Argument(help="id of a row, or a source key (default: the first kept sample)", metavar="ID"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how one sample came about: tags, edits, instruction, text, prompt, image, scores, verdict."""
    from ..report.explain import as_dict, first_kept

    run = open_run(run_dir)
    chosen = row_id or first_kept(run)
    answer(as_json, as_dict(run, chosen), lambda: say(as_text(run, chosen)))


def sweep(run_dir: RunDir, plot: Plot = None, as_json: Json = False) -> None:
    """Show how many samples each threshold p_f would keep, and their mean recall.

    Uses the stored scores and runs no model.
    """
    from ..report.figures import sweep_figure, write_figure

    found = open_run(run_dir).sweep()
    if plot is not None:
        write_figure(sweep_figure(found), plot)
    drawn = [f"plot: {plot}"] if plot is not None else []
    answer(as_json, found.plain(), lambda: show_sweep(found), *drawn)


def export(
    run_dir: RunDir,
    *,
    out: Annotated[
        Path | None, Option(help="folder of the data set (default: RUN/dataset)", metavar="DIR")
    ] = None,
    format_: Annotated[
        str, Option("--format", help="webdataset (open_clip), parquet or imagefolder (Hugging Face), or csv")
    ] = "webdataset",
    mix: Annotated[
        str | None, Option(help="which pairs: cap, img, capimg or mix (default: the recipe's)")
    ] = None,
    max_per_shard: Annotated[int, Option(help="samples per shard", min=1)] = 10_000,
    as_json: Json = False,
) -> None:
    """Write the kept pairs of a run as a data set with a data card."""
    run = open_run(run_dir)
    folder = out or _below(run, "dataset")
    with counting("pairs", quiet=as_json) as tick:
        summary = run.export(folder, format=format_, mix=mix, max_per_shard=max_per_shard, tick=tick)
    counts = {"written": dict(summary.written), "lost": dict(summary.lost)}
    answer(as_json, {"dataset": str(folder), "format": format_, **counts}, f"{summary}\n{folder}")


def report(
    run_dir: RunDir,
    out: Annotated[
        Path | None, Option(help="folder of the gallery (default: RUN/report)", metavar="DIR")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a gallery of static pages that open from disk.

    It shows originals beside synthetic samples, found and missed tags, scores, verdicts and plots.
    """
    run = open_run(run_dir)
    folder = out or _below(run, "report")
    with counting("samples", quiet=as_json) as tick:
        page = run.report(folder, tick=tick)
    answer(as_json, {"report": str(page)}, f"gallery: {page}")


def _below(run: Any, name: str) -> Path:
    """Returns a folder inside the run's. UserError for a run at a URL, which needs a local --out."""
    if not isinstance(run.root, Path):
        raise UserError(f"{run.root}: name a folder of this machine with --out")
    return Path(run.root / name)
