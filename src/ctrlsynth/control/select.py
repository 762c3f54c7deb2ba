"""Selectors: which tags an edit (3a) or an order means.

    red            this phrase, whatever its case, singular and plural alike
    *mark          a glob: * any characters, ? one character, over the whole phrase
    re:^blu        a regular expression, found anywhere unless anchored, case ignored
    animal.n.01    a WordNet class: everything whose head noun's first sense is the class or below it

Of an **object** all of the phrase is compared. Of an **attribute** (`big red ball`) and a **relation** (`dog
on sofa`) a selector may mean a part: the modifier (`big red`) or the predicate (`on`), then runs of whole
words in it, and at last the whole phrase. So `red` finds `big red ball`, and to replace it by `blue` gives
`big blue ball`. Regular expressions try the shortest run first (`re:^blu` takes `blue` out of `big blue`),
the others the longest. A class of *things* (`animal.n.01`) finds attributes by the object that they describe,
and relations by either end; it then means the modifier or predicate. A class of *qualities*
(`color.n.01`: anything WordNet counts as an abstraction) finds attributes by a word of the modifier, in any
of its noun senses, because the quality is rarely the first (`white`)."""

import fnmatch
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

from ..errors import UserError
from ..lang import wordnet
from ..lang.phrases import end_form, split_attribute, split_relation
from ..lang.words import plural, singular
from ..sample import Kind

_CLASS = re.compile(r"\S+\.[nvars]\.\d{1,3}")
_WORD = re.compile(r"\w[\w'’-]*")
_RUN = 6
_SHORT = 80
_MEMO = 100_000
_T = TypeVar("_T")
# Number of the selector, first character, character after the last: what a selector means in a phrase.
Span = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Selector:
    """One compiled selector. `test` says whether a whole text matches; `quality` marks a WordNet class of
    abstractions."""

    text: str
    how: Literal["exact", "glob", "regex", "class"]
    test: Callable[[str], bool]
    quality: bool = False


def parse(text: str, where: str) -> Selector:
    """Reads a selector; a broken regular expression or an unknown class is a `UserError` that begins with
    `where` (the key's path)."""
    clean = " ".join(text.split())
    if not clean or clean == "re:":
        raise UserError(
            f"{where}: a selector is empty; write a phrase, a glob, re:... or a WordNet class such as "
            f"animal.n.01"
        )
    if clean.startswith("re:"):
        try:
            pattern = re.compile(clean[3:], re.IGNORECASE)
        except re.error as error:
            raise UserError(f"{where}: {text!r} is not a regular expression: {error}") from error
        return Selector(clean, "regex", lambda phrase: pattern.search(phrase) is not None)
    if _CLASS.fullmatch(clean):
        return _class(clean, where)
    if "*" in clean or "?" in clean:
        glob = re.compile(fnmatch.translate(clean.lower().replace("[", "[[]")), re.DOTALL)
        return Selector(
            clean,
            "glob",
            lambda phrase: any(glob.match(form) for form in (phrase.lower(), singular(phrase.lower()))),
        )
    low = clean.lower()
    forms = {low, plural(low), singular(low)}
    return Selector(clean, "exact", lambda phrase: phrase.lower() in forms)


def _class(name: str, where: str) -> Selector:
    try:
        top = wordnet.synset(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if top.pos != "n":
        raise UserError(f"{where}: {name!r} is no class of nouns; selectors take names such as animal.n.01")
    if not wordnet.is_a(top, "abstraction.n.06"):
        return Selector(name, "class", lambda phrase: wordnet.is_a(phrase, top))
    return Selector(
        name,
        "class",
        lambda p: any(wordnet.is_a(sense, top) for sense in wordnet.synsets(p, "n")),
        quality=True,
    )


def is_class(text: str) -> bool:
    """Whether a text is written like a WordNet class."""
    return _CLASS.fullmatch(" ".join(text.split())) is not None


class Selectors:
    """A list of selectors for one kind of tags; what they find in a phrase is remembered, since phrases
    repeat from row to row."""

    def __init__(self, patterns: Sequence[str], kind: Kind | None, where: str) -> None:
        self.selectors = tuple(parse(p, where) for p in patterns)
        self.kind = kind
        self._known: dict[tuple[str, Hashable], Any] = {}

    def _recall(self, what: str, key: Hashable, find: Callable[[], _T]) -> _T:
        """Returns what `find` gave for this key before, or gives now."""
        try:
            found: _T = self._known[what, key]
        except KeyError:
            if len(self._known) >= _MEMO:  # a bound on memory; the next rows fill it again
                self._known.clear()
            found = self._known[what, key] = find()
        return found

    def first(self, phrase: str) -> int:
        """The number of the first selector that matches the whole phrase, or -1."""
        return self._recall("first", phrase, lambda: self._match(phrase, ("exact", "glob", "regex", "class")))

    def _match(self, phrase: str, kinds: Sequence[str]) -> int:
        return next((i for i, s in enumerate(self.selectors) if s.how in kinds and s.test(phrase)), -1)

    def names(self, phrase: str) -> int:
        """As `first`, by exact phrases and classes only: for the end of a phrase that may name an object."""
        return self._recall("names", phrase, lambda: self._match(phrase, ("exact", "class")))

    def naming(self, phrase: str) -> bool:
        """Whether `names` finds any run of words inside the phrase, the whole aside."""
        words = phrase.split()
        runs = (words[i : i + n] for n in range(1, len(words)) for i in range(len(words) - n + 1))
        return self._recall("naming", phrase, lambda: any(self.names(" ".join(run)) >= 0 for run in runs))

    def within(self, text: str) -> int:
        """Sort key: the number of the first selector that means a run of whole words (up to 6, without
        punctuation) somewhere in the text; texts that none means come last."""
        if len(text) > _SHORT:
            return self._search(text)
        return self._recall("within", text, lambda: self._search(text))

    def _search(self, text: str) -> int:
        words = _WORD.findall(text)
        runs = {
            " ".join(words[i : i + n])
            for n in range(1, min(_RUN, len(words)) + 1)
            for i in range(len(words) - n + 1)
        }
        return min((n for n in map(self.first, runs) if n >= 0), default=len(self.selectors))

    def find(self, phrase: str, objects: Sequence[str]) -> Span | None:
        """The first selector that means this phrase or a part of it, with the part's span; None if none
        does.

        `objects` are the row's objects: they tell the modifier of an attribute and the ends of a relation.
        """
        if self.kind in (None, "objects"):
            number = self.first(phrase)
            return None if number < 0 else (number, 0, len(phrase))
        runs = _runs(phrase, 0, len(phrase), shortest=True)
        possible = self._recall(
            "possible", phrase, lambda: any(s.test(phrase[a:b]) for a, b in runs for s in self.selectors)
        )
        return self._part(phrase, objects) if possible else None

    def _part(self, phrase: str, objects: Sequence[str]) -> Span | None:
        ends: tuple[str | None, ...]
        if self.kind == "attributes":
            modifier, bound = split_attribute(phrase, objects)
            start, stop, ends = 0, len(modifier), (bound,)
        else:
            subject, predicate, object_ = split_relation(phrase, objects)
            start = phrase.find(
                predicate, 0 if subject is None else len(end_form(phrase, subject, at_start=True))
            )
            stop, ends = start + len(predicate), (subject, object_)
        return self._recall(
            "part", (phrase, start, stop, ends), lambda: self._meant(phrase, start, stop, ends)
        )

    def _meant(self, phrase: str, start: int, stop: int, ends: tuple[str | None, ...]) -> Span | None:
        """The first selector that means a phrase whose modifier or predicate lies between two characters, and
        whose ends name objects."""
        for number, selector in enumerate(self.selectors):
            if selector.how == "class" and not selector.quality:
                if any(end is not None and selector.test(end) for end in ends):
                    return number, start, stop
            else:
                for a, b in _runs(phrase, start, stop, shortest=selector.how == "regex"):
                    if selector.test(phrase[a:b]):
                        return number, a, b
            if selector.test(phrase) and not selector.quality:
                return number, 0, len(phrase)
        return None


def _runs(text: str, start: int, stop: int, shortest: bool) -> Iterator[tuple[int, int]]:
    """Spans of all runs of whole words between two characters, by length, from the left."""
    words = [(m.start(), m.end()) for m in re.finditer(r"\S+", text[start:stop])]
    sizes = range(1, len(words) + 1)
    for size in sizes if shortest else reversed(sizes):
        for i in range(len(words) - size + 1):
            yield start + words[i][0], start + words[i + size - 1][1]


_WIDE = 1000


@lru_cache(maxsize=256)
def members(name: str, quality: bool) -> tuple[str, ...]:
    """Words for members of a WordNet class, sorted, for `replace` to draw from.

    Things: one-word lemmas whose first noun sense is the member, so that what is drawn is again found by the
    class; not the members that are wide classes themselves (more than about 1000 below: `mammal`), nor names
    of single things. Of those the words that WordNet's tagged texts use twice or more, if they are at least
    five, since a writer and a painter know them best. Without one-word lemmas, longer ones. Qualities
    (`color.n.01`): one-word lemmas that are adjectives too, so that they can modify, and are used so in the
    tagged texts."""
    below = [s for s in wordnet.descendants(wordnet.synset(name)) if not s.is_instance]
    if quality:
        words = sorted(
            {w for s in below for w in s.words if w.isalpha() and w.islower() and wordnet.synsets(w, "a")}
        )
        return tuple([w for w in words if wordnet.count(w, "a") > 0] or words)
    sizes: dict[wordnet.Synset, int] = dict.fromkeys(below, 1)
    for member in reversed(below):  # the deepest first; one below two classes counts in both
        for up in member.hypernyms:
            if up in sizes:
                sizes[up] += sizes[member]
    own = [
        [w for w in s.words if w.islower() and wordnet.first_sense(w) == s]
        for s in below
        if sizes[s] <= _WIDE
    ]
    single = sorted(
        {next(w for w in words if w.isalpha()) for words in own if any(w.isalpha() for w in words)}
    )
    common = [w for w in single if wordnet.count(w, "n") > 1]
    return tuple(common if len(common) >= 5 else single or sorted({words[0] for words in own if words}))
