"""A user's own code, named in a recipe as `package.module:Name`: models, sources, edits and prompt
policies."""

import hashlib
import importlib
import inspect
import re
from collections.abc import Sequence
from typing import Any

from ..errors import UserError

_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_code(name: object) -> bool:
    """Whether a name has the form `package.module:Name`."""
    return _PATH.fullmatch(str(name)) is not None


def load_code(path: str, where: str, methods: Sequence[str] = ()) -> Any:
    """Imports `package.module:Name` and returns the function or, with `methods`, the class that has them.

    UserError naming `where` if the module or the name is missing or of another kind."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{where}: {path}: {error}; is it installed, and is its folder on PYTHONPATH?"
        ) from error
    except AttributeError as error:
        raise UserError(f"{where}: module {module!r} has no {name!r}") from error
    if methods and not (inspect.isclass(found) and all(callable(getattr(found, m, None)) for m in methods)):
        raise UserError(f"{where}: {path} is not a class with the method {', '.join(methods)}")
    if not callable(found):
        raise UserError(f"{where}: {path} is neither a function nor a class")
    return found


def source_digest(found: Any) -> str:
    """Digest of the file that defines a function or class, as 32 hex digits; of its name where there is no
    source (built in, or compiled)."""
    try:
        with open(inspect.getfile(found), "rb") as file:
            data = file.read()
    except (TypeError, OSError):
        data = f"{found.__module__}:{found.__qualname__}".encode()
    return hashlib.blake2b(data, digest_size=16).hexdigest()
