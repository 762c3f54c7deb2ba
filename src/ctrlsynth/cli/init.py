"""`ctrlsynth init`: looks into a folder and writes a commented recipe for what it finds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from ..data.captions import CAPTION_NAMES
from ..data.images import IMAGE_SUFFIXES
from ..data.rows import FILE_NAMES, IMAGE_NAMES
from ..data.sources import open_source
from ..data.tables import SUFFIXES, Table
from ..errors import UserError
from ..recipe.file import load_recipe, parse_recipe, read_yaml

_LOOK = 20_000
"""Files that are looked at before the folder counts as known."""

_RECIPE = """\
# Written by `ctrlsynth init` for {{ folder }}: {{ found }}.
#   ctrlsynth plan {{ out }}      what a run would do, and what it costs
#   ctrlsynth run {{ out }}       go; the same command goes on after an interruption
# Every key, its default and its meaning stand in docs/recipe.md.

name: {{ name }}

source:
{% for line in source %}  {{ line }}
{% endfor %}{% for line in columns %}  {{ line }}
{% endfor %}  # licence: CC-BY-4.0            # the licence of this data; it goes into the data card

models:
{% if images and captions %}  tagger: {hybrid: [imagenet, wordnet]}   # 2a: imagenet looks at the pixels, wordnet reads the caption
{% elif images %}  tagger: imagenet                # 2a: looks at the pixels; there are no captions to read
{% else %}  tagger: wordnet                 # 2a: reads the caption
{% endif %}  llm: realizer                   # 2b: tags to plain sentences, no model; smollm2 is a small one, llama.cpp:path/to.gguf any
  text_to_image: scenes           # 2c: draws a scene from OpenMoji; it needs no GPU

paths:
{% for line, comment in paths %}  - {{ line.ljust(40) }}  # {{ comment }}
{% endfor %}
variants: {write: 2, paint: 1}    # two texts a row: mix gives one to the original image and has the other painted

text_policy:                      # 3a: edits on the tags before anything is written
  edits:
    - remove: {objects: [watermark, "stock photo"]}
    # - replace: {attributes: {red: blue}}
    # - keep: [objects, attributes]
  templates: all

image_policy:                     # 3b: how a text becomes a prompt
  styles: {real: 3, cinematic: 1}

judge:                            # what came out is tagged again; below the threshold it is rejected
  tagger: reference               # looks at the painted image; made for what `scenes` draws
  threshold: 0.2
  matcher: {text: lemma, image: wordnet}

mix: {use: mix, originals: 0.0}   # which pairs leave: cap, img, capimg, mix; originals: 1.0 adds as many original pairs
seed: 0
"""


@dataclass
class _Found:
    """What stands in the folder: images with the tables that may hold their captions, shards, tables,
    texts."""

    images: int = 0
    sidecars: int = 0
    tables: list[Path] = field(default_factory=list)
    tars: list[Path] = field(default_factory=list)
    parquet: list[Path] = field(default_factory=list)
    hf: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)


def write_recipe(folder: Path, out: Path) -> str:
    """Writes the recipe for `folder` into the new file `out` and returns its text.

    The recipe has been loaded and its source opened. Raises UserError when `out` exists or the folder holds
    nothing to start from."""
    if out.exists():
        raise UserError(f"{out}: exists; name another file with --out, or move it away")
    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'not a folder' if folder.exists() else 'not there'}; give a folder of images, "
            f"tars, parquet files or texts"
        )
    if any("\ud800" <= c <= "\udfff" for c in str(folder)):
        raise UserError(
            f"{folder!r}: its name is not UTF-8, which recipes are written in; rename it, or reach it by a "
            f"link"
        )
    text = recipe_text(folder, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "x", encoding="utf-8") as stream:
        stream.write(text)
    load_recipe(out)
    return text


def recipe_text(folder: Path, out: Path) -> str:
    """The recipe for `folder` as it would stand in the file `out`; opens the source's first rows to see that
    it works."""
    found = _look(folder)
    base = out.parent.absolute()
    where = _relative(folder, base)
    source, columns, told = _source(folder, where, found)
    captions = told != "images without captions"
    images = bool(found.images or found.tars or found.parquet or found.hf)
    given = parse_recipe(
        {"name": "x", "source": read_yaml("\n".join([*source, *columns]), "init")}, str(folder)
    ).source
    opened = open_source(given, base, 8)
    images = images and opened.has_images
    if images and captions and not found.images:
        captions = any(row.caption for part in opened.parts() for row in opened.rows(part))
    name = (
        "".join(
            c if (c.isalnum() and c.isascii()) or c in "-_." else "-" for c in folder.absolute().name
        ).strip("-_.")
        or "data"
    )
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True
    )  # YAML, not HTML
    values = {
        "folder": _plain(where),
        "found": _plain(told),
        "out": _plain(str(out)),
        "name": name,
        "source": source,
        "columns": columns,
    }
    return environment.from_string(_RECIPE).render(
        values, images=images, captions=captions, paths=_paths(images, captions)
    )


def _paths(images: bool, captions: bool) -> list[tuple[str, str]]:
    if not images:
        return [("{painted: [text, tags, text*, image*]}", "captions -> tags -> new captions -> new images")]
    out = [("SP1", "image -> tags -> new text"), ("SP3", "the same text -> new image")]
    if captions:
        out.insert(1, ("SP2", "image + caption -> tags -> new text that stays with the caption"))
    return out


def _look(folder: Path) -> _Found:
    found = _Found()
    seen = 0
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        at = Path(root)
        if "state.json" in files or "dataset_dict.json" in files:
            found.hf.append(at)
            folders.clear()
            continue
        for name in sorted(f for f in files if not f.startswith(".")):
            _note(found, at / name, set(files) if name.endswith(".txt") else set())
            seen += 1
        if seen >= _LOOK:
            break
    return found


def _note(found: _Found, path: Path, beside: set[str]) -> None:
    suffix = path.suffix.lower().removeprefix(".")
    if suffix in IMAGE_SUFFIXES:
        found.images += 1
    elif suffix == "tar":
        found.tars.append(path)
    elif suffix in ("parquet", "pq"):
        found.parquet.append(path)
    elif suffix == "txt" and any(f"{path.stem}.{s}" in beside for s in IMAGE_SUFFIXES):
        found.sidecars += 1
    elif path.name.lower().endswith(SUFFIXES):
        found.texts.append(path)
        if suffix in ("csv", "tsv", "jsonl"):
            found.tables.append(path)


def _source(folder: Path, where: str, found: _Found) -> tuple[list[str], list[str], str]:
    """(lines of `source`, lines with columns, what was found). Shards go before loose files: they are what
    was packed on purpose."""
    if found.hf:
        place = _split(found.hf[0])
        return (
            [f"hf: {_quoted(_join(where, place, folder))}"],
            [],
            "a Hugging Face data set saved with save_to_disk",
        )
    if found.tars:
        lines = [f"webdataset: {_globs(where, found.tars, folder, 'tar')}"]
        return lines, [], f"{len(found.tars):,} tar shard{'s' * (len(found.tars) != 1)}"
    if found.parquet:
        lines = [f"parquet: {_globs(where, found.parquet, folder, 'parquet')}"]
        return lines, [], f"{len(found.parquet):,} parquet file{'s' * (len(found.parquet) != 1)}"
    if found.images:
        many = f"{found.images:,}{' or more' if found.images >= _LOOK else ''} images"
        for path in found.tables:
            columns = _columns(path, True)
            if columns is not None:
                lines = [f"folder: {_quoted(where)}", f"captions: {_quoted(_join(where, path, folder))}"]
                return lines, columns, f"{many}, captions in {path.name}"
        lines = [f"folder: {_quoted(where)}"]
        if found.sidecars:
            return (
                [*lines, "# captions: the .txt beside each image"],
                [],
                f"{many}, {found.sidecars:,} with a .txt beside them",
            )
        return lines, [], "images without captions"
    for path in found.texts:
        columns = [] if path.name.lower().endswith((".txt", ".txt.gz")) else _columns(path, False)
        if columns is not None:
            return [f"text: {_quoted(_join(where, path, folder))}"], columns, f"captions in {path.name}"
    raise UserError(
        f"{folder}: no images, tars, parquet files, saved data sets or captions in it (in the first "
        f"{_LOOK:,} files)"
    )


def _columns(path: Path, images: bool) -> list[str] | None:
    """Lines that name the columns of a table where their names leave a choice; None for a table that is not
    one of captions."""
    try:
        columns = Table(str(path)).columns
    except UserError:
        return None
    caption = _pick(columns, CAPTION_NAMES)
    image = _pick(columns, (*FILE_NAMES, *IMAGE_NAMES)) if images else []
    if not caption or (images and not image):
        return None
    lines = []
    for key, names in (("image_column", image), ("caption_column", caption)):
        if len(names) > 1:
            others = ", ".join(_plain(n) for n in names[1:])
            lines.append(f"{key}: {_quoted(names[0])}   # could also be {others}")
    return lines


def _pick(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns with a usual name, the likeliest first."""
    return sorted(
        (c for c in columns if c.strip().lower() in names), key=lambda c: names.index(c.strip().lower())
    )


def _split(folder: Path) -> Path:
    """A saved data set, or the split of a saved dict of splits to start with: train, else its first."""
    table = folder / "dataset_dict.json"
    if not table.is_file():
        return folder
    try:
        splits = [str(s) for s in json.loads(table.read_text(encoding="utf-8")).get("splits") or []]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{table}: not what save_to_disk writes ({error})") from error
    return folder / ("train" if "train" in splits else splits[0]) if splits else folder


def _globs(where: str, files: Sequence[Path], folder: Path, suffix: str) -> str:
    """One glob a folder that holds such files."""
    patterns = [_join(where, p / f"*.{suffix}", folder) for p in dict.fromkeys(f.parent for f in files)]
    if any(f.suffix != f".{suffix}" for f in files):
        patterns = [_join(where, f, folder) for f in files]
    return _quoted(patterns[0]) if len(patterns) == 1 else json.dumps(patterns, ensure_ascii=False)


def _join(where: str, path: Path, folder: Path) -> str:
    return os.path.normpath(os.path.join(where, os.path.relpath(path, folder)))


def _relative(folder: Path, base: Path) -> str:
    """The folder as the recipe names it: relative where it lies beside or below the recipe, else absolute."""
    relative = os.path.relpath(folder.absolute(), base)
    return str(folder.absolute()) if relative.startswith("..") else relative


def _quoted(text: str) -> str:
    """A YAML scalar: plain where that is safe, else in JSON's quotes, which YAML reads."""
    safe = (
        all(c.isalnum() or c in "/._-" for c in text)
        and text[:1] not in "-"
        and text.isascii()
        and not text.replace(".", "").isdigit()
    )
    if safe and text.lower() not in ("", "yes", "no", "true", "false", "null", "on", "off"):
        return text
    return _NOT_YAML.sub(lambda m: f"\\u{ord(m.group()):04x}", json.dumps(text, ensure_ascii=False))


_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON leaves as it is and YAML refuses."""


def _plain(text: str) -> str:
    """Text for a comment: one line of what YAML allows."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
