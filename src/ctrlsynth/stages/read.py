"""1a and 1b: the source's rows as the first table: what later stages look up (caption, size, where the bytes
are), never the bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Protocol

import pyarrow as pa

from ..sample import key_of
from .base import Item, Upstream, build
from .tables import READ

_JSON = json.JSONEncoder(ensure_ascii=False, default=str)


class SourceParts(Protocol):
    """What the stage needs of `data.sources`."""

    def parts(self) -> list[Any]: ...
    def rows(self, part: Any) -> Iterator[Any]: ...


class ReadStage:
    """Rows that cannot be read are rows too, with their reason."""

    schema = READ
    version = 1
    reuses = False
    batch = 2048
    model_name = ""

    def __init__(self, source: SourceParts) -> None:
        self._source = source
        self._parts = source.parts()

    def settings(self) -> dict[str, Any]:
        bank = getattr(self._source, "bank", None)
        return {"bank": bank} if bank is not None else {}

    def items(self, up: Upstream) -> Iterator[list[Item]]:
        part = self._parts[up.index]
        out: list[Item] = []
        for row in self._source.rows(part):
            row_id = f"{part.name}:{row.key}"
            key = key_of("read", row.sha256 or "", row.caption or "")
            out.append(Item(row_id, None, row_id, key, row, row.status, row.reason))
            if len(out) == self.batch:
                yield out
                out = []
        if out:
            yield out

    def load(self, items: list[Item], up: Upstream) -> None:
        """Nothing to load: the source has looked already."""

    def call(self, items: list[Item]) -> list[Any]:
        return [None] * len(items)

    def rows(self, items: list[Item], answers: list[Any], seconds: float) -> pa.Table:
        rows = [i.payload for i in items]
        names = ("caption", "width", "height", "sha256", "file", "member", "offset", "length")
        columns: dict[str, list[Any]] = {name: list(map(attrgetter(name), rows)) for name in names}
        columns["metadata"] = [_JSON.encode(r.metadata) if r.metadata else None for r in rows]
        return build(self.schema, items, columns, self.model_name, seconds)

    def close(self) -> None:
        """The source holds nothing open."""

    def finish(self, table: pa.Table) -> pa.Table:
        return table
