"""Vision models behind OpenAI-compatible servers as taggers (2a): vLLM, SGLang, a hosted one.

    {openai: Qwen/Qwen2.5-VL-7B-Instruct, base_url: http://localhost:8000/v1}
    {openai: Qwen/Qwen2.5-VL-7B-Instruct, base_url: ..., extract: smollm2}

The first asks for three lines of phrases from the picture, the second for a caption, from which a language
model extracts them.

The picture is sent as a JPEG in a data URL. For tags, the model gets A.4's instruction, worded for an image;
no caption is there to check its answer against, so nothing is dropped. Takes the options of
models/llms/server.py."""

import base64
import io
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from PIL import Image

from ...errors import unknown
from ...lang.replies import LISTS_SCHEMA
from ...sample import Tags
from ..base import ImageAndText, Request
from ..composite import Composite
from ..hub.files import hash_of
from ..llms.server import OpenAIServer
from ..server import Call
from .captioner import CHAT_PROMPT
from .extract import MODES, ExtractTagger, read_tags, with_extracted

_VERSION = 1  # part of the digest: raise it when the same model would be asked differently
_WHERE = "models.tagger"
QUALITY = 90
_ASK = (
    "For the given image, identify all the attributes, objects or entities, and visual relationships or "
    "actions that are phrases. "
    "Name only what can be seen. "
)
_FORMS = {
    "lines": "Separate the phrases by comma without formatting. Output three lines and nothing else:\n"
    "attributes: phrases\nobjects: phrases\nrelations: phrases",
    "json": 'Output one JSON object and nothing else:\n{"attributes": ["phrases"], "objects": ["phrases"], '
    '"relations": ["phrases"]}',
}


class _VisionServer(OpenAIServer):
    """Asks one question about every picture."""

    where = _WHERE
    counted = False

    def __init__(self, question: Request, model: Any, **server: Any) -> None:
        super().__init__(model, **server)
        self.question = question

    def call(self, row: Any) -> Call:
        """The picture and the question as a chat completion."""
        body = self.body(self.question)
        content = [
            {"type": "image_url", "image_url": {"url": data_url(row)}},
            {"type": "text", "text": self.question.instruction},
        ]
        body["messages"] = [{"role": "user", "content": content}]
        return lambda client: client.chat.completions.create(**body)


class VisionServerTagger(Composite):
    """A vision model behind one or more servers.

    mode        lines or json (constrained to a schema if the server can): form of the tags, from the model
                itself or from `extract`
    extract     a language model as a recipe names it, or True for the caption alone; None: the vision model
                names the tags itself
    prompt      the question, instead of `CHAT_PROMPT` for a caption or A.4's words for tags
    max_tokens  limit of an answer
    server      sampling (llms/sampling.py) and servers (`ServerOptions`); prices per row, {row: 0.002}
    """

    reads: Literal["pixels"] = "pixels"

    def __init__(
        self,
        model: Any = None,
        *,
        mode: str = "lines",
        extract: Any = None,
        prompt: str | None = None,
        max_tokens: int = 512,
        **server: Any,
    ) -> None:
        if mode not in MODES:
            raise unknown("mode", str(mode), MODES, _WHERE)
        self._captions = extract is not None
        self._extract = None if extract in (None, True) else ExtractTagger(extract, mode=mode, max_tokens=512)
        self._mode = mode
        prompt = prompt or (CHAT_PROMPT if self._captions else _ASK + _FORMS[mode])
        schema = LISTS_SCHEMA if mode == "json" and not self._captions else None
        question = Request(prompt, max_tokens=max_tokens, schema=schema)
        self._server = _VisionServer(question, model, **server)
        self.parts: list[Any] = [self._server] if self._extract is None else [self._server, self._extract]
        self.batch = min(
            [256, *(part.batch or 256 for part in self.parts)]
        )  # decoded pictures wait in memory
        self.id = "+".join(part.id for part in self.parts)

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        """Includes the server's report of its model, so it is `unverified`."""
        question = self._server.question
        own = [
            _VERSION,
            self._server.digest,
            self._mode,
            self._captions,
            question.instruction,
            question.max_tokens,
            self._extract.digest if self._extract is not None else None,
            QUALITY,
        ]
        return f"unverified:{hash_of(own)[:32]}"

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Tags of each item; empty without an image. A request that failed for good fails its row with the
        server's reason."""
        seen = [n for n, item in enumerate(items) if item.image is not None]
        rows = [Tags()] * len(items)
        for n, answer in zip(seen, self._server.answers([items[n].image for n in seen]), strict=True):
            if answer.error:
                rows[n] = Tags(error=answer.error)
            elif self._captions:
                rows[n] = Tags(caption=" ".join(answer.text.split()))
            else:
                rows[n] = read_tags(answer.text, self._mode)
        return with_extracted(rows, self._extract)


def data_url(image: Image.Image) -> str:
    """The picture as a JPEG in a data URL."""
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
