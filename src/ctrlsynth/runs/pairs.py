"""Which image-text pairs a finished run holds, and which of them leave it (section 4.1): cap, img, capimg,
mix.

All tables of a run hold their rows in the source's order, part by part, so this is a merge: for each source
row the rows that descend from it, nothing else in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UserError
from ..recipe.paths import Step
from ..sample import ancestor, parent, variant
from ..storage.parts import RunFolder
from .reader import RunReader

PairKind = Literal["cap", "img", "capimg", "original"]
Row = dict[str, Any]

_READ = (
    "id",
    "status",
    "source_key",
    "caption",
    "metadata",
    "width",
    "height",
    "sha256",
    "file",
    "member",
    "offset",
    "length",
)
_TEXT = ("id", "status", "source_key", "text", "template", "model", "clip_tokens", "truncated")
_PAINT = ("id", "status", "source_key", "style", "prompt", "model", "width", "height")
_JUDGE = ("source_key", "parent", "verdict")


@dataclass(frozen=True, slots=True)
class Pair:
    """One image and one text of a source row. `text` and `image` are rows of a write and a paint table; None:
    the original's.

    `reason` is None when each synthetic member passes its judge, else the first verdict against it.
    """

    kind: PairKind
    id: str
    folder: str
    source: Row
    text: Row | None = None
    image: Row | None = None
    text_verdict: Row | None = None
    image_verdict: Row | None = None
    reason: str | None = None

    @property
    def words(self) -> str:
        """The text of the pair."""
        return str((self.text["text"] if self.text is not None else self.source["caption"]) or "")

    @property
    def variant(self) -> int:
        """The number of the text's variant: 1 for `.../write.1`; texts without a number count as 0."""
        return variant(self.text["id"]) if self.text is not None else 0


@dataclass(frozen=True)
class Shape:
    """What a run's steps say about its pairs: folders of texts and images, the judge behind each, the image
    that a text was made from.

    balances   folder of texts -> the balance behind it, where every path through the one goes on through the
               other
    """

    texts: tuple[Step, ...]
    paints: tuple[Step, ...]
    judges: Mapping[str, str]
    seen: Mapping[str, str | None]
    tagged: str | None = None
    kinds: Mapping[str, PairKind] = field(default_factory=dict)
    balances: Mapping[str, str] = field(default_factory=dict)


def shape_of(steps: Sequence[Step]) -> Shape:
    """Reads the tree of steps. `seen`: write folder -> the paint folder above it, or None for the original
    image."""
    by_folder = {s.folder: s for s in steps}
    judges = {}
    for step in steps:
        if step.kind == "judge-text":
            judges[str(step.parent)] = step.folder
        elif step.kind == "judge-image":
            judges[step.uses["paint"]] = step.folder
    texts = tuple(s for s in steps if s.kind == "write")
    paints = tuple(s for s in steps if s.kind == "paint")
    seen: dict[str, str | None] = {}
    kinds: dict[str, PairKind] = {}
    for step in texts:
        above: Step | None = step
        while above is not None and above.kind != "paint":
            above = by_folder[above.parent] if above.parent else None
        seen[step.folder] = above.folder if above is not None else None
        kinds[step.folder] = "cap" if above is None else "capimg"
    balances = {
        str(s.parent): s.folder
        for s in steps
        if s.kind == "balance" and set(by_folder[str(s.parent)].paths) <= set(s.paths)
    }
    for step in paints:
        text = by_folder[str(step.parent)]
        text = by_folder[str(text.parent)] if text.kind == "balance" else text
        kinds[step.folder] = "img" if text.kind == "read" else "capimg"
    tagged = next(
        (s.folder for s in steps if s.kind == "tag" and s.parent == "read" and s.label == "tag"), None
    )
    return Shape(texts, paints, judges, seen, tagged, kinds, balances)


class Groups:
    """One table's part, read along with the source: the rows of one source key after the other."""

    def __init__(
        self,
        run: RunFolder,
        folder: str,
        index: int,
        versions: Sequence[str],
        columns: Sequence[str],
        size: int = 1024,
    ) -> None:
        self._rows = _rows(run, folder, index, versions[-1], columns, size) if versions else iter(())
        self._next: Row | None = next(self._rows, None)

    def take(self, source_key: str) -> list[Row]:
        """The rows of `source_key`, which must be asked for in the source's order."""
        out = []
        while self._next is not None and self._next["source_key"] == source_key:
            out.append(self._next)
            self._next = next(self._rows, None)
        return out


def _rows(
    folder: RunFolder, name: str, index: int, digest: str, columns: Sequence[str], size: int
) -> Iterator[Row]:
    for batch in folder.batches(name, index, digest, columns, size):
        yield from batch.to_pylist()


def source_rows(run: RunReader, images: bool = False) -> Iterator[tuple[Row, dict[str, list[Row]]]]:
    """(row of `read`, folder -> rows that descend from it) for every source row that is `ok`; with `images`
    the painted bytes too."""
    shape = shape_of(run.steps)
    folder = RunFolder(run.root)
    wanted: dict[str, tuple[Sequence[str], int]] = {s.folder: (_TEXT, 1024) for s in shape.texts}
    wanted |= {s.folder: ((*_PAINT, "image"), 16) if images else (_PAINT, 1024) for s in shape.paints}
    for made, judge in shape.judges.items():
        wanted[judge] = (
            (*_JUDGE, *(("edited",) if made in shape.seen else ("text", "original", "original_unedited"))),
            1024,
        )
    wanted |= dict.fromkeys(shape.balances.values(), (("source_key", "parent", "status", "reason"), 1024))
    if shape.tagged is not None:
        wanted[shape.tagged] = (("source_key", "status"), 1024)
    listings = {name: folder.listing(name) for name in wanted}
    for index, versions in sorted(folder.listing("read").items()):
        tables = {
            name: Groups(folder, name, index, listings[name].get(index, ()), *how)
            for name, how in wanted.items()
        }
        for row in _rows(folder, "read", index, versions[-1], _READ, 1024):
            if row["status"] == "ok":
                yield row, {name: table.take(row["source_key"]) for name, table in tables.items()}


def pairs_of(shape: Shape, source: Row, groups: Mapping[str, list[Row]]) -> list[Pair]:
    """Every pair that descends from one source row, with its verdict; texts and images that were never made
    are none."""
    out = []
    texts: dict[str, tuple[Row, Row | None, str | None]] = {}
    images: dict[str, tuple[Row, Row | None, str | None]] = {}
    for step in shape.texts:
        texts.update(_judged(shape, step.folder, groups, 0))
    for step in shape.paints:
        images.update(_judged(shape, step.folder, groups, 1))
    for step in shape.texts:
        for row in groups[step.folder]:
            if row["id"] not in texts:
                continue
            _, verdict, reason = texts[row["id"]]
            paint = shape.seen[step.folder]
            if paint is None:
                out.append(Pair("cap", row["id"], step.folder, source, row, None, verdict, None, reason))
                continue
            above = ancestor(row["id"], images)
            if above is not None:  # else an update removed the image and has not reached its texts yet
                image, seen, fault = above
                out.append(
                    Pair("capimg", row["id"], step.folder, source, row, image, verdict, seen, reason or fault)
                )
    for step in shape.paints:
        for row in groups[step.folder]:
            if row["id"] not in images:
                continue
            _, seen, fault = images[row["id"]]
            made_from = parent(row["id"]).removesuffix("/balance")
            text, verdict, reason = texts.get(made_from, (None, None, None))
            out.append(
                Pair(
                    shape.kinds[step.folder],
                    row["id"],
                    step.folder,
                    source,
                    text,
                    row,
                    verdict,
                    seen,
                    reason or fault,
                )
            )
    return out


def _judged(
    shape: Shape, folder: str, groups: Mapping[str, list[Row]], steps: int
) -> dict[str, tuple[Row, Row | None, str | None]]:
    """id -> (row, judge's row, reason against it) of a table's sound rows. The judge's parent is `steps`
    steps below the row."""
    judge = shape.judges.get(folder)
    verdicts = {}
    for row in groups[judge] if judge is not None else ():
        verdicts[parent(row["parent"]) if steps else row["parent"]] = row
    sampled = {r["parent"]: r for r in groups[shape.balances[folder]]} if folder in shape.balances else None
    out: dict[str, tuple[Row, Row | None, str | None]] = {}
    for row in groups[folder]:
        if row["status"] != "ok":
            continue
        verdict = verdicts.get(row["id"])
        reason = None
        if judge is not None:
            reason = (
                "not_judged" if verdict is None or verdict["verdict"] is None else str(verdict["verdict"])
            )
            reason = None if reason == "kept" else reason
        if (
            sampled is not None and reason is None
        ):  # a caption that a gate kept from the balance has its judge's reason
            fate = sampled.get(row["id"])
            reason = "not_balanced" if fate is None else fate["reason"]
        out[row["id"]] = (row, verdict, reason)
    return out


@dataclass(frozen=True)
class Choice:
    """How pairs are chosen: `use` and `share_text` of the recipe's `mix`, settled for this run.

    mix takes one pair a source from every folder of texts and of images: cap from `write.0`, capimg from the
    first kept of `write.1` and on, so that no batch holds a caption twice; with `share`, or where only one
    text was written, capimg is painted from `write.0` as well. Where the run makes only one kind of pair, mix
    is all of that kind. `without`: folders whose pairs stay; of images that were captioned again, with
    `latest`."""

    kinds: frozenset[str]
    one_each: bool = False
    share: bool = False
    note: str = ""
    without: frozenset[str] = frozenset()

    def take(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs of one source row that leave the run, in their order."""
        kept = [
            p for p in pairs if p.reason is None and p.kind in self.kinds and p.folder not in self.without
        ]
        if not self.one_each:
            return kept
        out: list[Pair] = []
        for pair in kept:
            wanted = (pair.variant == 0) == (pair.kind == "cap" or self.share)
            second_round = (
                pair.kind == "capimg"
                and pair.text is not None
                and pair.image is not None
                and pair.text["id"] == pair.id
            )
            if (wanted or second_round) and all(p.folder != pair.folder for p in out):
                out.append(pair)
        return out


def choice_of(run: RunReader, use: str | None = None, share_text: bool | None = None) -> Choice:
    """Settles the mix; `use` in place of the recipe's. Raises UserError for a kind of pair that no path of
    the run makes."""
    shape = shape_of(run.steps)
    mix = run.recipe["mix"]
    use = use or str(mix["use"])
    again = frozenset(p for p in shape.seen.values() if p is not None) if mix.get("latest") else frozenset()
    made = set(shape.kinds.values())
    if (
        len(made) > 1
        and use == "mix"
        and (run.recipe["source"].get("text") or run.recipe["source"].get("concepts"))
    ):
        made.discard("cap")  # there is no original image to go with the text
    if use != "mix":
        if use not in made:
            path = {"cap": "SP1", "img": "SP4", "capimg": "SP3"}[use]
            raise UserError(
                f"{run.root}: no path of this run makes {use} pairs (it makes "
                f"{', '.join(sorted(made)) or 'none'}); add {path} to paths"
            )
        return Choice(frozenset({use}), without=again)
    if not made:
        raise UserError(f"{run.root}: no path of this run makes a text or an image; add SP1 or SP3 to paths")
    if {"cap", "capimg"} <= made:
        single = int(run.recipe["variants"]["write"]) == 1
        share = single or bool(mix["share_text"] if share_text is None else share_text)
        folders = [s.folder for s in shape.texts if shape.seen[s.folder] is None]
        note = "cap and capimg of one source share their text"
        if single and not mix["share_text"]:
            note += " (variants.write is 1; with 2 they would differ)"
        note = note if share else "cap uses write.0, capimg the first kept of write.1 and on"
        note += f"; each of {', '.join(folders)} gives a cap pair" if len(folders) > 1 else ""
        return Choice(frozenset({"cap", "capimg"}), True, share, note, again)
    kind = next(k for k in ("capimg", "cap", "img") if k in made)
    return Choice(
        frozenset({kind}),
        note=f"the run makes {kind} pairs, and not both cap and capimg, so mix is all of its {kind} pairs",
        without=again,
    )


def count_pairs(run: RunReader, use: str | None = None) -> int:
    """How many synthetic pairs of the run would leave it: what `judge.target` counts."""
    shape, choice = shape_of(run.steps), choice_of(run, use)
    return sum(len(choice.take(pairs_of(shape, source, groups))) for source, groups in source_rows(run))


def tally(pairs: Sequence[Pair], counts: Counter[tuple[str, str]]) -> None:
    """Adds pairs to counts of (kind, `kept` or the reason)."""
    for pair in pairs:
        counts[pair.kind, pair.reason or "kept"] += 1
