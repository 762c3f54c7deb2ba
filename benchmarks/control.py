"""Control, measured: how much of what a policy asks for arrives in the text and in the image.

    python benchmarks/control.py [--scenes 500] [--images 40] [--llm-scenes 12] [--styled 60] [--full]

500 random scenes with known tags (control_scenes.py). Every edit goes through the text controller, the
writer, the image controller (no style), the drawer, a JPEG of quality 90, and a tagger that reads those
pixels. In family `tags+text` the writer also gets a caption: the sentence of `realizer` for the tags as they
were, so that the caption and the edit contradict each other. Family `text` shows the writer no tags, so no
edit can reach it; it stands here with `none` alone.

edits      what the policy did to phrases in `scenes` scenes (of a picture not all can be asked: `shows` in
           control_scenes.py)
visible    share of these whose new phrase is there and whose old one is gone, with its 95% interval
           (bootstrap over scenes)
back       share of the phrases that were taken away and are there all the same
lost       share of the phrases that no edit concerned, that the writer was given, and that are missing

text       by the `lemma` matcher
pixels     by the `wordnet` matcher in the tags of `reference`
drawn      the same in what the drawer says that it drew

Weights: share of the pictures in which a weighted object covers more (less) than with weight 1. Styles: share
of the pictures in which exactly the known objects are found, and share that the style changes (same plan,
drawn with it and without it)."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

import harness
from control_scenes import EDITS, SEED, scene, shows
from ctrlsynth.control.edits import EditRecord
from ctrlsynth.control.image import ImageController
from ctrlsynth.control.text import TextController
from ctrlsynth.lang.matching import rules as matching
from ctrlsynth.lang.phrases import split_attribute, split_relation
from ctrlsynth.models import registry as models
from ctrlsynth.models.base import ImageAndText, LanguageModel, Prompt, Request
from ctrlsynth.models.embedded.scenes.painter import render
from ctrlsynth.models.embedded.scenes.vocabulary import vocabulary
from ctrlsynth.recipe.schema import ImagePolicy, TextPolicy
from ctrlsynth.sample import Tags, chance, model_seed

FAMILIES = ("tags", "tags+text", "text")
STYLES = ("real", "nocap", "isometric", "enhance", "quality", "cinematic", "art")
WEIGHTS = (0.5, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One scene under one edit: the tags before and after, what was done, and what the writer is asked."""

    id: str
    before: Tags
    after: Tags
    records: tuple[EditRecord, ...]
    request: Request


@dataclass(frozen=True, slots=True)
class Counts:
    """What one scene adds to a row: (hits, of how many) for visible, back and lost."""

    visible: tuple[int, int]
    back: tuple[int, int]
    lost: tuple[int, int]


def cases(edit: str, family: str, numbers: Iterable[int], most: int | None = None) -> list[Case]:
    """The scenes that this edit changes (`none`: all), at most `most`."""
    out: list[Case] = []
    for number in numbers:
        if most is not None and len(out) >= most:
            break
        tags, row_id = scene(number), f"{number}/tag/write.0"
        made = EDITS[edit](tags, chance(SEED, row_id, edit))
        if made is None and edit != "none":
            continue
        controller = TextController(TextPolicy.model_validate({"edits": [made] if made else []}), SEED)
        caption = said(tags, row_id) if family != "tags" else None
        asked = controller.instruct(row_id, family, tags, caption)  # type: ignore[arg-type]
        if (asked.edits or edit == "none") and asked.missing is None:
            out.append(
                Case(row_id, tags, tags if family == "text" else asked.tags, asked.edits, asked.request)
            )
    return out


def said(tags: Tags, row_id: str) -> str:
    """The caption of a scene before any edit."""
    text: str = (
        models.load("realizer", "llm")
        .generate([Request("", tags, seed=model_seed(SEED, row_id + "/caption"))])[0]
        .text
    )
    return text


def in_text(case: Case, text: str) -> Counts:
    """A text against what the policy asked for."""
    objects = tuple(dict.fromkeys((*case.before.objects, *case.after.objects)))
    phrases = tuple(dict.fromkeys((*case.before.phrases(), *case.after.phrases())))
    there = {
        p for p, hit in zip(phrases, matching.in_text(phrases, text, "lemma", objects), strict=True) if hit
    }
    return count(case, there, case.records)


def in_tags(case: Case, found: Tags) -> Counts:
    """A picture's tags against what the policy asked for. A `kitten` is a `cat` to the drawer; a stand-in
    (`bathrobe`: `kimono`) is not."""
    there: set[str] = set()
    for tags in (case.before, case.after):
        told = drawers_names(tags)
        has = set(matching.in_tags(told, found, "wordnet")[0])
        there |= {phrase for phrase, name in zip(tags.phrases(), told.phrases(), strict=True) if name in has}
    return count(case, there, [r for r in case.records if shows(r, case.before, case.after)])


def count(case: Case, there: set[str], records: Sequence[EditRecord]) -> Counts:
    """Counts from the phrases of before and after that are there."""
    gone = [r.before for r in records if r.before is not None and r.before not in case.after.phrases()]
    right = [
        (r.after is None or r.after in there) and (r.before not in gone or r.before not in there)
        for r in records
    ]
    kept = [p for p in case.after.phrases() if p in case.before.phrases()]
    return Counts(
        (sum(right), len(right)),
        (sum(p in there for p in gone), len(gone)),
        (sum(p not in there for p in kept), len(kept)),
    )


def drawers_names(tags: Tags) -> Tags:
    """The tags with every object by the name of the drawing that is an exact picture of it."""
    vocab = vocabulary()
    name = {o: o if o in vocab.near else vocab.find(o) or o for o in tags.objects}
    attributes, relations = [], []
    for phrase in tags.attributes:
        modifier, bound = split_attribute(phrase, tags.objects)
        attributes.append(f"{modifier} {name[bound]}" if bound is not None else phrase)
    for phrase in tags.relations:
        one, predicate, two = split_relation(phrase, tags.objects)
        relations.append(
            f"{name[one]} {predicate} {name[two]}" if one is not None and two is not None else phrase
        )
    return Tags(tuple(name.values()), tuple(attributes), tuple(relations))


def through_jpeg(image: Image.Image) -> Image.Image:
    """Decoded pixels after a JPEG of quality 90: all that the tagger gets."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def drawn_tags(drawn: Sequence[str]) -> Tags:
    """What the drawer says it drew, by kind."""
    objects = tuple(p for p in drawn if p in vocabulary().drawings)
    relations = tuple(p for p in drawn if all(split_relation(p, objects)))
    return Tags(objects, tuple(p for p in drawn if p not in objects and p not in relations), relations)


def painted(drawer: Any, tagger: Any, prompt: Prompt) -> tuple[Tags, Tags]:
    """(tags from the pixels, tags by the drawer) of one prompt."""
    picture = drawer.generate([prompt])[0]
    return tagger.tag([ImageAndText(through_jpeg(picture.image))])[0], drawn_tags(picture.drawn)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: counts a scene, in the text, in the pixels and by the drawer."""

    writer: str
    edit: str
    family: str
    text: tuple[Counts, ...]
    pixels: tuple[Counts, ...]
    drawn: tuple[Counts, ...]
    failed: int


def measure(
    name: str,
    writer: LanguageModel,
    edit: str,
    family: str,
    asked: Sequence[Case],
    images: int,
    drawer: Any,
    tagger: Any,
) -> Row:
    """Writes all cases, paints the first `images` of them, and counts. A text that the writer failed to give
    is empty."""
    replies = writer.generate([case.request for case in asked])
    texts = ["" if reply.error else reply.text for reply in replies]
    controller = ImageController(ImagePolicy(styles={}), SEED)
    pixels, drawn = [], []
    for case, text in zip(asked[:images], texts[:images], strict=True):
        seen, told = painted(drawer, tagger, controller.prompt(case.id + "/paint.0", text))
        pixels.append(in_tags(case, seen))
        drawn.append(in_tags(case, told))
    written = tuple(in_text(case, text) for case, text in zip(asked, texts, strict=True))
    return Row(
        name, edit, family, written, tuple(pixels), tuple(drawn), sum(r.error is not None for r in replies)
    )


def percent(pairs: Sequence[tuple[int, int]], interval: bool = False) -> str:
    """A share in percent, with its bootstrap interval over scenes; `-` where there is nothing to count."""
    table = np.array(pairs, float).reshape(-1, 2)
    if not table[:, 1].sum():
        return "-"
    middle = f"{100 * table[:, 0].sum() / table[:, 1].sum():.0f}"
    if not interval or len(table) < 2:
        return middle
    sums = table[np.random.default_rng(0).integers(0, len(table), (1000, len(table)))].sum(1)
    shares = sums[:, 0] / np.maximum(sums[:, 1], 1)
    low, high = np.quantile(shares[sums[:, 1] > 0], (0.025, 0.975))
    return f"{middle} ({100 * low:.0f}-{100 * high:.0f})"


def cells(row: Row) -> list[str]:
    edits = sum(c.visible[1] for c in row.text)
    out = [row.edit, row.family, str(len(row.text)), str(edits)]
    for group in (row.text, row.pixels):
        out += [
            percent([c.visible for c in group], True),
            percent([c.back for c in group]),
            percent([c.lost for c in group]),
        ]
        if group is row.text:
            out.append(str(len(row.pixels)))
    return [*out, *(percent([getattr(c, what) for c in row.drawn]) for what in ("visible", "back", "lost"))]


def together(rows: Sequence[Row], name: str, family: str) -> Row:
    """All edits of a family in one line."""
    chosen = [r for r in rows if r.writer == name and r.family == family and r.edit != "none"]
    text, pixels, drawn = (
        tuple(c for r in chosen for c in getattr(r, what)) for what in ("text", "pixels", "drawn")
    )
    return Row(name, "all edits", family, text, pixels, drawn, sum(r.failed for r in chosen))


HEAD = ["edit", "family", "scenes", "edits", "text: visible", "back", "lost", "images", "pixels: visible",
"back", "lost",
        "drawn: visible", "back", "lost"]  # fmt: skip


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    wide = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    rule = ["-" * w for w in wide]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, wide, strict=True)) + " |"
        for line in [head, rule, *lines]
    )


def compact(rows: Sequence[Row]) -> str:
    """One line an edit: visible in the text / in the pixels, by writer and family; then, over all edits, what
    came back and was lost."""
    columns = [(name, family) for name in dict.fromkeys(r.writer for r in rows) for family in FAMILIES[:2]]
    by_place = {(r.edit, (r.writer, r.family)): r for r in rows}
    totals = [together(rows, *column) for column in columns]

    def both(row: Row, what: str) -> str:
        return " / ".join(percent([getattr(c, what) for c in group]) for group in (row.text, row.pixels))

    lines = [
        [edit, *(both(by_place[edit, column], "visible") for column in columns)]
        for edit in EDITS
        if edit != "none"
    ]
    for label, what in (("all edits", "visible"), ("came back", "back"), ("untouched, lost", "lost")):
        lines.append([label, *(both(row, what) for row in totals)])
    lines.append(
        ["untouched, lost without edit", *(both(by_place["none", column], "lost") for column in columns)]
    )
    lines.append(["texts / images", *(f"{len(row.text)} / {len(row.pixels)}" for row in totals)])
    return markdown(["text / image, %", *(f"{name}, {family}" for name, family in columns)], lines)


def weighted(numbers: Iterable[int], drawer: Any, tagger: Any, factor: float) -> tuple[int, int, int, int]:
    """(right in the plan, of how many, right in the pixels, of how many): whether a weighted object covers
    more (less) than with 1."""
    plan_right = planned = pixel_right = seen = 0
    controller = ImageController(ImagePolicy(styles={}), SEED)
    for number in numbers:
        tags, row_id = scene(number), f"{number}/tag/write.0/paint.0"
        name = chance(SEED, row_id, "weight").choice(tags.objects)
        plain = controller.prompt(row_id, said(tags, row_id))
        heavy = ImageController(ImagePolicy(styles={}, weights={name: factor}), SEED).prompt(
            row_id, plain.text
        )
        areas = []
        for prompt in (plain, heavy):
            plan = drawer.plan(prompt)
            areas.append(
                sum((t.box[2] - t.box[0]) * (t.box[3] - t.box[1]) for t in plan.objects if t.name == name)
            )
            things = tagger.things(through_jpeg(render(plan)))
            areas.append(sum((t.box[2] - t.box[0]) * (t.box[3] - t.box[1]) for t in things if t.name == name))
        planned += 1
        plan_right += (areas[2] - areas[0]) * (factor - 1) > 0
        if areas[1] and areas[3]:
            seen += 1
            pixel_right += (areas[3] - areas[1]) * (factor - 1) > 0
    return plan_right, planned, pixel_right, seen


def styled(style: str, numbers: Iterable[int], drawer: Any, tagger: Any) -> tuple[int, int, int, int]:
    """(exactly the known objects by the drawer, in the pixels, pictures that the style changes, of how many).
    Style "" means no style."""
    controller = ImageController(ImagePolicy(styles={style: 1.0} if style else {}), SEED)
    drawn = seen = changed = total = 0
    for number in numbers:
        tags, row_id = scene(number), f"{number}/tag/write.0/paint.0"
        plan = drawer.plan(controller.prompt(row_id, said(tags, row_id)))
        picture = render(plan)
        found = {thing.name for thing in tagger.things(through_jpeg(picture))}
        total += 1
        drawn += {t.name for t in plan.objects} == set(tags.objects)
        seen += found == set(tags.objects)
        changed += picture.tobytes() != render(replace(plan, style="")).tobytes()
    return drawn, seen, changed, total


def edit_rows(options: argparse.Namespace, drawer: Any, tagger: Any) -> list[Row]:
    rows = []
    for name, most, images in (
        ("realizer", options.scenes, options.scenes if options.full else options.images),
        ("smollm2", options.llm_scenes, options.llm_scenes),
    ):
        if not most:
            continue
        writer = models.load(name, "llm")
        for at, edit in enumerate(EDITS):
            for family in FAMILIES if edit == "none" else FAMILIES[:2]:
                start = time.perf_counter()
                numbers = [
                    (n + at * 37) % options.scenes for n in range(options.scenes)
                ]  # so that each edit paints other scenes
                asked = cases(edit, family, numbers, most)
                rows.append(measure(name, writer, edit, family, asked, images, drawer, tagger))
                print(
                    f"{name}, {edit}, {family}: {len(asked)} scenes, {time.perf_counter() - start:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
        close = getattr(writer, "close", None)
        if close is not None:
            close()
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--scenes", type=int, default=500, help="scenes for realizer's texts")
    parser.add_argument("--images", type=int, default=40, help="of those, painted an edit and family")
    parser.add_argument(
        "--llm-scenes",
        type=int,
        default=12,
        help="scenes an edit and family for SmolLM2, all painted; 0: without it",
    )
    parser.add_argument("--styled", type=int, default=60, help="pictures a style and a weight")
    parser.add_argument("--full", action="store_true", help="paint every scene")
    options = parser.parse_args(arguments)
    drawer, tagger = models.load("scenes", "text_to_image"), models.load("reference", "tagger")
    rows = edit_rows(options, drawer, tagger)
    for name in dict.fromkeys(row.writer for row in rows):
        mine = [row for row in rows if row.writer == name]
        failed = sum(row.failed for row in mine)
        print(f"\n{name}: {sum(len(row.text) for row in mine)} texts ({failed} failed), shares in percent\n")
        print(
            markdown(
                HEAD,
                [cells(row) for row in [*mine, *(together(rows, name, family) for family in FAMILIES[:2])]],
            )
        )
    print("\n" + compact(rows))
    numbers = range(options.scenes if options.full else options.styled)
    lines = []
    for factor in WEIGHTS:
        a, b, c, d = weighted(numbers, drawer, tagger, factor)
        lines.append([f"{factor:g}", str(b), percent([(a, b)]), str(d), percent([(c, d)])])
    print(
        "\n"
        + markdown(["weight", "pictures", "right way, drawn", "found in both", "right way, pixels"], lines)
    )
    lines = []
    for style in ("", *STYLES):
        a, b, c, d = styled(style, numbers, drawer, tagger)
        lines.append([style or "none", str(d), percent([(a, d)]), percent([(b, d)]), percent([(c, d)])])
    print("\n" + markdown(["style", "pictures", "exactly the objects, drawn", "pixels", "changed"], lines))


if __name__ == "__main__":
    main()
