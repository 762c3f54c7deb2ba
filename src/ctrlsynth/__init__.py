"""ctrlsynth: makes image-text data under the user's control, and shows whether it helps.
`ctrlsynth.run(recipe) -> Run`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api.run import Run, load_recipe, run

__all__ = ["Run", "__version__", "load_recipe", "run"]


def __getattr__(name: str) -> Any:
    """Loads the API and the version on first use, so that importing the package loads nothing heavy."""
    if name == "__version__":
        from importlib.metadata import version

        return version("ctrlsynth")
    if name in __all__:
        from .api import run as api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
