"""Chooses the next token row by row (2b in torch): penalties, temperature, top-p and sampling, in vLLM's
order and meaning.

transformers samples a batch from one generator, so a row's text would depend on its neighbours; here each row
has its own. The largest logit after adding Gumbel noise is a draw from the softmax, so `generate` itself
stays greedy."""

from collections.abc import Sequence
from typing import Any

import torch

from .sampling import Sampling


class Choice:
    """A logits processor for one `generate`: (ids [rows, length], logits [rows, vocabulary]) -> logits whose
    largest is the chosen token."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int], prompt_mask: Any) -> None:
        """`prompt_mask` [rows, length]: 1 for tokens of a prompt, 0 for padding."""
        self._s, self._prompt = sampling, prompt_mask.bool()
        self._counts: Any = None
        self._seen: Any = None
        self._generators = (
            [torch.Generator(prompt_mask.device).manual_seed(seed) for seed in seeds]
            if not sampling.greedy
            else []
        )

    def __call__(self, ids: Any, scores: Any) -> Any:
        logits = self._penalised(ids, scores.float())
        if self._s.greedy:
            return logits
        return self._nucleus(logits / self._s.temperature) + self._noise(logits)

    def _penalised(self, ids: Any, logits: Any) -> Any:
        s = self._s
        if (s.presence_penalty, s.frequency_penalty, s.repetition_penalty) == (0.0, 0.0, 1.0):
            return logits
        if self._counts is None:
            self._counts = torch.zeros_like(logits)
            self._seen = torch.zeros_like(logits).scatter_add_(1, ids, self._prompt.to(logits.dtype)) > 0
        else:
            self._counts.scatter_add_(1, ids[:, -1:], torch.ones_like(logits[:, :1]))
        made = self._counts > 0
        factor = torch.where(self._seen | made, s.repetition_penalty, 1.0)
        logits = torch.where(logits > 0, logits / factor, logits * factor)
        return logits - s.frequency_penalty * self._counts - s.presence_penalty * made

    def _nucleus(self, logits: Any) -> Any:
        """Sets all but the likeliest tokens whose probabilities reach top_p to minus infinity; keeps at least
        one."""
        if self._s.top_p >= 1.0:
            return logits
        ordered, places = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        return logits.masked_fill(
            (before >= self._s.top_p).scatter(1, places, before >= self._s.top_p), float("-inf")
        )

    def _noise(self, logits: Any) -> Any:
        """Gumbel noise from each row's own generator: it depends on seed and step, not on the batch."""
        rows = [torch.rand(logits.shape[1], generator=g, device=logits.device) for g in self._generators]
        uniform = torch.stack(rows).clamp_min(torch.finfo(logits.dtype).tiny)
        return -(-uniform.log()).clamp_min(torch.finfo(logits.dtype).tiny).log()
