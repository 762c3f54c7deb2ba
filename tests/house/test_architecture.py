"""DESIGN section 1 as tests: imports run one way, files and functions stay small, the command line is light."""

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
        here = name.removesuffix(".py").split("/")
        found = graph.setdefault(".".join(here), set())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                target = (node.module or "").split(".") if node.module else []
                if node.level:
                    target = here[: len(here) - node.level] + target
                elif target[:1] == ["ctrlsynth"]:
                    target = target[1:]
                else:
                    continue
                for alias in node.names:
                    ways = ([*target, alias.name], target, [*target, "__init__"])
                    found.add(next(m for m in map(".".join, ways) if m in known))
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
    named = {name for name, text, _ in modules() if re.search(r"ctrlsynth\.[a-z_.]+:\w+", text)}
    assert named <= TABLES


def test_only_the_command_line_knows_typer_and_rich() -> None:
    users = {
        name.split("/")[0]
        for name, text, _ in modules()
        if re.search(r"^\s*(import|from) (typer|rich)\b", text, re.M)
    }
    assert users == {"cli"}


def test_files_and_functions_stay_small() -> None:
    wrong = [f"{name}: {n} lines" for name, text, _ in modules() if (n := text.count("\n")) > 500]
    wrong += [
        f"{name}:{node.lineno}: {node.name}"
        for name, _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert wrong == []


def test_the_command_line_loads_nothing_heavy() -> None:
    code = f"import sys, ctrlsynth.cli.main; print({HEAVY!r} & {{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_public_functions_say_what_they_do() -> None:
    silent = [
        f"{name}: {getattr(node, 'name', 'module')}"
        for name, _, tree in modules()
        for node in (tree, *tree.body)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module))
        and not getattr(node, "name", "").startswith("_")
        and not (node is tree and name.endswith("__init__.py"))
        and ast.get_docstring(node) is None
    ]
    assert silent == []
