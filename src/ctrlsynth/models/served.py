"""Base class of the models behind OpenAI-compatible servers: their options, digest, and requests sent
ahead."""

import hashlib
import json
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any

from ..errors import UserError
from .base import Model
from .server import Call, ServerOptions, ServerPool


class ServedModel(Model):
    """A model behind one or more servers. Subclasses say how a row becomes a request (`call`), a response an
    answer (`read`), and what the digest holds beside the model (`shaping`).

    Nobody can look at a server's weights, so the digest holds what the server reports of its model and is
    marked `unverified`. Rows with equal contents are separate requests: they are matched by object.
    """

    where: str
    example: str
    counted = True
    """Whether the stage's table holds tokens."""

    def __init__(self, model: Any, given: Mapping[str, Any], own: Sequence[str], **defaults: Any) -> None:
        """`given` are the recipe's options of `ServerOptions`, `own` the names of the model's further
        ones."""
        if not isinstance(model, str) or not model:
            raise UserError(
                f"{self.where}: openai takes the model's name as the server lists it, such as "
                f"{{openai: {self.example}}}, not {model!r}"
            )
        self.options = ServerOptions.read(given, self.where, own, **defaults)
        if not self.counted and {*(self.options.prices or ())} - {"row"}:
            raise UserError(
                f"{self.where}.prices: no tokens are kept for this stage; give the price of a row: "
                f"{{row: 0.002}}"
            )
        self.model, self.id = model, f"openai:{model}"
        self.pool = ServerPool(self.where, self.options)
        self._begun: dict[int, tuple[Any, Future[Any]]] = {}
        self._lock = threading.Lock()

    @abstractmethod
    def call(self, row: Any) -> Call:
        """The request of a row."""

    @abstractmethod
    def read(self, response: Any) -> Any:
        """The answer in a response; may raise `BadReply`."""

    @abstractmethod
    def shaping(self) -> Any:
        """The options that affect answers, as JSON."""

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        """Asks the server for its model's version, once, unless the recipe gives it. UserError if no server
        answers."""
        version = self.options.version
        reported = version if version is not None else self.pool.reported(self.model)
        text = json.dumps([self.model, reported, self.shaping()], sort_keys=True, default=str)
        return f"unverified:{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    def begin(self, rows: Sequence[Any]) -> None:
        """Sends rows that `answers` gets later, these very objects, so that servers do not run dry between
        two batches."""
        started = self.pool.start([self.call(row) for row in rows], self.read)
        with self._lock:
            self._begun.update({id(row): (row, f) for row, f in zip(rows, started, strict=True)})

    def answers(self, rows: Sequence[Any]) -> list[Any]:
        """An answer or a `Fault` per row, in order. Raises as `ServerPool.gather`."""
        with self._lock:
            begun = [self._begun.pop(id(row), None) for row in rows]
        new = [self.call(row) for row, b in zip(rows, begun, strict=True) if b is None]
        started = iter(self.pool.start(new, self.read))
        return self.pool.gather([b[1] if b is not None else next(started) for b in begun])

    def check(self) -> None:
        """Preflight: the key is set, a server answers, and each that answers has the model."""
        self.pool.reported(self.model)

    def close(self) -> None:
        """Closes the connections and gives up what was begun; a later call opens them again."""
        with self._lock:
            self._begun.clear()
        self.pool.close()
