"""The OpenAI client against a real server: llama.cpp's own with SmolLM2-135M, in processes on loopback that
are really killed."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import pytest

from conformance import check_llm, request
from ctrlsynth.models.base import Request
from ctrlsynth.models.llms.server import OpenAIServer
from helpers import assert_refused
from servers import LlamaServer, wait_for

SCHEMA = {
    "type": "object",
    "properties": {
        "caption": {"type": "string", "maxLength": 40},
        "objects": {"type": "array", "items": {"enum": ["dog", "ball"]}, "maxItems": 2},
    },
    "required": ["caption", "objects"],
    "additionalProperties": False,
}
ROWS = [replace(request(text), max_tokens=8) for text in ("red dog", "blue car", "green tree")]


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    with LlamaServer(slots=2, key="sesame") as started:
        yield started


@pytest.fixture
def connect(server: LlamaServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., OpenAIServer]]:
    """Makes clients of the server, two requests in flight, and closes them."""
    monkeypatch.setenv("LLAMA_KEY", "sesame")
    common: dict[str, Any] = {"base_url": server.url, "api_key_env": "LLAMA_KEY", "concurrency": 2}
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(closing(OpenAIServer("smollm2", **common | options)))


def test_conformance_with_one_text_in_two_free(connect: Callable[..., OpenAIServer]) -> None:
    """llama.cpp's greedy texts change with the requests beside them and before them in a slot; the tolerance
    is half of the texts, so that a change of order or number is still seen."""
    model = connect(max_tokens=8)
    check_llm(lambda: model, lambda: connect(temperature=1.0), rows=ROWS, tolerance=0.5)
    long = model.generate([request("very " * 3000)])[0]
    assert (long.error, long.text) == ("prompt_too_long", "")


def test_usage_digest_and_preflight_are_the_server_s(connect: Callable[..., OpenAIServer]) -> None:
    model = connect(max_tokens=8)
    model.check()
    (reply,) = model.generate(ROWS[:1])
    assert (reply.finish, reply.completion_tokens, (reply.prompt_tokens or 0) > 10) == ("length", 8, True)
    assert model.digest.startswith("unverified:")
    (told,) = model.pool.models().values()
    assert told[0]["meta"]["n_params"] > 10**8  # what the digest holds of the weights
    assert_refused(connect(api_key_env="NO_SUCH_KEY").generate, "refuses the key in NO_SUCH_KEY", ROWS[:1])


def test_structured_output_is_held_by_the_server(connect: Callable[..., OpenAIServer]) -> None:
    (reply,) = connect().generate([Request("Describe a dog with a ball.", schema=SCHEMA, max_tokens=64)])
    told = json.loads(reply.text)
    assert isinstance(told["caption"], str)
    assert set(told["objects"]) <= {"dog", "ball"}


def test_a_server_that_is_killed_is_left_and_found_again(
    server: LlamaServer, connect: Callable[..., OpenAIServer]
) -> None:
    with LlamaServer(slots=2, key="sesame") as twin:
        both = connect(base_url=None, base_urls=[server.url, twin.url], max_tokens=4)
        assert both.digest == both.digest
        asked = ROWS * 4
        with ThreadPoolExecutor(1) as thread:
            answers = thread.submit(both.generate, asked)
            wait_for(lambda: answers.done() or ((state := both.pool._state) and state.replicas[1].busy))
            twin.kill()
            assert [r.error for r in answers.result()] == [None] * len(asked)
        twin.start()
        state = both.pool._state
        assert state is not None
        wait_for(lambda: not any(r.out for r in state.replicas))
        assert [r.error for r in both.generate(ROWS)] == [None] * len(ROWS)
