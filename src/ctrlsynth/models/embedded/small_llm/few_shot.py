"""Few-shot prompts for a small model (2b): a task, our own examples, then the request's phrases and caption.

SmolLM2-135M copies a long instruction instead of following it, so these prompts do not contain the rendered
template: the family decides the task, and the request gives the content. (Larger GGUF models get the
instruction itself, see llms/llama_cpp/engine.py.)"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ....sample import KINDS, Tags
from ...base import Request
from ..realizer.caption import shown
from ..realizer.scene import Scene, plan
from ..realizer.writer import plan_missing
from . import grammar

_TAGS = """Write one sentence about a picture. Use all the words.

Words: brown dog chasing red ball
Sentence: A brown dog is chasing a red ball.

Words: white oven in clean kitchen, wooden chair
Sentence: A white oven stands in a clean kitchen next to a wooden chair.

Words: old man on ladder, old man wearing green hat, tree
Sentence: An old man on a ladder is wearing a green hat near a tree.

Words: two cats under soft blanket, window
Sentence: Two cats are under a soft blanket in front of a window.

Words: coffee, newspaper
Sentence: Coffee stands next to a newspaper.

Words: wooden boat on lake, snowy mountain, clouds
Sentence: A wooden boat is on a lake in front of a snowy mountain with clouds.

Words:"""


_AGAIN = """Say the caption again in other words.

Caption: Man rides bike down the road
Again: A man is riding a bicycle along the road.

Caption: Happy family having a picnic in the park | stock photo
Again: A happy family is enjoying a picnic in the park.

Caption: Close up of a red rose
Again: A red rose is seen up close.

Caption: cat sleeps next to the window #cat #nap
Again: A cat is asleep beside the window.

Caption: Vintage leather bag, brown, large size
Again: This is a large vintage bag of brown leather.

Caption:"""

_CONCEPT = """Write one short sentence about a picture. It names the thing and a place.

Thing: violin
Sentence: A violin lies on a wooden chair beside an open window.

Thing: volcano
Sentence: A volcano rises over a green valley under a cloudy sky.

Thing: friendship
Sentence: Friendship fills a park bench where two girls laugh together.

Thing: penguin
Sentence: A penguin walks along the ice towards the blue sea.

Thing: dentist
Sentence: A dentist looks at the teeth of a boy in a bright room.

Thing: silver
Sentence: Silver shines on a dark table next to a candle.

Thing:"""

_EXTRACT = """Find the objects, attributes and relations in each caption.

caption: A brown dog runs along the wet beach with a red ball
objects: dog, beach, ball
attributes: brown dog, wet beach, red ball
relations: dog runs along the wet beach, with a red ball

caption: Two children in blue jackets play near an old wooden house
objects: children, jackets, house
attributes: Two children, blue jackets, old wooden house
relations: children in blue jackets, play near an old wooden house

caption: White coffee cup, 12 oz, on my desk
objects: coffee cup, desk
attributes: White coffee cup
relations: on my desk

caption: A smiling woman wearing sunglasses and a straw hat
objects: woman, sunglasses, straw hat
attributes: smiling woman
relations: woman wearing sunglasses

caption: Three green apples in a glass bowl on the kitchen table
objects: apples, bowl, table
attributes: Three green apples, glass bowl, kitchen table
relations: apples in a glass bowl, bowl on the kitchen table

caption:"""


def task(request: Request, common: Mapping[str, Any], *, bound: bool = True) -> dict[str, Any] | None:
    """Returns the engine's task (pool.Task) for a request, or None if it has neither phrases nor a caption.

    tags       a sentence with every noun, and only joining words between them tags+text  the caption
    rephrased; `rest` then adds what that lacks text       the caption rephrased concept    one short
    sentence that begins with the concept extract    three lines of spans of the caption (A.4), objects
    first, because the model finds more of them so

    Without `bound` there is no grammar (other than for `extract`): the model forgets phrases and adds its
    own."""
    if request.family == "extract":
        rule = grammar.extraction(request.caption or "", KINDS)
        return _task(_EXTRACT, f" {request.caption}\n", rule, common, []) if request.caption else None
    caption, tags = shown(request), request.tags
    if request.family == "concept":
        thing = next(iter(tags.phrases()), caption)
        head, asked, rule = (
            _CONCEPT,
            f" {thing}\nSentence:" if thing else "",
            grammar.about(thing, request.words),
        )
    elif request.family in ("text", "tags+text") and caption:
        head, asked, rule = _AGAIN, f" {caption}\nAgain:", grammar.again(request.words)
    else:
        scene = plan(tags)
        words = content(scene)
        head, asked, rule = (
            _TAGS,
            f" {words}\nSentence:" if words else "",
            grammar.sentence(scene, request.words, seed=request.seed),
        )
    return _task(head, asked, rule if bound else None, common, ["\n"]) if asked else None


def rest(
    request: Request, text: str, common: Mapping[str, Any], *, bound: bool = True
) -> dict[str, Any] | None:
    """For tags+text: the task of a second sentence, about the tags that the rephrased caption lacks; None if
    it lacks none."""
    missing = plan_missing(text, request.tags) if request.family == "tags+text" and request.caption else None
    if missing is None:
        return None
    rule = grammar.sentence(missing, None, seed=request.seed) if bound else None
    return _task(_TAGS, f" {content(missing)}\nSentence:", rule, common, ["\n"])


def _task(
    head: str, asked: str, rule: str | None, common: Mapping[str, Any], stop: list[str]
) -> dict[str, Any]:
    body = {**common, "prompt": head + asked, "stop": stop} | ({} if rule is None else {"grammar": rule})
    return {"chat": False, "head": {"prompt": head, "max_tokens": 1, "temperature": 0.0}, "body": body}


def content(scene: Scene) -> str:
    """The scene as short phrases: `brown dog on red sofa, tall tree`. A noun has its modifiers at its first
    mention only."""
    seen: set[int] = set()

    def name(i: int | None) -> str:
        if i is None or i in seen:
            return "" if i is None else scene.nouns[i].bare()
        seen.add(i)
        return scene.nouns[i].full()

    out = [" ".join(filter(None, (name(c.subject), c.words, name(c.object)))) for c in scene.clauses]
    out += [name(i) for i in scene.alone]
    return ", ".join(out + scene.loose)


def digest() -> str:
    """Hash of all prompts and grammars: of the tasks of a few requests that use every part of them."""
    tags = Tags(
        ("man", "hat", "horse", "road", "sky", "two lamps"), ("old man", "three horses", "bright", "red hat"),
        ("man wearing hat", "man riding horse", "horse on road", "road under sky", "hat of man"),
    )  # fmt: skip
    gone = Tags(("woman", "dog"), ("old man",), ("man with dog",))
    probes = [
        Request("", tags, words=(20, 40)),
        Request("", Tags(("tiger",)), seed=1),
        Request("", Tags((), ("bright",))),
        *(
            Request("", tags, "A photo of a man, smiling. #old", family)
            for family in ("text", "tags+text", "concept", "extract")
        ),
        Request(
            "", tags, "A woman, a big dog in a park, an old man with a dog.", "tags+text",
            gone=gone, instead=(("woman", "cat"),),
        ),
    ]  # fmt: skip
    tasks = json.dumps([(task(probe, {}), rest(probe, "a man", {})) for probe in probes], sort_keys=True)
    return hashlib.sha256(tasks.encode()).hexdigest()[:16]
