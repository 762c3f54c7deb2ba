"""Options that several of the `cli*.py` share, so that one name means and says the same everywhere."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="print JSON for machines instead of text")]


class Engine(StrEnum):
    """Where parts are made: what `--engine` may be given."""

    local = "local"
    ray = "ray"
