"""`realizer` (2b): tags to plain grammatical sentences by rule, the baseline for every language model.

It says every phrase of the tags and nothing else: objects with their article, attributes before their object,
counts with the plural, relations as verb phrases. The request's seed picks one of several frames. It
understands nothing: odd tags make odd sentences."""

import json
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ....lang.phrases import split_attribute, split_relation
from ....sample import KINDS, Tags
from ...base import LanguageModel, Reply, Request
from .caption import held, kept, lemmas, shown
from .scene import Noun, Scene, is_plural, plan, predicate
from .speech import capital, sentences
from .vocabulary import COUNTS, PLACES, VERBS, kind_of

VERSION = 3  # raise it when the same request would get another text

_FRAMES = 6  # tried if a text holds something that the edits removed
_PADDING = (
    "Nothing else stands out",
    "All of it is in plain view",
    "It is easy to see",
    "It is seen from the front",
    "The view is plain",
)


class Realizer(LanguageModel):
    """Writes by rule. Families: tags (sentences about the tags), tags+text (the edited caption, then the
    tags that it lacks), text (the tidied caption in a frame, no new words about the content), concept (one
    sentence)."""

    id = "realizer"
    digest = f"realizer-{VERSION}"

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Returns one reply per request, in order. Errors: `no_content` without tags and caption,
        `schema_unsupported` for a schema that it cannot fill."""
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        text = sentence(request)
        if not text:
            return Reply("", error="no_content")
        if request.schema is not None:
            try:
                return Reply(fill(request.schema, text, request.tags))
            except Unsupported as error:
                return Reply("", raw=f"{error}", error="schema_unsupported")
        return Reply(text)


def sentence(request: Request) -> str:
    """The text for a request, "" if there is nothing to say."""
    # a hash, so that neighbouring seeds pick different frames
    seed = zlib.crc32(request.seed.to_bytes(8, "little", signed=True))
    text = _said(request, seed)
    if not held(request, text):
        return text
    # a matcher may see a removed phrase across two clauses: try other frames
    others = [_said(request, zlib.crc32(bytes([n]), seed)) for n in range(_FRAMES)]
    return min((text, *others), key=lambda said: held(request, said))


def _said(request: Request, seed: int) -> str:
    tags, caption = request.tags, shown(request)
    if request.family in ("text", "tags+text") and caption:
        text = _reframe(caption, seed) if request.family == "text" else f"{capital(caption)}."
        rest = tags if request.family == "tags+text" else Tags()
        missing = plan_missing(caption, rest)
        if missing is not None:
            text += " " + sentences(missing, seed, also=True)
    elif request.family == "concept":
        text = _concept(tags, caption, seed)
    else:
        text = sentences(plan(tags), seed) if tags.phrases() else (f"{capital(caption)}." if caption else "")
    return _fit(text, request, seed) if request.words is not None and text else text


def plan_missing(caption: str, tags: Tags) -> Scene | None:
    """The tags that the caption lacks, as a scene in which the caption's objects are known (`the dog`); None
    if it lacks none."""
    missing = leaves_out(caption, tags)
    if not missing.phrases():
        return None
    scene, there = plan(missing), lemmas(caption)
    for noun in scene.nouns:
        noun.known = lemmas(noun.name) <= there and not (noun.modifiers and noun.modifiers[0] in COUNTS)
    return scene


def leaves_out(caption: str, tags: Tags) -> Tags:
    """The tags that the caption does not hold (by the judge's `lemma` matcher), with the objects they refer
    to."""
    have = kept(tags, caption, sentences(plan(tags), 0))
    attributes = tuple(a for a in tags.attributes if a not in have.attributes)
    relations = tuple(r for r in tags.relations if r not in have.relations)
    needed = set(tags.objects) - set(have.objects) | {split_attribute(a, tags.objects)[1] for a in attributes}
    needed |= {end for relation in relations for end in split_relation(relation, tags.objects)[::2]}
    return Tags(tuple(o for o in tags.objects if o in needed), attributes, relations)


def _reframe(caption: str, seed: int) -> str:
    """Puts a caption into another frame. An article at its beginning loses its capital."""
    lead = caption.partition(" ")[0]
    body = caption
    if lead.lower() in ("a", "an", "the", "two", "three", "some", "several"):
        body = lead.lower() + caption[len(lead) :]
    frame = ("", "In plain view: ", "Seen here: ", "Here we have this: ")[seed % 4]
    return f"{frame}{body}." if frame else f"{capital(caption)}."


def _concept(tags: Tags, caption: str, seed: int) -> str:
    name = next(iter(tags.phrases()), caption)
    if not name:
        return ""
    kind, noun, chance = kind_of(name), Noun(name, [], is_plural(name)), random.Random(seed)
    verb, place = predicate(chance.choice(VERBS[kind]), noun.many), chance.choice(PLACES[kind])
    return f"{capital(name if kind == 'idea' else noun.first())} {verb} {place}."


def _fit(text: str, request: Request, seed: int) -> str:
    """Lengthens a text with sentences without content; shortens it by dropping the last tags, and then its
    end."""
    least, most = request.words or (0, 1 << 30)
    for n in range(len(_PADDING)):
        more = f"{text} {_PADDING[(seed + n) % len(_PADDING)]}."
        if len(text.split()) >= least or len(more.split()) > most:
            break
        text = more
    tags = request.tags if request.family not in ("text", "tags+text") else Tags()
    while len(text.split()) > most and len(tags.phrases()) > 1:
        last = next(kind for kind in reversed(KINDS) if getattr(tags, kind))
        tags = replace(tags, **{last: getattr(tags, last)[:-1]})
        text = sentences(plan(tags), seed)
    if len(text.split()) > most:
        text = " ".join(text.split()[:most]).rstrip(" ,;:.") + "."
    return text


class Unsupported(Exception):
    """Raised if the schema requires a property that a caption and its tags cannot fill."""


def fill(schema: Mapping[str, Any], text: str, tags: Tags) -> str:
    """Returns the object as JSON. `text` fills the string property `caption` (or else the first required
    string property); tags fill the arrays of strings `objects`, `attributes`, `relations`, and `tags` or
    `phrases` (all of them). Raises `Unsupported` if the schema requires more."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    required = list(schema.get("required", ()))
    strings = [name for name in [*required, *properties] if _free_string(properties.get(name))]
    if schema.get("type", "object") != "object" or not strings:
        raise Unsupported("the schema is not an object with a string property for the caption")
    field = "caption" if "caption" in strings else strings[0]
    lists: dict[str, tuple[str, ...]] = {name: getattr(tags, name) for name in KINDS}
    lists |= dict.fromkeys(("tags", "phrases"), tags.phrases())
    out: dict[str, Any] = {}
    for name in dict.fromkeys([*properties, *required]):
        kind = properties.get(name, {})
        strings_only = kind.get("items", {}).get("type", "string") == "string"
        if name == field:
            out[name] = text
        elif name in lists and kind.get("type") == "array" and strings_only:
            out[name] = list(lists[name])
        elif name in required:
            raise Unsupported(f"required property {name!r} is neither the caption nor a list of tags")
    return json.dumps(out, ensure_ascii=False)


def _free_string(kind: Any) -> bool:
    return (
        isinstance(kind, Mapping)
        and kind.get("type") == "string"
        and not kind.keys() & {"enum", "const", "pattern", "format"}
    )
