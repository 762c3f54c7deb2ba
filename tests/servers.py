"""Servers on loopback for tests and benchmarks: llama.cpp's own with SmolLM2, and one that answers wrongly on
demand."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_LLAMA = r"""
import sys, xllamacpp
path, port, slots, key = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.n_gpu_layers, p.port = path, 1024 * slots, slots, 0, port
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.verbosity, p.warmup, p.cache_ram_mib, p.model_alias = -1, False, 0, {"smollm2"}
if key:
    p.api_keys = [key]
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(condition: Callable[[], object]) -> None:
    """Returns once the condition holds."""
    while not condition():
        time.sleep(0.01)


class LlamaServer:
    """llama.cpp's HTTP server with SmolLM2-135M in a process of its own; it can be killed and started again
    at its address."""

    def __init__(self, slots: int = 2, key: str = "") -> None:
        self.port, self.slots, self.key = free_port(), slots, key
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._process: Any = None

    @property
    def pid(self) -> int:
        """The server's process."""
        return int(self._process.pid)

    def __enter__(self) -> LlamaServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns once it answers."""
        from ctrlsynth.models.llms.llama_cpp.engine import smollm2_file

        self._process = subprocess.Popen(
            [sys.executable, "-c", _LLAMA, smollm2_file(), str(self.port), str(self.slots), self.key],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )
        for _ in range(600):
            assert self._process.poll() is None, "the llama.cpp server has ended"
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(self.url.removesuffix("/v1") + "/health", timeout=5) as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise AssertionError("the llama.cpp server does not answer")

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


Answer = Callable[[int, Mapping[str, Any]], Any]
"""(how many-th request from 0, its JSON) -> a body as dict, or what `FaultyServer` names."""


def completion(text: str | None, **more: Any) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": text, **{k: more.pop(k) for k in ("refusal",) if k in more}}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **more}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }  # fmt: skip


def said(body: Mapping[str, Any]) -> str:
    """What the user's message says."""
    return str(body["messages"][-1]["content"])


def echo(_: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """Says the user's message again."""
    return completion(f"You said: {said(body)}")


_SENT: dict[str, tuple[Any, ...]] = {
    "garbage": (200, {}, b'{"choices": [{"mess\xff'),
    "page": (200, {"Content-Type": "text/html"}, b"<html>It works!</html>"),
    "half": (200, {}, b'{"id": "1", "choices": [{"mess', 200),
}
"""What `FaultyServer` sends by name: status, headers, body, and the length that it announces if another."""


class _Quiet(ThreadingHTTPServer):
    """Takes many connections at once, and says nothing of those that their client breaks off."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None: ...


class FaultyServer:
    """An OpenAI-compatible server that does what `answer` says:

    a dict                  sent as JSON
    (status, headers, body) sent as they are
    "garbage"               bytes that are no JSON, as JSON
    "page"                  an HTML page with status 200
    "half"                  half of the body that it announced, then the connection is closed
    "close"                 the connection is closed without a word
    "hang"                  no answer until the server is closed
    """

    def __init__(self, answer: Answer = echo, models: tuple[str, ...] = ("m",), port: int = 0) -> None:
        self.answer, self.models = answer, models
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.most = self._busy = 0
        self._open: set[socket.socket] = set()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._server = _Quiet(("127.0.0.1", port), self._handler())
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> FaultyServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._open):  # as if the process were killed: kept-alive connections end too
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer._open.add(self.connection)

            def finish(self) -> None:
                outer._open.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def log_message(self, format: str, *args: Any) -> None: ...

            def do_GET(self) -> None:
                listed = [
                    {"id": name, "object": "model", "created": int(time.time()), "owned_by": "tests"}
                    for name in outer.models
                ]
                self._send(200, {}, json.dumps({"object": "list", "data": listed}).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    number = len(outer.seen)
                    outer.seen.append(body)
                    outer.keys.append(self.headers.get("Authorization", ""))
                    outer.times.append(time.monotonic())
                    outer._busy += 1
                    outer.most = max(outer.most, outer._busy)
                try:
                    self._do(outer.answer(number, body))
                finally:
                    with outer._lock:
                        outer._busy -= 1

            def _do(self, what: Any) -> None:
                if isinstance(what, dict):
                    what = (200, {}, json.dumps(what).encode())
                if isinstance(what, tuple) or what in _SENT:
                    self._send(*(what if isinstance(what, tuple) else _SENT[what]))
                self.close_connection |= what in ("half", "close", "hang")
                if what == "hang":
                    outer._ended.wait(60)

            def _send(
                self, status: int, headers: Mapping[str, str], body: bytes, length: int | None = None
            ) -> None:
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | dict(headers)).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

        return Handler
