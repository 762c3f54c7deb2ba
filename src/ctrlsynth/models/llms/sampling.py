"""Sampling options of language models (2b): one set, by the same names in every backend that samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, fields
from typing import Any

from ..base import Request
from ..options import check_number, check_whole

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 10.0),
    "top_p": (1e-6, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 10.0),
}


@dataclass(frozen=True)
class Sampling:
    """The defaults are greedy decoding, as in CtrlSynth. SynthCLIP: temperature 0.7, top_p 0.95, both
    penalties 1.0.

    temperature         0 is greedy; above 0 the request's seed decides
    top_p               samples from the smallest set of likeliest tokens whose probabilities reach this sum
    presence_penalty    subtracted from the logits of every token that the reply contains
    frequency_penalty   subtracted once per occurrence of the token in the reply
    repetition_penalty  divides the logits of tokens in prompt and reply; 1 changes nothing
    max_tokens          caps the request's own limit
    where               the recipe's key, for messages
    """

    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None
    where: InitVar[str] = "models.llm"

    @classmethod
    def split(cls, options: Mapping[str, Any], where: str) -> tuple[Sampling, dict[str, Any]]:
        """The sampling that a recipe's options ask for, and the other options."""
        own = {f.name: options[f.name] for f in fields(cls) if f.name in options}
        return cls(**own, where=where), {name: value for name, value in options.items() if name not in own}

    def __post_init__(self, where: str) -> None:
        for name, (least, most) in _RANGES.items():
            check_number(where, least, most, **{name: getattr(self, name)})
        check_whole(where, max_tokens=self.max_tokens)

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn at random."""
        return self.temperature == 0

    def limit(self, request: Request) -> int:
        """Token limit of this request's reply."""
        return min(request.max_tokens, self.max_tokens or request.max_tokens)


def messages(request: Request) -> list[dict[str, Any]]:
    """The chat: the rendered instruction as one user message."""
    return [{"role": "user", "content": request.instruction}]
