"""Headless Chromium for tests: opens a page and gives the document as the browser has it after its scripts
ran. No network is allowed."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=8000",
)  # fmt: skip


PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
"""The path of a Chromium, if there is one."""
needs_browser = pytest.mark.skipif(
    PROGRAM is None,
    reason="no Chromium on this machine, so the gallery was not opened in a real browser (Debian: apt-get "
    "install chromium)",
)


@dataclass
class Element:
    """One element of a document: its attributes and all text inside it."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""


@dataclass
class Page:
    """What the browser made of a page: its elements in document order, and the addresses that it asked
    for."""

    elements: list[Element] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def find(self, tag: str, class_: str | None = None, **attributes: str) -> list[Element]:
        """Elements by tag, class and attributes."""
        return [
            e
            for e in self.elements
            if e.tag == tag
            and (class_ is None or class_ in (e.attributes.get("class") or "").split())
            and all(e.attributes.get(k.replace("_", "-")) == v for k, v in attributes.items())
        ]

    def one(self, id_: str) -> Element:
        """The element with an id."""
        (found,) = [e for e in self.elements if e.attributes.get("id") == id_]
        return found


class _Parser(HTMLParser):
    VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self._open: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.page.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data


def parse(html: str) -> Page:
    """The elements of an HTML text."""
    parser = _Parser()
    parser.feed(html)
    return parser.page


def open_page(url: str) -> Page:
    """Opens a page in a fresh profile, waits for its scripts, and returns what became of it. Fails after 90
    s."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(prefix="ctrlsynth-browser-") as profile:
        log = Path(profile) / "net.json"
        own = (f"--user-data-dir={profile}", f"--log-net-log={log}", "--dump-dom", url)
        process = subprocess.Popen(
            [PROGRAM, *FLAGS, *own], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            out, _ = process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        page = parse(out.decode("utf-8"))
        page.requests = _requests(log)
    return page


def _requests(log: Path) -> list[str]:
    """Addresses that were asked for on behalf of a page; what the browser asks for itself has no
    initiator."""
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    begun = [e["params"] for e in events if "url" in e.get("params", {}) and "initiator" in e["params"]]
    return list(dict.fromkeys(str(p["url"]) for p in begun if p["initiator"] != "not an origin"))
