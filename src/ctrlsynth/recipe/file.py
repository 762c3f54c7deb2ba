"""Reads a recipe's YAML file: refuses repeated keys, resolves `extends`, applies `--set`, and reports the
first mistake in one line.

`extends: other.yaml` starts from another recipe, whose path is relative to this file. The two are merged
block by block: `judge: {gate: true}` changes one key of the judge. Everything that is not a block (a model, a
list, `paths`, `styles`, `weights`) is replaced as a whole, and `null` removes an optional key. Relative paths
of data start from the recipe that is run, whichever file names them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import UserError, first_line, unknown
from .block import block_of
from .presets import PRESETS
from .schema import Recipe
from .train import TrainBlock

B = TypeVar("B", bound=BaseModel)
_UNKNOWN_KEY = "extra_forbidden"  # as pydantic calls it


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys: the second would silently win."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        plain = isinstance(key, (str, int, float, bool))
        if not plain or key in seen:
            fault = f"key {key!r} is given twice" if plain else f"a key must be a plain word, not {key!r}"
            raise yaml.constructor.ConstructorError(None, None, fault, key_node.start_mark)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(text: str, where: str) -> Any:
    """Parses a YAML text. UserError with file, line and column for a syntax error or a repeated key."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        spot = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise UserError(f"{spot}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML: {first_line(error)}") from error


def read_text(path: Path, what: str) -> str:
    """Reads a UTF-8 file; `what` names its content in the UserError for one that cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe file and what it extends, applies `key.path=value` overrides (values are YAML). Errors
    name file, key and the nearest right one, also in the `train` block, which another command reads."""
    recipe = parse_recipe(_overridden(path, overrides), str(path))
    if recipe.train is not None:
        check_keys(recipe.train, str(path))
    return recipe


def read_data(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Reads a recipe file as plain data, for commands that need one block of it. Checks all of it if it has a
    source, else only its keys."""
    data = _overridden(path, overrides)
    if "source" in data:
        parse_recipe(data, str(path))
    for key in data:
        if key not in Recipe.model_fields:
            raise unknown("key", str(key), Recipe.model_fields, str(path))
    return data


def _overridden(path: Path, overrides: list[str] | None) -> dict[str, Any]:
    data = _read(path, ())
    for text in overrides or []:
        key, sep, value = text.partition("=")
        if not sep:
            raise UserError(f"--set {text!r}: write key.path=value")
        at, steps = data, key.strip().split(".")
        for depth, step in enumerate(steps[:-1], 1):
            at = at.setdefault(step, {})
            if not isinstance(at, dict):
                raise UserError(f"--set {text!r}: {'.'.join(steps[:depth])} is not a mapping")
        at[steps[-1]] = read_yaml(value, f"--set {key}")
    return data


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A file's mapping with `extends` resolved."""
    data = read_yaml(read_text(path, "recipe"), str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys, this is {type(data).__name__}")
    other = data.pop("extends", None)
    if other is None:
        return data
    if not isinstance(other, str):
        raise UserError(f"{path}: extends: the name of one recipe file, not {other!r}")
    if path.resolve() in seen:
        raise UserError(f"{path}: extends itself, by way of {', '.join(p.name for p in seen)}")
    return merge(_read(path.parent / other, (*seen, path.resolve())), data, Recipe)


def merge(below: Mapping[str, Any], above: Mapping[str, Any], block: type[BaseModel]) -> dict[str, Any]:
    """`above` laid over `below`: blocks key by key, everything else whole."""
    out = {**below, **above}
    for key, field in block.model_fields.items():
        alone = get_origin(field.annotation) in (None, UnionType)  # or optional; no list or mapping of blocks
        inner, old, new = block_of(field.annotation), below.get(key), above.get(key)
        if alone and inner is not None and isinstance(old, Mapping) and isinstance(new, Mapping):
            out[key] = merge(old, new, inner)
    return out


def parse_recipe(data: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Validates a mapping; the first error becomes one line."""
    return validated(Recipe, data, where)


def validated(block: type[B], data: Mapping[str, Any], where: str, *head: str) -> B:
    """Validates a recipe, or the block under the key `head`; the first error becomes one line."""
    try:
        return block.model_validate(data)
    except ValidationError as error:
        raise _first_error(error, where, block, *head) from error


def _first_error(error: ValidationError, where: str, block: type[BaseModel], *head: str) -> UserError:
    errors = error.errors(include_url=False)
    # a misspelt key says more than the missing one
    first = next((e for e in errors if e["type"] == _UNKNOWN_KEY), errors[0])
    spot = ".".join([*head, *map(str, first["loc"])])
    if first["type"] == _UNKNOWN_KEY:
        return unknown("key", spot, _keys_beside(first["loc"], block, head), where)
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("value_error", "missing") else f" (given: {first['input']!r})"
    return UserError(f"{where}: {spot + ': ' if spot else ''}{message}{given}")


def _keys_beside(loc: tuple[int | str, ...], model: type[BaseModel], head: Sequence[str]) -> list[str]:
    """The keys at the level of `loc`, as dotted paths, for the nearest-name hint."""
    for step in loc[:-1]:
        field = model.model_fields.get(str(step))
        model = (block_of(field.annotation) if field is not None else None) or model
    return [".".join([*head, *map(str, loc[:-1]), name]) for name in model.model_fields]


def resolve(block: Mapping[str, Any], where: str = "recipe", seed: int | None = None) -> TrainBlock:
    """Lays the block over its preset and checks it; an unknown key or preset is an error of one line with the
    nearest right name. A length given in the block replaces the preset's and scales its warm-up. `seed` is
    the recipe's, for a block without one."""
    below = _preset(block, where)
    lengths = ("epochs", "steps", "equal_samples")
    if any(block.get(k) is not None for k in lengths):
        if below.get("steps") and below.get("warmup"):
            below["warmup"] = below["warmup"] / below["steps"]
        below = {k: v for k, v in below.items() if k not in lengths}
    if "data" not in block:
        raise UserError(
            f"{where}: train.data: no data; name a folder that `ctrlsynth export` wrote: data: [exports/mix]"
        )
    return validated(TrainBlock, {"seed": seed or 0, **below, **block}, where, "train")


def check_keys(block: Mapping[str, Any], where: str) -> None:
    """Checks only the keys and the preset of a `train` block, for commands before `train`: data and other
    values may still come with its `--set`."""
    _preset(block, where)
    try:
        TrainBlock.model_validate(block)
    except ValidationError as error:
        if any(e["type"] == _UNKNOWN_KEY for e in error.errors(include_url=False)):
            raise _first_error(error, where, TrainBlock, "train") from error


def _preset(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys of the block's preset; UserError for an unknown one."""
    name = block.get("preset")
    if name is None:
        return {}
    if name not in PRESETS:
        raise unknown("preset", str(name), PRESETS, f"{where}: train.preset")
    return dict(PRESETS[name])


def load_train(path: Path, overrides: list[str] | None = None) -> tuple[str, TrainBlock]:
    """(name, `train` block) of a recipe file; one that only trains needs no source. Raises UserError in one
    line."""
    data = read_data(path, overrides)
    if not isinstance(data.get("train"), Mapping):
        raise UserError(
            f"{path}: no train block; write for example train: "
            f"{{preset: ctrlsynth-cc3m, data: [exports/mix]}}"
        )
    seed = data.get("seed")
    return str(data.get("name") or path.stem), resolve(
        data["train"], str(path), seed if isinstance(seed, int) else None
    )
