"""Opens what a recipe names as its source (1a, 1b): a folder, webdataset tars, parquet, a Hugging Face data
set, text, concepts."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UserError
from ..recipe.schema import Source
from .columnar import ImageReader
from .folder import FolderSource
from .long_tail import LongTailSource
from .records import SUFFIXES
from .rows import OpenSource, SourcePart, SourceRow, expand
from .tabular import TableSource, hf_files
from .tars import TarSource
from .text import TextSource

__all__ = ["ImageReader", "OpenSource", "SourcePart", "SourceRow", "open_source"]


def open_source(source: Source, base: Path, limit: int | None = None) -> OpenSource:
    """The source of a recipe whose relative paths start at `base`; with `limit`, its first `limit` rows only.

    Looks at headers, footers and (for text) where rows begin; opens no image. Raises UserError that names the
    file and the remedy."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: at least 1")
    base = base.absolute()
    rows, licence = source.part_rows, source.licence
    image, caption, key = source.image_column, source.caption_column, source.key_column
    if source.folder is not None:
        folder = _place(base, source.folder)
        captions = _captions(base, folder, source.captions) if source.captions is not None else None
        return FolderSource(
            folder,
            captions,
            image_column=image,
            caption_column=caption,
            key_column=key,
            part_rows=rows,
            licence=licence,
            limit=limit,
        )
    if source.webdataset is not None:
        files = expand(source.webdataset, base, (".tar",), "webdataset")
        return TarSource(files, image_column=image, caption_column=caption, licence=licence, limit=limit)
    if source.parquet is not None or source.hf is not None:
        files = (
            hf_files(_place(base, source.hf))
            if source.hf is not None
            else expand(source.parquet or "", base, (".parquet",), "parquet")
        )
        return TableSource(
            files,
            image_column=image,
            caption_column=caption,
            key_column=key,
            part_rows=rows,
            licence=licence,
            limit=limit,
            what="arrow" if source.hf is not None else "parquet",
        )
    if source.long_tail is not None:
        return LongTailSource(source.long_tail, base, part_rows=rows, licence=licence, limit=limit)
    if source.concepts is not None:
        from ..concepts.source import ConceptSource  # the bank's reader

        return ConceptSource(_place(base, source.concepts), part_rows=rows, licence=licence, limit=limit)
    files = expand(source.text or "", base, SUFFIXES, "text")
    return TextSource(
        files, caption_column=caption, key_column=key, part_rows=rows, licence=licence, limit=limit
    )


def _place(base: Path, path: Path) -> Path:
    return Path(os.path.normpath(base / path.expanduser()))


def _captions(base: Path, folder: Path, captions: Path) -> Path:
    """`captions` beside the recipe, else in the folder of images."""
    for start in (base, folder):
        path = _place(start, captions)
        if path.is_file():
            return path
    raise UserError(f"source.captions: {captions} is neither in {base} nor in {folder}")
