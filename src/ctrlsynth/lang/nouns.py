"""Reads nouns as captions use them: the singular of a word, and which adjacent words are one noun (`hot
dog`). The `wordnet` tagger (2a) and the judge's matchers share these rules, so that what the one calls an
object the other finds."""

from functools import cache, lru_cache

from . import wordnet
from .words import singular

# Common things that are younger than WordNet 3.0 (2006), or that it lacks.
MODERN = frozenset(
    (
        "smartphone iphone ipad hoodie tshirt tee snowboarder drone e-bike minifigure quadcopter dreadlocks "
        "sneaker flipflop flip-flop "
        "smoothie barista burrito sushi ramen latte cappuccino emoji ebook headphones earbud earbuds "
        "skatepark snowmobile backsplash "
        "minivan suv webcam usb powerbank hatchback corgi labradoodle pug chihuahua doodle leggings onesie "
        "beanie whiteboard "
        "touchscreen waterhole graffiti granddaughter grandma grandpa mom mum kitty bunny doggy puppy teen "
        "tween scrubs windowsill "
        "windmill playset treehouse barbecue bbq crossbody tote fries"
    ).split()
)
COLOURS = frozenset(
    (
        "red orange yellow green blue purple violet pink brown black white grey gray gold golden silver "
        "beige turquoise teal navy "
        "maroon cyan magenta ivory cream lavender crimson scarlet indigo khaki olive tan multicolored "
        "colorful colourful"
    ).split()
)
COLOUR_THINGS = frozenset("golden orange olive violet lavender gold silver cream rose tan ivory".split())
# Modifiers that stay modifiers even where WordNet knows them with a noun as one word (`old man`: a father).
KEEP_APART = frozenset(
    (
        "old young little big small large tall new happy long short tiny huge wild fat thin beautiful free "
        "fresh cute pretty nice "
        "clear open newborn"
    ).split()
)


@lru_cache(maxsize=32768)
def noun_form(plain: str) -> str | None:
    """The noun of a word as objects are written, or None: WordNet's lemma, in the singular also where WordNet
    lists the plural as a word of its own (`people`, `windows`)."""
    if plain in MODERN:
        return plain
    one = singular(plain)
    if one in MODERN:
        return one
    spaced = plain.replace("-", " ")
    base = wordnet.morphy(plain, "n") or (wordnet.morphy(spaced, "n") if spaced != plain else None)
    if one == plain:
        return plain if base is not None and plain.endswith("s") and len(plain) > 3 else base
    if base == plain and plain not in _OWN_PLURALS and wordnet.morphy(one, "n") == one:
        return one if plain in _PERSONS or wordnet.count(one, "n") >= wordnet.count(plain, "n") else base
    return base


_OWN_PLURALS = frozenset("clothes woods grounds goods news stairs".split())
_PERSONS = frozenset("people men women children".split())


@cache
def multiword_starts() -> dict[str, tuple[int, set[str]]]:
    """First word -> the most words (at most 5) of a WordNet noun of several words that begins with it, and
    how their second words begin (3 letters, so that a plural is not missed). Spares most look-ups."""
    starts: dict[str, tuple[int, set[str]]] = {}
    for lemma in wordnet.lemma_names("n"):
        if " " in lemma:
            first, second, *_ = lemma.split(" ")
            most, seconds = starts.setdefault(first, (0, set()))
            seconds.add(second[:3])
            starts[first] = (max(most, min(lemma.count(" ") + 1, 5)), seconds)
    return starts


@lru_cache(maxsize=32768)
def multiword(low: str, capitals: bool) -> str | None:
    """The lemma of several words that a run of words forms, or None. Words of size, age and beauty stay
    modifiers (`old man`), colours too (`brown bear`: a bear), unless the animal, food or plant is no kind of
    its last word (`red panda`). Names need capitals."""
    first = low.partition(" ")[0]
    if (
        first in KEEP_APART or low.rpartition(" ")[2] in _PARTICLES or low.startswith("black cat")
    ):  # the fisher, a marten
        return None
    lemma = wordnet.morphy(low, "n")
    if lemma is None or " " not in lemma:
        return None
    senses = wordnet.synsets(lemma, "n")
    sense = wordnet.first_sense(lemma) or senses[0]
    if sense.is_instance and not capitals:
        return None
    if (low != lemma and sense.lexfile in _DOINGS) or (" of " in lemma and sense.lexfile not in _THINGS):
        return None  # `my puppy loves his toy`; `cup of tea`: what one likes
    if (
        first in COLOURS
        and first not in COLOUR_THINGS
        and not (capitals and any(s.is_instance for s in senses))
    ):
        head = wordnet.first_sense(lemma.rpartition(" ")[2])
        if (
            head is None
            or sense.lexfile not in _THINGS[:3]
            or head.lexfile != sense.lexfile
            or wordnet.is_a(sense, head)
        ):
            return None
    return lemma


_PARTICLES = frozenset(
    "a all and as be do he if it me no not or she so us we who will you at by down for in of off on out "
    "over to up with".split()
)
_DOINGS = ("noun.act", "noun.cognition", "noun.feeling")
_THINGS = ("noun.animal", "noun.food", "noun.plant", "noun.artifact", "noun.object")
