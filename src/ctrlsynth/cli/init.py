"""`ctrlsynth init`: looks into a folder and writes a commented recipe for what it finds."""

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import yaml

from ..data.captions import CAPTION_NAMES
from ..data.images import IMAGE_SUFFIXES
from ..data.rows import FILE_NAMES, IMAGE_NAMES
from ..data.sources import open_source
from ..data.tables import SUFFIXES, Table
from ..errors import UserError
from ..recipe.file import load_recipe, parse_recipe, read_yaml

_LOOK = 20_000
"""Files to look at; a larger folder is judged by these."""
_NO_CAPTIONS = "images without captions"

Found = Mapping[str, Sequence[Path]]
"""What a folder holds, by kind: hf (saved data sets), tar, parquet, image, sidecar (a .txt beside an image),
table and text (files that may hold captions)."""


def write_recipe(folder: Path, out: Path) -> str:
    """Writes a recipe for `folder` into the new file `out` and returns its text.

    Loads the recipe and opens its source first. Raises UserError if `out` exists or the folder holds nothing
    to start from."""
    if out.exists():
        raise UserError(f"{out}: exists; name another file with --out, or move it away")
    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'not a folder' if folder.exists() else 'does not exist'}; give a folder of images, "
            f"tars, parquet files or texts"
        )
    if any("\ud800" <= c <= "\udfff" for c in str(folder)):
        raise UserError(f"{folder!r}: its name is not UTF-8, as recipes are; rename it, or link to it")
    text = _recipe(folder, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "x", encoding="utf-8") as stream:
        stream.write(text)
    load_recipe(out)
    return text


def _recipe(folder: Path, out: Path) -> str:
    """Renders init.yaml.j2 for `folder`; opens the source's first rows to see that it works."""
    found = _look(folder)
    base = out.parent.absolute()
    where = os.path.relpath(folder.absolute(), base)
    where = str(folder.absolute()) if where.startswith("..") else where
    source, summary = _source(folder, where, found)
    opened = open_source(
        parse_recipe({"name": "x", "source": read_yaml("\n".join(source), "init")}, str(folder)).source,
        base,
        8,
    )
    images = opened.has_images and any(found[kind] for kind in ("image", "tar", "parquet", "hf"))
    captions = summary != _NO_CAPTIONS
    if images and captions and not found["image"]:
        captions = any(row.caption for part in opened.parts() for row in opened.rows(part))
    letters = (c if (c.isalnum() and c.isascii()) or c in "-_." else "-" for c in folder.absolute().name)
    environment = jinja2.Environment(  # YAML, not HTML
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("init.yaml.j2").render(
        folder=_comment(where), found=_comment(summary), out=_comment(str(out)), source=source,
        name="".join(letters).strip("-_.") or "data", images=images, captions=captions,
    )  # fmt: skip


def _look(folder: Path) -> Found:
    found: dict[str, list[Path]] = defaultdict(list)
    seen = 0
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if "state.json" in files or "dataset_dict.json" in files:
            found["hf"].append(Path(root))
            folders.clear()
            continue
        for name in sorted(f for f in files if not f.startswith(".")):
            found[_kind(name, files)].append(Path(root, name))
        seen += len(files)
        if seen >= _LOOK:
            break
    return found


def _kind(name: str, beside: Sequence[str]) -> str:
    stem, _, suffix = name.lower().rpartition(".")
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in ("tar", "parquet", "pq"):
        return "tar" if suffix == "tar" else "parquet"
    if suffix == "txt" and any(f"{name[: len(stem)]}.{s}" in beside for s in IMAGE_SUFFIXES):
        return "sidecar"
    return "text" if name.lower().endswith(SUFFIXES) else "other"


def _source(folder: Path, where: str, found: Found) -> tuple[list[str], str]:
    """Returns the YAML lines of `source` and what was found. Shards come before loose files, because somebody
    packed them on purpose."""

    def here(path: Path) -> str:
        return os.path.normpath(os.path.join(where, os.path.relpath(path, folder)))

    if found["hf"]:
        place = here(_split(found["hf"][0]))
        return [f"hf: {_quoted(place)}"], "a Hugging Face data set saved with save_to_disk"
    for kind, key, name in (("tar", "webdataset", "tar shard"), ("parquet", "parquet", "parquet file")):
        if files := found[kind]:
            globs = list(dict.fromkeys(here(f.parent / f"*.{kind}") for f in files))
            if any(f.suffix != f".{kind}" for f in files):
                globs = [here(f) for f in files]
            places = _quoted(globs[0] if len(globs) == 1 else globs)
            return [f"{key}: {places}"], f"{len(files):,} {name}{'s' * (len(files) != 1)}"
    if found["image"]:
        lines = [f"folder: {_quoted(where)}"]
        many = f"{len(found['image']):,}{' or more' if len(found['image']) >= _LOOK else ''} images"
        for path in found["text"]:
            columns = _columns(path, True)
            if columns is not None:
                return [
                    *lines,
                    f"captions: {_quoted(here(path))}",
                    *columns,
                ], f"{many}, captions in {path.name}"
        if not found["sidecar"]:
            return lines, _NO_CAPTIONS
        beside = f"{len(found['sidecar']):,} with a .txt beside them"
        return [*lines, "# captions: the .txt beside each image"], f"{many}, {beside}"
    for path in found["text"]:
        columns = [] if path.name.lower().endswith((".txt", ".txt.gz")) else _columns(path, False)
        if columns is not None:
            return [f"text: {_quoted(here(path))}", *columns], f"captions in {path.name}"
    raise UserError(
        f"{folder}: no images, tars, parquet files, saved data sets or captions in it (in the first "
        f"{_LOOK:,} files)"
    )


def _columns(path: Path, images: bool) -> list[str] | None:
    """Returns lines that name a table's columns where several would do; None for a table without captions."""
    if images and not path.name.lower().endswith((".csv", ".tsv", ".jsonl")):
        return None
    try:
        columns = Table(str(path)).columns
    except UserError:
        return None
    caption = _pick(columns, CAPTION_NAMES)
    image = _pick(columns, (*FILE_NAMES, *IMAGE_NAMES)) if images else []
    if not caption or (images and not image):
        return None
    return [
        f"{key}: {_quoted(names[0])}   # could also be {', '.join(map(_comment, names[1:]))}"
        for key, names in (("image_column", image), ("caption_column", caption))
        if len(names) > 1
    ]


def _pick(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Returns the columns that have a usual name, the likeliest first."""
    known = [c for c in columns if c.strip().lower() in names]
    return sorted(known, key=lambda c: names.index(c.strip().lower()))


def _split(folder: Path) -> Path:
    """Returns a saved data set, or one split of a saved dict of splits: train, else the first."""
    table = folder / "dataset_dict.json"
    if not table.is_file():
        return folder
    try:
        splits = [str(s) for s in json.loads(table.read_text(encoding="utf-8")).get("splits") or []]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{table}: not what save_to_disk writes ({error})") from error
    return folder / ("train" if "train" in splits else splits[0]) if splits else folder


def _quoted(value: str | list[str]) -> str:
    """Returns a YAML scalar or flow list on one line."""
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**9).strip()[1:-1]


def _comment(text: str) -> str:
    """Returns text for a comment: one line of printable characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
