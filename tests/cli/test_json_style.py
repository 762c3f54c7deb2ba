"""JSON style in a run: replies are checked by the schema and retried once; failures keep the raw reply."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctrlsynth.api.run import run
from ctrlsynth.models.base import Reply, Request
from helpers import recipe

SCHEMA = {
    "type": "object",
    "properties": {"caption": {"type": "string"}, "objects": {"type": "array", "items": {"type": "string"}}},
    "required": ["caption"],
    "additionalProperties": False,
}
POLICY = {"style": "json", "json_schema": SCHEMA, "caption_field": "caption"}


class Stubborn:
    """Answers with prose, and with JSON on the retry unless it is about boats. Logs its calls."""

    id, digest = "stubborn", "1"

    def __init__(self, log: str) -> None:
        self._log = Path(log)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        with open(self._log, "a", encoding="utf-8") as handle:
            handle.writelines("again\n" if "not valid JSON" in r.instruction else "first\n" for r in requests)
        return [self._reply(r) for r in requests]

    def _reply(self, request: Request) -> Reply:
        if "not valid JSON" not in request.instruction:
            return Reply("Sure! Here is a caption.")
        if any("boat" in p for p in request.tags.phrases()):
            return Reply(json.dumps({"title": "a boat"}))
        caption = "It shows " + ", ".join(request.tags.phrases())
        return Reply(json.dumps({"caption": caption, "objects": list(request.tags.objects)}))


def test_bad_json_is_retried_once_and_then_fails_with_the_raw_reply(tmp_path: Path) -> None:
    log = tmp_path / "log"
    models = {"tagger": "wordnet", "llm": {"test_json_style:Stubborn": str(log)}}
    made = run(recipe(tmp_path, text_policy=POLICY, models=models), tmp_path / "run", base=tmp_path)
    assert sorted(log.read_text().split()) == ["again"] * 40 + ["first"] * 40
    boats = []
    for row in made.rows("write"):
        boats.append(any("boat" in o for o in row["tags"]["objects"]))
        found = (row["status"], row["reason"], row["text"], row["fields"], row["raw"])
        if boats[-1]:
            assert found == ("failed", "schema_mismatch", None, None, '{"title": "a boat"}')
        else:
            fields: dict[str, Any] = json.loads(row["fields"])
            assert fields == {"caption": row["text"], "objects": row["tags"]["objects"]}
    assert 0 < sum(boats) < len(boats) == 40
    assert all(r.adds_up for r in made.ledger())


def test_the_embedded_writers_fill_the_schema(tmp_path: Path) -> None:
    for llm, rows in (("realizer", 40), ("smollm2", 3)):
        plan = recipe(tmp_path, text_policy=POLICY, models={"tagger": "wordnet", "llm": llm})
        made = run(plan, tmp_path / llm, base=tmp_path, limit=rows)
        for row in made.rows("write"):
            assert (row["status"], json.loads(row["fields"])["caption"]) == ("ok", row["text"])
