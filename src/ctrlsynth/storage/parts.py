"""A run's folder: where each file is, and how the parts of its tables are written atomically.

A part of a stage is `FOLDER/INDEX-DIGEST.parquet`. The digest says everything that could change the part (the
stage, its models, what is upstream, the source part's size and date), so what is done is known from one
listing. Finished rows of an unfinished part are in `FOLDER/_chunks/INDEX-DIGEST/`. No database, no lock: a
second writer of a part keeps the first's (DESIGN, section 3). The folder is a path or a URL (`location`); in
a store, conditional creation of objects replaces temporary names and links."""

import os
import re
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .files import disk_errors, making, open_part, parquet, part_counts, part_meta, publish, remove_leftovers
from .location import Entry, Location, Remote, make_folder, remove_tree

CHUNK_SECONDS = 20.0
"""How much finished work a kill -9 may cost at most, in seconds."""
GROUP_BYTES = 64 * 2**20
GROUP_ROWS = 10_000
_PART = re.compile(r"(\d{5,})-([0-9a-f]{12})\.parquet")


PLAN = "plan.json"
"""The file that makes a folder a run's."""


class RunFolder:
    """The layout of a run's folder; nothing else knows the names of its files."""

    def __init__(self, root: Location) -> None:
        self.root = root
        self.plan_file = root / PLAN
        self.recipe_file = root / "recipe.yaml"  # the recipe as the user gave it

    def entries(self, folder: str) -> list[tuple[int, str, Entry]]:
        """(part number, digest, file) of every version of every part, from one listing."""
        return [
            (int(match[1]), match[2], entry)
            for entry in _entries(self.root / folder)
            if (match := _PART.fullmatch(entry.name))
        ]

    def listing(self, folder: str) -> dict[int, list[str]]:
        """Part number -> digests of its versions, oldest first, from one listing."""
        found: dict[int, list[tuple[float, str]]] = {}
        for index, digest, entry in self.entries(folder):
            found.setdefault(index, []).append((entry.written, digest))
        return {index: [digest for _, digest in sorted(versions)] for index, versions in found.items()}

    def stage_file(self, folder: str) -> Location:
        """The counts of a stage's finished parts in JSON."""
        return self.root / folder / "_stage.json"

    def gathered_file(self, folder: str) -> Location:
        """What a barrier stage found over the whole set, in JSON."""
        return self.root / folder / "_gathered.json"

    def is_foreign(self) -> bool:
        """Whether a folder without a plan holds anything that no run put there. (A killed run leaves its own
        files, and a damaged plan is removed by hand.)"""
        if isinstance(self.root, Path) and not self.root.is_dir():
            return self.root.exists()
        names = self.root.names() if isinstance(self.root, Remote) else os.listdir(self.root)
        return not self.stage_file("read").exists() and any(not n.startswith(".tmp-") for n in names)

    def newest(self, folder: str) -> dict[int, Location]:
        """Part number -> file of its newest version, in order, from one listing."""
        found = sorted(self.listing(folder).items())
        return {index: self.part(folder, index, digests[-1]) for index, digests in found}

    def part(self, folder: str, index: int, digest: str) -> Location:
        """The table of one version of a part."""
        return self.root / folder / f"{index:05d}-{digest}.parquet"

    def chunks(self, folder: str, index: int, digest: str) -> Location:
        """The folder of finished rows of an unfinished version of a part."""
        return self.root / folder / "_chunks" / f"{index:05d}-{digest}"

    def superseded(self, folder: str, index: int, digest: str, versions: Sequence[str]) -> list[Location]:
        """Every file that may hold reusable rows for the version `digest` of a part: its other versions,
        newest first, then the chunks of unfinished ones."""
        chunks: Iterable[Location] = (self.root / folder / "_chunks").glob(f"{index:05d}-*/*.parquet")
        return [
            *(self.part(folder, index, d) for d in reversed(versions) if d != digest),
            *sorted(chunks, key=str),
        ]

    def batches(
        self, folder: str, index: int, digest: str, columns: Sequence[str] | None, rows: int = 2048
    ) -> Iterator[pa.RecordBatch]:
        """Streams a part; memory is one row group's wanted columns at most."""
        with open_part(self.part(folder, index, digest)) as file:
            yield from file.iter_batches(
                batch_size=rows, columns=list(columns) if columns is not None else None, use_threads=False
            )

    def counts(self, folder: str, index: int, digest: str) -> dict[str, Any]:
        """The counts in the part's footer: rows by status and reason, seconds."""
        return part_counts(self.part(folder, index, digest))

    def sweep_leftovers(self) -> None:
        """Removes the temporary files and folders that killed processes of this host left in the run."""
        remove_leftovers(self.root, "*", "*/_chunks/*")


def _entries(folder: Location) -> list[Entry]:
    if isinstance(folder, Remote):
        return folder.entries()
    try:
        with os.scandir(folder) as found:
            facts = [(e.name, e.stat()) for e in found]
    except FileNotFoundError:
        return []
    return [Entry(name, fact.st_size, fact.st_mtime, "") for name, fact in facts]


@dataclass(frozen=True, slots=True)
class PartView:
    """What a stage may read while it makes one part: the same part of the stages before it."""

    run: RunFolder
    index: int
    digests: Mapping[str, str]

    def columns(self, folder: str, names: Sequence[str], rows: int = 2048) -> Iterator[list[list[Any]]]:
        """Batches of a table as one list per column, in the order of `names`."""
        for batch in self.run.batches(folder, self.index, self.digests[folder], names, rows):
            yield [batch.column(name).to_pylist() for name in names]

    def arrow(self, folder: str, names: Sequence[str], rows: int = 2048) -> Iterator[pa.RecordBatch]:
        """Batches of a table as they are stored, for arithmetic on whole columns."""
        return self.run.batches(folder, self.index, self.digests[folder], names, rows)

    def table(self, folder: str, names: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """id -> the other columns of every `ok` row of the part. Memory: those columns of one part."""
        return {
            row_id: tuple(others)
            for columns in self.columns(folder, ["id", "status", *names])
            for row_id, status, *others in zip(*columns, strict=True)
            if status == "ok"
        }

    def rejected(self, folder: str) -> set[str]:
        """Ids of the parents that a judge's table does not keep."""
        judged = self.columns(folder, ["parent", "verdict"])
        return {
            parent
            for columns in judged
            for parent, verdict in zip(*columns, strict=True)
            if verdict != "kept"
        }


class PartWriter:
    """Collects the rows of one part, saves finished ones on the way, and publishes the complete part.

    Memory is bounded by one row group; chunks are written when the part takes longer than `CHUNK_SECONDS`.
    """

    def __init__(
        self,
        run: RunFolder,
        folder: str,
        index: int,
        digest: str,
        schema: pa.Schema,
        old: Sequence[Location] = (),
    ) -> None:
        self._chunk_dir = run.chunks(folder, index, digest)
        self._schema, self._old = schema, old
        self._final = run.part(folder, index, digest)
        with disk_errors(self._final):
            make_folder(self._final.parent)
        self._tables: list[pa.Table] = []
        self._chunks: list[Location] = []
        self._bytes = self._rows = 0
        self._flushed = time.monotonic()
        self.counts: dict[str, Any] = {
            "rows": 0,
            "ok": 0,
            "dropped": {},
            "failed": {},
            "seconds": 0.0,
            "reused": 0,
        }

    def add(self, table: pa.Table, reused: int = 0) -> None:
        """Takes the next rows of the part, in order."""
        self._tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        self._count(table, reused)
        if (
            self._bytes >= GROUP_BYTES
            or self._rows >= GROUP_ROWS
            or time.monotonic() - self._flushed >= CHUNK_SECONDS
        ):
            self.keep()

    def _count(self, table: pa.Table, reused: int) -> None:
        counts = self.counts
        counts["rows"] += table.num_rows
        counts["reused"] += reused
        counts["seconds"] += float(pc.sum(table["seconds"]).as_py() or 0.0)
        for name in ("prompt_tokens", "completion_tokens"):
            if name in table.column_names:
                counts[name] = counts.get(name, 0) + int(pc.sum(table[name]).as_py() or 0)
        for (status, reason), number in Counter(
            zip(table["status"].to_pylist(), table["reason"].to_pylist(), strict=True)
        ).items():
            if status == "ok":
                counts["ok"] += number
            else:
                counts[status][reason] = counts[status].get(reason, 0) + number

    def keep(self) -> None:
        """Saves the finished rows as a chunk, also when the part cannot be completed now (Ctrl-C, full
        disk)."""
        if not self._tables or self._final.exists():
            return
        path = self._chunk_dir / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
        with disk_errors(path):
            try:
                with making(path) as made:
                    pq.write_table(pa.concat_tables(self._tables), made, **_PARQUET)
                    publish(made, path)
            except FileNotFoundError:
                if not self._final.exists():
                    raise
                return  # another process has just finished this part and removed the chunks
        self._chunks.append(path)
        self._tables, self._bytes, self._rows, self._flushed = [], 0, 0, time.monotonic()

    def finish(self) -> dict[str, Any]:
        """Publishes the part and removes what it supersedes; returns the counts, of the other's part when
        another writer was first."""
        with disk_errors(self._final):
            if not self._publish():
                self.counts = part_counts(self._final)
        self._tables = []
        drop(self._old)
        if isinstance(self._chunk_dir, Path) or self._chunks:
            remove_tree(self._chunk_dir)
        return self.counts

    def _publish(self) -> bool:
        if isinstance(self._final, Path) and self._final.exists():
            return False
        try:
            # dictionaries pay only for columns that repeat, and cost more than they save on the others
            with making(self._final) as made:
                schema = self._schema.with_metadata(part_meta(self.counts))
                with pq.ParquetWriter(made, schema, use_dictionary=_REPEATING, **_PARQUET) as writer:
                    for chunk in self._chunks:
                        with parquet(chunk) as file:
                            for group in range(file.num_row_groups):
                                writer.write_table(file.read_row_group(group), row_group_size=GROUP_ROWS)
                    if self._tables:
                        writer.write_table(pa.concat_tables(self._tables), row_group_size=GROUP_ROWS)
                return publish(made, self._final)
        except FileNotFoundError:
            if not self._final.exists():
                raise
            return False  # another process has just finished this part and removed the chunks


def drop(superseded: Sequence[Location]) -> None:
    """Removes the earlier versions and chunks that a complete part supersedes."""
    for path in superseded:
        path.unlink(missing_ok=True)
        if isinstance(path, Path) and path.parent.parent.name == "_chunks":
            shutil.rmtree(path.parent, ignore_errors=True)


_PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "write_statistics": False}
_REPEATING = ["status", "reason", "model", "template", "style", "verdict", "file"]
