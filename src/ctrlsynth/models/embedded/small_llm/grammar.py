"""Grammars (llama.cpp's GBNF) that bind a small model's sentence to the request's phrases (2b).

Without a grammar SmolLM2-135M forgets some of the objects and adds its own. With one, a sentence has the
nouns with their modifiers in the order of the clauses, each relation between its two nouns, and joining
words from lists (realizer/vocabulary.py). The model still chooses articles, verbs, prepositions and
conjunctions. For a rephrased caption the grammar only sets the form, and for tag extraction (appendix A.4)
it allows only spans of the caption."""

import re
from collections.abc import Iterable
from itertools import takewhile
from string import ascii_lowercase

from ....lang.words import PREPOSITIONS, article, plural, singular
from ..realizer.scene import Scene, determiner, is_plural, predicate, reduced, with_subjects
from ..realizer.speech import FAR, capital
from ..realizer.vocabulary import ALL_SEEN, ALONE, ATTACHED, LINKS, NEXT_CLAUSE, TOGETHER, VERBS, kind_of


def quote(text: str) -> str:
    """A GBNF string literal, without unprintable characters."""
    clean = "".join(c for c in text if c.isprintable())
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'


def alternatives(texts: Iterable[str]) -> str:
    """`( "a" | "b" )`, without repeats."""
    return "( " + " | ".join(quote(text) for text in dict.fromkeys(texts)) + " )"


def sentence(scene: Scene, words: tuple[int, int] | None = None, *, seed: int = 0) -> str:
    """One sentence that names every noun of the scene. `words`: its least and greatest length, exceeded if
    the scene needs more."""
    pieces = _Pieces(scene, seed)
    if not pieces.out:
        return about(f"{' and '.join(scene.loose)} scene", words) if scene.loose else free(words)
    out = pieces.out
    if not scene.clauses and len(scene.nouns) > 1:
        pieces.least, out = pieces.least + 2, _together(scene)
    elif len(pieces.out) == 1 and not scene.loose:
        out.append(_alone(scene.nouns[0].many, seed))
    if scene.loose:
        loose = " and ".join(scene.loose)
        out.append(f'" in {article(loose)} " {quote(loose)} {alternatives([" scene", " view", " place"])}')
    if words is not None and pieces.least < words[0]:
        out.append(f'","? (" " f){{{words[0] - pieces.least},{max(words[0], words[1]) - pieces.least}}}')
    many = all(noun.many for noun in scene.nouns)
    return "\n".join(
        (
            'root ::= " " ' + " ".join(out) + ' "."',
            f"link ::= {alternatives(' ' + link for link in LINKS if many or not link.startswith('are '))}",
            f"next ::= {alternatives(' ' + link for link in NEXT_CLAUSE)}",
            "f ::= [a-z]+",
        )
    )


def _together(scene: Scene) -> list[str]:
    """Nouns without relations: `a cup is seen with a lamp and a dog`, or `a cup, a lamp and a dog are seen
    together`."""
    first, *others = scene.nouns
    forms = [[noun.first(), f"the {noun.full()}"] for noun in others]
    listed = [f'"," " " {alternatives(form)}' for form in forms[:-1]] + [f'" and " {alternatives(forms[-1])}']
    seen = [predicate(verb, True) if first.many else verb for verb in TOGETHER]
    rest = " ".join([f'" " {alternatives(forms[0])}', *listed[1:]])
    all_seen = [verb for verb in ALL_SEEN if len(scene.nouns) > 2 or "all" not in verb.split()]
    return [
        alternatives(capital(form) for form in (first.first(), f"the {first.full()}")),
        f"( {alternatives(f' {verb}' for verb in seen)} {rest} | {' '.join(listed)} "
        f"{alternatives(f' {verb}' for verb in all_seen)} )",
    ]


def _alone(many: bool, seed: int) -> str:
    """Four predicates without content, picked by the seed because the model has a favourite."""
    verbs = [ALONE[(seed + 5 * n) % len(ALONE)] for n in range(4)]
    return alternatives(" " + (predicate(verb, True) if many else verb) for verb in verbs)


class _Pieces:
    """The sentence's pieces in order: each subject with what is attached to it and what it does, then nouns
    of no clause. `least`: the smallest number of words; `content`: the same without articles."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene, self.seed, self.clauses = scene, seed, with_subjects(scene)
        self.open = set(range(len(self.clauses)))
        self.named: set[int] = set()
        self.out: list[str] = []
        self.least = self.content = 0
        for number, clause in enumerate(self.clauses):
            if number not in self.open:
                continue
            if clause.subject is None:
                self.one(["someone"], "next")
                self.relation(number, False, "")
                continue
            self.noun(clause.subject, "next")
            self.clauses_of(clause.subject, subject=True)
        for i in self.scene.alone:
            if i not in self.named:
                self.noun(i, "link")

    def clauses_of(self, i: int, *, subject: bool) -> None:
        """Adds what is said of noun i after it: what is attached to it, then places, and for a subject its
        actions."""
        noun, before, start, verb = self.scene.nouns[i], "", self.content, False
        ranks = [(self.rank(n), n) for n in self.open if self.clauses[n].subject == i]
        for rank, number in sorted(ranks):
            words = self.clauses[number].words
            if number not in self.open or not (subject or rank < 2):
                continue
            if subject and before not in ("", words) and rank > 0 and self.content - start + 1 > FAR:
                self.out.append(
                    f"{'' if verb else _alone(noun.many, self.seed)} "
                    f"{alternatives([', and', ' and', ', while'])}"
                )
                self.out.append(quote(f" the {noun.bare()}"))
                self.least, before, start, verb = self.least + 2 + 3 * (not verb), "", self.content, True
                self.relation(number, noun.many, before, must=True)
            else:
                self.relation(number, noun.many, before, verbless=rank == 0 or not subject)
                verb = verb or rank == 2
            before = words

    def rank(self, number: int) -> int:
        """0 for an attached clause, 1 for a place, 2 for an action."""
        head = self.clauses[number].words.partition(" ")[0]
        return 0 if head in ATTACHED else 1 if head in PREPOSITIONS else 2

    def relation(
        self, number: int, many: bool, before: str, *, verbless: bool = False, must: bool = False
    ) -> None:
        """Adds a clause's words and object. `verbless`: without an optional verb; `must`: as a finite
        predicate."""
        self.open.discard(number)
        clause = self.clauses[number]
        finite, full = reduced(clause.words) is None, quote(" " + predicate(clause.words, many))
        said = full if finite else quote(" " + clause.words)
        if must and not finite:
            self.out.append(full)
        elif before == clause.words and clause.object is not None:
            self.out.append(quote(" and"))
        else:
            verb = "" if verbless or finite else f"{_verbs(clause.words, many)} "
            self.out.append((quote(" and") + "? " if before else "") + verb + said)
        self.least += len(clause.words.split())
        self.content += len(clause.words.split())
        if clause.object is not None:
            self.noun(clause.object, "")
            self.clauses_of(clause.object, subject=False)

    def noun(self, i: int, join: str) -> None:
        """Adds noun i, with its modifiers at its first mention."""
        noun = self.scene.nouns[i]
        forms = [f"the {noun.bare()}"] if i in self.named else [noun.first(), f"the {noun.full()}"]
        self.named.add(i)
        self.one(forms, join)

    def one(self, forms: list[str], join: str) -> None:
        """Adds one of several forms of a noun, after a joining word by the rule `join`, if any."""
        if not self.out:
            self.out.append(alternatives(capital(form) for form in forms))
        else:
            self.out.append(f'{f"{chr(34)},{chr(34)}? {join} " if join else ""}" " {alternatives(forms)}')
            self.least += bool(join)
        self.least += len(forms[0].split())
        self.content += sum(
            word not in ("a", "an", "the") for word in forms[0].replace("-", " ").split()
        ) + bool(join)


def _verbs(words: str, many: bool) -> str:
    """An optional verb before a relation's words, in the number of its subject."""
    be, s = ("are", "") if many else ("is", "s")
    verbs = [be, f"that {be}"]
    if words.partition(" ")[0] in PREPOSITIONS:
        verbs += [f"{be} standing", f"{be} lying", f"stand{s}", f"lie{s}"]
    return alternatives(f" {verb}" for verb in verbs) + "?"


def again(words: tuple[int, int] | None = None) -> str:
    """One sentence in any script, for a rephrased caption."""
    least, most = words or (1, 60)
    return f'root ::= " " w (" " w){{{max(0, least - 1)},{max(1, most - 1)}}}\nw ::= [^ \\n]+'


def free(words: tuple[int, int] | None = None) -> str:
    """One plain sentence of lower-case words."""
    least, most = words or (4, 24)
    return (
        f'root ::= " " [A-Z] [a-z]* (" " f){{{max(1, least - 1)},{max(2, most - 1)}}} "."\nf ::= [a-z]+ '
        f'("\'s" | "-" [a-z]+)? ","?'
    )


def about(phrase: str, words: tuple[int, int] | None = None) -> str:
    """One plain sentence of at most 15 words (SynthCLIP, 3.1) that begins with the phrase, with an article
    if it takes one, then a verb of something seen, and no word of the phrase again. Without this the small
    model defines the thing, makes a compound of it (`a basketball player`), or repeats it."""
    least, most = words or (4, 15)
    many = is_plural(phrase)
    forms = [capital(phrase), f"The {phrase}"]
    if determiner(phrase, many, None) in ("a", "an"):
        forms.append(f"{capital(article(phrase))} {phrase}")
    own = len(phrase.split()) + 1
    return (
        f'root ::= " " {alternatives(forms)} '
        f"{alternatives(' ' + predicate(verb, many) for verb in VERBS[kind_of(phrase)])} "
        f'(" " f){{{max(1, least - own - 1)},{max(2, most - own - 1)}}} "."\n'
        'f ::= w ("-" w)? | w "," " " w\n'
        f"w ::= {_unlike({stem for word in phrase.lower().split() if (stem := _stem(word))})}"
    )


def _stem(word: str) -> str:
    """The initial letters that a noun's singular and plural share: `pupp`, `wol`; "" if some are not a to
    z."""
    one = singular(word)
    stem = "".join(
        a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, plural(one), strict=False))
    )
    stem = stem if len(stem) > 2 else one
    return stem if stem.isascii() and stem.isalpha() else ""


def _unlike(stems: Iterable[str], start: str = "") -> str:
    """A lower-case word that begins with none of the stems. `start`: the letters before this rule."""
    rest = [stem[len(start) :] for stem in stems if stem.startswith(start)]
    heads = sorted({stem[0] for stem in rest})
    ways = [f"[{''.join(c for c in ascii_lowercase if c not in heads)}] [a-z]*"]
    ways += [f"{quote(head)} ({_unlike(stems, start + head)})?" for head in heads if head not in rest]
    return " | ".join(ways)


MAX_WORDS = 60  # of a caption; later ones are not read
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_STOP = frozenset(
    """
    a an the this that these those of in on at by for to from with without and or but as is are was were be
    been being am has have had do does did can could will would shall should may might must not no it its he
    she they we i you his her their our your my him them us me who what when where which why how there here
    into onto over under near next behind front up down out off about all some any each every very
    """.split()
)


def words_of(caption: str) -> list[list[str]]:
    """The caption's words in runs between punctuation marks: no phrase extends across a comma or full
    stop."""
    runs, count = [], 0
    for run in re.split(r"[^\w\s'’-]+|\s[-–—]+\s", caption):
        words = _WORD.findall(run)[: MAX_WORDS - count]
        count += len(words)
        if words:
            runs.append(words)
    return runs


def extraction(caption: str, order: Iterable[str] = ("attributes", "objects", "relations")) -> str:
    """A grammar for the lines `attributes:`, `objects:` and `relations:`: lists of spans in the caption's
    order, without overlap within a line. An object has 1 to 3 words, an attribute 2 to 4, a relation 2 to 5
    with a verb form or preposition. Objects and attributes neither begin nor end with function words."""
    flat = [(words, i) for words in words_of(caption) for i in range(len(words))]
    rules = ["root ::= " + ' "\\n" '.join(f'"{name}:" l{name[0]}' for name in order)]
    for kind, least, most in (("a", 2, 4), ("o", 1, 3), ("r", 2, 5)):
        later = False  # whether a phrase begins at or after this word, so that a comma may follow
        for at in range(len(flat) - 1, -1, -1):
            words, i = flat[at]
            spans = [
                words[i:j] for j in range(i + least, min(i + most, len(words)) + 1) if _fits(kind, words[i:j])
            ]
            forms = [f"{quote(' ' + ' '.join(span))} m{kind}{at + len(span)}" for span in spans]
            if later:
                forms.append(f"k{kind}{at + 1}")
            later = later or bool(spans)
            if later:
                rules.append(f"k{kind}{at} ::= {' | '.join(forms)}")
            rules.append(f'm{kind}{at} ::= ("," k{kind}{at})?' if later else f'm{kind}{at} ::= ""')
        rules.append(f'm{kind}{len(flat)} ::= ""')
        rules.append(f"l{kind} ::= k{kind}0?" if later else f'l{kind} ::= ""')
    return "\n".join(rules)


def _fits(kind: str, words: list[str]) -> bool:
    low = [word.lower() for word in words]
    if kind == "r":
        verbal = any(word in PREPOSITIONS or word.endswith(("ing", "ed", "s")) for word in low[:-1])
        return verbal and low[-1] not in _STOP and low[0] not in ("a", "an", "the", "and", "or", "but")
    if all(word.isdigit() for word in low):
        return False
    return low[0] not in _STOP and low[-1] not in _STOP and not set(low[1:-1]) & (_STOP - {"and", "of"})
