"""The image server backend against real servers on loopback: one that draws what it is asked with our own
painter, and a faulty one."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import check_painter
from ctrlsynth.api.run import run
from ctrlsynth.errors import ModelError, UserError
from ctrlsynth.models import server
from ctrlsynth.models.base import Prompt
from ctrlsynth.models.embedded.scenes.painter import Scenes
from ctrlsynth.models.registry import load
from ctrlsynth.models.text_to_image.server import ImageServer
from helpers import recipe, tables
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
def opened() -> Iterator[list[ImageServer]]:
    models: list[ImageServer] = []
    yield models
    for model in models:
        model.close()


def client(opened: list[ImageServer], *servers: FaultyServer | str, **options: Any) -> ImageServer:
    urls = [s if isinstance(s, str) else s.url for s in servers]
    opened.append(load({"openai": "m", "base_urls": urls, **options}, "text_to_image"))
    return opened[-1]


def draw(_: int, body: Mapping[str, Any]) -> Any:
    """What a server does: draws the prompt, turns down what moderation blocks and what is no prompt."""
    if not isinstance(body["prompt"], str) or "forbidden" in body["prompt"]:
        return BLOCKED
    width, height = map(int, body.get("size", "64x64").split("x"))
    prompt = Prompt(body["prompt"], seed=body.get("seed", 0), size=(width, height))
    (painting,) = Scenes(64).generate([prompt])
    assert painting.image is not None
    data = io.BytesIO()
    painting.image.save(data, "PNG")
    return {"created": 0, "data": [{"b64_json": base64.b64encode(data.getvalue()).decode()}]}


def test_conformance(opened: list[ImageServer]) -> None:
    with FaultyServer(draw) as one, FaultyServer(draw, models=("m", "n")) as two:
        check_painter(
            lambda: client(opened, one, size=64),
            lambda: load({"openai": "n", "base_url": two.url, "size": 64}, "text_to_image"),
        )


def test_the_image_is_the_servers_and_the_request_says_what_is_wanted(opened: list[ImageServer]) -> None:
    with FaultyServer(draw) as drawing:
        model = client(opened, drawing, size=[96, 64], extra_body={"steps": 4})
        prompts = [Prompt("a red dog", negative="blur", seed=7), Prompt("a cat", seed=8, size=(64, 128))]
        made = model.generate(prompts)
        wanted = Scenes(64).generate([Prompt("a red dog", seed=7, size=(96, 64)), prompts[1]])
        for ours, theirs in zip(made, wanted, strict=True):
            np.testing.assert_array_equal(np.asarray(ours.image), np.asarray(theirs.image))
        seen = sorted(drawing.seen, key=lambda body: str(body["prompt"]))
        common = {"model": "m", "n": 1, "response_format": "b64_json", "steps": 4}
        red = {"prompt": "a red dog", "size": "96x64", "seed": 7, "negative_prompt": "blur"}
        assert seen == [common | {"prompt": "a cat", "size": "64x128", "seed": 8}, common | red]


def test_the_hosted_service_is_sent_only_what_it_takes() -> None:
    model: ImageServer = load({"openai": "gpt-image-1", "size": 1024, "version": "1"}, "text_to_image")
    assert model.body(Prompt("a dog", seed=5)) == {
        "model": "gpt-image-1",
        "prompt": "a dog",
        "n": 1,
        "size": "1024x1024",
    }
    assert model.generate([Prompt("a dog", negative="a cat")])[0].error == "negative_unsupported"
    model.close()


def test_what_moderation_turns_down_is_its_rows_error(opened: list[ImageServer]) -> None:
    with FaultyServer(draw) as drawing:
        made = client(opened, drawing).generate([Prompt("a dog"), Prompt("a forbidden dog"), Prompt("a cat")])
        assert [(p.error, p.image is not None) for p in made] == [
            (None, True),
            ("refused", False),
            (None, True),
        ]
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
    opened: list[ImageServer], fault: Any
) -> None:
    with FaultyServer(lambda n, body: fault if n == 0 else draw(n, body)) as faulty:
        assert client(opened, faulty, concurrency=1).generate([Prompt("a dog")])[0].error is None
        assert len(faulty.seen) == 2
    with FaultyServer(lambda n, body: fault if "poison" in body["prompt"] else draw(n, body)) as faulty:
        made = client(opened, faulty, retries=1).generate(
            [Prompt("a dog"), Prompt("poison"), Prompt("a cat")]
        )
        assert [p.error is None for p in made] == [True, False, True]


def test_an_address_in_place_of_the_image_stops_at_once(opened: list[ImageServer]) -> None:
    with FaultyServer(lambda n, body: {"created": 0, "data": [{"url": "http://127.0.0.1/x.png"}]}) as faulty:
        with pytest.raises(UserError, match="an address in place of the image; set b64_json: true"):
            client(opened, faulty).generate([Prompt("a dog")])
        assert len(faulty.seen) == 1


def test_what_was_begun_is_not_asked_again(opened: list[ImageServer]) -> None:
    with FaultyServer(draw) as drawing:
        model = client(opened, drawing)
        prompts = [Prompt("a dog", seed=1), Prompt("a dog", seed=1), Prompt("a cat")]
        model.begin(prompts[:2])
        made = model.generate(prompts)
        assert [p.error for p in made] == [None] * 3
        assert made[0].image == made[1].image != made[2].image
        assert len(drawing.seen) == 3


def test_no_server_no_images(opened: list[ImageServer]) -> None:
    model = client(opened, f"http://127.0.0.1:{free_port()}/v1", patience=0.2, version="1")
    with pytest.raises(ModelError) as caught:
        model.generate([Prompt("a dog")])
    assert caught.value.reason == "server_down"


def test_preflight_and_digest(opened: list[ImageServer]) -> None:
    with FaultyServer(draw) as drawing:
        model = client(opened, drawing)
        model.check()
        assert model.digest.startswith("unverified:")
        others = [
            client(opened, drawing, **o)
            for o in ({"size": 64}, {"seed": False}, {"extra_body": {"steps": 2}}, {"version": "2"})
        ]
        assert len({m.digest for m in [model, *others]}) == 5
        assert client(opened, drawing, concurrency=2).digest == model.digest
        with pytest.raises(UserError, match="unknown model 'k'"):
            load({"openai": "k", "base_url": drawing.url}, "text_to_image").check()
    assert client(opened, "http://127.0.0.1:9/v1", version="3").check() is None  # type: ignore[func-returns-value]


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
    with pytest.raises(UserError, match=message):
        load({"openai": "m", "version": "1", **options}, "text_to_image")


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
        assert len(rows) == len(drawing.seen) == 12
        refused = ["boat" in row["prompt"] for row in rows]
        assert 0 < sum(refused) < 12
        assert [(r["status"], r["reason"]) for r in rows] == [
            ("failed", "refused") if no else ("ok", None) for no in refused
        ]
        assert {r.folder: r.cost for r in made.ledger()}["paint"] == pytest.approx(0.04 * (12 - sum(refused)))
        first = tables(made)
        assert (tables(run(plan, tmp_path / "run", base=tmp_path)), len(drawing.seen)) == (first, 12)
        weighed = recipe(
            tmp_path, models=models, paths=["SP4"], judge=None, image_policy={"weights": {"dog": 2}}
        )
        with pytest.raises(UserError, match=r"models\.text_to_image: an image server cannot weigh tags"):
            run(weighed, tmp_path / "other", base=tmp_path)
