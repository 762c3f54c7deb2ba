"""Costs of a hosted model's answers, by a recipe's price table. Prices belong to no digest."""

from collections.abc import Mapping
from typing import Any

from ..errors import UserError, unknown

UNITS = {
    "input": "a million prompt tokens",
    "output": "a million completion tokens",
    "row": "an answered row (an image, say)",
}


def check_prices(prices: Any, where: str, counted: bool = True) -> dict[str, float]:
    """Checks `{input: 0.15, output: 0.6, row: 0}` in US dollars; {} for None. `counted`: whether the stage's
    table holds tokens; if not, only `row` is allowed."""
    if prices is None:
        return {}
    if not isinstance(prices, Mapping):
        raise UserError(
            f"{where}.prices: a table such as {{input: 0.15, output: 0.60}} in US dollars a million tokens, "
            f"not {prices!r}"
        )
    for name, value in prices.items():
        if name not in UNITS:
            raise unknown("price", str(name), UNITS, f"{where}.prices")
        if name != "row" and not counted:
            raise UserError(
                f"{where}.prices.{name}: no tokens are kept for this stage; give the price of a row: "
                f"{{row: 0.002}}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise UserError(f"{where}.prices.{name}: US dollars for {UNITS[name]}, not {value!r}")
    return {str(name): float(value) for name, value in prices.items()}


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
