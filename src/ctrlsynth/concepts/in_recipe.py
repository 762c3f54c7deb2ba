"""The recipe's block `balance` against its paths and source, checked before anything runs; and the bank that it names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..paths import Step
from ..recipe import Recipe
from .matches import Matches


def check_balance(recipe: Recipe, steps: Sequence[Step], parts: Sequence[Any]) -> None:
    """A node without its block, a block without a node, a bank that nothing names, and a size that the pool can never fill: UserError."""
    rule = recipe.balance
    balanced = [s for s in steps if s.kind == "balance"]
    if rule is None:
        if balanced:
            raise UserError(
                f"paths.{balanced[0].paths[0]} holds balance: add a block to the recipe, such as balance: {{size: 1000}} or {{t: 10}}"
            )
        return
    if not balanced:
        raise UserError("balance: no path of the recipe holds the node balance; write it behind text or text*")
    if rule.random is None and rule.bank is None and recipe.source.concepts is None:
        raise UserError("balance.bank: name the bank that captions are matched with (the source is none)")
    wanted, rows = rule.size or rule.random, [p.rows for p in parts]
    if wanted is None or None in rows:
        return
    for step in balanced:
        captions = sum(r or 0 for r in rows)
        above = next(s for s in steps if s.folder == step.parent)
        while above.parent is not None:
            times = {"write": recipe.variants.write, "paint": recipe.variants.paint}
            captions *= times.get(above.kind, 1) if above.family != "caption" else 1
            above = next(s for s in steps if s.folder == above.parent)
        if wanted > captions:
            key = "size" if rule.size else "random"
            told = f"balance.{key}: {wanted:,} captions are wanted, but there will be {captions:,} at most"
            raise UserError(f"{told}; lower it (--set balance.{key}=...), or write more captions a row (variants.write)")


class PlainMatcher:
    """MetaCLIP's rule as one reads it, entry by entry: a `stages.balance.Matcher` for small banks."""

    def __init__(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot read the bank: {error}") from error
        self.entries: Sequence[str] = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
        if not self.entries:
            raise UserError(f"{path}: the bank is empty")
        self.name, self.digest = path.name, hashlib.blake2b("\n".join(self.entries).encode(), digest_size=6).hexdigest()

    def match(self, texts: Sequence[str]) -> Matches:
        """Which entries each text holds."""
        padded = [re.sub("[\t\r\n]", " ", re.sub("([,.;:?!`])", r" \1 ", f" {text} ")) for text in texts]
        return Matches.of([n for n, entry in enumerate(self.entries) if f" {entry} " in text] for text in padded)


def open_matcher(recipe: Recipe, base: Path) -> PlainMatcher:
    """The matcher of `balance.bank`, or of the source's own concepts."""
    assert recipe.balance is not None
    named = recipe.balance.bank or recipe.source.concepts
    assert named is not None
    return PlainMatcher(base / named.expanduser())
