"""`scenes`, the text-to-image model (2c) of the demo: reads a prompt's text and draws it with OpenMoji's
drawings.

It sees only the text: `read.py` parses objects, colours, sizes, counts, relations, place and weather from it,
`layout.py` positions them, and `render` draws them as stickers on a painted background. It knows what it
drew, so policies, judges and taggers can be measured on it. It cannot paint photographs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ....errors import UserError
from ...base import Painting, Prompt, TextToImageModel
from .backdrop import Floats, backdrop, saturated, to_image
from .plan import BAR, Scene, make_plan
from .read import Reading, read
from .sprites import sprite
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
        if type(size) is not int or not _LEAST <= size <= _MOST:
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

    def plan(self, prompt: Prompt, reading: Reading | None = None) -> Scene:
        """The ground truth: everything that `generate` draws for this prompt, with boxes in pixels.
        `reading`: that of the prompt's text, if the caller has it."""
        size = prompt.size or (self.size, self.size)
        return make_plan(prompt, size, reading or read(prompt.text), self._drawings)

    def _paint(self, prompt: Prompt) -> Painting:
        if prompt.size is not None and not all(_LEAST <= side <= _MOST for side in prompt.size):
            return Painting(None, error="bad_size")
        reading = read(prompt.text)
        if any(mention.name not in self._drawings for mention in reading.mentions):
            return Painting(None, error="no_drawing")
        scene = self.plan(prompt, reading)
        return Painting(render(scene), scene.drawn, scene.not_drawn, scene.weights_unused)


def render(scene: Scene) -> Image.Image:
    """Returns the picture: RGB, scene.size pixels. Equal scenes give equal bytes."""
    rng = np.random.Generator(np.random.PCG64(scene.seed))
    rim = max(2, round(0.012 * min(scene.size)))  # pixels of white around each drawing
    picture = to_image(backdrop(scene.size, scene.place, list(scene.weather), scene.style, rng))
    for thing in scene.objects:
        corner = (thing.box.left - rim, thing.box.top - rim)
        shape = sprite(
            scene.drawings[thing.name], thing.colour, scene.style == "isometric", thing.box.longer, rim
        )
        if scene.alone(thing):
            _shadow(picture, shape, corner, rim)
        picture.paste(shape, corner, shape)
    return _finish(picture, scene.style, rng)


def _shadow(picture: Image.Image, shape: Image.Image, corner: tuple[int, int], rim: int) -> None:
    """Adds a soft shadow to the lower right of a drawing that touches no other."""
    pad = 2 * rim
    mask = Image.new("L", (shape.width + 2 * pad, shape.height + 2 * pad), 0)
    mask.paste(shape.getchannel("A").point(lambda a: a * 3 // 10), (pad, pad))
    mask = mask.filter(ImageFilter.BoxBlur(rim))
    picture.paste((24, 28, 36), (corner[0] - pad + rim // 2, corner[1] - pad + rim), mask)


def _finish(picture: Image.Image, style: str, rng: np.random.Generator) -> Image.Image:
    """Applies a style to the whole picture, mildly, so that colours keep their names."""
    if style in ("", "nocap"):
        return picture
    pixels: Floats = np.asarray(picture, np.float32)
    if style == "real":
        pixels = pixels * np.array((1.0, 0.985, 0.955), np.float32) + _grain(pixels, 4.0, rng)
    elif style == "cinematic":
        light = pixels.mean(-1, keepdims=True) / 255
        tint = light * np.array((10, 2, -10)) + (1 - light) * np.array(
            (-4, 2, 8)
        )  # warm lights, cold shadows
        pixels = pixels * 0.97 + tint.astype(np.float32) + _grain(pixels, 5.0, rng)
        bar = int(BAR * pixels.shape[0])
        pixels[:bar] = pixels[-bar:] = 8
    elif style == "art":
        weave = np.zeros(pixels.shape[:2], np.float32)
        weave[::3] -= 7
        weave[:, ::3] -= 7
        pixels = pixels * np.array((1.0, 0.985, 0.94), np.float32) + weave[..., None]
    elif style in ("enhance", "isometric"):
        pixels = saturated(pixels, 1.12)
    elif style == "quality":
        return picture.filter(ImageFilter.UnsharpMask(1.5, 60, 2))
    return to_image(pixels + 0.5)


def _grain(pixels: Floats, sigma: float, rng: np.random.Generator) -> Floats:
    return (rng.standard_normal(pixels.shape[:2], np.float32) * np.float32(sigma))[..., None]
