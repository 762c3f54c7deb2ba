"""Every benchmark imports in the present layout and explains itself; none is run."""

import importlib
import sys

import pytest

from helpers import ROOT

SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "distilabel_peer")
"""All but the peer that runs in distilabel's own environment."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_imports_and_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    if hasattr(module, "main"):
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as ended:
            module.main()
        assert ended.value.code == 0
        assert "--help" in capsys.readouterr().out
