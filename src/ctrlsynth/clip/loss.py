"""The losses, and the gradient of one optimiser step: the loss of the whole batch over all micro-batches and
processes (GradCache).

Gathers the features of all micro-batches and processes without a graph, takes the gradient of the loss with
respect to the features once, then runs each micro-batch again and backpropagates its features' gradient. A
single micro-batch runs only once."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.device import autocast
from ..models.open_clip.encode import Normalise, encode_tokens


class Forward(nn.Module):  # type: ignore[misc]
    """uint8 images [n, h, w, 3] and ids [n, length] -> normalised float32 features of both [n, dim],
    exp(scale), bias or 0."""

    def __init__(self, module: Any, normalise: Normalise, precision: str) -> None:
        super().__init__()
        self.clip, self._normalise, self._precision = module, normalise, precision

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Runs both towers."""
        device = self._normalise.device
        with autocast(self._precision, device):
            seen = self.clip.encode_image(self._normalise(images))
            read = encode_tokens(self.clip, ids.to(device, non_blocking=True))
        scale = self.clip.logit_scale
        bias = (
            self.clip.logit_bias
            if getattr(self.clip, "logit_bias", None) is not None
            else torch.zeros_like(scale)
        )
        return F.normalize(seen.float(), dim=-1), F.normalize(read.float(), dim=-1), scale.exp(), bias


def softmax_loss(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, valid: Tensor | None = None
) -> Tensor:
    """CLIP's symmetric cross-entropy over features [n, dim]; ignores rows that are not `valid`. Uses one
    matrix for both directions."""
    logits = scale * images @ texts.T
    labels = torch.arange(len(logits), device=logits.device)
    other = logits.T
    if valid is None:
        return (F.cross_entropy(logits, labels) + F.cross_entropy(other, labels)) / 2
    labels = labels.masked_fill(~valid, -100)
    logits, other = logits.masked_fill(~valid, -math.inf), other.masked_fill(~valid, -math.inf)
    return (
        F.cross_entropy(logits, labels, reduction="sum") + F.cross_entropy(other, labels, reduction="sum")
    ) / (2 * valid.sum().clamp(min=1))


def sigmoid_loss(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, valid: Tensor | None = None
) -> Tensor:
    """SigLIP's loss: a binary classification of every pair of image and text. The sum over pairs, divided by
    the number of valid rows."""
    signs = 2 * torch.eye(len(images), device=images.device) - 1
    losses = -F.logsigmoid(signs * (scale * images @ texts.T + bias))
    if valid is None:
        return losses.sum() / len(images)
    return (losses * valid * valid[:, None]).sum() / valid.sum().clamp(min=1)


LOSSES: dict[str, Callable[..., Tensor]] = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}


def step_gradients(
    model: Any,
    micro_batches: Sequence[tuple[Tensor, Tensor, Tensor]],
    loss: str,
    *,
    micro: bool = False,
    factor: Tensor | float = 1.0,
    before: Callable[[int], object] = lambda number: None,
) -> tuple[Tensor, Tensor]:
    """Adds one step's gradients to the parameters; returns the loss of the whole batch and its number of
    valid rows, the same in all processes.

    `model`: a `Forward`, or one inside DistributedDataParallel. `micro_batches`: (images, ids, valid) of each
    micro-batch of this process. `micro`: negatives from the micro-batch alone, the mean over all. `factor`
    multiplies the gradients (a GradScaler's). `before(number)` is called before each run of a micro-batch and
    seeds what is random in the model, so that the second run repeats the first."""
    world = dist.get_world_size() if isinstance(model, nn.parallel.DistributedDataParallel) else 1
    if micro:
        return _each_alone(model, micro_batches, loss, factor, before, world)
    single = len(micro_batches) == 1
    first_pass = model if single or world == 1 else model.module
    runs: list[Any] = []
    with nullcontext() if single else torch.no_grad():
        for number, (images, ids, _) in enumerate(micro_batches):
            before(number)
            runs.append(first_pass(images, ids))
    own = torch.cat([torch.cat([r[0].detach(), r[1].detach()], dim=1) for r in runs])
    everywhere, all_valid = _gathered(own, torch.cat([v for _, _, v in micro_batches]), world)
    value, by_features, *by_scalars = _by_features(loss, everywhere, runs[0][2], runs[0][3], all_valid)
    start = dist.get_rank() * len(own) if world > 1 else 0
    # DDP divides by the number of processes; a scalar's gradient is whole
    ours = by_features[start : start + len(own)] * (factor * world)
    scalars = [g * factor for g in by_scalars]
    pieces = ours.split([len(images) for images, _, _ in micro_batches])
    for number, (images, ids, _) in enumerate(micro_batches):
        last = number == len(micro_batches) - 1
        with nullcontext() if last or world == 1 else model.no_sync():
            if not single:
                before(number)
            run = runs[0] if single else model(images, ids)
            _pass_on(run, pieces[number], scalars if last else [torch.zeros_like(g) for g in scalars])
    return value, all_valid.sum() if all_valid is not None else torch.tensor(len(everywhere))


def _pass_on(run: Any, by_features: Tensor, by_scalars: Sequence[Tensor]) -> None:
    """Backpropagates through one run, given the gradients of its features [n, 2 dim] and of its two
    scalars."""
    width = run[0].shape[1]
    gradients = (by_features[:, :width], by_features[:, width:], *by_scalars)
    outputs = [(o, g) for o, g in zip(run, gradients, strict=True) if o.requires_grad]
    torch.autograd.backward(*zip(*outputs, strict=True))


def _gathered(own: Tensor, valid: Tensor, world: int) -> tuple[Tensor, Tensor | None]:
    """The features of all processes in the order of their ranks, and the mask of valid rows (None: all, known
    without waiting for the device)."""
    if world == 1:
        return own, None if bool(valid.all()) else valid.to(own.device)
    row = torch.cat([own, valid.to(own)[:, None]], dim=1)
    everywhere = row.new_empty((world * len(row), row.shape[1]))
    dist.all_gather_into_tensor(everywhere, row)
    return everywhere[:, :-1], everywhere[:, -1] > 0


def _by_features(
    loss: str, features: Tensor, scale: Tensor, bias: Tensor, valid: Tensor | None
) -> tuple[Tensor, ...]:
    """The loss, and its gradients with respect to the features [n, 2 dim], to scale and to bias."""
    features, scale, bias = (t.detach().requires_grad_() for t in (features, scale, bias))
    value = LOSSES[loss](*features.chunk(2, dim=1), scale, bias, valid)
    inputs = [features, scale, bias]
    return value.detach(), *torch.autograd.grad(value, inputs, materialize_grads=True)


def _each_alone(
    model: Any,
    micro_batches: Sequence[tuple[Tensor, Tensor, Tensor]],
    loss: str,
    factor: Any,
    before: Callable[[int], object],
    world: int,
) -> tuple[Tensor, Tensor]:
    """The mean over the losses of each micro-batch alone."""
    total, rows = torch.zeros(()), torch.zeros(())
    for number, (images, ids, valid) in enumerate(micro_batches):
        with nullcontext() if number == len(micro_batches) - 1 or world == 1 else model.no_sync():
            before(number)
            run = model(images, ids)
            value = LOSSES[loss](*run, None if bool(valid.all()) else valid.to(run[0].device))
            (value * factor / len(micro_batches)).backward()
        total, rows = total.to(value.device) + value.detach() / len(micro_batches), rows + valid.sum()
    if world > 1:
        both = torch.stack([total / world, rows.to(total)])
        dist.all_reduce(both)
        total, rows = both
    return total, rows
