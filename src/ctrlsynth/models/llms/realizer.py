"""2b without a model: tags to plain grammatical sentences, the yardstick beside which every language model is reported.

Every phrase of the tags is said, and nothing else: objects with their article, attributes before their object, counts with the plural,
relations as verb phrases. The request's seed picks one of several frames. It understands nothing: odd tags make odd sentences.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from importlib.metadata import version

from ...sample import Tags, split_attribute, split_relation
from ...words import singular
from ..base import Reply, Request
from .scene import Noun, Scene, is_plural, plan
from .schema import Unsupported, fill
from .speech import capital, sentences
from .vocabulary import COUNTS

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_JUNK = re.compile(
    r"(?i)\b(?:stock (?:photo|image|picture)|photo by [^.,;]*|(?:www\.|https?://)\S+|\S+\.(?:jpe?g|png|gif|webp))|[#@]\w+|[|]+|[!?.]{2,}|\s[-–—]\s*$"
)
_OPENING = re.compile(
    r"(?i)^\s*(?:an?|the|this is an?)?\s*(?:close[- ]?up |stock |real |beautiful )?"
    r"(?:photo(?:graph)?|picture|image|snapshot|pic) (?:of|shows?|showing)\s+"
)
_PADDING = ("Nothing else stands out", "All of it is in plain view", "It is easy to see", "It is seen from the front", "The view is plain")


class Realizer:
    """A `LanguageModel` of rules. Families: tags (sentences about the tags), tags+text (the caption, then what it leaves out), text (the
    caption tidied and put into a frame: no new words about the content), concept (one sentence about the concept)."""

    def __init__(self) -> None:
        self.id = "realizer"
        self.digest = f"realizer-1/{version('ctrlsynth')}"

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in order; nothing to say is `no_content`, a schema that it cannot fill `schema_unsupported`."""
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
    """The text for a request, "" where there is nothing to say."""
    seed = zlib.crc32(request.seed.to_bytes(8, "little", signed=True))  # neighbouring seeds pick unlike frames
    tags, caption = request.tags, tidy(request.caption or "")
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


def tidy(caption: str) -> str:
    """A caption without web litter (addresses, file names, hash tags, `photo of`), without a full stop, on one line, not in capitals."""
    text = _OPENING.sub("", _JUNK.sub(" ", caption))
    if not any(c.isalnum() for c in text):  # nothing but hash tags: they are the caption
        text = caption.replace("#", " ") if any(c.isalnum() for c in caption) else ""
    text = " ".join(text.split()).strip(" .,;:-–—|\"'")
    return text.lower() if text.isupper() and len(text) > 4 else text


def plan_missing(caption: str, tags: Tags) -> Scene | None:
    """What the caption leaves out, as a scene in which its own objects are known (`the dog`); None where it says everything."""
    missing = leaves_out(caption, tags)
    if not missing.phrases():
        return None
    scene, there = plan(missing), _lemmas(caption)
    for noun in scene.nouns:
        noun.known = _lemmas(noun.name) <= there and not (noun.modifiers and noun.modifiers[0] in COUNTS)
    return scene


def leaves_out(caption: str, tags: Tags) -> Tags:
    """The tags of which the caption does not have every word (singular or plural), with the objects that they speak of."""
    there = _lemmas(caption)
    gone = [name for name in tags.objects if not _lemmas(name) <= there]
    attributes = [a for a in tags.attributes if not _lemmas(a) <= there]
    relations = [r for r in tags.relations if not _lemmas(r) <= there]
    needed = set(gone) | {split_attribute(a, tags.objects)[1] for a in attributes}
    for relation in relations:
        subject, _, target = split_relation(relation, tags.objects)
        needed |= {subject, target}
    return Tags(tuple(o for o in tags.objects if o in needed), tuple(attributes), tuple(relations))


def _lemmas(text: str) -> set[str]:
    return {singular(word) for word in _WORD.findall(text.lower())}


def _reframe(caption: str, seed: int) -> str:
    """A caption in another frame. One that opens with an article is a noun phrase or a sentence; both fit after `Here, `."""
    lead = caption.partition(" ")[0]
    body = lead.lower() + caption[len(lead) :] if lead.lower() in ("a", "an", "the", "two", "three", "some", "several") else caption
    frames = (f"{capital(caption)}.", f"In plain view: {body}.", f"Seen here: {body}.", f"Here we have this: {body}.")
    return frames[seed % len(frames)]


def _concept(tags: Tags, caption: str, seed: int) -> str:
    name = next(iter(tags.phrases()), caption)
    if not name:
        return ""
    noun = Noun(name, [], is_plural(name))
    what, be, verb = noun.first(), "are" if noun.many else "is", "" if noun.many else "s"
    frames = (
        f"{what} {be} in the middle of the scene", f"there {be} {what} in plain view", f"we can see {what} up close",
        f"{what} stand{verb} out against a plain background", f"{what} {be} shown in daylight", f"here {be} {what}, seen from the front",
    )  # fmt: skip
    return capital(frames[seed % len(frames)]) + "."


def _fit(text: str, request: Request, seed: int) -> str:
    """Lengthens with sentences that add no thing; shortens by saying fewer tags (the last ones go), and a caption by its tail."""
    least, most = request.words or (0, 1 << 30)
    for n in range(len(_PADDING)):
        more = f"{text} {_PADDING[(seed + n) % len(_PADDING)]}."
        if len(text.split()) >= least or len(more.split()) > most:
            break
        text = more
    tags = request.tags
    if len(text.split()) > most and request.family not in ("text", "tags+text"):
        while len(text.split()) > most and len(tags.phrases()) > 1:
            tags = _fewer(tags)
            text = sentences(plan(tags), seed)
    if len(text.split()) > most:
        text = " ".join(text.split()[:most]).rstrip(" ,;:.") + "."
    return text


def _fewer(tags: Tags) -> Tags:
    if tags.relations:
        return Tags(tags.objects, tags.attributes, tags.relations[:-1])
    if tags.attributes:
        return Tags(tags.objects, tags.attributes[:-1], ())
    return Tags(tags.objects[:-1], (), ())
