"""2a by captioners: Florence-2 and other image-to-text classes on tiny real checkpoints, alone, with
extraction, in a run, and in want of memory."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from conformance import Tiny, check_tagger, other_weights
from ctrlsynth.api.run import run
from ctrlsynth.errors import ModelError, UserError
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText, Reply
from ctrlsynth.models.taggers.captioner import CaptionerTagger
from ctrlsynth.sample import Tags
from helpers import recipe
from tiny_vision import COLOURS, THINGS

SHORT = {"max_new_tokens": 24}  # beams of a tiny model go on to the last token


def picture(colour: str, size: tuple[int, int] = (50, 30), mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", size, COLOURS[colour]).convert(mode)


def rows(*colours: str) -> list[ImageAndText]:
    return [ImageAndText(picture(colour)) for colour in colours]


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
        [*rows("red", "blue"), *(ImageAndText(image) for image in odd), ImageAndText(None, "text only")]
    )
    colours = ("red", "blue", "blue", "red", "blue")
    assert [tags.caption for tags in (*found[:4], found[5])] == [THINGS[colour] for colour in colours]
    assert (found[0].objects, found[6], tagger.reads) == ((), Tags(), "pixels")


@pytest.mark.parametrize("name", ["florence2", "blip", "git", "llava"])
def test_every_kind_keeps_the_contract(name: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny(name)
    options: dict[str, Any] = {"max_new_tokens": 24 if name == "florence2" else 8}
    tagger = models.load({"captioner": str(folder), **options}, "tagger")
    value = {"captioner": str(other_weights(folder, tmp_path / "other")), **options}
    other = models.load(value, "tagger")
    known: dict[str, Any] = {"rows": rows("red", "blue", "red"), "image": picture("red")}
    check_tagger(lambda: tagger, lambda: other, **(known if name == "florence2" else {}))
    assert models.load({"captioner": str(folder), "max_new_tokens": 7}, "tagger").digest != tagger.digest
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
    for colour in COLOURS:
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
    (tags,) = tagger.tag(rows("red"))
    assert (tags.objects, tags.attributes, tags.dropped, tags.caption) == (
        ("boat",),
        ("red boat",),
        2,
        THINGS["red"],
    )
    assert tagger.batch > 8  # the language model gets more at once than the captioner
    assert tagger.digest != models.load({"captioner": str(tiny("florence2")), **SHORT}, "tagger").digest


def test_memory_that_runs_out_halves_the_batch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tagger = models.load({"captioner": str(tiny("florence2")), "batch": 8, **SHORT}, "tagger")
    model, _ = tagger.loaded()
    real, sizes, most = model.generate, [], [2]

    def generate(**inputs: Any) -> Any:
        sizes.append(len(inputs["pixel_values"]))
        if sizes[-1] > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(**inputs)

    monkeypatch.setattr(model, "generate", generate)
    found = tagger.tag(rows("red", "blue", "blue", "red", "red"))
    assert [tags.caption for tags in found] == [THINGS[c] for c in ("red", "blue", "blue", "red", "red")]
    assert sizes == [5, 2, 2, 1]
    most[0] = 0
    assert [tags.error for tags in tagger.tag(rows("red", "blue"))] == ["out_of_memory"] * 2
    died = RuntimeError("CUDA error: an illegal memory access")
    monkeypatch.setattr(model, "generate", Mock(side_effect=died))
    with pytest.raises(ModelError) as caught:
        tagger.tag(rows("red"))
    assert caught.value.reason == "engine_died"


def test_a_closed_captioner_loads_again(tiny: Tiny) -> None:
    tagger = models.load({"florence2": str(tiny("florence2")), **SHORT}, "tagger")
    for _ in range(2):
        assert tagger.tag(rows("red"))[0].caption == THINGS["red"]
        tagger.close()
        assert tagger._loaded is None


def test_what_is_wrong_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    own = shutil.copytree(tiny("florence2"), tmp_path / "microsoft")
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"vision_config": {"dim_embed": [1]}}))
    for value, message in (
        ({"captioner": str(own)}, "code of its own, which is never run"),
        ({"florence2": str(tiny("blip"))}, "is no Florence-2; use"),
        ({"captioner": str(tiny("blip")), "bach": 3}, "unknown option 'bach'; did you mean 'batch'"),
        ({"captioner": str(tiny("blip")), "batch": 0}, "batch: a whole number from 1 up, not 0"),
        ({"captioner": str(tmp_path)}, "holds no config.json"),
        ({"captioner": str(tiny("florence2")), "extract": "smollm3"},
        "unknown llm model 'smollm3'; did you " "mean 'smollm2'"),
        ("captioner", "takes a model"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as caught:
            models.load(value, "tagger")
        assert "\n" not in str(caught.value)
    bare = shutil.copytree(tiny("blip"), tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        CaptionerTagger(str(bare)).check()
    with pytest.raises(UserError, match="cannot be loaded as AutoModelForImageTextToText"):
        CaptionerTagger(str(bare)).tag(rows("red"))
    CaptionerTagger(str(tiny("blip"))).check()
