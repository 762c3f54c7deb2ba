"""A llama.cpp engine (2b) in its own process, with one thread and one slot. Tasks and answers are lines of
JSON.

`pool.py` starts it as `python -c`, so that a user's script needs no `if __name__ == "__main__"` guard. It
exits as soon as its standard input closes, which happens however the parent ends, and ignores Ctrl-C: the
parent decides when it stops.

Greedy text depends on what the slot held before: the tail of the last prompt is reused, and a token computed
in a batch differs in its last bits from one computed alone. So every request starts from the same state: a
one-token call resets the slot to the fixed `head` of the prompt. A new head is computed twice, which gives
the state that all later requests start from."""

import json
import os
import queue
import signal
import sys
import threading
from typing import Any


def main(options_json: str) -> None:
    """Answers tasks from standard input until it closes; says {"fatal": why} if the model does not load."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # output of native code must not mix with our lines
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    try:
        engine = Engine(**json.loads(options_json))
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        _say(out, {"fatal": f"{type(error).__name__}: {error}"})
        return
    while True:
        _say(out, engine.answer(json.loads(tasks.get())))


def _listen(tasks: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin.buffer:
        tasks.put(line.decode("utf-8"))
    os._exit(0)  # the parent has ended: nobody needs the current answer


def _say(out: Any, message: dict[str, Any]) -> None:
    try:
        out.write(json.dumps(message) + "\n")
        out.flush()
    except BrokenPipeError:
        os._exit(0)


class Engine:
    """A loaded GGUF file. `answer` is a pure function of the task (which includes the seed)."""

    def __init__(self, path: str, context: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.verbosity, params.warmup, params.endpoint_slots = -1, False, False
        # no second cache of earlier prompts, which costs memory and is hidden state
        params.cache_ram_mib, params.n_ctx_checkpoints = 0, 0
        # the library opens a port on localhost, which nobody else may use
        params.api_keys = [os.urandom(16).hex()]
        self._server = xllamacpp.Server(params)
        self._head: str | None = None

    def answer(self, task: dict[str, Any]) -> dict[str, Any]:
        """Answers a task {chat: bool, head: body, body: body} with the engine's reply, or {error: {type,
        message}}."""
        try:
            self._reset(task["chat"], task["head"])
            return self._call(task["chat"], task["body"])
        except (ValueError, RuntimeError) as error:
            self._head = None
            return {"error": {"type": "refused", "message": str(error)}}

    def _reset(self, chat: bool, head: dict[str, Any]) -> None:
        """Puts the slot into the state that follows from the head alone."""
        name = json.dumps([chat, head])
        if name != self._head:
            self._call(chat, head | {"cache_prompt": False})
            self._head = name
            self._call(chat, head)
        self._call(chat, head)

    def _call(self, chat: bool, body: dict[str, Any]) -> dict[str, Any]:
        return dict(
            self._server.handle_chat_completions(body) if chat else self._server.handle_completions(body)
        )
