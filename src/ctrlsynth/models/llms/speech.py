"""A scene put into sentences by rule (2b): the grammar of `realizer`. One frame of several, by the seed."""

from __future__ import annotations

from collections.abc import Sequence

from ...words import article
from .scene import Clause, Scene, predicate, reduced, with_subjects
from .vocabulary import ATTACHED, PREPOSITIONS


def sentences(scene: Scene, seed: int, *, also: bool = False) -> str:
    """Every noun, clause and loose attribute of the scene, said once; "" for an empty scene. `also`: a text stands before it."""
    return _Speaker(scene, seed, also).speak()


def capital(text: str) -> str:
    """The first letter large, the rest as it is."""
    return text[:1].upper() + text[1:]


def listed(phrases: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`"""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


class _Speaker:
    """Says a scene once. Remembers which nouns were named (`the dog` from then on) and which clauses were said."""

    def __init__(self, scene: Scene, seed: int, also: bool) -> None:
        self.scene, self.seed, self.also = scene, seed, also
        self.named: set[int] = set()
        self.clauses = with_subjects(scene)
        self.open = set(range(len(self.clauses)))

    def speak(self) -> str:
        told: list[str] = []
        opening = 1 if self.also else self.seed % 3
        for number, clause in enumerate(self.clauses):
            if number in self.open:
                told.append(self.group(clause.subject, opening if not told else 0))
        alone = [i for i in self.scene.alone if i not in self.named]
        last = ""
        if not told and alone:
            many = self.scene.nouns[alone[0]].many
            told = [self.seen([self.noun(i) for i in alone], many, 0 if self.also else (self.seed >> 8) % 4)]
        elif alone:
            told[-1], last = self.added(told[-1], alone)
        return self.with_mood(told, last, bool(alone))

    def added(self, sentence: str, alone: list[int]) -> tuple[str, str]:
        """Nouns of no clause: at the end of the sentence, or in one of their own."""
        many, names = self.scene.nouns[alone[0]].many, listed([self.noun(i) for i in alone])
        style = (self.seed >> 8) % 3
        if style == 0:
            return f"{sentence}, with {names}", ""
        if style == 1:
            return f"{sentence}, and there {'are' if many else 'is'} {names}", ""
        return sentence, f" There {'are' if many else 'is'} also {names}."

    def with_mood(self, told: list[str], last: str, alone: bool) -> str:
        """Loose attributes say what kind of scene it is; sentences are joined in twos."""
        loose = self.scene.loose
        mood = f"in {article(loose[0])} {listed(loose)} scene" if loose else ""
        if not told:
            return f"This is {mood[3:]}." if mood else ""
        if mood and (self.seed >> 16) % 2:
            told[0] = f"{mood}, {told[0]}"
        elif mood:
            told[-1] += f", {mood}" if alone and not last else f" {mood}"
        pairs = (", and ".join(told[n : n + 2]) for n in range(0, len(told), 2))
        return " ".join(capital(pair) + "." for pair in pairs) + last

    def noun(self, i: int, *, subject: bool = False) -> str:
        """The noun with what hangs on it: `a glass of wine`; unless it is a subject also where it is: `a horse on a road`."""
        noun = self.scene.nouns[i]
        if i in self.named:
            return f"the {noun.bare()}"
        self.named.add(i)
        hanging = []
        for number, clause in enumerate(self.clauses):
            head = clause.words.partition(" ")[0]
            if number in self.open and clause.subject == i and (head in ATTACHED or (not subject and head in PREPOSITIONS)):
                self.open.discard(number)
                hanging.append(clause)
        return noun.first() + self.places(hanging)

    def places(self, clauses: Sequence[Clause]) -> str:
        """` on a road next to a fence`, ` with cheese and a tomato`: the same words are said once."""
        out, before = "", ""
        for clause in clauses:
            words = "and" if clause.words == before and clause.object is not None else clause.words
            out += " " + self.said(clause, words)
            before = clause.words
        return out

    def said(self, clause: Clause, words: str) -> str:
        return f"{words} {self.noun(clause.object)}" if clause.object is not None else words

    def group(self, subject: int | None, opening: int) -> str:
        """One subject with all that is said of it."""
        if subject is None:
            mine = [number for number in sorted(self.open) if self.clauses[number].subject is None]
            self.open.difference_update(mine)
            return "someone " + " and ".join(self.said(self.clauses[n], predicate(self.clauses[n].words, False)) for n in mine)
        many, known = self.scene.nouns[subject].many, subject in self.named
        name = self.noun(subject, subject=True)
        mine = [number for number in sorted(self.open) if self.clauses[number].subject == subject]
        self.open.difference_update(mine)
        places = [self.clauses[n] for n in mine if self.clauses[n].words.partition(" ")[0] in PREPOSITIONS]
        actions = [self.clauses[n] for n in mine if self.clauses[n].words.partition(" ")[0] not in PREPOSITIONS]
        if not mine:
            return self.seen([name], many, 0 if self.also else (self.seed >> 8) % 4)
        if opening and not known:
            be = "we can see" if opening == 2 else f"there {'are' if many else 'is'}{' also' if self.also else ''}"
            return f"{be} {name}{self.places(places)}{self.actions(actions, many, relative=True)}"
        if actions:
            return f"{name}{self.places(places)}{self.actions(actions, many, relative=False)}"
        return f"{name} {'are' if many else 'is'}{self.places(places)}"

    def actions(self, clauses: list[Clause], many: bool, *, relative: bool) -> str:
        """` is wearing a hat and riding a horse`; after `there is a man`: ` wearing a hat and riding a horse`."""
        out, before, be = "", "", ""
        for clause in clauses:
            short = reduced(clause.words)
            words = predicate(clause.words, many)
            if relative:
                words = short if short is not None else f"that {words}"
            elif short is not None and words.partition(" ")[0] == be:
                words = words.partition(" ")[2]
            else:
                be = words.partition(" ")[0]
            if clause.words == before and clause.object is not None:
                out += f" and {self.noun(clause.object)}"  # wearing a hat and a scarf
            else:
                out += f"{' and' if out else ''} {self.said(clause, words)}"
            before = clause.words
        return out

    def seen(self, names: list[str], many: bool, style: int) -> str:
        """Nouns of which nothing more is said."""
        be = "are" if many or (len(names) > 1 and style > 1) else "is"
        if style == 0:
            return f"there {be}{' also' if self.also else ''} {listed(names)}"
        if style == 1:
            return f"we can see {listed(names)}"
        return f"{listed(names)} {be} {'in plain view' if style == 2 else 'seen together' if len(names) > 1 else 'seen up close'}"
