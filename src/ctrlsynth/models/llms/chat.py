"""Renders requests in a checkpoint's chat template and tokenizes them (2b), for transformers and vLLM."""

from functools import cached_property
from typing import Any

from ...errors import UserError
from ..base import LanguageModel, Reply, Request
from ..hub.find import Located, read_config
from ..hub.load import HubModel, load_processor
from .sampling import messages

WHERE = "models.llm"


class ChatModel(HubModel, LanguageModel):
    """A checkpoint with a chat template, in this process."""

    where = WHERE
    chat_template: str | None

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, with the option's chat template if there is one."""
        return load_tokenizer(self.found, self.chat_template)

    def prompt(self, request: Request) -> str:
        """The instruction in the chat template, ready for the model's reply. Loads only the tokenizer.

        Switches off thinking (`enable_thinking`, which other templates ignore)."""
        return str(
            self.tokenizer.apply_chat_template(
                messages(request), tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )

    def tokens(self, request: Request) -> list[int]:
        """The prompt's token ids; the template already contains the special ones."""
        return list(self.tokenizer(self.prompt(request), add_special_tokens=False)["input_ids"])

    def check(self) -> None:
        """Preflight: configuration, weights and chat template exist. Loads no weights."""
        read_config(self.found, WHERE)
        super().check()
        load_tokenizer(self.found, self.chat_template)


def load_tokenizer(found: Located, template: str | None = None) -> Any:
    """Loads the checkpoint's tokenizer. `template` replaces its chat template (Jinja text over `messages`),
    for models older than chat templates. UserError in one line without a tokenizer or a template."""
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


def too_long(tokens: int, context: int) -> Reply:
    """The reply to a prompt that leaves no room in the model's context."""
    return Reply("", raw=f"{tokens} tokens of {context}", error="prompt_too_long")
