"""The training loop: reads, steps, logs, saves, goes on where it stopped. One process, or several under
torchrun with the same result.

ctrlsynth train recipe.yaml --out runs/clip
torchrun --no-python --nproc-per-node 8 ctrlsynth train recipe.yaml --out runs/clip
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import UserError, WorkFailed
from ..models.device import set_threads
from ..models.open_clip.attention import use_views
from ..models.open_clip.encode import LoadedClip, Normalise
from ..models.open_clip.load import STATE, build, load_folder, pick_device
from ..recipe.train import TrainBlock
from ..sample import hash_int
from ..storage.files import replacing
from . import checkpoint
from .data.loader import Batches, left_out, loader, open_sources, order_of, schedule_of
from .data.order import Schedule
from .data.rows import Shards
from .decontaminate import clean
from .loss import Forward, step_gradients
from .optim import learning_rate, make_optimizer, total_steps, warmup_steps
from .precision import pick_precision
from .progress import Log, Silent, Watcher

FREE = {"workers", "device", "save_every", "keep", "log_every", "grad_checkpointing", "accumulate"}
"""Keys that a run may change when it goes on: they change no batch and, up to rounding, no weight."""
BEFORE = ("index", "decontamination.jsonl", ".tmp-")
"""What a run leaves that was stopped before its OUT/train.json."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run left: the model's folder, steps and pairs seen, last loss, samples skipped, and the counts
    of the data."""

    model: Path
    steps: int
    samples: int
    loss: float
    skipped: int
    data: dict[str, Any]


def train(
    block: TrainBlock, out: Path, *, base: Path, watcher: Watcher | None = None, resume: bool = True
) -> Trained:
    """Trains as `block` says into `out`; relative paths start at `base`. The same call goes on from the
    newest checkpoint.

    Raises UserError for what the user can mend (also a folder of another run), WorkFailed when the loss is no
    number."""
    with _processes() as (rank, world, device_name):
        device = pick_device(device_name or block.device, "train")
        set_threads()
        shards, facts = _data(block, out, base, rank, resume)
        schedule = schedule_of(order_of(shards, block), block, world)
        run = _Run(block, out, schedule, shards, device, rank, world, watcher or Silent(), facts)
        return run.go(base)


def first_process() -> bool:
    """Whether this process speaks: the only one, or torchrun's first."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def _processes() -> Iterator[tuple[int, int, str | None]]:
    """(rank, processes, device of this process) from torchrun's environment; nothing is set up for one
    process, and a process group that is there already is used."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1, None
        return
    gpu = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if gpu:
        torch.cuda.set_device(local)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield dist.get_rank(), world, f"cuda:{local}" if gpu else "cpu"
    finally:
        if ours:
            dist.destroy_process_group()


def _data(
    block: TrainBlock, out: Path, base: Path, rank: int, resume: bool
) -> tuple[list[Shards], dict[str, Any]]:
    """The shards, and what OUT/train.json is to say; compared with what it says when the run goes on. The
    first process looks; the others read its indexes."""
    if rank:
        dist.barrier()
    else:
        _check_folder(block, out, resume)
    shards = open_sources(block.data, base, out / "index")
    facts: dict[str, Any] = {"schema": checkpoint.SCHEMA, "block": block.model_dump(mode="json")}
    if block.decontaminate is not None:
        shards, facts["decontaminated"] = clean(shards, block.decontaminate, base, out)
    facts |= {"rows": [s.rows for s in shards], "left_out": dict(left_out(shards))}
    if rank == 0:
        path = out / STATE
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else facts
        if before["rows"] != facts["rows"]:
            raise UserError(
                f"{out}: was trained on {before['rows']} rows, the data now has {facts['rows']}; name "
                f"another --out"
            )
        if dist.is_initialized():
            dist.barrier()
    return shards, facts


def _write_state(out: Path, facts: Mapping[str, Any]) -> None:
    """OUT/train.json, which other settings are refused by: written when nothing but the first step is left to
    fail."""
    with replacing(out / STATE) as made:
        made.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _check_folder(block: TrainBlock, out: Path, resume: bool) -> None:
    path = out / STATE
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(not p.name.startswith(BEFORE) for p in out.iterdir())):
            raise UserError(f"{out}: exists and is no training run; name another folder with --out")
        return
    if not resume:
        raise UserError(
            f"{out}: holds a run already; name another folder with --out, or leave --no-resume out to go on "
            f"with it"
        )
    before = json.loads(path.read_text(encoding="utf-8"))["block"]
    for key, value in block.model_dump(mode="json").items():
        if key not in FREE and before.get(key) != value:
            was, now = _differing(repr(before.get(key)), repr(value))
            raise UserError(
                f"{out}: was started with train.{key} {was}, the recipe says {now}; name another --out"
            )


def _differing(one: str, other: str) -> list[str]:
    """Both texts, cut to a readable length around the first place where they differ."""
    alike = next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    start = max(0, alike - 20) if max(len(one), len(other)) > 80 else 0
    return [
        ("..." if start else "") + t[start : start + 80] + ("..." if len(t) > start + 80 else "")
        for t in (one, other)
    ]


@dataclass
class _Run:
    """One process's part of a run."""

    block: TrainBlock
    out: Path
    schedule: Schedule
    shards: list[Shards]
    device: Any
    rank: int
    world: int
    watcher: Watcher
    facts: dict[str, Any]
    skipped: int = 0
    steps: int = 0
    warmup: int = 0
    _last: float = math.nan
    _faults: list[Any] = field(default_factory=list)

    def go(self, base: Path) -> Trained:
        """Everything from the weights to the last checkpoint."""
        block = self.block
        self.steps = total_steps(block, self.schedule, base)
        self.warmup = warmup_steps(block, self.steps, self.schedule.steps_an_epoch)
        built = self._built(base)
        module = use_views(built.module).to(self.device).train()
        built.config["preprocess_cfg"] |= {"mean": list(block.mean), "std": list(block.std)}
        if block.grad_checkpointing:
            module.set_grad_checkpointing()
        optimizer = make_optimizer(module, block)
        precision = pick_precision(block.precision, self.device)
        scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        start = self._resume(module, optimizer, scaler)
        size = int(built.config["preprocess_cfg"]["size"])
        batches = Batches(
            self.shards, self.schedule, built.tokenizer, block, size, steps=self.steps, rank=self.rank
        )
        forward: Any = Forward(module, Normalise(block.mean, block.std, self.device), precision)
        if self.world > 1:
            forward = torch.nn.parallel.DistributedDataParallel(forward, gradient_as_bucket_view=True)
        if self.rank == 0:
            _write_state(self.out, self.facts)
        loss = self._loop(batches, start, forward, module, optimizer, scaler, built)
        facts = self._facts(self.steps, loss, scaler)
        if self.rank == 0:
            checkpoint.finish(self.out, module, built.config, facts)
        data = {k: v for k, v in self.facts.items() if k in ("rows", "left_out", "decontaminated")}
        return Trained(self.out / "model", self.steps, self.steps * block.batch, loss, self.skipped, data)

    def _built(self, base: Path) -> LoadedClip:
        block = self.block
        if block.init is not None:
            built = load_folder(base / Path(block.init).expanduser(), image_size=block.image_size)
            if block.loss == "sigmoid" and getattr(built.module, "logit_bias", None) is None:
                raise UserError(
                    "train.init: a model without a logit bias; expected one trained with the sigmoid loss, "
                    "or loss: softmax"
                )
            return built
        name = block.model or "ViT-B-16"
        where = str(base / name) if name.endswith(".json") else name
        return build(where, image_size=block.image_size, sigmoid=block.loss == "sigmoid", seed=block.seed)

    def _resume(self, module: Any, optimizer: Any, scaler: Any) -> int:
        newest = checkpoint.newest(self.out)
        if newest is None:
            return 0
        facts = checkpoint.load(newest, module, optimizer, self.device)
        if facts["scaler"]:
            scaler.load_state_dict(facts["scaler"])
        self.skipped = int(facts["skipped"])
        self._last = float(facts["loss"])
        return int(facts["step"])

    def _loop(
        self,
        batches: Batches,
        start: int,
        forward: Any,
        module: Any,
        optimizer: Any,
        scaler: Any,
        built: LoadedClip,
    ) -> float:
        block, log = self.block, Log(self.out, start) if self.rank == 0 else None
        stream = iter(
            loader(batches, start * block.accumulate, workers=block.workers, pin=self.device.type == "cuda")
        )
        self.watcher.start(start, self.steps)
        since, waited, at, sums = time.perf_counter(), 0.0, start, torch.zeros(2, device=self.device)
        for step in range(start, self.steps):
            asked = time.perf_counter()
            pieces = [next(stream) for _ in range(block.accumulate)]
            waited += time.perf_counter() - asked
            self._faults += [f for p in pieces for f in p.faults]
            loss, valid = self._step(step, pieces, forward, module, optimizer, scaler)
            sums += torch.stack([loss, valid.to(loss)])
            done = step + 1
            if done % block.log_every == 0 or done % block.save_every == 0 or done == self.steps:
                self._last = float(sums[0]) / (done - at)
                self.skipped += (done - at) * block.batch - int(sums[1])
                self._check(done, int(sums[1]))
                elapsed = time.perf_counter() - since
                line = self._line(
                    done, optimizer, module, (done - at) * block.batch / elapsed, waited / elapsed
                )
                if log is not None:
                    log.line(line)
                    self.watcher.line(line)
                since, waited, at, sums = time.perf_counter(), 0.0, done, torch.zeros_like(sums)
                if done % block.save_every == 0 or done == self.steps:
                    self._save(done, module, built, optimizer, scaler)
        if log is not None:
            log.close()
        return self._last

    def _step(
        self, step: int, pieces: list[Any], forward: Any, module: Any, optimizer: Any, scaler: Any
    ) -> tuple[Tensor, Tensor]:
        """One optimiser step; (loss, valid rows) of the whole batch, without waiting for the device."""
        block = self.block
        rate = learning_rate(block, step, self.steps, self.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss, valid = step_gradients(
            forward, [(p.images, p.ids, p.valid) for p in pieces], block.loss,
            micro=block.negatives == "micro",
            factor=scaler.scale(torch.ones((), device=self.device)), before=lambda piece: self._seed(step,
            piece),
        )  # fmt: skip
        if block.grad_clip is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(module.parameters(), block.grad_clip)
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            module.logit_scale.clamp_(0, math.log(block.max_logit_scale))
        return loss, valid

    def _seed(self, step: int, piece: int) -> None:
        """What is random inside a model (dropped patches) hangs on seed, step and place."""
        torch.manual_seed(hash_int(self.block.seed, f"{step}/{self.rank}/{piece}", "model") >> 1)

    def _check(self, step: int, valid: int) -> None:
        if valid == 0:
            first = f"; first: {self._faults[0][0]} {self._faults[0][1]}" if self._faults else ""
            raise WorkFailed(f"{self.out}: step {step}: no row of the last steps could be used{first}")
        if not math.isfinite(self._last):
            saved = checkpoint.newest(self.out)
            where = (
                f"the last good checkpoint is {saved}"
                if saved is not None
                else "no checkpoint was written before"
            )
            raise WorkFailed(
                f"{self.out}: the loss is {self._last} at step {step}; lower train.lr, or take precision "
                f"bf16; {where}"
            )

    def _line(self, step: int, optimizer: Any, module: Any, rate: float, wait: float) -> Mapping[str, Any]:
        faults, self._faults = self._faults, []
        return {
            "step": step, "epoch": round(step / self.schedule.steps_an_epoch, 4),
            "samples": step * self.block.batch, "loss": self._last,
            "lr": optimizer.param_groups[0]["lr"], "logit_scale": float(module.logit_scale.detach().exp()),
            "pairs_per_s": round(rate, 1),
            "data_wait": round(wait, 4), "skipped": self.skipped,
            **({"faults": faults[:20]} if faults else {}),
        }  # fmt: skip

    def _save(self, step: int, module: Any, built: LoadedClip, optimizer: Any, scaler: Any) -> None:
        if self.rank == 0:
            checkpoint.save(
                self.out,
                step,
                module,
                built.config,
                optimizer,
                self._facts(step, self._last, scaler),
                self.block.keep,
            )
        if self.world > 1:
            dist.barrier()

    def _facts(self, step: int, loss: float, scaler: Any) -> dict[str, Any]:
        return {
            "step": step, "samples": step * self.block.batch, "loss": loss, "skipped": self.skipped,
            "scaler": scaler.state_dict(),
            "rows": self.facts["rows"], "block": self.facts["block"],
        }  # fmt: skip
