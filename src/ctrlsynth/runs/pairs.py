"""Which image-text pairs a run holds, why each is kept or not, and which of them leave it (section 4.1): cap,
img, capimg, mix. Export, gallery, explain and sweep read this.

All of it works on one source row and the rows that descend from it (`reader.Parts.families`)."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..errors import UserError
from ..recipe.paths import Step
from ..sample import ancestor, last_step, parent, stem, variant
from ..stages.boxes import box_of
from .reader import Family, Parts, Row, RunReader

PairKind = Literal["cap", "img", "capimg", "original"]
_READ = (
    "id", "status", "source_key", "caption", "metadata", "width", "height", "sha256", "file", "member",
    "offset", "length",
)  # fmt: skip
_MADE = {
    "text": ("id", "status", "reason", "source_key", "text", "template", "model", "clip_tokens", "truncated"),
    "image": ("id", "status", "reason", "source_key", "style", "prompt", "model", "width", "height"),
}
_CHILD = ("source_key", "parent", "status", "reason")
_JUDGED = {"text": ("edited",), "image": ("text", "original", "original_unedited", "unsafe")}


class Fate(NamedTuple):
    """What became of a row, a pair or a sample: kept | unjudged | rejected (by a judge) | dropped | failed |
    unfinished; the reason, and the folder that decided, both empty when it is kept."""

    verdict: str
    reason: str = ""
    where: str = ""

    @property
    def against(self) -> str | None:
        """Returns why it does not leave the run, or None."""
        if self.verdict in ("kept", "unjudged"):
            return None
        return "not_judged" if self.verdict in ("failed", "unfinished") else self.reason


@dataclass(frozen=True, slots=True)
class Made:
    """A synthetic text or image whose row is `ok`. `seen`: the tags of the painted image, if they were read;
    `judged`: its judge's row, which may be missing."""

    step: Step
    row: Row
    fate: Fate
    judged: Row | None = None
    seen: Row | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """One image and one text of a source row; None: the original's."""

    kind: PairKind
    id: str
    folder: str
    source: Row
    text: Made | None = None
    image: Made | None = None

    @property
    def fate(self) -> Fate:
        """Kept when each synthetic member is, else what became of the first that is not."""
        return worst([m.fate for m in (self.text, self.image) if m is not None])

    @property
    def reason(self) -> str | None:
        """Why the pair does not leave the run, or None."""
        return self.fate.against

    @property
    def words(self) -> str:
        """The text of the pair."""
        return str((self.text.row["text"] if self.text is not None else self.source["caption"]) or "")

    @property
    def variant(self) -> int:
        """The number of the text's variant: 1 for `.../write.1`; texts without a number count as 0."""
        return variant("/" + last_step(self.text.row["id"])) if self.text is not None else 0


def worst(fates: Sequence[Fate]) -> Fate:
    """Returns the first fate that is neither kept nor unjudged; else kept, if anything was judged."""
    bad = next((f for f in fates if f.verdict not in ("kept", "unjudged")), None)
    return bad or Fate("kept" if any(f.verdict == "kept" for f in fates) else "unjudged")


class Shape:
    """What a run's steps say about its pairs. Mappings go by folder of texts or images.

    made      the steps of texts, then those of images
    judges    the judge behind each
    seen      folder of texts -> the folder of images that they were written from; None: the original image
    balances  folder of texts -> the balance behind it, where every path through the one passes the other
    tagged    the folder of the original images' tags, if there is one
    paths     name of a path -> its folders, from `read` to the last that it makes
    """

    def __init__(self, run: RunReader) -> None:
        self.steps = {s.folder: s for s in run.steps}
        self.made = [s for medium in ("text", "image") for s in run.steps if box_of(s).makes == medium]
        self.judges = {
            str(s.parent) if box_of(s).judges == "text" else s.uses["paint"]: s
            for s in run.steps
            if box_of(s).judges
        }
        self.seen: dict[str, str | None] = {}
        self.kinds: dict[str, PairKind] = {}
        for step in self.made:
            above = {box_of(self.steps[f]).makes: f for f in _chain(self.steps, str(step.parent))}
            if box_of(step).makes == "text":
                self.seen[step.folder] = above.get("image")
                self.kinds[step.folder] = "capimg" if "image" in above else "cap"
            else:
                self.kinds[step.folder] = "capimg" if "text" in above else "img"
        self.balances = {
            str(s.parent): s.folder
            for s in run.steps
            if box_of(s).barrier and set(self.steps[str(s.parent)].paths) <= set(s.paths)
        }
        of_originals = ("tag", "tag", "read")
        tags = (s.folder for s in run.steps if (s.kind, s.label, s.parent) == of_originals)
        self.tagged = next(tags, None)
        self.paths: dict[str, tuple[str, ...]] = {}
        for name in run.recipe.paths:
            mine = [s for s in run.steps if name in s.paths and box_of(s).on_path]
            ends = [s for s in mine if s.kind != "tag"] or mine
            if ends:
                self.paths[name] = _chain(self.steps, ends[-1].folder)

    def columns(self, texts: bool = True, images: bool = False) -> dict[str, Sequence[str]]:
        """Returns the columns that pairs need, by folder; `texts`: what is written of them, too, `images`:
        the encoded images."""
        wanted: dict[str, Sequence[str]] = {"read": _READ if texts else _READ[:3]}
        for step in self.made:
            medium = box_of(step).makes or "text"
            names = _MADE[medium] if texts else _MADE[medium][:4]
            wanted[step.folder] = (*names, "image") if images and medium == "image" else names
            if step.folder in self.judges:
                wanted[self.judges[step.folder].folder] = (*_CHILD, "verdict", *_JUDGED[medium])
        wanted |= dict.fromkeys(self.balances.values(), _CHILD)
        if self.tagged is not None:
            wanted[self.tagged] = ("source_key", "status")
        return wanted

    def made_of(self, family: Family) -> dict[str, Made]:
        """Returns id -> every synthetic text and image of one source row that is `ok`, with its fate."""
        out: dict[str, Made] = {}
        for step in self.made:
            judge = self.judges.get(step.folder)
            judged = {r["parent"]: r for r in family[judge.folder]} if judge is not None else {}
            seen: dict[str, Row] = {}
            if judge is not None and box_of(step).makes == "image":  # judged by its tags
                judged = {parent(i): r for i, r in judged.items()}
                seen = {r["parent"]: r for r in family.get(str(judge.parent), []) if "parent" in r}
            balance = self.balances.get(step.folder)
            sampled = {r["parent"]: r for r in family[balance]} if balance is not None else {}
            for row in family[step.folder]:
                if row["status"] == "ok":
                    found, tags = judged.get(row["id"]), seen.get(row["id"])
                    fate = _fate(judge, found, tags)
                    if balance is not None and fate.against is None:
                        draw = sampled.get(row["id"], {"status": "dropped", "reason": "not_balanced"})
                        if draw["status"] != "ok":
                            fate = Fate("dropped", draw["reason"] or "", balance)
                    out[row["id"]] = Made(step, row, fate, found, tags)
        return out

    def pairs(self, source: Row, family: Family) -> Iterator[Pair]:
        """Yields every pair that descends from one source row; a text or image that was never made gives
        none."""
        made = self.made_of(family)
        images = {i: m for i, m in made.items() if m.step.folder not in self.seen}
        for row_id, member in made.items():
            folder = member.step.folder
            kind = self.kinds[folder]
            if folder not in self.seen:
                text = made.get(parent(row_id).removesuffix("/balance"))
                yield Pair(kind, row_id, folder, source, text, member)
            elif self.seen[folder] is None:
                yield Pair(kind, row_id, folder, source, member)
            elif (image := ancestor(row_id, images)) is not None:  # else an update removed the image
                yield Pair(kind, row_id, folder, source, member, image)


@dataclass(slots=True)
class Sample:
    """One source row followed along one path, or several that share all their steps, as far as it came.

    rows    (step, row) from the source to the last row that there is
    made    folder -> the text or image on the way
    others  folder of texts -> the candidates that were not chosen
    """

    rows: list[tuple[Step, Row]]
    made: dict[str, Made]
    others: dict[str, list[Row]]
    fate: Fate
    paths: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The id of the last row."""
        return str(self.rows[-1][1]["id"])


def samples_of(shape: Shape, source: Row, family: Family) -> list[Sample]:
    """Returns the samples of one source row, in the order of the recipe's paths; the same fate by the same
    steps is one sample."""
    made = shape.made_of(family)
    children: dict[tuple[str, str], list[Row]] = {}
    for folder, rows in family.items():
        for row in rows:
            children.setdefault((folder, row["parent"]), []).append(row)
    found: dict[tuple[str, Fate], Sample] = {}
    for name, chain in shape.paths.items():
        for way in _walk(shape, chain, [(shape.steps["read"], source)], children):
            mine = {s.folder: made[r["id"]] for s, r in way if r["id"] in made}
            others = {
                s.folder: [
                    o
                    for o in children[s.folder, r["parent"]]
                    if o is not r and stem(o["id"]) == stem(r["id"])
                ]
                for s, r in way
                if box_of(s).makes == "text"
            }
            fate = _followed(chain, way, mine)
            sample = found.setdefault((way[-1][1]["id"], fate), Sample(way, mine, others, fate))
            sample.paths = (*sample.paths, name)
    return list(found.values())


def _walk(
    shape: Shape,
    chain: Sequence[str],
    way: list[tuple[Step, Row]],
    children: Mapping[tuple[str, str], list[Row]],
) -> Iterator[list[tuple[Step, Row]]]:
    last = way[-1][1]
    if last["status"] != "ok" or len(way) == len(chain):
        yield way
        return
    step = shape.steps[chain[len(way)]]
    below = children.get((step.folder, last["id"]), [])
    if box_of(step).makes == "text":  # the chosen candidate, or the first where none could be chosen
        best: dict[str, Row] = {}
        for row in below:
            if row["chosen"] or stem(row["id"]) not in best:
                best[stem(row["id"])] = row
        below = list(best.values())
    if not below:
        yield way
    for row in below:
        yield from _walk(shape, chain, [*way, (step, row)], children)


def _followed(chain: Sequence[str], way: Sequence[tuple[Step, Row]], made: Mapping[str, Made]) -> Fate:
    """The fate of what was followed along a chain of folders."""
    step, row = way[-1]
    if row["status"] != "ok":
        return Fate(row["status"], row["reason"] or "", step.folder)
    if step.folder != chain[-1]:
        if step.folder in made and made[step.folder].fate.verdict in ("rejected", "failed"):
            return made[step.folder].fate
        after = chain[len(way)]
        return Fate("unfinished", f"no row in {after}", after)
    last = {box_of(m.step).makes: m.fate for m in made.values()}
    return worst([last[medium] for medium in ("text", "image") if medium in last])


def _chain(by_folder: Mapping[str, Step], folder: str) -> tuple[str, ...]:
    """The folders from `read` down to this one."""
    above = by_folder[folder].parent
    return (*_chain(by_folder, above), folder) if above is not None else (folder,)


def _fate(judge: Step | None, judged: Row | None, seen: Row | None) -> Fate:
    """The fate of a row that is `ok`, by its judge's row and, of an image, the tags that it was judged by."""
    if judge is None:
        return Fate("unjudged")
    if seen is not None and seen["status"] != "ok":
        return Fate(seen["status"], seen["reason"] or "", str(judge.parent))
    if judged is None:
        return Fate("unfinished", f"no row in {judge.folder}", judge.folder)
    if judged["status"] == "failed" or judged["verdict"] is None:
        return Fate("failed", judged["reason"] or "", judge.folder)
    return Fate("kept") if judged["verdict"] == "kept" else Fate("rejected", judged["verdict"], judge.folder)


def families(
    run: RunReader, shape: Shape, texts: bool = True, images: bool = False
) -> Iterator[tuple[Row, Family]]:
    """Yields every source row that is `ok` with the columns of what descends from it that pairs need."""
    parts = Parts(run)
    for index in parts.indexes():
        for source, family in parts.families(index, shape.columns(texts, images)):
            if source["status"] == "ok":
                yield source, family


@dataclass(frozen=True)
class Mix:
    """Which pairs leave: `use` and `share_text` of the recipe's `mix`, resolved for this run.

    mix takes one pair per source row from every folder of texts and of images: cap from `write.0`, capimg
    from the first kept of `write.1` onwards, so that no batch holds a caption twice; with `share`, or if only
    one text was written, capimg is painted from `write.0` as well. If the run makes only one kind of pair,
    mix is all of that kind. `without`: folders whose pairs do not leave; with `latest`, those of images that
    were captioned again."""

    kinds: frozenset[str]
    one_each: bool = False
    share: bool = False
    note: str = ""
    without: frozenset[str] = frozenset()

    def take(self, pairs: Iterable[Pair]) -> list[Pair]:
        """Returns the pairs of one source row that leave the run, in their order."""
        kept = [
            p for p in pairs if p.reason is None and p.kind in self.kinds and p.folder not in self.without
        ]
        if not self.one_each:
            return kept
        out: list[Pair] = []
        for pair in kept:
            wanted = (pair.variant == 0) == (pair.kind == "cap" or self.share)
            second_round = pair.text is not None and pair.image is not None and pair.text.row["id"] == pair.id
            if (wanted or second_round) and all(p.folder != pair.folder for p in out):
                out.append(pair)
        return out


def mix_of(run: RunReader, use: str | None = None, share_text: bool | None = None) -> Mix:
    """Resolves the mix; `use` replaces the recipe's. Raises UserError for a kind of pair that no path of the
    run makes."""
    shape, mix = Shape(run), run.recipe.mix
    use = use or mix.use
    again = frozenset(p for p in shape.seen.values() if p is not None) if mix.latest else frozenset()
    made = set(shape.kinds.values())
    if len(made) > 1 and use == "mix" and (run.recipe.source.text or run.recipe.source.concepts):
        made.discard("cap")  # there is no original image to go with the text
    if use != "mix":
        if use not in made:
            path = {"cap": "SP1", "img": "SP4", "capimg": "SP3"}[use]
            raise UserError(
                f"{run.root}: no path of this run makes {use} pairs (it makes "
                f"{', '.join(sorted(made)) or 'none'}); add {path} to paths"
            )
        return Mix(frozenset({use}), without=again)
    if not made:
        raise UserError(f"{run.root}: no path of this run makes a text or an image; add SP1 or SP3 to paths")
    if {"cap", "capimg"} <= made:
        single = run.recipe.variants.write == 1
        share = single or (mix.share_text if share_text is None else share_text)
        folders = [folder for folder, image in shape.seen.items() if image is None]
        note = "cap and capimg of one source share their text"
        if single and not mix.share_text:
            note += " (variants.write is 1; with 2 they would differ)"
        note = note if share else "cap uses write.0, capimg the first kept of write.1 and on"
        note += f"; each of {', '.join(folders)} gives a cap pair" if len(folders) > 1 else ""
        return Mix(frozenset({"cap", "capimg"}), True, share, note, again)
    kind = next(k for k in ("capimg", "cap", "img") if k in made)
    return Mix(
        frozenset({kind}),
        note=f"the run makes {kind} pairs, and not both cap and capimg, so mix is all of its {kind} pairs",
        without=again,
    )


def count_pairs(run: RunReader, use: str | None = None) -> int:
    """Returns how many synthetic pairs would leave the run: what `judge.target` counts."""
    shape, mix = Shape(run), mix_of(run, use)
    return sum(len(mix.take(shape.pairs(*found))) for found in families(run, shape, texts=False))


def licence_of(source: Row) -> str | None:
    """Returns what the source says of the licence of an original image, if it has such a column."""
    known = json.loads(source["metadata"]) if source["metadata"] else {}
    found = known.get("licence") or known.get("license")
    return str(found) if found else None
