"""The training loop: reads, steps, logs, saves, resumes. Runs in one process, or in several under torchrun
with the same result.

ctrlsynth train recipe.yaml --out runs/clip
torchrun --no-python --nproc-per-node 8 ctrlsynth train recipe.yaml --out runs/clip
"""

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import UserError, WorkFailed
from ..models.device import choose_device, pick_precision, set_threads
from ..models.open_clip.attention import use_views
from ..models.open_clip.encode import LoadedClip, Normalise
from ..models.open_clip.load import STATE, build, load_folder
from ..recipe.train import TrainBlock
from ..sample import hash_int
from ..storage.files import read_json, write_json
from . import checkpoint
from .data.loader import Batch, Batches, loader, open_sources, schedule_of
from .data.rows import Shards
from .decontaminate import clean
from .loss import Forward, step_gradients
from .optim import learning_rate, make_optimizer, total_steps, warmup_steps
from .progress import Log, Watch

FREE = {"workers", "device", "save_every", "keep", "log_every", "grad_checkpointing", "accumulate"}
"""Settings that may change on resume, because they affect neither the batches nor (beyond rounding) the
weights."""
BEFORE = ("index", "decontamination.jsonl", ".tmp-")
"""Names that a run leaves in OUT when it stops before it has written train.json."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run: the model's folder, steps, pairs seen, last loss, pairs skipped, and the counts of the
    data."""

    model: Path
    steps: int
    samples: int
    loss: float
    skipped: int
    data: dict[str, Any]


def train(
    block: TrainBlock, out: Path, *, base: Path, watch: Watch | None = None, resume: bool = True
) -> Trained:
    """Trains as `block` says into `out`; relative paths start at `base`. The same call resumes at the newest
    checkpoint.

    Raises UserError for wrong input (also a folder of another run), WorkFailed when the loss is not
    finite."""
    with _processes() as process:
        set_threads()
        return _Run(block, out, base, process, resume).go(watch or (lambda steps, line: None))


def first_process() -> bool:
    """Whether this is the only process, or torchrun's first: the one that reports."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def _processes() -> Iterator[tuple[int, int, str | None]]:
    """Reads torchrun's environment: gives this process's number, the number of processes, and the device that
    torchrun implies. Joins a process group unless there is one already or one process only."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1, None
        return
    gpu, local = torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", "0"))
    if gpu:
        torch.cuda.set_device(local)
    with ExitStack() as ours:
        if not dist.is_initialized():
            dist.init_process_group("nccl" if gpu else "gloo")
            ours.callback(dist.destroy_process_group)
        yield dist.get_rank(), world, f"cuda:{local}" if gpu else "cpu"


def _data(
    block: TrainBlock, out: Path, base: Path, rank: int, resume: bool
) -> tuple[list[Shards], dict[str, Any]]:
    """The shards, and the content of OUT/train.json. UserError if the run was started with other data. The
    first process makes the indexes; the others wait and read them."""
    if rank:
        dist.barrier()
    else:
        _check_folder(block, out, resume)
    shards = open_sources(block.data, base, out / "index")
    facts: dict[str, Any] = {"block": block.model_dump(mode="json")}
    if block.decontaminate is not None:
        shards, facts["decontaminated"] = clean(shards, block.decontaminate, base, out)
    facts["rows"] = [s.rows for s in shards]
    facts["left_out"] = dict(sum((s.left_out for s in shards), Counter[str]()))
    if rank == 0:
        before = read_json(out / STATE) or facts
        if before["rows"] != facts["rows"]:
            raise UserError(
                f"{out}: was trained on {before['rows']} rows, the data now has {facts['rows']}; name "
                f"another --out"
            )
        if dist.is_initialized():
            dist.barrier()
    return shards, facts


def _check_folder(block: TrainBlock, out: Path, resume: bool) -> None:
    before = read_json(out / STATE)
    if before is None:
        if out.exists() and (not out.is_dir() or any(not p.name.startswith(BEFORE) for p in out.iterdir())):
            raise UserError(f"{out}: exists and is not a training run; name another folder with --out")
        return
    if not resume:
        raise UserError(
            f"{out}: holds a run already; name another folder with --out, or leave --no-resume out to "
            f"resume it"
        )
    for key, value in block.model_dump(mode="json").items():
        old = before["block"].get(key)
        if key not in FREE and old != value:
            was, now = _differing(repr(old), repr(value))
            raise UserError(
                f"{out}: was started with train.{key} {was}, the recipe says {now}; name another --out"
            )


def _differing(one: str, other: str) -> list[str]:
    """Both texts, cut to a readable length around their first difference."""
    alike = max(0, len(os.path.commonprefix([one, other])) - 20)  # noqa: RUF071
    start = alike if max(len(one), len(other)) > 80 else 0
    return [
        ("..." if start else "") + t[start : start + 80] + ("..." if len(t) > start + 80 else "")
        for t in (one, other)
    ]


@dataclass
class _Window:
    """What happened since the last line of the log. `sums`: of the losses and of the valid rows."""

    start: int
    sums: Any = 0.0
    faults: list[tuple[str, str]] = field(default_factory=list)
    waited: float = 0.0
    began: float = field(default_factory=time.perf_counter)


class _Run:
    """One process's part of a run."""

    def __init__(
        self, block: TrainBlock, out: Path, base: Path, process: tuple[int, int, str | None], resume: bool
    ) -> None:
        self.block, self.out = block, out
        self.rank, self.world, device = process
        self.device = torch.device(choose_device(device or block.device, "train"))
        shards, self.facts = _data(block, out, base, self.rank, resume)
        schedule = schedule_of(shards, block, self.world)
        self.steps = total_steps(block, schedule, base)
        self.warmup = warmup_steps(block, self.steps, schedule.steps_an_epoch)
        loaded = _initial_model(block, base)
        loaded.config["preprocess_cfg"] |= {"mean": list(block.mean), "std": list(block.std)}
        self.batches = Batches(shards, schedule, loaded, block, steps=self.steps, rank=self.rank)
        module = use_views(loaded.module).to(self.device).train()
        if block.grad_checkpointing:
            module.set_grad_checkpointing()
        precision = pick_precision(block.precision, self.device)
        scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.state = checkpoint.State(module, loaded.config, make_optimizer(module, block), scaler)
        newest = checkpoint.newest(out)
        if newest is not None:
            checkpoint.load(newest, self.state, self.device)
        self.forward: Any = Forward(module, Normalise(block.mean, block.std, self.device), precision)
        if self.world > 1:
            self.forward = torch.nn.parallel.DistributedDataParallel(
                self.forward, gradient_as_bucket_view=True
            )

    def go(self, watch: Watch) -> Trained:
        """Trains from the newest checkpoint to the last step."""
        state, block, first = self.state, self.block, self.rank == 0
        facts = {key: self.facts[key] for key in ("rows", "block")}
        if first:  # only now, so that a run with wrong input can be corrected and started again
            write_json(self.out / STATE, self.facts)
        log = Log(self.out, state.step) if first else None
        done, pin = state.step * block.accumulate, self.device.type == "cuda"
        stream = iter(loader(self.batches, done, workers=block.workers, pin=pin))
        watch(self.steps, {"step": state.step})
        window = _Window(state.step)
        for step in range(state.step, self.steps):
            asked = time.perf_counter()
            micro_batches = [next(stream) for _ in range(block.accumulate)]
            window.waited += time.perf_counter() - asked
            window.faults += [fault for micro_batch in micro_batches for fault in micro_batch.faults]
            window.sums += self._step(step, micro_batches)
            state.step = step + 1
            saves = state.step % block.save_every == 0 or state.step == self.steps
            if saves or state.step % block.log_every == 0:
                line = self._line(window)
                if log is not None:
                    log.line(line)
                    watch(self.steps, line)
                window = _Window(state.step)
            if saves and first:
                checkpoint.save(self.out, state, {"samples": state.step * block.batch, **facts}, block.keep)
            if saves and self.world > 1:
                dist.barrier()
        samples = self.steps * block.batch
        if log is not None:
            log.close()
            checkpoint.write(self.out / "model", state, {"samples": samples, **facts})
        data = {k: v for k, v in self.facts.items() if k != "block"}
        return Trained(self.out / "model", self.steps, samples, state.loss, state.skipped, data)

    def _step(self, step: int, micro_batches: Sequence[Batch]) -> Tensor:
        """One optimiser step: [loss, valid rows] of the whole batch, without waiting for the device."""
        block, state = self.block, self.state
        module, optimizer, scaler = state.module, state.optimizer, state.scaler
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(block, step, self.steps, self.warmup)
        optimizer.zero_grad(set_to_none=True)
        loss, valid = step_gradients(
            self.forward,
            [(b.images, b.ids, b.valid) for b in micro_batches],
            block.loss,
            micro=block.negatives == "micro",
            factor=scaler.scale(torch.ones((), device=self.device)),
            # seeds what is random inside a model (patch dropout)
            before=lambda number: torch.manual_seed(
                hash_int(block.seed, f"{step}/{self.rank}/{number}", "model") >> 1
            ),
        )
        if block.grad_clip is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(module.parameters(), block.grad_clip)
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            module.logit_scale.clamp_(0, math.log(block.max_logit_scale))
        return torch.stack([loss, valid.to(loss)])

    def _line(self, window: _Window) -> Mapping[str, Any]:
        """The line of the log for a window. WorkFailed if no row of it was valid or its loss is not
        finite."""
        state, block = self.state, self.block
        steps, valid = state.step - window.start, int(window.sums[1])
        if valid == 0:
            first = "".join(f"; first: {row} {reason}" for row, reason in window.faults[:1])
            raise WorkFailed(f"{self.out}: step {state.step}: no row of the last steps could be used{first}")
        state.loss = float(window.sums[0]) / steps
        state.skipped += steps * block.batch - valid
        if not math.isfinite(state.loss):
            saved = checkpoint.newest(self.out)
            where = f"the last good checkpoint is {saved}" if saved else "no checkpoint was written before"
            raise WorkFailed(
                f"{self.out}: the loss is {state.loss} at step {state.step}; lower train.lr, or take "
                f"precision bf16; {where}"
            )
        elapsed = time.perf_counter() - window.began
        return {
            "step": state.step,
            "epoch": round(state.step / self.batches.schedule.steps_an_epoch, 4),
            "samples": state.step * block.batch,
            "loss": state.loss,
            "lr": state.optimizer.param_groups[0]["lr"],
            "logit_scale": float(state.module.logit_scale.detach().exp()),
            "pairs_per_s": round(steps * block.batch / elapsed, 1),
            "data_wait": round(window.waited / elapsed, 4),
            "skipped": state.skipped,
            **({"faults": window.faults[:20]} if window.faults else {}),
        }


def _initial_model(block: TrainBlock, base: Path) -> LoadedClip:
    if block.init is None:
        name = block.model or "ViT-B-16"
        name = str(base / name) if name.endswith(".json") else name
        return build(name, image_size=block.image_size, sigmoid=block.loss == "sigmoid", seed=block.seed)
    loaded = load_folder(base / Path(block.init).expanduser(), image_size=block.image_size)
    if block.loss == "sigmoid" and getattr(loaded.module, "logit_bias", None) is None:
        raise UserError(
            "train.init: a model without a logit bias; expected one trained with the sigmoid loss, or loss: "
            "softmax"
        )
    return loaded
