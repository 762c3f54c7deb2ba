"""The closed loop (section 3.2, A.5): compares what was made with what it should hold. Scores are stored; a
pure function decides.

Text is compared with the tags as edited (what the writer was given), or, when the writer only had a caption,
with the caption's phrases. An image is compared with `text` (the starting text's phrases), `original` (the
original image's tags with the same edits) and `original_unedited`; all that exist are stored, `image_against`
names the one that decides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..control.text import REMOVING
from ..data.images import ImageFault, decode
from ..lang.matching import rules as matching
from ..models.base import ImageAndText, SafetyJudge
from ..recipe.paths import Step
from ..sample import KINDS, Tags, ancestor, child, digest_of, key_of, parent
from ..storage.parts import PartView
from .answers import BAD, unit
from .base import Item, PaintedImages, Stage
from .materials import Materials, Need
from .tables import JUDGE_IMAGE, JUDGE_TEXT

SLACK = 1e-6


class Score(NamedTuple):
    """Score of one text or image against one reference. `recall` is in 0..1, or None if the reference has no
    phrases."""

    recall: float | None
    found: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    violations: tuple[str, ...] = ()


def passes(recall: Any, threshold: Any) -> Any:
    """Returns whether a recall reaches a threshold, for numbers and for arrays.

    Recall is stored with 32 bits: one of five must still reach a threshold of 0.2."""
    return recall >= threshold - SLACK


def verdict(
    score: Score | None,
    threshold: float,
    forbid_violations: bool = False,
    unsafe: float | None = None,
    limit: float = 1.0,
) -> str:
    """`kept`, or why not: `no_reference`, `low_recall` (below p_f), `violation`, `unsafe`."""
    if unsafe is not None and unsafe >= limit:
        return "unsafe"
    if score is None or score.recall is None:
        return "no_reference"
    if not passes(score.recall, threshold):
        return "low_recall"
    return "violation" if forbid_violations and score.violations else "kept"


def weighted_recall(reference: Tags, found: Sequence[str], weights: dict[Any, float]) -> float | None:
    """Returns the share of the reference's phrases that were found, weighted by kind; None without phrases
    (or weight)."""
    hits, phrases = set(found), reference.phrases()
    if not weights:
        return sum(map(hits.__contains__, phrases)) / len(phrases) if phrases else None
    have = want = 0.0
    for kind in KINDS:
        weight, of_kind = weights.get(kind, 1.0), getattr(reference, kind)
        want += weight * len(of_kind)
        have += weight * sum(p in hits for p in of_kind)
    return have / want if want else None


def score_text(
    text: str, reference: Tags, removed: Sequence[str], matcher: str, weights: dict[Any, float]
) -> Score:
    """Scores a text against the tags that it should hold."""
    phrases = reference.phrases()
    hits = matching.in_text(phrases, text, matcher, reference.objects) if phrases else []
    found = tuple([p for p, hit in zip(phrases, hits, strict=True) if hit])
    missed = tuple([p for p, hit in zip(phrases, hits, strict=True) if not hit])
    back = matching.violations_in_text(removed, text, matcher) if removed else ()
    return Score(weighted_recall(reference, found, weights), found, missed, tuple(back))


def score_tags(
    found_tags: Tags, reference: Tags, removed: Sequence[str], matcher: str, weights: dict[Any, float]
) -> Score:
    """Scores an image's tags against a reference."""
    found, missed = matching.in_tags(reference, found_tags, matcher)
    back = matching.violations_in_tags(removed, found_tags, matcher) if removed else ()
    return Score(weighted_recall(reference, found, weights), tuple(found), tuple(missed), tuple(back))


def removed_phrases(records: Sequence[dict[str, Any]], left: Tags) -> tuple[str, ...]:
    """Returns the phrases that the edits removed and the edited tags do not hold."""
    if not records:
        return ()
    kept = set(left.phrases())
    gone = (r["before"] for r in records if r["op"] in REMOVING and r["before"] is not None)
    return tuple(dict.fromkeys(p for p in gone if p not in kept))


class _JudgeStage(Stage):
    """What both judges share. `mines`: whether the miner reads a reference's phrases; its digest is then in
    the settings, so that another miner judges again."""

    batch = 1024

    def __init__(self, step: Step, materials: Materials, mines: bool, safety: SafetyJudge | None) -> None:
        super().__init__(step, materials, safety)
        assert materials.recipe.judge is not None
        self._judge, self._miner = materials.recipe.judge, materials.miner
        decisive = {"threshold", "matcher", "weights", "forbid_violations", "image_against", "safety"}
        self._settings = {
            "kind": "text" if step.kind == "judge-text" else "image",
            **self._judge.model_dump(mode="json", include=decisive),
            "model": self.model_name,
        }
        if mines:
            self._settings["miner"] = self._miner.digest
        if safety is not None:
            self._settings["safety_digest"] = safety.digest
        self._prefix = digest_of("judge", self.version, self._settings)
        self._weights: dict[Any, float] = dict(self._judge.weights)

    def settings(self) -> dict[str, Any]:
        return self._settings

    def _mine(self, text: str) -> Tags:
        return self._miner.tag([ImageAndText(None, text)])[0]

    def close(self) -> None:
        """Keeps the safety judge: it is small."""

    def _decide(self, item: Item, score: Score | None, unsafe: float | None = None) -> str | None:
        if item.status == "failed":
            return None
        limit = self._judge.safety.threshold if self._judge.safety is not None else 1.0
        decision = verdict(score, self._judge.threshold, self._judge.forbid_violations, unsafe, limit)
        if decision != "kept":
            item.drop(decision)
        return decision


class JudgeTextStage(_JudgeStage):
    """Judges the texts of one write folder. `captions`: the folder of the texts that a caption-only writer
    started from."""

    schema = JUDGE_TEXT

    def __init__(self, step: Step, materials: Materials) -> None:
        self._captions = step.uses.get("text")
        super().__init__(step, materials, mines=self._captions is not None, safety=None)
        self._column = materials.text_column(self._captions) if self._captions else ""

    def items(self, up: PartView) -> Iterator[Item]:
        starts = up.table(self._captions, [self._column]) if self._captions else None
        for row_id, source_key, key, text, tags, edits in self.parents(up, ["key", "text", "tags", "edits"]):
            reference = Tags.of(tags or {})
            if starts is not None:
                start = ancestor(row_id, starts)
                reference = self._mine(start[0] or "") if start is not None else Tags()
            payload = (text, reference, removed_phrases(edits, reference))
            key = key_of(self._prefix, key, text)
            yield Item(child(row_id, "judge"), row_id, source_key, key, payload)

    def call(self, items: list[Item]) -> list[Any]:
        return [
            score_text(text, reference, removed, self._judge.matcher.text, self._weights)
            for text, reference, removed in (i.payload for i in items)
        ]

    def columns(self, items: list[Item], answers: list[Any]) -> dict[str, list[Any]]:
        return {
            "edited": [a._asdict() if a is not None else None for a in answers],
            "verdict": [self._decide(i, a) for i, a in zip(items, answers, strict=True)],
        }


@dataclass(slots=True)
class ImageCase:
    """One synthetic image and what it is compared with; a reference that does not exist is None."""

    found: Tags
    references: dict[str, Tags | None]
    removed: tuple[str, ...]
    image: Any = None


class JudgeImageStage(_JudgeStage):
    """Judges painted images by their tags. `text` is where the painted text is; `original` a tag folder of
    the original image."""

    schema = JUDGE_IMAGE

    @classmethod
    def needs(cls, step: Step, materials: Materials) -> list[Need]:
        judge = materials.recipe.judge
        safety = judge.safety if judge is not None else None
        return [(safety.model, "safety", "judge.safety")] if safety is not None else []

    def __init__(self, step: Step, materials: Materials, safety: SafetyJudge | None = None) -> None:
        super().__init__(step, materials, mines=True, safety=safety)
        self._controller, self._safety = materials.text, safety
        self._text, self._original = step.uses["text"], step.uses.get("original")
        self._is_caption = materials.text_column(self._text) == "caption"
        self._painted = PaintedImages(step.uses["paint"])
        if safety is not None:
            self.batch = 32

    def policy(self) -> Any:
        return [self._seed, self._controller.content(None)]

    def items(self, up: PartView) -> Iterator[Item]:
        texts = up.table(self._text, ["caption"] if self._is_caption else ["text", "tags", "edits"])
        rows_of = up.table(self._original, ["source_key", *KINDS]) if self._original else {}
        originals = {
            key: (row_id, Tags.of(dict(zip(KINDS, tags, strict=True))))
            for row_id, (key, *tags) in rows_of.items()
        }
        for row_id, source_key, painted, *tags in self.parents(up, ["parent", *KINDS]):
            found = Tags.of(dict(zip(KINDS, tags, strict=True)))
            case = self._case(found, ancestor(painted, texts), originals.get(source_key))
            seen = painted if self._safety else ""
            key = key_of(self._prefix, repr(found), repr(case.references), repr(case.removed), seen)
            yield Item(child(row_id, "judge"), row_id, source_key, key, case)

    def _case(
        self, found: Tags, start: tuple[Any, ...] | None, original: tuple[str, Tags] | None
    ) -> ImageCase:
        text, written, edits, *_ = (*(start or ()), None, None, None)
        removed: tuple[str, ...] = (
            removed_phrases(edits or (), Tags.of(written)) if written is not None else ()
        )
        references: dict[str, Tags | None] = {
            "text": self._mine(text) if text else None,
            "original": None,
            "original_unedited": None,
        }
        if original is not None:
            edited, records = self._controller.edited(*original)
            references["original"] = edited if written is None else Tags.of(written)
            references["original_unedited"] = original[1]
            if written is None:
                removed = removed_phrases([{"op": r.op, "before": r.before} for r in records], edited)
        return ImageCase(found, references, removed)

    def load(self, items: list[Item], up: PartView) -> None:
        """Decodes images only where a safety judge looks at them."""
        if self._safety is None:
            return
        for item in items:
            try:
                item.payload.image = decode(self._painted.read(up, parent(str(item.parent))))
            except ImageFault as fault:
                item.fail(fault.reason)

    def call(self, items: list[Item]) -> list[Any]:
        matcher, out = self._judge.matcher.image, []
        for item, unsafe in zip(items, self._unsafe(items), strict=True):
            case: ImageCase = item.payload
            case.image = None
            scores = {
                n: score_tags(case.found, r, case.removed, matcher, self._weights) if r is not None else None
                for n, r in case.references.items()
            }
            out.append((scores, unsafe))
        return out

    def _unsafe(self, items: list[Item]) -> list[float | None]:
        """The score of every image that could be decoded; one that is no number in 0..1 fails its row:
        nothing unseen is kept."""
        safety = self._safety
        if safety is None:
            return [None] * len(items)
        scores = [
            unit(a) for a in self.ask(items, lambda live: safety.score([i.payload.image for i in live]))
        ]
        sound = [s if s is not None and 0 <= s <= 1 else None for s in scores]
        for item, score in zip(items, sound, strict=True):
            if item.status == "ok" and score is None:
                item.fail(BAD)
        return sound

    def columns(self, items: list[Item], answers: list[Any]) -> dict[str, list[Any]]:
        names, against = ("text", "original", "original_unedited"), self._judge.image_against
        scored: list[Any] = [a if a is not None else (dict.fromkeys(names), None) for a in answers]
        return {
            **{n: [s[n]._asdict() if s[n] is not None else None for s, _ in scored] for n in names},
            "unsafe": [unsafe for _, unsafe in scored],
            "verdict": [
                self._decide(i, s[against], unsafe) for i, (s, unsafe) in zip(items, scored, strict=True)
            ],
        }
