"""The plan of a picture of `scenes` (2c): what will be drawn, where, and how it is called. The exact ground
truth for benchmarks."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ....lang.words import plural, singular
from ....sample import unique
from ...base import Prompt
from .layout import arrange
from .read import MOST, Mention, Reading, read
from .sprites import coloured
from .vocabulary import Drawing, drawings_of

_NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawing in the picture. `box`: left, top, right, bottom in pixels without the rim; `mention`:
    things of one noun share it."""

    name: str
    colour: str | None
    box: Box
    mention: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that decides the picture, and the phrases for it. `objects` stand from the back to the
    front."""

    objects: tuple[Thing, ...]
    relations: tuple[tuple[int, str, int], ...]
    place: str | None
    weather: tuple[str, ...]
    style: str
    size: tuple[int, int]
    seed: int
    drawn: tuple[str, ...]
    not_drawn: tuple[str, ...]
    weights_unused: tuple[str, ...]
    drawings: Mapping[str, Drawing] = field(default_factory=dict)

    def alone(self, thing: Thing) -> bool:
        """Whether no other drawing comes near this one."""
        a, b, c, d = thing.box
        near = 0.06 * min(self.size)
        return all(
            o is thing
            or o.box[0] > c + near
            or o.box[2] < a - near
            or o.box[1] > d + near
            or o.box[3] < b - near
            for o in self.objects
        )


def make_plan(
    prompt: Prompt, size: tuple[int, int], content: tuple[float, float, float, float],
    reading: Reading | None = None,
    drawings: Mapping[str, Drawing] | None = None,
) -> Scene:  # fmt: skip
    """The scene of a prompt. `content`: (left, top, width, height) that objects may stand in. `drawings`:
    OpenMoji's unless given; they must hold everything that the text names (`missing` tells).

    The layout and the background's tint hang on the text, the size and the seed, and on nothing else. A
    weight of 0 takes its phrase out of the picture, others scale what it names by their square root (0.25 ..
    4 give half to double size)."""
    reading = reading or read(prompt.text)
    drawings = drawings if drawings is not None else drawings_of(None)
    seed = int.from_bytes(
        hashlib.blake2b(
            f"{prompt.seed}\0{size}\0{prompt.text}".encode("utf-8", "surrogatepass"), digest_size=8
        ).digest(),
        "big",
    )
    unused = _weigh(reading, prompt.weights)
    hidden = _hidden(reading, prompt)
    shown = [i for i in range(len(reading.mentions)) if i not in hidden]
    place = {old: new for new, old in enumerate(shown)}
    mentions = _capped([reading.mentions[i] for i in shown], reading)
    relations = [(place[a], p, place[b]) for a, p, b in reading.relations if a in place and b in place]
    left, top, width, height = content
    units = [_units(m, reading.style == "isometric", drawings) for m in mentions]
    items = arrange(mentions, units, relations, (width, height), random.Random(seed))
    things = []
    for item in items:
        x, y = round(left + item.x), round(top + item.y)
        mention = mentions[item.mention]
        things.append(
            Thing(
                mention.name,
                mention.colour,
                (x, y, x + max(8, round(item.width)), y + max(8, round(item.height))),
                item.mention,
            )
        )
    failed = [
        r for r in relations if not _shown(r, things)
    ]  # two places asked for one thing: the first was taken
    relations = [r for r in relations if r not in failed]
    gone = [f"{mentions[a].name} {p} {mentions[b].name}" for a, p, b in failed]
    gone += [f"{reading.mentions[i].name} (weight 0 or named in the negative prompt)" for i in sorted(hidden)]
    return Scene(
        tuple(things), tuple(relations), reading.place, tuple(reading.weather), reading.style, size, seed,
        drawn=_phrases(mentions, relations, reading, {reading.mentions[i].name for i in hidden}),
        not_drawn=unique([*reading.not_drawn, *gone]), weights_unused=tuple(unused), drawings=drawings,
    )  # fmt: skip


def missing(reading: Reading, drawings: Mapping[str, Drawing]) -> list[str]:
    """The things that a text names and these drawings lack."""
    return [m.name for m in reading.mentions if m.name not in drawings]


def _shown(relation: tuple[int, str, int], things: list[Thing]) -> bool:
    """Whether some pair of things stands as a relation says."""
    subject, predicate, object_ = relation
    for one, two in (
        (o.box, t.box) for o in things if o.mention == subject for t in things if t.mention == object_
    ):
        right, down = one[0] + one[2] - two[0] - two[2], one[1] + one[3] - two[1] - two[3]
        in_column = one[0] < two[2] and two[0] < one[2]
        touching = in_column and one[1] < two[3] and two[1] < one[3]
        if {
            "left of": right < 0, "right of": right > 0, "next to": True, "on": touching and down < 0,
            "above": in_column and down < 0,
            "under": in_column and down > 0,
        }.get(predicate, touching):  # fmt: skip
            return True
    return False


def _units(mention: Mention, skewed: bool, drawings: Mapping[str, Drawing]) -> tuple[float, float]:
    """Width and height in units: the drawing's own shape, its longer side by its scale; long thin drawings
    get a little more."""
    drawing = drawings[mention.name]
    width, height = coloured(drawing, None, skewed).size
    longer, shorter = max(width, height), min(width, height)
    scale = drawing.scale * min(2.0, max(0.4, mention.scale)) * (longer / shorter) ** 0.25
    return scale * width / longer, scale * height / longer


def _weigh(reading: Reading, weights: Mapping[str, float]) -> list[str]:
    """Scales the mentions that weighted phrases name; returns the phrases that name none."""
    unused = []
    for phrase, factor in weights.items():
        said = _plain(phrase)
        hits = [m for m in reading.mentions if _names(said, m)]
        for mention in hits:
            mention.scale *= max(0.0, factor) ** 0.5
        scenery = reading.place_word and said in (_plain(reading.place or ""), _plain(reading.place_word))
        if scenery and factor <= 0:
            reading.place = None
        if not hits and not (scenery and factor <= 0):
            unused.append(phrase)
    return unused


def _plain(phrase: str) -> str:
    """A phrase with every word in the singular by rule, so that both sides of a comparison suffer alike
    (`christma tree`)."""
    return " ".join(singular(word) for word in re.findall(r"[^\W_]+(?:[-'’][^\W_]+)*", phrase.lower()))


def _names(said: str, mention: Mention) -> bool:
    """Whether a phrase speaks of a mention: its noun, with the colour that it has or none, or a relation that
    has it at an end."""
    for noun in {mention.name, mention.word}:
        noun = _plain(noun)
        if said == noun or (
            said.endswith(" " + noun)
            and (mention.colour is None or mention.colour in said or said.count(" ") > 1)
        ):
            return True
        if said.startswith(noun + " ") and len(said.split()) > len(noun.split()) + 1:
            return True
    return False


def _hidden(reading: Reading, prompt: Prompt) -> set[int]:
    """Mentions that are weighed down to nothing or named in the negative prompt (with a colour there: only
    those of that colour)."""
    against = read(prompt.negative).mentions if prompt.negative.strip() else []
    return {
        index
        for index, mention in enumerate(reading.mentions)
        if mention.scale <= 0
        or any(n.name == mention.name and n.colour in (None, mention.colour) for n in against)
    }


def _capped(mentions: list[Mention], reading: Reading) -> list[Mention]:
    """At most 2 * MOST drawings in all: later mentions give way, and the reading says so."""
    left, kept = 2 * MOST, []
    for mention in mentions:
        if mention.count > left:
            reading.not_drawn.append(
                f"{mention.count - left} of {mention.count} {plural(mention.name)}" if left else mention.name
            )
        kept.append(replace(mention, count=max(1, min(mention.count, left))))
        left = max(1, left - mention.count)
    return kept


def _phrases(
    mentions: list[Mention], relations: list[tuple[int, str, int]], reading: Reading, hidden: set[str]
) -> tuple[str, ...]:
    """What is drawn, in the form of tags: objects, scenery, colours and counts, relations."""
    objects = [m.name for m in mentions]
    scenery = [reading.place_word] if reading.place_word and reading.place else []
    attributes = [f"{m.colour} {m.name}" for m in mentions if m.colour]
    attributes += [f"{_NUMBERS[m.count]} {plural(m.name)}" for m in mentions if m.count > 1]
    attributes += [
        f"{'big' if m.scale > 1 else 'small'} {m.name}" for m in mentions if not 0.8 < m.scale < 1.2
    ]
    bound = [f"{mentions[a].name} {p} {mentions[b].name}" for a, p, b in relations]
    set_in = (
        [phrase for phrase in reading.set_in if not any(phrase.startswith(name + " ") for name in hidden)]
        if scenery
        else []
    )
    return unique([*objects, *scenery, *reading.weather, *attributes, *bound, *set_in])
