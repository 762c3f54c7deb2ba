"""DESIGN section 1 as tests: imports run one way, files and functions stay small, and `ctrlsynth.cli.main`
loads nothing heavy."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers import ROOT

SRC = ROOT / "src" / "ctrlsynth"
ORDER = ("base", "recipe", "control", "stages", "paths", "store", "plan", "engines", "runs", "cli")
"""What imports what: a layer imports only itself and those before it."""
LAYER = {name: name for name in ORDER} | {
    "estimate": "runs",
    "preflight": "runs",
    "screen": "cli",
    "__init__": "runs",
    "paths": "base",
    "store": "base",
    "recipe_file": "recipe",
}
"""What is not named is of the base: errors, sample, words, wordnet, matching, tables, ..."""
SIDE = {"models", "data", "concepts", "report", "clip", "evaluate"}
"""These stand beside the order: they import the base, the recipe, each other's base, and (report, data) a
finished run."""
SIDE_MAY = {"recipe", "recipe_file", "control", "runs", *SIDE}
HEAVY = set(
    "torch torchvision transformers vllm diffusers ray pandas open_clip timm datasets openai xllamacpp "
    "onnxruntime onnx matplotlib pyarrow "
    "pydantic numpy PIL".split()
)


def modules() -> Iterator[tuple[str, Path, ast.Module]]:
    for path in sorted(SRC.rglob("*.py")):
        yield path.relative_to(SRC).as_posix(), path, ast.parse(path.read_text(encoding="utf-8"))


def imports_of(name: str, tree: ast.Module) -> set[str]:
    """Top-level names inside ctrlsynth that a module imports when it is loaded (not inside functions)."""
    depth = name.count("/")
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            inner = node.module or ""
            if node.level == depth + 1:
                found |= {inner.split(".")[0]} if inner else {a.name for a in node.names}
            elif node.level <= depth and depth:
                found.add(name.split("/")[0])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ctrlsynth."):
            found.add(str(node.module).split(".")[1])
    return found - {"__version__"}


def test_imports_run_one_way() -> None:
    wrong = []
    for name, _, tree in modules():
        top = name.split("/")[0].removesuffix(".py")
        top = "cli" if top.startswith("cli_") else top
        for used in imports_of(name, tree):
            if top in SIDE:
                if LAYER.get(used, "base") != "base" and used not in SIDE_MAY:
                    wrong.append(f"{name} imports {used}")
            elif used in SIDE:
                continue
            elif ORDER.index(LAYER.get(used, "base")) > ORDER.index(LAYER.get(top, "base")):
                wrong.append(f"{name} imports {used}")
    assert wrong == []


def test_only_the_command_line_knows_typer() -> None:
    users = [name for name, path, _ in modules() if "import typer" in path.read_text(encoding="utf-8")]
    assert "cli.py" in users
    assert [name for name in users if not name.startswith("cli")] == []


def test_files_and_functions_stay_small() -> None:
    wrong = []
    for name, path, tree in modules():
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > 400:
            wrong.append(f"{name}: {lines} lines")
        for node in ast.walk(tree):
            if (
                isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                and (node.end_lineno or 0) - node.lineno + 1 > 60
            ):
                wrong.append(f"{name}:{node.lineno}: {node.name}")
    assert wrong == []


def test_the_command_line_loads_nothing_heavy() -> None:
    code = (
        f"import sys, ctrlsynth.cli.main; print(sorted({HEAVY!r} & {{m.split('.')[0] for m in sys.modules}}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert out == "[]"


def test_help_answers_at_once() -> None:
    """At most 1.5 times the help of a bare typer program with two commands, the best of a few runs of each in
    turn, in processor time."""
    peer = (
        "import sys, typer; sys.argv=['x','--help']; app=typer.Typer(); app.command('a')(id); "
        "app.command('b')(id); app()"
    )
    ours = "import sys; sys.argv=['ctrlsynth','--help']; from ctrlsynth.cli.main.main import main; main()"
    times: dict[str, list[float]] = {peer: [], ours: []}
    for _ in range(5):
        for code, taken in times.items():
            before = os.times()
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            after = os.times()
            taken.append(
                after.children_user - before.children_user + after.children_system - before.children_system
            )
    assert min(times[ours]) <= 1.5 * min(times[peer])


def test_public_functions_say_what_they_do() -> None:
    silent = []
    for name, _, tree in modules():
        for node in tree.body:
            if (
                isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and not node.name.startswith("_")
                and ast.get_docstring(node) is None
            ):
                silent.append(f"{name}: {node.name}")
        if not name.endswith("__init__.py") and ast.get_docstring(tree) is None:
            silent.append(name)
    assert silent == []
