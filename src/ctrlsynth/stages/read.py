"""1a and 1b: the source's rows as the first table. Holds what later stages look up (caption, size, where the
image's bytes are), never the bytes."""

import json
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from ..recipe.paths import Step
from ..sample import key_of
from ..storage.parts import PartView
from .base import Item, Stage
from .materials import Materials
from .tables import READ

_JSON = json.JSONEncoder(ensure_ascii=False, default=str)
_COLUMNS = ("caption", "width", "height", "sha256", "file", "member", "offset", "length")


class ReadStage(Stage):
    """Reads the source. Rows that cannot be read are rows too, with their reason."""

    schema = READ

    def __init__(self, step: Step, materials: Materials) -> None:
        super().__init__(step, materials)
        assert materials.source is not None
        self._source = materials.source
        self._parts = self._source.parts()

    def settings(self) -> dict[str, Any]:
        bank = getattr(self._source, "bank", None)
        return {"bank": bank} if bank is not None else {}

    def policy(self) -> Any:
        return self._seed

    def items(self, up: PartView) -> Iterator[Item]:
        part = self._parts[up.index]
        for row in self._source.rows(part):
            row_id = f"{part.name}:{row.key}"
            key = key_of("read", row.sha256 or "", row.caption or "")
            yield Item(row_id, None, row_id, key, row, row.status, row.reason)

    def columns(self, items: list[Item], answers: list[Any]) -> dict[str, list[Any]]:
        metadata = [_JSON.encode(r.metadata) if r.metadata else None for r in answers]
        return {name: list(map(attrgetter(name), answers)) for name in _COLUMNS} | {"metadata": metadata}
