"""A user's own code, named in a recipe as `package.module:Name`: models, sources, edits and prompt
policies."""

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import UserError

T = TypeVar("T")
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


def call_code(function: Callable[..., Any], name: str, row_id: str, kind: type[T], *args: Any) -> T:
    """Calls a user's function for one row. UserError that begins with `name` if it fails, or returns anything
    but a `kind`."""
    try:
        made = function(*args)
    except Exception as error:
        raise UserError(f"{name} failed on row {row_id}: {type(error).__name__}: {error}") from error
    if not isinstance(made, kind):
        raise UserError(f"{name} returned {type(made).__name__} on row {row_id}, not {kind.__name__}")
    return made
