"""Renders requests in a checkpoint's chat template and tokenizes them (2b), for transformers and vLLM."""

from __future__ import annotations

from typing import Any

from ...errors import UserError
from ..base import Request
from ..hub.find import Located
from ..hub.load import load_processor
from .sampling import messages

WHERE = "models.llm"


def load_tokenizer(found: Located, template: str | None = None) -> Any:
    """Loads the checkpoint's tokenizer. `template` replaces its chat template (Jinja text over `messages`), for
    models older than chat templates. UserError in one line without a tokenizer or a template."""
    from transformers import AutoTokenizer

    tokenizer = load_processor(AutoTokenizer, found, WHERE)
    if template is not None:
        tokenizer.chat_template = template
    if tokenizer.chat_template is None:
        raise UserError(
            f"{WHERE}: {found.name} has no chat template; name its instruct version, or give one as "
            f"chat_template"
        )
    return tokenizer


def check_template(template: Any) -> None:
    """UserError unless an option `chat_template` is None or contains the message."""
    if template is not None and (not isinstance(template, str) or "messages" not in template):
        raise UserError(
            f"{WHERE}.chat_template: Jinja text such as \"USER: {{{{ messages[0]['content'] }}}} "
            f'ASSISTANT:", not {template!r}'
        )


def prompt_of(tokenizer: Any, request: Request) -> str:
    """The prompt as text: the instruction in the chat template, ready for the model's reply. Switches off
    thinking (`enable_thinking`, which other templates ignore)."""
    text: str = tokenizer.apply_chat_template(
        messages(request), tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return text


def tokens_of(tokenizer: Any, prompt: str) -> list[int]:
    """The prompt's token ids; the template already contains the special ones."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids


def check_files(found: Located) -> None:
    """Preflight: configuration and weights exist. Opens nothing."""
    if not found.has("config.json"):
        raise UserError(f"{WHERE}: {found.name} holds no config.json, so it is no checkpoint of transformers")
    if not found.has("*.safetensors", "*.bin"):
        raise UserError(f"{WHERE}: {found.name} holds no weights (*.safetensors)")
