"""Grammars (llama.cpp's GBNF) that bind a small model's sentence to the request's phrases (2b).

SmolLM2-135M left alone forgets a quarter of the objects and adds its own. Bound, the nouns stand in the sentence with their modifiers, in
the order of the clauses, a relation stands between its two nouns, and what joins them comes from a list of joining words or, for a caption
that is rewritten, from the caption's own words. The model still chooses articles, verbs, prepositions and conjunctions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .scene import Scene, reduced

# What may stand between two nouns that no relation ties: whole phrases, so that a small model cannot pile up prepositions.
LINKS = (
    "and", "with", "and also", "next to", "beside", "near", "close to", "by", "in front of", "behind", "above", "below", "under", "over", "on", "on top of", "in",
    "inside", "at", "among", "across from", "against", "along", "from", "of", "full of", "covered with", "made of", "surrounded by", "to the left of",
    "to the right of", "is on", "is in", "is near", "is next to", "is behind", "is under", "is in front of", "is beside", "are on", "are in", "are near", "are next to",
    "stands on", "stands in", "stands near", "stands next to", "stands beside", "stands behind", "stands in front of", "lies on", "lies in", "lies next to",
    "has", "holds", "that has", "while there is", "and there is", "and there are",
)  # fmt: skip
# Single words that may stand between the caption's own words where a caption is reworded.
JOINING = tuple(
    "a an the and with is are of on in at to by near next behind under over beside from for that while as his her its their there".split()
)
ALONE = ("is seen up close", "stands alone", "is in plain view", "is in the middle", "is seen from the side", "fills the view")
ALONE_MANY = ("are seen up close", "stand together", "are in plain view", "are in the middle", "are seen from the side", "fill the view")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


def quote(text: str) -> str:
    """A GBNF string literal; characters that are not printable are dropped."""
    clean = "".join(c for c in text if c.isprintable())
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'


def alternatives(texts: Iterable[str]) -> str:
    """`( "a" | "b" )`, without repeats."""
    return "( " + " | ".join(quote(text) for text in dict.fromkeys(texts)) + " )"


@dataclass(slots=True)
class _Step:
    """One piece of the sentence: how it is joined to the piece before, and its forms. `many`: the number of the noun before."""

    forms: list[str]
    relation: str = ""
    many: bool = False


def sentence(scene: Scene, words: tuple[int, int] | None = None, extra: Sequence[str] = ()) -> str:
    """One sentence that names every noun of the scene; `extra` words may join them as well; `words` bounds its length (a scene that
    needs more words than that still gets them)."""
    steps = _steps(scene)
    if not steps:
        return free(words, " and ".join(scene.loose) or None)
    out = [alternatives(_capital(form) for form in steps[0].forms)]
    for step in steps[1:]:
        forms = f'" " {alternatives(step.forms)}' if step.forms else ""
        if step.relation:
            out.append(f"{_verbs(step)} {quote(' ' + step.relation)} {forms}")
        else:
            out.append(f'{"(" if extra else ""} ","? " " link{" | (" + chr(34) + " " + chr(34) + " w){1,5} )" if extra else ""} {forms}')
    if len(steps) == 1 and not scene.loose:
        out.append(alternatives(f" {verb}" for verb in (ALONE_MANY if steps[0].many else ALONE)))
    if scene.loose:
        out.append(f'" in a " {quote(" and ".join(scene.loose))} {alternatives([" scene", " view", " place"])}')
    least = sum(len(step.forms[0].split()) if step.forms else 0 for step in steps) + sum(
        len(step.relation.split()) or 1 for step in steps[1:]
    )
    if words is not None and least < words[0]:
        out.append(f'","? (" " f){{{words[0] - least},{max(words[0], words[1]) - least}}}')
    rules = ["root ::= " + " ".join(out) + ' "."', f"link ::= {alternatives(LINKS)}", "f ::= [a-z]+"]
    if extra:
        rules.append(f"w ::= {alternatives(sorted(set(JOINING) | set(_plain(extra))))}")
    return "\n".join(rules)


def _verbs(step: _Step) -> str:
    """An optional verb before a relation's words, in the number of its subject."""
    if reduced(step.relation) is None:
        return ""
    ing = step.relation.partition(" ")[0].endswith(("ing", "ed"))
    be = ("are", "that are") if step.many else ("is", "that is")
    more = () if ing else (("are standing", "are lying", "stand", "lie") if step.many else ("is standing", "is lying", "stands", "lies"))
    return alternatives(f" {verb}" for verb in be + more) + "?"


def _steps(scene: Scene) -> list[_Step]:
    """The pieces in the order of the sentence: clauses first, each noun in full at its first mention, nouns of no clause last."""
    steps: list[_Step] = []
    last: int | None = None
    seen: set[int] = set()

    def name(i: int, relation: str = "") -> None:
        nonlocal last
        noun = scene.nouns[i]
        forms = [f"the {noun.bare()}"] if i in seen else [noun.first(), f"the {noun.full()}"]
        steps.append(_Step(forms, relation, scene.nouns[last if last is not None else i].many))
        seen.add(i)
        last = i

    for clause in scene.clauses:
        start = clause.subject if clause.subject is not None else (0 if last is None and clause.object != 0 else None)
        if start is not None and start != last:
            name(start)
        if clause.object is not None:
            name(clause.object, clause.words if last is not None else "")
        elif last is not None and clause.words:
            steps.append(_Step([], clause.words, scene.nouns[last].many))
    for i in scene.alone:
        if i not in seen:
            name(i)
    return steps


def free(words: tuple[int, int] | None = None, must: str | None = None) -> str:
    """One plain sentence of lower-case words; `must` is a phrase that stands in it."""
    least, most = words or (4, 24)
    if must is None:
        return f'root ::= [A-Z] [a-z]* (" " f){{{max(1, least - 1)},{max(2, most - 1)}}} "."\nf ::= [a-z]+ ("\'s" | "-" [a-z]+)? ","?'
    own = len(must.split())
    before, after = max(0, min(8, most - own - 1)), max(1, most - own - 8)
    return (
        f'root ::= ( {quote(_capital(must))} | [A-Z] [a-z]* (" " f){{0,{before}}} {quote(" " + must)} ) '
        f'(" " f){{{max(1, least - own - 4)},{after}}} "."\nf ::= [a-z]+ ("\'s" | "-" [a-z]+)? ","?'
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in _WORD.findall(text)]
