"""Opens what a recipe names as its source (1a, 1b).

A source of your own is any class on PYTHONPATH, named as `source: {my_module:MySource: options}`. It is
called like ours, with the recipe's block, the folder that relative paths start from, and the limit:

    class MySource(OpenSource):
        def __init__(self, source: Source, base: Path, limit: int | None) -> None:
            super().__init__(source)
            options = source.custom["my_module:MySource"]
            self.add_part(fingerprint(...), locator, rows)  # for each part
        def rows(self, part: SourcePart) -> Iterator[SourceRow]: ...
        def describe(self) -> str: ...

`rows` streams a part's rows, in any order of parts; a part with the same fingerprint is not read again."""

from pathlib import Path

from ..errors import UserError
from ..recipe.code import load_code
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
"""Key of a recipe's `source` -> the class that opens it."""


def open_source(source: Source, base: Path, limit: int | None = None) -> OpenSource:
    """The source of a recipe whose relative paths start at `base`; with `limit`, its first `limit` rows only.

    Looks at headers, footers and (for text) where rows begin; opens no image. Raises UserError that names the
    file and the remedy."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: at least 1")
    key = next((key for key in SOURCES if getattr(source, key) is not None), "custom")
    given = getattr(source, key)
    make = load_code(SOURCES.get(key) or next(iter(given)), "source", ("parts", "rows", "describe"))
    opened: OpenSource = make(source, base.absolute(), limit)
    if not opened.parts():
        raise UserError(f"source.{key}: {given} holds no rows")
    return opened
