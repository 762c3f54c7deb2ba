"""A scene put into sentences by rule (2b): the grammar of `realizer`. One frame of several, by the seed."""

from __future__ import annotations

from collections.abc import Sequence

from ....lang.words import PREPOSITIONS, article
from .scene import Clause, Noun, Scene, predicate, reduced, with_subjects
from .vocabulary import ATTACHED

FAR = 3  # words that may stand between a subject and its predicate, or a predicate and its object


def sentences(scene: Scene, seed: int, *, also: bool = False) -> str:
    """Every noun, clause and loose attribute of the scene, said once; "" for an empty scene. `also`: a text
    stands before it."""
    return _Speaker(scene, seed, also).speak()


def capital(text: str) -> str:
    """The first letter large, the rest as it is."""
    return text[:1].upper() + text[1:]


def listed(phrases: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`"""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _far(between: str, words: str, wanted: str) -> bool:
    """More than `FAR` words, articles aside, from the subject to the relation's own words. A new clause
    begins at a comma."""
    lead = words[: -len(wanted)] if words.endswith(wanted) else ""
    last = between.rpartition(", and the ")[2] if ", and the " in between else between
    return (
        sum(word not in ("a", "an", "the") for word in f"{last} {lead}".replace("-", " ").split())
        - (", and the " in between)
        > FAR
    )


class _Speaker:
    """Says a scene once. Remembers which nouns were named (`the dog` from then on) and which clauses were
    said."""

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
            told = [self.seen([self.noun(i) for i in alone], many, self.style(self.scene.nouns[alone[0]]))]
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
        """The noun with what hangs on it: `a glass of wine`; unless it is a subject also where it is: `a
        horse on a road`."""
        noun = self.scene.nouns[i]
        if i in self.named:
            return f"the {noun.bare()}"
        self.named.add(i)
        hanging = []
        for number, clause in enumerate(self.clauses):
            head = clause.words.partition(" ")[0]
            if (
                number in self.open
                and clause.subject == i
                and (head in ATTACHED or (not subject and head in PREPOSITIONS))
            ):
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
            return "someone " + " and ".join(
                self.said(self.clauses[n], predicate(self.clauses[n].words, False)) for n in mine
            )
        noun, known = self.scene.nouns[subject], subject in self.named
        name = self.noun(subject, subject=True)
        mine = [number for number in sorted(self.open) if self.clauses[number].subject == subject]
        self.open.difference_update(mine)
        said = [self.clauses[n] for n in mine]
        said.sort(
            key=lambda clause: clause.words.partition(" ")[0] not in PREPOSITIONS
        )  # where it is, then what it does
        if not said:
            return self.seen([name], noun.many, self.style(noun))
        head = f"the {noun.bare()}" if known else noun.first()
        if not opening and _far(name[len(head) :], predicate(said[0].words, noun.many), said[0].words):
            opening = 1  # the subject needs a verb of its own before it is named again
        return (
            self.lead(2 if self.also and noun.known else opening, known, noun.many)
            + head
            + self.told_of(noun, said, name[len(head) :], bool(opening) and not known)
        )

    def lead(self, opening: int, known: bool, many: bool) -> str:
        if not opening or known:
            return ""
        return (
            "we can see "
            if opening == 2
            else f"there {'are' if many else 'is'}{' also' if self.also else ''} "
        )

    def told_of(self, noun: Noun, clauses: list[Clause], out: str, relative: bool) -> str:
        """All that follows the subject's noun: ` by a pool is wearing a hat and a scarf`; `relative` after
        `there is a man`. A clause that would stand more than `FAR` words from its subject names it again:
        readers and matchers lose it otherwise."""
        before, be = "", ""
        last = (
            clauses[-1].words.partition(" ")[0] not in PREPOSITIONS
        )  # an action at the end: places before it need no verb
        for clause in clauses:
            verbless = (last or relative) and clause.words.partition(" ")[0] in PREPOSITIONS
            words = predicate(clause.words, noun.many)
            short = reduced(clause.words)
            if relative or verbless:
                words = short if short is not None else f"that {words}"
            elif short is not None and words.partition(" ")[0] == be:
                words = words.partition(" ")[2]
            joined = (
                ""
                if verbless or not before or (relative and before.partition(" ")[0] in PREPOSITIONS)
                else " and"
            )
            if clause.words == before and clause.object is not None and not self.wordy(clauses, clause):
                out += f" and {self.noun(clause.object)}"  # wearing a hat and a scarf
            elif _far(out + joined, words, clause.words) and out:
                words, relative = predicate(clause.words, noun.many), False
                be = words.partition(" ")[0]
                out += f", and the {noun.bare()} {self.said(clause, words)}"
            else:
                be = (
                    be
                    if verbless or relative or short is None
                    else predicate(clause.words, noun.many).partition(" ")[0]
                )
                out += f"{joined} {self.said(clause, words)}"
            before = clause.words
        return out

    def wordy(self, clauses: list[Clause], clause: Clause) -> bool:
        """Whether the object before and this one's modifiers are too many words to share one predicate."""
        previous = clauses[clauses.index(clause) - 1].object
        nouns = self.scene.nouns
        own = len(nouns[clause.object].modifiers) if clause.object is not None else 0
        return previous is None or len(nouns[previous].full().split()) + 1 + own > FAR

    def style(self, first: Noun) -> int:
        return (1 if first.known else 0) if self.also else (self.seed >> 8) % 4

    def seen(self, names: list[str], many: bool, style: int) -> str:
        """Nouns of which nothing more is said."""
        be = "are" if many or (len(names) > 1 and style > 1) else "is"
        if style == 0:
            return f"there {be}{' also' if self.also else ''} {listed(names)}"
        if style == 1:
            return f"we can see {listed(names)}"
        return (
            f"{listed(names)} {be} "
            f"{'in plain view' if style == 2 else 'seen together' if len(names) > 1 else 'seen up close'}"
        )
