"""How well `reference` (2a) reads what `scenes` (2c) draws: random scenes, each style, after a JPEG round
trip and a resize.

    python benchmarks/scenes.py [--scenes 500] [--seed 0] [--style real]

The tagger gets decoded pixels and nothing else: each picture is saved as JPEG at quality 90, then resized to
60% .. 140%. The truth is the drawer's plan. `text read` is the share of scenes whose plan holds exactly what
the text was made of; `others` of all that hold, wear, stand before or behind, whether the things were found
or not; `told true` of the relations that were told between things that are there. Goals: objects apart 0.95,
overlapping 0.8, precision 0.9, colours 0.9, positions 0.9."""

from __future__ import annotations

import io
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from PIL import Image

import harness
from ctrlsynth.control.templates import styles
from ctrlsynth.lang.words import article
from ctrlsynth.models.base import ImageAndText, Prompt
from ctrlsynth.models.embedded.reference.tagger import ReferenceTagger
from ctrlsynth.models.embedded.scenes.painter import Scenes
from ctrlsynth.models.embedded.scenes.plan import Scene
from ctrlsynth.models.embedded.scenes.vocabulary import CLOTHES, COLOURS, PEOPLE, vocabulary

POSITIONS = ("left of", "right of", "on", "under")
SUPPORTS = (
    "table",
    "sofa",
    "bench",
    "bed",
    "chair",
    "box",
    "car",
    "shelf",
    "truck",
    "log",
    "suitcase",
    "house",
    "piano",
)
PLACES = (
    "",
    " on the beach",
    " in a field",
    " on the street",
    " in the snow",
    " in the kitchen",
    " at night",
    " at sunset",
    " in the rain",
)


@dataclass
class Tally:
    """Counts of one style: [right, asked] by measure, and what was taken for what."""

    counts: dict[str, list[int]] = field(default_factory=dict)
    missed: Counter[str] = field(default_factory=Counter)
    false: Counter[str] = field(
        default_factory=Counter
    )  # relations told of things that were found, and not so
    untold: Counter[str] = field(default_factory=Counter)  # colours and relations of things that were found

    def add(self, measure: str, right: int, asked: int) -> None:
        entry = self.counts.setdefault(measure, [0, 0])
        entry[0] += right
        entry[1] += asked

    def share(self, measure: str) -> float:
        right, asked = self.counts.get(measure, [0, 0])
        return right / asked if asked else float("nan")


@dataclass
class Made:
    """A random scene's text, and what it was made of."""

    text: str
    names: set[str]
    overlapping: bool


def make(chance: random.Random) -> Made:
    """A text about one to four things apart, or about two to four of which some overlap; colours on half of
    them."""
    names = [n for n in vocabulary().drawings if n not in COLOURS]
    things = [n for n in names if n not in PEOPLE and n not in SUPPORTS]
    said: list[str] = []

    def phrase(name: str) -> str:
        said.append(name)
        colour = chance.choice(list(COLOURS)) + " " if name not in PEOPLE and chance.random() < 0.5 else ""
        return f"{article(colour + name)} {colour}{name}"

    place = chance.choice(PLACES)
    if chance.random() < 0.5:  # apart
        count = chance.randint(1, 4)
        picked = [phrase(n) for n in chance.sample(names, count)]
        text = picked[0]
        if count > 1:
            text += f" {chance.choice(('to the left of', 'right of', 'next to'))} {picked[1]}"
        text += "".join(f". {p.capitalize()}" for p in picked[2:])
        return Made(f"{text}.{' The scene is' + place + '.' if place else ''}", set(said), False)
    kind = chance.choice(("on", "on", "under", "in front of", "behind", "holding", "wearing"))
    if kind == "holding":
        small = [n for n in things if vocabulary().drawings[n].scale <= 0.6]
        text = f"{phrase(chance.choice(sorted(PEOPLE & set(names))))} holding {phrase(chance.choice(small))}"
    elif kind == "wearing":
        text = (
            f"{phrase(chance.choice(sorted(PEOPLE & set(names))))} wearing "
            f"{phrase(chance.choice(sorted(CLOTHES & set(names))))}"
        )
    elif kind in ("on", "under"):
        text = f"{phrase(chance.choice(things))} {kind} {phrase(chance.choice(SUPPORTS))}"
    else:
        one, two = chance.sample(names, 2)
        text = f"{phrase(one)} {kind} {phrase(two)}"
    if chance.random() < 0.5:
        rest, beside = [n for n in names if n not in said], said[-1]
        text += (
            f". {phrase(chance.choice(rest)).capitalize()} "
            f"{chance.choice(('left of', 'to the right of'))} the {beside}"
        )
    return Made(f"{text}.{' The scene is' + place + '.' if place else ''}", set(said), kind != "under")


def worn(image: Image.Image, chance: random.Random) -> Image.Image:
    """What a file on disk gives back: JPEG at quality 90, then another size."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    back = Image.open(io.BytesIO(data.getvalue())).convert("RGB")
    factor = chance.uniform(0.6, 1.4)
    return back.resize((round(back.width * factor), round(back.height * factor)), Image.Resampling.BICUBIC)


def holds(relation: str, scene: Scene) -> bool:
    """Whether a told relation is so in the plan: left, right, above and under by the boxes' middles, the
    others by what was asked."""
    names = {t.mention: t.name for t in scene.objects}
    meant = {(names[a], p, names[b]) for a, p, b in scene.relations}
    meant |= {
        (b, {"in front of": "behind", "behind": "in front of"}[p], a)
        for a, p, b in meant
        if p in ("in front of", "behind")
    }
    pairs = [
        (o, t)
        for o in scene.objects
        for t in scene.objects
        if relation.startswith(o.name + " ") and relation.endswith(" " + t.name)
    ]
    for one, two in pairs:
        predicate = relation.removeprefix(one.name + " ").removesuffix(" " + two.name)
        right, down = (one.box[n] + one.box[n + 2] - two.box[n] - two.box[n + 2] for n in (0, 1))
        by_place = {
            "left of": right < 0,
            "right of": right > 0,
            "above": down < 0,
            "under": down > 0,
            "next to": True,
        }
        if by_place.get(predicate, (one.name, predicate, two.name) in meant):
            return True
    return False


def measure(
    number: int, seed: int, style: str, drawer: Scenes, tagger: ReferenceTagger, tally: Tally
) -> tuple[float, float]:
    """Draws and reads one scene, and counts; returns the seconds of each."""
    chance = random.Random(f"{seed}/{number}")
    made = make(chance)
    text = styles()[style].fill({"prompt": made.text.removesuffix(".")}) if style else made.text
    prompt = Prompt(text, seed=number)
    start = time.process_time()
    painting = drawer.generate([prompt])[0]
    drawn = time.process_time() - start
    scene = drawer.plan(prompt)
    assert painting.image is not None
    image = worn(painting.image, chance)
    start = time.process_time()
    tags = tagger.tag([ImageAndText(image)])[0]
    read = time.process_time() - start
    truth = {thing.name for thing in scene.objects}
    tally.add("text read", int(truth == made.names), 1)
    tally.add("overlapping" if made.overlapping else "apart", len(truth & set(tags.objects)), len(truth))
    tally.add("precision", len(truth & set(tags.objects)), len(tags.objects))
    lost, new = truth - set(tags.objects), set(tags.objects) - truth
    tally.missed.update(f"{name} as {'/'.join(sorted(new)) or 'nothing'}" for name in lost)
    found = [t for t in scene.objects if t.colour and t.name in tags.objects]
    tally.add("colours", sum(f"{t.colour} {t.name}" in tags.attributes for t in found), len(found))
    names = {t.mention: t.name for t in scene.objects}
    tally.untold.update(
        f"{t.colour} {t.name}" for t in found if f"{t.colour} {t.name}" not in tags.attributes
    )
    asked = [(names[a], p, names[b]) for a, p, b in scene.relations if p in POSITIONS]
    asked = [(a, p, b) for a, p, b in asked if {a, b} <= set(tags.objects)]
    tally.add("positions", sum(f"{a} {p} {b}" in tags.relations for a, p, b in asked), len(asked))
    held = [f"{names[a]} {p} {names[b]}" for a, p, b in scene.relations if p not in (*POSITIONS, "next to")]
    tally.add("others", sum(r in tags.relations for r in held), len(held))
    between = [
        r
        for r in tags.relations
        if sum(r.startswith(n + " ") or r.endswith(" " + n) for n in truth & set(tags.objects)) > 1
    ]
    false = [r for r in between if not holds(r, scene)]
    tally.add("told true", len(between) - len(false), len(between))
    tally.false.update(false)
    found_bound = [
        f"{names[a]} {p} {names[b]}"
        for a, p, b in scene.relations
        if {names[a], names[b]} <= set(tags.objects)
    ]
    tally.untold.update(r for r in found_bound if r not in tags.relations and " next to " not in r)
    return drawn, read


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--style", default=None, help="one style only; default: all, the scenes shared out among them"
    )
    options = parser.parse_args()
    names = ["", *styles()] if options.style is None else [options.style]
    drawer, tagger = Scenes(), ReferenceTagger()
    tallies = {name: Tally() for name in names}
    spent = [0.0, 0.0]
    for number in range(options.scenes):
        style = names[number % len(names)]
        drawn, read = measure(number, options.seed, style, drawer, tagger, tallies[style])
        spent[0] += drawn
        spent[1] += read
    whole = Tally()
    columns = (
        "text read",
        "apart",
        "overlapping",
        "precision",
        "colours",
        "positions",
        "others",
        "told true",
    )
    print(f"{'style':<10}" + "".join(f"{c:>12}" for c in columns))
    for name, tally in tallies.items():
        print(f"{name or 'none':<10}" + "".join(f"{tally.share(c):>12.3f}" for c in columns))
        for column, (right, asked) in tally.counts.items():
            whole.add(column, right, asked)
        whole.missed.update(tally.missed)
        whole.false.update(tally.false)
        whole.untold.update(tally.untold)
    print(f"{'all':<10}" + "".join(f"{whole.share(c):>12.3f}" for c in columns))
    print(
        f"{options.scenes / spent[0]:.1f} scenes drawn and {options.scenes / spent[1]:.1f} read a second of "
        f"one core's time, at 384 px"
    )
    print("missed:", ", ".join(f"{what} ({n})" for what, n in whole.missed.most_common(60)))
    print("told and not so:", ", ".join(f"{what} ({n})" for what, n in whole.false.most_common(60)))
    print("of things found, untold:", ", ".join(f"{what} ({n})" for what, n in whole.untold.most_common(60)))


if __name__ == "__main__":
    main()
