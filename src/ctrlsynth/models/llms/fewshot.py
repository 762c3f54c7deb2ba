"""Few-shot prompts for a small model (2b): a task line, our own examples, then the request's phrases and caption.

SmolLM2-135M copies a long instruction instead of following it, so the rendered template is not in this prompt: the family decides the
task and the content stays the request's. (A larger GGUF model gets the instruction itself: llama_cpp.py.)
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

from ..base import Request
from . import grammar
from .scene import Scene, plan

_TAGS = """Write one sentence about a picture. Use all the words.

Words: brown dog chasing red ball
Sentence: A brown dog is chasing a red ball.

Words: white oven in clean kitchen, wooden chair
Sentence: A white oven stands in a clean kitchen next to a wooden chair.

Words: old man on ladder, old man wearing green hat, tree
Sentence: An old man on a ladder is wearing a green hat near a tree.

Words: two cats under soft blanket, window
Sentence: Two cats are under a soft blanket in front of a window.

Words: coffee, newspaper
Sentence: Coffee stands next to a newspaper.

Words: wooden boat on lake, snowy mountain, clouds
Sentence: A wooden boat is on a lake in front of a snowy mountain with clouds.

Words:"""


def task(request: Request, common: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's task (pool.Task) for a request."""
    scene = plan(request.tags)
    head = _TAGS
    body = dict(common) | {
        "prompt": f"{head} {content(scene)}\nSentence: ",
        "grammar": grammar.sentence(scene, request.words, seed=request.seed),
        "stop": ["\n"],
    }
    return {"chat": False, "head": {"prompt": head, "max_tokens": 1, "temperature": 0.0}, "body": body}


def content(scene: Scene) -> str:
    """The scene as short phrases: `brown dog on red sofa, tall tree`; a noun has its modifiers at its first mention."""
    seen: set[int] = set()

    def name(i: int | None) -> str:
        if i is None:
            return ""
        new = i not in seen
        seen.add(i)
        return scene.nouns[i].full() if new else scene.nouns[i].bare()

    out = [" ".join(filter(None, (name(c.subject), c.words, name(c.object)))) for c in scene.clauses]
    out += [name(i) for i in scene.alone]
    return ", ".join(out + scene.loose)


def digest() -> str:
    """Changes with any prompt or grammar."""
    sources = "".join(inspect.getsource(module) for module in (inspect.getmodule(task), grammar, inspect.getmodule(plan)) if module)
    return hashlib.sha256(sources.encode()).hexdigest()[:16]
