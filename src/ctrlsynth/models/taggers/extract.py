"""Tags from captions by a language model (2a), the second half of CtrlSynth's hybrid tagger (appendix A.4).

`{extract: smollm2}`, `{extract: {llama.cpp: model.gguf}}`, or any other language model of a recipe. The model
gets A.4's instruction with its two examples and answers in three lines (attributes, objects, relations), or
with `mode: json` in an object that follows a schema. A grammar restricts llama.cpp's three lines to spans of
the caption; what other models make up is dropped and counted. The tagger sees no pixels, so it cannot judge
images. `captioner` puts a captioner before it."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, Literal

from ...errors import ModelError, UserError, unknown
from ...lang.replies import LINES, LISTS_SCHEMA, named_lists, named_lists_json
from ...lang.words import DETERMINERS, PREPOSITIONS, plural, singular
from ...sample import Tags, unique
from .. import registry as models
from ..base import ImageAndText, LanguageModel, Request
from ..composite import Composite
from ..embedded.realizer.vocabulary import COUNTS

MODES = ("lines", "json")
MAX_CHARACTERS = 2000
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_BE = frozenset("is are was were be been being".split())


class ExtractTagger(Composite):
    """Tags captions with a language model. A failed reply fails its row with the reply's reason, an
    unreadable one with `not_three_lines` or `bad_json`.

    model       a language model as a recipe names it
    mode        `lines`, the paper's three lines; `json`, an object, constrained to a schema if the model's
                engine can
    max_tokens  limit of a reply
    """

    reads: Literal["caption"] = "caption"

    def __init__(self, model: Any = None, *, mode: str = "lines", max_tokens: int = 192) -> None:
        if model is None:
            raise UserError("models.tagger: extract takes a language model, such as {extract: smollm2}")
        if mode not in MODES:
            raise unknown("mode", str(mode), MODES, "models.tagger.extract")
        self._model: LanguageModel = models.load(model, "llm", "models.tagger.extract")
        self.parts = [self._model]
        self.id = f"extract({self._model.id})"
        asked = instruction("", mode)
        self.digest = hashlib.sha256(
            f"extract-2\0{self._model.digest}\0{max_tokens}\0{mode}\0{asked}".encode()
        ).hexdigest()
        self.batch = self._model.batch
        self._mode, self._max_tokens = mode, max_tokens

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Tags of each item, in order; no text gives no tags."""
        texts = [" ".join((item.text or "").split())[:MAX_CHARACTERS] for item in items]
        asked = [n for n, text in enumerate(texts) if _WORD.search(text)]
        schema = LISTS_SCHEMA if self._mode == "json" else None
        replies = self._model.generate(
            [
                Request(
                    instruction(texts[n], self._mode),
                    caption=texts[n],
                    family="extract",
                    max_tokens=self._max_tokens,
                    schema=schema,
                )
                for n in asked
            ]
        )
        if len(replies) != len(asked):
            raise ModelError(
                "wrong_number", f"{self._model.id} gave {len(replies)} replies for {len(asked)} captions"
            )
        out = [Tags()] * len(items)
        for n, reply in zip(asked, replies, strict=True):
            failed = reply.error not in (None, "looping")  # repeated phrases are dropped anyway
            out[n] = Tags(error=reply.error) if failed else read_tags(reply.text, self._mode, texts[n])
        return out


@lru_cache(maxsize=2)
def _template(mode: str) -> str:
    text = files("ctrlsynth.models.taggers").joinpath("data", "extraction.txt").read_text("utf-8")
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    if mode == "lines":
        return text
    text = text.replace(
        "Separate the phrases by comma without formatting. Output three lines:",
        "Output one JSON object and nothing else:",
    )
    return re.sub(r"^attributes: (.*)\nobjects: (.*)\nrelations: (.*)$", _as_json, text, flags=re.MULTILINE)


def _as_json(three: re.Match[str]) -> str:
    return json.dumps({name: three[n].split(", ") for n, name in enumerate(LINES, 1)})


def instruction(caption: str, mode: str = "lines") -> str:
    """A.4's instruction with its two examples for a caption; braces in the caption are plain text. `json`:
    the same examples as objects."""
    return _template(mode).replace("{caption}", caption).rstrip()


def read_tags(text: str, mode: str, caption: str | None = None) -> Tags:
    """The tags in a model's answer; phrases that are not in the caption, where there is one, are dropped and
    counted. An unreadable answer has the error `not_three_lines` or `bad_json`."""
    lines = named_lists(text) if mode == "lines" else named_lists_json(text)
    if lines is None:
        return Tags(error="not_three_lines" if mode == "lines" else "bad_json")
    if caption is None:
        caption = " , ".join(phrase for phrases in lines.values() for phrase in phrases)
    return normalise(lines, caption)


def with_extracted(rows: list[Tags], extract: ExtractTagger | None) -> list[Tags]:
    """Adds to rows with captions the tags that `extract` finds in them; None adds none."""
    if extract is None:
        return rows
    found = extract.tag([ImageAndText(None, row.caption) for row in rows])
    return [
        replace(tags, caption=row.caption, error=row.error or tags.error)
        for row, tags in zip(rows, found, strict=True)
    ]


def normalise(lines: dict[str, list[str]], caption: str) -> Tags:
    """Turns phrases of the caption into Tags: objects in the singular without article or known attribute,
    attributes bound to their object, relations as subject, predicate, object without articles. Drops phrases
    that are not in the caption; `Tags.dropped` counts them."""
    whole = f" {' '.join(_words(caption))} "
    named = {name: [p for p in lines[name] if p] for name in LINES}
    there = {name: [p for p in named[name] if f" {' '.join(_words(p))} " in whole] for name in LINES}
    dropped = sum(len(named[name]) - len(there[name]) for name in LINES)
    modified = [_words(p) for p in there["attributes"]]
    objects = list(unique(_noun(_words(p), modified) for p in there["objects"]))
    attributes = [a for words in modified for a in _attributes(words, objects)]
    relations = [r for p in there["relations"] for r in _relation(_words(p), objects)]
    return Tags(unique(objects), unique(attributes), unique(relations), dropped=dropped)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _noun(words: list[str], modified: list[list[str]]) -> str:
    """The object in the singular, without article; `brown dog` where `brown dog` is an attribute too ->
    `dog`."""
    kept = words[-1:] if len(words) > 1 and words in modified else words
    return singular(" ".join(word for word in kept if word not in DETERMINERS))


def _attributes(words: list[str], objects: list[str]) -> list[str]:
    """`old wooden house` -> `old house`, `wooden house`: a modifier each. Without an object behind it: a bare
    word, or nothing."""
    phrase = " ".join(word for word in words if word not in DETERMINERS)
    owner = max(
        (o for o in objects for form in (o, plural(o)) if phrase.endswith(" " + form)), key=len, default=None
    )
    if owner is None:
        return [phrase] if phrase and " " not in phrase and singular(phrase) not in objects else []
    form = plural(owner) if phrase.endswith(" " + plural(owner)) else owner
    before = phrase[: -len(form)].split()
    if set(before) & (PREPOSITIONS | {"or"}) or (len(before) > 1 and before[0].endswith("ing")):
        return []  # `plate of spaghetti`, `wearing big hat`: no modifier
    before = [word for word in before if word != "and" and singular(word) not in objects]
    many = bool(before) and form != owner and (before[0] in COUNTS or before[0].isdigit())
    return [f"{modifier} {form if many and modifier == before[0] else owner}" for modifier in before]


def _relation(words: list[str], objects: list[str]) -> list[str]:
    """The first and last object of the phrase with what stands between them, modifiers and articles left out;
    one end may be missing."""
    places: list[tuple[int, int, str]] = []
    i = 0
    while i < len(words):
        for j in range(min(len(words), i + 3), i, -1):
            name = singular(" ".join(words[i:j]))
            if name in objects:
                places.append((i, j, name))
                i = j - 1
                break
        i += 1
    if not places:
        return []
    if len(places) > 1 and places[0][1] < places[-1][0]:
        out = []
        for (_, start, subject), (end, _, target) in pairwise(places):
            middle = _predicate(words[start:end])
            if middle and subject != target:
                out.append(f"{subject} {middle} {target}")
        return out
    begin, end, name = places[0]
    middle = _predicate(words[:begin]) if end == len(words) else ""
    return [f"{middle} {name}"] if any(word.endswith("ing") for word in middle.split()) else []


def _predicate(words: list[str]) -> str:
    """Up to the last preposition or verb form before the modifiers of the next object; articles and forms of
    `be` go."""
    kept = [word for word in words if word not in DETERMINERS and word not in _BE]
    while kept and kept[-1] not in PREPOSITIONS and not kept[-1].endswith(("ing", "ed", "s")):
        kept.pop()
    return "" if kept in (["and"], ["or"]) or "and" in kept else " ".join(kept)
