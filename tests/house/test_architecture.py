"""DESIGN section 1 as tests: imports run one way, files and functions stay small, the command line is light."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator

from helpers import ROOT

SRC = ROOT / "src" / "ctrlsynth"
ROOMS = (
    "errors sample lang storage recipe data models concepts control stages runs "
    "evaluate clip export report api cli"
).split()
"""From the ground floor up: a room imports only itself and rooms before it."""
TABLES = {"models/registry.py", "data/sources.py", "evaluate/kinds/__init__.py", "stages/boxes.py"}
"""The only files that name our own modules in strings."""
HEAVY = set(
    "torch torchvision transformers vllm diffusers ray pandas open_clip timm datasets openai xllamacpp "
    "onnxruntime onnx matplotlib pyarrow pydantic numpy PIL".split()
)


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    for path in sorted(SRC.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(SRC).as_posix(), text, ast.parse(text)


def imports() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports anywhere, inside functions and under TYPE_CHECKING too."""
    known = {name.removesuffix(".py").replace("/", ".") for name, _, _ in modules()}
    graph: dict[str, set[str]] = {}
    for name, _, tree in modules():
        here, found = name.removesuffix(".py").split("/"), set()
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom):
                continue
            target = (node.module or "").split(".") if node.module else []
            if node.level:
                target = here[: len(here) - node.level] + target
            elif target[:1] == ["ctrlsynth"]:
                target = target[1:]
            else:
                continue
            for alias in node.names:
                wanted = [".".join([*target, alias.name]), ".".join(target), ".".join([*target, "__init__"])]
                found.add(next(m for m in wanted if m in known))
        graph[".".join(here)] = found
    return graph


def test_imports_run_down_the_page_and_in_no_circle() -> None:
    floor = {room: number for number, room in enumerate(ROOMS)}
    graph = imports()
    assert {module.split(".")[0] for module in graph} <= {*ROOMS, "__init__"}
    up = {
        f"{module} -> {target}"
        for module, targets in graph.items()
        for target in targets
        if module != "__init__" and floor.get(target.split(".")[0], 99) > floor[module.split(".")[0]]
    }
    assert up == set()
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_only_four_tables_name_our_modules_in_strings() -> None:
    pattern = re.compile(r"ctrlsynth\.[a-z_.]+:\w+")
    named = {name for name, text, _ in modules() if pattern.search(text)}
    assert named <= TABLES


def test_only_the_command_line_knows_typer_and_rich() -> None:
    users = {
        name.split("/")[0]
        for name, text, _ in modules()
        if re.search(r"^\s*(import|from) (typer|rich)\b", text, re.M)
    }
    assert users == {"cli"}


def test_files_and_functions_stay_small() -> None:
    wrong = []
    for name, text, tree in modules():
        if text.count("\n") > 500:
            wrong.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 60:
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


def test_public_functions_say_what_they_do() -> None:
    silent = []
    for name, _, tree in modules():
        for node in tree.body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                silent.append(f"{name}: {node.name}")
        if not name.endswith("__init__.py") and ast.get_docstring(tree) is None:
            silent.append(name)
    assert silent == []
