"""`ctrlsynth eval` and `ctrlsynth compare`: what the data was worth. Registered by `cli`; imports what it
needs when it runs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .options import Json
from .output import print_json, say


class Head(StrEnum):
    """What `--head` may be given."""

    cosine = "cosine"
    plain = "plain"


class Loss(StrEnum):
    """What `--loss` may be given."""

    cross_entropy = "cross-entropy"
    logit_adjusted = "logit-adjusted"


def add(app: typer.Typer) -> None:
    """Puts both commands into the command line."""
    app.command("eval")(evaluate)
    app.command("compare")(compare)


def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="a folder made by `ctrlsynth train`, an open_clip or Hugging Face CLIP folder, or "
            "NAME=FILE (an open_clip model)",
            metavar="CHECKPOINT",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option("--data", help="the folder that holds the data sets, one folder each", metavar="DIR"),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="where the result files go, one a task; made if missing", metavar="DIR"),
    ],
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            help="some tasks by name, with commas; all whose data is there unless given",
            metavar="A,B",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", help="take the tasks of this recipe's `evaluate` list", metavar="RECIPE"),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            "--templates",
            help="folder (the data set's own), simple, openai-imagenet-80 or openai-imagenet-7; each task's "
            "own unless given",
            show_default=False,
        ),
    ] = None,
    extra: Annotated[
        Path | None,
        typer.Option(
            "--extra",
            help="long tail: synthetic images, a split file or an imagefolder export",
            metavar="PATH",
        ),
    ] = None,
    head: Annotated[
        Head, typer.Option("--head", help="long tail: cosine (starts from text features) or plain")
    ] = Head.cosine,
    loss: Annotated[
        Loss, typer.Option("--loss", help="long tail: cross-entropy or logit-adjusted")
    ] = Loss.cross_entropy,
    seed: Annotated[int, typer.Option("--seed", help="of few-shot episodes and long-tail heads")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto")] = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate a CLIP checkpoint as the papers do: zero-shot, retrieval, SugarCrepe, linear probe, few-shot,
    long tail. Nothing is fetched.

    Interrupted, the same command goes on with the tasks that have no result yet.
    """
    names = _tasks(tasks, recipe)
    from ..evaluate.kinds.base import Settings
    from ..evaluate.run import averages, evaluate_all
    from ..models.open_clip.load import load_model
    from .show_eval import show_results, watching

    model = load_model(checkpoint, device=device)
    how = Settings(templates, extra, head.value, loss.value, seed)
    try:
        with watching(quiet=as_json) as watch:
            results = evaluate_all(model, data, out, names, how, watch)
    except KeyboardInterrupt:  # typer would leave without a word
        sys.stderr.write("ctrlsynth: interrupted; finished tasks are kept, the same command goes on\n")
        raise SystemExit(130) from None
    if as_json:
        print_json(
            {"model": model.id, "digest": model.digest, "results": results, "averages": averages(results)}
        )
        return
    show_results(results, averages(results))
    say(f"results: {out}; lay runs side by side with `ctrlsynth compare {out} OTHER --papers`")


def _tasks(tasks: str | None, recipe: Path | None) -> list[str] | None:
    """The names of --tasks, or of a recipe's `evaluate`; None: every task whose data is there."""
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
        typer.Argument(
            help="folders of results; seed0, seed1, ... of one folder are one run", metavar="DIR..."
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            help="also Delta_MTL against this run (its name or folder) or paper row",
            metavar="NAME",
        ),
    ] = None,
    papers: Annotated[
        bool, typer.Option("--papers", help="also the papers' rows for the tasks shown")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="draw score against samples seen (.svg or .png): folders step-... of a folder are one line",
            metavar="FILE",
        ),
    ] = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="plot: percent of improvement over a line's first point")
    ] = False,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="plot: some tasks by name, with commas", metavar="A,B")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="print a table for a page")] = False,
    as_json: Json = False,
) -> None:
    """Lay runs beside each other and beside the papers' tables: one column a task, metric and protocol, with
    95% intervals."""
    if plot is not None:
        _plot(runs, plot, relative, tasks.split(",") if tasks else None, as_json)
        return
    from ..evaluate.compare import compare as lay_out
    from ..evaluate.compare import load_runs
    from .show_eval import show_comparison

    found = lay_out(load_runs(runs), baseline, papers)
    if as_json:
        print_json(found.plain())
    elif markdown:
        say(found.markdown())
    else:
        show_comparison(found)


def _plot(runs: list[Path], file: Path, relative: bool, tasks: list[str] | None, as_json: bool) -> None:
    from ..report.eval_plots import curves, figure, plain
    from ..report.figures import write_figure

    found = curves(runs, tasks, relative)
    write_figure(figure(found, relative), file)
    if as_json:
        print_json({"plot": str(file), "curves": plain(found)})
        return
    for title, lines in found.items():
        points = ", ".join(f"{name} ({len(several)})" for name, several in lines.items())
        say(f"{file}: {title}: lines (points): {points}")
