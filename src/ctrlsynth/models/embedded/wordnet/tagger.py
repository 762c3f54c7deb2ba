"""`wordnet`, a tagger (2a) that reads the caption, without a model or weights: it mines objects and
attributes as CatLIP mined its labels (lower case, tokens, lemmas, first noun sense), and relations by
pattern between two objects. It sees no pixel, so a recipe cannot use it as the judge of images.

`tokens.py` gives words with roles; here one pass from left to right finds noun phrases, their modifiers, and
what joins them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ....lang import wordnet
from ....lang.nouns import COLOURS
from ....lang.words import plural as plural_of
from ....sample import Tags
from ...base import ImageAndText, VisionTagger
from . import lexicon
from .tokens import COVERS, SHOWN_COVERS, Token, assign_roles, read_tokens

VERSION = 1  # raise it when rules or lists change what is mined: older rows are then tagged again


class WordNetTagger(VisionTagger):
    """Tags captions by rule; no text gives no tags."""

    id = "wordnet"
    reads: Literal["caption"] = "caption"

    def __init__(self) -> None:
        self.digest = f"wordnet-rules-{VERSION}-{wordnet.digest()}"

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Returns the tags of each caption, in order; ignores pixels."""
        return [mine(item.text) for item in items]


_LOCATIVE = frozenset(
    "on in at under over above below behind beside near inside against among between underneath atop".split()
)
_HOURS = frozenset("sunset sunrise".split())
_POSSESSIVES = frozenset(("its", "his", "her", "their"))
_NEGATIONS = frozenset(("no", "without"))


def mine(text: str | None) -> Tags:
    """Returns the tags of one caption: `objects` in the singular, `attributes` as `modifier object`,
    `relations` as `subject predicate object`.

    Linear in the text; reads the first `MAX_WORDS` words of the first `MAX_CHARACTERS` characters. None and
    blank texts give no tags."""
    tokens = read_tokens(text) if text else []
    return _Reader().read(assign_roles(tokens)) if tokens else Tags()


@dataclass(slots=True)
class _Reader:
    """The state of the pass: the tags found, the subjects, and what joins the last noun to the next."""

    objects: dict[str, None] = field(default_factory=dict)
    attributes: dict[str, None] = field(default_factory=dict)
    relations: dict[str, None] = field(default_factory=dict)
    mods: list[Token] = field(default_factory=list)  # modifiers and nouns of the open phrase
    main: list[str] = field(default_factory=list)  # subjects of the clause
    subjects: list[str] = field(default_factory=list)  # of the predicate
    last: str = ""  # the last object
    predicate: str = ""
    verb: str = ""  # a verb without object so far, as an attribute (`sleeping`)
    open: str = ""  # the predicate that `and` continues
    linked: bool = False  # the clause has a relation
    joins: bool = False  # after `and` or a comma
    owned: bool = False  # before a possessive: `in its mouth`
    predicative: bool = False  # after `is` and the like
    verbal: bool = False  # the predicate is a verb so far, which a preposition may extend
    passed: bool = False  # a phrase that is no thing followed the predicate
    negated: bool = False  # after `no` or `without`

    def read(self, tokens: list[Token]) -> Tags:
        for i, token in enumerate(tokens):
            role = token.role
            if role in ("N", "A", "#", "U"):
                self._word(token)
                continue
            if self.mods:
                self._close()
            if role == "D":
                self.negated = self.negated or token.low in _NEGATIONS
            else:
                self.owned = i + 1 < len(tokens) and tokens[i + 1].low in _POSSESSIVES
                self._join(token, role)
        if self.mods:
            self._close()
        self._idle()
        if not self.objects and not self.attributes:
            self.attributes = {t.low: None for t in tokens if t.role == "A" and t.low in COLOURS}
        return Tags(tuple(self.objects), tuple(self.attributes), tuple(self.relations))

    def _word(self, token: Token) -> None:
        """Extends the open phrase; closes it first if this word cannot belong to it."""
        if self.mods and self.mods[-1].role == "N" and (token.role in "A#" or self.mods[-1].plural):
            ends = self.mods[-1]
            if token.role == "A" and ends.noun in COVERS:
                self.mods[-1] = Token(f"{ends.low} {token.low}", token.word, "A")
                if ends.noun in SHOWN_COVERS:
                    self.objects.setdefault(ends.noun)
                return
            self._close()
        self.mods.append(token)

    def _close(self) -> None:
        """Ends the open phrase: its last noun that is a thing is the object, the words before are its
        modifiers."""
        phrase, self.mods = self.mods, []
        nouns = [i for i, t in enumerate(phrase) if t.role == "N"]
        negated, self.negated = self.negated, False
        head = next((i for i in reversed(nouns) if phrase[i].thing), None)
        if head is None:
            self._without_head(phrase, bool(nouns) or (self.verbal and phrase[-1].role == "U"))
        elif negated and phrase[head].noun != "sign":
            self._reset()
        elif len(nouns) > 3:
            self.objects.update(dict.fromkeys(t.noun for t in phrase if t.role == "N" and t.thing))
            self._reset()
        else:
            noun = phrase[head].noun
            self.objects.setdefault(noun)
            for t in phrase[:head] if not negated else ():
                self._modifier(t, noun, phrase[head].plural)
            self._place(noun)

    def _modifier(self, token: Token, noun: str, plural: bool) -> None:
        """Adds an attribute, unless the word does not describe how the thing looks."""
        if token.role == "#":
            if plural:
                self.attributes.setdefault(f"{token.low} {plural_of(noun)}")
        elif token.role != "U" and token.low not in lexicon.NOT_ATTRIBUTES and not token.word.meta:
            self.attributes.setdefault(f"{token.noun if token.role == 'N' else token.low} {noun}")

    def _without_head(self, phrase: list[Token], has_noun: bool) -> None:
        """Ends a phrase without a thing. Modifiers alone describe the last object (`the ball is red`,
        `jacket, black`); nouns that are no things end the relation."""
        main = self.main[-1] if self.main else ""
        about = main if self.predicative and main else self.last or main
        if not has_noun and about and (self.predicative or not self.predicate):
            for t in phrase:
                if t.role == "A" and t.low not in lexicon.NOT_ATTRIBUTES:
                    self.attributes.setdefault(f"{t.low} {about}")
            self.predicative = False
            self.verb = self.predicate = ""
        elif has_noun:
            self.verb = self.open = ""
            self.passed = bool(self.predicate)
            if not self.predicate:
                self.last = ""

    def _place(self, noun: str) -> None:
        """Adds the relations of a new object to what came before it."""
        if self.predicate:
            if noun not in _HOURS:
                self._relate(self.predicate, noun)
            self.open = "" if self.predicate.endswith("of") else self.predicate
            self.linked = True
        elif self.joins and self.open and self.subjects:
            self._relate(self.open, noun)
        elif self.joins and self.main and not self.linked:
            self.main.append(noun)
        else:
            self.main, self.open, self.linked = [noun], "", False
        self.last, self.predicate, self.verb = noun, "", ""
        self.joins = self.predicative = self.verbal = self.passed = False

    def _relate(self, predicate: str, noun: str) -> None:
        for subject in self.subjects:
            if subject != noun:
                self.relations.setdefault(f"{subject} {predicate} {noun}")

    def _join(self, token: Token, role: str) -> None:
        if role in ("P", "T", "L"):
            self._preposition(token.low, role)
        elif role == "V":
            self._verb(token)
        elif role == "B":
            self.predicative = True
        elif role in ("C", ","):
            self._idle()
            self.joins = True
            if role == ",":
                self.open = self.open if self.open.endswith("with") else ""
        elif role == "S":
            self._idle()
            self.last = self.open = ""
            self.joins = self.linked = False
        elif role == ".":
            self._idle()
            self.predicate = self.open = ""
            self.joins = self.predicative = False
            self.subjects = []
            self.linked = True
        elif role == "M" and token.low in lexicon.HAVE and self.main:
            self.subjects, self.predicate, self.verb = list(self.main), "with", ""

    def _verb(self, token: Token) -> None:
        """Makes a verb the predicate: of the last object for a participle (`car parked`), else of the
        clause's subjects."""
        word, past = token.word, token.word.form == "ed"
        self.predicative = self.predicative or token.low in lexicon.LINKING
        self.predicate = token.low if past else lexicon.progressive(word.verb or token.low)
        close = past and self.last and not self.predicative and self.last not in self.main
        self.subjects = [self.last] if close else list(self.main)
        ready = word.form == "ing" or (past and word.adj)
        self.verb = self.predicate if ready and self.main else ""
        self.verbal, self.joins, self.passed = True, False, False

    def _preposition(self, low: str, role: str) -> None:
        """Makes a preposition the predicate, or extends the verb with it."""
        if role == "L" and low == "out" and self.verbal:  # `blowing out candles`
            return
        if role == "L":
            self._reset()
            self.negated = low in _NEGATIONS
        elif self.passed:  # `in the middle of the road`, `taking a nap on the sofa`
            full = self.verbal and self.predicate not in lexicon.LIGHT
            self.predicate = self.predicate if low == "of" else f"{self.predicate} {low}" if full else low
            self.verbal = False
        elif self.predicate and self.verbal:
            self.predicate, self.verb, self.verbal = f"{self.predicate} {low}", "", False
        elif self.last and role == "P":
            within = self.open == "with" and low in _LOCATIVE and not self.owned
            to_main = (self.owned if low == "with" else within) or self.last in self.main
            self.subjects = list(self.main) if to_main and self.main else [self.last]
            self.predicate = low
        self.joins = self.passed = False

    def _idle(self) -> None:
        """Ends the predicate. A verb without object becomes an attribute: `the cat is sleeping` -> `sleeping
        cat`."""
        if self.verb:
            for subject in self.subjects:
                self.attributes.setdefault(f"{self.verb} {subject}")
        self.verb = self.predicate = ""
        self.verbal = self.passed = False

    def _reset(self) -> None:
        """Ends the predicate and forgets what could be joined next."""
        self._idle()
        self.last = self.open = ""
        self.subjects = []
        self.joins = self.predicative = False
