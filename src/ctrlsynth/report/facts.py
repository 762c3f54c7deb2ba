"""What `explain` shows of a row of each stage, as labels and values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
    judge = run.recipe.judge
    if row["reason"] and not box_of(step).judges:
        yield Fact("fate", f"{row['status']}: {row['reason']}; nothing later was made from it")
    if row.get("error"):
        yield Fact("error", row["error"])
    if step.kind == "read":
        yield from _source(row)
    elif step.kind == "tag":
        yield from _tags(row)
    elif step.kind == "write":
        yield from _text(step, row, run.recipe, candidates)
    elif step.kind == "match":
        yield Fact("concepts", _listed(row["concepts"] or []))
    elif step.kind == "balance":
        yield from _balance(run, row)
    elif step.kind == "paint":
        yield from _image(row)
    elif step.kind == "judge-text" and judge is not None:
        yield from _text_verdict(row, judge)
    elif judge is not None:
        yield from _image_verdict(row, judge)


def _source(row: Row) -> Iterator[Fact]:
    yield Fact("caption", row["caption"] if row["caption"] is not None else "none")
    if row["file"]:
        inside = f", {row['member']} at {row['offset']}" if row["member"] else ""
        yield Fact("file", f"{row['file']}{inside}")
    if row["width"]:
        length = f", {row['length']:,} bytes" if row["length"] is not None else ""
        yield Fact("image", f"{row['width']} x {row['height']} pixels{length}")
    if row["sha256"]:
        yield Fact("sha256", row["sha256"])
    if row["metadata"]:
        known = json.loads(row["metadata"])
        yield Fact(
            "metadata",
            tuple(
                f"{k}: {v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}"
                for k, v in known.items()
            ),
        )


def _tags(row: Row) -> Iterator[Fact]:
    for kind in KINDS:
        phrases = row[kind] or []
        scores = (
            row["scores"]
            if kind == "objects" and row["scores"] and len(row["scores"]) == len(phrases)
            else None
        )
        shown = [f"{p} ({s:.2f})" for p, s in zip(phrases, scores, strict=True)] if scores else phrases
        yield Fact(kind, _listed(shown))
    if row["caption"]:
        yield Fact("caption", row["caption"])
    if row.get("dropped_phrases"):
        yield Fact("left out", f"{row['dropped_phrases']} phrases that the caption lacks")


def edit_name(policy: TextPolicy, number: int) -> str:
    """Returns an edit of a policy as the recipe has it: `replace {"attributes": {"red": "blue"}}`."""
    if not 0 <= number < len(policy.edits):
        return f"edit {number + 1}"
    name, value = next(iter(policy.edits[number].model_dump(mode="json", exclude_none=True).items()))
    return f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


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
    for kind in KINDS:
        if from_tags and row["tags"]:
            yield Fact(kind, _listed(row["tags"][kind]))
    if row["template"]:
        yield Fact("template", row["template"])
    if row["instruction"] is not None:
        yield Fact("instruction", row["instruction"])
    if row["text"] is not None:
        yield Fact("text", row["text"])
    if row["fields"]:
        yield Fact("fields", row["fields"])
    if row["raw"] and row["raw"] != row["text"]:
        yield Fact("raw reply", row["raw"])
    if row["prompt_tokens"] is not None or row["completion_tokens"] is not None:
        yield Fact("LLM tokens", f"{row['prompt_tokens'] or 0} in, {row['completion_tokens'] or 0} out")
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
    if row["seed"] is not None:
        yield Fact("seed", str(row["seed"]))


def _candidate(row: Row, shown: Row, judge: Judge | None) -> str:
    """`1: recall 0.75, chosen: text`. The recall is computed again from the stored text and tags by the
    judge's own function."""
    if row["text"] is None:
        return f"{row['candidate']}: {row['reason']}"
    fate = "chosen" if row["chosen"] else row["reason"]
    score = ""
    if judge is not None and row["tags"] is not None:
        recall = score_text(
            row["text"], Tags.of(row["tags"]), (), judge.matcher.text, dict(judge.weights)
        ).recall
        score = "no tags, " if recall is None else f"recall {recall:.2f}, "
    return f"{row['candidate']}: {score}{fate}" + ("" if row is shown else f": {row['text']}")


def _tokens(row: Row) -> Iterator[Fact]:
    tokens = row["clip_tokens"]
    if tokens is None:
        return
    if tokens <= CONTEXT or row["truncated"]:
        cut = (
            f"; cut at {CONTEXT}"
            if row["truncated"] and tokens > CONTEXT
            else "; cut"
            if row["truncated"]
            else ""
        )
        yield Fact("CLIP tokens", f"{tokens} of {CONTEXT}{cut}")
    else:
        chunks = row.get("chunks")
        yield Fact(
            "CLIP tokens",
            f"{tokens}, read in {chunks} chunks"
            if chunks
            else f"{tokens}, read whole by another text encoder",
        )


def _image(row: Row) -> Iterator[Fact]:
    yield Fact("prompt", row["prompt"] or "")
    if row["negative"]:
        yield Fact("negative", row["negative"])
    yield Fact("style", row["style"] or "none")
    weights = dict(row["weights"] or [])
    if weights:
        yield Fact("weights", _listed([f"{k} x {v:g}" for k, v in weights.items()]))
    if row["weights_unused"]:
        yield Fact(
            "unused", _listed(row["weights_unused"]) + " (not in the text, or the model cannot weigh it)"
        )
    if row["drawn"] is not None:
        yield Fact("drawn", _listed(row["drawn"]))
    if row["not_drawn"]:
        yield Fact("not drawn", _listed(row["not_drawn"]))
    if row["width"]:
        yield Fact("image", f"{row['width']} x {row['height']} pixels")
    if row.get("flagged") is not None:
        yield Fact("safety checker", "flagged it: not kept" if row["flagged"] else "did not flag it")
    yield from _tokens(row)
    if row["seed"] is not None:
        yield Fact("seed", str(row["seed"]))


def _balance(run: RunReader, row: Row) -> Iterator[Fact]:
    given = run.recipe.balance.model_dump(exclude_none=True) if run.recipe.balance is not None else {}
    name, value = next((k, given[k]) for k in ("size", "t", "random") if k in given)
    yield Fact("rule", f"{name} {value:,}")
    if row["chance"] is not None:
        yield Fact("chance", f"{row['chance']:.3f} of going on; drawn by the caption's id")


def _score(score: Mapping[str, Any] | None, judge: Judge) -> Iterator[Fact]:
    if score is None:
        yield Fact("recall", "no such reference")
        return
    found, missed = score["found"] or [], score["missed"] or []
    if score["recall"] is None:
        yield Fact("recall", "none: the reference holds no phrases")
        return
    weighted = ", weighted by kind" if judge.weights else ""
    yield Fact("recall", f"{score['recall']:.2f} ({len(found)} of {len(found) + len(missed)}{weighted})")
    yield Fact("found", _listed(found))
    yield Fact("missed", _listed(missed))
    if score["violations"]:
        yield Fact("came back", _listed(score["violations"]) + " (removed by an edit)")


def _text_verdict(row: Row, judge: Judge) -> Iterator[Fact]:
    yield from _score(row["edited"], judge)
    yield Fact("verdict", verdict_line(row["verdict"], row["edited"], judge, judge.matcher.text))


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
