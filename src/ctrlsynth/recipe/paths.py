"""Synthesis paths: checks a recipe's `paths` and turns them into a tree of stages that share common steps.
The only owner of which node may follow which, and by which kind of stage.

A path lists what is available after each step: `image text tags concept`; `+` joins inputs, `*` marks what is
synthesised (DESIGN, section 6; CtrlSynth, section 3.2). Between two nodes is one box of the figure:

    image, image*, text, text*  -> tags, tags*    tag     (2a; tags of something synthetic are tags*)
    tags [+ text], text, concept -> text*         write   (3a + 2b; the inputs choose the template family)
    image, image*               -> text*          caption (2a: the tagger's own caption)
    text, text*                 -> image*         paint   (3b + 2c)
    text, text*                 -> balance        match, balance: fewer captions, no concept over-represented
                                (SynthCLIP, section 3.2)

Ids, seeds and keys do not depend on paths: two paths with the same beginning share its stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal

from ..errors import UserError, unknown

Kind = Literal["read", "tag", "write", "match", "balance", "paint", "judge-text", "judge-image"]
Family = Literal["tags", "tags+text", "text", "concept", "caption"]

BUILT_IN: dict[str, list[str]] = {
    "SP1": ["image", "tags", "text*"],
    "SP2": ["image", "tags+text", "text*"],
    "SP3": ["image", "tags", "text*", "image*"],
    "SP4": ["text", "image*"],
}
NODES = ("image", "text", "tags", "concept", "balance", "image*", "text*", "tags*")
_STARTS = ("image", "text", "concept")
_BETWEEN = {
    ("image", "image"): "tags and text*",
    ("tags", "image"): "text*",
    ("concept", "image"): "text*",
    ("concept", "tags"): "text*",
    ("tags", "tags"): "text* (and image*)",
    ("tags+text", "image"): "text*",
    ("tags+text", "tags"): "text* (and image*)",
    ("image+text", "text"): "tags+text",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a run: a box of the figure at its place in the tree.

    folder   its table's folder in the run
    label    the step that it adds to an id (`write+text`; rows add their numbers)
    parent   folder of the rows that it starts from
    uses     other folders that it looks up by id: role -> folder
    family   write: which templates
    paths    names of the paths that include it
    """

    folder: str
    kind: Kind
    label: str
    parent: str | None = None
    uses: Mapping[str, str] = field(default_factory=dict)
    family: Family | None = None
    paths: tuple[str, ...] = ()


def resolve(paths: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Name -> nodes, with SP1..SP4 expanded. UserError with the nearest name for an unknown name or node."""
    out: dict[str, list[str]] = {}
    for name, nodes in paths.items():
        if len(nodes) == 1 and nodes[0] not in NODES:
            if nodes[0] not in BUILT_IN:
                raise unknown("path", nodes[0], BUILT_IN, "paths")
            nodes = BUILT_IN[nodes[0]]
        for node in nodes:
            for part in node.split("+"):
                if part not in NODES:
                    raise unknown("node", part, NODES, f"paths.{name}")
        out[name] = list(nodes)
    if not out:
        raise UserError("paths: name at least one path, such as SP1")
    return out


def plan_steps(
    paths: Mapping[str, Sequence[str]],
    judged: bool,
    gate: bool = False,
    original: bool = False,
    known: Mapping[str, str] | None = None,
    matched: bool = True,
) -> list[Step]:
    """The stages of all paths, parents before children.

    judged    put a judge behind every write, and a tagger and a judge behind every paint
    gate      later stages skip what the judge rejects
    original  the images' judge needs the original image's tags even if no path makes them
    known     position in the tree -> folder of an earlier plan: a stage keeps its folder when paths change
    matched   balance by the concepts in captions, which are matched first, rather than at random
    """
    tree = _Tree(dict(known or {}))
    for name, nodes in resolve(paths).items():
        _walk(tree, name, nodes, judged, gate, original, matched)
    return tree.ordered()


def places(steps: Sequence[Step]) -> dict[str, str]:
    """Position in the tree -> folder: `known` for the next `plan_steps`."""
    found: dict[str, str] = {}
    for step in steps:
        found[step.folder] = _place(step.kind, step.label, found.get(str(step.parent)))
    return {place: folder for folder, place in found.items()}


def _place(kind: Kind, label: str, above: str | None) -> str:
    own = kind if kind in ("judge-text", "judge-image") else label
    return f"{above} > {own}" if above else own


class _Tree:
    """Steps by position in the tree; gives each a unique folder name."""

    def __init__(self, known: dict[str, str]) -> None:
        self.steps: dict[str, Step] = {}
        self.place: dict[str, str] = {}
        self.known = known
        self.add("read", "read", "read", None, "", {})

    def add(
        self,
        kind: Kind,
        label: str,
        stem: str,
        parent: str | None,
        path: str,
        uses: Mapping[str, str],
        family: Family | None = None,
    ) -> str:
        place = _place(kind, label, self.place.get(str(parent)))
        for step in self.steps.values():
            if self.place[step.folder] == place:
                merged = {**step.uses, **uses}
                names = step.paths if path in step.paths else (*step.paths, path)
                self.steps[step.folder] = replace(step, uses=merged, paths=names)
                return step.folder
        taken = {*self.steps, *self.known.values()}
        stems = (stem if n == 1 else f"{stem}.{n}" for n in count(1))
        folder = self.known.get(place) or next(name for name in stems if name not in taken)
        self.steps[folder] = Step(folder, kind, label, parent, dict(uses), family, (path,) if path else ())
        self.place[folder] = place
        return folder

    def ordered(self) -> list[Step]:
        """Sorts the steps topologically: a step comes after everything that it reads."""
        out: list[Step] = []
        left = list(self.steps.values())
        while left:
            done = {s.folder for s in out}
            ready = next(
                s for s in left if (s.parent is None or s.parent in done) and set(s.uses.values()) <= done
            )
            out.append(ready)
            left.remove(ready)
        return out


def _walk(
    tree: _Tree, name: str, nodes: Sequence[str], judged: bool, gate: bool, original: bool, matched: bool
) -> None:
    where = f"paths.{name}"
    if not nodes or nodes[0] not in _STARTS:
        raise UserError(
            f"{where}: a path starts with image, text or concept, not {nodes[0] if nodes else 'nothing'!r}"
        )
    if len(nodes) < 2:
        raise UserError(
            f"{where}: a path needs a step: list what is available after each, such as image, tags, text*"
        )
    hand = {nodes[0]: "read"} | ({} if nodes[0] == "concept" else {"text": "read", "image": "read"})
    judges: dict[str, str] = {}  # a synthetic folder -> the judge behind it
    last = [nodes[0]]
    for target in nodes[1:]:
        if target == "balance":  # the same kind of data, only less of it
            hand[last[0]] = _balance(tree, name, where, last, hand, judges if gate else {}, matched)
            continue
        wanted = target.split("+")
        fresh = _fresh(where, wanted, last, hand)
        folder = _step(tree, name, where, last, fresh, hand, judges if gate else {})
        hand[fresh] = folder
        if judged and fresh in ("text*", "image*"):
            judge = _judge(tree, name, folder, hand, fresh, original)
            judges[str(tree.steps[judge].parent)] = (
                judge  # of an image: the tags of it, which the judge needs whatever it decides
            )
        last = wanted


def _gates(last: list[str], hand: Mapping[str, str], judges: Mapping[str, str]) -> dict[str, str]:
    """The judge whose rejected rows the next step skips: the one that judged the rows it starts from."""
    start = hand[next((e for e in last if e.startswith("tags")), last[0])]
    return {f"gate {start}": judges[start]} if start in judges else {}


def _fresh(where: str, wanted: list[str], last: list[str], hand: Mapping[str, str]) -> str:
    """The one element of a joined node that this step makes; the others must exist already."""
    if len(wanted) > 2 or len({w.rstrip("*") for w in wanted}) != len(wanted):
        raise UserError(f"{where}: {'+'.join(wanted)!r}: only tags and a text can be joined")
    if len(wanted) == 1:
        return wanted[0]
    fresh = [w for w in wanted if w.startswith("tags")]
    others = [w for w in wanted if not w.startswith("tags")]
    if not fresh or not others[0].startswith("text"):
        raise UserError(f"{where}: {'+'.join(wanted)!r}: only tags and a text can be joined")
    if others[0] not in hand:
        raise UserError(
            f"{where}: {'+'.join(wanted)!r} after {'+'.join(last)!r}: there is no {others[0]} yet"
        )
    if fresh[0] in last and fresh[0] in hand:
        raise UserError(f"{where}: {'+'.join(wanted)!r} after {'+'.join(last)!r}: write the join in one node")
    return fresh[0]


def _step(
    tree: _Tree,
    name: str,
    where: str,
    last: list[str],
    fresh: str,
    hand: Mapping[str, str],
    judges: Mapping[str, str],
) -> str:
    gates = _gates(last, hand, judges)
    kinds = sorted(e.rstrip("*") for e in last)
    goal = fresh.rstrip("*")
    synthetic = fresh.endswith("*")
    if goal == "tags" and kinds in (["image"], ["text"]):
        if synthetic != last[0].endswith("*"):
            right = "tags*" if last[0].endswith("*") else "tags"
            raise UserError(f"{where}: tags of {last[0]} are {right}, not {fresh}")
        label = "tag" if kinds == ["image"] else "tag+text"
        return tree.add("tag", label, "tag", hand[last[0]], name, gates)
    if goal == "text" and synthetic:
        if kinds in (["tags"], ["tags", "text"], ["text"], ["concept"]):
            tags = next((e for e in last if e.startswith("tags")), None)
            family: Family = "tags+text" if len(kinds) == 2 else kinds[0]  # type: ignore[assignment]
            text = next((hand[e] for e in last if e.startswith(("text", "concept"))), None)
            label = "write+text" if family == "tags+text" else "write"
            uses = {"text": text} if family == "tags+text" and text else {}
            return tree.add(
                "write", label, "write", hand[tags] if tags else str(text), name, {**uses, **gates}, family
            )
        if kinds == ["image"]:
            tag = tree.add("tag", "tag", "tag", hand[last[0]], name, {})
            return tree.add(
                "write", "caption", "write", tag, name, _gates(["tags"], {"tags": tag}, judges), "caption"
            )
    if goal == "image" and synthetic and kinds == ["text"]:
        return tree.add("paint", "paint", "paint", hand[last[0]], name, gates)
    raise _impossible(where, last, fresh)


def _balance(
    tree: _Tree,
    name: str,
    where: str,
    last: list[str],
    hand: Mapping[str, str],
    judges: Mapping[str, str],
    matched: bool,
) -> str:
    """Matches the available captions against the concept bank, unless at random, and balances them."""
    if len(last) != 1 or last[0].rstrip("*") != "text":
        raise UserError(
            f"{where}: balance follows text or text*, not {'+'.join(last)!r}; it chooses among captions"
        )
    parent = hand[last[0]]
    if tree.steps[parent].kind == "balance":
        raise UserError(f"{where}: balance is given twice; once is enough")
    gates = _gates(last, hand, judges)
    uses = {"matches": tree.add("match", "match", "match", parent, name, gates)} if matched else {}
    return tree.add("balance", "balance", "balance", parent, name, {**uses, **gates})


def _impossible(where: str, last: list[str], fresh: str) -> UserError:
    ends = f"{'+'.join(last)!r} to {fresh!r}"
    if fresh in ("image", "text", "concept") and fresh + "*" in NODES:
        return UserError(
            f"{where}: nothing leads from {ends}: what a path makes carries a star; did you mean "
            f"{fresh + '*'!r}?"
        )
    if fresh == "concept":
        return UserError(f"{where}: nothing leads from {ends}: a concept only starts a path")
    between = _BETWEEN.get(
        ("+".join(sorted(e.rstrip("*") for e in last)), fresh.rstrip("*")), "tags and text*"
    )
    return UserError(f"{where}: nothing leads from {ends}; {between} could go between")


def _judge(tree: _Tree, name: str, folder: str, hand: Mapping[str, str], fresh: str, original: bool) -> str:
    if fresh == "text*":
        family = tree.steps[folder].family
        uses = (
            {"text": hand["text"]}
            if family == "text" and tree.steps[folder].parent == hand.get("text")
            else {}
        )
        return tree.add("judge-text", "judge", "judge-text", folder, name, uses)
    paint = tree.steps[folder]
    again = tree.add("tag", "tag", "tag", folder, name, {})
    text = tree.steps[str(paint.parent)]
    uses = {"paint": folder, "text": str(text.parent) if text.kind == "balance" else text.folder}
    if "tags" in hand:
        uses["original"] = hand["tags"]
    elif original and "image" in hand:
        uses["original"] = tree.add("tag", "tag", "tag", "read", name, {})
    return tree.add("judge-image", "judge", "judge-image", again, name, uses)
