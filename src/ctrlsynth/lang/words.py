"""English that needs no dictionary: the closed word classes (numbers, articles, prepositions), plurals and
singulars. `wordnet.py` knows the open classes."""

from functools import lru_cache

NUMBERS = tuple("zero one two three four five six seven eight nine ten eleven twelve".split())
"""Each number's word at its own place."""
ARTICLES = frozenset(("a", "an", "the"))
DETERMINERS = ARTICLES | frozenset("his her its their my our your this that these those some".split())
_ALWAYS = frozenset(
    """
    above across against along amid among around at atop behind below beneath beside between by down from in
    inside into near of off on onto outside over past through toward towards under underneath up upon with
    """.split()
)
PREPOSITIONS = _ALWAYS | frozenset(
    """
    about after alongside as away before besides beyond during facing for like nearby next opposite out
    throughout to via within without
    """.split()
)
"""What may begin a phrase such as `during a storm`."""
PLACING = _ALWAYS | frozenset("aboard alongside amongst besides beyond round underwater within".split())
"""Prepositions that place or join two things of a scene."""
LINKING = _ALWAYS | frozenset("for to without wearing holding riding carrying".split())
"""What may link the two ends of a relation: prepositions, and the verbs that taggers use like them."""

_IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "foot": "feet",
    "tooth": "teeth", "goose": "geese",
    "mouse": "mice", "ox": "oxen", "leaf": "leaves", "knife": "knives", "wife": "wives", "wolf": "wolves",
    "calf": "calves",
    "shelf": "shelves", "half": "halves", "loaf": "loaves", "thief": "thieves", "scarf": "scarves",
    "life": "lives",
    "cactus": "cacti", "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes", "mango": "mangoes",
    "bus": "buses",
    "policeman": "policemen", "fireman": "firemen", "snowman": "snowmen", "fisherman": "fishermen",
    "axis": "axes",
}  # fmt: skip
_SAME = frozenset(
    (
        "sheep fish deer moose bison shrimp salmon trout aircraft series species swine scissors trousers "
        "pants jeans shorts "
        "glasses sunglasses binoculars pajamas pyjamas leggings overalls goggles headphones clothes rice "
        "bread water grass sand "
        "snow furniture luggage traffic hair"
    ).split()
)
_SINGULAR = {plural: singular for singular, plural in _IRREGULAR.items()}
_ENDS_IN_S = frozenset(
    """
    glass grass dress bus gas lens cross canvas walrus octopus hippopotamus rhinoceros iris chess bass class
    """.split()
)
_ES_SINGULAR = frozenset(
    "shoe canoe toe horse house nose rose hose vase case base purse nurse mouse blouse cheese goose geese "
    "cause".split()
)
_LONG_I = frozenset(
    "movie cookie pie tie selfie hoodie zombie prairie smoothie brownie calorie eerie genie collie beanie "
    "birdie".split()
)


@lru_cache(maxsize=65536)
def plural(noun: str) -> str:
    """The plural of a noun phrase; only its last word changes (`soccer ball` -> `soccer balls`)."""
    head, _, last = noun.rpartition(" ")
    low = last.lower()
    if low in _SAME or low in _SINGULAR:
        form = last
    elif low in _IRREGULAR:
        form = _IRREGULAR[low]
    elif low.endswith(("s", "x", "z", "ch", "sh")):
        form = last + "es"
    elif low.endswith("y") and len(low) > 1 and low[-2] not in "aeiou":
        form = last[:-1] + "ies"
    else:
        form = last + "s"
    return f"{head} {form}" if head else form


@lru_cache(maxsize=65536)
def singular(noun: str) -> str:
    """The singular of a noun phrase by rule; a word that looks singular is returned as it is. Only the last
    word changes."""
    head, _, last = noun.rpartition(" ")
    low = last.lower()
    if low in _SAME or low in _ENDS_IN_S or len(low) < 3 or low.endswith(("ss", "us", "is")):
        form = last
    elif low in _SINGULAR:
        form = _SINGULAR[low]
    elif low.endswith("ies"):
        form = last[:-1] if low[:-1] in _LONG_I else last[:-3] + "y"
    elif (
        low.endswith("es")
        and low[:-1] not in _ES_SINGULAR
        and (low[:-2] in _ENDS_IN_S or low.endswith(("sses", "xes", "zzes", "ches", "shes")))
    ):
        form = last[:-2]
    elif low.endswith("s"):
        form = last[:-1]
    else:
        form = last
    return f"{head} {form}" if head else form


def article(phrase: str) -> str:
    """`a` or `an`, by the sound that the phrase's spelling suggests."""
    low = phrase.lower()
    if low.startswith(("hour", "honest", "heir")):
        return "an"
    if low.startswith(("uni", "use", "usu", "euro", "one ", "one-", "ukulele", "ut")) and not low.startswith(
        ("unin", "unim", "unid", "unil")
    ):
        return "a"
    return "an" if low[:1] in "aeiou" and low else "a"
