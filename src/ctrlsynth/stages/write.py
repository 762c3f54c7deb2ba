"""3a + 2b -> 1d: tags (and a caption) become an instruction by the text policy, and the instruction a
text."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, product
from typing import Any, NamedTuple

import pyarrow as pa

from ..control.text import Instruction, Parsed
from ..lang import clip_tokens
from ..lang.replies import REASONS as CLEANED
from ..models.base import LanguageModel, Reply
from ..recipe.paths import Step
from ..sample import KINDS, Tags, ancestor, child, digest_of, key_of, stem
from ..storage.parts import PartView
from .answers import BAD, reply_of
from .base import Item, Stage
from .judge import score_text
from .materials import Materials, Need
from .tables import EDIT, WRITE

_REMINDER = " The last answer was not valid JSON for the schema. Output only the JSON object."
_EXAMPLE = Tags(("dog", "sofa"), ("brown dog",), ("dog on sofa",)), "my dog on the new sofa"
_EDIT = [field.name for field in EDIT]


class Written(NamedTuple):
    """A reply, and what it says if it can be used."""

    reply: Reply | None = None
    parsed: Parsed | None = None


class WriteStage(Stage):
    """Writes `variants` x `candidates` texts for every row of `parent`. With several candidates the best by
    `score` is chosen, the others are dropped as `not_chosen`: raising the number asks only for the new ones,
    since none of them changes its id. A caption that repeats an earlier variant of the same
    concept is dropped as `duplicate`; it keeps its text, like one that is not chosen."""

    schema = WRITE
    reuses = True

    @classmethod
    def needs(cls, step: Step, materials: Materials) -> list[Need]:
        if step.family == "caption":  # the tagger has written it
            return []
        return [(materials.recipe.models.llm, "llm", "models.llm")]

    def __init__(self, step: Step, materials: Materials, model: LanguageModel | None = None) -> None:
        super().__init__(step, materials, model)
        assert step.family is not None
        self._family, self._controller, self._llm = step.family, materials.text, model
        self._judge = materials.recipe.judge
        self._variants = self._candidates = 1
        self._candidates_asked = materials.candidates
        if self._family != "caption":
            self._controller.check(self._family)
            self._variants, self._candidates = materials.recipe.variants.write, materials.candidates
        self._numbers = list(product(range(self._variants), range(self._candidates)))
        self._text_folder = step.uses.get("text")
        self._text_column = materials.text_column(self._text_folder or self._parent)
        self._once = self._family == "concept" and self._variants > 1
        if self._family == "concept" and self._controller.schema is None:
            self.version = 2  # of the cleaning
        digest = model.digest if model is not None else ""
        self._prefix = digest_of("write", self.version, self.model_name, digest)
        self.batch = model.batch if model is not None else 256

    def settings(self) -> dict[str, Any]:
        return {
            "model": self.model_name,
            "digest": self._llm.digest if self._llm is not None else "",
            "variants": self._variants,
            "candidates": self._candidates,
        }

    def policy(self) -> Any:
        family = self._family if self._family != "caption" else None
        judge = self._judge if self._candidates_asked > 1 else None
        choosing = [judge.matcher.text, dict(judge.weights)] if judge is not None else None
        return [self._seed, self._controller.content(family), choosing]

    def example(self) -> str | None:
        if self._llm is None or self._family == "caption":
            return None
        return self._llm.prompt(self._controller.instruct("example", self._family, *_EXAMPLE).request)

    def items(self, up: PartView) -> Iterator[Item]:
        from_tags = self._family in ("tags", "tags+text", "caption")
        texts = up.table(self._text_folder, [self._text_column]) if self._text_folder else None
        names = [*KINDS, "caption"] if from_tags else [self._text_column]
        for row_id, source_key, *rest in self.parents(up, names):
            tags = Tags(tuple(rest[0]), tuple(rest[1]), tuple(rest[2])) if from_tags else None
            text = rest[-1]
            if texts is not None:
                found = ancestor(row_id, texts)
                text = found[0] if found is not None else None
            if self._family == "caption":
                key, fate = key_of(self._prefix, text or ""), () if text else ("dropped", "no_caption")
                yield Item(child(row_id, self._label), row_id, source_key, key, (text, tags, 0), *fate)
                continue
            for number, candidate in self._numbers:
                made = child(row_id, self._label, number, *([candidate] if candidate else []))
                yield self._item(made, row_id, source_key, tags, text, candidate)

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
            item.drop(made.missing)
        return item

    def load(self, items: list[Item], up: PartView) -> None:
        """Announces the instructions to the model, batches ahead of `call`."""
        if self._llm is not None:
            self._llm.begin([i.payload[0].request for i in items if i.status == "ok"])

    def call(self, items: list[Item]) -> list[Any]:
        if self._llm is None:
            return [Written(None, Parsed(item.payload[0] or "")) for item in items]
        live = [i for i in items if i.status == "ok"]
        out = self._written(live)
        # retries JSON once, with another seed and a reminder
        out |= self._written([i for i in live if i.reason in ("bad_json", "schema_mismatch")], _REMINDER)
        for item in live:
            if item.reason is not None:  # what cleaning does not take is no fault of the machine
                item.status = "dropped" if item.reason in CLEANED else "failed"
        return [out.get(i.id) for i in items]

    def _written(self, items: list[Item], more: str = "") -> dict[str, Written]:
        """Asks for these rows; `more` is added to their instructions. Sets the reason of those that cannot
        be used."""

        def replies(live: list[Item]) -> Any:
            requests = [i.payload[0].request for i in live]
            if more:
                requests = [replace(r, instruction=r.instruction + more, seed=r.seed ^ 1) for r in requests]
            return self._model.generate(requests)

        out = {}
        for item, answer in zip(items, self.ask(items, replies), strict=True):
            reply, parsed = reply_of(answer), None
            if reply is None:
                item.reason = BAD
            elif reply.error or not reply.text.strip():
                item.reason = reply.error or "empty_reply"
            else:
                parsed = self._controller.parse(reply.text, item.payload[0], reply.finish == "length")
                item.reason = parsed.reason
            out[item.id] = Written(reply, parsed)
        return out

    def columns(self, items: list[Item], answers: list[Any]) -> dict[str, list[Any]]:
        made: list[Instruction | None] = [
            i.payload[0] if isinstance(i.payload[0], Instruction) else None for i in items
        ]
        written: list[Written] = [a or Written() for a in answers]
        replies, parsed = [w.reply for w in written], [w.parsed for w in written]
        texts = [
            p.text if i.status == "ok" and p is not None else None for i, p in zip(items, parsed, strict=True)
        ]
        tokens = [clip_tokens.count(t) if t is not None else None for t in texts]
        fields = [p.fields if p is not None else None for p in parsed]
        return {
            "candidate": [i.payload[2] for i in items],
            "chosen": [i.status == "ok" for i in items],
            "tags": [
                {"objects": tags.objects, "attributes": tags.attributes, "relations": tags.relations}
                if tags is not None
                else None
                for tags in (
                    m.tags if m is not None else i.payload[1] for m, i in zip(made, items, strict=True)
                )
            ],
            "edits": [
                [{n: getattr(e, n) for n in _EDIT} for e in m.edits] if m is not None else [] for m in made
            ],
            "template": [m.template if m is not None else None for m in made],
            "instruction": [m.request.instruction if m is not None else None for m in made],
            "text": texts,
            "fields": [json.dumps(f, ensure_ascii=False) if f is not None else None for f in fields],
            "raw": [None if r is None else r.raw if r.raw is not None else r.text for r in replies],
            "prompt_tokens": [r.prompt_tokens if r is not None else None for r in replies],
            "completion_tokens": [r.completion_tokens if r is not None else None for r in replies],
            "clip_tokens": tokens,
            "truncated": [clip_tokens.truncated(n) if n is not None else None for n in tokens],
            "seed": [m.request.seed if m is not None else None for m in made],
        }

    def finish(self, table: pa.Table) -> pa.Table:
        """Chooses among candidates, then drops repeated captions of a concept. The rows of one parent and
        variant are in the same batch, and so are those of one concept."""
        if (self._candidates == 1 or self._judge is None) and not self._once:
            return table
        rows = table.select(
            ["id", "parent", "status", "reason", "candidate", "chosen", "text", "tags"]
        ).to_pylist()
        for row in rows:
            if row["reason"] == "duplicate":  # a reused row: decided again
                row["status"], row["reason"], row["chosen"] = "ok", None, True
        if self._candidates > 1 and self._judge is not None:
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
        for _, found in groupby(rows, key=lambda row: stem(row["id"])):
            group = list(found)
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
        assert self._judge is not None
        tags, matcher = Tags.of(row["tags"]), self._judge.matcher.text
        recall = score_text(row["text"], tags, (), matcher, dict(self._judge.weights)).recall
        return -1.0 if recall is None else recall
