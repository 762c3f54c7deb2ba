"""What goes wrong between us and an OpenAI-compatible server: whose fault it is, and whether asking again may
mend it."""

from __future__ import annotations

import contextlib
import email.utils
import time
from dataclasses import dataclass
from typing import Any

from ..errors import UserError

LONGEST = 3600.0
"""Seconds: no server's Retry-After is obeyed for longer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A request without an answer. `error` is the row's word in the ledger: timeout, rate_limited,
    server_error, no_connection, bad_reply, refused, prompt_too_long, server_down."""

    error: str
    message: str = ""


class BadReply(Exception):
    """Raised by a reader for an answer that is none; the request is asked again."""


@dataclass(slots=True)
class Trouble:
    """A try that failed: whether to ask again and after how many seconds, whether the server is overloaded
    (`congested`) or may be dead (`sick`), and whether another server is there (`elsewhere`)."""

    fault: Fault
    again: bool = True
    congested: bool = False
    sick: bool = False
    after: float = 0.0
    elsewhere: bool = False


def judge(error: BaseException, where: str, server: str, api_key_env: str) -> Trouble:
    """What an error means for its request and its server. Raises UserError for what no retry mends (key,
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
    status, told = error.status_code, f"{error.code} {error.type} {error}".lower()
    if status in (401, 403):
        raise UserError(f"{where}: the server refuses the key in {api_key_env} ({text})") from error
    if status == 404 or "insufficient_quota" in told:
        raise UserError(f"{where}: {text}") from error
    after = retry_after(error.response.headers)
    if status == 429:
        return Trouble(Fault("rate_limited", text), congested=True, after=after)
    if status >= 500 or status in (408, 409):
        return Trouble(Fault("server_error", text), sick=True, after=after)
    long = any(
        word in told
        for word in ("context_length", "exceed_context_size", "maximum context", "context length")
    )
    return Trouble(Fault("prompt_too_long" if long else "refused", text), again=False)


def retry_after(headers: Any) -> float:
    """Seconds of a Retry-After header, given in seconds or as a date (RFC 9110, 10.2.3); 0 where there is
    none that can be read."""
    told = headers.get("retry-after") or ""
    with contextlib.suppress(ValueError, OverflowError):
        return min(max(0.0, float(told)), LONGEST)
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        return min(max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time()), LONGEST)
    return 0.0
