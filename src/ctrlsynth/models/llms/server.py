"""2b behind any OpenAI-compatible server: vLLM, SGLang, llama-server, a hosted model.

    llm: {openai: mistralai/Mistral-Nemo-Instruct-2407, base_url: http://localhost:8000/v1}
    llm: {openai: gpt-4o-mini, prices: {input: 0.15, output: 0.60}}          # the key in $OPENAI_API_KEY

Greedy unless told otherwise. A server computes its requests together, so its greedy replies may differ in
rare words with what else it is doing; that is the server's, and nothing here can mend it. `digest` holds what
the server says of its model; nobody can look at its weights, so it is marked `unverified`."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any

from ...errors import UserError, unknown
from ..base import LanguageModel, Reply, Request
from ..prices import check_prices
from ..server import Call, ServerPool, addresses
from ..server_faults import BadReply, Fault
from .sampling import Sampling, messages

WHERE = "models.llm"
_SAID = ("id", "root", "parent", "owned_by", "max_model_len")
_META = ("vocab_type", "n_vocab", "n_ctx_train", "n_embd", "n_params", "size")
"""What a server says of a model and goes on saying; llama-server's `created` is the time of the question."""


class OpenAIServer(LanguageModel):
    """A `LanguageModel` behind one or more servers of the same model.

    base_url, base_urls   where; neither: api.openai.com. Several are replicas: the least busy is asked
    version      what the digest calls the model's version, instead of asking the server for it
    temperature .. max_tokens   as in sampling.py; temperature null leaves the sampling to the server (models
                                that refuse to be told)
    structured   whether the server can hold a reply to a JSON schema (`response_format`); false leaves it to
                 the instruction
    extra_body   more fields of the request, for one kind of server: {top_k: 40}, {chat_template_kwargs:
                 {enable_thinking: false}}
    prices       US dollars a million tokens, {input: 0.15, output: 0.60}: `status` tells the cost. Belongs to
                 no digest
    concurrency .. api_key_env   as in `ServerPool`; they belong to no digest
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        base_urls: Sequence[str] | None = None,
        version: str | None = None,
        temperature: float | None = 0.0,
        top_p: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        max_tokens: int | None = None,
        structured: bool = True,
        extra_body: Mapping[str, Any] | None = None,
        prices: Mapping[str, float] | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 64,
        timeout: float = 120.0,
        deadline: float = 600.0,
        retries: int = 8,
        patience: float = 300.0,
    ) -> None:
        if not isinstance(model, str) or not model:
            raise UserError(
                f"{WHERE}: openai takes the model's name as the server lists it, such as "
                f"{{openai: gpt-4o-mini}}, not {model!r}"
            )
        self.model, self.id = model, f"openai:{model}"
        self.sampling = Sampling(
            temperature or 0.0, top_p, presence_penalty, frequency_penalty, repetition_penalty, max_tokens
        )
        self.prices = check_prices(prices, WHERE)
        self.structured, self.extra_body, self.version = structured, dict(extra_body or {}), version
        self.pool = ServerPool(
            WHERE,
            addresses(WHERE, base_url, base_urls),
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout=timeout,
            deadline=deadline,
            retries=retries,
            patience=patience,
        )
        self.batch = 4 * concurrency * max(1, len(self.pool.base_urls))
        self._fixed = self._sampled(temperature)
        self._begun: dict[
            int, tuple[Request, Future[Reply | Fault]]
        ] = {}  # by object: equal requests are asked each
        self._lock = threading.Lock()

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        """Asks the server for its model's version, once, unless the recipe says it. UserError where no server
        answers."""
        told = self.version if self.version is not None else reported(self.pool, self.model)
        options = {**self._fixed, "max_tokens": self.sampling.max_tokens, "structured": self.structured}
        sha = hashlib.sha256(json.dumps([self.model, told, options], sort_keys=True, default=str).encode())
        return f"unverified:{sha.hexdigest()[:32]}"

    def _sampled(self, temperature: float | None) -> dict[str, Any]:
        """The fields that all requests share. What stands at its default is not sent: not every server knows
        every field."""
        s = self.sampling
        body: dict[str, Any] = {"model": self.model}
        if temperature is not None:
            body["temperature"] = temperature
        for name, default in (("top_p", 1.0), ("presence_penalty", 0.0), ("frequency_penalty", 0.0)):
            if getattr(s, name) != default:
                body[name] = getattr(s, name)
        extra = dict(self.extra_body)
        if s.repetition_penalty != 1.0:
            extra["repetition_penalty"] = s.repetition_penalty
        return body | {"extra_body": extra} if extra else body

    def body(self, request: Request) -> dict[str, Any]:
        """The arguments of `client.chat.completions.create` for one request."""
        body = self._fixed | {"messages": messages(request)}
        body["max_tokens" if self.pool.base_urls else "max_completion_tokens"] = self.sampling.limit(request)
        if not self.sampling.greedy:
            body["seed"] = request.seed
        if request.schema is not None and self.structured:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "caption", "schema": dict(request.schema)},
            }
        return body

    def begin(self, requests: Sequence[Request]) -> None:
        """Sends requests off that `generate` will be asked for, these very objects: so a server does not run
        dry between two batches."""
        started = self.pool.start([self._call(request) for request in requests], read)
        with self._lock:
            self._begun.update(
                {id(request): (request, future) for request, future in zip(requests, started, strict=True)}
            )

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in order; a request that failed for good carries its reason
        (server_faults.Fault). Raises `ModelError("server_down")` where no server answers, UserError where the
        server refuses the key or lacks the model."""
        with self._lock:
            begun = [self._begun.pop(id(request), None) for request in requests]
        new = iter(
            self.pool.start([self._call(q) for q, b in zip(requests, begun, strict=True) if b is None], read)
        )
        answers = self.pool.gather([b[1] if b is not None else next(new) for b in begun])
        return [
            Reply("", raw=a.message or None, error=a.error) if isinstance(a, Fault) else a for a in answers
        ]

    def _call(self, request: Request) -> Call:
        body = self.body(request)
        return lambda client: client.chat.completions.create(**body)

    def check(self) -> None:
        """Preflight: the key is set, a server answers, and it has the model."""
        self.pool.check(self.model)

    def close(self) -> None:
        """Ends the connections and gives up what was begun; a later call opens them again."""
        with self._lock:
            self._begun.clear()
        self.pool.close()


def read(response: Any) -> Reply:
    """A chat completion as a Reply. `BadReply` for what is none; a refusal or a filtered text is the row's
    error `refused`."""
    choices = getattr(response, "choices", None)
    choice: Any = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        raise BadReply(f"no choices in the reply: {str(response)[:200]}")
    text, refusal = message.content, getattr(message, "refusal", None)
    if refusal or choice.finish_reason == "content_filter":
        return Reply("", raw=refusal or text or "content_filter", error="refused")
    if not isinstance(text, str | None):
        raise BadReply(f"a reply that is no text: {str(text)[:200]}")
    used = getattr(response, "usage", None)
    plain = (text or "").strip()
    return Reply(
        plain,
        raw=text if text is not None and text != plain else None,
        prompt_tokens=getattr(used, "prompt_tokens", None),
        completion_tokens=getattr(used, "completion_tokens", None),
        finish="length" if choice.finish_reason == "length" else "stop",
        error=None if plain else "empty_reply",
    )


def reported(pool: ServerPool, model: str) -> Any:
    """What the servers say of the model; UserError where one lacks it or two say different things, since then
    they are no replicas."""
    said: dict[str, Any] = {}
    for url, listed in pool.models().items():
        entry = next((m for m in listed if model == m.get("id") or model in (m.get("aliases") or ())), None)
        if entry is None:
            raise unknown("model", model, [str(m.get("id")) for m in listed], f"{pool.where}: {url}")
        said[url] = {n: entry.get(n) for n in _SAID} | {n: (entry.get("meta") or {}).get(n) for n in _META}
    (first, one), *others = said.items()
    for url, other in others:
        if other != one:
            raise UserError(
                f"{pool.where}: {first} and {url} serve different models by the name {model!r}; replicas "
                f"serve the same"
            )
    return one
