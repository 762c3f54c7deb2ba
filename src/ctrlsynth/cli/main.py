"""The command line: the list of commands, and errors turned into one line and an exit code.

This folder alone knows typer and rich. Every command imports what it needs when it runs, so that `--help`
loads nothing heavy.

Exit codes: 0 done, 1 the work failed, 2 the user's mistake, 130 Ctrl-C (finished work is kept).
"""

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NoReturn

import typer

from ..errors import UserError, WorkFailed, disk_fault
from . import captions, clip, concepts, products, runs

COMMANDS: dict[str, Callable[..., Any]] = {
    "init": runs.init,
    "plan": runs.plan,
    "run": runs.run,
    "status": runs.status,
    "explain": products.explain,
    "sweep": products.sweep,
    "export": products.export,
    "report": products.report,
    "train": clip.train,
    "eval": clip.evaluate,
    "compare": clip.compare,
    "models": runs.models,
}
CONCEPTS: dict[str, Callable[..., Any]] = {
    "build": concepts.build,
    "caption": captions.caption,
    "flag": captions.flag,
    "match": concepts.match,
    "balance": concepts.balance,
    "coverage": concepts.coverage,
    "diversity": captions.diversity,
}


def _group(commands: dict[str, Callable[..., Any]], text: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=text)
    for name, command in commands.items():
        group.command(name)(command)
    return group


app = _group(
    COMMANDS,
    "Makes image-text data under your control: tags images, edits the tags by policy, writes texts, paints "
    "images, and judges the result. Trains and evaluates CLIP on it.\n\n"
    "Start with `ctrlsynth init FOLDER`, then `ctrlsynth run recipe.yaml` and `ctrlsynth report runs/NAME`.",
)
app.add_typer(
    _group(
        CONCEPTS,
        "Work with banks of concepts (SynthCLIP): build a bank, match captions with it, draw a balanced "
        "subset, show its coverage.\n\n"
        "concepts build --out bank.parquet; concepts match captions.txt --bank bank.parquet --out matches/;\n"
        "concepts balance matches/ --size 100000 --out subset.parquet; concepts coverage matches/ --vs "
        "subset.parquet",
    ),
    name="concepts",
)


def main() -> None:
    """Runs the command line; the entry point of `ctrlsynth`."""
    try:
        app(prog_name="ctrlsynth")
    except SystemExit as ending:  # typer turns Ctrl-C into this code without a message
        if ending.code == 130:
            _fail("interrupted; finished work is kept, run the same command again to continue", 130)
        raise
    except UserError as error:
        _fail(str(error), 2)
    except WorkFailed as error:
        _fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
    except OSError as error:
        message = disk_fault(error, _outputs(sys.argv))
        if message is None:
            raise
        _fail(message, 1)


def _outputs(words: Sequence[str]) -> str:
    """Returns the output paths named on a command line."""
    named = [after for word, after in pairwise(words) if word in ("--out", "--plot", "--lists")]
    return ", ".join(named) or "output"


def _fail(message: str, code: int) -> NoReturn:
    """Prints one line and exits. Data may occur in a message, so control characters are escaped."""
    printable = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    sys.stderr.write(f"ctrlsynth: {printable}\n")
    raise SystemExit(code)
