"""Asks OpenAI-compatible servers through the official client: one pool for language models (2b), vision
taggers (2a) and painters (2c).

`ServerPool.map` takes a list of calls and gives as many answers, matched by their place in the list. Behind
it: several servers as replicas, a limit of requests in flight that adapts to each of them (limit.py), retries
with growing pauses, a deadline a request, and a replica that dies taken out and put back once it answers
again. A request that cannot be answered is a `Fault` of its own; a server that refuses the key or does not
know the model is the user's to mend and stops the run (server_faults.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ModelError, UserError, unknown
from .installed import need
from .limit import Limit
from .server_faults import BadReply, Fault, Trouble, judge

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
Call = Callable[["openai.AsyncOpenAI"], Awaitable[Any]]
"""One request: `lambda client: client.chat.completions.create(...)`. It may be called again."""
HOSTED = "api.openai.com"
FAILURES = 3
"""So many connections in a row that fail, or servers' errors, and a replica is out."""
PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the first retry, doubled each time, at most; each is shortened by chance, so that requests
do not come back together."""
PROBE = 10.0
"""Seconds that a replica has to list its models."""


@dataclass(slots=True)
class Usage:
    """What the servers have counted so far, and how often a request was asked again."""

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0


@dataclass(slots=True)
class Replica:
    """One server. `out`: taken out, and probed. `rest`: asked not to be asked before this moment
    (Retry-After)."""

    url: str | None
    client: Any
    limit: Limit
    busy: int = 0
    failures: int = 0
    out: bool = False
    rest: float = 0.0

    def free(self, now: float) -> bool:
        return not self.out and now >= self.rest and self.busy < self.limit.now


@dataclass(slots=True)
class _State:
    """What lives as long as the background thread."""

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    replicas: list[Replica]
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    probes: set[asyncio.Task[None]] = field(default_factory=set)
    down: bool = False


class ServerPool:
    """`base_urls` such as `http://host:8000/v1`, none for OpenAI's own.

    where        the recipe's key, for messages: `models.llm`
    api_key_env  the environment variable that holds the key; servers of one's own need none
    concurrency  the most requests in flight at each server
    timeout      seconds that one try may take
    deadline     seconds that a request may take from its first try on, retries and pauses included
    retries      how often a request is asked again at most
    patience     seconds to wait for a server while none answers; then `ModelError("server_down")`
    """

    def __init__(
        self,
        where: str,
        base_urls: Sequence[str] = (),
        *,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 64,
        timeout: float = 120.0,
        deadline: float = 600.0,
        retries: int = 8,
        patience: float = 300.0,
    ) -> None:
        need("openai", "server", where)
        for url in base_urls:
            if not str(url).startswith(("http://", "https://")):
                raise UserError(
                    f"{where}: a server's address begins with http:// or https:// and mostly ends with /v1, "
                    f"unlike {url!r}"
                )
        for name, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"{where}: {name} is a whole number from {least} up, not {value!r}")
        for name, seconds in (("timeout", timeout), ("deadline", deadline), ("patience", patience)):
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
                raise UserError(f"{where}: {name} is a number of seconds above 0, not {seconds!r}")
        self.where, self.base_urls, self.api_key_env = (
            where,
            tuple(str(url) for url in base_urls),
            api_key_env,
        )
        self.concurrency, self.timeout, self.deadline, self.retries, self.patience = (
            concurrency,
            timeout,
            deadline,
            retries,
            patience,
        )
        self.usage = Usage()
        self._state: _State | None = None
        self._lock = threading.Lock()

    # --- for backends
    # -----------------------------------------------------------------------------------------------------------------

    def map(self, calls: Sequence[Call], read: Callable[[Any], T]) -> list[T | Fault]:
        """As many answers as calls, in their order: what `read` makes of the response (it may raise
        `BadReply`), or a Fault. May be called from several threads at once. Raises UserError for what the
        user can mend (key, model, quota) and `ModelError("server_down")` where no server has answered
        anything."""
        return self.gather(self.start(calls, read))

    def start(self, calls: Sequence[Call], read: Callable[[Any], T]) -> list[Future[T | Fault]]:
        """Sends the calls off as places become free, without waiting; `gather` waits. First started, first
        sent."""
        loop = self._running().loop
        return [asyncio.run_coroutine_threadsafe(self._one(call, read), loop) for call in calls]

    def gather(self, started: Sequence[Future[T | Fault]]) -> list[T | Fault]:
        """The answers of what was started; raises as `map`. What is still under way then is given up."""
        try:
            answers = [future.result() for future in started]
        except BaseException:
            for future in started:
                future.cancel()
            raise
        if answers and all(isinstance(answer, Fault) and answer.error == "server_down" for answer in answers):
            raise ModelError(
                "server_down", f"no server has answered for {self.patience:g} s: {self._addresses()}"
            )
        return answers

    def models(self) -> dict[str, list[dict[str, Any]]]:
        """What each server that answers says of its models, by address. UserError where none does, or one
        refuses the key."""
        if not self.base_urls and not os.environ.get(self.api_key_env):
            raise UserError(
                f"{self.where}: the environment variable {self.api_key_env} holds no key; set it, or name a "
                f"server as base_url"
            )
        answers = self._wait(self._list_models())
        if not answers:
            raise UserError(f"{self.where}: no server answers at {self._addresses()}; is it running?")
        return answers

    def check(self, model: str) -> None:
        """Preflight: the key is set, a server answers, and each that answers has the model."""
        for url, listed in self.models().items():
            names = [str(m.get("id")) for m in listed] + [
                str(a) for m in listed for a in m.get("aliases") or ()
            ]
            if model not in names:
                raise unknown("model", model, names, f"{self.where}: {url}")

    def close(self) -> None:
        """Ends the thread and its connections; a later call starts them again."""
        with self._lock:
            state, self._state = self._state, None
        if state is not None:
            asyncio.run_coroutine_threadsafe(_shut(state), state.loop).result()
            state.loop.call_soon_threadsafe(state.loop.stop)
            state.thread.join()
            state.loop.close()

    # --- the background thread
    # --------------------------------------------------------------------------------------------------------

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._running().loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _running(self) -> _State:
        with self._lock:
            if self._state is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=loop.run_forever, daemon=True, name="servers")
                self._state = _State(loop, thread, [self._replica(url) for url in self.base_urls or (None,)])
                thread.start()
            return self._state

    def _replica(self, url: str | None) -> Replica:
        import openai

        key = os.environ.get(self.api_key_env) or ("none" if url else "")
        return Replica(
            url,
            openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0, timeout=None),
            Limit(self.concurrency),
        )

    def _name(self, replica: Replica) -> str:
        return replica.url or HOSTED

    def _addresses(self) -> str:
        return ", ".join(self.base_urls) or HOSTED

    async def _list_models(self) -> dict[str, list[dict[str, Any]]]:
        state = self._running()
        told = await asyncio.gather(
            *(_models_of(replica.client) for replica in state.replicas), return_exceptions=True
        )
        out = {}
        for replica, answer in zip(state.replicas, told, strict=True):
            if isinstance(answer, BaseException):
                judge(answer, self.where, self._name(replica), self.api_key_env)  # a refused key stops here
            else:
                out[self._name(replica)] = answer
        return out

    async def _one(self, call: Call, read: Callable[[Any], T]) -> T | Fault:
        state = self._running()
        until: float | None = None
        fault = Fault("timeout")
        for tries in range(self.retries + 1):
            try:
                async with asyncio.timeout_at(until):
                    replica = await self._slot(state)
            except TimeoutError:
                return fault
            if replica is None:
                return Fault("server_down")
            until = until if until is not None else state.loop.time() + self.deadline
            answer = await self._try(state, replica, call, read, until)
            if not isinstance(answer, Trouble):
                return answer
            fault = answer.fault
            pause = max(min(LONGEST_PAUSE, PAUSE * 2**tries) * random.uniform(0.5, 1.0), answer.after)
            if answer.elsewhere:  # another server is there: the pause is this one's affair
                pause = 0.0 if answer.sick else min(pause, PAUSE)
            if not answer.again or tries == self.retries or state.loop.time() + pause >= until:
                return fault
            self.usage.retries += 1
            await asyncio.sleep(pause)
        return fault

    async def _try(
        self, state: _State, replica: Replica, call: Call, read: Callable[[Any], T], until: float
    ) -> T | Trouble:
        """One try at one replica, which learns from it; the slot is given back."""
        import openai

        started, round_ = state.loop.time(), replica.limit.round
        try:
            async with asyncio.timeout_at(min(started + self.timeout, until)):
                response = await call(replica.client)
            if isinstance(response, str | bytes):  # what the client makes of an answer that is not JSON
                raise BadReply(f"not JSON: {response[:200]!r}")
            value = read(response)
        except (BadReply, ValueError, TimeoutError, openai.OpenAIError) as error:
            trouble = judge(error, self.where, self._name(replica), self.api_key_env)
            if trouble.congested:
                replica.limit.halve(round_)
            replica.rest = (
                max(replica.rest, state.loop.time() + trouble.after) if trouble.after else replica.rest
            )
            if trouble.after:
                state.loop.call_later(trouble.after, _wake, state)
            replica.failures = replica.failures + 1 if trouble.sick else 0
            if replica.failures >= FAILURES and not replica.out:
                self._take_out(state, replica)
            trouble.elsewhere = any(r is not replica and not r.out for r in state.replicas)
            return trouble
        else:
            tokens = self._count(response)
            replica.failures = 0
            replica.limit.good(state.loop.time() - started, tokens, replica.busy)
            return value
        finally:
            replica.busy -= 1
            _wake(state)

    def _count(self, response: Any) -> int:
        """Adds the response's `usage`, where it has one; returns the tokens that were made (1 where nobody
        counts)."""
        used = getattr(response, "usage", None)
        made = _whole(used, "completion_tokens", "output_tokens")
        self.usage.answers += 1
        self.usage.prompt_tokens += _whole(used, "prompt_tokens", "input_tokens")
        self.usage.completion_tokens += made
        return made or 1

    async def _slot(self, state: _State) -> Replica | None:
        """The least busy replica that is free, as soon as there is one; None once all have been out for
        `patience` seconds."""
        while True:
            free = [replica for replica in state.replicas if replica.free(state.loop.time())]
            if free:
                best = min(free, key=lambda r: r.busy / r.limit.now)
                best.busy += 1
                return best
            if state.down:
                return None
            turn = state.loop.create_future()
            state.waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():  # called up and gone: the next one's turn
                    _wake(state)
                raise

    def _take_out(self, state: _State, replica: Replica) -> None:
        replica.out = True
        state.probes.add(task := state.loop.create_task(self._probe(state, replica)))
        task.add_done_callback(state.probes.discard)

    async def _probe(self, state: _State, replica: Replica) -> None:
        """Asks a replica that is out for its models until it answers, then puts it back."""
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
                replica.out, replica.failures, replica.limit = False, 0, Limit(self.concurrency)
                state.down = False
                _wake(state)
                return
            if all(r.out for r in state.replicas) and state.loop.time() - started + pause > self.patience:
                state.down = True
                _wake(state)


def addresses(where: str, base_url: str | None, base_urls: Sequence[str] | None) -> tuple[str, ...]:
    """A recipe's `base_url: ...` or `base_urls: [...]` as a tuple, empty where neither is given."""
    if base_url is not None and base_urls is not None:
        raise UserError(f"{where}: give base_url or base_urls, not both")
    if base_url is not None and not isinstance(base_url, str):
        raise UserError(f"{where}: base_url is one address; several are replicas: base_urls")
    if base_urls is not None and (isinstance(base_urls, str) or not base_urls):
        raise UserError(f"{where}: base_urls is a list of addresses, not {base_urls!r}")
    return tuple(base_urls) if base_urls is not None else (base_url,) if base_url is not None else ()


def _wake(state: _State) -> None:
    """Lets as many waiting requests look again as there are places; all of them when every server is down."""
    now = state.loop.time()
    places = sum(replica.limit.now - replica.busy for replica in state.replicas if replica.free(now))
    while state.waiting and (places > 0 or state.down):
        turn = state.waiting.popleft()
        if not turn.done():
            turn.set_result(None)
            places -= 1


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


def _whole(used: Any, *names: str) -> int:
    values = (getattr(used, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value >= 0), 0)
