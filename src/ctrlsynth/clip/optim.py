"""The optimiser and its schedule: AdamW with two groups, linear warm-up and cosine, and the length of a
run."""

import math
from pathlib import Path
from typing import Any

import torch

from ..recipe.train import TrainBlock
from .data.loader import open_sources
from .data.order import Schedule


def make_optimizer(module: Any, block: TrainBlock) -> Any:
    """Fused AdamW with weight decay only on parameters of two or more dimensions: none on biases, norms,
    class embedding and scale (papers/002)."""
    named = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in named if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in named if p.ndim >= 2], "weight_decay": block.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=block.lr, betas=block.betas, eps=block.eps, fused=True)


def total_steps(block: TrainBlock, schedule: Schedule, base: Path) -> int:
    """The run's length in optimiser steps, at least 1. `equal_samples`: as many steps as a baseline of E
    epochs on N pairs, so that a mix of N + N' pairs trains E*N/(N+N') of its own epochs (papers/001, section
    4.1); counts the rows of the baseline's data if only the data is given."""
    if block.steps is not None:
        return block.steps
    if block.equal_samples is not None:
        wanted = block.equal_samples
        rows = wanted.rows or sum(
            s.rows for s in open_sources(wanted.data or [], base, where="train.equal_samples.data")
        )
        return max(1, round(wanted.epochs * (rows // block.batch)))
    return max(1, round((block.epochs or 32) * schedule.steps_an_epoch))


def warmup_steps(block: TrainBlock, steps: int, steps_an_epoch: int) -> int:
    """Steps of warm-up, fewer than the run has."""
    if block.warmup_epochs is not None:
        wanted = round(block.warmup_epochs * steps_an_epoch)
    else:
        wanted = round(block.warmup * steps) if block.warmup < 1 else int(block.warmup)
    return min(wanted, steps - 1)


def learning_rate(block: TrainBlock, step: int, steps: int, warmup: int) -> float:
    """The rate of step `step` (from 0). Warm-up: lr * (step + 1) / warmup, or linear from `warmup_lr` to lr
    if that is given; then half a cosine from lr to `min_lr`."""
    if step < warmup:
        if block.warmup_lr is None:
            return block.lr * (step + 1) / warmup
        return block.warmup_lr + (block.lr - block.warmup_lr) * step / max(1, warmup - 1)
    return block.min_lr + 0.5 * (block.lr - block.min_lr) * (
        1 + math.cos(math.pi * (step - warmup) / (steps - warmup))
    )
