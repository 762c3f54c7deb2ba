"""Text-to-image models behind OpenAI-compatible image servers (2c): `POST /images/generations`.

    text_to_image: {openai: stable-diffusion-3.5-medium, base_url: http://localhost:8000/v1, size: 1024}
    text_to_image: {openai: gpt-image-1, size: 1024, extra_body: {quality: medium}}          # the key in
    $OPENAI_API_KEY

The protocol knows a prompt, a model and a size. Servers of one's own mostly also take `seed` and
`negative_prompt`, which are sent beside them; the hosted service takes neither, so there the same prompt
gives another image each time. No server weighs single tags. What a server rewrites in a prompt before it
paints is not told here. `digest` holds what the server says of its model; nobody can look at its weights, so
it is marked `unverified`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any

from PIL import Image

from ...data.images import ImageFault, decode
from ...errors import UserError
from ..base import Painting, Prompt, TextToImageModel
from ..llms.server import reported
from ..prices import check_prices
from ..server import Call, ServerPool, addresses
from ..server_faults import BadReply, Fault

WHERE = "models.text_to_image"


class ImageServer(TextToImageModel):
    """A `TextToImageModel` behind one or more servers of the same model.

    base_url, base_urls   where; neither: api.openai.com. Several are replicas: the least busy is asked
    version      what the digest calls the model's version, instead of asking the server for it
    size         pixels where the prompt asks for no size: one edge or [width, height]; the server's own when
                 not given
    seed, negative_prompt   whether the server takes these fields; true for servers of one's own unless told
                            otherwise
    b64_json     whether `response_format: b64_json` is sent; true for servers of one's own (the hosted models
                 refuse the field)
    extra_body   more fields of the request: {steps: 28, guidance_scale: 7.0}, {quality: medium}
    prices       US dollars an image, {row: 0.04}: `status` tells the cost. Belongs to no digest
    concurrency .. api_key_env   as in `ServerPool`; they belong to no digest
    """

    size: tuple[int, int] | None

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        base_urls: Sequence[str] | None = None,
        version: str | None = None,
        size: int | Sequence[int] | None = None,
        seed: bool | None = None,
        negative_prompt: bool | None = None,
        b64_json: bool | None = None,
        extra_body: Mapping[str, Any] | None = None,
        prices: Mapping[str, float] | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 300.0,
        deadline: float = 1200.0,
        retries: int = 8,
        patience: float = 300.0,
    ) -> None:
        if not isinstance(model, str) or not model:
            raise UserError(
                f"{WHERE}: openai takes the model's name as the server lists it, such as "
                f"{{openai: gpt-image-1}}, not {model!r}"
            )
        self.model, self.id, self.version = model, f"openai:{model}", version
        self.size, self.prices = _size(size), check_prices(prices, WHERE, counted=False)
        self.pool = ServerPool(
            WHERE,
            addresses(WHERE, base_url, base_urls),
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout=timeout,
            deadline=deadline,
            retries=retries,
            patience=patience,
        )
        own = bool(self.pool.base_urls)
        self.seed, self.negative, self.b64_json = (
            own if given is None else given for given in (seed, negative_prompt, b64_json)
        )
        self.extra_body = dict(extra_body or {})
        self.batch = 2 * concurrency * max(1, len(self.pool.base_urls))
        self._begun: dict[
            int, tuple[Prompt, Future[Image.Image | Fault]]
        ] = {}  # by object: equal prompts are asked each
        self._lock = threading.Lock()

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        """Asks the server for its model's version, once, unless the recipe says it. UserError where no server
        answers."""
        told = self.version if self.version is not None else reported(self.pool, self.model)
        options = [self.size, self.seed, self.negative, self.extra_body]
        sha = hashlib.sha256(json.dumps([self.model, told, options], sort_keys=True, default=str).encode())
        return f"unverified:{sha.hexdigest()[:32]}"

    def accepts(self, weights: bool, negative: bool) -> None:
        """UserError where the image policy asks for what no request can carry."""
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
        extra = dict(self.extra_body)
        if self.seed:
            extra["seed"] = prompt.seed
        if prompt.negative and self.negative:
            extra["negative_prompt"] = prompt.negative
        return body | {"extra_body": extra} if extra else body

    def begin(self, prompts: Sequence[Prompt]) -> None:
        """Sends requests off that `generate` will be asked for, these very objects: so a server does not run
        dry between two batches."""
        asked = [prompt for prompt in prompts if self._can(prompt)]
        started = self.pool.start([self._call(prompt) for prompt in asked], read)
        with self._lock:
            self._begun.update(
                {id(prompt): (prompt, future) for prompt, future in zip(asked, started, strict=True)}
            )

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        """One painting a prompt, in order. What the server's moderation or its checks turn down has the error
        `refused`; other errors as in `server_faults.Fault`. Raises `ModelError("server_down")`, and UserError
        where the server refuses the key or lacks the model."""
        with self._lock:
            begun = [self._begun.pop(id(prompt), None) for prompt in prompts]
        asked = [b is None and self._can(prompt) for prompt, b in zip(prompts, begun, strict=True)]
        new = iter(
            self.pool.start(
                [self._call(prompt) for prompt, ask in zip(prompts, asked, strict=True) if ask], read
            )
        )
        started = [
            b[1] if b is not None else next(new) if ask else None for b, ask in zip(begun, asked, strict=True)
        ]
        answers = iter(self.pool.gather([future for future in started if future is not None]))
        return [
            self._painting(prompt, next(answers))
            if future is not None
            else Painting(None, error="negative_unsupported")
            for prompt, future in zip(prompts, started, strict=True)
        ]

    def _can(self, prompt: Prompt) -> bool:
        return self.negative or not prompt.negative

    def _painting(self, prompt: Prompt, answer: Image.Image | Fault) -> Painting:
        unused = tuple(prompt.weights)
        if isinstance(answer, Fault):
            return Painting(None, weights_unused=unused, error=answer.error)
        return Painting(answer, weights_unused=unused)

    def _call(self, prompt: Prompt) -> Call:
        body = self.body(prompt)
        return lambda client: client.images.generate(**body)

    def check(self) -> None:
        """Preflight: the key is set, a server answers, and it has the model (with `version` nobody is asked:
        not every image server lists its models)."""
        if self.version is None:
            self.pool.check(self.model)

    def close(self) -> None:
        """Ends the connections and gives up what was begun; a later call opens them again."""
        with self._lock:
            self._begun.clear()
        self.pool.close()


def _size(size: Any) -> tuple[int, int] | None:
    """One edge or (width, height) as a pair."""
    sides = (size, size) if isinstance(size, int) else size
    if sides is None:
        return None
    if (
        not isinstance(sides, (list, tuple))
        or len(sides) != 2
        or not all(type(s) is int and s > 0 for s in sides)
    ):
        raise UserError(f"{WHERE}.size: one edge or [width, height] in pixels, not {size!r}")
    return sides[0], sides[1]


def read(response: Any) -> Image.Image:
    """The image of a response. `BadReply` for what holds none; UserError for a server that answers with
    addresses, since nothing is fetched from where it points."""
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
