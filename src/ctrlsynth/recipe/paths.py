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
from typing import Any, Literal

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
    tree = _Tree(known or {})
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
    """Steps by folder; each position in the tree has a folder of its own."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.steps = {"read": Step("read", "read", "read")}
        self.place = {"read": "read"}
        self.known = {"read": "read", **known}

    def add(
        self,
        kind: Kind,
        label: str,
        parent: str,
        path: str,
        uses: Mapping[str, str],
        family: Family | None = None,
    ) -> str:
        place = _place(kind, label, self.place[parent])
        if place not in self.known:
            names = (kind if n == 1 else f"{kind}.{n}" for n in count(1))
            self.known[place] = next(name for name in names if name not in self.known.values())
        folder = self.known[place]
        self.place[folder] = place
        step = self.steps.get(folder) or Step(folder, kind, label, parent, family=family)
        uses, named = {**step.uses, **uses}, dict.fromkeys((*step.paths, path))
        self.steps[folder] = replace(step, uses=uses, paths=tuple(named))
        return folder

    def ordered(self) -> list[Step]:
        """Sorts the steps topologically: a step comes after everything that it reads."""
        out: dict[str | None, Step] = {None: self.steps["read"]}
        while len(out) <= len(self.steps):
            ready = next(
                s
                for s in self.steps.values()
                if s.folder not in out and {s.parent, *s.uses.values()} <= out.keys()
            )
            out[ready.folder] = ready
        return list(out.values())[1:]


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
    hand = {"concept": "read"} if nodes[0] == "concept" else {"text": "read", "image": "read"}
    judges: dict[str, str] = {}  # a synthetic folder -> the judge behind it
    gates = judges if gate else {}
    last = [nodes[0]]
    for target in nodes[1:]:
        if target == "balance":  # the same kind of data, only less of it
            hand[last[0]] = _balance(tree, name, last, hand, gates, matched)
            continue
        wanted = target.split("+")
        fresh = _fresh(where, wanted, last, hand)
        hand[fresh] = folder = _step(tree, name, last, fresh, hand, gates)
        if judged and fresh in ("text*", "image*"):
            judge = _judge(tree, name, folder, hand, fresh, original)
            judges[str(tree.steps[judge].parent)] = (
                judge  # of an image: the tags of it, which the judge needs whatever it decides
            )
        last = wanted


def _start(last: list[str], hand: Mapping[str, str], judges: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The folder of the rows that the next step starts from, and the judge whose rejected rows it skips: the
    one that judged these rows."""
    start = hand[next((e for e in last if e.startswith("tags")), last[0])]
    return start, {f"gate {start}": judges[start]} if start in judges else {}


def _fresh(where: str, wanted: list[str], last: list[str], hand: Mapping[str, str]) -> str:
    """The one element of a joined node that this step makes; the others must exist already."""
    if len(wanted) == 1:
        return wanted[0]
    join = "+".join(wanted)
    if sorted(w.rstrip("*") for w in wanted) != ["tags", "text"]:
        raise UserError(f"{where}: {join!r}: only tags and a text can be joined")
    fresh, text = sorted(wanted)
    if text not in hand:
        raise UserError(f"{where}: {join!r} after {'+'.join(last)!r}: there is no {text} yet")
    if fresh in last and fresh in hand:
        raise UserError(f"{where}: {join!r} after {'+'.join(last)!r}: write the join in one node")
    return fresh


def _step(
    tree: _Tree, name: str, last: list[str], fresh: str, hand: Mapping[str, str], judges: Mapping[str, str]
) -> str:
    start, gates = _start(last, hand, judges)
    before = "+".join(sorted(e.rstrip("*") for e in last))
    if fresh.rstrip("*") == "tags" and before in ("image", "text"):
        right = "tags*" if last[0].endswith("*") else "tags"
        if fresh != right:
            raise UserError(f"paths.{name}: tags of {last[0]} are {right}, not {fresh}")
        return tree.add("tag", "tag" if before == "image" else "tag+text", start, name, gates)
    if fresh == "text*" and before in ("tags", "tags+text", "text", "concept"):
        family: Any = before
        if family == "tags+text":
            gates = {"text": hand[max(last)], **gates}  # text sorts after tags
        return tree.add("write", "write+text" if len(last) > 1 else "write", start, name, gates, family)
    if (before, fresh) == ("image", "text*"):
        tag = tree.add("tag", "tag", start, name, {})
        return tree.add("write", "caption", tag, name, _start(["tags"], {"tags": tag}, judges)[1], "caption")
    if (before, fresh) == ("text", "image*"):
        return tree.add("paint", "paint", start, name, gates)
    raise _impossible(name, last, before, fresh)


def _balance(
    tree: _Tree,
    name: str,
    last: list[str],
    hand: Mapping[str, str],
    judges: Mapping[str, str],
    matched: bool,
) -> str:
    """Matches the available captions against the concept bank, unless at random, and balances them."""
    if last not in (["text"], ["text*"]):
        raise UserError(
            f"paths.{name}: balance follows text or text*, not {'+'.join(last)!r}; it chooses among captions"
        )
    start, gates = _start(last, hand, judges)
    if tree.steps[start].kind == "balance":
        raise UserError(f"paths.{name}: balance is given twice; once is enough")
    uses = {"matches": tree.add("match", "match", start, name, gates)} if matched else {}
    return tree.add("balance", "balance", start, name, {**uses, **gates})


def _impossible(name: str, last: list[str], before: str, fresh: str) -> UserError:
    if fresh in ("image", "text"):
        hint = f": what a path makes carries a star; did you mean {fresh + '*'!r}?"
    elif fresh == "concept":
        hint = ": a concept only starts a path"
    else:
        hint = f"; {_BETWEEN.get((before, fresh.rstrip('*')), 'tags and text*')} could go between"
    return UserError(f"paths.{name}: nothing leads from {'+'.join(last)!r} to {fresh!r}{hint}")


def _judge(tree: _Tree, name: str, folder: str, hand: Mapping[str, str], fresh: str, original: bool) -> str:
    made = tree.steps[folder]
    if fresh == "text*":
        same = made.family == "text" and made.parent == hand.get("text")
        uses = {"text": hand["text"]} if same else {}
        return tree.add("judge-text", "judge", folder, name, uses)
    again = tree.add("tag", "tag", folder, name, {})
    text = tree.steps[str(made.parent)]
    uses = {"paint": folder, "text": str(text.parent) if text.kind == "balance" else text.folder}
    if "tags" in hand:
        uses["original"] = hand["tags"]
    elif original and "image" in hand:
        uses["original"] = tree.add("tag", "tag", "read", name, {})
    return tree.add("judge-image", "judge", again, name, uses)
