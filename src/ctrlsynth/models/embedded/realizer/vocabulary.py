"""Closed lists of English words that the writers of 2b need; what they lack costs an article or a plural,
never a tag."""

from __future__ import annotations


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(";"))


COUNTS = frozenset(
    """
    two three four five six seven eight nine ten eleven twelve several many some few both multiple numerous
    dozens various
    """.split()
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
PREPOSITIONS = frozenset(
    """
    about above across after against along alongside amid among around as at atop away before behind below
    beneath beside besides between beyond by down during facing for from in inside into like near nearby next
    of off on onto opposite out outside over past through throughout to toward towards under underneath up
    upon via with within without
    """.split()
)
PARTICIPLES = frozenset(
    """
    worn held made seen built cut hung lit shown drawn grown thrown set kept laid driven ridden eaten full
    visible ready
    """.split()
)
ATTACHED = frozenset(
    ("with", "of", "without", "full")
)  # hangs on its noun (`a glass of wine`) and is no predicate

# What may stand between two nouns that no relation ties: whole phrases, so that a small model cannot pile up
# prepositions.
LINKS = _phrases(
    """
    and; with; and also; next to; beside; near; close to; by; in front of; behind; above; below; under; over;
    on; on top of; in; inside; at; among; across from; against; along; is on; is in; is near; is next to; is
    behind; is under; is in front of; is beside; is seen with; are on; are in; are near; are next to; are seen
    with; stands on; stands in; stands near; stands next to; stands beside; stands behind; stands in front of;
    lies on; lies in; lies next to; while there is; and there is; and there are
    """
)
# Between the first noun and the others, and behind a list of nouns, where the tags hold no relation: words
# that tell of none.
TOGETHER = _phrases(
    "is seen with; is shown with; is pictured with; appears with; is seen together with; is here with"
)
ALL_SEEN = _phrases(
    "are seen together; are in plain view; are shown together; appear together; are all seen up close; are "
    "pictured together"
)
# What leads to a noun of which a clause of its own follows.
NEXT_CLAUSE = ("and", "while", "as", "with", "next to", "beside", "near", "behind", "in front of")
ALONE = _phrases(
    """
    is seen up close; stands alone; is in plain view; is in the middle; is seen from the side; fills the view;
    is seen from above; is seen from the front; stands out; is shown in daylight; is out in the open; is close
    by; is off to one side; is right in front
    """
)
