"""Makes the data of the second honest experiment: real clip art with the titles that people gave it, and
held-out sets of human sentences.

apt-get install openclipart-png openclipart-svg tuxpaint-stamps-default
python scripts/evidence_clipart.py OUT --drawings GOOGLE_PNGS --seed 0

OUT/real/            openclipart's PNGs on white, captions.csv (file, caption: the title in the SVG's RDF, as
                     noisy as it is)
OUT/eval/tuxpaint    stamps of Tux Paint, each with its English sentence      (retrieval, public tar layout)
OUT/eval/emoji       a vendor's emoji, each with its CLDR name                (the same)

openclipart is public domain, Tux Paint's stamps are GPL-2, the drawings have their vendor's licence: all are
read where they are installed; none are shipped. --seed draws the held-out sets."""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import re
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

CLIPART, STAMPS = Path("/usr/share/openclipart"), Path("/usr/share/tuxpaint/stamps")
TITLE = "{http://purl.org/dc/elements/1.1/}title"
WORK = re.compile(r"\{[^}]*\}Work$")
SIZE = 96


def on_white(path: Path) -> bytes:
    """A JPEG of `SIZE` pixels, the picture whole and in the middle."""
    with Image.open(path) as opened:
        image = opened.convert("RGBA")
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    page = Image.new("RGBA", (SIZE, SIZE), "white")
    page.alpha_composite(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    out = io.BytesIO()
    page.convert("RGB").save(out, "JPEG", quality=92)
    return out.getvalue()


def title(svg: Path) -> str | None:
    """The title of the work in a drawing's RDF; None where it has none, or is no XML."""
    try:
        root = ET.parse(svg).getroot()
    except (ET.ParseError, OSError):
        return None
    for element in root.iter():
        if WORK.search(element.tag):
            text = " ".join((element.findtext(TITLE) or "").split())
            return text or None
    return None


def clipart(root: Path) -> Iterator[tuple[Path, str]]:
    """(PNG, title), in the order of their names, a drawing once: openclipart lists some in several
    folders."""
    seen = set()
    for png in sorted((root / "png").rglob("*.png")):
        if png.name in seen or "duplicates" in png.parts:
            continue
        found = title(root / "svg" / png.relative_to(root / "png").with_suffix(".svg"))
        if found is not None:
            seen.add(png.name)
            yield png, found


def stamps(root: Path) -> list[tuple[Path, str]]:
    """(PNG, English sentence: the first line of the text beside it)."""
    out = []
    for text in sorted(root.rglob("*.txt")):
        png = text.with_suffix(".png")
        sentence = text.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].strip()
        if png.exists() and sentence:
            out.append((png, sentence))
    return out


def emoji(drawings: Path) -> list[tuple[Path, str]]:
    """(PNG, English CLDR name) of a vendor's drawings; skin tones, of which only one is kept, and flags are
    left out."""
    from emoji import EMOJI_DATA

    names = {}
    for character, facts in EMOJI_DATA.items():
        code = "-".join(f"{ord(c):04x}" for c in character if ord(c) != 0xFE0F)
        names[code] = facts["en"].strip(":").replace("_", " ")
    out = []
    for png in sorted(drawings.glob("*.png")):
        name = names.get(png.stem.lower().replace("-fe0f", ""))
        if name is not None and "skin tone" not in name and not re.match(r"1f1[ef]", png.stem):
            out.append((png, name))
    return out


def write_pairs(folder: Path, pairs: Sequence[tuple[Path, str]]) -> int:
    """A retrieval set in the public tar layout."""
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("1\n")
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for n, (png, text) in enumerate(pairs):
            for ending, data in (("jpg", on_white(png)), ("txt", text.encode())):
                info = tarfile.TarInfo(f"{n:06d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return len(pairs)


def make(
    out: Path,
    drawings: Path,
    most: int,
    held_out: int,
    seed: int,
    clipart_root: Path = CLIPART,
    stamps_root: Path = STAMPS,
) -> dict[str, Any]:
    """See the module's docstring; at most `most` real images and `held_out` of each held-out set. ->
    counts."""
    for place, package in (
        (clipart_root / "png", "openclipart-png"),
        (clipart_root / "svg", "openclipart-svg"),
        (stamps_root, "tuxpaint-stamps-default"),
    ):
        if not place.is_dir():
            raise SystemExit(f"{place} is not there; apt-get install {package}")
    rng = random.Random(seed)
    real = list(clipart(clipart_root))
    real = sorted(random.Random("clipart").sample(real, min(most, len(real))))
    (out / "real").mkdir(parents=True)
    unreadable = 0
    with open(out / "real" / "captions.csv", "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["file", "caption"])
        for n, (png, text) in enumerate(real):
            try:
                (out / "real" / f"{n:06d}.jpg").write_bytes(on_white(png))
            except (OSError, ValueError, Image.DecompressionBombError):
                unreadable += 1
                continue
            table.writerow([f"{n:06d}.jpg", text])
    told: dict[str, Any] = {
        "real": len(real) - unreadable,
        "unreadable": unreadable,
        "titles": len({t for _, t in real}),
    }
    for name, pairs in (("tuxpaint", stamps(stamps_root)), ("emoji", emoji(drawings))):
        told[name] = write_pairs(out / "eval" / name, rng.sample(pairs, min(held_out, len(pairs))))
    return told


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--most", type=int, default=10_000)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(json.dumps(make(asked.out, asked.drawings, asked.most, asked.held_out, asked.seed)))


if __name__ == "__main__":
    main()
