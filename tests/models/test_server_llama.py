"""The OpenAI client against a real server: llama.cpp's own with SmolLM2-135M, in processes on loopback that
are really killed."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from conformance import check_llm, request
from ctrlsynth.errors import UserError
from ctrlsynth.models.base import Request
from ctrlsynth.models.llms.server import OpenAIServer
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
def model(server: LlamaServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("LLAMA_KEY", "sesame")
    made = OpenAIServer("smollm2", base_url=server.url, api_key_env="LLAMA_KEY", concurrency=2, max_tokens=8)
    yield made
    made.close()


def test_conformance_with_one_text_in_two_free(model: OpenAIServer, server: LlamaServer) -> None:
    """llama.cpp's greedy texts change with the requests beside them and before them in a slot; the tolerance
    is half of the texts, so that a change of order or number is still seen."""
    other = OpenAIServer("smollm2", base_url=server.url, api_key_env="LLAMA_KEY", temperature=1.0)
    try:
        check_llm(lambda: model, lambda: other, rows=ROWS, tolerance=0.5)
        long = model.generate([request("very " * 3000)])[0]
        assert (long.error, long.text) == ("prompt_too_long", "")
    finally:
        other.close()


def test_usage_digest_and_preflight_are_the_server_s(model: OpenAIServer, server: LlamaServer) -> None:
    model.check()
    (reply,) = model.generate(ROWS[:1])
    assert reply.finish == "length"
    assert reply.completion_tokens == 8
    assert (reply.prompt_tokens or 0) > 10
    assert model.digest.startswith("unverified:")
    (told,) = model.pool.models().values()
    assert told[0]["meta"]["n_params"] > 10**8  # what the digest holds of the weights
    unkeyed = OpenAIServer("smollm2", base_url=server.url, api_key_env="NO_SUCH_KEY")
    try:
        with pytest.raises(UserError, match="refuses the key in NO_SUCH_KEY"):
            unkeyed.generate(ROWS[:1])
    finally:
        unkeyed.close()


def test_structured_output_is_held_by_the_server(server: LlamaServer, model: OpenAIServer) -> None:
    wide = OpenAIServer("smollm2", base_url=server.url, api_key_env="LLAMA_KEY")
    try:
        (reply,) = wide.generate([Request("Describe a dog with a ball.", schema=SCHEMA, max_tokens=64)])
        told = json.loads(reply.text)
        assert isinstance(told["caption"], str)
        assert set(told["objects"]) <= {"dog", "ball"}
    finally:
        wide.close()


def test_a_server_that_is_killed_is_left_and_found_again(
    server: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_KEY", "sesame")
    with LlamaServer(slots=2, key="sesame") as twin:
        both = OpenAIServer(
            "smollm2", base_urls=[server.url, twin.url], api_key_env="LLAMA_KEY", concurrency=2, max_tokens=4
        )
        try:
            assert both.digest == both.digest
            asked = ROWS * 4
            with ThreadPoolExecutor(1) as thread:
                answers = thread.submit(both.generate, asked)
                wait_for(lambda: answers.done() or ((state := both.pool._state) and state.replicas[1].busy))
                twin.kill()
                replies: list[Any] = answers.result()
            assert [r.error for r in replies] == [None] * len(asked)
            twin.start()
            state = both.pool._state
            assert state is not None
            wait_for(lambda: not any(r.out for r in state.replicas))
            assert [r.error for r in both.generate(ROWS)] == [None] * len(ROWS)
        finally:
            both.close()
