"""What several tests share: small recipes, counting and faulty models (fakes provoke faults and count calls,
nothing else)."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from ctrlsynth.api.run import Run
from ctrlsynth.cli.main import main
from ctrlsynth.errors import ModelError, UserError
from ctrlsynth.models.base import ImageAndText, Painting, Prompt, Reply, Request
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.recipe.schema import Recipe
from ctrlsynth.runs.build import Workshop
from ctrlsynth.runs.local import Pipeline
from ctrlsynth.runs.watch import Watcher
from ctrlsynth.sample import Tags
from ctrlsynth.storage.location import Remote
from ctrlsynth.storage.parts import RunFolder

TESTS = Path(__file__).parent
ROOT = TESTS.parent
FILES = TESTS / "files"
TIME = {"seconds"}
COLOURS = ("red", "blue", "green", "yellow")
THINGS = ("dog", "cat", "ball", "car", "tree", "bird", "boat", "chair")


def write_captions(path: Path, rows: int) -> Path:
    """A jsonl file of captions such as `a red dog on a blue ball`, no two alike up to 992."""
    with open(path, "w", encoding="utf-8") as handle:
        for n in range(rows):
            a, b = THINGS[n % 8], THINGS[(n // 8 + n + 1) % 8]
            caption = f"a {COLOURS[n % 4]} {a} on a {COLOURS[(n // 4) % 4]} {b}"
            handle.write(json.dumps({"key": f"k{n}", "caption": caption}) + "\n")
    return path


def recipe_data(base: Path, rows: int = 40, part_rows: int = 10, **changes: Any) -> dict[str, Any]:
    """A text recipe with the embedded tagger and the realizer; `changes` replace top-level keys."""
    if not (base / "captions.jsonl").exists():
        write_captions(base / "captions.jsonl", rows)
    return {
        "name": "test",
        "source": {"text": "captions.jsonl", "part_rows": part_rows, "key_column": "key"},
        "models": {"tagger": "wordnet", "llm": "realizer"},
        "paths": [{"rewrite": ["text", "tags", "text*"]}],
        **changes,
    }


def recipe(base: Path, rows: int = 40, part_rows: int = 10, **changes: Any) -> Recipe:
    """The recipe of `recipe_data`."""
    return parse_recipe(recipe_data(base, rows, part_rows, **changes))


def recipe_file(base: Path, rows: int = 40, part_rows: int = 10, **changes: Any) -> Path:
    """The recipe of `recipe_data` as `r.yaml`."""
    path = base / "r.yaml"
    path.write_text(json.dumps(recipe_data(base, rows, part_rows, **changes)))
    return path


def ctrlsynth(*words: object) -> tuple[int, str, str]:
    """Runs a command in this process; returns its exit code, standard output and standard error."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["ctrlsynth", *map(str, words)])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def start(
    *words: object, cwd: Path, chunks: float = 0, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """The command as a process and a session of its own, which saves a chunk after so many seconds."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # the tests' may be ignored
        f"from ctrlsynth.storage import parts; parts.CHUNK_SECONDS = {chunks}\n"
        "from ctrlsynth.cli.main import main; main()"
    )
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def counting(log: Path, **options: Any) -> dict[str, Any]:
    """A recipe's models with the counting writer."""
    return {"tagger": "wordnet", "llm": {"helpers:CountingLLM": str(log), **options}}


def until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Waits for a condition while the process lives; no speed is assumed, only that it happens at all."""
    ends = time.monotonic() + 300
    while not condition():
        assert process is None or process.poll() is None, "it ended before its time"
        assert time.monotonic() < ends
        time.sleep(0.02)


def tables(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Every table's rows without what differs between equal runs: time."""
    return {
        s.folder: [{k: v for k, v in r.items() if k not in TIME} for r in run.rows(s.folder)]
        for s in run.steps
    }


def assert_sound(made: Run, whole: Run) -> None:
    """Asserts that the tables are those of the other run, with every row once, and that nothing is left over."""
    assert tables(made) == tables(whole)
    ids = [r["id"] for s in made.steps for r in made.rows(s.folder, ["id"])]
    assert len(ids) == len(set(ids)) == sum(r.rows for r in made.ledger())
    assert all(r.adds_up for r in made.ledger())
    files = made.root.below() if isinstance(made.root, Remote) else list(made.root.rglob("*"))
    assert not [f for f in files if ".tmp-" in f.name or "/_chunks/" in str(f.parent)]


class CountingLLM:
    """Answers like a writer and notes every request in the file `log`."""

    id, digest = "counting", "1"

    def __init__(self, log: str, batch: int = 16) -> None:
        self._log, self.batch = log, batch

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        with open(self._log, "a", encoding="utf-8") as handle:
            handle.writelines(json.dumps(r.tags.phrases()) + "\n" for r in requests)
            handle.flush()
            os.fsync(handle.fileno())
        return [
            Reply("There is " + ", ".join(r.tags.phrases()) + ".", prompt_tokens=7, completion_tokens=5)
            for r in requests
        ]


class SlowLLM(CountingLLM):
    """A counting writer that takes 20 ms per request."""

    id = "slow"

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(0.02 * len(requests))
        return super().generate(requests)


def calls(log: Path) -> int:
    """How many requests the counting model has seen."""
    return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0


class FaultyLLM:
    """`how`: too_few, too_many, nothing, empty, raise, model_error; for requests whose tags hold `when` (all
    unless given)."""

    id, digest = "faulty", "1"

    def __init__(self, how: str, when: str = "", batch: int = 1) -> None:
        self._how, self._when, self.batch = how, when, batch

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        replies = [Reply("There is " + ", ".join(r.tags.phrases()) + ".") for r in requests]
        if self._when and not any(self._when in p for r in requests for p in r.tags.phrases()):
            return replies
        if self._how == "raise":
            raise RuntimeError("the engine is on fire")
        return {
            "too_few": replies[:-1],
            "too_many": [*replies, replies[-1]],
            "nothing": [],
            "empty": [Reply("  ") for _ in requests],
        }[self._how]


class Mute:
    """Says the same of everything, and nothing of what it was asked for."""

    id, digest = "mute", "1"

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply("Nothing to see.") for _ in requests]


class CaptionReader:
    """A tagger that reads captions only."""

    id, digest, reads = "caption-reader", "1", "caption"

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        return [Tags(objects=("thing",)) for _ in items]


class PixelCounter:
    """A tagger that returns the size of its image."""

    id, digest, reads = "pixel-counter", "1", "pixels"

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        return [
            Tags(objects=(f"{i.image.width}x{i.image.height}",) if i.image is not None else ()) for i in items
        ]


class NoPainter:
    """A painter that never paints."""

    id, digest = "no-painter", "1"

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        return [Painting(None, error="out_of_paint") for _ in prompts]


def run_part(
    workshop: Workshop,
    run: RunFolder,
    folder: str,
    part: Any,
    versions: Sequence[str] = (),
    retry: bool = False,
) -> dict[str, Any]:
    """Makes one part alone, as an engine that spreads parts does; returns its counts."""
    Pipeline(workshop, run, folder, Watcher(), retry).run([(part, list(versions))])
    return run.counts(folder, part.index, workshop.plan.part_digest(folder, part))


def assert_refused(call: Callable[..., object], match: str, *args: Any, **options: Any) -> None:
    """Asserts that the call with these arguments raises a UserError of one line that matches."""
    with pytest.raises(UserError, match=match) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)


def assert_fails(call: Callable[[], object], reason: str, match: str = "") -> None:
    """Asserts that the call raises a ModelError of that reason whose message matches."""
    with pytest.raises(ModelError, match=match) as error:
        call()
    assert error.value.reason == reason


def write_tar(path: Path, members: Iterable[Sequence[Any]], format: int = tarfile.USTAR_FORMAT) -> Path:
    """Writes a tar of (name, content), or (name, content, other fields of the header)."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, data, *fields in members:
            info = tarfile.TarInfo(name)
            for field, value in {"size": len(data), **(fields[0] if fields else {})}.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return path
