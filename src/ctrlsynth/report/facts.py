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
    """Facts from labels and values, without those that are None."""
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
    scores, objects = row["scores"] or [], row["objects"] or []
    if len(scores) == len(objects):
        objects = [f"{p} ({s:.2f})" for p, s in zip(objects, scores, strict=True)]
    phrases = {**{kind: row[kind] or [] for kind in KINDS}, "objects": objects}
    lost = row.get("dropped_phrases")
    return _given(
        {
            **{kind: _listed(phrases[kind]) for kind in KINDS},
            "caption": row["caption"] or None,
            "left out": f"{lost} phrases that the caption lacks" if lost else None,
        }
    )


def edit_name(policy: TextPolicy, number: int) -> str:
    """Returns an edit of a policy as the recipe has it: `replace {"attributes": {"red": "blue"}}`."""
    if not 0 <= number < len(policy.edits):
        return f"edit {number + 1}"
    name, value = next(iter(policy.edits[number].model_dump(mode="json", exclude_none=True).items()))
    return f"{name} {_text_of(value)}"


def edit_change(record: Mapping[str, Any]) -> str:
    """Returns what an edit changed: `objects: watermark removed`."""
    kind, before, after = record["kind"], record["before"], record["after"]
    if before is None:
        return f"{kind}: {after} added"
    return f"{kind}: {before} removed" if after is None else f"{kind}: {before} -> {after}"


def _text(step: Step, row: Row, recipe: Recipe, candidates: Sequence[Row]) -> Iterator[Fact]:
    policy, edits = recipe.text_policy, row["edits"] or []
    from_tags = step.family in ("tags", "tags+text")
    why = (
        "the highest recall, of equals the lowest number"
        if from_tags
        else "there are no tags to compare with, so the lowest number"
    )
    chosen = next((f"{c['candidate']}: {why}" for c in candidates if c["chosen"]), "none: all failed")
    tokens = (row["prompt_tokens"], row["completion_tokens"])
    changes = {
        f"edit {n + 1}": (edit_name(policy, n), *(edit_change(e) for e in edits if e["edit"] == n))
        for n in dict.fromkeys(e["edit"] for e in edits)
    }
    unchanged = "none changed these tags" if policy.edits else "the policy has none"
    return _given(
        {
            **changes,
            "edits": unchanged if from_tags and not edits else None,
            **({kind: _listed(row["tags"][kind]) for kind in KINDS} if from_tags and row["tags"] else {}),
            "template": row["template"] or None,
            "instruction": row["instruction"],
            "text": row["text"],
            "fields": row["fields"] or None,
            "raw reply": row["raw"] if row["raw"] and row["raw"] != row["text"] else None,
            "LLM tokens": None if tokens == (None, None) else f"{tokens[0] or 0} in, {tokens[1] or 0} out",
            "CLIP tokens": _tokens(row),
            "candidates": tuple(_candidate(c, row, recipe.judge) for c in candidates) or None,
            "chosen": chosen if candidates else None,
            "seed": None if row["seed"] is None else str(row["seed"]),
        }
    )


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


def _tokens(row: Row) -> str | None:
    """How many of a text's or prompt's tokens a CLIP text encoder reads."""
    tokens = row["clip_tokens"]
    if tokens is None:
        return None
    if tokens > CONTEXT and not row["truncated"]:
        chunks = row.get("chunks")
        return f"{tokens}, read " + (f"in {chunks} chunks" if chunks else "whole by another text encoder")
    cut = f"; cut at {CONTEXT}" if tokens > CONTEXT else "; cut" if row["truncated"] else ""
    return f"{tokens} of {CONTEXT}{cut}"


def _image(row: Row) -> Iterator[Fact]:
    weights, unused, flagged = dict(row["weights"] or []), row["weights_unused"], row.get("flagged")
    checked = "flagged it: not kept" if flagged else "did not flag it"
    why = " (not in the text, or the model cannot weigh it)"
    return _given(
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
            "CLIP tokens": _tokens(row),
            "seed": None if row["seed"] is None else str(row["seed"]),
        }
    )


def _balance(recipe: Recipe, row: Row) -> Iterator[Fact]:
    given = recipe.balance.model_dump(exclude_none=True) if recipe.balance is not None else {}
    name, value = next((k, given[k]) for k in ("size", "t", "random") if k in given)
    chance = row["chance"]
    kept = None if chance is None else f"{chance:.3f} of being kept; drawn by the caption's id"
    return _given({"rule": f"{name} {value:,}", "chance": kept})


def _score(score: Mapping[str, Any] | None, judge: Judge) -> Iterator[Fact]:
    if score is None or score["recall"] is None:
        return _given({"recall": "none: the reference holds no phrases" if score else "no such reference"})
    found, missed, back = (score[name] or [] for name in ("found", "missed", "violations"))
    weighted = ", weighted by kind" if judge.weights else ""
    return _given(
        {
            "recall": f"{score['recall']:.2f} ({len(found)} of {len(found) + len(missed)}{weighted})",
            "found": _listed(found),
            "missed": _listed(missed),
            "came back": f"{_listed(back)} (removed by an edit)" if back else None,
        }
    )


REFERENCES = {
    "text": "against the text's phrases",
    "original": "against the original's tags as edited",
    "original_unedited": "against the original's tags",
}
"""What an image's tags are compared with -> the same in words."""


def _image_verdict(row: Row, judge: Judge) -> Iterator[Fact]:
    decides = judge.image_against
    for name, meaning in REFERENCES.items():
        if row[name] is not None or name == decides:
            yield Fact(name, meaning + ("; this one decides" if name == decides else ""))
            yield from (Fact(f"  {fact.label}", fact.value) for fact in _score(row[name], judge))
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
