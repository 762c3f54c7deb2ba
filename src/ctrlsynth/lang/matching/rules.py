"""Which phrases a text or another model's tags hold: the comparison at the heart of the judge (closed loop of
section 3.2).

Three matchers, by name. Texts are read as words: case folded, split at hyphens, possessive 's and articles
dropped, numbers up to twelve as digits; a word is known by its noun form (`dogs` -> `dog`) and its verb form
(`rides`, `riding` -> `ride`). Marks are breaks.

`substring`  the phrase, case folded and with single blanks, is contained in the text. `cow` is in `cowboy`.

`lemma`, by what a phrase is (its objects are given beside it):
- An object's words are adjacent, by noun form. Words that together are another noun of WordNet's do not
  count as its parts: there is no `dog` in `hot dog` and none in `dog house`. They do count when the object is
  its last words and a kind of it (a `ball` in `tennis ball`); when it begins after one first word that says
  its colour, size, age or number (a `moon` in `full moon`); and when the row itself binds them to it (a
  `soda` in `orange soda` beside the attribute `orange soda`).
- An attribute `M O` (modifier M, object O) is there when M's words are adjacent and O begins after at
  most 2 other words, none of which is a function word or a mark, but that the first may be `and`, `or` or a
  comma (`red and white ball`, `red soccer ball`). Or when O is followed, after at most 2 other words, by a
  linking verb (`is`, `looks`, ...) and M after at most 2 other words. No mark comes before the verb, except a
  comma that `which`, `who` or `that` follows, and none of `there`, `it`, `but`, `while` and their like; after
  it no function words or marks, `and`, `or` and comma aside (`the ball is big and red`). Or when M is one
  participle and O is directly followed by a form of its verb (`woman smiling`, `the woman smiles`). M matches
  by noun or verb form.
- A relation `S P O` is there when P's words (by noun or verb form) follow each other with at most 1 other
  word between, S ends at most 5 other words before P, and O begins at most 3 other words after it, or 12 as a
  later member of a list whose members have at most 3 words each. No mark but commas comes between; between P
  and O no function word but `and` and `or` (`a dog sits on the green sofa` holds `dog on sofa`). `on top of`,
  `on the side of` and their like are read as `on`. A missing end is not checked.
- Neither an attribute nor a relation reaches into the next clause: a comma or a conjunction begins one when a
  finite verb (`is`, `can`, `sits`) comes before it in the sentence and another one after it, with a noun
  between the two that is its subject (`a hat is on a dog, and a cat is on a sofa` holds no `dog on sofa`). In
  `dogs and cats are on a sofa` there is one verb and so one clause. Verbs in the past, other than `was`,
  `were`, `had`, `did`, are not known from participles and begin none.
- Any other phrase: its words in order, each after at most 2 other words, by an attribute's rule for what may
  stand between.

`wordnet`    as `lemma`, and an object (the object of an attribute, the ends of a relation) is also any noun
             of the text whose first sense
is the same synset, or an ancestor or descendant of its first sense within 3 hypernym steps: `puppy` and
`animal` for `dog`.

Tags are compared kind with kind, each phrase of the one with each of the other by the same rules; a bare
attribute (`red`) is there when it is among a modifier's words (`red ball`). Of a text the first 1,000
words are read (`substring`: all). Pure functions; words and parts of phrases are remembered, texts are not.
"""

from collections.abc import Iterable, Sequence

from ...errors import unknown
from ...sample import KINDS, Tags
from ..nouns import multiword, noun_form
from ..phrases import split_attribute
from ..words import LINKING
from .phrases import Phrase, compiled, names, places
from .text import MARK, OPEN, RELATIVE, Key, Text

MATCHERS = ("substring", "lemma", "wordnet")
_LINKING = frozenset("be look seem appear become turn remain stay".split())
_JOINERS = frozenset(("and", "or", ","))
# Words with which something else begins.
_OTHERS = frozenset(
    "there it he she we they i you this these those but while as when where because if than then".split()
)


def _passes(keys: Sequence[Key], begin: int, end: int) -> bool:
    """What may come between a modifier and its noun: at most 2 open words, the first may be a joiner."""
    if not 0 <= end - begin <= 2:
        return False
    return begin == end or all(
        k.kind == OPEN or (i == 0 and k.low in _JOINERS) for i, k in enumerate(keys[begin:end])
    )


def _same(key: Key, word: Key) -> bool:
    """A word of a modifier or predicate against a word of the text: the same noun form or the same verb
    form."""
    return key.noun == word.noun or key.verb == word.verb


def _ends(middle: Sequence[Key], keys: Sequence[Key], begin: int, slack: int) -> int:
    """Where the middle's words end if they begin here and follow each other with at most `slack` other words
    between two, the nearest ends; 0 if they do not."""
    first = middle[0]
    if first.noun != keys[begin].noun and first.verb != keys[begin].verb:
        return 0
    at = begin + 1
    for word in middle[1:]:
        at = next((i + 1 for i in range(at, min(at + slack + 1, len(keys))) if _same(word, keys[i])), 0)
        if not at:
            break
    return at


def _attribute_in(phrase: Phrase, text: Text, wide: bool, own: Sequence[Phrase]) -> bool:
    assert phrase.object is not None
    spans = places(phrase.object, text, wide, own)
    if not spans:
        return False
    keys, middle = text.keys, phrase.middle
    size, length = len(middle), len(keys)
    noun, verbal = middle[0].noun, middle[0].verb
    for begin, end in spans:
        for past in (begin, begin - 1, begin - 2):
            if past < size:
                break
            key = keys[past - size]  # compared here, before a function is called: most are others
            if (key.noun != noun and key.verb != verbal) or (
                size > 1 and not _ends(middle, keys, past - size, 0)
            ):
                continue
            if past == begin or (_passes(keys, past, begin) and not text.broken(past, begin)):
                return True
        if end < length and phrase.action and _same(middle[0], keys[end]):
            return True
        for verb in range(end, min(end + 3, length)):
            if keys[verb].verb in _LINKING and _reaches(keys, end, verb):
                for first in range(verb + 1, min(verb + 4, length - size + 1)):
                    if (
                        _ends(middle, keys, first, 0)
                        and _predicative(keys, verb + 1, first)
                        and not text.broken(end, first)
                    ):
                        return True
    return False


def _reaches(keys: Sequence[Key], begin: int, end: int) -> bool:
    """Whether the words between a noun and its linking verb hold no mark, except a comma before a relative
    clause, and no word that begins something else."""
    return all(
        keys[i].low not in _OTHERS
        and (keys[i].kind != MARK or (keys[i].low == "," and keys[i + 1].low in RELATIVE))
        for i in range(begin, end)
    )


def _predicative(keys: Sequence[Key], begin: int, end: int) -> bool:
    """Whether at most 2 words come between a linking verb and the modifier, all open words, joiners or
    commas."""
    return 0 <= end - begin <= 2 and all(k.kind == OPEN or k.low in _JOINERS for k in keys[begin:end])


def _relation_in(phrase: Phrase, text: Text, wide: bool, own: Sequence[Phrase]) -> bool:
    subjects = places(phrase.subject, text, wide, own) if phrase.subject is not None else None
    objects = places(phrase.object, text, wide, own) if phrase.object is not None and subjects != [] else None
    if subjects == [] or objects == []:
        return False
    keys, middle = text.keys, phrase.middle
    if subjects is None:
        return any(
            (end := _ends(middle, keys, i, 1)) and _leads_to(objects, text, i, end) for i in range(len(keys))
        )
    noun, verbal = middle[0].noun, middle[0].verb
    for _, before in subjects:
        for begin, key in enumerate(keys[before : before + 6], before):
            if key.noun == noun or key.verb == verbal:
                end = _ends(middle, keys, begin, 1)
                if end and _leads_to(objects, text, before, end):
                    return True
            if key.kind == MARK and key.low != ",":
                break
    return False


def _leads_to(objects: Sequence[tuple[int, int]] | None, text: Text, start: int, end: int) -> bool:
    """Whether a relation that begins at `start` and whose predicate ends at `end` comes to one of the objects
    within its clause."""
    if objects is None:
        return not text.broken(start, end)
    for after, _ in objects:
        if (after == end or (0 < after - end <= 12 and _leads(text.keys[end:after]))) and not text.broken(
            start, after
        ):
            return True
    return False


def _leads(between: Sequence[Key]) -> bool:
    """At most 3 open words, counted anew after `and`, `or` or a comma; nothing else."""
    since = 0
    for key in between:
        if key.low in _JOINERS:
            since = 0
        elif key.kind != OPEN or since == 3:
            return False
        else:
            since += 1
    return True


def _words_in(middle: Sequence[Key], keys: Sequence[Key]) -> bool:
    """The words in order, each by `_same`, with what `_passes` allows between; every beginning and every
    way is tried."""
    ends = {i + 1 for i in range(len(keys)) if _same(middle[0], keys[i])}
    for word in middle[1:]:
        ends = {
            i + 1
            for e in ends
            for i in range(e, min(e + 3, len(keys)))
            if _same(word, keys[i]) and _passes(keys, e, i)
        }
    return bool(ends)


def _holds(text: Text, phrase: Phrase, wide: bool, own: Sequence[Phrase]) -> bool:
    if phrase.kind == "attribute":
        return _attribute_in(phrase, text, wide, own)
    if phrase.kind == "relation":
        return _relation_in(phrase, text, wide, own)
    return phrase.kind == "words" and _words_in(phrase.middle, text.keys)


def _squeezed(text: str) -> str:
    return " ".join(text.casefold().split())


def _check(matcher: str) -> None:
    if matcher not in MATCHERS:
        raise unknown("matcher", matcher, MATCHERS)


def in_text(
    phrases: Sequence[str], text: str, matcher: str = "lemma", objects: Sequence[str] = ()
) -> list[bool]:
    """Which phrases a text holds, in their order. `objects`: the objects that attributes and relations among
    them are bound to.

    A phrase without a word (an emoji) is compared as `substring`. An unknown matcher is a UserError.
    """
    _check(matcher)
    if matcher == "substring":
        squeezed = _squeezed(text)
        return [_squeezed(p) in squeezed for p in phrases]
    bound = names(objects)
    ready = [compiled(p, bound) for p in phrases]
    return _in_read(ready, text, matcher, ready)


def _in_read(ready: Sequence[Phrase], text: str, matcher: str, own: Sequence[Phrase]) -> list[bool]:
    """Which phrases a text holds; `own`: the row's phrases, which say what belongs to an object."""
    read, wide = Text(text), matcher == "wordnet"
    hits = []
    for phrase in ready:
        if phrase.kind == "object" and phrase.object is not None:
            hits.append(bool(places(phrase.object, read, wide, own)))
        elif phrase.kind == "none":
            hits.append(_squeezed(phrase.text) in _squeezed(text))
        else:
            hits.append(_holds(read, phrase, wide, own))
    return hits


def in_tags(reference: Tags, found: Tags, matcher: str = "lemma") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(found, missed): the reference's phrases that another model's tags hold and those that they lack,
    objects first, kind with kind."""
    _check(matcher)
    have: list[str] = []
    missed: list[str] = []
    bound = names(reference.objects)
    own = [compiled(p, bound) for p in (*reference.attributes, *reference.relations)]
    for kind in KINDS:
        phrases: tuple[str, ...] = getattr(reference, kind)
        for phrase, hit in zip(
            phrases, _in_kind(phrases, kind, found, matcher, reference.objects, own), strict=True
        ):
            (have if hit else missed).append(phrase)
    return tuple(have), tuple(missed)


def _in_kind(
    phrases: Sequence[str],
    kind: str,
    found: Tags,
    matcher: str,
    objects: Sequence[str],
    own: Sequence[Phrase] = (),
) -> list[bool]:
    """Which phrases of one kind the tags of that kind hold: the tags are read as one text with full stops
    between them."""
    there: tuple[str, ...] = getattr(found, kind)
    if not phrases or not there:
        return [False] * len(phrases)
    if matcher == "substring":
        squeezed = [_squeezed(t) for t in there]
        return [any(_squeezed(p) in t for t in squeezed) for p in phrases]
    bound = names((*objects, *phrases) if kind == "objects" else objects)
    ready = [compiled(p, bound) for p in phrases]
    hits = _in_read(ready, " . ".join(there), matcher, (*ready, *own))
    if kind == "attributes":
        modifiers: str | None = None
        for i, phrase in enumerate(phrases):
            if " " not in phrase.strip():
                modifiers = (
                    " . ".join(split_attribute(t, found.objects)[0] for t in there)
                    if modifiers is None
                    else modifiers
                )
                hits[i] = in_text((phrase,), modifiers, matcher)[0]
    return hits


def violations_in_text(
    removed: Iterable[str], text: str, matcher: str = "lemma", objects: Sequence[str] = ()
) -> tuple[str, ...]:
    """The removed phrases that a text holds after all. `objects` as in `in_text`."""
    gone = tuple(removed)
    return tuple(
        p for p, hit in zip(gone, in_text(gone, text, matcher, _bound(gone, objects)), strict=True) if hit
    )


def violations_in_tags(
    removed: Iterable[str], found: Tags, matcher: str = "lemma", objects: Sequence[str] = ()
) -> tuple[str, ...]:
    """The removed phrases that another model's tags hold after all, of whatever kind they were."""
    _check(matcher)
    gone = tuple(removed)
    bound = _bound(gone, objects)
    hits = [_in_kind(gone, kind, found, matcher, bound) for kind in KINDS]
    return tuple(p for i, p in enumerate(gone) if any(h[i] for h in hits))


def _bound(phrases: Iterable[str], objects: Sequence[str]) -> tuple[str, ...]:
    """The objects that removed phrases may be bound to: those given, and the nouns that phrases consist of,
    end with, or, as relations, begin with."""
    found = list(objects)
    for phrase in phrases:
        words = phrase.lower().split()
        found += [tail for i in range(len(words)) if (tail := " ".join(words[i:])) and _is_noun(tail)][:1]
        if any(word in LINKING for word in words[1:-1]):
            found += [head for i in range(len(words) - 1, 0, -1) if _is_noun(head := " ".join(words[:i]))][:1]
    return tuple(dict.fromkeys(found))


def _is_noun(phrase: str) -> bool:
    return (multiword(phrase, True) if " " in phrase else noun_form(phrase)) is not None
