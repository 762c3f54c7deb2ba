"""Word lists of the writers of 2b. A word missing here costs an article or a plural, never a tag."""

from typing import Literal

from ....lang import wordnet
from ....lang.words import NUMBERS, singular


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(";"))


COUNTS = frozenset(NUMBERS[2:]) | frozenset(
    "several many some few both multiple numerous dozens various".split()
)
MASS = frozenset(
    """
    art asparagus bacon basil beef beer bread breakfast broccoli butter cattle celery cheese chicken chocolate
    clothing coffee corn cotton cream cutlery darkness dinner dirt dust equipment fire flour fog foliage food
    furniture garbage garlic glassware graffiti grass gravel greenery hair hay honey ice ink ivy jewelry juice
    ketchup laundry lava leather lettuce light lightning livestock luggage lunch machinery mayonnaise meat
    metal milk mist moonlight moss mud music mustard oil paint parsley pasta pepper plastic polish popcorn
    pork pottery poultry rain rice rubble salmon salt sand sauce scenery seaweed shade silk silverware smoke
    snow soup spaghetti spinach steam straw sugar sunlight syrup tea thunder tofu traffic trash vegetation
    water weather wheat wildlife wine wood wool yogurt
    """.split()
)
PLURAL_ONLY = frozenset(
    """
    scissors trousers pants jeans shorts glasses sunglasses binoculars people stairs clothes goggles
    headphones pajamas tights scrubs
    """.split()
)
ONLY_ONE = frozenset("sky ground sun moon sea horizon background foreground ocean distance".split())
PARTICIPLES = frozenset(
    """
    worn held made seen built cut hung lit shown drawn grown thrown set kept laid driven ridden eaten full
    visible ready
    """.split()
)
# Attached to its noun (`a glass of wine`), no predicate.
ATTACHED = frozenset(("with", "of", "without", "full"))

# Between two nouns without a relation: whole phrases, so that a small model cannot pile up prepositions.
LINKS = _phrases(
    """
    and; with; and also; next to; beside; near; close to; by; in front of; behind; above; below; under; over;
    on; on top of; in; inside; at; among; across from; against; along; is on; is in; is near; is next to; is
    behind; is under; is in front of; is beside; is seen with; are on; are in; are near; are next to; are seen
    with; stands on; stands in; stands near; stands next to; stands beside; stands behind; stands in front of;
    lies on; lies in; lies next to; while there is; and there is; and there are
    """
)
# Between the first noun and the others, and after a list of nouns, if the tags hold no relation.
TOGETHER = _phrases(
    "is seen with; is shown with; is pictured with; appears with; is seen together with; is here with"
)
ALL_SEEN = _phrases(
    "are seen together; are in plain view; are shown together; appear together; are all seen up close; are "
    "pictured together"
)
# Before a noun with a clause of its own.
NEXT_CLAUSE = ("and", "while", "as", "with", "next to", "beside", "near", "behind", "in front of")
ALONE = _phrases(
    """
    is seen up close; stands alone; is in plain view; is in the middle; is seen from the side; fills the view;
    is seen from above; is seen from the front; stands out; is shown in daylight; is out in the open; is close
    by; is off to one side; is right in front
    """
)

ConceptKind = Literal[
    "animal", "person", "plant", "food", "vehicle", "building", "place", "sky", "thing", "idea"
]

_LEXFILES: dict[str, ConceptKind] = {
    "noun.animal": "animal",
    "noun.person": "person",
    "noun.group": "person",
    "noun.plant": "plant",
    "noun.food": "food",
    "noun.location": "place",
    "noun.object": "place",
    "noun.phenomenon": "sky",
    "noun.artifact": "thing",
    "noun.substance": "thing",
    "noun.body": "thing",
    "noun.shape": "thing",
    "noun.Tops": "thing",
}
_CLASSES: dict[str, ConceptKind] = {
    "vehicle.n.01": "vehicle",
    "structure.n.01": "building",
    "food.n.01": "food",
    "food.n.02": "food",
}
# What a thing of a kind can be seen to do, in the third person: no soup drives, no ant lights up a room.
VERBS: dict[ConceptKind, tuple[str, ...]] = {
    "animal": tuple("sits stands rests walks runs sleeps waits looks climbs moves plays lies eats".split()),
    "person": tuple("stands sits walks smiles waits looks works speaks reads rests plays sings".split()),
    "plant": tuple("grows stands blooms rises leans spreads shines".split()),
    "food": tuple("lies sits rests waits cools stands shines".split()),
    "vehicle": tuple("stands waits moves passes crosses rolls rests shines".split()),
    "building": tuple("stands rises towers shines overlooks faces waits".split()),
    "place": tuple("lies stretches spreads shines rises rests glows".split()),
    "sky": tuple("shines glows rises falls spreads moves hangs appears passes".split()),
    "thing": tuple("stands lies sits rests hangs leans shines glows waits".split()),
    "idea": tuple("fills lights surrounds brings covers decorates shapes holds".split()),
}
# Where such things are; for an idea, what it fills, lights or surrounds.
PLACES: dict[ConceptKind, tuple[str, ...]] = {
    "animal": _phrases(
        "on the grass; under a tall tree; beside a river; near an old house; in the snow; on a sandy beach; "
        "behind a wooden fence; "
        "in a green field; next to a rock; in front of a barn; among flowers; on a mountain path"
    ),
    "person": _phrases(
        "on a street; in front of a house; beside a window; in a bright room; on a bench; at a table; in a "
        "garden; near a bridge; "
        "by the sea; with a dog; next to a bicycle; under an umbrella"
    ),
    "plant": _phrases(
        "in a garden; beside a stone wall; in a clay pot; near a lake; on a hill; along a road; behind a "
        "house; in the sun; "
        "on a window sill; under a blue sky; in a forest; next to a bench"
    ),
    "food": _phrases(
        "on a white plate; on a wooden table; in a bowl; beside a cup of coffee; on a kitchen counter; next "
        "to a knife; in a basket; "
        "on a tray with fruit; in front of a window; beside a glass of water; on a red cloth; in a small shop"
    ),
    "vehicle": _phrases(
        "on a wet street; in front of a house; beside the sea; on a mountain road; near a bridge; under a "
        "grey sky; in a busy city; "
        "next to a tree; behind a fence; by a lake; on the sand; at a crossing"
    ),
    "building": _phrases(
        "on a hill; beside a river; under a cloudy sky; at the end of a road; behind tall trees; in a small "
        "town; near the sea; "
        "in the snow; next to a park; among old houses; in the morning sun; over a busy street"
    ),
    "place": _phrases(
        "under a clear sky; between two mountains; behind a forest; near a small town; in the morning "
        "light; beside a road; at sunset; "
        "in the fog; with a boat in front; with birds above; after the rain; in winter"
    ),
    "sky": _phrases(
        "over a mountain; above the sea; behind a church; over a green valley; above a city; over a field; "
        "behind tall trees; "
        "over a harbour with boats; above a lonely road; over the roofs; beyond a lake; above a forest"
    ),
    "thing": _phrases(
        "on a wooden table; beside a lamp; on the floor of a bright room; next to a window; on a shelf; "
        "under a chair; in a garden; "
        "on a blue cloth; near a door; between two books; in front of a white wall; beside a cup"
    ),
    "idea": _phrases(
        "a quiet room with a candle; a park bench; a street full of people; a letter on a table; the face "
        "of a child; an old book; "
        "a garden with flowers; two hands; a painting on a wall; a crowd at sunset; a small house; a boat "
        "on the sea"
    ),
}


def kind_of(concept: str) -> ConceptKind:
    """The kind of a concept by its first WordNet sense: `soup` -> food, `justice` -> idea. A word that
    WordNet lacks is a thing; a word whose second sense is an animal is one (a `tiger` is a fierce person
    first)."""
    meaning = wordnet.first_sense(concept)
    if meaning is None:
        return "thing"
    if (
        meaning.lexfile == "noun.group"
        and (single := singular(concept)) != concept
        and wordnet.first_sense(single) is not None
    ):
        return kind_of(single)  # `tigers` are not the Liberation Tigers
    lemma = wordnet.noun_lemma(concept)
    if lemma is not None and any(sense.lexfile == "noun.animal" for sense in wordnet.synsets(lemma, "n")[:2]):
        return "animal"
    of_class = (kind for name, kind in _CLASSES.items() if wordnet.is_a(meaning, name))
    return next(of_class, _LEXFILES.get(meaning.lexfile, "idea"))
