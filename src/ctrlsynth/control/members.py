"""Words that a WordNet class stands for when an edit (3a) replaces something by one of its members."""

from __future__ import annotations

from functools import lru_cache

from ..lang import wordnet

_WIDE = 1000


@lru_cache(maxsize=256)
def members(name: str, quality: bool) -> tuple[str, ...]:
    """Words that stand for members of a WordNet class, sorted, for `replace` to draw from.

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
    for member in reversed(below):  # the deepest first; one that stands under two classes counts in both
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
