"""Stands in for vLLM, which needs a GPU: it can be imported, and fails when an engine is started."""

from typing import Any


class LLM:
    """vLLM's offline engine, which nobody may start here."""

    def __init__(self, **_: Any) -> None:
        raise AssertionError("a vLLM engine was started")
