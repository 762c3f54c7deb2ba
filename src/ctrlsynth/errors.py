"""Errors, split by who can fix them. A `UserError` is printed as one line without a traceback; anything else
is our bug."""

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can fix: names the file, the row or the key, and the remedy. The command line exits
    with 2."""


class WorkFailed(Exception):
    """The work failed although the request was valid (every row of a stage failed, the disk is full).
    Exits with 1."""


class ModelError(Exception):
    """A model could not answer for a whole batch; each row of it fails with this reason.

    `reason` is a short stable word for the ledger (`empty_reply`, `wrong_number`, ...); the message says the
    rest."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line of at most 300 characters for use inside a message; its type if it
    says nothing. A first line that ends in a colon is joined with the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return text.rstrip(".:")[:300] or type(error).__name__


_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.EFBIG, errno.EIO,
    errno.ESTALE,
}  # fmt: skip


def disk_fault(error: OSError, asked: object, written: object = None, *, remote: bool = False) -> str | None:
    """What the disk refused, in one line with path and reason; None for any other error, which is our bug.

    asked    where the command was to write: the system's error for a full disk names no file
    written  the folder that was being written to, if known: that it is missing is then no bug of ours
    remote   the folder is in a store, whose errors carry no number
    """
    if error.errno in _FULL:
        where = written or error.filename or asked
        return f"{where}: the disk is full; make room and run the same command again"
    if written is not None and (remote or error.errno in _REFUSED | {errno.ENOENT}):
        why = error.strerror or first_line(error)
        return f"{written}: cannot be written to ({why}); fix that and run the same command again"
    if error.errno not in _REFUSED:
        return None
    if error.filename is None:  # pyarrow names the file in its sentence
        return str(error.strerror) if "'" in str(error.strerror) else None
    return f"{error.filename}: {error.strerror}"


def unknown(what: str, name: str, choices: Iterable[str], where: str = "") -> UserError:
    """The error for a name that is not among `choices`; names the nearest one, and lists the choices when
    they are few."""
    names = sorted(choices)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    tail = (
        f"; did you mean {near[0]!r}?"
        if near
        else (f"; known: {', '.join(names)}" if 0 < len(names) <= 24 else "")
    )
    return UserError(f"{where + ': ' if where else ''}unknown {what} {name!r}{tail}")
