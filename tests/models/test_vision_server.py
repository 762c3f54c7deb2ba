"""2a behind an OpenAI-compatible vision server: a real server on loopback that decodes the picture and
answers by its colour, and one that fails."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conformance import check_tagger
from ctrlsynth.api.run import run
from ctrlsynth.errors import UserError
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText
from ctrlsynth.models.taggers.captioner import CHAT_PROMPT
from ctrlsynth.sample import Tags
from helpers import recipe
from servers import FaultyServer, completion

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 160, 30)}


def colour_of(body: Mapping[str, Any]) -> str:
    """Decodes the data URL of a request and names the nearest colour: the server really looks."""
    url = next(
        part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"
    )
    head, _, data = url.partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (head, image.format) == ("data:image/jpeg;base64", "JPEG")
        pixel = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(pixel, COLOURS[name], strict=True)))


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


def picture(colour: str, size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.new("RGB", size, COLOURS[colour])


def rows(*colours: str) -> list[ImageAndText]:
    return [ImageAndText(picture(colour)) for colour in colours]


def tagger(server: FaultyServer, **options: Any) -> Any:
    return models.load({"openai": "m", "base_url": server.url, **options}, "tagger")


def test_the_contract() -> None:
    with FaultyServer(sees) as server:
        made = tagger(server, version="1")
        check_tagger(
            lambda: made,
            lambda: tagger(server, version="2"),
            rows=rows("red", "blue", "green"),
            image=picture("red"),
        )
        made.close()


def test_tags_in_three_lines_and_as_json() -> None:
    with FaultyServer(sees) as server:
        lines, objects = tagger(server), tagger(server, mode="json")
        red, blue = (
            Tags(("boat", "water"), (f"{colour} boat",), ("boat on water",)) for colour in ("red", "blue")
        )
        items = [ImageAndText(None, "text"), ImageAndText(picture("red").convert("CMYK"))]
        assert lines.tag([*rows("red", "blue"), *items]) == [red, blue, Tags(), red]
        # water is no object of its own here
        assert objects.tag(rows("green")) == [Tags(("boat",), ("green boat",), ())]
        assert (len(server.seen), lines.reads) == (4, "pixels")
        assert "Output three lines" in asked(server.seen[0])
        assert lines.digest.startswith("unverified:")
        assert lines.digest != objects.digest
        lines.check()
        for made in (lines, objects):
            made.close()


def test_a_caption_then_extraction() -> None:
    with FaultyServer(sees) as server:
        made = tagger(server, extract={"smollm2": None, "processes": 1})
        (tags,) = made.tag(rows("red"))
        assert tags.caption == "A red boat on the water."
        assert "boat" in tags.objects
        assert asked(server.seen[0]) == CHAT_PROMPT
        made.close()
        alone = tagger(server, extract=True)
        assert alone.tag(rows("blue")) == [Tags(caption="A blue boat on the water.")]
        alone.close()


def test_faults_cost_their_row_only() -> None:
    """Of each kind of row, the one that is no answer; 500 and garbage are asked again."""
    seen: dict[str, int] = {}

    def answer(number: int, body: Mapping[str, Any]) -> Any:
        colour = colour_of(body)
        seen[colour] = seen.get(colour, 0) + 1
        answers: dict[str, list[Any]] = {
            "blue": [completion("I am sorry, I cannot look at pictures.")],
            "green": [completion(None, refusal="no")],
            "red": [(500, {}, b"busy"), "garbage", sees(number, body)],
        }
        return answers[colour][seen[colour] - 1]

    with FaultyServer(answer) as server:
        made = tagger(server)
        found = made.tag(rows("red", "blue", "green"))
        made.close()
    assert [tags.error for tags in found] == [None, "not_three_lines", "refused"]
    assert (found[0].objects, seen) == (("boat", "water"), {"red": 3, "blue": 1, "green": 1})


def test_a_run_judges_by_the_server(tmp_path: Path) -> None:
    for colour in COLOURS:
        picture(colour).save(tmp_path / f"{colour}.png")
    with FaultyServer(sees) as server:
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


def test_wrong_options_are_one_sentence() -> None:
    with FaultyServer(sees) as server:
        for options, message in (
            ({"mode": "jsn"}, r"^models.tagger: unknown mode 'jsn'"),
            ({"base_urls": [server.url]}, r"^models.tagger: give base_url or base_urls, not both"),
            ({"concurency": 3}, r"^models.tagger: .*concurency"),
            ({"prices": {"input": 1.0}}, r"^models.tagger.prices: no tokens are kept for this stage"),
            ({"openai": ""}, r"^models.tagger: openai takes the model's name"),
        ):
            with pytest.raises(UserError, match=message) as caught:
                tagger(server, **options)
            assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=r"^models.tagger: http.*unknown model 'other'"):
            tagger(server, openai="other").check()
    with pytest.raises(UserError, match=r"^models.tagger: no server answers at"):
        tagger(server).check()
