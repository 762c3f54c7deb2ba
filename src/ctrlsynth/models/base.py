"""The protocols of 2a, 2b and 2c, and what goes in and out of them. Batches in, the same number out, in the
same order.

A model has an `id` (what a person calls it) and a `digest` (what decides whether two answers came from the
same model: files, versions, precision). It is built once a stage by `models.load`, as `Class(model,
**options)`. A model that cannot answer for one row says so in that row's answer (`error`, a short stable
word); one that cannot answer for the whole batch raises `ModelError`. No model prints, downloads or installs
anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from PIL import Image

from ..sample import Tags


@dataclass(frozen=True, slots=True)
class ImageAndText:
    """What a tagger may look at: decoded pixels (RGB, EXIF rotation applied, any size) and the caption;
    either may be None."""

    image: Image.Image | None
    text: str | None = None


class VisionTagger(Protocol):
    """2a. `reads` says what it looks at; the judge of images takes only taggers that read pixels. Tags with
    an `error`: the row has failed with it."""

    id: str
    digest: str
    reads: Literal["pixels", "caption", "both"]

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]: ...


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a language model.

    instruction   the whole rendered text: template + content + constraint (CtrlSynth, figure 3)
    tags          the phrases that the instruction carries, for models that need no instruction (`realizer`)
                  and for grammars
    caption       the caption that the instruction carries, or None
    family        which template family: tags, tags+text, text, concept, extract
    schema        a JSON schema that the reply must fulfil, or None for plain text
    max_tokens    the most the reply may have
    words         (least, most) words wanted, or None
    seed          0 .. 2**31 - 1; used where the model samples
    gone          phrases that the policy's edits took away, which the text must not hold; only where the
                  caption is from before the edits (family tags+text), so that a model that reads no
                  instruction knows what to leave out of it
    instead       (old, new) objects and attributes: of what such edits put another phrase in place of, how it
                  is now
    """

    instruction: str
    tags: Tags = field(default_factory=Tags)
    caption: str | None = None
    family: str = "tags"
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 128
    words: tuple[int, int] | None = None
    seed: int = 0
    gone: Tags = field(default_factory=Tags)
    instead: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A language model's answer; `raw` is what it really said when `text` was cleaned. `error` set: the row
    has failed with it."""

    text: str
    raw: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish: Literal["stop", "length"] = "stop"
    error: str | None = None


class LanguageModel(Protocol):
    """2b."""

    id: str
    digest: str

    def generate(self, requests: Sequence[Request]) -> list[Reply]: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """What 3b hands to 2c. `weights` maps a phrase of the text to its factor (1 = as it is); `size` is
    (width, height) in pixels."""

    text: str
    negative: str = ""
    style: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Painting:
    """A text-to-image model's answer. `drawn`, `not_drawn`: phrases, where the model knows; `weights_unused`:
    weighted phrases that the text lacks or the model cannot weigh. `error` set: the row has failed with it,
    and `image` is None.

    flagged     the verdict of the model's own safety checker, None where it has none. A flagged image is not
                given out
    tokens      CLIP tokens of the prompt by the model's own tokenizer, both special ones included; None: the
                caller counts
    truncated   with `tokens`: whether a part of the prompt reaches no text encoder
    chunks      in how many chunks the prompt was encoded, where the model was told to chunk long ones
    """

    image: Image.Image | None
    drawn: tuple[str, ...] = ()
    not_drawn: tuple[str, ...] = ()
    weights_unused: tuple[str, ...] = ()
    error: str | None = None
    flagged: bool | None = None
    tokens: int | None = None
    truncated: bool | None = None
    chunks: int | None = None


class TextToImageModel(Protocol):
    """2c. A model that has no place for weights of tags or a negative prompt says so in `accepts(weights:
    bool, negative: bool)`, which raises a `UserError` while the run is planned; without that method it takes
    both."""

    id: str
    digest: str

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]: ...


class SafetyJudge(Protocol):
    """Scores decoded pixels for unwanted content, 0 (safe) .. 1."""

    id: str
    digest: str

    def score(self, images: Sequence[Image.Image]) -> list[float]: ...
