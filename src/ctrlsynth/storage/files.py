"""Single files of ours: created once and atomically, JSON files and parquet tables that carry a schema
number, and what the disk refuses in one line.

Every temporary file and folder gets its name from `temporary`, so that `remove_leftovers` finds what killed
processes left behind."""

import contextlib
import errno
import json
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError, WorkFailed, disk_fault, first_line
from .location import Location, Remote, make_folder, remove_tree, store_errors

SCHEMA = 1
"""The number that every table and JSON file carries. Readers accept it and lower ones."""
_META = b"ctrlsynth"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def temporary(path: Location) -> Path:
    """A name beside `path` for a file or folder in the making (for a store: in this machine's folder for such
    files). It names the process that made it, and no listing takes it for data."""
    process = f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:8]}"
    if isinstance(path, Remote):
        return Path(tempfile.gettempdir()) / f".tmp-ctrlsynth-{path.name}~{process}"
    return path.with_name(f".tmp-{path.name}~{process}")


def remove_leftovers(folder: Location, *patterns: str) -> None:
    """Removes temporary files and folders that dead processes of this host left in `folder`, and in what
    `patterns` match below it."""
    if isinstance(folder, Remote):
        found = list(Path(tempfile.gettempdir()).glob(".tmp-ctrlsynth-*"))
    else:
        found = [p for below in ("", *patterns) for p in folder.glob(os.path.join(below, ".tmp-*"))]
    for path in found:
        fields = path.name.split("~")
        if len(fields) >= 3 and fields[-3] == socket.gethostname() and not _alive(fields[-2]):
            remove(path)


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True
    return True


def remove(path: Path) -> None:
    """Removes a file, or a folder with everything in it, as far as the disk lets it."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextmanager
def making(path: Location) -> Iterator[Path]:
    """Gives a temporary path for what is to become the file or folder `path`, and removes what is left there
    at the end."""
    made = temporary(path)
    try:
        make_folder(path.parent)
        yield made
    finally:
        remove(made)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path, and renames the file that was written there to `path`, in place of an older
    one: readers never see a partial file, and after an error the older one stays."""
    with making(path) as made:
        yield made
        flush(made)
        os.replace(made, path)


def flush(path: Path) -> None:
    """Waits until a file or a folder's names are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(made: Path, final: Location) -> bool:
    """Gives a finished file its name, once. False if another writer was first: that file stays, ours is
    removed."""
    try:
        return final.create(made) if isinstance(final, Remote) else _link(made, final)
    finally:
        made.unlink(missing_ok=True)


def _link(made: Path, final: Path) -> bool:
    flush(made)
    try:
        os.link(made, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # a file system without hard links: two writers at the same instant both win, with equal files
        if final.exists():
            return False
        os.replace(made, final)
    flush(final.parent)
    return True


def probe(folder: Remote) -> None:
    """Writes a small file twice under one name and removes it. UserError if the store refuses, or lets the
    second file replace the first."""
    file = folder / temporary(folder / "probe").name
    try:
        with making(file) as made:
            made.write_bytes(b"ctrlsynth")
            kept = file.create(made) and not file.create(made)
            file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({first_line(error)}); fix that or choose another with --out"
        ) from error
    if not kept:
        raise UserError(
            f"{folder}: this store lets a second writer replace a file (no If-None-Match); choose another "
            f"with --out"
        )


@contextmanager
def disk_errors(path: Location) -> Iterator[None]:
    """Turns what the disk or store refuses while `path` is written into a WorkFailed of one line; other
    errors pass."""
    try:
        yield
    except OSError as error:
        fault = disk_fault(error, path, written=path.parent, remote=isinstance(path, Remote))
        if fault is None:
            raise
        raise WorkFailed(fault) from error


def write_json(path: Location, data: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically, with the schema number."""
    text = json.dumps({"schema": SCHEMA, **data}, indent=1, ensure_ascii=False, default=str) + "\n"
    content = text.encode("utf-8", "backslashreplace")
    with disk_errors(path):
        if isinstance(path, Remote):
            path.write_bytes(content)
        else:
            with replacing(path) as made:
                made.write_bytes(content)


def read_json(path: Location) -> dict[str, Any] | None:
    """Reads a JSON file of ours; None if there is none. UserError if it is damaged or has a newer schema."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); remove it and run again") from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise UserError(f"{path}: damaged (not what ctrlsynth writes); remove it and run again")
    _check_schema(path, data["schema"])
    return data


def _check_schema(path: Location, schema: int) -> None:
    if schema > SCHEMA:
        raise UserError(
            f"{path}: written by a newer ctrlsynth (schema {schema}, this one knows {SCHEMA}); update "
            f"ctrlsynth"
        )


@contextmanager
def open_part(path: Location) -> Iterator[pq.ParquetFile]:
    """Opens a table of ours. UserError if it is damaged, missing, or has a newer schema."""
    try:
        with store_errors(path), parquet(path) as file:
            _check_schema(path, int(_meta(file).get("schema", 0)))
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path}: the file is missing; run again to make it anew") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's own: what pyarrow finds wrong in a file has no number
        raise UserError(f"{path}: damaged ({first_line(error)}); remove the file and run again") from error


@contextmanager
def parquet(path: Location) -> Iterator[pq.ParquetFile]:
    """The file as pyarrow reads it, from the disk or in blocks from a store."""
    with contextlib.ExitStack() as opened:
        source = opened.enter_context(path.open()) if isinstance(path, Remote) else path
        yield opened.enter_context(pq.ParquetFile(source, pre_buffer=False, memory_map=False))


def part_meta(counts: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The metadata of a part's footer: its counts and the schema number."""
    return {_META: json.dumps({"schema": SCHEMA, **counts}).encode()}


def part_counts(path: Location) -> dict[str, Any]:
    """The counts in a part's footer; opens that one file."""
    with open_part(path) as file:
        return {k: v for k, v in _meta(file).items() if k != "schema"}


def _meta(file: pq.ParquetFile) -> dict[str, Any]:
    raw = (file.schema_arrow.metadata or {}).get(_META, b"{}")
    return dict(json.loads(raw))
