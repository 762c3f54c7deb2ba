"""ctrlsynth: makes image-text data under the user's control, and shows whether it helps.
`ctrlsynth.run(recipe) -> Run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runs.drive import Run, run

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "run"]


def __getattr__(name: str) -> Any:
    """`run` and `Run` on first use: importing the package loads nothing heavy."""
    if name in ("Run", "run"):
        from .runs import drive as runs

        return getattr(runs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
