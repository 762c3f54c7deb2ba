"""2a by image-to-text models on tiny real checkpoints (Florence-2 and other classes of transformers), alone, with
extraction, in a run and in want of memory; and behind an OpenAI-compatible vision server: a real server on
loopback that decodes the picture and answers by its colour, and one that fails."""

import base64
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image

from conformance import Tiny, check_tagger, other_weights
from ctrlsynth.api.run import run
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText, Reply
from ctrlsynth.models.taggers.captioner import CHAT_PROMPT, CaptionerTagger
from ctrlsynth.sample import Tags
from helpers import assert_fails, assert_refused, recipe
from servers import FaultyServer, completion
from tiny_vision import COLOURS, THINGS, Cramped, picture, pictures

SHORT = {"max_new_tokens": 24}  # beams of a tiny model go on to the last token


def test_florence2_says_what_it_sees(tiny: Tiny) -> None:
    paper = models.load({"florence2": str(tiny("florence2"))}, "tagger")
    assert paper._generation == {"num_beams": 3, "max_new_tokens": 1024, "do_sample": False}
    assert paper._prompt == "<MORE_DETAILED_CAPTION>"
    tagger = models.load({"florence2": str(tiny("florence2")), **SHORT}, "tagger")
    odd = [
        picture("blue", (1, 9)),
        picture("red", (700, 3)),
        picture("red", mode="L").convert("RGBA"),
        picture("blue", mode="P"),
    ]
    found = tagger.tag(
        [*pictures("red", "blue"), *(ImageAndText(image) for image in odd), ImageAndText(None, "text only")]
    )
    colours = ("red", "blue", "blue", "red", "blue")
    assert [tags.caption for tags in (*found[:4], found[5])] == [THINGS[colour] for colour in colours]
    assert (found[0].objects, found[6], tagger.reads) == ((), Tags(), "pixels")
    tagger.close()
    assert tagger._loaded is None
    assert tagger.tag(pictures("red")) == found[:1]


@pytest.mark.parametrize("name", ["florence2", "blip", "git", "llava"])
def test_every_kind_keeps_the_contract(name: str, tiny: Tiny, tmp_path: Path) -> None:
    value = {"captioner": str(tiny(name)), "max_new_tokens": 24 if name == "florence2" else 8}
    folder = other_weights(tiny(name), tmp_path / "other")
    tagger, other, shorter = (
        models.load(value | more, "tagger")
        for more in ({}, {"captioner": str(folder)}, {"max_new_tokens": 7})
    )
    known: dict[str, Any] = {"rows": pictures("red", "blue", "red"), "image": picture("red")}
    check_tagger(lambda: tagger, lambda: other, **(known if name == "florence2" else {}))
    assert shorter.digest != tagger.digest
    assert tagger.content_digest() != other.content_digest()


def test_a_prompt_is_no_part_of_the_answer(tiny: Tiny) -> None:
    value = {"captioner": str(tiny("blip")), "max_new_tokens": 6}
    asked, plain = (
        models.load(value | more, "tagger").captions([picture("red")])[0]
        for more in ({"prompt": "a red dog"}, {})
    )
    assert not asked.startswith("a red dog")
    assert asked != plain


def test_extraction_from_the_caption(tiny: Tiny, tmp_path: Path) -> None:
    """The paper's chain on a real run: a folder of pictures, Florence-2's class, a language model, tags in
    the table."""
    for colour in THINGS:
        picture(colour).save(tmp_path / f"{colour}.png")
    tagger = {
        "captioner": str(tiny("florence2")),
        "extract": {"smollm2": None, "processes": 1},
        "batch": 4,
        **SHORT,
    }
    made = run(
        recipe(
            tmp_path,
            source={"folder": "."},
            models={"tagger": tagger, "llm": "realizer"},
            paths=[{"mine": ["image", "tags", "text*"]}],
        ),
        tmp_path / "run",
        base=tmp_path,
    )
    found = {row["caption"]: row for row in made.rows("tag")}
    assert set(found) == set(THINGS.values())
    assert {"boat"} <= set(found[THINGS["red"]]["objects"]) <= {"boat", "water"}
    assert {"bird"} <= set(found[THINGS["blue"]]["objects"]) <= {"bird", "tree"}
    assert all(row["dropped_phrases"] == 0 for row in found.values())  # the grammar lets nothing else through
    assert made.plan["steps"][1]["settings"]["reads"] == "pixels"


class Inventor:
    """A language model that names one thing that the caption has and two that it lacks."""

    id = digest = "inventor"

    def generate(self, requests: Sequence[Any]) -> list[Any]:
        return [Reply("objects: boat, whale\nattributes: red boat, huge whale\nrelations:") for _ in requests]


def test_what_the_caption_lacks_is_dropped_and_counted(tiny: Tiny) -> None:
    tagger = models.load(
        {"captioner": str(tiny("florence2")), **SHORT, "extract": f"{__name__}:Inventor"}, "tagger"
    )
    (tags,) = tagger.tag(pictures("red"))
    assert (tags, tags.dropped) == (Tags(("boat",), ("red boat",), caption=THINGS["red"]), 2)
    assert tagger.batch > 8  # the language model gets more at once than the captioner
    assert tagger.digest != models.load({"captioner": str(tiny("florence2")), **SHORT}, "tagger").digest


def test_memory_that_runs_out_halves_the_batch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tagger = models.load({"captioner": str(tiny("florence2")), "batch": 8, **SHORT}, "tagger")
    model, _ = tagger.loaded()
    cramped = Cramped(model.generate, 2)
    monkeypatch.setattr(model, "generate", cramped)
    colours = ("red", "blue", "blue", "red", "red")
    assert [tags.caption for tags in tagger.tag(pictures(*colours))] == [THINGS[c] for c in colours]
    assert cramped.seen == [5, 2, 2, 1]
    cramped.most = 0
    assert [tags.error for tags in tagger.tag(pictures("red", "blue"))] == ["out_of_memory"] * 2
    died = RuntimeError("CUDA error: an illegal memory access")
    monkeypatch.setattr(model, "generate", Mock(side_effect=died))
    assert_fails(partial(tagger.tag, pictures("red")), "engine_died")


def test_what_is_wrong_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    own = shutil.copytree(tiny("florence2"), tmp_path / "microsoft")
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"vision_config": {"dim_embed": [1]}}))
    blip = {"captioner": str(tiny("blip"))}
    for value, message in (
        ({"captioner": str(own)}, "code of its own, which is never run"),
        ({"florence2": str(tiny("blip"))}, "is no Florence-2; use"),
        (blip | {"bach": 3}, "unknown option 'bach'; did you mean 'batch'"),
        (blip | {"batch": 0}, "batch: a whole number from 1 up, not 0"),
        ({"captioner": str(tmp_path)}, "holds no config.json"),
        (blip | {"extract": "smollm3"}, "unknown llm model 'smollm3'; did you mean 'smollm2'"),
        ("captioner", "takes a model"),
    ):
        assert_refused(partial(models.load, value, "tagger"), message)
    bare = shutil.copytree(tiny("blip"), tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    empty = CaptionerTagger(str(bare))
    assert_refused(empty.check, "holds no weights")
    assert_refused(partial(empty.tag, pictures("red")), "cannot be loaded as AutoModelForImageTextToText")
    CaptionerTagger(str(tiny("blip"))).check()


def colour_of(body: Mapping[str, Any]) -> str:
    """Decodes the data URL of a request and names the nearest colour: the server really looks."""
    (part,) = (part for part in body["messages"][-1]["content"] if part["type"] == "image_url")
    head, _, data = part["image_url"]["url"].partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (head, image.format) == ("data:image/jpeg;base64", "JPEG")
        red, green, blue = image.convert("RGB").resize((1, 1)).tobytes()
    return min(COLOURS, key=lambda name: math.dist(COLOURS[name], (red, green, blue)))


def asked(body: Mapping[str, Any]) -> str:
    return str(next(part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text"))


def sees(_: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """What a vision model might say of a picture of one colour, in the form that it was asked for."""
    colour = colour_of(body)
    if asked(body) == CHAT_PROMPT:
        return completion(f"A {colour} boat on the water.")
    if "response_format" in body:
        return completion(
            json.dumps(
                {"objects": ["boat"], "attributes": [f"{colour} boat"], "relations": ["boat on water"]}
            )
        )
    return completion(
        f"1. **Objects:** the boat, water\n2. **Attributes:** {colour} boat\n3. **Relations:** {colour} "
        f"boat on the water"
    )


@pytest.fixture
def tagger() -> Iterator[Callable[..., Any]]:
    """A tagger of a server's, closed after the test."""
    with ExitStack() as stack:
        yield lambda server, **options: stack.enter_context(closing(model_of(server, **options)))


def model_of(server: FaultyServer, **options: Any) -> Any:
    return models.load({"openai": "m", "base_url": server.url, **options}, "tagger")


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(sees) as running:
        yield running


def test_the_contract(tagger: Callable[..., Any], server: FaultyServer) -> None:
    one, two = tagger(server, version="1"), tagger(server, version="2")
    items = pictures("red", "blue", "green")
    check_tagger(lambda: one, lambda: two, rows=items, image=picture("red"))


def test_tags_in_three_lines_and_as_json(tagger: Callable[..., Any], server: FaultyServer) -> None:
    lines, objects = tagger(server), tagger(server, mode="json")
    red, blue = (
        Tags(("boat", "water"), (f"{colour} boat",), ("boat on water",)) for colour in ("red", "blue")
    )
    items = [ImageAndText(None, "text"), ImageAndText(picture("red", mode="CMYK"))]
    assert lines.tag([*pictures("red", "blue"), *items]) == [red, blue, Tags(), red]
    # water is no object of its own here
    assert objects.tag(pictures("green")) == [Tags(("boat",), ("green boat",), ())]
    assert (len(server.seen), lines.reads) == (4, "pixels")
    assert "Output three lines" in asked(server.seen[0])
    assert lines.digest.startswith("unverified:")
    assert lines.digest != objects.digest
    lines.check()


def test_a_caption_then_extraction(tagger: Callable[..., Any], server: FaultyServer) -> None:
    (tags,) = tagger(server, extract={"smollm2": None, "processes": 1}).tag(pictures("red"))
    assert tags.caption == "A red boat on the water."
    assert "boat" in tags.objects
    assert asked(server.seen[0]) == CHAT_PROMPT
    alone = tagger(server, extract=True)
    assert alone.tag(pictures("blue")) == [Tags(caption="A blue boat on the water.")]


def test_faults_cost_their_row_only(tagger: Callable[..., Any]) -> None:
    """Of each kind of row, the one that is no answer; 500 and garbage are asked again."""
    answers: dict[str, list[Any]] = {
        "red": [(500, {}, b"busy"), "garbage", completion("objects: boat\nattributes:\nrelations:")],
        "blue": [completion("I am sorry, I cannot look at pictures.")],
        "green": [completion(None, refusal="no")],
    }
    with FaultyServer(lambda _, body: answers[colour_of(body)].pop(0)) as server:
        found = tagger(server).tag(pictures("red", "blue", "green"))
    wanted = [Tags(("boat",)), Tags(error="not_three_lines"), Tags(error="refused")]
    assert (found, answers) == (wanted, {"red": [], "blue": [], "green": []})


def test_a_run_judges_by_the_server(server: FaultyServer, tmp_path: Path) -> None:
    for colour in COLOURS:
        picture(colour).save(tmp_path / f"{colour}.png")
    spec = {"openai": "m", "base_url": server.url, "prices": {"row": 0.002}}
    chosen: dict[str, Any] = {
        "source": {"folder": "."},
        "models": {"tagger": spec, "llm": "realizer", "text_to_image": "scenes"},
        "paths": ["SP3"],
        "judge": {"tagger": spec, "threshold": 0.0},
    }
    made = run(recipe(tmp_path, **chosen), tmp_path / "run", base=tmp_path)
    assert {row["attributes"][0] for row in made.rows("tag")} == {f"{colour} boat" for colour in COLOURS}
    assert all(row["status"] == "ok" for row in made.rows("tag.2"))
    assert {r.folder: r.cost for r in made.ledger()}["tag"] == pytest.approx(3 * 0.002)


def test_wrong_options_are_one_sentence(tagger: Callable[..., Any]) -> None:
    with FaultyServer(sees) as server:
        for options, message in (
            ({"mode": "jsn"}, r"^models.tagger: unknown mode 'jsn'"),
            ({"base_urls": [server.url]}, r"^models.tagger: give base_url or base_urls, not both"),
            ({"concurency": 3}, r"^models.tagger: .*concurency"),
            ({"prices": {"input": 1.0}}, r"^models.tagger.prices: no tokens are kept for this stage"),
            ({"openai": ""}, r"^models.tagger: openai takes the model's name"),
        ):
            assert_refused(partial(model_of, server, **options), message)
        assert_refused(tagger(server, openai="other").check, r"^models.tagger: http.*unknown model 'other'")
    assert_refused(tagger(server).check, r"^models.tagger: no server answers at")
