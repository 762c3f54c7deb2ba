"""Checkpoints: a folder a step, with the model as open_clip reads it, the optimiser's state and where the run
stood. Whole or not at all.

OUT/checkpoints/step-00001000/  open_clip_model.safetensors  open_clip_config.json  optimizer.safetensors
                                train.json
OUT/model/                      the last one's model and train.json, when the run has ended
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..models.open_clip.load import CONFIG, STATE, WEIGHTS, save_folder
from ..storage.files import making, remove, remove_leftovers

SCHEMA = 1
OPTIMIZER = "optimizer.safetensors"


def checkpoint(out: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return out / "checkpoints" / f"step-{step:08d}"


def save(
    out: Path,
    step: int,
    module: Any,
    config: dict[str, Any],
    optimizer: Any,
    facts: dict[str, Any],
    keep: int,
) -> Path:
    """Writes a checkpoint and takes older ones of this run away, all but the newest `keep`."""
    from safetensors.torch import save_file

    target = checkpoint(out, step)
    if not target.exists():
        with _whole(target) as made:
            save_folder(made, module, config)
            state = optimizer.state_dict()["state"]
            tensors = {
                f"{n}.{k}": v.detach().contiguous().cpu()
                for n, values in state.items()
                for k, v in values.items()
            }
            save_file(tensors, made / OPTIMIZER)
            _write(made / STATE, {"schema": SCHEMA, "step": step, **facts})
    for old in _steps(out)[:-keep]:
        shutil.rmtree(old)
    return target


def finish(out: Path, module: Any, config: dict[str, Any], facts: dict[str, Any]) -> Path:
    """Writes OUT/model, once."""
    target = out / "model"
    if not target.exists():
        remove_leftovers(out)
        with _whole(target) as made:
            save_folder(made, module, config)
            _write(made / STATE, {"schema": SCHEMA, **facts})
    return target


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Gives a folder to write into, which becomes `target` when all is written. Raises OSError if the disk
    refuses, also where safetensors has an error of its own for that."""
    from safetensors import SafetensorError

    try:
        with making(target) as made:
            made.mkdir()
            yield made
            _settle(made, target)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(target)) from error


def _settle(made: Path, target: Path) -> None:
    for path in made.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    os.replace(made, target)


def _write(path: Path, facts: dict[str, Any]) -> None:
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _steps(out: Path) -> list[Path]:
    """Whole checkpoints, oldest first, and nothing that a killed run left half written."""
    folder = out / "checkpoints"
    for half in folder.glob(".tmp-step-*"):  # of any host: only this run writes here
        remove(half)
    return sorted(p for p in folder.glob("step-*") if (p / STATE).is_file())


def newest(out: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    found = sorted(p for p in (out / "checkpoints").glob("step-*") if (p / STATE).is_file())
    return found[-1] if found else None


def load(folder: Path, module: Any, optimizer: Any, device: Any) -> dict[str, Any]:
    """Puts a checkpoint back into module and optimiser; returns what its train.json says. UserError for
    another model's or a newer one."""
    from safetensors.torch import load_file

    facts: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if facts["schema"] > SCHEMA:
        raise UserError(
            f"{folder}: written by a newer ctrlsynth (schema {facts['schema']}, this one reads {SCHEMA})"
        )
    try:
        module.load_state_dict(load_file(folder / WEIGHTS, device=str(device)))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{folder}: not a checkpoint of this model: {first_line(error)}") from error
    state: dict[int, dict[str, Any]] = {}
    for name, value in load_file(folder / OPTIMIZER, device=str(device)).items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return facts


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of our checkpoints."""
    return (folder / CONFIG).is_file() and (folder / STATE).is_file()
