"""3a + 2b -> 1d: tags (and a caption) become an instruction by the text policy, and the instruction a
text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any, Literal

import pyarrow as pa

from ..control.text import Family, Instruction, TextController
from ..lang import clip_tokens
from ..lang.replies import REASONS as CLEANED
from ..models.base import LanguageModel, Reply
from ..sample import KINDS, Tags, ancestor, child, digest_of, key_of
from .answers import BAD, reply_of
from .base import Item, Upstream, ask, build, close_model
from .tables import WRITE

_EXAMPLE = Tags(("dog", "sofa"), ("brown dog",), ("dog on sofa",)), "my dog on the new sofa"


@dataclass(slots=True)
class Written:
    """One reply, parsed."""

    reply: Reply | None
    text: str | None = None
    fields: str | None = None


class WriteStage:
    """Writes `variants` x `candidates` texts for every row of `parent`. With several candidates the best by
    `score` is chosen, the others are dropped as `not_chosen`: raising the number asks only for the new ones,
    since none of them changes its id. A caption that says again what an earlier variant says of the same
    concept is dropped as `duplicate`; it keeps its text, as one not chosen does."""

    schema = WRITE
    version: int = 1
    reuses = True

    def __init__(
        self,
        parent: str,
        family: Family | Literal["caption"],
        label: str,
        controller: TextController,
        model: LanguageModel | None,
        variants: int = 1,
        candidates: int = 1,
        score: Callable[[str, Tags], float] | None = None,
        text_folder: str | None = None,
        text_column: str = "caption",
        rejects: tuple[str, ...] = (),
    ) -> None:
        self._parent, self._family, self._label, self._controller, self._model = (
            parent,
            family,
            label,
            controller,
            model,
        )
        self._variants, self._candidates, self._score = variants, candidates, score
        self._text_folder, self._text_column, self._rejects = text_folder, text_column, rejects
        self._once = family == "concept" and variants > 1
        if family == "concept" and controller.schema is None:
            self.version = 2  # of the cleaning
        self.model_name = model.id if model is not None else ""
        self._prefix = digest_of(
            "write", self.version, self.model_name, model.digest if model is not None else ""
        )
        self.batch = int(getattr(model, "batch", 256))

    def settings(self) -> dict[str, Any]:
        digest = self._model.digest if self._model is not None else ""
        return {
            "model": self.model_name,
            "digest": digest,
            "variants": self._variants,
            "candidates": self._candidates,
        }

    def example(self) -> str | None:
        """What the model would read for a made-up row, of models that tell (`prompt`): the instruction in
        their chat template."""
        prompt = getattr(self._model, "prompt", None)
        if prompt is None or self._family == "caption":
            return None
        shown: str = prompt(self._controller.instruct("example", self._family, *_EXAMPLE).request)
        return shown

    def items(self, up: Upstream) -> Iterator[list[Item]]:
        rejected = set().union(*(up.rejected(folder) for folder in self._rejects))
        from_tags = self._family in ("tags", "tags+text", "caption")
        texts = up.table(self._text_folder, [self._text_column]) if self._text_folder else None
        names = [*KINDS, "caption"] if from_tags else [self._text_column]
        for columns in up.columns(self._parent, ["id", "status", "source_key", *names], 512):
            out: list[Item] = []
            for row_id, status, source_key, *rest in zip(*columns, strict=True):
                if status != "ok" or row_id in rejected:
                    continue
                tags = Tags.of(dict(zip(KINDS, rest, strict=False))) if from_tags else None
                text = rest[-1]
                if texts is not None:
                    found = ancestor(row_id, texts)
                    text = found[0] if found is not None else None
                if self._family == "caption":
                    out.append(self._by_tagger(row_id, source_key, tags, text))
                else:
                    for number, candidate in product(range(self._variants), range(self._candidates)):
                        made = child(row_id, self._label, number, *([candidate] if candidate else []))
                        out.append(self._item(made, row_id, source_key, tags, text, candidate))
            yield out

    def _by_tagger(self, row_id: str, source_key: str, tags: Tags | None, text: str | None) -> Item:
        item = Item(
            child(row_id, self._label), row_id, source_key, key_of(self._prefix, text or ""), (text, tags, 0)
        )
        if not text:
            item.status, item.reason = "dropped", "no_caption"
        return item

    def _item(
        self, row_id: str, parent: str, source_key: str, tags: Tags | None, text: str | None, candidate: int
    ) -> Item:
        assert self._family != "caption"
        shown = text if self._family != "tags" else None
        made = self._controller.instruct(row_id, self._family, tags, shown)
        request = made.request
        phrases = request.tags
        key = key_of(
            self._prefix, request.instruction, "\n".join(phrases.phrases()), request.caption or "",
            request.family,
            str(request.max_tokens), str(request.words), repr(request.schema) if request.schema else "",
            str(request.seed),
            *([repr((request.gone, request.instead))] if request.gone.phrases() or request.instead else []),
        )  # fmt: skip
        starts = row_id == child(parent, self._label, 0) if self._once else candidate == 0
        item = Item(row_id, parent, source_key, key, (made, tags, candidate), starts=starts)
        if made.missing is not None:
            item.status, item.reason = "dropped", made.missing
        return item

    def load(self, items: list[Item], up: Upstream) -> None:
        """Instructions are all there is; a model that answers elsewhere gets them now (its optional `begin`),
        batches ahead of `call`."""
        begin = getattr(self._model, "begin", None)
        if begin is not None:
            begin([i.payload[0].request for i in items if i.status == "ok"])

    def call(self, items: list[Item]) -> list[Any]:
        out = [Written(None) for _ in items]
        if self._model is None:
            for item, written in zip(items, out, strict=True):
                written.text = item.payload[0]
            return out
        live = [n for n, i in enumerate(items) if i.status == "ok"]
        self._ask(items, live, out)
        again = [n for n in live if items[n].reason in ("bad_json", "schema_mismatch")]
        if again:  # JSON is asked for once more, with another seed and a reminder
            self._ask(
                items,
                again,
                out,
                " The last answer was not valid JSON for the schema. Output only the JSON object.",
            )
        for n in live:
            if items[n].reason is not None:  # what cleaning does not take is no fault of the machine
                items[n].status = "dropped" if items[n].reason in CLEANED else "failed"
        return out

    def _ask(self, items: list[Item], numbers: list[int], out: list[Written], more: str = "") -> None:
        if not numbers or self._model is None:
            return
        made: list[Instruction] = [items[n].payload[0] for n in numbers]
        requests = [
            replace(m.request, instruction=m.request.instruction + more, seed=m.request.seed ^ 1)
            if more
            else m.request
            for m in made
        ]
        replies = self._model.generate(requests)
        ask(self._model.id, len(requests), replies)
        for n, instruction, answer in zip(numbers, made, replies, strict=True):
            reply = reply_of(answer)
            if reply is None:
                items[n].reason, out[n] = BAD, Written(None)
                continue
            items[n].reason = reply.error or (None if reply.text.strip() else "empty_reply")
            out[n] = Written(reply)
            if items[n].reason is None:
                parsed = self._controller.parse(reply.text, instruction, reply.finish == "length")
                out[n].text, items[n].reason = parsed.text, parsed.reason
                out[n].fields = (
                    json.dumps(parsed.fields, ensure_ascii=False) if parsed.fields is not None else None
                )

    def rows(self, items: list[Item], answers: list[Any], seconds: float) -> pa.Table:
        made: list[Instruction | None] = [
            i.payload[0] if isinstance(i.payload[0], Instruction) else None for i in items
        ]
        written: list[Written] = [a if a is not None else Written(None) for a in answers]
        texts = [w.text if i.status == "ok" else None for i, w in zip(items, written, strict=True)]
        tokens = [clip_tokens.count(t) if t is not None else None for t in texts]
        replies = [w.reply for w in written]
        columns: dict[str, list[Any]] = {
            "candidate": [i.payload[2] for i in items],
            "chosen": [i.status == "ok" for i in items],
            "tags": [
                _plain(m.tags if m is not None else i.payload[1]) for m, i in zip(made, items, strict=True)
            ],
            "edits": [[_record(e) for e in m.edits] if m is not None else [] for m in made],
            "template": [m.template if m is not None else None for m in made],
            "instruction": [m.request.instruction if m is not None else None for m in made],
            "text": texts,
            "fields": [w.fields for w in written],
            "raw": [None if r is None else r.raw if r.raw is not None else r.text for r in replies],
            "prompt_tokens": [r.prompt_tokens if r is not None else None for r in replies],
            "completion_tokens": [r.completion_tokens if r is not None else None for r in replies],
            "clip_tokens": tokens,
            "truncated": [clip_tokens.truncated(n) if n is not None else None for n in tokens],
            "seed": [m.request.seed if m is not None else None for m in made],
        }
        return build(self.schema, items, columns, self.model_name, seconds)

    def close(self) -> None:
        close_model(self._model)

    def finish(self, table: pa.Table) -> pa.Table:
        """Chooses among candidates, then drops what a concept's earlier captions say already. Rows of one
        parent and variant stand together in every batch, those of one concept too."""
        if (self._candidates == 1 or self._score is None) and not self._once:
            return table
        rows = table.select(
            ["id", "parent", "status", "reason", "candidate", "chosen", "text", "tags"]
        ).to_pylist()
        for row in rows:
            if row["reason"] == "duplicate":  # taken over: decided anew
                row["status"], row["reason"], row["chosen"] = "ok", None, True
        if self._candidates > 1 and self._score is not None:
            self._choose(rows)
        if self._once:
            self._drop_repeats(rows)
        for name in ("chosen", "status", "reason"):
            column = self.schema.field(name)
            table = table.set_column(
                table.schema.get_field_index(name), column, pa.array([r[name] for r in rows], column.type)
            )
        return table

    def _choose(self, rows: list[dict[str, Any]]) -> None:
        for group in _groups(rows):
            usable = [r for r in group if r["status"] == "ok" or r["reason"] == "not_chosen"]
            best = max(usable, key=lambda r: (self._score_of(r), -r["candidate"]), default=None)
            for row in group:
                row["chosen"] = row is best
            for row in usable:
                row["status"], row["reason"] = ("ok", None) if row is best else ("dropped", "not_chosen")

    def _drop_repeats(self, rows: list[dict[str, Any]]) -> None:
        for _, captions in groupby(rows, key=lambda row: row["parent"]):
            said: set[str] = set()
            for row in captions:
                if row["status"] == "ok" and row["text"] in said:
                    row["status"], row["reason"], row["chosen"] = "dropped", "duplicate", False
                elif row["status"] == "ok":
                    said.add(row["text"])

    def _score_of(self, row: dict[str, Any]) -> float:
        assert self._score is not None
        return self._score(row["text"], Tags.of(row["tags"]))


def _groups(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Runs of candidates: candidate 0 begins a new one."""
    group: list[dict[str, Any]] = []
    for row in rows:
        if row["candidate"] == 0 and group:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _plain(tags: Tags | None) -> dict[str, Any] | None:
    return (
        None
        if tags is None
        else {"objects": tags.objects, "attributes": tags.attributes, "relations": tags.relations}
    )


def _record(record: Any) -> dict[str, Any]:
    return {
        "edit": record.edit,
        "op": record.op,
        "kind": record.kind,
        "before": record.before,
        "after": record.after,
    }
