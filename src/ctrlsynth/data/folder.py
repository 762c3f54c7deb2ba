"""A folder of images (1a) with captions (1b) in a table or in a .txt beside each image.

The listing goes to a temporary file while the folder is walked, so memory does not grow with the number of
images."""

import array
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..recipe.schema import Source
from .captions import as_caption, clean_caption, is_text
from .images import IMAGE_SUFFIXES
from .rows import (
    FILE_NAMES,
    IMAGE_NAMES,
    MAX_PARTS,
    Keys,
    OpenSource,
    SourcePart,
    SourceRow,
    examine_file,
    fingerprint,
    normal_path,
    path_below,
    safe_key,
)
from .tables import Table, find_column, merge_cuts
from .text import bad_record

Entry = dict[str, Any]
"""name (as the table or the folder gives it), path or reason, caption, meta, txt (sidecar), size, mtime."""


class FolderSource(OpenSource):
    """With a table: its rows in its order, then the images that it does not name, without caption. Else every
    image, sorted by path.

    Skips names that start with a dot. Links out of the folder are rows with the reason `unsafe_link`;
    folders linked within it are not followed, because their images are in the folder anyway."""

    def __init__(self, source: Source, base: Path, limit: int | None = None) -> None:
        super().__init__(source)
        assert source.folder is not None
        folder = normal_path(base, source.folder)
        if not folder.is_dir():
            raise UserError(
                f"source.folder: {folder} is {'a file' if folder.exists() else 'not there'}; give a folder "
                f"of images"
            )
        self._root = str(folder)
        self._columns = (source.image_column, source.caption_column, source.key_column)
        self._table: Table | None = None
        if source.captions is not None:  # beside the recipe, else among the images
            paths = [normal_path(start, source.captions) for start in (base, folder)]
            found = next((path for path in paths if path.is_file()), None)
            if found is None:
                raise UserError(f"source.captions: {source.captions} is neither in {base} nor in {folder}")
            self._table = Table(str(found))
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the source)
        self._without = 0
        self._cut(source.part_rows, limit)

    def _entries(self) -> Iterator[Entry]:
        if self._table is None:
            yield from walk(self._root, sidecars=True)
            return
        named = array.array("Q")
        for entry in self._table_entries(self._table):
            if entry.get("path"):
                named.append(_hash(entry["path"]))
            yield entry
        in_order = np.sort(np.array(named, dtype=np.uint64))
        for entry in walk(self._root, sidecars=False):
            mark = np.uint64(_hash(entry.get("path") or os.path.join(self._root, entry["name"])))
            at = in_order.searchsorted(mark)
            if mark not in in_order[at : at + 1]:
                self._without += 1
                yield entry

    def _table_entries(self, table: Table) -> Iterator[Entry]:
        if table.kind == "txt":
            raise UserError(f"source.captions: {table.path} must be csv, tsv or jsonl with file names")
        names = (*FILE_NAMES, *IMAGE_NAMES)
        image, caption, key = self._columns
        image = find_column(table.columns, names, image, "image_column", table.path) or ""
        caption = table.caption_column(caption, key)
        table.cuts(1000, None)  # raises UserError for a quote that is never closed
        for index, (value, reason) in enumerate(table.read(table.start)):
            data = dict(table.asdict(value)) if reason is None else {}
            name = as_caption(data.pop(image, None)) or ""
            entry: Entry = {"name": name, "caption": as_caption(data.pop(caption, None)), "meta": data}
            if key is not None:
                entry["key"] = as_caption(data.get(key))
            if reason is not None:
                row = bad_record("", table.path, index, value, reason)
                yield entry | {"reason": row.reason, "status": row.status, "meta": row.metadata}
            else:
                yield entry | self._facts(name, table)

    def _facts(self, name: str, table: Table) -> Entry:
        """Path, size and date of an image in the folder, else beside the table; or a reason."""
        if not name.strip():
            return {"reason": "missing_file"}
        path, reason = path_below(self._root, name)
        if reason == "missing_file":
            path, _ = path_below(os.path.dirname(table.path), name)
        return _stat(path) if path is not None else {"reason": reason}

    def _cut(self, part_rows: int, limit: int | None) -> None:
        """Spools the entries; a part is a range of bytes in the spool, its fingerprint a digest over its
        entries."""
        cuts: list[tuple[int, int]] = []
        entries = islice(self._entries(), limit)
        while some := list(islice(entries, part_rows)):
            cuts.append((self._spool.tell(), len(some)))
            self._spool.writelines(json.dumps(entry).encode() + b"\n" for entry in some)
        if not cuts:
            raise UserError(f"source.folder: no image in {self._root} ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self._spool.flush()
        cuts = merge_cuts(cuts, MAX_PARTS)
        ends = [*(begin for begin, _ in cuts[1:]), self._spool.tell()]
        for (begin, rows), end in zip(cuts, ends, strict=True):
            digest = hashlib.blake2b(b"".join(self._lines(begin, end)), digest_size=16).hexdigest()
            self.add_part(fingerprint(self._root, digest, self._columns), (begin, end), rows)

    def _lines(self, begin: int, end: int) -> list[bytes]:
        """Lines of the spool by a positioned read: two parts may be read at once."""
        return os.pread(self._spool.fileno(), end - begin, begin).splitlines()

    def rows(self, part: SourcePart) -> Iterator[SourceRow]:
        keys = Keys()
        pairs: set[int] = set()
        for line in self._lines(*part.locator):
            entry = json.loads(line)
            row = SourceRow("", metadata=entry.get("meta") or {})
            if not entry.get("key"):
                row.key = self._key(entry, keys, pairs, row)
            keys.admit(row, entry.get("key"))
            yield self._fill(row, entry)

    def _key(self, entry: Entry, keys: Keys, pairs: set[int], row: SourceRow) -> str:
        """The file's path without its suffix; with it where two files differ in it only; numbered where one
        file has several captions."""
        name = entry["name"] or "row"
        pair = _hash(f"{name}\0{entry.get('caption')}")
        if pair in pairs and entry["name"]:
            row.drop("duplicate_key")
            return keys.free(safe_key(name))
        pairs.add(pair)
        short = safe_key(os.path.splitext(name)[0])
        return keys.free(safe_key(name)) if short in keys else short

    def _fill(self, row: SourceRow, entry: Entry) -> SourceRow:
        row.caption = clean_caption(entry.get("caption"))
        if not is_text(entry["name"]):
            row.metadata["name"] = ascii(entry["name"])
        elif entry.get("reason"):
            row.metadata.setdefault("name", entry["name"])
        if entry.get("reason"):
            row.fail(entry["reason"], entry.get("status", "failed"))
        if row.status != "ok":
            return row
        if entry.get("txt"):
            try:
                row.caption = clean_caption(Path(entry["txt"]).read_bytes().decode("utf-8-sig"))
            except UnicodeDecodeError:
                return row.fail("bad_utf8")
            except OSError:
                return row.fail("unreadable_file")
        return examine_file(row, entry["path"])

    def describe(self) -> str:
        table = f", captions in {os.path.basename(self._table.path)}" if self._table else ""
        without = f", {self._without:,} not named there" if self._without else ""
        return f"{self.total:,} images in {self._root}{table}{without}"


def walk(root: str, *, sidecars: bool, below: str = "") -> Iterator[Entry]:
    """The images under `root`, folder by folder, sorted by name; with `sidecars` the .txt beside each.
    `below`: only those of this folder in it (`sub/`)."""
    real, folder = os.path.realpath(root), os.path.join(root, below)
    try:
        found = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"source.folder: cannot list {folder}: {error.strerror}") from error
    texts = {e.name for e in found if sidecars and e.name.endswith(".txt")}
    for item in found:
        name = below + item.name
        if item.is_symlink():
            target = os.path.realpath(item.path)
            if not (target == real or target.startswith(real + "/")):
                if item.is_dir() or _is_image(item.name):
                    yield {"name": name, "reason": "unsafe_link"}
                continue
            if os.path.isdir(target):
                continue
        if item.is_dir(follow_symlinks=False):
            yield from walk(root, sidecars=sidecars, below=name + "/")
        elif _is_image(item.name):
            yield _listed(item.path, name, texts)


def _listed(path: str, name: str, texts: set[str]) -> Entry:
    if not is_text(name):
        return {"name": name, "reason": "bad_utf8"}
    entry: Entry = {"name": name, **_stat(path)}
    beside = os.path.splitext(os.path.basename(name))[0] + ".txt"
    if beside in texts:
        entry["txt"] = os.path.join(os.path.dirname(path), beside)
        entry["txt_facts"] = _stat(entry["txt"])
    return entry


def _stat(path: str) -> Entry:
    try:
        found = os.stat(path)
    except OSError:
        return {"reason": "missing_file"}
    return {"path": path, "size": found.st_size, "mtime": found.st_mtime_ns}


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1][1:].lower() in IMAGE_SUFFIXES


def _hash(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
