"""Text-to-image models (2c) behind OpenAI-compatible image servers: `POST /images/generations`.

    text_to_image: {openai: stable-diffusion-3.5-medium, base_url: http://localhost:8000/v1, size: 1024}
    text_to_image: {openai: gpt-image-1, size: 1024, extra_body: {quality: medium}}          # the key in
    $OPENAI_API_KEY

The protocol has a prompt, a model and a size. Your own servers mostly also take `seed` and `negative_prompt`.
The hosted service takes neither, so there the same prompt gives another image each time. No server weighs
phrases. Whether a server rewrites a prompt before it paints is not known here."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ...data.images import ImageFault, decode
from ...errors import UserError
from ..base import Painting, Prompt, TextToImageModel
from ..options import image_size
from ..served import ServedModel
from ..server import BadReply, Call, Fault

WHERE = "models.text_to_image"


class ImageServer(ServedModel, TextToImageModel):
    """A text-to-image model behind one or more servers.

    size         pixels of an image whose prompt asks for no size: one edge or [width, height]; None: the
                 server's own
    seed, negative_prompt   whether the server takes these fields; None: only your own servers do
    b64_json     whether `response_format: b64_json` is sent; None: only to your own servers (the hosted
                 models refuse the field)
    options      servers (`ServerOptions`); concurrency 8, timeout 300 and deadline 1200 by default
    """

    where = WHERE
    example = "gpt-image-1"
    counted = False
    size: tuple[int, int] | None

    def __init__(
        self,
        model: str | None = None,
        *,
        size: int | Sequence[int] | None = None,
        seed: bool | None = None,
        negative_prompt: bool | None = None,
        b64_json: bool | None = None,
        **options: Any,
    ) -> None:
        own = ("size", "seed", "negative_prompt", "b64_json")
        super().__init__(model, options, own, concurrency=8, timeout=300.0, deadline=1200.0)
        self.size = image_size(size, WHERE)
        own_server = bool(self.options.urls)
        self.seed, self.negative, self.b64_json = (
            own_server if given is None else given for given in (seed, negative_prompt, b64_json)
        )
        self.batch = 2 * self.options.concurrency * max(1, len(self.options.urls))

    def shaping(self) -> Any:
        """What the digest holds beside the model."""
        return [self.size, self.seed, self.negative, dict(self.options.extra_body)]

    def accepts(self, weights: bool, negative: bool) -> None:
        """UserError if the image policy asks for what no request can carry."""
        if weights:
            raise UserError(f"{WHERE}: an image server cannot weigh tags; leave image_policy.weights out")
        if negative and not self.negative:
            raise UserError(
                f"{WHERE}: {self.id} takes no negative prompt; leave image_policy.negative out, or set "
                f"negative_prompt: true"
            )

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """The arguments of `client.images.generate` for one prompt."""
        body: dict[str, Any] = {"model": self.model, "prompt": prompt.text, "n": 1}
        size = prompt.size or self.size
        if size is not None:
            body["size"] = f"{size[0]}x{size[1]}"
        if self.b64_json:
            body["response_format"] = "b64_json"
        extra = dict(self.options.extra_body)
        if self.seed:
            extra["seed"] = prompt.seed
        if prompt.negative and self.negative:
            extra["negative_prompt"] = prompt.negative
        return body | {"extra_body": extra} if extra else body

    def call(self, row: Prompt) -> Call:
        """The prompt as a request for one image."""
        body = self.body(row)
        return lambda client: client.images.generate(**body)

    def read(self, response: Any) -> Image.Image:
        """The image in a response; `BadReply` without one. UserError for a server that answers with
        addresses, since nothing is fetched from them."""
        data = getattr(response, "data", None)
        first: Any = data[0] if isinstance(data, list) and data else None
        encoded = getattr(first, "b64_json", None)
        if not isinstance(encoded, str) or not encoded:
            if getattr(first, "url", None):
                raise UserError(
                    f"{WHERE}: the server answers with an address in place of the image; set b64_json: true"
                )
            raise BadReply(f"no image in the reply: {str(response)[:200]}")
        try:
            return decode(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ImageFault) as error:
            raise BadReply(f"an image that cannot be read: {error}") from error

    def begin(self, prompts: Sequence[Prompt]) -> None:
        """Sends prompts that `generate` gets later, these very objects."""
        super().begin([prompt for prompt in prompts if self._can(prompt)])

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        """One painting per prompt, in order. A prompt that the server's moderation rejects has the error
        `refused`; other errors as in `Fault`. Raises `ModelError("server_down")`, and UserError if the server
        refuses the key or lacks the model."""
        answers = iter(self.answers([prompt for prompt in prompts if self._can(prompt)]))
        out = []
        for prompt in prompts:
            answer = next(answers) if self._can(prompt) else Fault("negative_unsupported")
            image, error = (None, answer.error) if isinstance(answer, Fault) else (answer, None)
            out.append(Painting(image, weights_unused=tuple(prompt.weights), error=error))
        return out

    def _can(self, prompt: Prompt) -> bool:
        return self.negative or not prompt.negative

    def check(self) -> None:
        """Preflight as for every server; with `version` none is asked, since not every image server lists its
        models."""
        if self.options.version is None:
            super().check()
