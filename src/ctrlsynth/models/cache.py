"""The user's cache of derived files, `$XDG_CACHE_HOME/ctrlsynth` or `~/.cache/ctrlsynth`.

Files can be rebuilt at any time and are not trusted: each load checks the SHA-256 and rebuilds a file that
differs (truncated, older, tampered with). A cache that cannot be written costs time, never the result."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from ..storage.files import remove_leftovers, replacing


def cache_dir() -> Path:
    """The folder, which may not exist yet. Ignores a relative XDG_CACHE_HOME, as the XDG specification
    demands."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ctrlsynth"


def cached(name: str, sha256: str | None, make: Callable[[], bytes]) -> bytes:
    """Returns the cached file's bytes if they are undamaged; else calls `make` and replaces the file
    atomically.

    The bytes that were hashed are the bytes returned, so nobody can change the file in between. Several
    processes may make the same file at once.

    sha256  the content's known hash; None: the file begins with its own hash, and `name` must contain a hash
            of everything that affects the content
    """
    path = cache_dir() / name
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        digest, data = (sha256, data) if sha256 is not None else (data[:32].hex(), data[32:])
        if hashlib.sha256(data).hexdigest() == digest:
            return data
    data = make()
    with contextlib.suppress(OSError):  # a read-only home or a full disk
        remove_leftovers(path.parent)
        with replacing(path) as made:
            made.write_bytes(data if sha256 is not None else hashlib.sha256(data).digest() + data)
    return data
