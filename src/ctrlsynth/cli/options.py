"""Options that several commands share, so that one name has one meaning and one help text."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="print JSON for programs instead of text")]
Seed = Annotated[int, typer.Option(help="seed of every random choice; the same seed gives the same result")]
RecipeFile = Annotated[
    Path, typer.Argument(help="a recipe in YAML; `ctrlsynth init FOLDER` writes one", metavar="RECIPE")
]

RunDir = Annotated[str, typer.Argument(help="folder or URL of a run, such as runs/quickstart", metavar="RUN")]
Out = Annotated[
    str | None,
    typer.Option(
        help="folder of the run: a path or a URL such as s3://bucket/runs/x (default: runs/NAME)",
        metavar="DIR",
    ),
]
Limit = Annotated[
    int | None, typer.Option(help="use only the first N rows of the source", metavar="N", min=1)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="override a recipe key: --set judge.threshold=0.3", metavar="KEY=VALUE"),
]
Plot = Annotated[Path | None, typer.Option(help="also write a plot (.svg or .png)", metavar="FILE")]


Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="local: this machine; ray: a Ray cluster whose nodes share the files"),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="address of the Ray cluster (default: RAY_ADDRESS, else a cluster running on this machine, "
        "else a new one)",
    ),
]

BankFile = Annotated[Path, typer.Argument(help="a bank: .parquet, .txt, .csv or .json", metavar="BANK")]
Bank = Annotated[
    Path,
    typer.Option(help="a bank: .parquet, .txt, .csv, or .json like MetaCLIP's metadata.json", metavar="BANK"),
]


def open_run(run_dir: str) -> Any:
    """Opens the `Run` that a command line names."""
    from ..api.run import Run

    return Run.open(run_dir)
