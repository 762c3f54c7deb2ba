"""The shared client of OpenAI-compatible servers, against a server that answers wrongly on demand."""

import email.utils
import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest

from conformance import check_llm, request
from ctrlsynth.errors import ModelError
from ctrlsynth.models import installed, server
from ctrlsynth.models.base import Reply
from ctrlsynth.models.llms.server import OpenAIServer
from ctrlsynth.models.registry import load
from ctrlsynth.models.server import LONGEST_REST, retry_after
from helpers import assert_refused
from servers import FaultyServer, completion, echo, free_port, said, wait_for

DRAFT_DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PAUSE", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")


@pytest.fixture
def opened() -> Iterator[list[OpenAIServer]]:
    models: list[OpenAIServer] = []
    yield models
    for model in models:
        model.close()


def client(opened: list[OpenAIServer], *servers: FaultyServer | str, **options: Any) -> OpenAIServer:
    opened.append(
        load(
            {"openai": "m", "base_urls": [s if isinstance(s, str) else s.url for s in servers], **options},
            "llm",
        )
    )
    return opened[-1]


def ask(model: OpenAIServer, *texts: str) -> list[Reply]:
    return model.generate([replace(request(text), instruction=text) for text in texts])


def first(*faults: Any) -> Any:
    """Answers with the faults one after the other, then rightly."""
    return lambda n, body: faults[n] if n < len(faults) else echo(n, body)


def status(
    number: int, text: str = "no", headers: Mapping[str, str] | None = None, **error: Any
) -> tuple[int, Mapping[str, str], bytes]:
    return number, headers or {}, json.dumps({"error": {"message": text, **error}}).encode()


PASSING = [
    status(500),
    status(503),
    status(429),
    status(408),
    "garbage",
    "page",
    "half",
    "close",
    {},
    {"choices": []},
    {"choices": None},
]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_asked_again(opened: list[OpenAIServer], fault: Any) -> None:
    with FaultyServer(first(fault, fault)) as faulty:
        model = client(opened, faulty)
        (r,) = ask(model, "hello")
        assert (r.text, r.error, r.prompt_tokens, r.completion_tokens) == ("You said: hello", None, 7, 5)
        assert (len(faulty.seen), model.pool.retried) == (3, 2)


LASTING = [
    (status(500), "server_error"),
    (status(429), "rate_limited"),
    ("garbage", "bad_reply"),
    ("page", "bad_reply"),
    ("half", "no_connection"),
    ("close", "no_connection"),
    ("hang", "timeout"),
    ({"choices": 5}, "bad_reply"),
    (completion(cast(Any, ["a"])), "bad_reply"),
]


@pytest.mark.parametrize(("fault", "error"), LASTING)
def test_a_lasting_fault_costs_its_row_only(opened: list[OpenAIServer], fault: Any, error: str) -> None:
    with FaultyServer(lambda n, body: fault if "poison" in said(body) else echo(n, body)) as faulty:
        model = client(opened, faulty, retries=1, timeout=0.5)
        replies = ask(model, "a", "poison", "b", "a")
        assert [r.error for r in replies] == [None, error, None, None]
        assert [r.text for r in replies] == ["You said: a", "", "You said: b", "You said: a"]
        assert replies[1].raw
        assert sum("poison" in said(body) for body in faulty.seen) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [(status(400, "no such field"), "refused"), (status(422), "refused"), (completion("",
    finish_reason="content_filter"), "refused"),
     (completion(None, refusal="I would rather not."), "refused"), (completion("  "), "empty_reply"),
     (completion(None), "empty_reply"),
     (status(400, "too many", code="context_length_exceeded"), "prompt_too_long"),
     (status(400, "the request exceeds", type="exceed_context_size_error"), "prompt_too_long"),
     (status(400, "This model's maximum context length is 8 tokens"), "prompt_too_long")],
)  # fmt: skip
def test_what_asking_again_does_not_mend_is_asked_once(
    opened: list[OpenAIServer], answer: Any, error: str
) -> None:
    with FaultyServer(lambda n, body: answer) as faulty:
        assert ([r.error for r in ask(client(opened, faulty), "x")], len(faulty.seen)) == ([error], 1)


@pytest.mark.parametrize(
    "answer",
    [status(401), status(403), status(404, "no model m"), status(429, "pay", code="insufficient_quota")],
)
def test_what_the_user_can_mend_stops_at_once(opened: list[OpenAIServer], answer: Any) -> None:
    with FaultyServer(lambda n, body: answer) as faulty:
        without_the_key = r"^models.llm: (?!.*sesame).*127.0.0.1"
        assert_refused(ask, without_the_key, client(opened, faulty), "x", "y")


def test_retry_after_is_honoured_in_seconds_and_as_a_date(opened: list[OpenAIServer]) -> None:
    with FaultyServer(first(status(429, headers={"Retry-After": "0.6"}))) as faulty:
        assert ask(client(opened, faulty), "x")[0].error is None
        assert faulty.times[1] - faulty.times[0] > 0.55
    with FaultyServer() as faulty:
        when = email.utils.formatdate(time.time() + 2, usegmt=True)
        faulty.answer = first(status(503, headers={"Retry-After": when}))
        assert ask(client(opened, faulty), "x")[0].error is None
        assert time.time() >= email.utils.parsedate_to_datetime(when).timestamp()
    assert [retry_after({"retry-after": t}) for t in ("", "soon", DRAFT_DATE, "-3", "nan", "inf", "7")] == [
        0,
        0,
        0,
        0,
        0,
        LONGEST_REST,
        7,
    ]


def test_a_server_that_asks_for_rest_gets_it_from_all_requests(opened: list[OpenAIServer]) -> None:
    with FaultyServer(first(status(429, headers={"Retry-After": "0.7"}))) as faulty:
        replies = ask(client(opened, faulty, concurrency=1), *"abcdef")
        assert [r.error for r in replies] == [None] * 6
        assert min(later - faulty.times[0] for later in faulty.times[1:]) > 0.65


def test_the_deadline_holds_for_the_whole_request(opened: list[OpenAIServer]) -> None:
    with FaultyServer(lambda n, body: status(429, headers={"Retry-After": "30"})) as faulty:
        assert [r.error for r in ask(client(opened, faulty, deadline=5), "x", "y")] == ["rate_limited"] * 2
        assert len(faulty.seen) == 2  # no request waits for an answer that would come too late
    with FaultyServer(lambda n, body: "hang") as faulty:
        started = time.monotonic()
        assert [r.error for r in ask(client(opened, faulty, timeout=0.4, deadline=1.0), "x")] == ["timeout"]
        assert time.monotonic() - started > 0.9
        assert 1 <= len(faulty.seen) <= 4


def test_answers_belong_to_their_requests_whatever_order_they_come_in(opened: list[OpenAIServer]) -> None:
    def slow(n: int, body: Mapping[str, Any]) -> Any:
        time.sleep(0.2 if n % 3 == 0 else 0.0)
        return echo(n, body) if n % 4 else status(500)

    with FaultyServer(slow) as faulty:
        texts = [f"t{n % 17}" for n in range(60)]
        replies = ask(client(opened, faulty), *texts)
        assert [r.text for r in replies] == [f"You said: {t}" for t in texts]


def test_concurrency_is_bounded_adapts_and_recovers(opened: list[OpenAIServer]) -> None:
    def crowded(n: int, body: Mapping[str, Any]) -> Any:
        full = faulty._busy > 6
        time.sleep(0.03)
        return status(429) if full else echo(n, body)

    with FaultyServer(crowded) as faulty:
        model = client(opened, faulty, concurrency=32)
        assert {r.error for r in ask(model, *map(str, range(150)))} == {None}
        assert 6 <= faulty.most <= 32
        assert model.pool.retried < 60, "a limit that does not adapt is refused at every step"

    def slow(n: int, body: Mapping[str, Any]) -> Any:
        time.sleep(0.2)  # long beside what a request costs on a busy machine, so that all places are taken
        return echo(n, body)

    with FaultyServer(slow) as calm:
        ask(client(opened, calm, concurrency=20), *map(str, range(150)))
        assert calm.most == 20


def test_a_replica_that_dies_is_taken_out_and_put_back(opened: list[OpenAIServer]) -> None:
    port = free_port()
    with FaultyServer() as one:
        other = FaultyServer(port=port)
        model = client(opened, one, other)
        ask(model, *map(str, range(40)))
        assert min(len(one.seen), len(other.seen)) > 5
        other.__exit__()
        seen = len(one.seen)
        assert ({r.error for r in ask(model, *map(str, range(40)))}, len(one.seen)) == ({None}, seen + 40)
        with FaultyServer(port=port) as again:
            deadline = time.monotonic() + 20
            while not again.seen and time.monotonic() < deadline:
                assert {r.error for r in ask(model, *map(str, range(20)))} == {None}
                time.sleep(0.05)
            assert again.seen


def test_a_replica_that_only_says_500_is_left_alone(opened: list[OpenAIServer]) -> None:
    with FaultyServer() as good, FaultyServer(lambda n, body: status(500)) as bad:
        assert {r.error for r in ask(client(opened, good, bad), *map(str, range(60)))} == {None}
        assert len(bad.seen) < 40


def test_a_dead_server_that_comes_back_in_time_costs_nothing(opened: list[OpenAIServer]) -> None:
    port = free_port()
    model = client(opened, f"http://127.0.0.1:{port}/v1", patience=30)
    with ThreadPoolExecutor(1) as thread:
        replies = thread.submit(ask, model, "a", "b")
        wait_for(lambda: model.pool._state is not None and model.pool._state.replicas[0].out)
        with FaultyServer(port=port):
            assert [r.text for r in replies.result()] == ["You said: a", "You said: b"]


def test_all_servers_dead_is_the_batch_s_fault_unless_something_was_answered(
    opened: list[OpenAIServer],
) -> None:
    model = client(
        opened, *[f"http://127.0.0.1:{free_port()}/v1" for _ in range(2)], patience=0.3, retries=20
    )
    with pytest.raises(ModelError, match="no server has answered") as caught:
        ask(model, "a", "b")
    assert caught.value.reason == "server_down"
    faulty = FaultyServer()
    model = client(opened, faulty, patience=0.3, retries=20, concurrency=1)

    def dies(n: int, body: Mapping[str, Any]) -> Any:
        if n == 3:
            threading.Thread(target=faulty.__exit__).start()
            return "close"
        return echo(n, body)

    faulty.answer = dies
    assert [r.error for r in ask(model, *"abcdefgh")] == [None] * 3 + ["server_down"] * 5


def test_preflight_names_key_server_and_model(
    opened: list[OpenAIServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyServer(models=("m", "qwen2")) as faulty, FaultyServer(models=("n", "o")) as other:
        client(opened, faulty).check()
        misspelt = client(opened, faulty, openai="qwen3")
        nobody = client(opened, f"http://127.0.0.1:{free_port()}/v1")
        for work, message in (
            (misspelt.check, "did you mean 'qwen2'"),
            (lambda: misspelt.digest, "did you mean 'qwen2'"),
            (lambda: client(opened, faulty, other).digest, "unknown model 'm'"),  # replicas serve the same
            (nobody.check, r"no server answers at http://127.0.0.1"),
        ):
            assert_refused(work, message)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert_refused(OpenAIServer("gpt").check, "OPENAI_API_KEY holds no key")


def test_digest_is_the_server_s_word_and_the_options_never_the_key(
    opened: list[OpenAIServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyServer() as faulty, FaultyServer() as twin:
        model = client(opened, faulty)
        assert model.digest.startswith("unverified:")
        time.sleep(1.1)  # `created` of the faulty server is the time of the question, as llama-server's is
        monkeypatch.setenv("OPENAI_API_KEY", "another")
        same = [
            client(opened, twin),
            client(opened, faulty, twin),
            client(opened, faulty, concurrency=3, prices={"input": 1}),
        ]
        assert {m.digest for m in same} == {model.digest}
        others: list[dict[str, Any]] = [
            {"temperature": 0.7},
            {"temperature": None},
            {"top_p": 0.5},
            {"max_tokens": 9},
            {"extra_body": {"top_k": 4}},
            {"structured": False},
            {"presence_penalty": 1.0},
            {"repetition_penalty": 1.2},
            {"version": "2407"},
        ]
        assert len({client(opened, faulty, **o).digest for o in others} | {model.digest}) == len(others) + 1


def test_the_key_comes_from_the_named_variable(
    opened: list[OpenAIServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "open")
    with FaultyServer() as faulty:
        ask(client(opened, faulty, api_key_env="MY_KEY"), "x")
        monkeypatch.delenv("OPENAI_API_KEY")
        ask(client(opened, faulty), "x")  # a server of one's own needs none
    assert faulty.keys[0] == "Bearer open"
    assert "sesame" not in faulty.keys[1]


def test_conformance(opened: list[OpenAIServer]) -> None:
    def strict(n: int, body: Mapping[str, Any]) -> Any:
        if not isinstance(body["messages"][-1]["content"], str):
            return status(400, "content must be text")
        return status(400, code="context_length_exceeded") if len(said(body)) > 50_000 else echo(n, body)

    with FaultyServer(strict) as one, FaultyServer(strict) as two, FaultyServer(models=("lora",)) as other:
        model = client(opened, one, two)
        check_llm(lambda: model, lambda: client(opened, other, openai="lora"))
        assert model.pool.retried == 0


def test_what_was_begun_is_asked_once_and_what_was_given_up_again(opened: list[OpenAIServer]) -> None:
    with FaultyServer() as faulty:
        model = client(opened, faulty)
        requests = [replace(request(t), instruction=t) for t in ("a", "b", "a")]
        twins = [replace(r) for r in requests]
        model.begin(requests)
        model.begin(twins[:1])
        for asked, fewest, most in ((requests[::-1], 3, 4), (twins[:2], 5, 5), (requests, 8, 8)):
            assert [r.text for r in model.generate(asked)] == [f"You said: {r.instruction}" for r in asked]
            assert fewest <= len(faulty.seen) <= most
        faulty.answer = lambda n, body: "hang"
        model.begin(requests)
        model.close()
        faulty.answer = echo
        assert [r.error for r in model.generate(requests)] == [None] * 3


def test_it_ends_and_starts_again(opened: list[OpenAIServer]) -> None:
    def threads() -> int:
        return sum(thread.name == "servers" for thread in threading.enumerate())

    with FaultyServer() as faulty:
        model, before = client(opened, faulty), threads()
        assert (ask(model, "a")[0].text, threads()) == ("You said: a", before + 1)
        model.close()
        model.close()
        assert (threads(), ask(model, "b")[0].text) == (before, "You said: b")
    assert model.generate([]) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"base_urls": []}, "base_urls: a list of addresses"),
    ({"base_url": ["http://a", "http://b"]}, "base_url: one address .*; several are replicas: base_urls"),
    ({"base_url": "localhost:8000"}, "begins with http"),
    ({"base_url": "http://a", "base_urls": ["http://b"]}, "not both"),
    ({"concurrency": 0}, "concurrency: a whole number"),
    ({"timeout": 0}, "timeout: seconds, a number"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"prices": {"inptu": 1}}, "prices: US dollars, {input: .*, not {'inptu': 1}"),
    ({"prices": {"input": -1}}, "prices: US dollars"),
    ({"temprature": 1}, "did you mean 'temperature'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    assert_refused(load, rf"^models.*{message}", {"openai": "m", **options}, "llm")


def test_absent_client_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "installed", lambda module: False)
    assert_refused(
        OpenAIServer, r"^models.llm: openai is not installed; pip install 'ctrlsynth\[server\]'$", "m"
    )
