"""What `ctrlsynth plan` and `status` tell of a production language model: its chat template, its cost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ctrlsynth.api.run import Run, run
from ctrlsynth.cli.main import app
from ctrlsynth.models.prices import spent
from helpers import recipe, write_captions
from servers import FaultyServer, completion, echo, said


def test_plan_shows_the_prompt_in_the_model_s_chat_template(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    write_captions(tmp_path / "captions.jsonl", 4)
    text = (
        "name: shown\nsource: {text: captions.jsonl, key_column: key}\npaths: [{p: [text, tags, text*]}]\n"
        f"models: {{tagger: wordnet, llm: {{transformers: {tiny('mistral')}, device: cpu}}}}\n"
    )
    (tmp_path / "r.yaml").write_text(text)
    command = ["plan", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert all(part in shown.output for part in ("<s>[INST] ", " [/INST]", "brown dog")), shown.output
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    examples = {s["folder"]: s["example"] for s in told["stages"]}
    assert (examples["write"][:10], examples["tag"]) == ("<s>[INST] ", None)
    assert not (tmp_path / "run").exists()
    shown = CliRunner().invoke(app, [*command[:2], "--set", "models.llm=realizer"])
    assert (shown.exit_code, "chat" in shown.output) == (0, False)


def server_recipe(base: Path, url: str, **options: Any) -> Any:
    return recipe(
        base, rows=30, models={"tagger": "wordnet", "llm": {"openai": "m", "base_url": url, **options}}
    )


def test_status_tells_the_cost_and_new_prices_change_nothing_else(tmp_path: Path) -> None:
    with FaultyServer() as faulty:
        for factor, shown in ((1.0, "0.0019 US dollars"), (2.0, "0.0038 US dollars")):
            run(
                server_recipe(tmp_path, faulty.url, prices={"input": 2.0 * factor, "output": 10.0 * factor}),
                tmp_path / "run",
                base=tmp_path,
            )
            ledger = {r.folder: r for r in Run.open(tmp_path / "run").ledger()}
            assert (ledger["write"].ok, ledger["tag"].cost) == (30, None)
            assert ledger["write"].cost == pytest.approx(factor * 30 * (7 * 2.0 + 5 * 10.0) / 1e6)
            assert shown in CliRunner().invoke(app, ["status", str(tmp_path / "run")]).output
            assert len(faulty.seen) == 30  # begun ahead of their batch, and asked once each
    painter = {"text_to_image": {"prices": {"row": 0.04}}}
    assert spent(painter, "paint", {"ok": 3}) == pytest.approx(0.12)


def test_no_key_in_the_run_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame-open-yourself")
    with FaultyServer() as faulty:
        run(server_recipe(tmp_path, faulty.url), tmp_path / "run", base=tmp_path)
        assert faulty.keys[-1] == "Bearer sesame-open-yourself"
    assert all(b"sesame" not in path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())


def test_rows_at_fault_are_set_aside_with_the_server_s_word(tmp_path: Path) -> None:
    def answer(n: int, body: Any) -> Any:
        if "yellow" in said(body):
            return 400, {}, b'{"error": {"message": "no yellow here"}}'
        return completion("A picture of something.") if "cat" in said(body) else echo(n, body)

    with FaultyServer(answer) as faulty:
        made = run(server_recipe(tmp_path, faulty.url), tmp_path / "run", base=tmp_path)
    rows = list(made.rows("write"))
    assert {r["reason"] for r in rows if r["status"] == "failed"} == {"refused"}
    assert all(("yellow" in r["instruction"]) == (r["status"] == "failed") for r in rows)
    assert "no yellow here" in next(r["raw"] for r in rows if r["status"] == "failed")
    assert all(r.adds_up for r in made.ledger())
