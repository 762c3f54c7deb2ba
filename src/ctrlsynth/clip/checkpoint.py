"""Checkpoints: one folder per saved step, written atomically, with the model as open_clip reads it, the state
of the optimiser and the progress of the run.

OUT/checkpoints/step-00001000/  open_clip_model.safetensors  open_clip_config.json  optimizer.safetensors
                                train.json
OUT/model/                      the final model and train.json
"""

import math
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..models.open_clip.load import STATE, WEIGHTS, save_folder
from ..storage.files import flush, making, read_json, remove_leftovers, write_json

OPTIMIZER = "optimizer.safetensors"


@dataclass
class State:
    """What a checkpoint holds: model, optimiser and scaler, steps done, the last loss and the pairs
    skipped."""

    module: Any
    config: dict[str, Any]
    optimizer: Any
    scaler: Any
    step: int = 0
    loss: float = math.nan
    skipped: int = 0


def save(out: Path, state: State, facts: dict[str, Any], keep: int) -> None:
    """Writes a checkpoint and deletes this run's older ones, all but the newest `keep`. `facts` go into its
    train.json as well."""
    target = out / "checkpoints" / f"step-{state.step:08d}"
    tensors = {
        f"{n}.{k}": v.detach().contiguous().cpu()
        for n, values in state.optimizer.state_dict()["state"].items()
        for k, v in values.items()
    }
    write(target, state, facts, tensors)
    remove_leftovers(target.parent)
    for old in _finished(out)[:-keep]:
        shutil.rmtree(old)


def write(
    target: Path, state: State, facts: dict[str, Any], tensors: Mapping[str, Any] | None = None
) -> None:
    """Writes a folder atomically, unless it exists; `tensors` are the optimiser's. Raises OSError for a full
    disk, for which safetensors has an error of its own."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if target.exists():
        return
    try:
        with making(target) as made:
            made.mkdir()
            save_folder(made, state.module, state.config)
            if tensors is not None:
                save_file(tensors, made / OPTIMIZER)
            numbers = {"step": state.step, "loss": state.loss, "skipped": state.skipped}
            write_json(made / STATE, {**numbers, "scaler": state.scaler.state_dict(), **facts})
            for path in made.iterdir():
                flush(path)
            os.replace(made, target)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(target)) from error


def _finished(out: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    return sorted(p for p in (out / "checkpoints").glob("step-*") if (p / STATE).is_file())


def newest(out: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return next(reversed(_finished(out)), None)


def load(folder: Path, state: State, device: Any) -> None:
    """Restores the state from a checkpoint. UserError for one of another model or of a newer ctrlsynth."""
    from safetensors.torch import load_file

    facts = read_json(folder / STATE) or {}
    try:
        state.module.load_state_dict(load_file(folder / WEIGHTS, device=str(device)))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{folder}: not a checkpoint of this model: {first_line(error)}") from error
    moments: dict[int, dict[str, Any]] = defaultdict(dict)
    for name, value in load_file(folder / OPTIMIZER, device=str(device)).items():
        number, _, key = name.partition(".")
        moments[int(number)][key] = value
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    if facts["scaler"]:
        state.scaler.load_state_dict(facts["scaler"])
    state.step, state.loss, state.skipped = int(facts["step"]), float(facts["loss"]), int(facts["skipped"])
