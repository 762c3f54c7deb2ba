"""The static gallery of a run, which opens from disk without a network: every sample with what was kept,
edited, found and missed, and why."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from ..data.originals import ImageReader
from ..errors import UserError
from ..recipe.paths import resolve
from ..recipe.schema import dump_recipe
from ..runs.pairs import Shape, samples_of
from ..runs.reader import Parts, RunReader
from ..stages.boxes import BOXES, box_of
from ..storage.files import disk_errors, making, remove_leftovers, temporary, write_json
from ..storage.parts import RunFolder
from .cards import ImageFiles, cards_of, script_json, search_text
from .figures import (
    Theme,
    recall_figure,
    recall_histograms,
    sweep_figure,
    word_histograms,
    words_figure,
    write_both,
)
from .sweep import Sweep, as_table, gate_note, sweep

MARKER = "ctrlsynth-report.json"
OURS = frozenset({MARKER, "index.html", "gallery.css", "gallery.js", "data", "images", "plots", "STALE.txt"})
_Fate = tuple[str, str, str]
"""Verdict, reason and the folder that decided, as `runs.pairs.Fate`."""
_TEMPLATES = Path(__file__).with_name("templates")


def write_report(
    run: RunReader, out: Path, *, page_rows: int = 50, tick: Callable[[], None] = lambda: None
) -> Path:
    """Writes the gallery into the folder `out` atomically and returns its index.html. An older report is
    replaced when the new one is done. Raises UserError for a folder that holds anything else.

    `page_rows`: samples per page. `tick` is called for each sample, for a progress line. Memory: one page and
    a few images, whatever the run's size."""
    if page_rows < 1:
        raise UserError(f"page_rows {page_rows}: at least 1")
    _refuse_foreign(out)
    remove_leftovers(out.parent)
    with making(out) as made:
        with disk_errors(out):
            _write(run, made, page_rows, tick)
        old = temporary(out)
        if out.exists():
            os.rename(out, old)
        os.rename(made, out)
        shutil.rmtree(old, ignore_errors=True)
    return out / "index.html"


def _refuse_foreign(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; a report is a folder")
    names = {p.name for p in out.iterdir()}
    foreign = sorted(names - OURS) if MARKER in names else sorted(names)
    if foreign:
        what = "holds" if MARKER in names else "is not a report of ours: it holds"
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{out}: {what} {foreign[0]}{more}; move that away or choose another folder with --out"
        )


def _write(run: RunReader, root: Path, page_rows: int, tick: Callable[[], None]) -> None:
    (root / "data").mkdir(parents=True)
    fates, paths = _pages(run, root, page_rows, tick)
    judged = run.recipe.judge is not None and any(box_of(s).judges for s in run.steps)
    found = sweep(run) if judged else None
    plots = _plots(run, root / "plots", found)
    for name in ("gallery.css", "gallery.js"):
        shutil.copyfile(_TEMPLATES / name, root / name)
    (root / "index.html").write_text(_index(run, fates, paths, found, plots), encoding="utf-8")
    write_json(
        root / MARKER, {"run": run.recipe.name, "samples": fates.total(), "version": version("ctrlsynth")}
    )


def _cards(run: RunReader, root: Path) -> Iterator[dict[str, Any]]:
    parts, shape = Parts(run), Shape(run)
    for index in parts.indexes():
        with ImageReader() as reader:
            images = ImageFiles(root, index, reader)
            for source, family in parts.families(index, images=True):
                yield from cards_of(run.recipe, images, samples_of(shape, source, family), source, family)


def _pages(
    run: RunReader, root: Path, page_rows: int, tick: Callable[[], None]
) -> tuple[Counter[_Fate], Counter[str]]:
    """Streams the cards into data/page-N.js, and one line per card into data/index.js, for the filter.
    Returns the samples by fate and by path."""
    fates: Counter[_Fate] = Counter()
    paths: Counter[str] = Counter()
    path_sets: dict[tuple[str, ...], int] = {}
    with open(root / "data" / "index.js", "w", encoding="ascii") as index:
        index.write("ctrlsynthIndex([\n")
        for number, page in groupby(enumerate(_cards(run, root)), lambda numbered: numbered[0] // page_rows):
            cards = []
            for _, card in page:
                tick()
                fate = (card["verdict"], card["reason"], card["where"])
                fates[fate] += 1
                paths.update(card["paths"])
                path_set = path_sets.setdefault(tuple(card["paths"]), len(path_sets))
                line = [path_set, list(fates).index(fate), search_text(card)]
                index.write(script_json(line) + ",\n")
                cards.append(script_json(card))
            text = f"ctrlsynthPage({number},[\n" + ",\n".join(cards) + "\n]);\n"
            (root / "data" / f"page-{number:05d}.js").write_text(text, encoding="ascii")
        more = {
            "pageRows": page_rows,
            "pathSets": list(path_sets),
            "fates": list(fates),
            "threshold": run.recipe.judge.threshold if run.recipe.judge is not None else None,
        }
        index.write(f"],{script_json(more)});\n")
    return fates, paths


def _plots(run: RunReader, folder: Path, found: Sweep | None) -> list[dict[str, str]]:
    """Draws the plots, in light and dark; returns their names, titles and alternative texts."""
    words = word_histograms(run)
    plots: dict[tuple[str, str, str], Callable[[Theme], Any]] = {}
    if words:
        means = "; ".join(f"{h.name}: {h.total:,} texts, mean {h.mean:.1f} words" for h in words)
        plots["words", "Words in a text", means] = partial(words_figure, words)
    if found is not None:
        recalls = recall_histograms(run)
        if recalls:
            means = "; ".join(f"{h.name}: {h.total:,} rows, mean recall {h.mean:.2f}" for h in recalls)
            plots["recall", "Recall", means] = partial(recall_figure, recalls, found.threshold)
        numbers = "the same numbers as in the table below"
        plots["sweep", "What every p_f would keep", numbers] = partial(sweep_figure, found)
    for (name, _, _), draw in plots.items():
        write_both(draw, folder, name)
    return [{"name": name, "title": title, "alt": alt} for name, title, alt in plots]


def _index(
    run: RunReader,
    fates: Counter[_Fate],
    paths: Counter[str],
    found: Sweep | None,
    plots: Sequence[Mapping[str, str]],
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    head, body = as_table(found) if found is not None else ([], [])
    return env.get_template("index.html.j2").render(
        run=run.recipe,
        version=version("ctrlsynth"),
        samples=fates.total(),
        kept=sum(n for (v, _, _), n in fates.items() if v in ("kept", "unjudged")),
        fates=[
            {
                "verdict": verdict,
                "reason": reason,
                "where": where,
                "number": number,
                "label": f"{verdict}, {reason}" if reason else verdict,
                "filter": f"{reason or verdict}@{where}" if where else verdict,
            }
            for (verdict, reason, where), number in sorted(
                fates.items(), key=lambda f: (f[0][0] != "kept", -f[1], f[0])
            )
        ],
        paths=[(name, number, " → ".join(resolve(run.recipe.paths)[name])) for name, number in paths.items()],
        models=_models(run),
        judge=run.recipe.judge,
        ledger=run.ledger(),
        sweep_head=head,
        sweep_body=body,
        gate_note=gate_note(run),
        plots=plots,
        recipe=_recipe_text(run),
    )


def _models(run: RunReader) -> list[tuple[str, str]]:
    """(box, model) of every stage with a model, from the plan."""
    loops = {s.parent for s in run.steps if box_of(s).judges == "image"}
    steps: Sequence[Mapping[str, Any]] = run.plan["steps"]
    named = (
        ("judge's tagger" if s["folder"] in loops else BOXES[s["kind"]].asks, s["settings"].get("model"))
        for s in steps
        if BOXES[s["kind"]].asks
    )
    return list(dict.fromkeys((box, str(model)) for box, model in named if model))


def _recipe_text(run: RunReader) -> str:
    """The recipe as the user gave it, or the resolved one if it came from Python."""
    path = RunFolder(run.root).recipe_file
    if path.exists():
        return path.read_text(encoding="utf-8")
    import yaml

    return yaml.safe_dump(dump_recipe(run.recipe), sort_keys=False, allow_unicode=True, width=120)
