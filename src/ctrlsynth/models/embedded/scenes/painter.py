"""`scenes`, the text-to-image model (2c) of the demo: reads a prompt's text and draws it with OpenMoji's
drawings.

It sees only the text: `read.py` parses objects, colours, sizes, counts, relations, place and weather from it,
`layout.py` positions them, and `draw.py` draws them as stickers on a painted background. It knows what it
drew, so policies, judges and taggers can be measured on it. It cannot paint photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....errors import UserError
from ...base import Painting, Prompt, TextToImageModel
from .draw import content_box, render
from .plan import Scene, make_plan, missing
from .read import Reading, read
from .vocabulary import drawings_digest, drawings_of

VERSION = 1  # raise it when the same prompt would be drawn differently: older rows are then painted again
_LEAST, _MOST = 64, 4096


class Scenes(TextToImageModel):
    """Text to image by drawing.

    Args:
        size: side of the square picture in pixels (64 .. 4096), where the prompt asks for no size.
        drawings: a folder of another vendor's drawings, PNG files named by code points, instead of
            OpenMoji's. A text that names a thing missing there fails with `no_drawing`."""

    id = "scenes"
    size: int

    def __init__(self, size: int = 384, drawings: str | None = None) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or not _LEAST <= size <= _MOST:
            raise UserError(
                f"scenes: size is a whole number of pixels from {_LEAST} to {_MOST}, not {size!r}"
            )
        self.size = size
        folder = Path(drawings).expanduser().resolve() if drawings is not None else None
        self._drawings = drawings_of(folder)
        self.digest = f"scenes-{VERSION}-{drawings_digest(folder)}-{size}"

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        """Returns one painting per prompt, in order. A text without things to draw gives the background
        alone; a size outside 64 .. 4096 gives the error `bad_size`."""
        return [self._paint(prompt) for prompt in prompts]

    def plan(self, prompt: Prompt) -> Scene:
        """The ground truth: everything that `generate` draws for this prompt, with boxes in pixels."""
        return self._plan(prompt, read(prompt.text))

    def _plan(self, prompt: Prompt, reading: Reading) -> Scene:
        size = prompt.size or (self.size, self.size)
        return make_plan(prompt, size, content_box(size, reading.style), reading, self._drawings)

    def _paint(self, prompt: Prompt) -> Painting:
        if prompt.size is not None and not all(_LEAST <= side <= _MOST for side in prompt.size):
            return Painting(None, error="bad_size")
        reading = read(prompt.text)
        if missing(reading, self._drawings):
            return Painting(None, error="no_drawing")
        scene = self._plan(prompt, reading)
        return Painting(render(scene), scene.drawn, scene.not_drawn, scene.weights_unused)
