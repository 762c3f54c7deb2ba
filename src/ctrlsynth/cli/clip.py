"""Commands about CLIP: train, eval, compare."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from ..errors import UserError
from .options import Json, Seed, Set
from .output import answer
from .progress import eval_bars, train_bars
from .show import show_comparison, show_results


def train(
    recipe: Annotated[Path, Argument(help="a recipe (YAML) with a `train` block", metavar="RECIPE")],
    *,
    out: Annotated[Path, Option(help="folder of the training run", metavar="DIR")],
    set_: Set = None,
    resume: Annotated[
        bool, Option("--resume/--no-resume", help="continue the run that DIR holds, or refuse such a DIR")
    ] = True,
    as_json: Json = False,
) -> None:
    """Train CLIP as the recipe's `train` block says.

    If it was killed or interrupted, the same command continues from the newest checkpoint.

    Several processes: torchrun --no-python --nproc-per-node 8 ctrlsynth train RECIPE --out DIR
    """
    from ..models.open_clip.load import import_open_clip
    from ..recipe.file import load_train

    _, block = load_train(recipe, set_)
    import_open_clip("train")
    from ..clip.train import first_process
    from ..clip.train import train as train_clip

    speaks = first_process()
    with train_bars(quiet=as_json or not speaks) as watch:
        made = train_clip(block, out, base=recipe.parent, watch=watch, resume=resume)
    if not speaks:
        return
    facts = {
        "model": str(made.model), "steps": made.steps, "samples": made.samples, "loss": made.loss,
        "skipped": made.skipped, **made.data,
    }  # fmt: skip
    left_out = "".join(f", {n:,} {reason}" for reason, n in made.data["left_out"].items())
    shown = (
        f"{made.model}: {made.steps:,} steps, {made.samples:,} samples of {sum(made.data['rows']):,} pairs"
        f"{left_out}; loss {made.loss:.4f}, {made.skipped:,} skipped"
    )
    answer(as_json, facts, shown)


def evaluate(
    checkpoint: Annotated[
        str,
        Argument(
            help="a folder made by `ctrlsynth train`, an open_clip or Hugging Face CLIP folder, or "
            "NAME=FILE (an open_clip model and its weights)",
            metavar="CHECKPOINT",
        ),
    ],
    *,
    data: Annotated[Path, Option(help="folder with the data sets, one folder each", metavar="DIR")],
    out: Annotated[Path, Option(help="folder for the results, one file per task", metavar="DIR")],
    tasks: Annotated[
        str | None, Option(help="tasks, separated by commas (default: all with data)", metavar="A,B")
    ] = None,
    recipe: Annotated[
        Path | None, Option(help="take the tasks from this recipe's `evaluate` list", metavar="RECIPE")
    ] = None,
    templates: Annotated[
        str | None,
        Option(help="folder (the data set's own), simple, openai-imagenet-80 or openai-imagenet-7"),
    ] = None,
    extra: Annotated[
        Path | None, Option(help="long tail: synthetic images, a split file or imagefolder", metavar="PATH")
    ] = None,
    head: Annotated[
        Literal["cosine", "plain"], Option(help="long tail: start from text features (cosine) or not")
    ] = "cosine",
    loss: Annotated[
        Literal["cross-entropy", "logit-adjusted"], Option(help="long tail: loss of the head")
    ] = "cross-entropy",
    seed: Seed = 0,
    device: Annotated[str, Option(help="cpu, cuda, or auto")] = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate a CLIP checkpoint as the papers do.

    Tasks: zero-shot, retrieval, SugarCrepe, linear probe, few-shot, long tail. Downloads nothing. If it was
    interrupted, the same command continues with the tasks that have no result yet.
    """
    names = _tasks(tasks, recipe)
    from ..evaluate.kinds.base import Settings
    from ..evaluate.run import averages, evaluate_all
    from ..models.open_clip.load import load_model

    model = load_model(checkpoint, device=device)
    settings = Settings(templates, extra, head, loss, seed)
    with eval_bars(quiet=as_json) as watch:
        results = evaluate_all(model, data, out, names, settings, watch)
    means = averages(results)
    facts = {"model": model.id, "digest": model.digest, "results": results, "averages": means}
    more = f"results: {out}; compare runs with `ctrlsynth compare {out} OTHER --papers`"
    answer(as_json, facts, lambda: show_results(results, means), more)


def _tasks(tasks: str | None, recipe: Path | None) -> list[str] | None:
    """Returns the names in --tasks or in a recipe's `evaluate`; None means every task with data."""
    if recipe is None:
        return tasks.split(",") if tasks else None
    from ..recipe.file import read_data

    if tasks:
        raise UserError("--tasks and --recipe: both name the tasks, give one of them")
    names = read_data(recipe).get("evaluate")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{recipe}: evaluate: expected a list of tasks, such as evaluate: [imagenet, coco]; found "
            f"{names!r}"
        )
    return names


def compare(
    runs: Annotated[
        list[Path],
        Argument(help="folders of results; DIR/seed0, DIR/seed1, ... count as one run", metavar="DIR..."),
    ],
    *,
    baseline: Annotated[
        str | None,
        Option(help="also show Delta_MTL against this run or row of a paper", metavar="NAME"),
    ] = None,
    papers: Annotated[bool, Option("--papers", help="also show the papers' rows for these tasks")] = False,
    plot: Annotated[
        Path | None,
        Option(help="draw score over samples seen; DIR/step-... are points of one line", metavar="FILE"),
    ] = None,
    relative: Annotated[
        bool, Option("--relative", help="plot: percent of improvement over a line's first point")
    ] = False,
    tasks: Annotated[
        str | None, Option(help="plot: only these tasks, separated by commas", metavar="A,B")
    ] = None,
    markdown: Annotated[bool, Option("--markdown", help="print a Markdown table")] = False,
    as_json: Json = False,
) -> None:
    """Compare runs with each other and with the papers' tables.

    A column is one task, metric and protocol; scores have 95% intervals.
    """
    if plot is not None:
        _plot(runs, plot, relative, tasks.split(",") if tasks else None, as_json)
        return
    from ..evaluate import compare as beside

    found = beside.compare(beside.load_runs(runs), baseline, papers)
    answer(as_json, found.plain(), found.markdown() if markdown else lambda: show_comparison(found))


def _plot(runs: list[Path], file: Path, relative: bool, tasks: list[str] | None, as_json: bool) -> None:
    from ..report.eval_plots import curves, figure
    from ..report.figures import write_figure

    found = curves(runs, tasks, relative)
    write_figure(figure(found, relative), file)
    points = {t: ", ".join(f"{n} ({len(p)})" for n, p in lines.items()) for t, lines in found.items()}
    shown = (f"{file}: {title}: lines (points): {listed}" for title, listed in points.items())
    answer(as_json, {"plot": str(file), "curves": found}, *shown)
