"""What a hosted model's answers cost, from a recipe's table of prices. Prices change no row, so they belong to no digest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UserError, unknown

UNITS = {"input": "a million prompt tokens", "output": "a million completion tokens", "row": "an answered row (an image, say)"}


def check_prices(prices: Any, where: str) -> dict[str, float]:
    """`{input: 0.15, output: 0.6, row: 0}` in US dollars, checked; {} for None."""
    if prices is None:
        return {}
    if not isinstance(prices, Mapping):
        raise UserError(f"{where}.prices: a table such as {{input: 0.15, output: 0.60}} in US dollars a million tokens, not {prices!r}")
    for name, value in prices.items():
        if name not in UNITS:
            raise unknown("price", str(name), UNITS, f"{where}.prices")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise UserError(f"{where}.prices.{name}: US dollars for {UNITS[name]}, not {value!r}")
    return {str(name): float(value) for name, value in prices.items()}


def cost(prices: Mapping[str, float], prompt_tokens: int, completion_tokens: int, rows: int = 0) -> float:
    """US dollars."""
    tokens = prices.get("input", 0.0) * prompt_tokens + prices.get("output", 0.0) * completion_tokens
    return tokens / 1e6 + prices.get("row", 0.0) * rows
