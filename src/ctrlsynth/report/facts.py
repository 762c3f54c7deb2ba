"""What `explain` shows of a row of each stage, as labels and values."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..lang.clip_tokens import CONTEXT
from ..recipe.paths import Step
from ..recipe.schema import Judge, Recipe, TextPolicy
from ..runs.reader import Row, RunReader
from ..sample import KINDS, Tags
from ..stages.boxes import box_of
from ..stages.judge import score_text


@dataclass(frozen=True, slots=True)
class Fact:
    """One labelled value. A tuple is a list, one entry per line."""

    label: str
    value: str | tuple[str, ...]


def facts_of(run: RunReader, step: Step, row: Row, candidates: Sequence[Row] = ()) -> Iterator[Fact]:
    """Yields the facts of one row. `candidates`: all rows that competed with it, if there were any."""
    recipe, judge = run.recipe, run.recipe.judge or Judge()
    dead = row["reason"] and not box_of(step).judges
    fate = f"{row['status']}: {row['reason']}; nothing later was made from it" if dead else None
    yield from _given({"fate": fate, "error": row.get("error") or None})
    makers: dict[str, Callable[[], Iterable[Fact]]] = {
        "read": lambda: _source(row),
        "tag": lambda: _tags(row),
        "write": lambda: _text(step, row, recipe, candidates),
        "match": lambda: [Fact("concepts", _listed(row["concepts"] or []))],
        "balance": lambda: _balance(recipe, row),
        "paint": lambda: _image(row),
        "judge-text": lambda: [
            *_score(row["edited"], judge),
            Fact("verdict", verdict_line(row["verdict"], row["edited"], judge, judge.matcher.text)),
        ],
        "judge-image": lambda: _image_verdict(row, judge),
    }
    yield from makers[step.kind]()


def _given(facts: Mapping[str, str | tuple[str, ...] | None]) -> Iterator[Fact]:
    """Facts of what is there: None is left out."""
    return (Fact(label, value) for label, value in facts.items() if value is not None)


def _source(row: Row) -> Iterator[Fact]:
    inside = f", {row['member']} at {row['offset']}" if row["member"] else ""
    length = f", {row['length']:,} bytes" if row["length"] is not None else ""
    known = json.loads(row["metadata"]) if row["metadata"] else {}
    return _given(
        {
            "caption": row["caption"] if row["caption"] is not None else "none",
            "file": f"{row['file']}{inside}" if row["file"] else None,
            "image": f"{_size(row)}{length}" if row["width"] else None,
            "sha256": row["sha256"] or None,
            "metadata": tuple(f"{k}: {_text_of(v)}" for k, v in known.items()) if row["metadata"] else None,
        }
    )


def _size(row: Row) -> str:
    return f"{row['width']} x {row['height']} pixels"


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tags(row: Row) -> Iterator[Fact]:
    for kind in KINDS:
        phrases = row[kind] or []
        if kind == "objects" and len(row["scores"] or []) == len(phrases):
            phrases = [f"{p} ({s:.2f})" for p, s in zip(phrases, row["scores"] or [], strict=True)]
        yield Fact(kind, _listed(phrases))
    lost = row.get("dropped_phrases")
    left_out = f"{lost} phrases that the caption lacks" if lost else None
    yield from _given({"caption": row["caption"] or None, "left out": left_out})


def edit_name(policy: TextPolicy, number: int) -> str:
    """Returns an edit of a policy as the recipe has it: `replace {"attributes": {"red": "blue"}}`."""
    if not 0 <= number < len(policy.edits):
        return f"edit {number + 1}"
    name, value = next(iter(policy.edits[number].model_dump(mode="json", exclude_none=True).items()))
    return f"{name} {_text_of(value)}"


def edit_change(record: Mapping[str, Any]) -> str:
    """Returns what an edit changed: `objects: watermark removed`."""
    if record["before"] is None:
        return f"{record['kind']}: {record['after']} added"
    if record["after"] is None:
        return f"{record['kind']}: {record['before']} removed"
    return f"{record['kind']}: {record['before']} -> {record['after']}"


def _text(step: Step, row: Row, recipe: Recipe, candidates: Sequence[Row]) -> Iterator[Fact]:
    policy = recipe.text_policy
    from_tags = step.family in ("tags", "tags+text")
    for number in dict.fromkeys(e["edit"] for e in row["edits"] or []):
        yield Fact(
            f"edit {number + 1}",
            (edit_name(policy, number), *(edit_change(e) for e in row["edits"] if e["edit"] == number)),
        )
    if from_tags and not row["edits"]:
        yield Fact("edits", "none changed these tags" if policy.edits else "the policy has none")
    if from_tags and row["tags"]:
        yield from (Fact(kind, _listed(row["tags"][kind])) for kind in KINDS)
    tokens = (row["prompt_tokens"], row["completion_tokens"])
    yield from _given(
        {
            "template": row["template"] or None,
            "instruction": row["instruction"],
            "text": row["text"],
            "fields": row["fields"] or None,
            "raw reply": row["raw"] if row["raw"] and row["raw"] != row["text"] else None,
            "LLM tokens": None if tokens == (None, None) else f"{tokens[0] or 0} in, {tokens[1] or 0} out",
        }
    )
    yield from _tokens(row)
    if candidates:
        yield Fact("candidates", tuple(_candidate(c, row, recipe.judge) for c in candidates))
        chosen = next((c["candidate"] for c in candidates if c["chosen"]), None)
        why = (
            "the highest recall, of equals the lowest number"
            if from_tags
            else "there are no tags to compare with, so the lowest number"
        )
        yield Fact("chosen", "none: all failed" if chosen is None else f"{chosen}: {why}")
    yield from _given({"seed": None if row["seed"] is None else str(row["seed"])})


def _candidate(row: Row, shown: Row, judge: Judge | None) -> str:
    """`1: recall 0.75, chosen: text`. The recall is computed again from the stored text and tags by the
    judge's own function."""
    if row["text"] is None:
        return f"{row['candidate']}: {row['reason']}"
    fate, score = "chosen" if row["chosen"] else row["reason"], ""
    if judge is not None and row["tags"] is not None:
        tags = Tags.of(row["tags"])
        recall = score_text(row["text"], tags, (), judge.matcher.text, dict(judge.weights)).recall
        score = "no tags, " if recall is None else f"recall {recall:.2f}, "
    return f"{row['candidate']}: {score}{fate}" + ("" if row is shown else f": {row['text']}")


def _tokens(row: Row) -> Iterator[Fact]:
    tokens = row["clip_tokens"]
    if tokens is None:
        return
    read = f"{tokens} of {CONTEXT}"
    if row["truncated"]:
        read += f"; cut at {CONTEXT}" if tokens > CONTEXT else "; cut"
    elif tokens > CONTEXT:
        chunks = f"in {row['chunks']} chunks" if row.get("chunks") else "whole by another text encoder"
        read = f"{tokens}, read {chunks}"
    yield Fact("CLIP tokens", read)


def _image(row: Row) -> Iterator[Fact]:
    weights, unused, flagged = dict(row["weights"] or []), row["weights_unused"], row.get("flagged")
    checked = "flagged it: not kept" if flagged else "did not flag it"
    why = " (not in the text, or the model cannot weigh it)"
    yield from _given(
        {
            "prompt": row["prompt"] or "",
            "negative": row["negative"] or None,
            "style": row["style"] or "none",
            "weights": _listed([f"{k} x {v:g}" for k, v in weights.items()]) if weights else None,
            "unused": _listed(unused) + why if unused else None,
            "drawn": _listed(row["drawn"]) if row["drawn"] is not None else None,
            "not drawn": _listed(row["not_drawn"]) if row["not_drawn"] else None,
            "image": _size(row) if row["width"] else None,
            "safety checker": None if flagged is None else checked,
        }
    )
    yield from _tokens(row)
    yield from _given({"seed": None if row["seed"] is None else str(row["seed"])})


def _balance(recipe: Recipe, row: Row) -> Iterator[Fact]:
    given = recipe.balance.model_dump(exclude_none=True) if recipe.balance is not None else {}
    name, value = next((k, given[k]) for k in ("size", "t", "random") if k in given)
    yield Fact("rule", f"{name} {value:,}")
    if row["chance"] is not None:
        yield Fact("chance", f"{row['chance']:.3f} of being kept; drawn by the caption's id")


def _score(score: Mapping[str, Any] | None, judge: Judge) -> Iterator[Fact]:
    if score is None or score["recall"] is None:
        yield Fact("recall", "none: the reference holds no phrases" if score else "no such reference")
        return
    found, missed = score["found"] or [], score["missed"] or []
    weighted = ", weighted by kind" if judge.weights else ""
    yield Fact("recall", f"{score['recall']:.2f} ({len(found)} of {len(found) + len(missed)}{weighted})")
    yield Fact("found", _listed(found))
    yield Fact("missed", _listed(missed))
    if score["violations"]:
        yield Fact("came back", _listed(score["violations"]) + " (removed by an edit)")


_REFERENCES = {
    "text": "against the text's phrases",
    "original": "against the original's tags as edited",
    "original_unedited": "against the original's tags",
}


def _image_verdict(row: Row, judge: Judge) -> Iterator[Fact]:
    decides = judge.image_against
    for name, meaning in _REFERENCES.items():
        if row[name] is None and name != decides:
            continue
        yield Fact(name, meaning + ("; this one decides" if name == decides else ""))
        for fact in _score(row[name], judge):
            yield Fact(f"  {fact.label}", fact.value)
    if row["unsafe"] is not None:
        limit = f" (limit {judge.safety.threshold:g})" if judge.safety is not None else ""
        yield Fact("unsafe", f"{row['unsafe']:.2f}{limit}")
    yield Fact("verdict", verdict_line(row["verdict"], row[decides], judge, judge.matcher.image))


def verdict_line(verdict: str | None, score: Mapping[str, Any] | None, judge: Judge, matcher: str) -> str:
    """Returns the verdict with the rule that gave it."""
    p_f = f"p_f = {judge.threshold:g}"
    recall = f"{score['recall']:.2f}" if score is not None and score["recall"] is not None else "none"
    why = {
        "kept": f"recall {recall} reaches {p_f}",
        "low_recall": f"recall {recall} is below {p_f}",
        "no_reference": "there was nothing to compare it with",
        "violation": "a removed tag came back",
        "unsafe": "the safety judge's limit is reached",
    }.get(verdict or "", "it could not be judged")
    return f"{'kept' if verdict == 'kept' else f'rejected, {verdict}'}: {why} (matcher {matcher})"


def _listed(phrases: Sequence[str]) -> str:
    return ", ".join(phrases) if phrases else "none"
