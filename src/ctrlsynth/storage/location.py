"""Locations of a run's folder or a source's files: a local path, or a URL of a store that fsspec knows (s3,
gs, abfs, ...).

`locate` distinguishes the two; paths stay `pathlib.Path`, so they lose no speed. A `Remote` has the few
methods of Path that this program needs. Keys, tokens and endpoints come from the environment, as for each
store's own tools, and are never written anywhere."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from ..errors import UserError, WorkFailed, first_line

BLOCK = 8 * 2**20
"""Bytes per request when a file of a store is read."""
# Waits in seconds before a conditional write is retried that met another one at the same instant (S3: 409).
_AGAIN = (0.2, 1.0, 3.0)
# Stores without folders, where `makedirs` would look for the bucket, or even make one.
_FLAT = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
# Packages whose own exceptions, not OSError, come through fsspec.
_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "azure", "requests"}


class Entry(NamedTuple):
    """A file in a listing: bytes, when it was written (seconds), and what changes with its content (etag, or
    size and date)."""

    name: str
    size: int
    written: float
    mark: str


@dataclass(frozen=True, slots=True)
class Remote:
    """A file or folder behind a URL. A store creates objects atomically, so no file needs a temporary name
    here."""

    url: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Remote:
        return Remote(self.url.rpartition("/")[0])

    def exists(self) -> bool:
        """Whether a file, or anything below this folder, exists."""
        return bool(self._call("exists"))

    def is_file(self) -> bool:
        return bool(self._call("isfile"))

    def open(self) -> IO[bytes]:
        """Opens the file as a seekable stream of bytes. FileNotFoundError if it does not exist."""
        return cast(IO[bytes], self._call("open", "rb", block_size=BLOCK, cache_type="readahead"))

    def read_bytes(self) -> bytes:
        return bytes(self._call("cat_file"))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """Writes the file, in place of an older one."""
        with store_errors(self.url):
            files, key = self._files()
            if self.url.partition("://")[0] not in _FLAT:
                files.makedirs(files._parent(key), exist_ok=True)
            files.pipe_file(key, data)

    def create(self, made: Path) -> bool:
        """Uploads a local file under this name, once. Returns False if the name is taken; that file stays.

        S3: `If-None-Match: *` on the PUT, or on the completion of a multipart upload. GCS: generation match
        0. Others: looked up first."""
        files, key = self._files()
        for wait in (*_AGAIN, None):
            try:
                with store_errors(self.url):
                    files.put_file(str(made), key, mode="create")
                return True
            except OSError as error:
                if _is_taken(error):
                    return False
                if error.errno != errno.EBUSY or wait is None:
                    raise
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._call("rm_file")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def entries(self) -> list[Entry]:
        """The files of this folder by name, from one listing; none if there is no folder."""
        key = self._files()[1].rstrip("/")
        found = (f for f in self._listing() if f["type"] == "file" and f["name"].rstrip("/") != key)
        return sorted(_entry(f) for f in found)

    def names(self) -> list[str]:
        """Names of the files and folders of this folder; none if there is no folder."""
        return sorted(f["name"].rstrip("/").rpartition("/")[2] for f in self._listing())

    def _listing(self) -> list[dict[str, Any]]:
        try:
            return list(self._call("ls", detail=True))
        except FileNotFoundError:
            return []

    def glob(self, pattern: str) -> list[Remote]:
        """Files below this folder by a pattern (`*` stays within a name), in order."""
        return self._below((self / pattern)._call("glob"))

    def below(self) -> list[Remote]:
        """Files at any depth, in order."""
        return self._below(self._call("find"))

    def _below(self, names: Iterable[str]) -> list[Remote]:
        beginning = self._files()[1].rstrip("/") + "/"
        return [self / name.removeprefix(beginning) for name in sorted(names)]

    def _call(self, method: str, *args: Any, **options: Any) -> Any:
        """Calls a method of the store's file system for this file; its errors become one line."""
        with store_errors(self.url):
            files, key = self._files()
            return getattr(files, method)(key, *args, **options)

    def _files(self) -> tuple[Any, str]:
        import fsspec

        try:
            files, key = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            raise UserError(f"{self.url}: {_install(self.url, error)}") from error
        except ValueError as error:
            raise UserError(f"{self.url}: no store that fsspec knows ({first_line(error)})") from error
        return files, str(key)


Location = Path | Remote


def output_location(out: str | Path | Remote) -> Location:
    """`locate` for `--out`, whose folder need not exist. UserError if it is a file."""
    root = locate(out)
    if isinstance(root, Path) and root.is_file():
        raise UserError(f"{root}: is a file; --out names a folder")
    return root


def locate(where: str | Path | Remote) -> Location:
    """Returns a URL as Remote, everything else (and file://) as Path. UserError for a URL with a password,
    which would be stored, and for an unknown or uninstalled store."""
    if isinstance(where, Remote):
        return where
    text = str(where)
    scheme, mark, rest = text.partition("://")
    if isinstance(where, Path) or not mark:
        return Path(where)
    if scheme in ("file", "local"):
        return Path(rest)
    if not rest.strip("/"):
        raise UserError(f"{text}: names no bucket or folder, such as {scheme}://bucket/runs/x")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise UserError(f"{scheme}://...@...: leave the password out; {scheme} takes it from the environment")
    remote = Remote(text)
    remote._files()  # raises for a store that is unknown or not installed
    return remote


def is_url(text: str) -> bool:
    """Whether a path of a recipe or a table is meant as a URL of a store."""
    return "://" in text


def open_binary(path: Location | str) -> IO[bytes]:
    """Opens a file of this machine or of a store as a stream of bytes that can seek."""
    where = locate(path) if isinstance(path, str) and is_url(path) else path
    return where.open() if isinstance(where, Remote) else open(where, "rb")


@contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Yields a local path: the file itself, or for a URL a copy under the same name, removed afterwards."""
    if not is_url(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ctrlsynth-") as folder:
        copy = Path(folder) / Remote(path).name
        Remote(path)._call("get_file", str(copy))
        yield str(copy)


class FileStats:
    """Looks up size and date of a source's files: local paths one by one, a store's with one cached listing
    per folder."""

    def __init__(self) -> None:
        self._folders: dict[Remote, dict[str, Entry]] = {}

    def of(self, path: str) -> tuple[str, int, int | str]:
        """(path, bytes, what changes with the content: mtime in ns, or the store's mark). FileNotFoundError
        where there is no file."""
        if not is_url(path):
            found = os.stat(path)
            return path, found.st_size, found.st_mtime_ns
        entry = self.folder(Remote(path).parent).get(Remote(path).name)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return path, entry.size, entry.mark

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        return Remote(path).name in self.folder(Remote(path).parent) if is_url(path) else os.path.isfile(path)

    def folder(self, folder: Remote) -> dict[str, Entry]:
        """The files of a store's folder by name."""
        if folder not in self._folders:
            self._folders[folder] = {e.name: e for e in folder.entries()}
        return self._folders[folder]


def remove_tree(where: Location) -> None:
    """Removes a folder with everything in it; it need not exist."""
    if isinstance(where, Path):
        shutil.rmtree(where, ignore_errors=True)
        return
    for file in where.below():
        file.unlink(missing_ok=True)


def make_folder(folder: Location) -> None:
    """Makes a folder and those above it. Stores have no folders."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def store_errors(url: object) -> Iterator[None]:
    """Turns what a store's client raises other than OSError, and denied access, into one line; other errors
    pass."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{url}: access denied ({first_line(error)})") from error
    except ImportError as error:
        raise UserError(f"{url}: {_install(str(url), error)}") from error
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if package not in _CLIENTS or (isinstance(error, OSError) and error.errno is not None):
            raise
        message = f"{url}: {first_line(error)}"
        if any(
            word in type(error).__name__
            for word in ("Credential", "Token", "Profile", "Region", "Auth", "ParamValidation")
        ):
            raise UserError(
                f"{message}; give keys the way the store's own tools take them (environment, profile or role)"
            ) from error
        raise WorkFailed(f"{message}; finished work is kept; run the same command again") from error


def _is_taken(error: OSError) -> bool:
    """Whether the name is taken; s3fs does not always turn the 412 of an S3 store into a FileExistsError."""
    answer = getattr(error.__cause__, "response", None) or {}
    code = answer.get("Error", {}).get("Code")
    return isinstance(error, FileExistsError) or code in ("PreconditionFailed", "412")


def _entry(found: dict[str, Any]) -> Entry:
    size = int(found.get("size") or 0)
    raw = next(
        (found[k] for k in ("LastModified", "mtime", "updated", "last_modified", "created") if found.get(k)),
        0.0,
    )
    if isinstance(raw, str):
        raw = datetime.fromisoformat(raw)
    written = raw.timestamp() if isinstance(raw, datetime) else float(raw)
    mark = next(
        (str(found[k]).strip('"') for k in ("ETag", "etag", "md5Hash") if found.get(k)), f"{size} {written}"
    )
    return Entry(str(found["name"]).rpartition("/")[2], size, written, mark)


def _install(url: str, error: ImportError) -> str:
    extra = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}.get(url.partition("://")[0])
    what = first_line(error)
    return f"{what}; pip install 'ctrlsynth[{extra}]'" if extra else what
