"""Turns a scene into sentences by rule (2b): the grammar of `realizer`. The seed picks one of several
frames."""

from collections.abc import Sequence

from ....lang.words import PREPOSITIONS, article
from .scene import Clause, Noun, Scene, predicate, reduced, with_subjects
from .vocabulary import ATTACHED

FAR = 3  # most words between a subject and its predicate, or a predicate and its object


def sentences(scene: Scene, seed: int, *, also: bool = False) -> str:
    """Says every noun, clause and loose attribute of the scene once; "" for an empty scene. `also`: the
    sentences continue a text."""
    return _Speaker(scene, seed, also).speak()


def capital(text: str) -> str:
    """Capitalises the first letter."""
    return text[:1].upper() + text[1:]


def listed(phrases: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`"""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _far(between: str, words: str, wanted: str) -> bool:
    """Whether more than `FAR` words, without articles, are between the subject and the relation's own words.
    A clause that names its subject again begins at `, and the`."""
    lead = words[: -len(wanted)] if words.endswith(wanted) else ""
    last = between.rpartition(", and the ")[2]
    count = sum(word not in ("a", "an", "the") for word in f"{last} {lead}".replace("-", " ").split())
    return count - (", and the " in between) > FAR


class _Speaker:
    """Says a scene once. Keeps track of the nouns that were named (`the dog` from then on) and the clauses
    that were not said yet (`open`)."""

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
            told = [self.seen([self.noun(i) for i in alone], self.scene.nouns[alone[0]])]
        elif alone:
            told[-1], last = self.added(told[-1], alone)
        return self.with_mood(told, last, bool(alone))

    def added(self, sentence: str, alone: list[int]) -> tuple[str, str]:
        """Adds nouns of no clause: returns the sentence with them, and a sentence of their own."""
        be = "are" if self.scene.nouns[alone[0]].many else "is"
        names = listed([self.noun(i) for i in alone])
        return (
            (f"{sentence}, with {names}", ""),
            (f"{sentence}, and there {be} {names}", ""),
            (sentence, f" There {be} also {names}."),
        )[(self.seed >> 8) % 3]

    def with_mood(self, told: list[str], last: str, alone: bool) -> str:
        """The whole text: loose attributes say what kind of scene it is; clauses are joined in pairs."""
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
        """The noun with what is attached to it (`a glass of wine`); if it is no subject, also its place (`a
        horse on a road`)."""
        noun = self.scene.nouns[i]
        if i in self.named:
            return f"the {noun.bare()}"
        self.named.add(i)
        return noun.first() + self.attached(self.take(i, ATTACHED if subject else ATTACHED | PREPOSITIONS))

    def take(self, subject: int | None, heads: frozenset[str] | None = None) -> list[Clause]:
        """The clauses of a subject that were not said yet (and begin with one of `heads`); they now count as
        said."""
        mine = [
            number
            for number in sorted(self.open)
            if self.clauses[number].subject == subject
            and (heads is None or self.clauses[number].words.partition(" ")[0] in heads)
        ]
        self.open.difference_update(mine)
        return [self.clauses[number] for number in mine]

    def attached(self, clauses: Sequence[Clause]) -> str:
        """` on a road next to a fence`, ` with cheese and a tomato`: equal words are said once."""
        out, before = "", ""
        for clause in clauses:
            words = "and" if clause.words == before and clause.object is not None else clause.words
            out += " " + self.said(clause, words)
            before = clause.words
        return out

    def said(self, clause: Clause, words: str) -> str:
        return f"{words} {self.noun(clause.object)}" if clause.object is not None else words

    def group(self, subject: int | None, opening: int) -> str:
        """One subject with everything that is said of it."""
        if subject is None:
            return "someone " + " and ".join(
                self.said(clause, predicate(clause.words, False)) for clause in self.take(None)
            )
        noun, known = self.scene.nouns[subject], subject in self.named
        name = self.noun(subject, subject=True)
        # where it is, then what it does
        said = sorted(self.take(subject), key=lambda c: c.words.partition(" ")[0] not in PREPOSITIONS)
        if not said:
            return self.seen([name], noun)
        head = f"the {noun.bare()}" if known else noun.first()
        if not opening and _far(name[len(head) :], predicate(said[0].words, noun.many), said[0].words):
            opening = 1  # the subject needs a verb of its own before it is named again
        start, lead = 2 if self.also and noun.known else opening, ""
        if start and not known:
            lead = "we can see " if start == 2 else f"there {self.be(noun.many)} "
        return lead + head + self.told_of(noun, said, name[len(head) :], bool(opening) and not known)

    def be(self, many: bool) -> str:
        """`is`, `are`, `is also`, `are also`"""
        return f"{'are' if many else 'is'}{' also' if self.also else ''}"

    def told_of(self, noun: Noun, clauses: list[Clause], out: str, relative: bool) -> str:
        """Everything that follows the subject's noun: ` by a pool is wearing a hat and a scarf`; `relative`
        after `there is a man`. A clause more than `FAR` words from its subject names it again, because
        readers and matchers lose it otherwise."""
        before, be = "", ""
        # with an action at the end, places before it need no verb
        last = clauses[-1].words.partition(" ")[0] not in PREPOSITIONS
        for clause in clauses:
            verbless = (last or relative) and clause.words.partition(" ")[0] in PREPOSITIONS
            words = predicate(clause.words, noun.many)
            short = reduced(clause.words)
            if relative or verbless:
                words = short if short is not None else f"that {words}"
            elif short is not None and words.partition(" ")[0] == be:
                words = words.partition(" ")[2]
            after_place = relative and before.partition(" ")[0] in PREPOSITIONS
            joined = "" if verbless or not before or after_place else " and"
            if clause.words == before and clause.object is not None and not self.wordy(clauses, clause):
                out += f" and {self.noun(clause.object)}"  # wearing a hat and a scarf
            elif _far(out + joined, words, clause.words) and out:
                words, relative = predicate(clause.words, noun.many), False
                be = words.partition(" ")[0]
                out += f", and the {noun.bare()} {self.said(clause, words)}"
            else:
                if not (verbless or relative or short is None):
                    be = predicate(clause.words, noun.many).partition(" ")[0]
                out += f"{joined} {self.said(clause, words)}"
            before = clause.words
        return out

    def wordy(self, clauses: list[Clause], clause: Clause) -> bool:
        """Whether the previous object and this one's modifiers are too long to share a predicate."""
        previous = clauses[clauses.index(clause) - 1].object
        nouns = self.scene.nouns
        own = len(nouns[clause.object].modifiers) if clause.object is not None else 0
        return previous is None or len(nouns[previous].full().split()) + 1 + own > FAR

    def seen(self, names: list[str], first: Noun) -> str:
        """Nouns of which nothing more is said."""
        style = int(first.known) if self.also else (self.seed >> 8) % 4
        if style == 0:
            return f"there {self.be(first.many)} {listed(names)}"
        if style == 1:
            return f"we can see {listed(names)}"
        be, close = ("are", "together") if len(names) > 1 else ("are" if first.many else "is", "up close")
        return f"{listed(names)} {be} {'in plain view' if style == 2 else f'seen {close}'}"
