"""The user's cache: files that are made once from what is installed and can be made again at any time.

`$XDG_CACHE_HOME/ctrlsynth`, or `~/.cache/ctrlsynth`. Nothing in it is trusted: each load compares the file's
SHA-256, and a file that differs (cut short, older, tampered with) is made again. A cache that can't be
written costs time, never the result."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from ..storage.files import remove_leftovers, replacing


def cache_dir() -> Path:
    """The folder; it need not exist. A relative XDG_CACHE_HOME is passed over, as the XDG specification
    asks."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ctrlsynth"


def cached(name: str, sha256: str, make: Callable[[], bytes]) -> bytes:
    """The cached file's bytes if their SHA-256 is `sha256`; otherwise what `make` gives, which then replaces
    the file in one step.

    The bytes that were hashed are the bytes returned, so nobody can change the file between check and use.
    Several processes may make the same file at once: each writes under a name of its own and renames."""
    path = cache_dir() / name
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    data = make()
    with contextlib.suppress(OSError):  # a read-only home or a full disk: go on with what was made
        _replace(path, data)
    return data


def _replace(path: Path, data: bytes) -> None:
    """Writes the file atomically: readers see the old one or the new one."""
    remove_leftovers(path.parent)
    with replacing(path) as made:
        made.write_bytes(data)


def remembered(name: str, make: Callable[[], bytes]) -> bytes:
    """The cached file's bytes if it is whole, otherwise what `make` gives, which then replaces the file in
    one step.

    For what has no hash known before it is made (the numbers of a model): its SHA-256 stands before it, so a
    file that was cut short or damaged is made again. `name` must hold a hash of everything that decides about
    the content."""
    path = cache_dir() / name
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            return data[32:]
    data = make()
    with contextlib.suppress(OSError):
        _replace(path, hashlib.sha256(data).digest() + data)
    return data
