"""Zero-shot classification (CtrlSynth, Tables 1 and 2): a class is the mean of its templates' text
embeddings, the prediction the nearest class."""

import hashlib
from pathlib import Path
from typing import Any

from ...errors import UserError, unknown
from .. import layout
from ..encode import Array, Encoder, class_weights, encode_split
from ..metrics import Ints, bootstrap, mean_per_class_recall, top_k_hits
from ..results import Score, mean_score
from .base import Evaluator, Scores

TEMPLATE_SETS = ("folder", "simple", "openai-imagenet-80", "openai-imagenet-7")
"""`folder`: the data set's own file (OpenAI's in most public sets); `simple`: CLIP's single sentence; the
other two are OpenAI's for ImageNet, as open_clip ships them. The name is part of the protocol: results with
different sets never share a column."""


def template_set(name: str, folder: Path) -> list[str]:
    """The templates of a set by name."""
    if name == "folder":
        return layout.templates(folder)
    if name == "simple":
        return ["a photo of a {c}."]
    if name in ("openai-imagenet-80", "openai-imagenet-7"):
        from ...models.open_clip.load import import_open_clip

        shipped = "OPENAI_IMAGENET_TEMPLATES" if name.endswith("80") else "SIMPLE_IMAGENET_TEMPLATES"
        return [function("{c}") for function in getattr(import_open_clip("--templates"), shipped)]
    raise unknown("template set", name, TEMPLATE_SETS, "--templates")


class ZeroShot(Evaluator):
    """acc1, acc5 and mean per-class recall on the test split."""

    @property
    def _templates(self) -> str:
        return self.settings.templates or self.task.templates

    def protocol(self) -> dict[str, Any]:
        """The template set: its name, and a digest of the sentences, because every folder may hold others."""
        text = "\n".join(template_set(self._templates, self.folder))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"templates": self._templates, "template_digest": digest[:8]}

    def evaluate(self, model: Encoder) -> Scores:
        """Predicts the class whose text embedding is nearest."""
        names = layout.classnames(self.folder, self.task.classes)
        if not names:
            raise UserError(f"{self.folder / 'classnames.txt'}: expected at least one class, found none")
        weights = class_weights(model, names, template_set(self._templates, self.folder))
        test = encode_split(model, self.folder, "test", len(names))
        return Scores(classification(test.features @ weights.T, test.labels), len(test.labels), len(names))


def classification(logits: Array, labels: Ints) -> dict[str, Score]:
    """Score by metric from (N, C) similarities and labels (N,)."""
    first = top_k_hits(logits, labels, 1)
    per_class = Score(mean_per_class_recall(first, labels), *bootstrap(first, labels))
    out = {"acc1": mean_score(first), "mean_per_class_recall": per_class}
    return out | ({"acc5": mean_score(top_k_hits(logits, labels, 5))} if logits.shape[1] > 5 else {})
