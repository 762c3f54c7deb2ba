"""Language models (2b) behind OpenAI-compatible servers: vLLM, SGLang, llama-server, a hosted model.

    llm: {openai: mistralai/Mistral-Nemo-Instruct-2407, base_url: http://localhost:8000/v1}
    llm: {openai: gpt-4o-mini, prices: {input: 0.15, output: 0.60}}          # the key in $OPENAI_API_KEY

Decoding is greedy by default. A server batches its requests, so greedy replies may still differ in rare words
from run to run."""

from collections.abc import Sequence
from typing import Any

from ..base import LanguageModel, Reply, Request, stripped_reply
from ..served import ServedModel
from ..server import BadReply, Call, Fault
from .sampling import Sampling, messages


class OpenAIServer(ServedModel, LanguageModel):
    """A language model behind one or more servers.

    structured   whether the server can hold a reply to a JSON schema (`response_format`); false leaves it to
                 the instruction
    options      sampling (sampling.py; temperature null leaves it to the server, for models that refuse the
                 field) and servers (`ServerOptions`)
    """

    where = "models.llm"
    example = "gpt-4o-mini"

    def __init__(self, model: str | None = None, *, structured: bool = True, **options: Any) -> None:
        self.sampling, rest = Sampling.split(options, self.where)
        super().__init__(model, rest, ("structured", *Sampling.model_fields))
        self.structured = structured
        self.batch = 4 * self.options.concurrency * max(1, len(self.options.urls))
        # the fields that all requests share; defaults are not sent, since not every server knows every field
        sent = self.sampling.model_dump(exclude={"max_tokens", "temperature"}, exclude_defaults=True)
        extra = {k: sent.pop(k) for k in ("repetition_penalty",) if k in sent}
        self._fixed: dict[str, Any] = {"model": self.model, **sent}
        if options.get("temperature", 0.0) is not None:
            self._fixed["temperature"] = self.sampling.temperature
        if extra := {**self.options.extra_body, **extra}:
            self._fixed["extra_body"] = extra

    def shaping(self) -> Any:
        """What the digest holds beside the model."""
        return {**self._fixed, "max_tokens": self.sampling.max_tokens, "structured": self.structured}

    def body(self, request: Request) -> dict[str, Any]:
        """The arguments of `client.chat.completions.create` for one request."""
        body = self._fixed | {"messages": messages(request)}
        body["max_tokens" if self.options.urls else "max_completion_tokens"] = self.sampling.limit(request)
        if not self.sampling.greedy:
            body["seed"] = request.seed
        if request.schema is not None and self.structured:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "caption", "schema": dict(request.schema)},
            }
        return body

    def call(self, row: Request) -> Call:
        """The request as a chat completion."""
        body = self.body(row)
        return lambda client: client.chat.completions.create(**body)

    def read(self, response: Any) -> Reply:
        """A chat completion as a Reply; a refusal or a filtered text is the row's error `refused`. `BadReply`
        for anything else."""
        choices = getattr(response, "choices", None)
        choice: Any = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        if message is None:
            raise BadReply(f"no choices in the reply: {str(response)[:200]}")
        text, refusal = message.content, getattr(message, "refusal", None)
        if refusal or choice.finish_reason == "content_filter":
            return Reply("", raw=refusal or text or "content_filter", error="refused")
        if not isinstance(text, str | None):
            raise BadReply(f"not a text: {str(text)[:200]}")
        used = getattr(response, "usage", None)
        asked, made = (getattr(used, name, None) for name in ("prompt_tokens", "completion_tokens"))
        return stripped_reply(text or "", asked, made, cut=choice.finish_reason == "length")

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order; a request that failed for good carries its `Fault.error`. Raises
        `ModelError("server_down")`, and UserError if the server refuses the key or lacks the model."""
        return [
            Reply("", raw=answer.message or None, error=answer.error) if isinstance(answer, Fault) else answer
            for answer in self.answers(requests)
        ]
