"""From a request to a checkpoint's prompt (2b): its own chat template, rendered and cut into tokens. Shared by transformers and vLLM."""

from __future__ import annotations

from typing import Any

from ...errors import UserError
from ..base import Request
from ..hf import Located, load_processor
from .sampling import messages

WHERE = "models.llm"


def load_tokenizer(found: Located) -> Any:
    """The checkpoint's tokenizer; UserError in one line where it has none, or no chat template (then it is no chat model)."""
    from transformers import AutoTokenizer

    tokenizer = load_processor(AutoTokenizer, found, WHERE)
    if tokenizer.chat_template is None:
        raise UserError(f"{WHERE}: {found.name} has no chat template, so it is no chat model; name its instruct version")
    return tokenizer


def prompt_of(tokenizer: Any, request: Request) -> str:
    """The whole prompt as text: the instruction in the chat template, ready for the model's reply. Models that can think before they
    answer are told not to (`enable_thinking`, which other templates pass over)."""
    text: str = tokenizer.apply_chat_template(messages(request), tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return text


def tokens_of(tokenizer: Any, prompt: str) -> list[int]:
    """The prompt's token ids; the template has written the special ones already."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids


def check_files(found: Located) -> None:
    """Preflight: configuration and weights are there. Opens nothing."""
    if not found.has("config.json"):
        raise UserError(f"{WHERE}: {found.name} holds no config.json, so it is no checkpoint of transformers")
    if not found.has("*.safetensors", "*.bin"):
        raise UserError(f"{WHERE}: {found.name} holds no weights (*.safetensors)")
