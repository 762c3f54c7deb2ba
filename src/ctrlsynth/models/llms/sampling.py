"""Sampling options of language models (2b): one set, by the same names in every backend that samples."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from ..base import Request
from ..options import Options

_Number = int | float


class Sampling(Options):
    """The defaults are greedy decoding, as in CtrlSynth. SynthCLIP: temperature 0.7, top_p 0.95, both
    penalties 1.0.

    temperature         0 is greedy; above 0 the request's seed decides
    top_p               samples from the smallest set of likeliest tokens whose probabilities reach this sum
    presence_penalty    subtracted from the logits of every token that the reply contains
    frequency_penalty   subtracted once per occurrence of the token in the reply
    repetition_penalty  divides the logits of tokens in prompt and reply; 1 changes nothing
    max_tokens          caps the request's own limit
    """

    temperature: _Number = Field(0.0, ge=0, le=10, description="a number from 0 to 10")
    top_p: _Number = Field(1.0, ge=1e-6, le=1, description="a number above 0, at most 1")
    presence_penalty: _Number = Field(0.0, ge=-2, le=2, description="a number from -2 to 2")
    frequency_penalty: _Number = Field(0.0, ge=-2, le=2, description="a number from -2 to 2")
    repetition_penalty: _Number = Field(1.0, ge=0.01, le=10, description="a number from 0.01 to 10")
    max_tokens: int | None = Field(None, ge=1, description="a whole number from 1 up")

    @classmethod
    def split(cls, options: Mapping[str, Any], where: str) -> tuple[Self, dict[str, Any]]:
        """The sampling that a recipe's options ask for, and the other options."""
        own = {name: options[name] for name in cls.model_fields if name in options}
        return cls.read(own, where), {name: value for name, value in options.items() if name not in own}

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
