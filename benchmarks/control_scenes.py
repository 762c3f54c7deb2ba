"""Scenes with known content and one policy each, for `control.py`.

A scene has 1 to 4 objects that `scenes` draws, no two alike by the `wordnet` matcher, a basic colour bound to
about two of three, and relations between neighbours in the list. A colour is never the drawing's own, so that
a picture shows whether the request was followed. The scene's id seeds everything."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from ctrlsynth.control.edits import EditRecord
from ctrlsynth.lang import wordnet
from ctrlsynth.lang.matching import rules as matching
from ctrlsynth.lang.phrases import split_attribute, split_relation
from ctrlsynth.models.embedded.reference.tags import main_colour
from ctrlsynth.models.embedded.scenes.sprites import coloured
from ctrlsynth.models.embedded.scenes.vocabulary import COLOURS, vocabulary
from ctrlsynth.sample import Tags, chance

SEED = 2
PREDICATES = ("left of", "right of", "on", "under", "in front of", "behind", "next to")
CLASSES = ("animal.n.01", "vehicle.n.01", "furniture.n.01", "edible_fruit.n.01", "clothing.n.01")
ADDED = ("kite", "umbrella", "candle", "suitcase", "snowman", "trumpet")


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """What the drawer draws and an English noun phrase can name without another meaning as a colour."""
    return tuple(name for name in sorted(vocabulary().drawings) if name not in COLOURS)


@lru_cache(maxsize=1024)
def own_colour(name: str) -> str | None:
    """The basic colour that most of a drawing has by nature, or None."""
    pixels = np.asarray(coloured(vocabulary().drawings[name], None, False), np.float32)
    return main_colour(pixels[pixels[..., 3] > 200][:, :3])


@lru_cache(maxsize=65536)
def alike(one: str, two: str) -> bool:
    """Whether a matcher could take one for the other, in a text or in tags."""
    if set(one.split()) & set(two.split()):
        return True
    return (
        matching.in_text([one], two, "wordnet", [one])[0] or matching.in_text([two], one, "wordnet", [two])[0]
    )


def fresh(rng: random.Random, known: tuple[str, ...], among: tuple[str, ...]) -> str:
    """A name that is like none of the known ones."""
    return next(
        name for name in rng.sample(among, len(among)) if not any(alike(name, other) for other in known)
    )


def colour_for(rng: random.Random, objects: tuple[str, ...], unlike: str | None = None) -> str:
    """A basic colour that none of the objects has by nature."""
    return rng.choice([c for c in COLOURS if c != unlike and all(own_colour(name) != c for name in objects)])


def scene(number: int) -> Tags:
    """The tags of one scene."""
    rng = chance(SEED, str(number), "scene")
    objects: tuple[str, ...] = ()
    for _ in range(rng.randint(1, 4)):
        objects = (*objects, fresh(rng, objects, names()))
    attributes = tuple(f"{colour_for(rng, (name,))} {name}" for name in objects if rng.random() < 0.65)
    pairs = [pair for pair in pairwise(objects) if rng.random() < 0.7]
    return Tags(objects, attributes, tuple(f"{one} {rng.choice(PREDICATES)} {two}" for one, two in pairs))


def exchange_last(tags: Tags, rng: random.Random) -> Tags:
    """A user's own edit, as `call` takes it: the last object goes with all that names it, and a thing of our
    own comes."""
    last = tags.objects[-1]
    attributes = tuple(a for a in tags.attributes if split_attribute(a, tags.objects)[1] != last)
    relations = tuple(r for r in tags.relations if last not in split_relation(r, tags.objects)[::2])
    return Tags((*tags.objects[:-1], fresh(rng, tags.objects, ADDED)), attributes, relations)


Maker = Callable[[Tags, random.Random], dict[str, Any] | None]
"""A scene's tags -> the edit of a policy, as a recipe writes it; None where the scene has nothing to edit
so."""


def _modifier(tags: Tags, rng: random.Random) -> str | None:
    return split_attribute(rng.choice(tags.attributes), tags.objects)[0] if tags.attributes else None


def _remove_object(tags: Tags, rng: random.Random) -> dict[str, Any] | None:
    return {"remove": {"objects": [rng.choice(tags.objects)]}} if len(tags.objects) > 1 else None


def _remove_attribute(tags: Tags, rng: random.Random) -> dict[str, Any] | None:
    colour = _modifier(tags, rng)
    return {"remove": {"attributes": [colour]}} if colour else None


def _add_object(tags: Tags, rng: random.Random) -> dict[str, Any] | None:
    return {"add": {"objects": [fresh(rng, tags.objects, names())]}}


def _add_attribute(tags: Tags, rng: random.Random) -> dict[str, Any] | None:
    bare = [
        name
        for name in tags.objects
        if not any(split_attribute(a, tags.objects)[1] == name for a in tags.attributes)
    ]
    if not bare:
        return None
    name = rng.choice(bare)
    return {"add": {"attributes": [f"{colour_for(rng, (name,))} {name}"]}}


def _replace_object(tags: Tags, rng: random.Random) -> dict[str, Any] | None:
    old = rng.choice(tags.objects)
    colours = {
        split_attribute(a, tags.objects)[0]
        for a in tags.attributes
        if split_attribute(a, tags.objects)[1] == old
    }
    fitting = tuple(name for name in names() if own_colour(name) not in colours)
    return {"replace": {"objects": {old: fresh(rng, tags.objects, fitting)}}}


def _replace_attribute(tags: Tags, rng: random.Random) -> dict[str, Any] | None:
    colour = _modifier(tags, rng)
    return {"replace": {"attributes": {colour: colour_for(rng, tags.objects, colour)}}} if colour else None


def _replace_class(tags: Tags, rng: random.Random) -> dict[str, Any] | None:
    there = [c for c in CLASSES if any(wordnet.is_a(name, c) for name in tags.objects)]
    if not there:
        return None
    old = rng.choice(there)
    return (
        {"replace": {"objects": {old: rng.choice([c for c in CLASSES if c not in there])}}}
        if len(there) < len(CLASSES)
        else None
    )


EDITS: dict[str, Maker] = {
    "none": lambda tags, rng: None,
    "remove object": _remove_object,
    "remove attribute": _remove_attribute,
    "add object": _add_object,
    "add attribute": _add_attribute,
    "replace object": _replace_object,
    "replace attribute": _replace_attribute,
    "replace class": _replace_class,
    "keep objects": lambda tags, rng: {"keep": ["objects"]},
    "keep objects, attributes": lambda tags, rng: {"keep": ["objects", "attributes"]},
    "sample half": lambda tags, rng: {"sample": {"objects": 0.5, "attributes": 0.5, "relations": 0.5}},
    "swap attributes": lambda tags, rng: {"swap": "attributes"},
    "swap relations": lambda tags, rng: {"swap": "relations"},
    "call": lambda tags, rng: {"call": "control_scenes:exchange_last"},
}


def shows(record: EditRecord, before: Tags, after: Tags) -> bool:
    """Whether a picture can show that an edit was followed: not where two things that both stay lose their
    relation, since any picture of both shows some, and not where `next to` is turned round."""
    if record.kind != "relations" or record.before is None:
        return True
    one, predicate, two = split_relation(record.before, before.objects)
    if record.after is None:
        return not (one in after.objects and two in after.objects)
    return not (record.op == "swap" and predicate == "next to")
