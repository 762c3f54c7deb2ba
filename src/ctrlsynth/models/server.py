"""Client of OpenAI-compatible servers, for taggers (2a), language models (2b) and text-to-image models (2c).

`ServerPool` adds to the official client what that cannot do: several servers as replicas, failover when one
dies, a deadline over all tries of a request, retries of unreadable answers, and fewer requests in flight at a
server that refuses some. `judge` alone decides what an HTTP status means for a row, a server and the run."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import os
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from ..errors import ModelError, UserError, unknown
from .installed import need
from .options import Options

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
Call = Callable[["openai.AsyncOpenAI"], Awaitable[Any]]
"""One request: `lambda client: client.chat.completions.create(...)`. May be called several times."""
HOSTED = "api.openai.com"
FAILURES = 3  # in a row, after which a replica is out
PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the first retry, doubled for each further one up to the longest, less a random share."""
LONGEST_REST = 3600.0  # seconds: the longest Retry-After that is obeyed
PROBE = 10.0  # seconds that a server may take to list its models
# Stable fields of a server's model list; llama-server's `created` is the time of the question.
_REPORTED = ("id", "root", "parent", "owned_by", "max_model_len")
_META = ("vocab_type", "n_vocab", "n_ctx_train", "n_embd", "n_params", "size")


_ADDRESS = "begins with http:// or https:// and mostly ends with /v1"
_SECONDS = "seconds, a number from 0.001 up"
_Url = Annotated[str, Field(pattern="^https?://")]
_Price = Annotated[float, Field(ge=0)]


class ServerOptions(Options):
    """Options of a recipe that all served models take. Only `version` and `extra_body` belong to the digest.

    base_url, base_urls  address of the server, or of several replicas; neither: api.openai.com
    version      the model's version for the digest, instead of what the server reports
    extra_body   more fields of the request, for one kind of server: {top_k: 40}
    prices       US dollars, {input: 0.15, output: 0.60} per million tokens, {row: 0.04} per row; shown by
                 `status`
    api_key_env  environment variable of the key; your own servers need none
    concurrency  the most requests in flight per server
    timeout      seconds per try
    deadline     seconds per request from its first try on, with all retries and pauses
    retries      the most retries of a request
    patience     seconds without any live server before `ModelError("server_down")`
    """

    base_url: _Url | None = Field(
        None, description=f"one address that {_ADDRESS}; several are replicas: base_urls"
    )
    base_urls: Sequence[_Url] | None = Field(
        None, min_length=1, description=f"a list of addresses, each of which {_ADDRESS}"
    )
    version: Any = None
    extra_body: Mapping[str, Any] = Field({}, description="a table such as {top_k: 40}")
    prices: Mapping[Literal["input", "output", "row"], _Price] | None = Field(
        None,
        description="US dollars, {input: 0.15, output: 0.60} per million tokens or {row: 0.002} per answer",
    )
    api_key_env: str = Field("OPENAI_API_KEY", description="the name of an environment variable")
    concurrency: int = Field(64, ge=1, description="a whole number from 1 up")
    timeout: float = Field(120.0, ge=0.001, description=_SECONDS)
    deadline: float = Field(600.0, ge=0.001, description=_SECONDS)
    retries: int = Field(8, ge=0, description="a whole number from 0 up")
    patience: float = Field(300.0, ge=0.001, description=_SECONDS)

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if self.base_url is not None and self.base_urls is not None:
            raise ValueError("give base_url or base_urls, not both")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses as a tuple, empty for the hosted service."""
        return tuple(self.base_urls or ()) if self.base_url is None else (self.base_url,)


@dataclass(frozen=True, slots=True)
class Fault:
    """The outcome of a request that failed. `error` is the row's reason: timeout, rate_limited, server_error,
    no_connection, bad_reply, refused, prompt_too_long, server_down."""

    error: str
    message: str = ""


class BadReply(Exception):
    """Raised by a reader for a response that holds no answer; the request is retried."""


@dataclass(slots=True)
class Trouble:
    """A failed try: whether to retry and after how many seconds at least, whether the server is overloaded
    (`congested`), and whether it may be dead (`sick`)."""

    fault: Fault
    retry: bool = True
    congested: bool = False
    sick: bool = False
    after: float = 0.0


def judge(error: BaseException, where: str, server: str, api_key_env: str) -> Trouble:
    """What an error means for its request and its server. Raises UserError for what no retry fixes (key,
    model, quota), and the error itself if it is not the client's."""
    import openai

    text = f"{server}: {error}" if str(error) else f"{server}: {type(error).__name__}"
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Trouble(Fault("timeout", text), congested=True, sick=True)
    if isinstance(error, openai.APIResponseValidationError | BadReply | ValueError):
        return Trouble(Fault("bad_reply", text))
    if isinstance(error, openai.APIConnectionError):
        return Trouble(Fault("no_connection", f"{text} {error.__cause__ or ''}".strip()), sick=True)
    if not isinstance(error, openai.APIStatusError):
        raise error
    status, details = error.status_code, f"{error.code} {error.type} {error}".lower()
    if status in (401, 403):
        raise UserError(f"{where}: the server refuses the key in {api_key_env} ({text})") from error
    if status == 404 or "insufficient_quota" in details:
        raise UserError(f"{where}: {text}") from error
    after = retry_after(error.response.headers)
    if status == 429:
        return Trouble(Fault("rate_limited", text), congested=True, after=after)
    if status >= 500 or status in (408, 409):
        return Trouble(Fault("server_error", text), sick=True, after=after)
    signs = ("context_length", "exceed_context_size", "maximum context", "context length")
    long = any(sign in details for sign in signs)
    return Trouble(Fault("prompt_too_long" if long else "refused", text), retry=False)


def retry_after(headers: Any) -> float:
    """Seconds of a Retry-After header, given in seconds or as a date (RFC 9110, 10.2.3); 0 if absent or
    unreadable."""
    text = headers.get("retry-after") or ""
    with contextlib.suppress(ValueError, OverflowError):
        return min(max(0.0, float(text)), LONGEST_REST)
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        return min(max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()), LONGEST_REST)
    return 0.0


@dataclass(slots=True)
class Replica:
    """One server.

    places  requests that may be in flight. Halved when the server refuses one for load (429) or times out,
            once for all that were in flight together (`cuts` counts); each answer then adds 1 / places
    out     the task that probes the server until it answers, after it failed repeatedly; None while in use
    rest    loop time before which the server asked for no request (Retry-After)
    """

    name: str
    client: Any
    places: float
    cuts: int = 0
    busy: int = 0
    failures: int = 0
    out: asyncio.Task[None] | None = None
    rest: float = 0.0

    def free(self, now: float) -> bool:
        """Whether it may get another request."""
        return self.out is None and now >= self.rest and self.busy < int(self.places)


@dataclass(slots=True)
class _State:
    """What lives as long as the background thread.

    waiting  requests that wait for a replica, oldest first: futures that get one, or the request's Fault
    taken    the replica that a request has got
    """

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    replicas: list[Replica]
    waiting: deque[asyncio.Future[Replica | Fault]] = field(default_factory=deque)
    taken: dict[asyncio.Future[Replica | Fault], Replica] = field(default_factory=dict)
    down: bool = False


class ServerPool:
    """Sends requests to the servers of `options` from a background thread. `where` is the recipe's key, for
    messages."""

    def __init__(self, where: str, options: ServerOptions) -> None:
        need("openai", "server", where)
        self.where, self.options, self.retried = where, options, 0
        self._state: _State | None = None
        self._lock = threading.Lock()

    def start(self, calls: Sequence[Call], read: Callable[[Any], T]) -> list[Future[T | Fault]]:
        """Sends the calls, in order, as places become free; does not wait. `read` makes the answer of a
        response; it may raise `BadReply`. Thread-safe."""
        state = self._running()
        return [
            asyncio.run_coroutine_threadsafe(self._answer(state, call, read), state.loop) for call in calls
        ]

    def gather(self, started: Sequence[Future[T | Fault]]) -> list[T | Fault]:
        """Waits for the answers. Raises UserError for what the user can fix (key, model, quota), and
        `ModelError("server_down")` if no server answered any of them; the rest is then given up."""
        try:
            answers = [future.result() for future in started]
        except BaseException:
            for future in started:
                future.cancel()
            raise
        if answers and all(isinstance(answer, Fault) and answer.error == "server_down" for answer in answers):
            raise ModelError(
                "server_down",
                f"no server has answered for {self.options.patience:g} s: {self._addresses()}",
            )
        return answers

    def models(self) -> dict[str, list[dict[str, Any]]]:
        """The models that each live server lists, by address. UserError if none answers or one refuses the
        key."""
        if not self.options.urls and not os.environ.get(self.options.api_key_env):
            raise UserError(
                f"{self.where}: the environment variable {self.options.api_key_env} holds no key; set it, or "
                f"name a server as base_url"
            )
        state = self._running()
        asked = {
            r.name: asyncio.run_coroutine_threadsafe(_models_of(r.client), state.loop) for r in state.replicas
        }
        answers = {}
        for name, future in asked.items():
            if error := future.exception():  # a refused key raises here
                judge(error, self.where, name, self.options.api_key_env)
            else:
                answers[name] = future.result()
        if not answers:
            raise UserError(f"{self.where}: no server answers at {self._addresses()}; is it running?")
        return answers

    def reported(self, model: str) -> dict[str, Any]:
        """What the servers report of the model. UserError if one lacks it, or if two differ: then they are no
        replicas."""
        reports: dict[str, dict[str, Any]] = {}
        for url, listed in self.models().items():
            known = {name: m for m in listed[::-1] for name in (m.get("id"), *(m.get("aliases") or ()))}
            if model not in known:
                raise unknown("model", model, map(str, known), f"{self.where}: {url}")
            meta = known[model].get("meta") or {}
            reports[url] = {n: known[model].get(n) for n in _REPORTED} | {n: meta.get(n) for n in _META}
        first, *others = reports
        for url in others:
            if reports[url] != reports[first]:
                raise UserError(
                    f"{self.where}: {first} and {url} serve different models by the name {model!r}; replicas "
                    f"serve the same"
                )
        return reports[first]

    def close(self) -> None:
        """Ends the thread and its connections; a later call starts them again."""
        with self._lock:
            state, self._state = self._state, None
        if state is not None:
            asyncio.run_coroutine_threadsafe(_shut(state), state.loop).result()
            state.loop.call_soon_threadsafe(state.loop.stop)
            state.thread.join()
            state.loop.close()

    def _running(self) -> _State:
        import openai

        with self._lock:
            if self._state is None:
                key = os.environ.get(self.options.api_key_env)
                replicas = [
                    Replica(
                        url or HOSTED,
                        openai.AsyncOpenAI(
                            api_key=key or ("none" if url else ""), base_url=url, max_retries=0, timeout=None
                        ),
                        self.options.concurrency,
                    )
                    for url in self.options.urls or (None,)
                ]
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=loop.run_forever, daemon=True, name="servers")
                self._state = _State(loop, thread, replicas)
                thread.start()
            return self._state

    def _addresses(self) -> str:
        return ", ".join(self.options.urls) or HOSTED

    async def _answer(self, state: _State, call: Call, read: Callable[[Any], T]) -> T | Fault:
        """The answer to a request, after as many tries as it needs, or its Fault."""
        tries, until, fault = 0, 0.0, Fault("timeout")
        while True:
            place: asyncio.Future[Replica | Fault] = state.loop.create_future()
            state.waiting.append(place)
            if tries:
                state.loop.call_at(until, _settle, place, fault)
            try:
                self._pump(state)
                replica = await place
                if isinstance(replica, Fault):
                    return replica
                until = until or state.loop.time() + self.options.deadline
                answer = await self._try(state, replica, call, read, until)
            finally:
                taken = state.taken.pop(place, None)
                if taken is not None:
                    taken.busy -= 1
                    self._pump(state)
            if not isinstance(answer, Trouble):
                return answer
            fault, pause = answer.fault, self._pause(state, replica, answer, tries)
            tries += 1
            if not answer.retry or tries > self.options.retries or state.loop.time() + pause >= until:
                return fault
            self.retried += 1
            await asyncio.sleep(pause)

    def _pump(self, state: _State) -> None:
        """Gives free places at the least busy replicas to the requests that wait."""
        now = state.loop.time()
        while state.waiting:
            free = [replica for replica in state.replicas if replica.free(now)]
            if not free and not state.down:
                return
            place = state.waiting.popleft()
            if state.down:
                _settle(place, Fault("server_down"))
            elif not place.done():
                replica = state.taken[place] = min(free, key=lambda r: r.busy / r.places)
                replica.busy += 1
                place.set_result(replica)

    async def _try(
        self, state: _State, replica: Replica, call: Call, read: Callable[[Any], T], until: float
    ) -> T | Trouble:
        """One try: the answer, or Trouble, from which the replica learns."""
        import openai

        now, cuts = state.loop.time(), replica.cuts
        try:
            async with asyncio.timeout_at(min(now + self.options.timeout, until)):
                response = await call(replica.client)
            if isinstance(response, str | bytes):  # what the client makes of an answer that is not JSON
                raise BadReply(f"not JSON: {response[:200]!r}")
            answer = read(response)
        except (BadReply, ValueError, TimeoutError, openai.OpenAIError) as error:
            trouble = judge(error, self.where, replica.name, self.options.api_key_env)
            self._learn(state, replica, trouble, cuts)
            return trouble
        replica.failures = 0
        replica.places = min(self.options.concurrency, replica.places + 1 / replica.places)
        return answer

    def _learn(self, state: _State, replica: Replica, trouble: Trouble, cuts: int) -> None:
        if trouble.congested and cuts == replica.cuts:
            replica.cuts += 1
            replica.places = max(1.0, replica.places / 2)
        if trouble.after:
            replica.rest = max(replica.rest, state.loop.time() + trouble.after)
            state.loop.call_later(trouble.after, self._pump, state)
        replica.failures = replica.failures + 1 if trouble.sick else 0
        if replica.failures >= FAILURES and replica.out is None:
            replica.out = state.loop.create_task(self._probe(state, replica))

    def _pause(self, state: _State, replica: Replica, trouble: Trouble, tries: int) -> float:
        """Seconds before the next try."""
        pause: float = max(trouble.after, min(LONGEST_PAUSE, PAUSE * 2**tries) * random.uniform(0.5, 1.0))
        if any(other is not replica and other.out is None for other in state.replicas):
            pause = 0.0 if trouble.sick else min(pause, PAUSE)  # another server can answer now
        return pause

    async def _probe(self, state: _State, replica: Replica) -> None:
        """Asks a replica that is out for its models until it answers, then uses it again. Marks the pool down
        once all have been out for `patience` seconds."""
        from openai import APIStatusError, OpenAIError

        pause, started = PAUSE, state.loop.time()
        while True:
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
            with contextlib.suppress(OpenAIError, TimeoutError, ValueError):
                try:
                    await _models_of(replica.client)
                except APIStatusError as error:
                    if error.status_code >= 500:
                        raise
                replica.out, replica.failures, state.down = None, 0, False
                self._pump(state)
                return
            late = state.loop.time() - started + pause > self.options.patience
            if late and all(other.out for other in state.replicas):
                state.down = True
                self._pump(state)


def _settle(place: asyncio.Future[Replica | Fault], fault: Fault) -> None:
    if not place.done():
        place.set_result(fault)


async def _shut(state: _State) -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for replica in state.replicas:
        await replica.client.close()


async def _models_of(client: Any) -> list[dict[str, Any]]:
    async with asyncio.timeout(PROBE):
        page = await client.models.list()
    if isinstance(page, str):
        raise ValueError(f"not a list of models: {page[:200]!r}")
    return [model.model_dump() for model in page.data or ()]
