"""Reads a prompt's text for `scenes` (2c): the objects, their counts, colours, sizes and relations, and the
place.

A shallow parse from left to right: it takes the longest known phrase at each position, collects modifiers
until their noun comes, and keeps a predicate until its object comes. Style words are removed first, so that
they are never objects."""

import re
from dataclasses import dataclass, field

from ....lang import wordnet
from ....lang.words import singular
from .vocabulary import (
    CLOTHES,
    CONTAINERS,
    MEASURES,
    PEOPLE,
    disambiguated,
    is_adjective,
    is_noun,
    nearest,
    vocabulary,
    words,
)

MOST = 12  # drawings of one kind in a picture; twice that in total
_TOKEN = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|[,.;:!?()\n]")
_NEW = frozenset("another other second third fourth".split())
_PRONOUNS = frozenset("it he she they".split())
_BE = frozenset("is are was were".split())
_MANY = {"people": 2, "crowd": 5, "audience": 5}
_VERBS = frozenset("sit sits stand stands lie lies rest rests is are was were".split())
_PLACES_ALONE = frozenset("water wave waves park track wall stage snow".split())  # after a noun: no compound


@dataclass(slots=True)
class Mention:
    """A kind of object in the text. `name`: of its drawing; `word`: the text's own noun; `scale`: size
    factor from words and weights."""

    name: str
    word: str
    count: int = 1
    colour: str | None = None
    scale: float = 1.0
    side: str | None = None
    sentence: int = 0


@dataclass(slots=True)
class Reading:
    """What a text says. `relations`: (subject, predicate, object) by index into `mentions`; `set_in`:
    relations to the place, such as `dog on beach`."""

    mentions: list[Mention] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    place: str | None = None
    place_word: str = ""
    weather: list[str] = field(default_factory=list)
    style: str = ""
    set_in: list[str] = field(default_factory=list)
    not_drawn: list[str] = field(default_factory=list)


def read(text: str) -> Reading:
    """Parses a prompt; an empty text gives an empty reading."""
    low = text.lower()
    asked = [words().styles[m.group(0)] for m in words().style_pattern.finditer(low)]
    reader = _Reader(_TOKEN.findall(words().style_pattern.sub(" ", low)))
    reader.run()
    reader.out.style = max(filter(None, asked), key=asked.count, default="")
    return reader.out


class _Reader:
    """The state of one parse: the position, the modifiers that have no noun yet, the predicate without
    object."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.sentence = tokens, 0, 0
        self.out = Reading()
        self.spoken: list[int] = []  # mentions of this sentence, in order
        self.first_before: list[int] = []  # first mention of the previous sentence: what a pronoun means
        self.run_of: list[int] = []  # `a dog and a cat`: subjects that share a predicate
        self.joined = self.new_clause = False  # after `and`; and whether a comma preceded it
        self.clause: list[int] = []  # mentions since the last comma or `and`
        self.verb = False  # after a finite verb, whose subject is the clause's first noun
        self.predicate: str | None = None
        self.subjects: list[int] = []
        # `on the table is a cup`: a predicate and object that came before their subject
        self.landmark: tuple[str, int] | None = None
        self._clear()

    def _clear(self) -> None:
        """Forgets the modifiers that wait for a noun."""
        self.count: int | None = None
        self.colours: list[str] = []
        self.scale = 1.0
        self.others: list[str] = []
        self.article = ""
        self.copula = False

    def run(self) -> None:
        while self.at < len(self.tokens):
            kind, value, length = self._match()
            phrase = " ".join(self.tokens[self.at : self.at + length])
            self.at += length
            getattr(self, f"_on_{kind}")(phrase, value)
        self._on_mark(".", None)

    def _match(self) -> tuple[str, object, int]:
        """The longest known phrase here: its kind, value and number of tokens. Objects take precedence over
        scenery of the same length."""
        if not self._ahead(0)[0].isalnum():
            return "mark", None, 1
        known, vocab = words().phrases, vocabulary()
        two = f"{self._ahead(0)} {self._ahead(1)}"
        if (  # two words that name a thing without a drawing, even of a WordNet ancestor: `fire hydrant`
            self._ahead(0) not in known
            and self._ahead(1)[:1].isalnum()
            and vocab.find(two) is None
            and wordnet.morphy(two, "n") is not None
            and nearest(two) is None
        ):
            return "lacking", None, 2
        for length in range(min(5, len(self.tokens) - self.at), 0, -1):
            phrase = " ".join(self.tokens[self.at : self.at + length])
            entry = known.get(phrase) or known.get(singular(phrase))
            name = vocab.find(phrase) if length <= vocab.longest else None
            if entry is not None and entry[0] == "colour" and name is not None and not self._paints(length):
                entry = None  # `an orange` is a fruit, `an orange cat` is not
            if entry is not None and (name is None or entry[0] in ("colour", "relation", "function")):
                if entry[0] == "count" and length == 1 and phrase in MEASURES and self._ahead(1) != "of":
                    continue
                if entry[0] == "place" and length == 1 and self._is_verb(phrase):
                    return "function", phrase, 1
                return (*entry, length)
            if name is not None and not (length == 1 and self._is_verb(phrase)):
                return "object", name, length
        if self._ahead(1) == "of" and self._ahead(0) in MEASURES:
            return "function", "", 2
        return "unknown", None, 1

    def _on_lacking(self, phrase: str, value: None) -> None:
        self.out.not_drawn.append(phrase)
        self.predicate = None
        self._clear()

    def _ahead(self, by: int) -> str:
        """The token `by` tokens ahead (behind, if negative), "" beyond the text."""
        return self.tokens[self.at + by] if 0 <= self.at + by < len(self.tokens) else ""

    def _kind_ahead(self, by: int) -> str:
        """The kind of the known word `by` tokens ahead, "" for other words."""
        return words().phrases.get(self._ahead(by), ("", None))[0]

    def _paints(self, length: int) -> bool:
        """Whether a word that is a colour and a noun (`orange`, `lime`) is the colour here: after `is`, or
        before a noun."""
        if singular(self._ahead(0)) != self._ahead(0):
            return False
        if self.copula and self.count is None:
            return True
        by = length
        while by < length + 6:  # `an orange and white spotted cat`
            token, kind = self._ahead(by), self._kind_ahead(by)
            if token == "and" and self._kind_ahead(by + 1) == "colour":
                by += 2
            elif not self._drawn_at(by) and (
                kind in ("size", "colour") or (not kind and is_adjective(token) and not is_noun(token))
            ):
                by += 1
            else:
                break
        following = self._ahead(by)
        if not following[:1].isalnum():
            return self._kind_ahead(by - 1) == "colour" and by > length
        two = f"{following} {self._ahead(by + 1)}"
        noun = is_noun(following) or wordnet.morphy(two, "n") is not None
        unknown_noun = noun and following not in words().phrases
        return self._drawn_at(by) or self._kind_ahead(by) == "place" or unknown_noun

    def _drawn_at(self, by: int) -> bool:
        """Whether a drawing's name, of any number of words, begins `by` tokens ahead."""
        vocab, at = vocabulary(), self.at + by
        return any(
            vocab.find(" ".join(self.tokens[at:end])) is not None
            for end in range(at + 1, min(at + vocab.longest, len(self.tokens)) + 1)
        )

    def _is_verb(self, token: str) -> bool:
        """Whether a word that names a drawing is a verb here, right after a noun: `a man watches a dog`."""
        before = self._ahead(-1)
        if not before or vocabulary().find(before) is None or wordnet.morphy(token, "v") is None:
            return False
        follows = self._ahead(1)
        agrees = singular(token) != token and singular(before) == before and follows != ","
        return agrees or follows in ("a", "an", "the", "his", "her", "its", "their")

    def _on_mark(self, mark: str, value: None) -> None:
        """Ends a clause at a comma, and a sentence at other marks."""
        self._settle()
        self.run_of, self.joined, self.clause, self.verb = [], False, [], False
        if mark in ".!?;\n":
            self.first_before = self.spoken[:1] or self.first_before
            self.spoken, self.predicate, self.landmark, self.subjects = [], None, None, []
            self.sentence += 1
        elif mark == ",":
            self.predicate = None

    def _settle(self) -> None:
        """Clears modifiers without a noun; after `is` they describe the last mention."""
        if self.copula and self.spoken:
            mention = self.out.mentions[self.spoken[-1]]
            mention.colour = next(iter(self.colours), mention.colour)
            mention.scale *= self.scale
        self._clear()

    def _on_colour(self, phrase: str, value: str) -> None:
        self.colours.append(value)

    def _on_size(self, phrase: str, value: float) -> None:
        self.scale *= value

    def _on_count(self, phrase: str, value: int) -> None:
        self.count = value

    def _on_function(self, phrase: str, value: str) -> None:
        if phrase == "and":
            # `is red and the dog is blue`
            if not self.colours or (self.copula and self._kind_ahead(0) not in ("colour", "size")):
                self._settle()
                self.joined, self.clause, self.verb = True, [], False
                self.new_clause = self._ahead(-2) == ","
        elif phrase in _PRONOUNS and self.first_before:
            self.spoken += self.first_before
        elif phrase in _VERBS:
            self.verb = bool(self.clause)
            self.copula = phrase in _BE and bool(self.spoken) and self.predicate is None
        elif phrase == "of" and self._ahead(-2) in CONTAINERS and self.spoken:
            self.predicate, self.subjects = "of", self.spoken[-1:]
        elif phrase in ("a", "an", "the", "this", "that", "his", "her", "their") or phrase in _NEW:
            self.copula = False
            self.article = phrase if self.article not in _NEW else self.article

    def _on_weather(self, phrase: str, value: str) -> None:
        if value not in self.out.weather:
            self.out.weather.append(value)
        if self.predicate in ("in", "on", "under"):
            self.predicate = None

    def _on_side(self, phrase: str, value: str) -> None:
        self._settle()
        if self.spoken:
            self.out.mentions[self.spoken[-1]].side = value

    def _on_place(self, phrase: str, value: str) -> None:
        if self.out.place is None:
            self.out.place, self.out.place_word = value, singular(phrase)
        if self.predicate in ("in", "on", "next to", "above", "under", "behind", "in front of"):
            setting = f"{self.predicate} {singular(phrase)}"
            self.out.set_in += [f"{self.out.mentions[subject].name} {setting}" for subject in self.subjects]
            if self.subjects:
                self.predicate = None
        self._clear()

    def _on_relation(self, phrase: str, value: str) -> None:
        self._settle()
        subjects = [] if value == "without" else self._subjects()
        if value in ("holding", "wearing"):
            people = [i for i in subjects if self.out.mentions[i].name in PEOPLE]
            people = people or [i for i in self.spoken if self.out.mentions[i].name in PEOPLE][-1:]
            subjects = people or subjects or self.first_before
        self.predicate = value if subjects or value not in ("with", "holding", "wearing") else None
        self.subjects = list(subjects)

    def _subjects(self) -> list[int]:
        """The subjects of a preposition: the subject of the verb before it, the previous subjects after
        `and`, or else the nearest noun; the wearer where that is clothing (`a man with a hat on a
        bench`)."""
        if len(self.run_of) > 1:
            return self.run_of
        if self.joined and self.subjects:
            return self.subjects
        found = self.clause[:1] if self.verb else self.spoken[-1:]
        wearers = [a for a, p, b in self.out.relations if p == "wearing" and b in found]
        return wearers[-1:] or found

    def _on_object(self, phrase: str, value: str) -> None:
        if self._modifies(phrase):
            self.others.append(phrase)
            return
        vocab = vocabulary()
        one = phrase if phrase in vocab.words else singular(phrase)
        number = self.count if self.count is not None else _MANY.get(phrase, 2 if one != phrase else 1)
        self._add(value, one, number, stand_in=one in vocab.near)

    def _on_unknown(self, phrase: str, value: None) -> None:
        noun = wordnet.morphy(phrase, "n")
        two = wordnet.morphy(f"{phrase} {self._ahead(0)}", "n") if self._ahead(0)[:1].isalnum() else None
        if two is not None and (name := nearest(two)) is not None:
            self.at += 1
            self._add(name, two, self.count or 1 + (not two.endswith(self._ahead(-1))), stand_in=True)
            return
        waiting = self.article or self.count or self.colours or self.others or self.predicate
        as_noun = waiting and not is_adjective(phrase) and not self._modifies(phrase)
        if noun is None or not (is_noun(phrase) or as_noun):
            # right after a noun there can be no modifier: `dog running`
            after_noun = (
                vocabulary().find(self._ahead(-2)) is not None and not self.colours and not self.others
            )
            if is_adjective(phrase) and not after_noun:
                self.others.append(phrase)
        elif self._modifies(phrase):
            self.others.append(phrase)
        elif (name := nearest(phrase)) is not None:
            self._add(name, noun, self.count or 1 + (singular(phrase) != phrase), stand_in=True)
        else:
            self._on_lacking(noun, None)

    def _modifies(self, phrase: str) -> bool:
        """Whether a singular noun directly precedes another noun: `coffee` in `coffee shop`."""
        following = self._ahead(0)
        is_plural = singular(phrase) != phrase and vocabulary().words.get(phrase) is None
        if is_plural or not following[:1].isalnum():
            return False
        if following in words().phrases:
            return self._kind_ahead(0) == "place" and following not in _PLACES_ALONE
        if vocabulary().find(following) is not None:
            return not self._is_verb(following)
        return self._drawn_at(0) or (is_noun(following) and nearest(following) is not None)

    def _add(self, name: str, word: str, count: int, *, stand_in: bool) -> None:
        """Adds a noun: as a new mention or a known one, with the modifiers before it and its relation.
        `stand_in`: the drawing shows something else than the word."""
        if stand_in:
            self.out.not_drawn.append(f"{word} (drawn as {name})")
        colour = self.colours[0] if self.colours else None
        if self.predicate == "without":
            self.predicate = None
            self._clear()
            return
        index = self._known(name, colour, count)
        if index is None:
            index = len(self.out.mentions)
            self.out.mentions.append(Mention(name, word, max(1, min(count, MOST)), sentence=self.sentence))
        mention = self.out.mentions[index]
        mention.colour = mention.colour or colour
        mention.scale *= self.scale
        self.out.not_drawn += [f"{other} {word}" for other in (*self.others, *self.colours[1:])]
        self._relate(index)
        self.spoken.append(index)
        self.clause.append(index)
        self._clear()

    def _known(self, name: str, colour: str | None, count: int) -> int | None:
        """The earlier mention that this noun refers to: `the dog`, a bare `dog`, or `a dog` in a later
        sentence."""
        if self.article in _NEW:
            return None
        for index, old in reversed(list(enumerate(self.out.mentions))):
            fits = (
                old.name == name
                and (colour is None or old.colour in (None, colour))
                and (self.count is None or old.count == count)
            )
            again = self.article not in ("a", "an") or old.sentence != self.sentence
            if fits and again and not (self.predicate is not None and index in self.subjects):
                return index
        return None

    def _relate(self, index: int) -> None:
        """Adds the relations of a mention that was just read to those before it."""
        if self.predicate is not None and not self.subjects:
            self.landmark, self.predicate, self.run_of = (self.predicate, index), None, []
            return
        if self.predicate is not None:
            for subject in self.subjects:
                self._bind(subject, self.predicate, index)
            # the verb has its object: what follows relates to the nearest noun
            self.predicate, self.run_of, self.verb = None, [], False
        elif self.landmark is not None and self.landmark[1] != index:
            self._bind(index, *self.landmark)
            self.landmark, self.verb, self.run_of = None, False, [index]
        elif self._adds_object(index):
            predicate = self.out.relations[-1][1]
            for subject in self.subjects:
                self._bind(subject, predicate, index)
            self.run_of = []
        else:
            self.run_of = [*self.run_of, index] if self.joined else [index]
        self.joined = False

    def _bind(self, subject: int, predicate: str, object_: int) -> None:
        """Adds a relation of two different mentions, unless it is there."""
        mentions = self.out.mentions
        entry = subject, disambiguated(predicate, mentions[subject].name, mentions[object_].name), object_
        if predicate == "of":  # `a plate of cake`: the cake is on the plate
            entry = object_, "on" if mentions[subject].name in ("plate", "shelf") else "in", subject
        if subject != object_ and entry not in self.out.relations:
            self.out.relations.append(entry)

    def _adds_object(self, index: int) -> bool:
        """Whether `and` adds an object to the last relation: `wears a shirt and shorts`."""
        relations = self.out.relations
        if not (self.joined and self.subjects and relations and relations[-1][2] == self.spoken[-1]):
            return False
        if relations[-1][1] == "wearing":
            return self.out.mentions[index].name in CLOTHES
        ended = not self._ahead(0)[:1].isalnum() or self._ahead(0) == "and"
        return ended and not self.new_clause and relations[-1][1] not in ("on", "in", "under", "above")
