"""Costs of a hosted model's answers, by a recipe's price table. Prices belong to no digest."""

from collections.abc import Mapping
from typing import Any


def spent(models: Mapping[str, Any], kind: str, counts: Mapping[str, Any]) -> float | None:
    """US dollars that a stage's rows have cost; None if its model has no price table in the recipe. `kind` is
    the stage's, `counts` the sums of its parts. Failed requests are not in the tables, so not in the sum."""
    named = models.get({"write": "llm", "tag": "tagger", "paint": "text_to_image"}.get(kind, ""))
    prices = named.get("prices") if isinstance(named, Mapping) else None
    if not prices:
        return None
    units = {
        "input": counts.get("prompt_tokens", 0) / 1e6,
        "output": counts.get("completion_tokens", 0) / 1e6,
        "row": counts["ok"],
    }
    return float(sum(prices.get(unit, 0.0) * number for unit, number in units.items()))
