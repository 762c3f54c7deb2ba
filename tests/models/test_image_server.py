"""The image server backend against real servers on loopback: one that draws what it is asked with our own
painter, and a faulty one."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conformance import check_painter
from ctrlsynth.api.run import run
from ctrlsynth.data.images import encode
from ctrlsynth.models import server
from ctrlsynth.models.base import Prompt
from ctrlsynth.models.embedded.scenes.painter import Scenes
from ctrlsynth.models.registry import load
from ctrlsynth.models.text_to_image.server import ImageServer
from helpers import assert_fails, assert_refused, recipe, tables
from servers import FaultyServer, free_port

BLOCKED: Any = (
    400,
    {},
    json.dumps({"error": {"message": "your request was rejected", "code": "moderation_blocked"}}).encode(),
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PAUSE", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")


@pytest.fixture
def client() -> Iterator[Callable[..., ImageServer]]:
    """A model behind servers, closed after the test."""
    with ExitStack() as stack:
        yield lambda *servers, **options: stack.enter_context(closing(model_of(*servers, **options)))


def model_of(*servers: FaultyServer, **options: Any) -> Any:
    return load({"openai": "m", "base_urls": [s.url for s in servers], **options}, "text_to_image")


@pytest.fixture
def drawing() -> Iterator[FaultyServer]:
    with FaultyServer(draw) as running:
        yield running


def draw(_: int, body: Mapping[str, Any]) -> Any:
    """What a server does: draws the prompt, turns down what moderation blocks and what is no prompt."""
    if not isinstance(body["prompt"], str) or "forbidden" in body["prompt"]:
        return BLOCKED
    width, height = map(int, body.get("size", "64x64").split("x"))
    prompt = Prompt(body["prompt"], seed=body.get("seed", 0), size=(width, height))
    data = encode(image_of(prompt), "png")
    return {"created": 0, "data": [{"b64_json": base64.b64encode(data).decode()}]}


def image_of(prompt: Prompt) -> Any:
    return Scenes(64).generate([prompt])[0].image


def test_conformance(client: Callable[..., ImageServer], drawing: FaultyServer) -> None:
    with FaultyServer(draw, models=("m", "n")) as two:
        check_painter(
            lambda: client(drawing, size=64),
            lambda: load({"openai": "n", "base_url": two.url, "size": 64}, "text_to_image"),
        )


def test_the_image_is_the_servers_and_the_request_says_what_is_wanted(
    client: Callable[..., ImageServer], drawing: FaultyServer
) -> None:
    model = client(drawing, size=[96, 64], extra_body={"steps": 4})
    dog, cat = Prompt("a red dog", negative="blur", seed=7), Prompt("a cat", seed=8, size=(64, 128))
    wanted = [image_of(replace(dog, negative="", size=(96, 64))), image_of(cat)]
    assert [painting.image for painting in model.generate([dog, cat])] == wanted
    common = {"model": "m", "n": 1, "response_format": "b64_json", "steps": 4}
    assert sorted(drawing.seen, key=lambda body: str(body["prompt"])) == [
        common | {"prompt": "a cat", "size": "64x128", "seed": 8},
        common | {"prompt": "a red dog", "size": "96x64", "seed": 7, "negative_prompt": "blur"},
    ]


def test_the_hosted_service_is_sent_only_what_it_takes() -> None:
    with closing(load({"openai": "gpt-image-1", "size": 1024, "version": "1"}, "text_to_image")) as model:
        body = {"model": "gpt-image-1", "prompt": "a dog", "n": 1, "size": "1024x1024"}
        assert model.body(Prompt("a dog", seed=5)) == body
        assert model.generate([Prompt("a dog", negative="a cat")])[0].error == "negative_unsupported"


def test_what_moderation_turns_down_is_its_rows_error(
    client: Callable[..., ImageServer], drawing: FaultyServer
) -> None:
    made = client(drawing).generate([Prompt("a dog"), Prompt("a forbidden dog"), Prompt("a cat")])
    wanted = [(None, True), ("refused", False), (None, True)]
    assert [(p.error, p.image is not None) for p in made] == wanted
    assert len(drawing.seen) == 3


BAD: list[Any] = [
    {"created": 0}, {"created": 0, "data": []}, {"created": 0, "data": [{}]}, {"created": 0,
    "data": [{"b64_json": "!!"}]},
    {"created": 0, "data": [{"b64_json": base64.b64encode(b"no image").decode()}]}, "garbage", "page",
    "half", "close",
    (500, {}, b"{}"), (429, {"Retry-After": "0.05"}, b"{}"),
]  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_passing_fault_is_asked_again_and_a_lasting_one_costs_its_row(
    client: Callable[..., ImageServer], fault: Any
) -> None:
    with FaultyServer(lambda n, body: fault if n == 0 else draw(n, body)) as faulty:
        assert client(faulty, concurrency=1).generate([Prompt("a dog")])[0].error is None
        assert len(faulty.seen) == 2
    with FaultyServer(lambda n, body: fault if "poison" in body["prompt"] else draw(n, body)) as faulty:
        made = client(faulty, retries=1).generate([Prompt("a dog"), Prompt("poison"), Prompt("a cat")])
        assert [p.error is None for p in made] == [True, False, True]


def test_an_address_in_place_of_the_image_stops_at_once(client: Callable[..., ImageServer]) -> None:
    with FaultyServer(lambda n, body: {"created": 0, "data": [{"url": "http://127.0.0.1/x.png"}]}) as faulty:
        assert_refused(
            partial(client(faulty).generate, [Prompt("a dog")]),
            "an address in place of the image; set b64_json: true",
        )
        assert len(faulty.seen) == 1


def test_what_was_begun_is_not_asked_again(client: Callable[..., ImageServer], drawing: FaultyServer) -> None:
    model = client(drawing)
    prompts = [Prompt("a dog", seed=1), Prompt("a dog", seed=1), Prompt("a cat")]
    model.begin(prompts[:2])
    images = [painting.image for painting in model.generate(prompts)]
    assert images == [image_of(replace(prompt, size=(64, 64))) for prompt in prompts]
    assert len(drawing.seen) == 3


def test_no_server_no_images(client: Callable[..., ImageServer]) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    model = client(base_urls=[url], patience=0.2, version="1")
    assert_fails(partial(model.generate, [Prompt("a dog")]), "server_down")


def test_preflight_and_digest(client: Callable[..., ImageServer], drawing: FaultyServer) -> None:
    model = client(drawing)
    model.check()
    assert model.digest.startswith("unverified:")
    others: Any = ({"size": 64}, {"seed": False}, {"extra_body": {"steps": 2}}, {"version": "2"})
    assert len({m.digest for m in [model, *(client(drawing, **other) for other in others)]}) == 5
    assert client(drawing, concurrency=2).digest == model.digest
    assert_refused(client(drawing, openai="k").check, "unknown model 'k'")
    client(base_urls=["http://127.0.0.1:9/v1"], version="3").check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sized": 3}, "unknown option 'sized'; did you mean 'size'"),
        ({"size": "large"}, r"text_to_image\.size: one edge or"),
        ({"size": [1, 2, 3]}, r"text_to_image\.size: one edge or"),
        ({"base_urls": ["localhost"]}, "base_urls: a list of addresses, each of which begins with http"),
        ({"prices": {"output": 1.0}}, r"text_to_image\.prices: no tokens are kept for this stage"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    assert_refused(partial(load, {"openai": "m", "version": "1", **options}, "text_to_image"), message)


def test_a_run_paints_by_a_server_and_asks_once(tmp_path: Path) -> None:
    with FaultyServer(lambda n, body: BLOCKED if "boat" in body["prompt"] else draw(n, body)) as drawing:
        models = {
            "tagger": "wordnet",
            "llm": "realizer",
            "text_to_image": {"openai": "m", "base_url": drawing.url, "prices": {"row": 0.04}},
        }
        plan = recipe(
            tmp_path,
            rows=12,
            models=models,
            paths=["SP4"],
            judge={"tagger": "reference"},
            image_policy={"size": 64},
        )
        made = run(plan, tmp_path / "run", base=tmp_path)
        rows = list(made.rows("paint"))
        refused = ["boat" in row["prompt"] for row in rows]
        assert len(rows) == len(drawing.seen) == 12 > sum(refused) > 0
        results = {False: ("ok", None), True: ("failed", "refused")}
        assert [(r["status"], r["reason"]) for r in rows] == [results[no] for no in refused]
        assert {r.folder: r.cost for r in made.ledger()}["paint"] == pytest.approx(0.04 * (12 - sum(refused)))
        first = tables(made)
        assert (tables(run(plan, tmp_path / "run", base=tmp_path)), len(drawing.seen)) == (first, 12)
        policy = {"weights": {"dog": 2}}
        weighed = recipe(tmp_path, models=models, paths=["SP4"], judge=None, image_policy=policy)
        assert_refused(
            lambda: run(weighed, tmp_path / "other", base=tmp_path),
            r"models\.text_to_image: an image server cannot weigh tags",
        )
