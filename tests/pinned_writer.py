"""A scripted language model for pinned runs: what it says depends on nothing but the request."""

import zlib
from collections.abc import Sequence

from ctrlsynth.models.base import Reply, Request

_FRAMES = (
    "A {0} stands beside an old wooden fence.",
    '"Two people look at a {0} on a rainy day."',
    "Sure! Here is a caption:\nA small {0} near a quiet lake.",
    "The photo shows a bright {0} on a white table",
    "1. A {0} in the morning sun, seen from above.",
    "Nothing that anyone would name.",
    "A red {0} and a blue dog under a tree, with a {0} behind them.",
    "",
)


class PinnedWriter:
    """Puts the request's first phrase into one of eight frames, some plain, some odd or empty.

    CRC-32 of the instruction and the seed picks the frame.
    """

    id = "pinned-writer"
    digest = "1"

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order."""
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        about = next(iter(request.tags.phrases()), request.caption or "thing")
        number = zlib.crc32(f"{request.instruction}\0{request.seed}".encode())
        text = _FRAMES[number % len(_FRAMES)].format(about)
        asked = len(request.instruction.split())
        return Reply(text, prompt_tokens=asked, completion_tokens=len(text.split()))
