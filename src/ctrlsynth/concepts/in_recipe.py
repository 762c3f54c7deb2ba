"""The recipe's block `balance` against its paths and source, checked before anything runs; and the bank that
it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..models.installed import need
from ..recipe.paths import Step
from ..recipe.schema import Recipe
from .bank import load_bank
from .match import Matcher, Mode
from .matches import Matches


def check_balance(recipe: Recipe, steps: Sequence[Step], parts: Sequence[Any]) -> None:
    """A node without its block, a block without a node, a bank that nothing names, and a size that the pool
    can never fill: UserError."""
    rule = recipe.balance
    balanced = [s for s in steps if s.kind == "balance"]
    if rule is None:
        if balanced:
            raise UserError(
                f"paths.{balanced[0].paths[0]} holds balance: add a block to the recipe, such as balance: "
                f"{{size: 1000}} or {{t: 10}}"
            )
        return
    if not balanced:
        raise UserError(
            "balance: no path of the recipe holds the node balance; write it behind text or text*"
        )
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
            raise UserError(
                f"{told}; lower it (--set balance.{key}=...), or write more captions a row (variants.write)"
            )


class BankMatcher:
    """A bank as `stages.balance.Matcher`; the trie is built when the first captions come, once a process."""

    def __init__(self, path: Path, mode: Mode) -> None:
        need("numba", "concepts", "balance")
        bank = load_bank(path)
        self.name, self.digest, self.entries = path.name, f"{bank.digest} {mode}", bank.entries
        self._mode: Mode = mode
        self._matcher: Matcher | None = None

    def match(self, texts: Sequence[str]) -> Matches:
        """Which entries each text holds."""
        if self._matcher is None:
            self._matcher = Matcher(self.entries, self._mode)
        return self._matcher.match(list(texts))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_matcher": None}


def open_matcher(recipe: Recipe, base: Path) -> BankMatcher:
    """The matcher of `balance.bank`, or of the source's own concepts."""
    assert recipe.balance is not None
    named = recipe.balance.bank or recipe.source.concepts
    assert named is not None
    return BankMatcher(base / named.expanduser(), recipe.balance.match)
