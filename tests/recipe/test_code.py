"""A user's own code by name: found, checked and hashed."""

import importlib
from pathlib import Path

import pytest

from ctrlsynth.errors import UserError
from ctrlsynth.models.registry import load
from ctrlsynth.recipe.code import is_code, load_code

SOURCE = """
LIMIT = 3
def shorter(tags): return tags
class Tagger:
    def tag(self, items): return []
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"users_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    importlib.invalidate_caches()
    return name


@pytest.mark.parametrize(
    ("name", "methods", "told"),
    [
        ("{m}:shorter", [], None),
        ("{m}:Tagger", ["tag"], None),
        ("{m}:Tagger", ["generate"], "llm: {m}:Tagger is not a class with the method generate"),
        ("{m}:shorter", ["tag"], "llm: {m}:shorter is not a class with the method tag"),
        ("{m}:LIMIT", [], "llm: {m}:LIMIT is neither a function nor a class"),
        ("{m}:Tager", [], "llm: module '{m}' has no 'Tager'"),
        ("no_such_module:Tagger", [], "llm: no_such_module:Tagger: No module named 'no_such_module'; is it"),
    ],
)
def test_code_is_found_and_its_kind_checked(
    module: str, name: str, methods: list[str], told: str | None
) -> None:
    path = name.format(m=module)
    assert is_code(path)
    if told is None:
        assert callable(load_code(path, "llm", methods))
        return
    with pytest.raises(UserError) as caught:
        load_code(path, "llm", methods)
    assert str(caught.value).startswith(told.format(m=module))


def test_a_model_needs_the_method_of_its_role(module: str) -> None:
    assert load(f"{module}:Tagger", "tagger").tag([]) == []
    with pytest.raises(UserError, match="with the method generate"):
        load(f"{module}:Tagger", "llm")
    assert not is_code("llama.cpp:path/to.gguf")
    assert not is_code(3)
