"""3b, the image controller: makes a prompt for the text-to-image model out of a text, by policy.

A style is drawn by weight from the row's id and wrapped around the text (CtrlSynth, A.1 and two of ours);
sentences that name what matters come first, so that the cut at 77 CLIP tokens takes the least of it; weights
of single tags and the negative prompt go beside the text."""

import re
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from typing import Any

from ..errors import UserError, unknown
from ..models.base import Prompt
from ..recipe.code import call_code, load_code
from ..recipe.schema import ImagePolicy
from ..sample import Tags, chance, draw, model_seed
from .select import Selectors
from .templates import Template, own_styles, styles

_SENTENCE = re.compile(r"(?<=[.!?])\s+")


class ImageController:
    """One policy, ready for rows. `seed` is the run's; `where` is the policy's place in the recipe, for
    messages."""

    def __init__(self, policy: ImagePolicy, seed: int, where: str = "image_policy") -> None:
        self.policy, self.seed, self.where = policy, seed, where
        self._styles, self._edges = _drawn_styles(policy, where)
        self._order = Selectors(policy.order, None, f"{where}.order") if policy.order else None
        self._call = load_code(policy.call, f"{where}.call") if policy.call is not None else None
        for phrase in policy.weights:
            if not phrase.strip():
                raise UserError(f"{where}.weights: a tag is empty")
        self._size = (policy.size, policy.size) if isinstance(policy.size, int) else policy.size
        if self._size is not None and min(self._size) < 1:
            raise UserError(f"{where}.size: pixels above 0, not {policy.size}")

    def content(self) -> dict[str, Any]:
        """Everything of the policy that can change a prompt or how its image is stored; styles by content and
        not by file name."""
        used = self.policy.model_dump(mode="json", exclude={"styles", "styles_file"})
        return used | {
            "styles": [(s.name, s.text, edge) for s, edge in zip(self._styles, self._edges, strict=True)]
        }

    def style(self, row_id: str) -> Template | None:
        """The style of a row, drawn by weight from its id; None when the policy has none."""
        if len(self._styles) < 2:
            return self._styles[0] if self._styles else None
        return self._styles[bisect_right(self._edges, draw(self.seed, row_id, "style") * self._edges[-1])]

    def prompt(self, row_id: str, text: str, tags: Tags | None = None) -> Prompt:
        """The prompt of one row (`row_id`: of the image to be painted). The text's full stop gives way to one
        that the style brings.

        All weights of the policy go along: the model reports as unused those whose phrase the text lacks
        (`select.holds`). `tags` are not looked at: what is painted comes from the text alone (figure 1), and
        a prompt that named more than its text would hide that."""
        body = text.strip()
        if self._order is not None:
            body = sentences_first(body, self._order)
        style = self.style(row_id)
        if style is not None:
            body = style.fill({"prompt": body})
        prompt = Prompt(
            text=body,
            negative=self.policy.negative,
            style=style.name if style is not None else "",
            weights=dict(self.policy.weights),
            seed=model_seed(self.seed, row_id),
            size=self._size,
        )
        if self._call is None:
            return prompt
        name = f"{self.where}.call: {self.policy.call}"
        made = call_code(self._call, name, row_id, Prompt, prompt, chance(self.seed, row_id, "prompt"))
        return replace(made, weights=dict(made.weights))


def _drawn_styles(policy: ImagePolicy, where: str) -> tuple[tuple[Template, ...], tuple[float, ...]]:
    """The styles with a weight above 0, and their weights added up."""
    known = dict(styles())
    if policy.styles_file is not None:
        known |= own_styles(policy.styles_file)
    for name in policy.styles:
        if name not in known:
            raise unknown("style", name, known, f"{where}.styles")
    used = {name: weight for name, weight in policy.styles.items() if weight > 0}
    if policy.styles and not used:
        raise UserError(f"{where}.styles: every weight is 0; give one a weight, or write {{}} for no style")
    return tuple(known[name] for name in used), tuple(accumulate(used.values()))


def sentences_first(text: str, order: Selectors) -> str:
    """Sorts the sentences by the first selector that means something in them; the rest keep their order at
    the end."""
    sentences = _SENTENCE.split(text)
    if len(sentences) < 2:
        return text
    if sentences[-1][-1:] not in (".", "!", "?"):
        sentences[-1] += "."  # another may follow it now
    return " ".join(sorted(sentences, key=order.within))
