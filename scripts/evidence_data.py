"""Makes the data of the honest experiment (recipes/evidence): scenes of known content with captions as noisy
as web alt-text.

python scripts/evidence_data.py OUT --drawings GOOGLE_PNGS --test-drawings TWITTER_PNGS --scenes 4000
--held-out 1000 --seed 0

OUT/real/        what stands for real data: images drawn with the first vendor's drawings, captions.csv (file,
                 caption, truth)
OUT/eval/        walls (retrieval, first vendor) and walls-other (a vendor that no training image uses), both
                 in the public tar layout; crepe (seven files in SugarCrepe's form, first vendor)
OUT/labels/      NAME/drawing.png: one drawing of each thing in the first vendor's hand, which the tagger of
                 real images compares with (real taggers have learnt from real photographs)
OUT/noise.json   the noise rates, as asked for and as they came out

Synthetic images are drawn with OpenMoji by the runs themselves, so there is a gap between them and all of
this. --seed draws everything. Drawings: `npm pack emoji-datasource-google` (Apache-2.0 drawings) and `npm
pack emoji-datasource-twitter` (CC-BY 4.0), their folders img/google/64 and img/twitter/64."""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ctrlsynth.lang.words import singular
from ctrlsynth.models.base import Prompt
from ctrlsynth.models.embedded.scenes.painter import Scenes
from ctrlsynth.models.embedded.scenes.vocabulary import COLOURS, PEOPLE, drawings_of

NOISE = {"generic": 0.2, "swapped": 0.15, "object missing": 0.35, "attributes missing": 0.15}
"""Shares of the real captions: a generic one in place of the true one, another image's caption, one object
left unsaid, no colour said. The rest says everything."""
GENERIC = [
    "stock photo",
    "image",
    "IMG_{n}",
    "untitled",
    "picture of the day",
    "free download",
    "wallpaper hd",
    "my photo {n}",
]
RELATIONS = {"left of": "right of", "right of": "left of", "above": "under", "under": "above"}
HELD_OUT = ["{0}", "a picture with {0}", "you can see {0}", "{0} in a simple drawing", "a scene of {0}"]
SIZE = 96


@dataclass(frozen=True)
class Object:
    """A thing and its colour."""

    name: str
    colour: str

    def __str__(self) -> str:
        return (
            f"a {self.colour} {self.name}"
            if self.colour[0] not in "aeiou"
            else f"an {self.colour} {self.name}"
        )


@dataclass(frozen=True)
class Content:
    """What a picture holds: one or two related objects, and perhaps a third beside them."""

    objects: tuple[Object, ...]
    relation: str | None

    def text(self) -> str:
        first = (
            str(self.objects[0])
            if self.relation is None
            else f"{self.objects[0]} {self.relation} {self.objects[1]}"
        )
        rest = self.objects[2:] if self.relation is not None else self.objects[1:]
        return " and ".join([first, *map(str, rest)])


def content(rng: random.Random, names: Sequence[str]) -> Content:
    """One to three different things in different colours."""
    count = rng.choices([1, 2, 3], [2, 5, 3])[0]
    colours = rng.sample(list(COLOURS), count)
    objects = tuple(Object(n, c) for n, c in zip(rng.sample(list(names), count), colours, strict=True))
    return Content(objects, rng.choice(list(RELATIONS)) if count > 1 else None)


def noisy(rng: random.Random, number: int, contents: Sequence[Content]) -> tuple[str, str]:
    """A caption as the web would have it, and which kind of noise it is."""
    truth = contents[number]
    kind = rng.choices([*NOISE, "none"], [*NOISE.values(), 1 - sum(NOISE.values())])[0]
    if kind == "generic":
        return rng.choice(GENERIC).format(n=rng.randrange(1000, 9999)), kind
    if kind == "swapped":
        return contents[rng.randrange(len(contents))].text(), kind
    if kind == "object missing":
        kept = list(truth.objects)
        if len(kept) > 1:
            kept.remove(rng.choice(kept))
            return " and ".join(map(str, kept)), kind
        return kept[0].name, "attributes missing"
    if kind == "attributes missing":
        return " and ".join(o.name for o in truth.objects), kind
    return truth.text(), kind


def changed(rng: random.Random, truth: Content, names: Sequence[str]) -> dict[str, str]:
    """SugarCrepe's seven kinds of wrong caption, as far as the content allows."""
    first = truth.objects[0]
    other = rng.choice([n for n in names if n not in {o.name for o in truth.objects}])
    colour = rng.choice([c for c in COLOURS if c not in {o.colour for o in truth.objects}])
    out = {
        "add_obj": f"{truth.text()} and {Object(other, colour)}",
        "add_att": truth.text().replace(
            str(first), f"{first} with {rng.choice([c for c in COLOURS if c != first.colour])} spots", 1
        ),
        "replace_obj": replace(truth, objects=(replace(first, name=other), *truth.objects[1:])).text(),
        "replace_att": replace(truth, objects=(replace(first, colour=colour), *truth.objects[1:])).text(),
    }
    if truth.relation is not None:
        a, b = truth.objects[:2]
        out["replace_rel"] = replace(truth, relation=RELATIONS[truth.relation]).text()
        out["swap_obj"] = replace(truth, objects=(b, a, *truth.objects[2:])).text()
        swapped = (replace(a, colour=b.colour), replace(b, colour=a.colour))
        out["swap_att"] = replace(truth, objects=(*swapped, *truth.objects[2:])).text()
    return out


def draw(painter: Scenes, text: str, seed: int) -> bytes:
    """A JPEG of the scene, `SIZE` pixels."""
    made = painter.generate([Prompt(text, seed=seed, size=(2 * SIZE, 2 * SIZE))])[0]
    assert made.image is not None, (text, made.error)
    out = io.BytesIO()
    made.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(out, "JPEG", quality=92)
    return out.getvalue()


def names_of(most: int, *folders: Path | None) -> list[str]:
    """Things that every vendor draws: single words in the singular, no people (their drawings differ in
    number between vendors). Which `most` of them does not hang on the seed of the scenes, so all seeds speak
    of the same things."""
    shared = set.intersection(*(set(drawings_of(f)) for f in folders))
    names = sorted(n for n in shared if n.isalpha() and n not in PEOPLE and singular(n) == n)
    return sorted(random.Random("things").sample(names, min(most, len(names))))


def drawing_file(name: str, folder: Path) -> Path:
    """The vendor's picture of a thing."""
    file = drawings_of(folder)[name].file
    assert file is not None, name
    return file


def write_real(out: Path, painter: Scenes, contents: Sequence[Content], rng: random.Random) -> Counter[str]:
    """Images and noisy captions."""
    out.mkdir(parents=True)
    kinds: Counter[str] = Counter()
    with open(out / "captions.csv", "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["file", "caption", "truth"])
        for n, truth in enumerate(contents):
            caption, kind = noisy(rng, n, contents)
            kinds[kind] += 1
            (out / f"{n:06d}.jpg").write_bytes(draw(painter, truth.text(), n))
            table.writerow([f"{n:06d}.jpg", caption, truth.text()])
    return kinds


def write_walls(folder: Path, painter: Scenes, contents: Sequence[Content], rng: random.Random) -> None:
    """A retrieval set: every image once, with one true sentence in another wording than the writers'."""
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("1\n")
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for n, truth in enumerate(contents):
            for ending, data in (
                ("jpg", draw(painter, truth.text(), n)),
                ("txt", rng.choice(HELD_OUT).format(truth.text()).encode()),
            ):
                info = tarfile.TarInfo(f"{n:06d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_crepe(
    folder: Path, painter: Scenes, contents: Sequence[Content], rng: random.Random, names: Sequence[str]
) -> None:
    """Pairs in SugarCrepe's form."""
    (folder / "images").mkdir(parents=True)
    files: dict[str, dict[str, dict[str, str]]] = {}
    for n, truth in enumerate(contents):
        name = f"{n:06d}.jpg"
        (folder / "images" / name).write_bytes(draw(painter, truth.text(), n))
        for kind, wrong in changed(rng, truth, names).items():
            rows = files.setdefault(kind, {})
            rows[str(len(rows))] = {"filename": name, "caption": truth.text(), "negative_caption": wrong}
    for kind, rows in files.items():
        (folder / f"{kind}.json").write_text(json.dumps(rows, indent=0))


def make(
    out: Path, drawings: Path, test_drawings: Path, scenes: int, held_out: int, things: int, seed: int
) -> dict[str, Any]:
    """See the module's docstring. Returns the content of noise.json."""
    rng = random.Random(seed)
    first, other = (Scenes(2 * SIZE, str(f)) for f in (drawings, test_drawings))
    names = names_of(things, None, drawings, test_drawings)
    contents = [content(rng, names) for _ in range(scenes)]
    seen = {c.text() for c in contents}
    held: list[Content] = []
    while len(held) < held_out:
        one = content(rng, names)
        if one.text() not in seen:
            seen.add(one.text())
            held.append(one)
    kinds = write_real(out / "real", first, contents, rng)
    write_walls(out / "eval" / "walls", first, held, rng)
    write_walls(out / "eval" / "walls-other", other, held, rng)
    write_crepe(out / "eval" / "crepe", first, held, rng, names)
    told = {
        "asked": NOISE,
        "came out": {k: v / len(contents) for k, v in sorted(kinds.items())},
        "things": len(names),
        "seed": seed,
    }
    for name in names:
        (out / "labels" / name).mkdir(parents=True)
        shutil.copyfile(drawing_file(name, drawings), out / "labels" / name / "drawing.png")
    (out / "noise.json").write_text(json.dumps(told, indent=1) + "\n")
    return told


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--test-drawings", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--things", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    print(json.dumps(make(a.out, a.drawings, a.test_drawings, a.scenes, a.held_out, a.things, a.seed)))


if __name__ == "__main__":
    main()
