"""What a run reports while it works; the command line draws its bars from it."""

from typing import Any


class Watcher:
    """Is called as the work proceeds. This one ignores all events."""

    def stage(self, folder: str, number: int, parts: int, done: int) -> None:
        """A stage begins; `done` of its parts exist."""

    def gathered(self, folder: str, found: dict[str, Any]) -> None:
        """A barrier has looked at all parts."""

    def rows(self, folder: str, rows: int, made: int) -> None:
        """Rows are written; `made` of them are not reused."""

    def part(self, folder: str, index: int, counts: dict[str, Any]) -> None:
        """A part is finished; `counts` holds its digest and its rows by status and reason."""

    def error(self, folder: str, message: str) -> None:
        """A row was set aside: `row id: message` of the first one."""

    def finished(self, folder: str) -> None:
        """A stage is finished."""
