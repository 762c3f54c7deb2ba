"""3a, the text controller: edits the tags of a row by policy, chooses a template, and renders the instruction
for the LLM.

An instruction is template + content + constraint (CtrlSynth, figure 3), then what the output style asks for:
a length, a JSON schema. The template is drawn uniformly from those of the path's family by the row's id
alone, so that adding rows changes nothing. What the LLM replies is read here too, since the policy knows
which form it asked for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import UserError, unknown
from ..lang import replies
from ..lang.phrases import holds, split_attribute
from ..models.base import Request
from ..recipe.file import read_text
from ..recipe.schema import TextPolicy
from ..sample import KINDS, Tags, chance, draw, model_seed
from .edits import EditRecord, compile_edits
from .schema import check_schema, problem
from .select import Selectors
from .templates import (
    FAMILIES,
    PHRASES,
    Family,
    Template,
    baselines,
    constraint,
    own_templates,
    text_templates,
)

__all__ = ["Family", "Instruction", "Parsed", "TextController"]

REMOVING = frozenset({"remove", "replace", "swap"})
"""Edits whose phrases must not come back (as the judge has it): what `keep` and `sample` leave out was not
unwanted."""
NO_TAGS = Tags()
EXAMPLES = 3
"""Captions that a template with {examples} shows."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """What 3a hands to 2b for one row. `tags` as edited, `edits` what was done to them. `missing` set: the
    row cannot be asked (`no_tags`, `no_caption`, `no_concept`) and is dropped with that reason."""

    template: str
    request: Request
    tags: Tags
    edits: tuple[EditRecord, ...] = ()
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A reply as read. `reason` set: it is not what was asked for (`empty_reply`, `bad_json`,
    `schema_mismatch`), `problem` says where; then `text` is empty and the raw reply is to be kept. `fields`:
    the whole object of the JSON style."""

    text: str
    fields: dict[str, Any] | None = None
    reason: str | None = None
    problem: str = ""


class TextController:
    """One policy, ready for rows. `seed` is the run's; `where` is the policy's place in the recipe, for
    messages."""

    def __init__(self, policy: TextPolicy, seed: int, where: str = "text_policy") -> None:
        self.policy, self.seed, self.where = policy, seed, where
        self._edits = compile_edits(policy.edits, where)
        self._templates = _chosen(policy, where)
        self._order = Selectors(policy.order, None, f"{where}.order") if policy.order else None
        self.schema, self._field = _schema(policy, where)
        self._examples = _examples(policy, self._templates["concept"], where)
        self._tail = {family: self._requirements(family) for family in FAMILIES}

    def families(self) -> tuple[Family, ...]:
        """The families for which a template was chosen."""
        return tuple(family for family in FAMILIES if self._templates[family])

    def content(self, family: Family | None) -> dict[str, Any]:
        """Everything of the policy that can change an instruction of `family`, by content and not by file
        name. None: what can change the tags of `edited`."""
        used = self.policy.model_dump(mode="json", include={"edits", "order"})
        if family is None:
            return used
        used |= self.policy.model_dump(mode="json", include={"max_tokens", "words", "style"})
        chosen = [(t.name, t.text) for t in self._templates[family]]
        shown = self._examples if family == "concept" else ()
        return used | {
            "templates": chosen,
            "requirements": self._tail[family],
            "schema": self.schema,
            "field": self._field,
            "examples": shown,
        }

    def check(self, family: Family) -> None:
        """A path that needs a family for which no template was chosen is a `UserError`."""
        if family not in FAMILIES:
            raise unknown("family", family, FAMILIES, self.where)
        if not self._templates[family]:
            fitting = [t.name for t in text_templates().values() if t.family == family]
            raise UserError(
                f"{self.where}.templates: none of the chosen is of family {family!r}, which a path needs; "
                f"add one, e.g. {fitting[0]!r}"
            )

    def edited(self, row_id: str, tags: Tags) -> tuple[Tags, tuple[EditRecord, ...]]:
        """The policy's edits (and order) on any tags under this row's chance: for another reference, as the
        judge's `original`."""
        tags, records = self._edits.apply(tags, self.seed, row_id)
        if self._order is not None:
            ordered: Any = {kind: _ordered(getattr(tags, kind), self._order) for kind in KINDS}
            score_of = dict(zip(tags.objects, tags.scores, strict=False))
            tags = replace(tags, scores=tuple(score_of[o] for o in ordered["objects"] if score_of), **ordered)
        return tags, records

    def instruct(self, row_id: str, family: Family, tags: Tags | None, caption: str | None) -> Instruction:
        """The instruction of one row. `row_id` is that of the row to be written (so variants differ).

        Family `text` looks at no tags, `tags` at no caption; the concept of family `concept` is the caption,
        or else the first object. In family `tags+text` the caption still says what the edits took away: see
        `reminder`."""
        edits: tuple[EditRecord, ...] = ()
        given = NO_TAGS
        if tags is not None and family != "text":
            given, edits = self.edited(row_id, tags)
        if family == "concept":
            concept = (caption or "").strip() or (given.objects[0] if given.objects else "")
            given, caption = Tags(objects=(concept,) if concept else ()), None
        elif family == "tags":
            caption = None
        templates = self._templates[family]
        if not templates:
            self.check(family)
        template = (
            templates[int(draw(self.seed, row_id, "template") * len(templates))]
            if len(templates) > 1
            else templates[0]
        )
        asked = template.fill(self._values(template, given, caption, row_id))
        if edits and family == "tags+text" and caption:
            asked += reminder(caption, edits)
            gone, instead = taken_away(edits, given)
        else:
            gone, instead = NO_TAGS, ()
        request = Request(
            instruction=asked + self._tail[family],
            tags=given,
            caption=caption,
            family=family,
            schema=self.schema,
            max_tokens=self.policy.max_tokens,
            words=self.policy.words,
            seed=model_seed(self.seed, row_id),
            gone=gone,
            instead=instead,
        )
        return Instruction(template.name, request, given, edits, _missing(family, given, caption))

    def parse(self, reply: str, instruction: Instruction, cut: bool = False) -> Parsed:
        """Reads a reply to this instruction: plain text without the quotes around it, or the JSON object that
        the schema asks for. One about a concept is cleaned (`lang.replies`); `cut`: the model was
        stopped by its limit."""
        request = instruction.request
        if request.schema is None and request.family == "concept":
            most = self.policy.words[1] if self.policy.words is not None else None
            concept = next(iter(request.tags.objects), "")
            text, reason = replies.clean(reply, concept, request.instruction, most, cut)
            return Parsed(text, None, reason)
        text = replies.unquoted(reply.strip()) if request.schema is None else reply.strip()
        if not text:
            return Parsed("", None, "empty_reply", "the reply is empty")
        if request.schema is None:
            return Parsed(text)
        try:
            value = replies.read_json(reply)
        except ValueError as error:
            return Parsed("", None, "bad_json", str(error))
        found = problem(value, request.schema)
        if found is None and not isinstance(value.get(self._field), str):
            found = f"$: {self._field!r} is missing"
        if found is not None:
            return Parsed("", None, "schema_mismatch", found)
        text = value[self._field].strip()
        return Parsed(text, value) if text else Parsed("", None, "empty_reply", f"$.{self._field} is empty")

    def _values(self, template: Template, tags: Tags, caption: str | None, row_id: str) -> dict[str, str]:
        values = {"caption": caption or "", "concept": tags.objects[0] if tags.objects else ""}
        if "examples" in template.pieces[1::2]:
            values["examples"] = "\n".join(
                chance(self.seed, row_id, "examples").sample(self._examples, EXAMPLES)
            )
        for name in template.pieces[1::2]:
            if name in PHRASES:
                phrases = getattr(tags, name) if name != "phrases" else _ordered(tags.phrases(), self._order)
                values[name] = ", ".join(phrases)
        return values

    def _requirements(self, family: Family) -> str:
        """What follows the template, the same for all rows: constraint, length, form."""
        content, form = constraint()
        plain = self.schema is None
        parts = []
        if self.policy.constraint is not None:
            parts.append(self.policy.constraint.strip())
        elif family != "concept":  # the concept template brings its own
            parts += [content, form] if plain else [content]
        if self.policy.words is not None:
            least, most = self.policy.words
            parts.append(
                f"Write {least} words." if least == most else f"Write between {least} and {most} words."
            )
        if not plain:
            where = (
                f"Put the caption into {self._field!r}. " if self.policy.constraint != "" else ""
            )  # "": the template asks for what it wants
            form = f"{where}Reply with one JSON object that fulfils this JSON schema, and with nothing else: "
            parts.append(form + json.dumps(self.schema, ensure_ascii=False))
        return "".join(" " + part for part in parts if part)


def _ordered(phrases: Sequence[str], order: Selectors | None) -> tuple[str, ...]:
    return tuple(phrases if order is None else sorted(phrases, key=order.within))


def reminder(caption: str, edits: Sequence[EditRecord]) -> str:
    """What a writer that sees the caption must know of the edits: ` Leave out: dog. Write blue ball in
    place of red ball.`

    Only objects and attributes that `remove` and `replace` changed and that the caption names; nothing in the
    usual case. Without it the faithful templates ("preserve any objects from the caption") would bring back
    what the policy took away."""
    fate = _fates(edits)
    said = [phrase for phrase, now in fate.items() if now != phrase and holds(caption, phrase)]
    said = [phrase for phrase in said if not any(other != phrase and holds(phrase, other) for other in said)]
    gone = [phrase for phrase in said if fate[phrase] is None]
    instead = [f" Write {fate[phrase]} in place of {phrase}." for phrase in said if fate[phrase] is not None]
    return (f" Leave out: {', '.join(gone)}." if gone else "") + "".join(instead)


def taken_away(edits: Sequence[EditRecord], left: Tags) -> tuple[Tags, tuple[tuple[str, str], ...]]:
    """(`gone`, `instead`) of a Request: what remove, replace and swap took away and the tags as edited no
    longer hold, by kind; and (old, new) of the objects and attributes that have another phrase in their
    place."""
    kept = {None, *left.phrases()}
    removed = [(r.kind, r.before) for r in edits if r.op in REMOVING and r.before not in kept]
    gone = {kind: tuple(dict.fromkeys(str(p) for k, p in removed if k == kind)) for kind in KINDS}
    fate = _fates(edits, left.objects)
    pairs = tuple((old, new) for old, new in fate.items() if new is not None and new != old)
    return Tags(gone["objects"], gone["attributes"], gone["relations"]), pairs


def _exchanged(swapped: Sequence[EditRecord], objects: Sequence[str]) -> dict[str, str | None]:
    """What each phrase of a swap becomes. `swap` moves a modifier to another noun; in a text the noun keeps
    its place and gets the other's modifier: `red ball` and `blue car` become `blue ball` and `red car`."""
    step: dict[str, str | None] = {}
    came = [(r.after, split_attribute(r.after, objects)[1]) for r in swapped if r.after is not None]
    for phrase in [r.before for r in swapped if r.before is not None]:
        noun = split_attribute(phrase, objects)[1]
        step[phrase] = next((new for new, of in came if noun is not None and of == noun), None)
        came = [pair for pair in came if pair[0] != step[phrase]]
    return step


def _fates(edits: Sequence[EditRecord], objects: Sequence[str] | None = None) -> dict[str, str | None]:
    """What became of every object and attribute through all edits: the phrase in its place, or None. Swaps
    count if the row's `objects` are given."""
    fate: dict[str, str | None] = {}
    for _, group in groupby(edits, key=lambda r: r.edit):
        records = [r for r in group if r.op in REMOVING and r.kind != "relations"]
        step = {r.before: r.after for r in records if r.op != "swap" and r.before is not None}
        if objects is not None:
            step |= _exchanged([r for r in records if r.op == "swap"], objects)
        fate = step | {phrase: None if now is None else step.get(now, now) for phrase, now in fate.items()}
    return fate


def _missing(family: Family, tags: Tags, caption: str | None) -> str | None:
    if family == "concept":
        return None if tags.objects else "no_concept"
    if "text" in family and not (caption or "").strip():
        return "no_caption"
    return "no_tags" if family == "tags" and not (tags.objects or tags.attributes or tags.relations) else None


def _chosen(policy: TextPolicy, where: str) -> dict[Family, tuple[Template, ...]]:
    known = dict(text_templates())
    if policy.templates_file is not None:
        known |= own_templates(policy.templates_file)
    names = list(known) if policy.templates == "all" else policy.templates
    known |= baselines()
    if not names:
        raise UserError(f"{where}.templates: names no template; write all, or some of: {', '.join(known)}")
    for name in names:
        if name not in known:
            raise unknown("template", name, known, f"{where}.templates")
    chosen = [known[name] for name in dict.fromkeys(names)]
    return {family: tuple(t for t in chosen if t.family == family) for family in FAMILIES}


def _examples(policy: TextPolicy, templates: Sequence[Template], where: str) -> tuple[str, ...]:
    """The captions of `examples`, if a chosen template shows some."""
    shows = next((t.name for t in templates if "examples" in t.placeholders), None)
    if policy.examples is None:
        if shows is not None and policy.templates != "all":
            raise UserError(
                f"{where}.examples: template {shows!r} shows captions; name a text file with some, one per "
                f"line"
            )
        return ()
    if shows is None:
        raise UserError(
            f"{where}.examples: no chosen template of family 'concept' shows captions; name one that does: "
            f"in-context"
        )
    lines = read_text(policy.examples, "example captions").splitlines()
    found = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(found) < EXAMPLES:
        raise UserError(f"{policy.examples}: {len(found)} captions; it takes at least {EXAMPLES} as examples")
    return found


def _schema(policy: TextPolicy, where: str) -> tuple[Mapping[str, Any] | None, str]:
    """The policy's schema, checked, and the property that becomes the text."""
    spot = f"{where}.json_schema"
    if policy.words is not None and not 1 <= policy.words[0] <= policy.words[1]:
        raise UserError(f"{where}.words: least and most words, e.g. [8, 20], not {list(policy.words)}")
    if policy.json_schema is None:
        if policy.caption_field is not None:
            raise UserError(f"{where}.caption_field goes with style: json")
        return None, ""
    schema: Any = policy.json_schema
    if isinstance(schema, Path):
        spot = str(schema)
        try:
            schema = json.loads(read_text(schema, "schema"))
        except ValueError as error:
            raise UserError(f"{spot}: not JSON: {error}") from error
    check_schema(schema, spot)
    properties = schema.get("properties", {})
    if schema.get("type") != "object" or not properties:
        raise UserError(f"{spot}: the schema of a reply has type: object and properties")
    strings = [name for name, inner in properties.items() if inner.get("type") == "string"]
    if not strings:
        raise UserError(f"{spot}: no property is of type string, so none can be the caption")
    name = policy.caption_field or strings[0]
    if name not in strings:
        raise unknown("property of type string", name, strings, f"{where}.caption_field")
    return schema, name
