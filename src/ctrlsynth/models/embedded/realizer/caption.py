"""A caption for a writer (2b) whose tags were edited: tidied, what the policy replaced put in place, what it
took away left out.

Family `tags+text` shows a writer tags as edited beside a caption from before the edits. A large model is told
in the instruction what to leave out; `realizer` and the few-shot models read no instruction, so the caption
itself is brought in line with the tags. Rules, no understanding: a phrase in place of a phrase, an adjective
less, a noun less with its preposition or `and`. Where that is not enough the clause goes that still says it,
and then the sentence; the writers say anew what the tags hold and the caption then lacks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ....lang.matching import rules as matching
from ....lang.nouns import COLOURS, KEEP_APART, noun_form
from ....lang.phrases import split_attribute
from ....lang.words import DETERMINERS, PREPOSITIONS, article, plural, singular
from ....sample import Tags, unique
from ...base import Request
from .scene import determiner, is_plural

_JUNK = re.compile(
    r"(?i)\b(?:stock (?:photo|image|picture)|photo by "
    r"[^.,;]*|(?:www\.|https?://)\S+|\S+\.(?:jpe?g|png|gif|webp))|[#@]\w+|[|]+|[!?.]{2,}|\s[-–—]\s*$"
)
_OPENING = re.compile(
    r"(?i)^\s*(?:an?|the|this is an?)?\s*(?:close[- ]?up |stock |real |beautiful )?"
    r"(?:photo(?:graph)?|picture|image|snapshot|pic) (?:of|shows?|showing)\s+"
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
_CLAUSE = re.compile(
    r"(?i),? (?=while )|, (?=and (?:an?|the|there|someone|we|two|three) )|,? (?=and there (?:is|are) )"
)
_ALSO = re.compile(r"(?i)^(there (?:is|are)) also\b")
_LEAD = re.compile(r"(?i)^(?:,|and|while|but)\s+")
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_WORD = re.compile(_TOKEN.pattern + r"|[^\w\s]")
_BE = frozenset("is are was were be been being am has have had".split())
_ARTICLES = DETERMINERS | frozenset("one two three four several many".split())
_SETTING = frozenset(
    "in at near by beside during outside inside under against behind".split()
)  # a place of the whole, not of its noun
_PARTS = frozenset(
    "front next top left right side because close the".split()
)  # inside a preposition: `in front of`, `to the left of`
_SWAPPED = {"is": "are", "was": "were", "has": "have"}


def tidy(caption: str) -> str:
    """A caption without web litter (addresses, file names, hash tags, `photo of`), without a full stop, on
    one line, not in capitals."""
    text = _OPENING.sub("", _JUNK.sub(" ", caption))
    if not any(c.isalnum() for c in text):  # nothing but hash tags: they are the caption
        text = caption.replace("#", " ") if any(c.isalnum() for c in caption) else ""
    text = " ".join(text.split()).strip(" .,;:-–—|\"'")
    return text.lower() if text.isupper() and len(text) > 4 else text


def shown(request: Request) -> str:
    """The request's caption, tidied, in line with the edits: without `gone`, with `instead`; "" where nothing
    is left."""
    return in_line(tidy(request.caption or ""), request)


def in_line(text: str, request: Request) -> str:
    """Any text about the request's picture, in line with the edits. A text that says nothing of them comes
    back as it is."""
    if not text or not (request.gone.phrases() or request.instead):
        return text
    before = text
    bound = objects_of(request)
    pairs = [pair for pair in request.instead if _said([pair[0]], text, bound)]
    text = _replaced(text, pairs, bound)
    for name in _said(request.gone.objects, text, bound):
        text = _without_noun(text, name)
    for phrase in _said(request.gone.attributes, text, bound):
        text = _without_modifier(text, *split_attribute(phrase, bound))
    gone = request.gone.phrases()
    if _said(gone, text, bound):
        text = " ".join(filter(None, (_without_clauses(part, gone, bound) for part in _SENTENCE.split(text))))
        if _said(gone, text, bound):  # over the end of a clause
            text = " ".join(part for part in _SENTENCE.split(text) if not _said(gone, part, bound))
    return text if text == before else _ALSO.sub(r"\1", text.strip(" .,;:"))


def held(request: Request, text: str) -> int:
    """How many of the phrases that were taken away a text holds all the same."""
    gone = request.gone.phrases()
    return len(_said(gone, text, objects_of(request))) if gone else 0


def objects_of(request: Request) -> tuple[str, ...]:
    """The objects that the phrases of a request speak of: those of its tags, and those that edits took away
    or put in their place."""
    return unique((*request.tags.objects, *request.gone.objects))


def _said(phrases: Sequence[str], text: str, bound: Sequence[str]) -> list[str]:
    return [p for p, hit in zip(phrases, matching.in_text(phrases, text, "lemma", bound), strict=True) if hit]


def _replaced(text: str, pairs: Iterable[tuple[str, str]], bound: Sequence[str]) -> str:
    """Old phrases by new ones in the same number, all at once (`dog` and `cat` can change places), the
    longest first. Up to two words may stand between a modifier and its noun: `big red ball` for `big
    ball`."""
    forms: dict[str, tuple[str, bool]] = {}
    for old, new in sorted(pairs, key=lambda pair: -len(pair[0])):
        forms.setdefault(old.lower(), (new, False))
        forms.setdefault(plural(old).lower(), (plural(new) if not is_plural(new) else new, True))
        modifier, noun = split_attribute(old, bound)
        after, same = split_attribute(new, bound)
        if noun is not None and noun == same and " " not in noun:
            text = _other_modifier(text, modifier, after, noun)
    if not forms:
        return text
    words = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))

    def put(match: re.Match[str]) -> str:
        if match["old"].lower() not in forms:  # letters that are equal in lower case only to `re` (`ſ`)
            return match[0]
        new, many = forms[match["old"].lower()]
        becomes_many = is_plural(new) and not many and not is_plural(match["old"].lower())
        lead, verb = match["lead"] or "", match["verb"] or ""
        bare = (
            not lead
            and not many
            and determiner(match["old"].lower(), False, None) == ""
            and _tied(text[: match.start()])
        )
        if bare or lead.lower() in ("a ", "an "):
            modifier, noun = split_attribute(new, bound)
            word = determiner(noun or new, is_plural(new), modifier if noun else None)
            if word or lead:
                new, lead = _cased(f"{word} {new}".strip(), lead or match["old"]), ""
        new = new if lead else _cased(new, match["old"] if not match["lead"] else new)
        if becomes_many and verb.strip() in _SWAPPED:
            verb = f" {_SWAPPED[verb.strip()]}"
        return f"{lead}{new}{verb}"

    return re.sub(rf"(?i)\b(?P<lead>(?:an?|the) )?(?P<old>{words})\b(?P<verb> (?:is|was|has)\b)?", put, text)


def _other_modifier(text: str, old: str, new: str, noun: str) -> str:
    """`a big red ball` with `old` in place of `big`."""

    def put(match: re.Match[str]) -> str:
        lead = _cased(article(new) + " ", match[0]) if match["lead"] else ""
        return f"{lead}{new if lead else _cased(new, match[0])} {match['rest']}"

    between = r"(?:(?!(?:and|or|the|an?)\b)[\w-]+ ){1,2}"
    return re.sub(rf"(?i)\b(?P<lead>an? )?{re.escape(old)} (?P<rest>{between}{re.escape(noun)})\b", put, text)


def _cased(text: str, like: str) -> str:
    """With a capital where the other has one."""
    return text[:1].upper() + text[1:] if like[:1].isupper() else text


def _tied(before: str) -> bool:
    """Whether a noun after these words has no article or modifier: `wearing` sunglasses, `on` snow, or at the
    beginning."""
    words = before.lower().split()
    return not words or words[-1] in PREPOSITIONS or words[-1].endswith("ing") or words[-1] == "and"


def _without_modifier(text: str, modifier: str, noun: str | None) -> str:
    """`a red ball` -> `a ball`; `red and white ball` -> `white ball`; `the ball is red` stays as it is (its
    clause goes)."""
    word = re.escape(modifier)
    if noun is None:
        tail = r"(?P<rest>[^\W\d_]\w*)"
    else:
        tail = (
            rf"(?P<rest>(?:(?!(?:an?|the)\b)[\w-]+ ){{0,2}}(?:{re.escape(noun)}|{re.escape(plural(noun))}))\b"
        )
    text = re.sub(
        rf"(?i)\b(?P<other>\w+)(?:,| and) {word} (?={tail})",
        lambda m: f"{m['other']} " if _describes(m["other"].lower()) else m[0],
        text,
    )

    def drop(match: re.Match[str]) -> str:
        rest = match["rest"]
        lead = match["lead"] or ""
        lead = f"{article(rest)} " if lead.lower() in ("a ", "an ") else lead
        return _cased(lead + rest, match[0])

    return re.sub(rf"(?i)\b(?P<lead>(?:an?|the) )?{word}(?:,| and)? {tail}", drop, text)


def _describes(word: str) -> bool:
    """Whether `white and red ball` has two modifiers, unlike `lamp and red ball`."""
    return word in COLOURS or word in KEEP_APART or noun_form(word) is None


def _without_noun(text: str, name: str) -> str:
    """The noun out of every clause in which it hangs on a preposition or stands late in a list; elsewhere it
    stays."""
    out = []
    for part in _SENTENCE.split(text):
        pieces, at = [], 0
        for cut in [*(m.start() for m in _CLAUSE.finditer(part)), len(part)]:
            pieces.append(_cut(part[at:cut], name))
            at = cut
        out.append("".join(pieces))
    return " ".join(out)


def _cut(clause: str, name: str) -> str:
    """One clause without a noun phrase and what ties it to the rest; the clause as it is where that would
    leave a ruin."""
    match = re.search(rf"(?i)\b(?:{re.escape(plural(name))}|{re.escape(name)})\b", clause)
    if match is None:
        return clause
    words = [m for m in _WORD.finditer(clause) if m.end() <= match.start()]
    low = [m[0].lower() for m in words]
    at = next((i for i in range(len(low) - 1, max(-1, len(low) - 5), -1) if low[i] in _ARTICLES), len(low))
    if any(
        w in PREPOSITIONS or w in _BE or w in ("and", ",") or (w.endswith("ing") and n > 1)
        for n, w in enumerate(low[at:])
    ):
        at = len(low)
    start = at
    while start > 0 and (low[start - 1] in PREPOSITIONS or (start < at and low[start - 1] in _PARTS)):
        start -= 1
    tail = clause[match.end() :]
    following = _WORD.findall(tail.lower())
    if start == at:  # no preposition: in a list, or an object of a verb
        listed = at > 1 and low[at - 1] in (",", "and") and not any(w in _BE for w in following)
        if not listed or not (not following or following[0] in (",", "and", ".", ";", "!", "?")):
            return clause
        start -= 1
        start -= low[start - 1] == ","
    if start < 1 or low[start - 1] in _BE or low[start - 1] == "and":
        return clause
    begin = words[start - 1].end()
    if words[start - 1][0] == ",":
        begin = words[start - 1].start()
    if following and (following[0] in PREPOSITIONS - _SETTING or following[0].endswith("ing")):
        tail = "".join(m[0] for m in [re.search(r"[.,;!?].*$", tail)] if m is not None)
    return clause[:begin] + tail


def _without_clauses(sentence: str, gone: Sequence[str], bound: Sequence[str]) -> str:
    """The sentence without the clauses that hold one of the phrases."""
    if not _said(gone, sentence, bound):
        return sentence
    end = sentence[-1] if sentence[-1] in ".!?;" else ""
    parts = [_LEAD.sub("", part).strip(" ,.;!?") for part in _CLAUSE.split(sentence)]
    left = ", and ".join(part for part in parts if part and not _said(gone, part, bound))
    return left[:1].upper() + left[1:] + end if left else ""


def kept(tags: Tags, text: str, plain: str) -> Tags:
    """The tags that a text holds, by the `lemma` matcher. What that would not find in our `plain` sentence
    about them either (an `orange soda` is no soda to it) is there when all its words are."""
    phrases = tags.phrases()
    hits = matching.in_text(phrases, text, "lemma", tags.objects)
    if all(hits):
        return tags
    ours = matching.in_text(phrases, plain, "lemma", tags.objects)
    there = {
        p
        for p, hit, own in zip(phrases, hits, ours, strict=True)
        if hit or (not own and lemmas(p) <= lemmas(text))
    }
    objects, attributes, relations = (
        tuple(p for p in kind if p in there) for kind in (tags.objects, tags.attributes, tags.relations)
    )
    return Tags(objects, attributes, relations)


def lemmas(text: str) -> set[str]:
    """Its words, in lower case and the singular."""
    return {singular(word) for word in _TOKEN.findall(text.lower())}
