"""How a language model (2b) chooses its words: one set of options, by the same names in every backend that
samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ..base import Request

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 10.0),
    "top_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 10.0),
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """The defaults are greedy decoding, as CtrlSynth does it. SynthCLIP: temperature 0.7, top_p 0.95, both
    penalties 1.0.

    temperature         0 is greedy; above it the request's seed decides
    top_p               the smallest set of likeliest tokens whose probabilities reach this sum
    presence_penalty    off the logits of every token that the reply holds already
    frequency_penalty   off the logits, as often as the reply holds the token
    repetition_penalty  divides the logits of tokens in prompt and reply; 1 is none
    max_tokens          caps what the request asks for
    """

    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise UserError(f"models.llm.{name}: a number from {least:g} to {most:g}, not {value!r}")
        if self.top_p == 0:
            raise UserError("models.llm.top_p: a number above 0")
        if self.max_tokens is not None and (
            isinstance(self.max_tokens, bool) or not isinstance(self.max_tokens, int) or self.max_tokens < 1
        ):
            raise UserError(f"models.llm.max_tokens: a whole number from 1 up, not {self.max_tokens!r}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def limit(self, request: Request) -> int:
        """The most tokens that this request's reply may have."""
        return min(request.max_tokens, self.max_tokens or request.max_tokens)


def messages(request: Request) -> list[dict[str, Any]]:
    """The chat: the whole rendered instruction as the user's message."""
    return [{"role": "user", "content": request.instruction}]
