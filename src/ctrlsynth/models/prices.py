"""Costs of a hosted model's answers, by a recipe's price table. Prices belong to no digest."""

from collections.abc import Mapping
from typing import Any


def cost(prices: Mapping[str, float], prompt_tokens: int, completion_tokens: int, rows: int = 0) -> float:
    """US dollars of that many tokens and rows."""
    tokens = prices.get("input", 0.0) * prompt_tokens + prices.get("output", 0.0) * completion_tokens
    return tokens / 1e6 + prices.get("row", 0.0) * rows


def spent(models: Mapping[str, Any], kind: str, counts: Mapping[str, Any]) -> float | None:
    """US dollars that a stage's rows have cost; None if its model has no price table in the recipe. `kind` is
    the stage's, `counts` the sums of its parts. Failed requests are not in the tables, so not in the sum."""
    named = models.get({"write": "llm", "tag": "tagger", "paint": "text_to_image"}.get(kind, ""))
    prices = named.get("prices") if isinstance(named, Mapping) else None
    if not prices:
        return None
    return cost(prices, counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0), counts["ok"])
