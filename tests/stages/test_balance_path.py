"""The node `balance` in a path: which captions go on, on what that does not depend, and what a run does with
it."""

import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctrlsynth.api.run import Run, run
from ctrlsynth.cli.progress import run_bars
from ctrlsynth.cli.show import as_text
from ctrlsynth.concepts import dedupe
from ctrlsynth.concepts.balance import counts, draws, expected_sizes, keep_mask, solve_t
from ctrlsynth.concepts.match import Matches
from ctrlsynth.errors import UserError, WorkFailed
from ctrlsynth.export.export import export
from ctrlsynth.recipe.file import parse_recipe
from ctrlsynth.recipe.schema import Recipe
from ctrlsynth.report.gallery import write_report
from ctrlsynth.runs.build import open_workshop
from ctrlsynth.runs.estimate import estimate
from ctrlsynth.runs.watch import Watcher
from ctrlsynth.stages.base import Barrier
from ctrlsynth.storage.files import read_json
from ctrlsynth.storage.parts import PartView, RunFolder

WORDS = "dog cat ball car tree bird boat chair red blue green yellow".split()


@pytest.fixture(autouse=True)
def captions(tmp_path: Path) -> None:
    """Captions with `dog` far too often, some of them twice, some without any word of the bank."""
    lines = [
        f"a {WORDS[8 + n % 4]} {WORDS[n % 8]} beside a dog , number {n}" if n % 10 else "nothing at all here"
        for n in range(120)
        for _ in range(2 if n % 15 == 1 else 1)
    ]
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "bank.txt").write_text("\n".join(WORDS) + "\n")


def balanced(base: Path, part_rows: int = 20, text: str = "captions.txt", **changes: Any) -> Recipe:
    """Captions -> balance, and nothing behind it: the cheapest run with a barrier."""
    return parse_recipe(
        {
            "name": "test",
            "source": {"text": text, "part_rows": part_rows},
            "paths": {"real": ["text", "balance", "image*"]},
            "models": {"text_to_image": "helpers:NoPainter"},
            "balance": {"size": 40, "bank": "bank.txt"},
            "judge": None,
            **changes,
        }
    )


def size(captions: int) -> dict[str, Any]:
    return {"size": captions, "bank": "bank.txt"}


def kept(made: Run) -> set[str]:
    """The numbers of the captions that go on, whatever the name of their part."""
    return {r["parent"].partition(":")[2] for r in made.rows("balance") if r["status"] == "ok"}


def solved(made: Run) -> float:
    """The t that the barrier found."""
    return float((read_json(made.root / "balance" / "_gathered.json") or {})["t"])


def only_balance(recipe: Recipe, base: Path, out: str, **more: Any) -> Run:
    """Runs up to the balance: the painter behind it paints nothing."""
    with pytest.raises(WorkFailed, match="out_of_paint"):
        run(recipe, base / out, base=base, **more)
    return Run.open(base / out)


def test_every_caption_has_its_fate(tmp_path: Path) -> None:
    made = only_balance(balanced(tmp_path), tmp_path, "run")
    rows = list(made.rows("balance"))
    fates = Counter(r["reason"] or "kept" for r in rows)
    # twelve captions match nothing, eleven of which repeat the one that is looked at
    assert (fates.total(), fates["no_match"], fates["duplicate"]) == (128, 1, 8 + 11)
    assert abs(fates["kept"] - 40) < 15
    assert all(row.adds_up for row in made.ledger())
    assert {r["status"] for r in rows if r["text"] is None} == {"dropped"}
    assert all(0 < r["chance"] <= 1 for r in rows if r["reason"] in (None, "not_sampled"))
    assert all(r["chance"] is None for r in rows if r["reason"] in ("duplicate", "no_match"))


def test_the_rule_is_the_plain_one(tmp_path: Path) -> None:
    """One table in memory and the pure functions give the same captions as parts, a barrier and stored
    matches."""
    made = only_balance(balanced(tmp_path, part_rows=7), tmp_path, "run")
    ids = [r["id"] for r in made.rows("read")]
    texts = [r["caption"] for r in made.rows("read")]
    stay = {r["parent"] for r in made.rows("balance") if r["reason"] != "duplicate"}
    pairs = [(i, t) for i, t in zip(ids, texts, strict=True) if i in stay]
    assert len({t for _, t in pairs}) == len(pairs) == len(set(texts))
    found = Matches.of([[n for n, w in enumerate(WORDS) if f" {w} " in f" {t} "] for _, t in pairs])
    c = counts([found], len(WORDS))
    t = solve_t(lambda grid: expected_sizes(found, c, grid), c, 40)
    keep = keep_mask(found, c, t, draws(0, [i for i, _ in pairs]))
    assert {i.partition(":")[2] for (i, _), k in zip(pairs, keep, strict=True) if k} == kept(made)
    assert solved(made) == t


def test_neither_parts_nor_order_matter_and_a_smaller_size_is_a_part_of_a_larger(tmp_path: Path) -> None:
    large = kept(only_balance(balanced(tmp_path), tmp_path, "large"))
    assert large == kept(only_balance(balanced(tmp_path, part_rows=9), tmp_path, "other-parts"))
    assert large > kept(only_balance(balanced(tmp_path, balance=size(15)), tmp_path, "small"))
    lines = (tmp_path / "captions.txt").read_text().splitlines()
    rows = [f'{{"key": "{n}", "caption": "{line}"}}' for n, line in enumerate(lines)]
    (tmp_path / "turned.jsonl").write_text("\n".join(reversed(rows)) + "\n")
    turned = balanced(tmp_path, source={"text": "turned.jsonl", "part_rows": 20, "key_column": "key"})
    assert large == kept(only_balance(turned, tmp_path, "turned"))


class Ear(Watcher):
    """Notes what a run reports, and which captions had been drawn or painted by then."""

    def __init__(self, root: Path) -> None:
        self.root, self.told = root, list[tuple[str, float, list[str]]]()

    def gathered(self, folder: str, found: dict[str, Any]) -> None:
        there = [p.parent.name for p in self.root.rglob("*.parquet") if p.parent.name in ("balance", "paint")]
        self.told.append((folder, found["expected"], there))


def test_the_expected_size_is_reported_before_the_first_caption_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ear = Ear(tmp_path / "run")
    made = only_balance(balanced(tmp_path), tmp_path, "run", watcher=ear)
    ((folder, expected, there),) = ear.told
    assert (folder, round(expected), there) == ("balance", 40, [])
    only_balance(balanced(tmp_path), tmp_path, "run", watcher=ear)
    assert len(ear.told) == 1, "nothing is drawn again"
    with run_bars() as watcher:
        only_balance(balanced(tmp_path, balance={"random": 20}), tmp_path, "random", watcher=watcher)
        only_balance(balanced(tmp_path), tmp_path, "again", watcher=watcher)
    shown = capsys.readouterr().err
    assert "balance: 128 captions, 19 of them duplicates; 109 eligible; at random, 20 expected" in shown
    line = (
        f"balance: 128 captions, 19 of them duplicates; 108 eligible; t = {solved(made):,.4g} "
        f"(concepts held: 12), 40 expected"
    )
    assert line in shown
    assert shown.index(line) < shown.rindex("paint")


def test_at_random_needs_no_bank_and_is_nested_and_a_large_t_keeps_all(tmp_path: Path) -> None:
    many = only_balance(balanced(tmp_path, balance={"random": 60}), tmp_path, "many")
    few = only_balance(balanced(tmp_path, balance={"random": 20}), tmp_path, "few")
    assert "match" not in {s.folder for s in many.steps}
    assert kept(few) < kept(many)
    assert abs(len(kept(many)) - 60) < 20
    assert {r["reason"] for r in many.rows("balance")} == {None, "not_sampled", "duplicate"}
    everything = only_balance(balanced(tmp_path, balance={"t": 1000, "bank": "bank.txt"}), tmp_path, "all")
    assert {r["reason"] for r in everything.rows("balance")} == {None, "duplicate", "no_match"}


def test_a_part_that_changes_changes_t_and_another_size_costs_no_matching(tmp_path: Path) -> None:
    before = only_balance(balanced(tmp_path), tmp_path, "run")
    t, matched = solved(before), before.files("match")
    plan = balanced(tmp_path, balance=size(60))
    with pytest.raises(UserError, match=r"balance\.size: 40 -> 60"):
        run(plan, tmp_path / "run", base=tmp_path)
    again = only_balance(plan, tmp_path, "run", update=True)
    t, earlier = solved(again), t
    assert t > earlier
    assert again.files("match") == matched
    with open(tmp_path / "captions.txt", "a") as handle:
        handle.write("".join(f"a dog and a zebra, number {n}\n" for n in range(40)))
    grown, fresh = (only_balance(plan, tmp_path, out) for out in ("run", "fresh"))
    assert kept(grown) == kept(fresh)
    assert solved(grown) == solved(fresh) != t


def test_what_the_barrier_asks_for_can_be_done_by_other_processes(tmp_path: Path) -> None:
    """An engine that spreads parts hands `gather` its own map: the functions travel, and the answer is the
    same to the last bit."""
    made = only_balance(balanced(tmp_path), tmp_path, "run")
    workshop, folder = open_workshop(balanced(tmp_path), tmp_path), RunFolder(made.root)
    plan = workshop.plan
    digests = [
        {f: plan.part_digest(f, p) for f in plan.lineage("balance") if f != "balance"} for p in plan.parts
    ]
    views = [PartView(folder, p.index, d) for p, d in zip(plan.parts, digests, strict=True)]
    stage = workshop.stages["balance"]
    assert isinstance(stage, Barrier)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = stage.gather(views, pool.map)
    stored = read_json(made.root / "balance" / "_gathered.json") or {}
    assert found == {k: v for k, v in stored.items() if k not in ("schema", "whole")}


def test_rows_asked_for_again_change_the_balance(tmp_path: Path) -> None:
    """A writer that fails for one concept, then no more: --retry asks it again, and t is solved anew over all
    parts."""
    llm = {"helpers:FaultyLLM": "raise", "when": "dog"}
    data: dict[str, Any] = {
        "source": {"concepts": "bank.txt", "part_rows": 4},
        "models": {"llm": llm, "text_to_image": "helpers:NoPainter"},
        "paths": {"p": ["concept", "text*", "balance", "image*"]},
        "balance": {"size": 6, "bank": "bank.txt"},
        "variants": {"write": 1},
    }
    first = only_balance(balanced(tmp_path, **data), tmp_path, "run")
    t = solved(first)
    before = {r["parent"]: r["status"] for r in first.rows("balance")}
    assert len(before) == 11
    data["models"] = {**data["models"], "llm": {**llm, "when": "zebra"}}
    mended = balanced(tmp_path, **data)
    again = only_balance(mended, tmp_path, "run", update=True, retry=True)
    assert len(list(again.rows("balance"))) == 12
    assert solved(again) != t
    assert all(row.adds_up for row in again.ledger())
    (told,) = again.balances()
    assert (told["captions"], told["duplicates"], round(told["expected"])) == (12, 0, 6)


def test_another_bank_is_refused_with_both_digests(tmp_path: Path) -> None:
    only_balance(balanced(tmp_path), tmp_path, "run")
    (tmp_path / "bank.txt").write_text("\n".join(WORDS[1:]) + "\n")
    with pytest.raises(
        UserError, match=r"match: bank: bank.txt [0-9a-f]{16} exact -> bank.txt [0-9a-f]{16} exact"
    ):
        run(balanced(tmp_path), tmp_path / "run", base=tmp_path)
    only_balance(balanced(tmp_path), tmp_path, "run", update=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"balance": None}, "holds balance: add a block"),
        ({"paths": {"p": ["text", "image*"]}}, "no path of the recipe holds the node balance"),
        ({"paths": {"p": ["image", "balance", "tags"]}}, "follows text or text*, not 'image'"),
        ({"paths": {"p": ["text", "balance", "balance", "image*"]}}, "is given twice"),
        ({"balance": {"size": 3, "t": 2}}, "exactly one of size, t, random"),
        ({"balance": {"t": 0}}, "greater than 0"),
        ({"balance": {"size": 3}}, "name the bank"),
        (
            {"balance": {"size": 500, "bank": "bank.txt"}},
            "500 captions are wanted, but there will be 128 at most",
        ),
        (
            {"balance": {"size": 120, "bank": "bank.txt"}},
            "120 captions are wanted, but only 108 hold an entry",
        ),
        ({"balance": {"size": 3, "bank": "empty.txt"}}, "empty"),
        ({"balance": {"size": 3, "bank": "nowhere.txt"}}, "nowhere.txt"),
    ],
)
def test_what_cannot_be_balanced_is_an_error_of_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises((UserError, ValueError), match=re.escape(message)):
        run(balanced(tmp_path, **changes), tmp_path / "bad", base=tmp_path)


def test_synthclip_from_concepts_to_a_data_set(tmp_path: Path) -> None:
    recipe = balanced(
        tmp_path,
        source={"concepts": "bank.txt", "part_rows": 5},
        models={"llm": "realizer", "text_to_image": {"scenes": None, "size": 64}},
        paths={"synthclip": ["concept", "text*", "balance", "image*"]},
        variants={"write": 3},
        balance={"size": 14},
    )
    made = run(recipe, tmp_path / "run", base=tmp_path)
    painted = list(made.rows("paint"))
    assert painted
    assert {r["parent"] for r in painted} == {r["id"] for r in made.rows("balance") if r["status"] == "ok"}
    assert all(row.adds_up for row in made.ledger())
    summary = export(made, tmp_path / "data")
    assert summary.written == {"capimg": len(painted)}
    lost = next(r for r in made.rows("balance") if r["reason"] == "not_sampled")
    assert "not_sampled" in as_text(made, lost["parent"])
    assert "chance" in as_text(made, painted[0]["id"])
    page = write_report(made, tmp_path / "report").read_text()
    assert f"<dt>kept</dt><dd>{len(painted)}<small>" in page, "what no judge looks at is kept"
    planned = {s["folder"]: s for s in estimate(recipe, tmp_path, tmp_path / "new", None)["stages"]}
    assert planned["paint"]["rows"] == 14


def test_dedupe_against_the_plain_rule() -> None:
    chance = np.random.default_rng(5)
    texts = [f"caption {n}" for n in chance.integers(0, 60, 200)]
    ranks = chance.integers(0, 2**63, 200).astype(np.uint64)
    cuts = [0, 1, 90, 90, 200]
    parts = [(n, dedupe.digests(texts[a:b]), ranks[a:b]) for n, (a, b) in enumerate(pairwise(cuts))]
    found = dedupe.find(parts)
    gone = {cuts[p] + int(r) for p, rows in found.items() for r in rows}
    best = {t: min((ranks[i], i) for i, other in enumerate(texts) if other == t)[1] for t in texts}
    assert gone == set(range(200)) - set(best.values())
    turned = dedupe.find(reversed(parts))
    assert {(p, int(r)) for p, x in turned.items() for r in x} == {
        (p, int(r)) for p, x in found.items() for r in x
    }
