"""Joins the tags of several taggers for the same row (2a): CtrlSynth's hybrid tagger (section 3.1)."""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from ...errors import ModelError, UserError
from ...sample import Tags, unique
from .. import registry as models
from ..base import ImageAndText, VisionTagger
from ..composite import Composite, make_all


class HybridTagger(Composite):
    """Joins taggers: `{hybrid: [imagenet, wordnet]}`.

    model    the taggers as a recipe names them, in the order in which their tags are joined; the text
             `imagenet+wordnet` means the same
    reads    what its taggers read: `pixels` or `caption` if they all do, else `both`
    """

    def __init__(self, model: Any = None) -> None:
        specs = model.split("+") if isinstance(model, str) else model
        if not isinstance(specs, Sequence) or not specs:
            raise UserError(
                f"models.tagger: hybrid takes a list of taggers, such as {{hybrid: [imagenet, wordnet]}}, "
                f"not {model!r}"
            )
        self.parts: list[VisionTagger] = make_all(
            [
                partial(models.load, spec, "tagger", f"models.tagger.hybrid[{i}]")
                for i, spec in enumerate(specs)
            ]
        )
        self.batch = min(tagger.batch or 64 for tagger in self.parts)
        kinds = {tagger.reads for tagger in self.parts}
        self.reads: Literal["pixels", "caption", "both"] = kinds.pop() if len(kinds) == 1 else "both"
        self.id = f"hybrid({'+'.join(tagger.id for tagger in self.parts)})"
        self.digest = hashlib.sha256(
            "\0".join(f"{t.id}\0{t.digest}" for t in self.parts).encode()
        ).hexdigest()

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """The joined tags of each item. A tagger that fails for the batch fails it here too, since half the
        tags would look complete."""
        answers = [tagger.tag(items) for tagger in self.parts]
        for tagger, answer in zip(self.parts, answers, strict=True):
            if len(answer) != len(items):
                raise ModelError(
                    "wrong_number", f"{tagger.id} gave {len(answer)} answers for {len(items)} items"
                )
        return [join(row) for row in zip(*answers, strict=True)]


def join(tags: Sequence[Tags]) -> Tags:
    """Joins several taggers' tags for one row, tagger by tagger, without repeats (ignoring case).

    An object's score is its highest one, 1.0 if only taggers without scores name it (a noun in the caption is
    certain to be there); without any scores there are none. A bare `red` stays next to another tagger's
    `red ball`, as it may describe something else. Keeps the first caption. Fails the row if one tagger
    failed it."""
    error = next((one.error for one in tags if one.error), None)
    if error is not None:
        return Tags(error=error)
    scores: dict[str, float] = {}
    for one in tags:
        for name, score in zip(one.objects, one.scores, strict=False):
            scores[name.lower()] = max(score, scores.get(name.lower(), 0.0))
    objects = unique(name for one in tags for name in one.objects)
    return Tags(
        objects,
        unique(phrase for one in tags for phrase in one.attributes),
        unique(phrase for one in tags for phrase in one.relations),
        tuple(scores.get(name.lower(), 1.0) for name in objects) if scores else (),
        next((one.caption for one in tags if one.caption), None),
        sum(one.dropped for one in tags),
    )
