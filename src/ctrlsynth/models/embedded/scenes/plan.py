"""Plans a picture of `scenes` (2c): what is drawn, where, and what it is called. The ground truth for
benchmarks."""

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ....lang.words import NUMBERS, plural, singular
from ....sample import unique
from ...base import Prompt
from ..regions import Box
from .layout import Relation, arrange
from .read import MOST, Mention, Reading, read
from .sprites import coloured
from .vocabulary import Drawing

BAR = 0.11  # share of the height that each of the cinematic style's two bars takes


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawing in the picture. `box`: in pixels, without the rim; `mention`: shared by the things of
    one noun."""

    name: str
    colour: str | None
    box: Box
    mention: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that decides the picture, and the phrases for it. `objects` are ordered from back to
    front."""

    objects: tuple[Thing, ...]
    relations: tuple[Relation, ...]
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
        near = 0.06 * min(self.size)
        return all(
            other is thing or -min(other.box.overlap(thing.box, axis) for axis in (0, 1)) > near
            for other in self.objects
        )


def make_plan(
    prompt: Prompt, size: tuple[int, int], reading: Reading, drawings: Mapping[str, Drawing]
) -> Scene:
    """Plans the scene of a prompt whose text says `reading`.

    The layout and the background's tint depend on the text, the size and the seed only. A weight of 0
    removes its phrase from the picture; other weights scale what they name by their square root (0.25 .. 4
    give half to double size). `drawings` must hold everything that the text names."""
    source = f"{prompt.seed}\0{size}\0{prompt.text}".encode("utf-8", "surrogatepass")
    seed = int.from_bytes(hashlib.blake2b(source, digest_size=8).digest(), "big")
    unused = _weigh(reading, prompt.weights)
    hidden = _hidden(reading, prompt)
    place = {old: new for new, old in enumerate(i for i in range(len(reading.mentions)) if i not in hidden)}
    mentions = _capped([reading.mentions[i] for i in place], reading)
    relations = [(place[a], p, place[b]) for a, p, b in reading.relations if a in place and b in place]
    units = [_units(drawings[m.name], m.scale, reading.style == "isometric") for m in mentions]
    left = 0.025 * min(size)  # the margin on each side
    top = left + (BAR * size[1] if reading.style == "cinematic" else 0.0)
    area = (size[0] - 2 * left, size[1] - 2 * top)
    things = []
    for item in arrange(mentions, units, relations, area, random.Random(seed)):
        mention, x, y = mentions[item.mention], round(left + item.x), round(top + item.y)
        box = Box(x, y, x + max(8, round(item.width)), y + max(8, round(item.height)))
        things.append(Thing(mention.name, mention.colour, box, item.mention))
    boxes = [[thing.box for thing in things if thing.mention == i] for i in range(len(mentions))]
    # two relations asked for one thing's position
    failed = [
        (a, p, b)
        for a, p, b in relations
        if not any(_positioned(one, p, two) for one in boxes[a] for two in boxes[b])
    ]
    relations = [r for r in relations if r not in failed]
    lost = [f"{mentions[a].name} {p} {mentions[b].name}" for a, p, b in failed]
    lost += [f"{reading.mentions[i].name} (weight 0 or named in the negative prompt)" for i in sorted(hidden)]
    return Scene(
        tuple(things), tuple(relations), reading.place, tuple(reading.weather), reading.style, size, seed,
        drawn=_phrases(mentions, relations, reading, {reading.mentions[i].name for i in hidden}),
        not_drawn=unique([*reading.not_drawn, *lost]), weights_unused=tuple(unused), drawings=drawings,
    )  # fmt: skip


def _positioned(one: Box, predicate: str, two: Box) -> bool:
    right, down = one.left + one.right - two.left - two.right, one.top + one.bottom - two.top - two.bottom
    in_column = one.overlap(two, 0) > 0
    touching = in_column and one.overlap(two, 1) > 0
    return {
        "left of": right < 0, "right of": right > 0, "next to": True, "on": touching and down < 0,
        "above": in_column and down < 0, "under": in_column and down > 0,
    }.get(predicate, touching)  # fmt: skip


def _units(drawing: Drawing, factor: float, skewed: bool) -> tuple[float, float]:
    """Width and height in units: the drawing's aspect, its longer side by its scale; long thin drawings are a
    little larger."""
    width, height = coloured(drawing, None, skewed).size
    longer, shorter = max(width, height), min(width, height)
    scale = drawing.scale * min(2.0, max(0.4, factor)) * (longer / shorter) ** 0.25
    return scale * width / longer, scale * height / longer


def _weigh(reading: Reading, weights: Mapping[str, float]) -> list[str]:
    """Scales the mentions that weighted phrases name; returns the phrases that name none."""
    unused = []
    for phrase, factor in weights.items():
        said = _singular_words(phrase)
        hits = [m for m in reading.mentions if _names(said, m)]
        for mention in hits:
            mention.scale *= max(0.0, factor) ** 0.5
        scenery = [_singular_words(word) for word in (reading.place or "", reading.place_word)]
        if reading.place_word and said in scenery and factor <= 0:
            reading.place = None
        elif not hits:
            unused.append(phrase)
    return unused


def _singular_words(phrase: str) -> str:
    """A phrase with every word in the singular by rule, so that both sides of a comparison get the same
    mistakes (`christma tree`)."""
    return " ".join(singular(word) for word in re.findall(r"[^\W_]+(?:[-'’][^\W_]+)*", phrase.lower()))


def _names(said: str, mention: Mention) -> bool:
    """Whether a phrase means a mention: its noun, bare or with the mention's colour, or a relation that
    begins or ends with it."""
    own_colour = mention.colour is None or mention.colour in said or said.count(" ") > 1
    return any(
        said == noun
        or (said.endswith(" " + noun) and own_colour)
        or (said.startswith(noun + " ") and len(said.split()) > len(noun.split()) + 1)
        for noun in map(_singular_words, (mention.name, mention.word))
    )


def _hidden(reading: Reading, prompt: Prompt) -> set[int]:
    """Mentions with weight 0, or named in the negative prompt (if with a colour: only those of that
    colour)."""
    against = read(prompt.negative).mentions if prompt.negative.strip() else []
    return {
        index
        for index, mention in enumerate(reading.mentions)
        if mention.scale <= 0
        or any(n.name == mention.name and n.colour in (None, mention.colour) for n in against)
    }


def _capped(mentions: list[Mention], reading: Reading) -> list[Mention]:
    """At most 2 * MOST drawings in total; what later mentions lose is noted in `reading.not_drawn`."""
    left, kept = 2 * MOST, []
    for mention in mentions:
        if mention.count > left:
            lost = f"{mention.count - left} of {mention.count} {plural(mention.name)}"
            reading.not_drawn.append(lost if left else mention.name)
        kept.append(replace(mention, count=max(1, min(mention.count, left))))
        left = max(1, left - mention.count)
    return kept


def _phrases(
    mentions: list[Mention], relations: list[Relation], reading: Reading, hidden: set[str]
) -> tuple[str, ...]:
    """What is drawn, as tags: objects, scenery, colours, counts and sizes, relations."""
    scenery = [reading.place_word] if reading.place_word and reading.place else []
    return unique(
        [
            *(m.name for m in mentions),
            *scenery,
            *reading.weather,
            *(f"{m.colour} {m.name}" for m in mentions if m.colour),
            *(f"{NUMBERS[m.count]} {plural(m.name)}" for m in mentions if m.count > 1),
            *(f"{'big' if m.scale > 1 else 'small'} {m.name}" for m in mentions if not 0.8 < m.scale < 1.2),
            *(f"{mentions[a].name} {p} {mentions[b].name}" for a, p, b in relations),
            *(p for p in reading.set_in if scenery and not any(p.startswith(f"{name} ") for name in hidden)),
        ]
    )
