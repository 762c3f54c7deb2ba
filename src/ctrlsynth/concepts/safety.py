"""Which concepts are not fit for data that everyone may see (SynthCLIP, section 5 and appendix C): an LLM
answers for each, and a block list of words adds to it. Nothing is deleted: the bank keeps every entry with
the answer and the reason, and the source skips flagged ones.

It is a run like any other (`[concept, text*]` with a JSON answer), so it resumes after an interruption and
uses any engine or server. What a small model says here is weak: `benchmarks/safety.py` shows how weak."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import UserError
from ..recipe.file import parse_recipe
from ..recipe.schema import Recipe
from .bank import flagged_forms, form, with_flags

PAPER = 0.0315
"""Share of MetaCLIP's bank that Llama-3 flagged (section 5)."""
UNASKED = "blank, without words, or too long to be asked about"
SCHEMA = {
    "type": "object",
    "properties": {"unfit": {"enum": ["yes", "no"]}, "reason": {"type": "string", "maxLength": 120}},
    "required": ["unfit", "reason"],
    "additionalProperties": False,
}
"""The answer: a grammar where the backend has one, checked everywhere."""


@dataclass(frozen=True, slots=True)
class Flags:
    """What became of a bank's entries. `unanswered`: reason -> entries that no answer came for; they stay
    unflagged."""

    entries: int
    by_model: int
    by_list: int
    allowed: int
    unanswered: Mapping[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of the entries that are flagged."""
        return (self.by_model + self.by_list) / self.entries


def question(bank: Path, llm: Any, name: str = "flag") -> Recipe:
    """The run that asks about every concept of a bank. A model that reads examples in place of instructions
    is given the instruction."""
    spec = {"smollm2": None} if llm == "smollm2" else llm
    if isinstance(spec, Mapping) and "smollm2" in spec:
        spec = {**spec, "few_shot": False}
    policy = {
        "templates": ["unfit"],
        "style": "json",
        "json_schema": SCHEMA,
        "caption_field": "reason",
        "constraint": "",
        "max_tokens": 80,
    }
    recipe = {
        "name": name,
        "source": {"concepts": str(bank.absolute())},
        "models": {"llm": spec},
        "judge": None,
        "text_policy": policy,
        "paths": {"flag": ["concept", "text*"]},
    }
    return parse_recipe(recipe, "concepts flag")


def answers(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, bool | None, str]]:
    """(place in the bank, unfit, reason) from the rows of the run's `write` table; unfit is None where no
    answer could be read."""
    for row in rows:
        place = int(str(row["source_key"]).rpartition(":")[2])
        if row["status"] != "ok":
            yield place, None, str(row["reason"])
            continue
        said = json.loads(row["fields"])
        yield place, said["unfit"] == "yes", said["reason"]


def flag(
    bank: pa.Table,
    told: Iterable[tuple[int, bool | None, str]],
    blocked: Sequence[str] = (),
    allowed: Sequence[str] = (),
) -> tuple[pa.Table, Flags]:
    """The bank with its columns `flagged` and `reason` filled in. `allowed` entries are never flagged, those
    that hold a `blocked` word or phrase always; else the model decides, once for entries that are the same
    but for blanks. Where it has no answer, what the bank said before stays. Raises UserError for an empty
    bank."""
    free, unfit = {a.lower() for a in allowed}, holding(blocked)
    forms = [form(entry or "") for entry in bank["entry"].to_pylist()]
    if not any(forms):
        raise UserError("the bank is empty: there is nothing to flag")
    said = {forms[place]: (bad, why) for place, bad, why in told}
    before = flagged_forms(bank)
    flags, reasons = [], []
    counts: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for entry, row in zip(forms, bank.to_pylist(), strict=True):
        bad, why = said.get(entry, (None, UNASKED if said else ""))
        was = True if entry in before else row["flagged"]
        word, by = unfit(entry), "model"
        if entry.lower() in free:
            bad, why, by = False, "allowed", "allowed"
        elif word is not None:
            bad, why, by = True, f"block list: {word}", "list"
        elif bad is None and (was is not None or not why):
            bad, why = was, row["reason"]
        elif bad is None:
            lost[why] += 1
            why = f"not answered: {why}"
        counts[by] += bool(bad) or by == "allowed"
        flags.append(bad)
        reasons.append(why or None)
    bank = with_flags(bank, flags, reasons)
    return bank, Flags(bank.num_rows, counts["model"], counts["list"], counts["allowed"], dict(lost))


def holding(blocked: Sequence[str]) -> Callable[[str], str | None]:
    """A function that gives the blocked word or phrase that an entry holds (whole words, in any case), or
    None."""
    words = sorted({b.lower() for b in blocked}, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")

    def found(entry: str) -> str | None:
        match = pattern.search(entry.lower()) if words else None
        return match[0] if match else None

    return found


def read_words(path: Path) -> list[str]:
    """A plain list, a word or phrase a line; empty lines and those that begin with # are skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the list: {error}") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
