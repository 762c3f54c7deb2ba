"""Applies a policy's edits to a caption, for writers (2b) that read no instruction.

Family `tags+text` shows a writer the edited tags and a caption from before the edits. A large model reads in
the instruction what to leave out; `realizer` and the few-shot models do not, so the caption itself is
edited. The rules understand nothing: they replace phrases, drop adjectives, and drop nouns with their
preposition or `and`. If a removed phrase is still there, its clause is dropped, and then its sentence; the
writers then add what the caption lacks of the tags."""

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
# after these comes the setting of the whole clause, not of the noun before them
_SETTING = frozenset("in at near by beside during outside inside under against behind".split())
# words within a preposition: `in front of`, `to the left of`
_PARTS = frozenset("front next top left right side because close the".split())
_SWAPPED = {"is": "are", "was": "were", "has": "have"}


def tidy(caption: str) -> str:
    """The caption on one line, without web litter (URLs, file names, hashtags, `photo of`), final full stop
    and all-capitals."""
    text = _OPENING.sub("", _JUNK.sub(" ", caption))
    if not any(c.isalnum() for c in text):  # only hashtags: they are the caption
        text = caption.replace("#", " ") if any(c.isalnum() for c in caption) else ""
    text = " ".join(text.split()).strip(" .,;:-–—|\"'")
    return text.lower() if text.isupper() and len(text) > 4 else text


def shown(request: Request) -> str:
    """The request's caption, tidied and edited: without `gone`, with `instead`; "" if nothing is left."""
    return in_line(tidy(request.caption or ""), request)


def in_line(text: str, request: Request) -> str:
    """Applies a request's edits to a text about its picture. Texts that the edits do not concern stay as they
    are."""
    gone = request.gone.phrases()
    if not text or not (gone or request.instead):
        return text
    before = text
    bound = objects_of(request)
    text = _replaced(text, [pair for pair in request.instead if _said([pair[0]], text, bound)], bound)
    for name in _said(request.gone.objects, text, bound):
        text = _without_noun(text, name)
    for phrase in _said(request.gone.attributes, text, bound):
        text = _without_modifier(text, *split_attribute(phrase, bound))
    if _said(gone, text, bound):
        text = " ".join(filter(None, (_without_clauses(part, gone, bound) for part in _SENTENCE.split(text))))
        if _said(gone, text, bound):  # across the end of a clause
            text = " ".join(part for part in _SENTENCE.split(text) if not _said(gone, part, bound))
    return text if text == before else _ALSO.sub(r"\1", text.strip(" .,;:"))


def held(request: Request, text: str) -> int:
    """How many of the removed phrases a text still holds."""
    gone = request.gone.phrases()
    return len(_said(gone, text, objects_of(request))) if gone else 0


def objects_of(request: Request) -> tuple[str, ...]:
    """The objects that a request's phrases may refer to: those of its tags, and those that edits removed."""
    return unique((*request.tags.objects, *request.gone.objects))


def _said(phrases: Sequence[str], text: str, bound: Sequence[str]) -> list[str]:
    return [p for p, hit in zip(phrases, matching.in_text(phrases, text, "lemma", bound), strict=True) if hit]


def _replaced(text: str, pairs: Iterable[tuple[str, str]], bound: Sequence[str]) -> str:
    """Replaces old phrases by new ones in the same number, all at once (`dog` and `cat` can swap), the
    longest first. Up to two words may be between a modifier and its noun: `big red ball` for `big ball`."""
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
        old = match["old"].lower()
        if old not in forms:  # only `re` takes some letters for equal (`ſ`)
            return match[0]
        new, many = forms[old]
        becomes_many = is_plural(new) and not many and not is_plural(old)
        lead, verb = match["lead"] or "", match["verb"] or ""
        without_article = not lead and not many and determiner(old, False, None) == ""
        if lead.lower() in ("a ", "an ") or (without_article and _tied(text[: match.start()])):
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
    """Replaces a modifier that other words separate from its noun: `big` by `old` in `a big red ball`."""

    def put(match: re.Match[str]) -> str:
        lead = _cased(article(new) + " ", match[0]) if match["lead"] else ""
        return f"{lead}{new if lead else _cased(new, match[0])} {match['rest']}"

    between = r"(?:(?!(?:and|or|the|an?)\b)[\w-]+ ){1,2}"
    return re.sub(rf"(?i)\b(?P<lead>an? )?{re.escape(old)} (?P<rest>{between}{re.escape(noun)})\b", put, text)


def _cased(text: str, like: str) -> str:
    """Capitalises the text if the other one is."""
    return text[:1].upper() + text[1:] if like[:1].isupper() else text


def _tied(before: str) -> bool:
    """Whether a noun after these words is without article and modifier: after `wearing`, `on`, `and`, or at
    the beginning."""
    last = before.lower().split()[-1:] or ["and"]
    return last[0] in PREPOSITIONS or last[0].endswith("ing") or last[0] == "and"


def _without_modifier(text: str, modifier: str, noun: str | None) -> str:
    """Drops a modifier: `a red ball` -> `a ball`; `red and white ball` -> `white ball`. `the ball is red`
    stays as it is (its clause is dropped later)."""
    word, tail = re.escape(modifier), r"(?P<rest>[^\W\d_]\w*)"
    if noun is not None:
        nouns = f"{re.escape(noun)}|{re.escape(plural(noun))}"
        tail = rf"(?P<rest>(?:(?!(?:an?|the)\b)[\w-]+ ){{0,2}}(?:{nouns}))\b"

    def without_and(match: re.Match[str]) -> str:
        """`white and red ball` -> `white ball`, but `lamp and red ball` stays: a lamp is no modifier."""
        other = match["other"].lower()
        describes = other in COLOURS or other in KEEP_APART or noun_form(other) is None
        return f"{match['other']} " if describes else match[0]

    text = re.sub(rf"(?i)\b(?P<other>\w+)(?:,| and) {word} (?={tail})", without_and, text)

    def drop(match: re.Match[str]) -> str:
        rest, lead = match["rest"], match["lead"] or ""
        lead = f"{article(rest)} " if lead.lower() in ("a ", "an ") else lead
        return _cased(lead + rest, match[0])

    return re.sub(rf"(?i)\b(?P<lead>(?:an?|the) )?{word}(?:,| and)? {tail}", drop, text)


def _without_noun(text: str, name: str) -> str:
    """Drops the noun from every clause in which it follows a preposition or comes late in a list."""
    out = []
    for part in _SENTENCE.split(text):
        ends = [*(m.start() for m in _CLAUSE.finditer(part)), len(part)]
        out.append("".join(_cut(part[a:b], name) for a, b in zip([0, *ends], ends, strict=False)))
    return " ".join(out)


def _cut(clause: str, name: str) -> str:
    """One clause without a noun phrase and the words that connect it; unchanged if the rest would not make
    sense."""
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
    if start == at:  # no preposition: part of a list, or a verb's object
        listed = at > 1 and low[at - 1] in (",", "and") and not any(w in _BE for w in following)
        if not listed or (following and following[0] not in (",", "and", ".", ";", "!", "?")):
            return clause
        start -= 1
        start -= low[start - 1] == ","
    if start < 1 or low[start - 1] in _BE or low[start - 1] == "and":
        return clause
    begin = words[start - 1].start() if words[start - 1][0] == "," else words[start - 1].end()
    if following and (following[0] in PREPOSITIONS - _SETTING or following[0].endswith("ing")):
        tail = "".join(m[0] for m in [re.search(r"[.,;!?].*$", tail)] if m is not None)
    return clause[:begin] + tail


def _without_clauses(sentence: str, gone: Sequence[str], bound: Sequence[str]) -> str:
    """Drops the clauses that hold one of the phrases from a sentence."""
    if not _said(gone, sentence, bound):
        return sentence
    end = sentence[-1] if sentence[-1] in ".!?;" else ""
    parts = [_LEAD.sub("", part).strip(" ,.;!?") for part in _CLAUSE.split(sentence)]
    left = ", and ".join(part for part in parts if part and not _said(gone, part, bound))
    return left[:1].upper() + left[1:] + end if left else ""


def kept(tags: Tags, text: str, plain: str) -> Tags:
    """The tags that a text holds, by the `lemma` matcher. Phrases that it does not find in our own `plain`
    sentence either (it sees no soda in an `orange soda`) count as held if all their words are there."""
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
    """The text's words in lower case and the singular."""
    return {singular(word) for word in _TOKEN.findall(text.lower())}
