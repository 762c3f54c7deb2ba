"""Base classes of the models in boxes 2a, 2b and 2c, and the records they take and return.

Every model takes a batch and returns as many answers, in the same order. It is built once per stage by
`registry.load`, as `Class(model, **options)`. A model that fails for one row sets that answer's `error` to a
short stable word; a model that fails for the whole batch raises `ModelError`. No model prints, downloads or
installs anything.

A class of your own may derive from one of these bases or only look like one: `registry.load` adds the
defaults of the hooks that it lacks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from ..sample import Tags


class Model(ABC):
    """What all models share.

    id      the name shown to people
    digest  identifies everything that affects the answers: weights, versions, precision. Rows with the same
            digest come from the same model
    """

    id: str
    digest: str

    def check(self) -> None:  # noqa: B027
        """Preflight: raises UserError for what the user can fix (a missing file, key or server). Loads no
        weights."""

    def content_digest(self) -> str:
        """Hash over every byte of the model's files, for `--verify`; `digest` may sample them."""
        return self.digest

    def close(self) -> None:  # noqa: B027
        """Frees memory, processes and connections; a later call opens them again."""


@dataclass(frozen=True, slots=True)
class ImageAndText:
    """Input of a tagger: decoded pixels (RGB, EXIF rotation applied, any size) and the caption; either may be
    None."""

    image: Image.Image | None
    text: str | None = None


class VisionTagger(Model):
    """Box 2a: tags of images, captions or both.

    reads    what it looks at; the judge of images takes only taggers that read pixels
    batch    rows per call, or None for the stage's own choice
    longest  pixels of the longer edge to which larger images are decoded for it. The default keeps
             photographs of any resolution cheap
    """

    reads: Literal["pixels", "caption", "both"]
    batch: int | None = None
    longest: int = 768

    @abstractmethod
    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Tags of each item; `Tags.error` fails the row."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a language model.

    instruction   the whole rendered text: template + content + constraint (CtrlSynth, figure 3)
    tags          the phrases in the instruction, for grammars and for models that read no instruction
                  (`realizer`)
    caption       the caption in the instruction, or None
    family        the template family: tags, tags+text, text, concept, extract
    schema        a JSON schema that the reply must satisfy, or None for plain text
    max_tokens    limit of the reply
    words         (least, most) words wanted, or None
    seed          0 .. 2**31 - 1; used if the model samples
    gone          phrases that the policy's edits removed, which the text must not contain. Only set if the
                  caption predates the edits (family tags+text), for models that read no instruction
    instead       (old, new) objects and attributes that such edits replaced
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
    """A language model's answer. `raw` is the reply before cleaning, where `text` differs; `error` fails the
    row."""

    text: str
    raw: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish: Literal["stop", "length"] = "stop"
    error: str | None = None


def stripped_reply(raw: str, prompt_tokens: int | None, completion_tokens: int | None, cut: bool) -> Reply:
    """A reply without the white space around it; `empty_reply` if nothing is left. `cut`: the limit ended
    it."""
    text = raw.strip()
    error = None if text else "empty_reply"
    return Reply(
        text,
        raw if raw != text else None,
        prompt_tokens,
        completion_tokens,
        "length" if cut else "stop",
        error,
    )


class LanguageModel(Model):
    """Box 2b: text from instructions. `batch` is the number of rows per call."""

    batch: int = 256

    def begin(self, requests: Sequence[Request]) -> None:
        """Announces requests, these very objects, that `generate` gets later. Servers start on them now, so
        they do not run dry between two batches."""

    def prompt(self, request: Request) -> str | None:
        """The text that the model reads for a request, in its chat template; None if unknown."""
        return None

    @abstractmethod
    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Input of a text-to-image model. `weights` maps a phrase of the text to its factor (1 = unchanged);
    `size` is (width, height) in pixels."""

    text: str
    negative: str = ""
    style: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Painting:
    """A text-to-image model's answer. `error` fails the row; `image` is then None.

    drawn, not_drawn  phrases, if the model knows
    weights_unused    weighted phrases that the text lacks or the model cannot weigh
    flagged           verdict of the model's own safety checker, or None without one; a flagged image is not
                      returned
    tokens            CLIP tokens of the prompt by the model's own tokenizer, with both special tokens; None:
                      the caller counts
    truncated         with `tokens`: whether part of the prompt reaches no text encoder
    chunks            number of chunks in which a long prompt was encoded, if the model chunks
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


class TextToImageModel(Model):
    """Box 2c: images from prompts.

    batch  rows per call
    size   one edge or (width, height) in pixels of an image whose prompt asks for no size; None if unknown
    """

    batch: int = 8
    size: int | tuple[int, int] | None = None

    def accepts(self, weights: bool, negative: bool) -> None:
        """Raises UserError, while the run is planned, if the model cannot weigh phrases or takes no negative
        prompt and the recipe asks for them."""

    def begin(self, prompts: Sequence[Prompt]) -> None:
        """Announces prompts, these very objects, that `generate` gets later, as for a language model."""

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        """One painting per prompt."""


class SafetyJudge(Model):
    """Scores decoded pixels for unwanted content, 0 (safe) .. 1."""

    @abstractmethod
    def score(self, images: Sequence[Image.Image]) -> list[float]:
        """One score per image."""
