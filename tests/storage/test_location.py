"""A run behind a URL: a whole run on a real S3-compatible server, the rule that a part is created once, and
what is told of faults."""

import errno
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from PIL import Image

from ctrlsynth.api.run import Run, run
from ctrlsynth.cli.show import as_text
from ctrlsynth.errors import UserError, WorkFailed
from ctrlsynth.export.export import export
from ctrlsynth.report.explain import first_kept
from ctrlsynth.report.gallery import write_report
from ctrlsynth.report.sweep import sweep
from ctrlsynth.runs.estimate import estimate
from ctrlsynth.storage import files
from ctrlsynth.storage import location as places
from ctrlsynth.storage.files import probe
from ctrlsynth.storage.location import Remote, locate
from helpers import assert_refused, calls, counting, ctrlsynth, recipe, recipe_file, start, tables, write_tar
from s3_server import s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with s3_server() as env:
        yield env


@pytest.fixture
def root(s3: dict[str, str], request: pytest.FixtureRequest) -> Remote:
    """A run's folder of its own on the server."""
    return Remote(f"s3://bucket/runs/{request.node.name.partition('[')[0]}")


def test_a_run_on_s3_has_the_tables_of_a_local_one_and_everything_reads_it(
    tmp_path: Path, root: Remote
) -> None:
    log = tmp_path / "log"
    plan = recipe(tmp_path, 20, models=counting(log))
    local = run(plan, tmp_path / "local", base=tmp_path)
    made = run(plan, root, base=tmp_path, text="name: test\n")
    assert tables(made) == tables(local)
    assert tables(run(plan, str(root), base=tmp_path)) == tables(local), "a finished run"
    assert calls(log) == 40, "asks no model again"
    ours, theirs = ([(r.folder, r.ok, r.parts, r.adds_up) for r in m.ledger()] for m in (made, local))
    assert ours == theirs
    assert sum(r.bytes for r in made.ledger()) == sum(
        len(f.read_bytes()) for s in made.steps for f in made.files(s.folder)
    )
    assert as_text(made, first_kept(made)) == as_text(local, first_kept(local))
    assert sweep(made).plain() == sweep(local).plain()
    assert [s["parts_done"] for s in estimate(plan, tmp_path, root, None)["stages"]] == [2, 2, 2, 2]
    export(made, tmp_path / "far", format="csv")
    export(local, tmp_path / "near", format="csv")
    assert (tmp_path / "far" / "data.csv").read_bytes() == (tmp_path / "near" / "data.csv").read_bytes()
    assert write_report(made, tmp_path / "report").is_file()
    below = {str(f).removeprefix(f"{root}/") for f in root.below()}
    assert below == {
        p.relative_to(tmp_path / "local").as_posix() for p in (tmp_path / "local").rglob("*.*")
    } | {"recipe.yaml"}
    told = "".join(f.read_text() for f in root.below() if f.name.endswith(".json"))
    assert "not-to-be-stored" not in told


def test_a_part_removed_from_s3_is_made_again_and_an_update_takes_over_the_rest(
    tmp_path: Path, root: Remote
) -> None:
    log = tmp_path / "log"
    plan = recipe(tmp_path, models=counting(log))
    first = tables(run(plan, root, base=tmp_path))
    Run.open(root).files("write")[1].unlink()
    assert tables(run(plan, root, base=tmp_path)) == first
    assert calls(log) == 50
    changed = recipe(
        tmp_path, models=counting(log), text_policy={"edits": [{"replace": {"objects": {"boat": "ship"}}}]}
    )
    with pytest.raises(UserError, match=r"(?s)s3://bucket.*text_policy\.edits: .*--update"):
        run(changed, root, base=tmp_path)
    made = run(changed, root, base=tmp_path, update=True)
    touched = [r for r in made.rows("write") if r["edits"]]
    assert calls(log) == 50 + len(touched) < 70
    assert tables(made) == tables(run(changed, tmp_path / "fresh", base=tmp_path))
    assert len((root / "write").entries()) == 5, "superseded versions are gone"


def shards(base: Path, colour: int = 0) -> list[Path]:
    """Two tars of three pictures with captions, and the same pictures as a parquet file."""
    rows: list[dict[str, Any]] = []
    for shard in range(2):
        for n in range(3):
            out = io.BytesIO()
            Image.new("RGB", (16 + n, 16 + shard), (colour, 40 * n, 80 * shard)).save(out, "PNG")
            image = {"bytes": out.getvalue(), "path": f"{shard}{n}.png"}
            rows.append({"image": image, "caption": f"a red dog, number {shard}{n}"})
        members = [
            (f"{r['image']['path'][:-3]}{end}", data)
            for r in rows[-3:]
            for end, data in (("png", r["image"]["bytes"]), ("txt", r["caption"].encode()))
        ]
        write_tar(base / f"{shard:05d}.tar", members)
    pq.write_table(pa.Table.from_pylist(rows), base / "all.parquet")
    return [*sorted(base.glob("0*.tar")), base / "all.parquet"]


def upload(files: list[Path], folder: Remote) -> None:
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize(
    ("kind", "name", "glob"),
    [("webdataset", "{00000..00001}.tar", "*.tar"), ("parquet", "all.parquet", "a*.parquet")],
)
def test_a_source_on_s3_gives_the_rows_of_a_local_one(
    tmp_path: Path, root: Remote, kind: str, name: str, glob: str
) -> None:
    folder = Remote(f"{root}-{kind}")
    upload(shards(tmp_path), folder)

    def made(source: str, out: str | Remote, **options: Any) -> Run:
        more: Any = {"models": {"tagger": "helpers:PixelCounter"}, "paths": ["SP1"], "judge": None}
        plan = recipe(tmp_path, source={kind: source, "part_rows": 3}, **more)
        return run(plan, out if isinstance(out, Remote) else tmp_path / out, base=tmp_path, **options)

    def bare(made: Run) -> dict[str, list[dict[str, Any]]]:
        return {
            f: [{k: v for k, v in r.items() if k != "file"} for r in rows] for f, rows in tables(made).items()
        }

    near = made(str(tmp_path / name), "near")
    far = made(f"{folder}/{name}", Remote(f"{folder}-run"))
    assert bare(far) == bare(near)
    assert next(iter(far.rows("tag")))["objects"] == ["16x16"]
    assert all(str(r["file"]).startswith(f"{folder}/") for r in far.rows("read"))
    assert bare(made(f"{folder}/{glob}", "far0")) == bare(made(str(folder), "far1")) == bare(near)
    export(far, tmp_path / "out", format="imagefolder")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 6
    assert made(f"{folder}/{name}", "few", limit=4).ledger()[0].rows == 4
    upload(shards(tmp_path, colour=200), folder)
    changed = made(f"{folder}/{name}", Remote(f"{folder}-run"))
    digests = [{r["sha256"] for r in m.rows("read")} for m in (changed, near)]
    assert not digests[0] & digests[1], "what has changed by the store's mark is read again"
    assert_refused(
        lambda: made("s3://bucket/none/a.tar", "none"), r"source\.\w+: nothing at s3://bucket/none/a"
    )


RACE = """
import sys, time
from pathlib import Path
import s3fs.core
s3fs.core.calculate_chunksize = lambda *_, **__: 5 * 2**20  # two such chunks and more go up in several parts
from ctrlsynth.storage.files import publish
from ctrlsynth.storage.location import locate
made, final, start = Path(sys.argv[1]), locate(sys.argv[2]), float(sys.argv[3])
final.exists()  # the connection is there
time.sleep(max(0.0, start - time.time()))
print(publish(made, final))
"""


@pytest.mark.parametrize("size", [2_000, 12_000_000], ids=["put", "multipart"])
def test_of_two_processes_that_race_for_one_part_the_first_one_s_stays(
    tmp_path: Path, root: Remote, size: int
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * size)
    start = str(time.time() + 4)
    final = f"{root}/00000-{size:012x}.parquet"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path / name), final, start],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    won = [r.communicate(timeout=120)[0].strip() for r in racers]
    assert sorted(won) == ["False", "True"]
    assert locate(final).open().read(1) == (b"a" if won[0] == "True" else b"b")
    late = tmp_path / "late"
    late.write_bytes(b"c")
    assert files.publish(late, locate(final)) is False
    assert locate(final).open().read(1) != b"c"
    assert not late.exists()


def test_two_runs_at_once_into_one_folder_on_s3_end_with_equal_tables(tmp_path: Path, root: Remote) -> None:
    slow = {"tagger": "wordnet", "llm": {"helpers:SlowLLM": str(tmp_path / "log")}}
    plan = recipe_file(tmp_path, 60, 20, models=slow)
    both = [start("run", plan, "--out", root, cwd=tmp_path, chunks=0.1) for _ in range(2)]
    ends = [p.communicate(timeout=100) for p in both]
    assert [p.returncode for p in both] == [0, 0], ends
    made = Run.open(root)
    assert all(r.adds_up for r in made.ledger())
    assert tables(made) == tables(run(plan, tmp_path / "alone"))
    assert not [f for f in root.below() if ".tmp-" in f.name]


def test_a_run_on_s3_that_is_killed_goes_on_from_its_chunks(tmp_path: Path, root: Remote) -> None:
    log = tmp_path / "log"
    slow = {"tagger": "wordnet", "llm": {"helpers:SlowLLM": str(log)}}
    plan = recipe_file(tmp_path, 60, 60, models=slow)
    process = start("run", plan, "--out", root, cwd=tmp_path, chunks=0.1)
    ends = time.monotonic() + 60
    while not (root / "write").glob("_chunks/*/*") and time.monotonic() < ends:
        time.sleep(0.1)
    process.kill()
    process.communicate()
    before = calls(log)
    assert 0 < before < 60
    made = run(plan, root)
    assert calls(log) < 60 + before, "rows of the chunks are not asked for again"
    assert {r.folder: r.reused for r in made.ledger()}["write"] > 0
    assert tables(made) == tables(run(plan, tmp_path / "whole"))
    assert not [f for f in root.below() if "/_chunks/" in str(f) or ".tmp-" in f.name]


def test_commands_take_a_url(tmp_path: Path, root: Remote) -> None:
    plan = recipe_file(tmp_path, 20, models={"tagger": "wordnet"})
    for words in (["run", plan, "--out", root], ["status", root], ["explain", root]):
        code, out, err = ctrlsynth(*words)
        assert not code, err
        assert "k0" in out or "write" in out
    told = f"ctrlsynth: {root}: name a folder of this machine with --out\n"
    assert ctrlsynth("export", root) == (2, "", told)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("s3://no-such-bucket/x", r"^s3://no-such-bucket/x: cannot be written to \(The specified bucket does not"),
        ("s3://", "^s3://: names no bucket"),
        ("nonsense://x/y", "^nonsense://x/y: no store that fsspec knows"),
        ("sftp://me:secret@host/x", r"^sftp://\.\.\.@\.\.\.: leave the password out(?!.*secret)"),
    ],
)  # fmt: skip
def test_storage_faults_are_one_line(tmp_path: Path, s3: dict[str, str], out: str, message: str) -> None:
    assert_refused(lambda: run(recipe(tmp_path), out, base=tmp_path), message)


def test_a_folder_on_s3_that_is_no_run_and_missing_credentials_are_one_line(
    tmp_path: Path, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused(lambda: Run.open("s3://bucket/none"), "^s3://bucket/none: not a run's folder")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        told = "^s3://bucket/x/plan.json: Unable to locate credentials; give keys "
        assert_refused(lambda: run(recipe(tmp_path), "s3://bucket/x", base=tmp_path), told)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_that_lets_the_second_writer_win_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    probe(Remote("memory://sound"))
    monkeypatch.setattr(Remote, "create", lambda self, made: (self.write_bytes(made.read_bytes()), True)[1])
    with pytest.raises(UserError, match="memory://unsound: this store lets a second writer replace a file"):
        probe(Remote("memory://unsound"))


def test_memory_and_file_urls_hold_a_run(tmp_path: Path) -> None:
    plan = recipe(tmp_path)
    first = tables(run(plan, tmp_path / "run", base=tmp_path))
    assert tables(run(plan, "memory://run", base=tmp_path)) == first
    made = run(plan, f"file://{tmp_path}/file", base=tmp_path)
    assert made.root == tmp_path / "file"
    assert tables(made) == first


class _GoogleStorage(BaseHTTPRequestHandler):
    """Notes uploads and answers as Google's JSON interface does where only the first may create: then 412."""

    asked: list[list[str]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(parse_qs(urlsplit(self.path).query)["ifGenerationMatch"])
        first = len(self.asked) == 1
        refused = {"error": {"code": 412, "message": "conditionNotMet"}}
        answer = json.dumps({"name": "run/part", "size": "3"} if first else refused).encode()
        self.send_response(200 if first else 412)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None: ...


def test_google_storage_is_asked_for_generation_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mapping from `create` to a request; there is no Google Storage here to run against."""
    pytest.importorskip("gcsfs")
    (tmp_path / "part").write_bytes(b"abc")
    with ThreadingHTTPServer(("127.0.0.1", 0), _GoogleStorage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
        monkeypatch.setenv("FSSPEC_GCS_TOKEN", "anon")
        part = Remote("gs://bucket/run/part")
        assert [part.create(tmp_path / "part") for _ in range(2)] == [True, False]
        assert _GoogleStorage.asked == [["0"], ["0"]]
        server.shutdown()


@pytest.mark.parametrize(("waits", "created"), [((0.0, 0.0, 0.0), True), ((0.0,), None)])
def test_a_conditional_write_that_meets_another_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: tuple[float, ...], created: bool | None
) -> None:
    """S3 answers 409 when two conditional writes overlap; which of them won is known at the next try."""
    made, tries = tmp_path / "made", []
    made.write_bytes(b"x")
    memory = fsspec.implementations.memory.MemoryFileSystem
    real = memory.put_file

    def busy(self: Any, *args: Any, **kwargs: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.EBUSY, "ConditionalRequestConflict")
        real(self, *args, **kwargs)

    monkeypatch.setattr(places, "_AGAIN", waits)
    monkeypatch.setattr(memory, "put_file", busy)
    with nullcontext() if created else pytest.raises(OSError, match="Conflict"):
        assert Remote("memory://busy/part").create(made) is created
    assert len(tries) == min(3, len(waits) + 1)


def test_the_temporary_folder_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    mine = files.temporary(Remote("memory://swept/read/00000-0123456789ab.parquet"))
    dead = mine.with_name(mine.name.replace(f"~{os.getpid()}~", "~999999999~"))
    for file in (mine, dead):
        file.write_bytes(b"")
    run(recipe(tmp_path), "memory://swept", base=tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == [mine]


def test_work_fails_in_one_line_when_the_store_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as env:
        made = run(recipe(tmp_path), "s3://bucket/gone", base=tmp_path)
    for name, value in (env | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.core.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    told = r"^s3://bucket/gone[^\n]*Could not connect[^\n]*run the same command again$"
    with pytest.raises(WorkFailed, match=told):
        made.files("read")
    s3fs.S3FileSystem.clear_instance_cache()
