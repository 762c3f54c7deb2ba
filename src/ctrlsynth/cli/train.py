"""`ctrlsynth train`: the command line of CLIP training. Registered by `cli`; imports what it needs when it
runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .output import print_json, say

Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="change one key of the recipe: --set train.batch=512", metavar="KEY=VALUE"),
]


def add(app: typer.Typer) -> None:
    """Puts the command into the command line."""
    app.command("train")(train)


def train(
    recipe: Annotated[Path, typer.Argument(help="a recipe (YAML) with a train block", metavar="RECIPE")],
    out: Annotated[Path, typer.Option("--out", help="the run's folder", metavar="DIR")],
    set_: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="go on with the run that DIR holds, or refuse it")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for machines instead of text")] = False,
) -> None:
    """Train CLIP as the recipe's `train` block says. Killed or interrupted, the same command goes on at its
    newest checkpoint.

    Several processes: torchrun --no-python --nproc-per-node 8 ctrlsynth train RECIPE --out DIR
    """
    from ..clip.progress import live
    from ..models.open_clip.load import import_open_clip
    from ..recipe.file import load_train

    _, block = load_train(recipe, set_)
    import_open_clip("train")
    from ..clip.train import first_process
    from ..clip.train import train as train_clip

    speaks = first_process()
    try:
        with live(quiet=as_json or not speaks) as watcher:
            made = train_clip(block, out, base=recipe.parent, watcher=watcher, resume=resume)
    except KeyboardInterrupt:  # typer would leave without a word
        sys.stderr.write("ctrlsynth: interrupted; the newest checkpoint is kept, the same command goes on\n")
        raise SystemExit(130) from None
    if not speaks:
        return
    facts = {
        "model": str(made.model),
        "steps": made.steps,
        "samples": made.samples,
        "loss": made.loss,
        "skipped": made.skipped,
        **made.data,
    }
    if as_json:
        print_json(facts)
        return
    pairs = f"{sum(made.data['rows']):,} pairs"
    gone = "".join(f", {n:,} {reason}" for reason, n in made.data["left_out"].items())
    say(
        f"{made.model}: {made.steps:,} steps, {made.samples:,} samples of {pairs}{gone}; loss "
        f"{made.loss:.4f}, {made.skipped:,} skipped"
    )
