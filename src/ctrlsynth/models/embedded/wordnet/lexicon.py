"""What the caption tagger knows of single words: closed classes and exceptions as lists, everything else from
WordNet, looked up once per word.

The lists hold only what WordNet cannot say: function words; words about the picture rather than its content;
things whose first sense in WordNet is not a thing, and the reverse. A word's entry (`Word`) says what it can
be; `tokens.py` decides what it is in its position."""

import unicodedata
from functools import lru_cache

from ....lang import wordnet, words
from ....lang.nouns import COLOURS, MODERN, multiword_starts, noun_form
from ....lang.words import PLACING


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CLOSED = {
    ".": ".",
    ",": ",",
    # numbers
    "#": " ".join(words.NUMBERS[2:]) + " twenty dozens hundreds 2 3 4 5 6 7 8 9 10 11 12",
    # determiners and possessors
    "D": (
        "a an the this that these those his her its their my your our some any each every another both "
        "either neither whose no all"
    ),
    "B": "is are was were be been being am isn't aren't wasn't weren't",
    "C": "and or & nor plus",
    # auxiliaries
    "M": (
        "can could will would shall should may might must do does did done don't doesn't didn't can't won't "
        "wouldn't couldn't shouldn't cannot has had have haven't hasn't hadn't let lets get gets got gotta "
        "gonna wanna"
    ),
    # pronouns
    "R": (
        "i you he she it we they me him us them himself herself itself themselves myself yourself who whom "
        "what which someone somebody anyone everybody everyone something anything everything nothing nobody "
        "none one mine yours hers ours theirs it's he's she's i'm you're we're they're that's there's here's "
        "what's who's let's there"
    ),
    "P": " ".join(PLACING),
    # prepositions that relate no two things of a scene
    "L": (
        "for without about like despite except regarding concerning including featuring throughout out vs "
        "versus pour de la le el en les des"
    ),
    "S": (
        "while as when because if but although though whether where why how that's since until unless "
        "whereas so than then after before during"
    ),
    # others
    "X": (
        "not very too also just only even still already again always never often here now then away together "
        "apart forward back ahead soon later today tomorrow yesterday tonight more most less least much many "
        "few several such other own same enough quite rather almost about ever well far else yet please ok "
        "okay oh hi hey yes no etc vs via per pm am st nd rd th re non ie eg age aged indoors outdoors "
        "upside outdoor indoor there"
    ),
    "T": "to",
}
"""Kind -> its words, the first of which counts for a word that has several."""
_KIND_OF = {word: kind for kind, members in reversed(_CLOSED.items()) for word in members.split()}
LINKING = _set(
    "turn turning turns turned look looks looking seem seems seemed appear appears become becomes became "
    "becoming remain remains "
    "stay stays go goes going"
)
HAVE = _set("has have had")
# Verbs that mean nothing without their object: `taking a nap on the sofa` -> on the sofa.
LIGHT = _set("take taking do doing have having make making get getting give giving go going")
# Words about the picture, its file or its shop, never about what it shows.
META = _set(
    "photo photograph picture image pic pics img dsc dscn pict view background backdrop foreground front "
    "top side left right "
    "middle center centre bottom lot stock close-up closeup close shot scene portrait illustration drawing "
    "painting sketch vector "
    "clipart clip icon rendering render template wallpaper design style version edition copy pack set size "
    "color colour area place "
    "way look art artwork print video footage film page site website blog post news sale price shipping "
    "interior exterior detail "
    "concept idea item product object thing stuff piece part kind sort type pair bunch group collection "
    "variety series number end "
    "edge surface row amount half space air distance silhouette royalty royalty-free free jpg jpeg png gif "
    "webp svg eps pdf "
    "gallery album screenshot snapshot selfie thumbnail preview watercolor watercolour cartoon graphic "
    "graphics animation 3d 2d hd "
    "uhd 4k photography closeups views images photos pictures photographs illustrations vectors lots bits "
    "bit macro world east "
    "west north south country state county location day night time member line lines level point step sense "
    "guide review reviews "
    "tip tips tutorial recipe recipes course project projects list order brand quality unit use source "
    "premium assortment array "
    "depth cutout oz ml mm cm kg lb lbs ft inch inches px mb gb rms iso pcs qty xl xxl xs hour minute "
    "second week month year "
    "opening"
)
# Lemmas of visible things whose first sense in WordNet is not a thing.
VISIBLE = _set(
    "yarn heart model sign pattern logo wave sunset sunrise shadow reflection tattoo arrow market concert "
    "graffiti ruin ruins gift money coin fire explosion flood letter newspaper magazine poster ticket card "
    "menu document advertisement label calendar postcard emblem costume costumes smile flame cross chess "
    "wreck wreckage pile stack heap campfire bonfire fireworks firework rainbow animal person plant food "
    "sandwich symbol text word book comic passport map diagram star table case board chain brush beam column "
    "bundle path peak ring soil stem branch yard university target sphere radio record adult blaze kite "
    "banner racket court lettuce puzzle crown cable van tv television wedding parade rally protest spot "
    "stripe dot knot queue track trail waterfall avalanche bubble skyline horizon slice crossroads "
    # groups
    "family team couple crowd forest school church village herd flock band army orchestra choir fleet parade "
    "audience crew swarm convoy traffic duo trio pack litter brood bouquet police cattle vegetation jungle "
    "woodland staff squad troop"
)
PICTURES = _set("photo photograph painting drawing portrait illustration picture print sketch")
VISIBLE_FILES = _set("animal artifact body food object person phenomenon plant substance location shape")
# Words whose first sense is a thing, but that hardly ever mean it in captions.
HARDLY_THINGS = _set(
    "start being cut go effect result power energy lead turn take make hold help love hope fun spring fall "
    "autumn summer "
    "winter morning evening afternoon heat cold wind pressure inside outside out will may might must it he "
    "who be "
    "as or so i no do am an on by i'm mr mrs ms dr vs mini max pro plus deal basis source rest upper lower "
    "support access range "
    "run play addition attraction direction position response solution spirit strain stretch character god "
    "lord long short big "
    "small center central north south entry release find finding fit mix general second first third last "
    "check plan "
    "mid pop vintage show series season episode volume issue part act dear fellow sake expert beginner "
    "professional official "
    "individual native human female male adult senior junior standard classic original modern creative "
    "contemporary regular major "
    "minor principal favorite favourite natural solid formal positive negative extra special double single "
    "triple express direct "
    "home address region zone district sector property territory place scenery landscape environment nature "
    "travel universe heaven "
    "paradise hell light lighting"
)
# Modifiers that say nothing about how a thing looks.
NOT_ATTRIBUTES = (
    _set(
        "new best better free good great other same own more most many few several some such various "
        "different real available "
        "excellent top wholesale high low quality official original daily next last first second third "
        "premium cheap royalty-free main "
        "favorite favourite popular famous important possible ready local national international global "
        "american special certain "
        "general common typical perfect amazing awesome incredible super ultimate latest current former "
        "recent annual online digital "
        "exclusive limited rare genuine custom personalized right left back front average like much due "
        "able only late early "
        "full-length safe single double complete total unknown unique extra virtual final personal "
        "professional public private social "
        "using based named called"
    )
    | META
)
SHORT_NOUNS = _set("ox tv pc cd dj suv bbq")
NOUN_ING = _set(
    "wedding ceiling building clothing earring string ring king wing awning railing dumpling pudding icing "
    "topping bedding "
    "duckling sling gosling lightning offspring viking sibling siding crossing landing stocking dwelling "
    "filling frosting "
    "scaffolding carving herring swing"
)

_NO_WORDS: set[str] = set()


class Word:
    """One word form: its closed class (`kind`, "" for open words), and what it can be as noun, verb and
    adjective."""

    __slots__ = tuple(
        "adj adj_count form is_name is_thing kind low meta noun noun_count noun_ing plural seconds starts "
        "verb verb_count".split()
    )

    def __init__(self, low: str) -> None:
        self.low = low
        self.kind = _kind(low)
        decomposed = unicodedata.normalize("NFKD", low) if not low.isascii() else low
        plain = decomposed.encode("ascii", "ignore").decode()
        noun = None if self.kind else noun_form(plain)
        # `ins`, `ats` are plurals of function words
        self.noun = None if noun is None or _kind(noun) else noun
        self.is_name = self.noun is not None and any(
            s.is_instance for s in wordnet.synsets(self.noun, "n")[:1]
        )
        self.meta = low in META or (self.noun in META if self.noun else False)
        self.plural = self.noun is not None and self.noun != plain and not plain.endswith(("'s", "'"))
        self.verb = None if self.kind else wordnet.morphy(plain, "v")
        self.form = _form(plain, self.verb)
        self.adj = not self.kind and (
            wordnet.morphy(plain, "a") is not None or _hyphenated_adjective(plain) or plain in COLOURS
        )
        self.is_thing = self.noun is not None and not self.meta and is_thing(self.noun)
        self.noun_count = wordnet.count(self.noun, "n") if self.noun else 0
        self.verb_count = wordnet.count(self.verb, "v") if self.verb else 0
        self.adj_count = wordnet.count(plain, "a") if self.adj else 0
        self.noun_ing = self.form == "ing" and (plain in NOUN_ING or self.meta)
        self.starts, self.seconds = (
            (0, _NO_WORDS) if self.kind else multiword_starts().get(plain, (0, _NO_WORDS))
        )


@lru_cache(maxsize=32768)
def look_up(low: str) -> Word:
    """Returns the entry of a lower-case word; `.` and `,` are their own classes."""
    return Word(low)


def _kind(low: str) -> str:
    """The closed class of a word, a key of `_CLOSED`; "" for open words."""
    if low in _KIND_OF:
        return _KIND_OF[low]
    if low.endswith(("'s", "s'")):
        return "D"
    return "X" if len(low) < 3 and low not in SHORT_NOUNS and low not in META else ""


def _form(plain: str, verb: str | None) -> str:
    """The form of a verb: `base`, `s`, `ing`, or `ed` (past or participle); "" for other words."""
    if verb is None:
        return ""
    if plain == verb:
        return "base"
    if plain.endswith("ing"):
        return "ing"
    return "s" if plain.endswith("s") and not plain.endswith("ss") else "ed"


def _hyphenated_adjective(plain: str) -> bool:
    """Whether the last part is a participle or an adjective: `snow-capped`, `hand-drawn`,
    `black-and-white`."""
    if "-" not in plain:
        return False
    last = plain.rpartition("-")[2]
    verb = wordnet.morphy(last, "v")
    return (verb is not None and _form(last, verb) in ("ed", "ing")) or (
        wordnet.morphy(last, "a") is not None and wordnet.count(last, "a") > 0
    )


@lru_cache(maxsize=32768)
def is_thing(lemma: str) -> bool:
    """Whether a noun names something that a picture can show: by the lexicographer file of its first sense
    that is not a name, with lists of exceptions. Of names, only landmarks (artifacts and natural objects)
    count."""
    last = lemma.rpartition(" ")[2]
    if lemma in META or lemma in HARDLY_THINGS or last in PICTURES:
        return False
    if lemma in VISIBLE or lemma in MODERN:
        return True
    sense = wordnet.first_sense(lemma)
    if sense is None:
        return False
    file = sense.lexfile.removeprefix("noun.")
    landmarks = (s for s in wordnet.synsets(lemma, "n") if s.is_instance)
    if " " in lemma and any(s.lexfile in ("noun.artifact", "noun.object") for s in landmarks):
        return True
    if sense.is_instance or (file == "phenomenon" and last in HARDLY_THINGS):
        return False
    if file in ("communication", "group") and last != lemma:
        return last in VISIBLE or last == "light"
    return file in VISIBLE_FILES


def display(lemma: str) -> str:
    """The spelling of an object: lower case, or for a name WordNet's (`Eiffel Tower`)."""
    if " " in lemma:
        for sense in wordnet.synsets(lemma, "n"):
            if sense.is_instance:
                return next((w for w in sense.words if w.lower() == lemma), lemma)
    return lemma


@lru_cache(maxsize=32768)
def progressive(verb: str) -> str:
    """The -ing form that WordNet's rules and exceptions lead back to the verb: `sit` -> `sitting`."""
    head, _, tail = verb.partition(" ")
    silent = head.endswith("e") and not head.endswith(("ee", "oe", "ye"))
    stem = head[:-2] + "y" if head.endswith("ie") else head[:-1] if silent else head
    doubled = head + head[-1] + "ing"
    form = doubled if wordnet.morphy(doubled, "v") == head and head[-1] not in "aeiouy" else stem + "ing"
    return f"{form} {tail}" if tail else form
