"""Splits a caption into words and decides each word's role: the first half of the caption tagger, before
`tagger.py`.

Roles: N noun, A modifier (adjective, or participle before a noun), V verb or participle with an object, #
number, U unknown word, and the closed classes of `lexicon.py`: D P L T C S B M R X. `,` and `.` are soft and
hard breaks."""

import operator
import re
from dataclasses import dataclass
from functools import lru_cache

from ....lang.nouns import COLOUR_THINGS, COLOURS, multiword
from . import lexicon
from .lexicon import Word, look_up

MAX_CHARACTERS = 8_000
MAX_WORDS = 512  # later words are not read: no caption describes a picture for longer
_MAX_LETTERS = 40  # a longer run is no word but a break
_NOISE = re.compile(
    r"https?://\S+|www\.\S+|[\w.+-]{1,64}@[\w.-]+|(?<!\w)@\w+"
    r"|\.(?:jpe?g|png|gif|webp|svg|bmp|tiff?|pdf|eps|html?|com|net|org)\b"
    r"|\\[nrt]|&\w{1,10};|<[^<>]{1,80}>",
    re.I,
)
_NOISY = re.compile(r"[.@/\\&<’]")  # a text without one of these has no noise
_TOKEN = re.compile(r"#?[^\W_]+(?:['’&-][^\W_]+)*'?|[^\w\s]")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Any other mark is a hard break.
_MARKS: dict[str, tuple[str, ...]] = {",": (",",), "&": ("&",)} | dict.fromkeys("'’‘`´%$€£°", ())
_PHRASES = {
    "in front of": "in front of", "next to": "next to", "on top of": "on", "close to": "near",
    "to the left of": "left of",
    "to the right of": "right of", "on the left of": "left of", "on the right of": "right of",
    "left of": "left of",
    "right of": "right of", "on the left side of": "left of", "on the right side of": "right of",
    "inside of": "inside",
    "outside of": "outside", "out of": "out of", "in between": "between", "across from": "across from",
    "away from": "away from",
    "in the middle of": "in", "in the center of": "in", "in the centre of": "in", "on the side of": "on",
    "by the side of": "by",
    "on the edge of": "on", "at the edge of": "at", "at the top of": "on", "at the bottom of": "at",
    "on the back of": "on",
    "along with": "with", "together with": "with", "filled with": "filled with", "front of": "in front of",
}  # fmt: skip
_PHRASE_WORDS = {phrase: tuple(phrase.split()) for phrase in sorted(_PHRASES, key=len, reverse=True)}
_PHRASE_STARTS = {
    start: [list(w) for w in _PHRASE_WORDS.values() if w[0] == start]
    for start in {w[0] for w in _PHRASE_WORDS.values()}
}


@dataclass(slots=True)
class Token:
    """A word or break in its position. `noun`: the object that it would be; `thing`: whether a picture can
    show it."""

    low: str
    word: Word
    role: str = ""
    noun: str = ""
    thing: bool = False
    plural: bool = False


def read_tokens(text: str) -> list[Token]:
    """Splits a text into lower-case words and breaks. Nouns and prepositions of several words are one token;
    names stay unknown words."""
    if _NOISY.search(text, 0, MAX_CHARACTERS) is not None:
        text = _NOISE.sub(" ", text[:MAX_CHARACTERS]).replace("’", "'")
    raw: list[str] = []
    for piece in _TOKEN.findall(text, 0, MAX_CHARACTERS):
        raw.extend(_split(piece) if len(piece) <= _MAX_LETTERS else (".",))
        if len(raw) >= MAX_WORDS:
            break
    lows = [w.lower() for w in raw]
    # at least half are words in lower case, or breaks
    sentence_case = sum(map(operator.eq, raw, lows)) * 2 >= len(raw)
    tokens: list[Token] = []
    i = 0
    while i < len(raw):
        word = look_up(lows[i])
        some = lows[i] in _PHRASE_STARTS or (
            word.starts > 1 and i + 1 < len(raw) and lows[i + 1][:3] in word.seconds
        )
        step = _several(raw, lows, i, word, tokens) if some else 0
        if step == 0:
            tokens.append(_single(raw[i], word, sentence_case and i > 0 and raw[i - 1][0].isalnum()))
            step = 1
        i += step
    return tokens


@lru_cache(maxsize=32768)
def _split(piece: str) -> tuple[str, ...]:
    """Splits one match of `_TOKEN` into words and breaks: hashtags become separate phrases, unknown
    hyphenated words are split, codes (`DSC0043`) are dropped."""
    if piece[0] == "#" and len(piece) > 1:
        return (".", *_CAMEL.sub(" ", piece[1:]).split(), ".")
    if not piece[0].isalnum():
        return _MARKS.get(piece, (".",))
    if any(c.isdigit() for c in piece) and not piece.isdigit():
        return ()
    if piece.endswith("'") and not piece.endswith("s'"):
        piece = piece[:-1]
    if "-" in piece:
        word = look_up(piece.lower())
        if not word.kind and not word.adj and word.noun is None:
            return tuple(piece.split("-"))
    return (piece,)


def _several(raw: list[str], lows: list[str], i: int, word: Word, tokens: list[Token]) -> int:
    """Appends the longest noun or preposition of several words that begins at i; returns its number of
    words, or 0."""
    for phrase in _PHRASE_STARTS.get(lows[i], ()):
        if lows[i : i + len(phrase)] == phrase:
            tokens.append(Token(_PHRASES[" ".join(phrase)], word, role="P"))
            return len(phrase)
    for count in range(min(word.starts, len(raw) - i), 1, -1):
        end = lows[i + count - 1]
        as_name = raw[i][0].isupper() and raw[i + count - 1][0].isupper()
        lemma = multiword(" ".join(lows[i : i + count]), as_name) if end[0].isalpha() else None
        if lemma is not None:
            plural = end != lemma.rpartition(" ")[2]
            noun, thing = lexicon.display(lemma), lexicon.is_thing(lemma)
            tokens.append(Token(lemma, look_up(end), "N", noun, thing, plural))
            return count
    return 0


def _single(raw: str, word: Word, inner: bool) -> Token:
    """A token of one word. `inner`: not the first word of a phrase, so that a capital marks a name, which is
    an unknown word."""
    low = word.low
    if word.kind:
        return Token(low, word, word.kind)
    name = word.is_name or (inner and not (word.adj and word.noun_count == 0))
    if name and raw != low and raw[0].isupper():
        return Token(low, word, "U")
    if word.noun is None:
        known = word.verb is not None or word.adj
        return Token(low, word, "" if known else "X" if raw.isdigit() else "U")
    return Token(low, word, "", word.noun, word.is_thing, word.plural)


def assign_roles(tokens: list[Token]) -> list[Token]:
    """Gives every open word its role, from the word itself, the role before it and the word after it."""
    for previous, token, following in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        if not token.role:
            token.role = _role(token, previous.role if previous else ".", previous, following)
    return tokens


def _opens(token: Token | None) -> bool:
    """Whether a token can continue a noun phrase: an open word without a role yet, a noun, a modifier or an
    unknown word."""
    return token is not None and token.role in ("", "N", "U", "A")


def _role(token: Token, before: str, previous: Token | None, following: Token | None) -> str:
    """The role of an open word; `before` is the previous token's role."""
    word = token.word
    after = following.role if following is not None else "."
    if word.form == "ing" and (
        not word.noun_ing or (before == "N" and after == "D" and previous is not None and previous.plural)
    ):
        return _participle(token, before, following, after)
    if word.form == "ed" and not (
        token.noun and (word.noun_count >= word.verb_count or before in ("D", "A", "#"))
    ):
        return _past(token, before, previous, following)
    if previous is not None and previous.low in lexicon.HAVE and token.noun:
        return "N"
    if before == "M" and token.thing and word.form == "s":
        return "N"  # `do cats purr`
    if before == "M" or (before == "R" and word.verb and word.form != "ing"):
        return "V" if word.verb else ("A" if word.adj and not token.noun else "N" if token.noun else "A")
    if before == "T" and word.verb and (not token.noun or word.verb_count > word.noun_count):
        return "V"
    if word.form in ("base", "s") and _finite(token, before, previous, following):
        return "V"
    if word.adj:
        return _adjective_or_noun(token, before, following)
    return "N" if token.noun else "V" if word.verb else "X"


def _participle(token: Token, before: str, following: Token | None, after: str) -> str:
    """Role of a form in -ing: `smiling woman`, `a sleeping baby` -> A; `woman smiling`, `riding a horse` ->
    V."""
    word = token.word
    if before == "B":
        modifies = word.adj and not _opens(following) and word.adj_count > word.verb_count
    else:
        modifies = before in ("D", "A", "#", "P", ".", ",", "C", "L") and _opens(following) and after != "U"
    return "A" if modifies else "V"


def _past(token: Token, before: str, previous: Token | None, following: Token | None) -> str:
    """Role of a past form or participle: `broken window`, `snow covered mountain` -> A; `car parked on`, `is
    covered with`, `boy kicked the` -> V."""
    if before == "N" and following is not None and _opens(following) and previous and not previous.plural:
        modifies = following.plural or following.role == "N" or previous.noun in COVERS
    else:
        modifies = before not in ("N", "U", "B", "R", "M") and (_opens(following) or token.word.adj)
    return "A" if modifies else "V"


SHOWN_COVERS = frozenset("snow ice mud dust sand grass ivy moss".split())
COVERS = SHOWN_COVERS | frozenset("hand tree sun rain heart".split())


def _finite(token: Token, before: str, previous: Token | None, following: Token | None) -> bool:
    """Whether a word that may be a verb in the present tense is one: `man rides a`, `officers stand in`,
    `shop the`, `man shakes hands`."""
    word = token.word
    after = following.role if following is not None else "."
    if not token.noun:
        return not word.adj or (before not in ("D", "A", "#") and word.verb_count > word.adj_count)
    if before == "." and word.form == "base":
        return after == "D" and word.verb_count > word.noun_count
    if before not in ("N", "U") or previous is None or after in ("N", "B", "V"):
        return False
    if previous.plural == (word.form == "s"):  # it does not agree with its subject
        return False
    if after == "D" or word.low in lexicon.LINKING:
        return True
    weight = word.verb_count > word.noun_count or not token.thing
    if not after:
        return weight and word.form == "s" and following is not None and following.plural
    return weight and word.verb_count > 0 and after in ("P", "T", ".", "L", "X", "S", "#", "R", "C")


def _adjective_or_noun(token: Token, before: str, following: Token | None) -> str:
    """Role of a word that may be an adjective, and a noun if `token.noun`."""
    word = token.word
    if token.noun and word.low in COLOURS:
        fruit = word.low in COLOUR_THINGS and before in ("D", "#") and not _opens(following)
        return "N" if fruit else "A"
    if not token.noun or before == "B":
        return "A"
    if word.plural:
        return "N"
    if _opens(following) and word.adj_count >= word.noun_count:
        return "A"
    mostly_noun = before == "D" or (word.adj_count <= word.noun_count and (token.thing or word.noun_count))
    return "N" if mostly_noun else "A"
