"""Outputs of each embedded model, recorded under its version.

tests/files/golden/NAME.json holds the model's version and its outputs. If the outputs change, the version
must change too: record the file again with `python tests/models/test_golden.py --record [NAME
...]`. Runs reuse rows by version, so outputs that change without it would be mixed with old ones.

Numbers are compared with a tolerance, because processors differ in their last bits. SmolLM2 is left out:
it is not our code, and its digest is that of its weights.
"""

import json
import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctrlsynth.models.base import ImageAndText, Prompt, Request
from ctrlsynth.models.registry import load
from ctrlsynth.sample import Tags

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "files" / "golden"
TOLERANCE = 0.02
THUMBNAIL = 16
DOG = Tags(("dog", "sofa"), ("brown dog", "old sofa"), ("dog on sofa",))
CAT = Tags(("cat",))
STREET = Tags(("car", "tree", "person"), ("red car", "two trees"), ("car near tree", "person driving car"))
REQUESTS = [
    Request("", DOG, seed=1),
    Request("", DOG, seed=2),
    Request("", STREET, seed=3),
    Request("", STREET, seed=4, words=(20, 40)),
    Request("", STREET, seed=5, words=(4, 8)),
    Request("", Tags(("umbrella",)), seed=6),
    Request("", Tags((), ("red",), ()), seed=7),
    Request("", Tags(), seed=8),
    Request("", DOG, "my dog on the new sofa", "tags+text", seed=9),
    Request("", STREET, "a car in the street", "tags+text", seed=10),
    Request("", DOG, "a cat on the sofa", "tags+text", seed=11, gone=CAT, instead=(("cat", "dog"),)),
    Request("", Tags(), "two kids playing soccer in the park", "text", seed=12),
    Request("", Tags(), "Sunset over the harbour", "text", seed=13),
    Request("", Tags(("castle",)), "castle", "concept", seed=14),
    Request("", Tags(("love",)), "love", "concept", seed=15),
    Request("", Tags(("drums",)), "drums", "concept", seed=16),
]
PROMPTS = [
    Prompt("a brown dog on a blue sofa", seed=1),
    Prompt("two red cars near a tree in the rain", seed=2),
    Prompt("a small cat under a big table", style="real", seed=3),
    Prompt("three yellow birds above a house at night", seed=4),
    Prompt("a white boat on the sea and a lighthouse", weights={"boat": 1.4}, seed=5),
    Prompt("a man riding a horse in the desert", negative="tree", seed=6),
    Prompt("nothing that has a name", seed=7),
    Prompt("a green apple, a banana and a cup of coffee on a wooden table", seed=8, size=(192, 128)),
]


def photographs() -> dict[str, Image.Image]:
    """The quickstart's photographs, as scikit-image and scikit-learn carry them."""
    script = runpy.run_path(str(TESTS.parent / "scripts" / "quickstart_photos.py"))
    files = {name: script["package_file"](source) for name, source in script["PHOTOS"].items()}
    return {name: Image.open(file).convert("RGB") for name, file in files.items()}


def drawings() -> dict[str, Image.Image]:
    """Stored drawings, so that a change of `scenes` does not change the tagger's record."""
    return {p.stem: Image.open(p).convert("RGB") for p in sorted((GOLDEN / "drawings").glob("*.png"))}


def as_json(tags: Tags) -> dict[str, Any]:
    """Tags as JSON."""
    kinds = ("objects", "attributes", "relations", "scores")
    return {kind: list(getattr(tags, kind)) for kind in kinds if getattr(tags, kind)}


def tagged(model: Any, images: dict[str, Image.Image]) -> dict[str, Any]:
    """Tags of each picture."""
    items = [ImageAndText(image) for image in images.values()]
    return {name: as_json(tags) for name, tags in zip(images, model.tag(items), strict=True)}


def wordnet(model: Any) -> dict[str, Any]:
    lines = (TESTS / "files" / "web_captions.jsonl").read_text(encoding="utf-8").splitlines()
    captions = [json.loads(line)["caption"] for line in lines[:24]]
    found = model.tag([ImageAndText(None, caption) for caption in captions])
    return {caption: as_json(tags) for caption, tags in zip(captions, found, strict=True)}


def realizer(model: Any) -> dict[str, Any]:
    return {f"{n}": reply.text or f"error: {reply.error}" for n, reply in enumerate(model.generate(REQUESTS))}


def scenes(model: Any) -> dict[str, Any]:
    return {p.text: picture(made) for p, made in zip(PROMPTS, model.generate(PROMPTS), strict=True)}


def picture(made: Any) -> dict[str, Any]:
    """What was drawn, and a thumbnail of 16 x 16 pixels: brightness 0..1 of each channel."""
    small = made.image.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    pixels = [round(byte / 255, 2) for byte in small.tobytes()]
    return {
        "drawn": list(made.drawn),
        "not_drawn": list(made.not_drawn),
        "unused": list(made.weights_unused),
        "size": list(made.image.size),
        "pixels": pixels,
    }


def nsfw(model: Any) -> dict[str, Any]:
    """Decimal logarithms: the scores of harmless photographs are all close to 0."""
    images = photographs()
    scores = model.score(list(images.values()))
    return {name: round(math.log10(score + 1e-6), 2) for name, score in zip(images, scores, strict=True)}


MODELS: dict[str, tuple[Any, Any, Callable[[Any], dict[str, Any]]]] = {
    "wordnet": ("wordnet", "tagger", wordnet),
    "imagenet": ("imagenet", "tagger", lambda model: tagged(model, photographs())),
    "reference": ("reference", "tagger", lambda model: tagged(model, drawings())),
    "realizer": ("realizer", "llm", realizer),
    "scenes": ({"scenes": None, "size": 128}, "text_to_image", scenes),
    "opennsfw": ("opennsfw", "safety", nsfw),
}
"""Name of the golden file -> the model as a recipe names it, its role, and a function for its outputs."""


def version_of(model: Any) -> str:
    """VERSION of the model's class or module; the digest of a model that has none."""
    owners = (type(model), sys.modules[type(model).__module__])
    return str(next((owner.VERSION for owner in owners if hasattr(owner, "VERSION")), model.digest))


def same(found: Any, wanted: Any) -> bool:
    """Whether two outputs are equal, within `TOLERANCE` for numbers."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return bool(found == (pytest.approx(wanted, abs=TOLERANCE) if isinstance(wanted, float) else wanted))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_change_with_the_version_only(name: str) -> None:
    spec, role, answers = MODELS[name]
    model = load(spec, role)
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    found = json.loads(json.dumps(answers(model)))
    assert found.keys() == golden["outputs"].keys()
    changed = {k: (found[k], wanted) for k, wanted in golden["outputs"].items() if not same(found[k], wanted)}
    again = f"python tests/models/test_golden.py --record {name}"
    assert version_of(model) == golden["version"], f"{name} has another version; record it again: {again}"
    assert not changed, f"{name}: other outputs under the same version. Raise VERSION, then: {again}"


@pytest.mark.parametrize(
    ("found", "alike"),
    [
        ({"objects": ["dog"], "scores": [0.51]}, True), ({"objects": ["dog"], "scores": [0.6]}, False),
        ({"objects": ["cat"], "scores": [0.5]}, False), ({"objects": ["dog"]}, False),
    ],
)  # fmt: skip
def test_a_changed_output_is_seen(found: dict[str, Any], alike: bool) -> None:
    """The comparison forgives the last bits of a number and nothing else."""
    assert same(found, {"objects": ["dog"], "scores": [0.5]}) is alike


def record(names: list[str]) -> None:
    """Writes golden files again, and prints for each whether its outputs changed."""
    for name in names or MODELS:
        spec, role, answers = MODELS[name]
        model = load(spec, role)
        path = GOLDEN / f"{name}.json"
        before = json.loads(path.read_text(encoding="utf-8"))["outputs"] if path.exists() else None
        outputs = json.loads(json.dumps(answers(model)))
        version = json.dumps(version_of(model))
        lines = [
            f"{json.dumps(key, ensure_ascii=False)}:{json.dumps(value, ensure_ascii=False)}"
            for key, value in outputs.items()
        ]
        text = ",\n".join(lines)
        path.write_text(f'{{"version":{version},\n"outputs":{{\n{text}\n}}}}\n', encoding="utf-8")
        print(f"{name}: version {version}, outputs {'as before' if same(outputs, before) else 'changed'}")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--record"]:
        sys.exit(__doc__)
    record(sys.argv[2:])
