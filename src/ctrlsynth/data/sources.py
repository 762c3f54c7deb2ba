"""Opens what a recipe names as its source (1a, 1b)."""

from __future__ import annotations

import importlib
from pathlib import Path

from ..errors import UserError
from ..recipe.schema import Source
from .rows import OpenSource

SOURCES = {
    "folder": "ctrlsynth.data.folder:FolderSource",
    "webdataset": "ctrlsynth.data.webdataset:TarSource",
    "parquet": "ctrlsynth.data.tabular:TableSource",
    "hf": "ctrlsynth.data.tabular:TableSource",
    "text": "ctrlsynth.data.text:TextSource",
    "concepts": "ctrlsynth.concepts.source:ConceptSource",
    "long_tail": "ctrlsynth.data.long_tail:LongTailSource",
}
"""Key of a recipe's `source` -> the class that opens it, called with (source, base, limit)."""


def open_source(source: Source, base: Path, limit: int | None = None) -> OpenSource:
    """The source of a recipe whose relative paths start at `base`; with `limit`, its first `limit` rows only.

    Looks at headers, footers and (for text) where rows begin; opens no image. Raises UserError that names the
    file and the remedy."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: at least 1")
    module, _, name = next(SOURCES[k] for k in SOURCES if getattr(source, k) is not None).partition(":")
    opened: OpenSource = getattr(importlib.import_module(module), name)(source, base.absolute(), limit)
    return opened
