"""The honest experiments: does the data help at equal samples? Makes the data, trains every arm, evaluates,
writes tables and plots.

    npm pack emoji-datasource-google && npm pack emoji-datasource-twitter
    # unpack them: package/img/google/64 and package/img/twitter/64 are the folders of drawings
    python scripts/evidence.py scenes --out runs/evidence/scenes --drawings GOOGLE_PNGS \\
        --test-drawings TWITTER_PNGS --report docs/evidence
    apt-get install openclipart-png openclipart-svg tuxpaint-stamps-default
    python scripts/evidence.py clipart --out runs/evidence/clipart --drawings GOOGLE_PNGS \\
        --report docs/evidence

recipes/evidence/ states the question, the measures and the arms. Finished steps are skipped, so the same
command continues after an interruption; other settings need another --out. One process takes the seeds in
turn. On two cores start one with --seeds 0 1 and one with --seeds 2, both with OMP_NUM_THREADS=1 and without
--report, and then the command without --seeds: it finds everything done and writes the report."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ctrlsynth.api.run import run
from ctrlsynth.evaluate.compare import compare, load_runs
from ctrlsynth.evaluate.metrics import interval_over_seeds
from ctrlsynth.evaluate.results import read_result, versions
from ctrlsynth.evaluate.run import evaluate_all
from ctrlsynth.export.export import export
from ctrlsynth.models.base import ImageAndText
from ctrlsynth.models.registry import load
from ctrlsynth.recipe.file import load_recipe, load_train
from ctrlsynth.recipe.schema import Recipe

RECIPES = Path(__file__).resolve().parent.parent / "recipes" / "evidence"


@dataclass(frozen=True)
class Experiment:
    """recipe     in recipes/evidence: how the synthetic pairs are made and CLIP is trained; its header fixes
    the metrics
    exports    p_f in percent -> kinds of pairs that are exported at it: folders `KIND-P`
    arms       name -> what is trained on: `real` and folders of exports
    metrics    (task, score): what the answer is
    curves     tasks that are also evaluated at the checkpoints before the last"""

    recipe: str
    exports: Mapping[int, Sequence[str]]
    arms: Mapping[str, Sequence[str]]
    metrics: Sequence[tuple[str, str]]
    curves: Sequence[str]


EXPERIMENTS = {
    "scenes": Experiment(
        "scenes.yaml",
        {20: ["cap", "img", "capimg", "mix"], 0: ["mix"], 50: ["mix"]},
        {
            "baseline": ["real"], "cap": ["real", "cap-20"], "img": ["real", "img-20"],
            "capimg": ["real", "capimg-20"],
            "mix": ["real", "mix-20"], "mix-pf0": ["real", "mix-0"], "mix-pf50": ["real", "mix-50"],
        },
        [("walls", "recall@1"), ("crepe", "acc")],
        ["walls", "crepe"],
    ),
    "clipart": Experiment(
        "clipart.yaml",
        {20: ["cap"]},
        {"titles": ["real"], "recaptioned": ["cap-20"], "both": ["real", "cap-20"]},
        [("tuxpaint", "recall@10"), ("emoji", "recall@10")],
        ["tuxpaint", "emoji"],
    ),
}  # fmt: skip


class Work:
    """A seed's folder: steps that are done once, with their seconds in done/NAME.json."""

    def __init__(self, asked: argparse.Namespace, seed: int) -> None:
        self.asked, self.seed = asked, seed
        self.folder = (asked.out / f"seed{seed}").resolve()
        self.experiment = EXPERIMENTS[asked.experiment]

    def step(self, name: str, work: Callable[[], Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """{seconds, settings, found}, made or read. A step that was done with other settings is refused."""
        mark = self.folder / "done" / f"{name}.json"
        if mark.exists():
            earlier: dict[str, Any] = json.loads(mark.read_text())
            if earlier["settings"] != settings:
                raise SystemExit(
                    f"{mark}: done with {earlier['settings']}, now {dict(settings)}; name another --out"
                )
            return earlier
        print(f"seed {self.seed}: {name} ...", flush=True)
        started = time.perf_counter()
        found = work()
        told = {"seconds": round(time.perf_counter() - started, 1), "settings": settings, "found": found}
        mark.parent.mkdir(parents=True, exist_ok=True)
        made = mark.with_suffix(f".{os.getpid()}")
        made.write_text(json.dumps(told, indent=1) + "\n")
        os.replace(made, mark)
        print(
            f"seed {self.seed}: {name}: {told['seconds']} s {found if found is not None else ''}", flush=True
        )
        return told

    def all(self) -> None:
        """Everything of this seed."""
        asked = self.asked
        size = {"scenes": asked.scenes, "held_out": asked.held_out, "things": asked.things}
        self.step("data", self.data, size)
        self.step("tagger", self.tagger, {"images": asked.probe})
        for p_f, kinds in self.experiment.exports.items():
            self.step(f"synthesis-{p_f}", partial(self.synthesis, p_f, kinds), {"kinds": list(kinds)})
        for arm, sources in self.experiment.arms.items():
            if arm in asked.arms:
                how = {"sources": list(sources), "steps": asked.steps, "batch": asked.batch}
                self.step(f"train-{arm}", partial(self.train, arm, sources), how)
                self.step(f"eval-{arm}", partial(self.evaluate, arm), {})

    def data(self) -> Any:
        """The real pairs and the held-out sets."""
        asked, out = self.asked, self.folder / "data"
        shutil.rmtree(out, ignore_errors=True)
        script = importlib.import_module(
            "evidence_data" if asked.experiment == "scenes" else "evidence_clipart"
        )
        if asked.experiment == "scenes":
            return script.make(
                out,
                asked.drawings,
                asked.test_drawings,
                asked.scenes,
                asked.held_out,
                asked.things,
                self.seed,
            )
        return script.make(out, asked.drawings, asked.scenes, asked.held_out, self.seed)

    def recipe(self, changes: Mapping[str, Any]) -> Recipe:
        """The experiment's recipe on this seed's data."""
        if self.asked.experiment == "scenes":
            changes = {
                **changes,
                "models.tagger": {"reference": None, "folder": str(self.folder / "data" / "labels")},
            }
        return load_recipe(RECIPES / self.experiment.recipe, settings(changes))

    def tagger(self) -> Any:
        """What the tagger finds on the real images, before anything is made of it."""
        recipe = self.recipe({})
        return tagger_recall(self.folder / "data" / "real", recipe.models.tagger, self.asked.probe)

    def synthesis(self, p_f: int, kinds: Sequence[str]) -> Any:
        """The run at this p_f (what another p_f made is taken over) and its exports. -> pairs by kind."""
        real = self.folder / "data" / "real"
        changes = {
            "source.folder": real,
            "source.captions": real / "captions.csv",
            "seed": self.seed,
            "judge.threshold": p_f / 100,
        }
        made = run(self.recipe(changes), self.folder / "run", base=RECIPES, update=True)
        out = {}
        for kind in kinds:
            folder = self.folder / f"{kind}-{p_f}"
            shutil.rmtree(folder, ignore_errors=True)
            out[kind] = sum(export(made, folder, mix=kind).written.values())
        return out

    def train(self, arm: str, sources: Sequence[str]) -> Any:
        """An arm's model. -> last loss, pairs."""
        from ctrlsynth.models.open_clip.load import import_open_clip

        import_open_clip()
        from ctrlsynth.clip.train import train

        asked = self.asked
        data = [
            self.folder / "data" / "real" / "captions.csv" if s == "real" else self.folder / s
            for s in sources
        ]
        changes = {
            "data": data,
            "steps": asked.steps,
            "batch": asked.batch,
            "seed": self.seed,
            "save_every": -(-asked.steps // 4),
        }
        if asked.experiment == "clipart":
            changes["decontaminate.against"] = [
                self.folder / "data" / "eval" / t / "test" for t, _ in self.experiment.metrics
            ]
        _, block = load_train(
            RECIPES / self.experiment.recipe, settings({f"train.{k}": v for k, v in changes.items()})
        )
        made = train(block, self.folder / "models" / arm, base=RECIPES)
        return {"loss": round(made.loss, 4), **made.data}

    def evaluate(self, arm: str) -> None:
        """Every task for the end; for the seeds of --curves the curves' tasks for the checkpoints before
        it."""
        from ctrlsynth.models.open_clip.load import load_model

        model, data = self.folder / "models" / arm, self.folder / "data" / "eval"
        evaluate_all(load_model(model / "model"), data, self.asked.out / "evals" / arm / f"seed{self.seed}")
        if self.seed not in self.asked.curves:
            return
        for folder in sorted((model / "checkpoints").glob("step-*")):
            out = self.asked.out / "curves" / arm / f"seed{self.seed}" / folder.name
            evaluate_all(load_model(folder), data, out, list(self.experiment.curves))


def settings(changes: Mapping[str, Any]) -> list[str]:
    """As `--set` takes them; JSON is YAML."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in changes.items()]


def tagger_recall(real: Path, spec: Any, images: int) -> dict[str, Any]:
    """On the first images whose truth is known: shares of the things and of the coloured things that are
    found, and of the things told that are there. Without truths, how many images got no tag."""
    import csv

    from PIL import Image

    with open(real / "captions.csv", encoding="utf-8", newline="") as handle:
        rows = [row for row, _ in zip(csv.DictReader(handle), range(images), strict=False)]
    tagger = load(spec, "tagger")
    tagged = []
    for start in range(0, len(rows), 16):
        items = [
            ImageAndText(Image.open(real / r["file"]).convert("RGB"), r["caption"])
            for r in rows[start : start + 16]
        ]
        tagged += tagger.tag(items)
    out: dict[str, Any] = {
        "tagger": tagger.id,
        "images": len(rows),
        "objects told": sum(len(t.objects) for t in tagged),
    }
    if "truth" not in rows[0]:
        return out | {"images without tags": sum(not t.phrases() for t in tagged)}
    named = found = coloured = right = 0
    for row, tags in zip(rows, tagged, strict=True):
        truth = {(m[1], m[2]) for m in re.finditer(r"\ban? (\w+) (\w+)", row["truth"])}
        things, colours = (
            {o.split()[-1] for o in tags.objects},
            {" ".join(a.split()[-2:]) for a in tags.attributes},
        )
        named += len(truth)
        found += sum(thing in things for _, thing in truth)
        coloured += sum(f"{colour} {thing}" in colours for colour, thing in truth)
        right += sum(o.split()[-1] in {thing for _, thing in truth} for o in tags.objects)
    shares = {
        "object recall": found / named,
        "coloured object recall": coloured / named,
        "object precision": right / max(out["objects told"], 1),
    }
    return out | {k: round(v, 3) for k, v in shares.items()}


def report(asked: argparse.Namespace, folder: Path) -> None:
    """NAME.md, NAME.svg into `folder`, from what is done."""
    from ctrlsynth.report.eval_plots import curves, figure
    from ctrlsynth.report.figures import write_figure

    experiment, name = EXPERIMENTS[asked.experiment], asked.experiment
    arms = [a for a in experiment.arms if a in asked.arms]
    evals = [asked.out / "evals" / arm / f"seed{seed}" for arm in arms for seed in asked.seeds]
    table = compare(load_runs(evals))
    folder.mkdir(parents=True, exist_ok=True)
    points = [asked.out / "curves" / arm / f"seed{seed}" for arm in arms for seed in asked.curves]
    write_figure(figure(curves(points, metrics=dict(experiment.metrics))), folder / f"{name}.svg")
    samples, seeds = asked.steps * asked.batch, ", ".join(map(str, asked.seeds))
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        f"# The honest experiment: {name}", "",
        f"Question, arms and metrics: `recipes/evidence/{experiment.recipe}`, fixed before the first run.",
        "",
        f"- command: `{command(asked)}`",
        f"- every arm: {asked.steps} steps of {asked.batch}, {samples:,} samples; seeds {seeds}, each with "
        f"its own held-out draw",
        f"- machine: {platform.machine()}, {os.cpu_count()} cores, {platform.system()}; {packages}",
        *(
            f"- the tagger on real images, seed {s}: {plainly(told(asked, s, 'tagger')['found'])}"
            for s in asked.seeds
        ), "",
        *answer(asked, experiment, arms), "",
        "All scores, with 95% intervals (t over seeds, else bootstrap):", "", table.markdown(), "",
        f"![scores against samples seen]({name}.svg)", "",
        f"Seeds of the curves: {', '.join(map(str, asked.curves))}.", "",
        *costs(asked, experiment, arms),
    ]  # fmt: skip
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print((folder / f"{name}.md").read_text(encoding="utf-8"))


def command(asked: argparse.Namespace) -> str:
    """The command as it may stand on a page: without this machine's folders."""
    vendors = " --test-drawings TWITTER_PNGS" if asked.experiment == "scenes" else ""
    size = f"--scenes {asked.scenes} --held-out {asked.held_out} --steps {asked.steps} --batch {asked.batch}"
    if len(asked.arms) < len(EXPERIMENTS[asked.experiment].arms):
        size += f" --arms {' '.join(asked.arms)}"
    if asked.seeds != [0, 1, 2]:
        size += f" --seeds {' '.join(map(str, asked.seeds))}"
    return f"python scripts/evidence.py {asked.experiment} --out OUT --drawings GOOGLE_PNGS{vendors} {size}"


def told(asked: argparse.Namespace, seed: int, step: str) -> dict[str, Any]:
    """What a step that is done has written."""
    found: dict[str, Any] = json.loads((asked.out / f"seed{seed}" / "done" / f"{step}.json").read_text())
    return found


def answer(asked: argparse.Namespace, experiment: Experiment, arms: Sequence[str]) -> list[str]:
    """The table of the metrics that were fixed: mean and 95% t interval over seeds, and the same for the
    difference to the first arm, seed by seed."""
    lines = ["| arm | " + " | ".join(f"{t} {m} | against {arms[0]}" for t, m in experiment.metrics) + " |"]
    lines.append("|---" * (1 + 2 * len(experiment.metrics)) + "|")
    for arm in arms:
        cells = []
        for task, metric in experiment.metrics:
            values, first = (
                [
                    100
                    * read_result(asked.out / "evals" / a / f"seed{s}" / f"{task}.json").scores[metric].value
                    for s in asked.seeds
                ]
                for a in (arm, arms[0])
            )
            cells.append(_spread(values))
            cells.append(
                ""
                if arm == arms[0]
                else _spread([v - f for v, f in zip(values, first, strict=True)], sign=True)
            )
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines


def plainly(value: Any) -> str:
    """What a step found, without a programmer's brackets."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{k}: {plainly(v) or 'none'}" if isinstance(v, Mapping) else f"{k} {plainly(v)}"
            for k, v in value.items()
        )
    return " + ".join(map(plainly, value)) if isinstance(value, list) else "" if value is None else str(value)


def _spread(values: Sequence[float], sign: bool = False) -> str:
    mean, half = interval_over_seeds(values)
    return (f"{mean:+.1f}" if sign else f"{mean:.1f}") + (f" ± {half:.1f}" if len(values) > 1 else "")


def costs(asked: argparse.Namespace, experiment: Experiment, arms: Sequence[str]) -> list[str]:
    """Pairs and seconds of every step, by seed."""
    steps = [
        *(f"synthesis-{p}" for p in experiment.exports),
        *(f"{what}-{arm}" for arm in arms for what in ("train", "eval")),
    ]
    lines = [
        "What it took; synthesis-P is the making of all pairs (the first) or judging them at another p_f "
        "(percent), with exports.",
        "",
    ]
    lines += [
        "| step | " + " | ".join(f"seed {s}: seconds | found" for s in asked.seeds) + " |",
        "|---" * (1 + 2 * len(asked.seeds)) + "|",
    ]
    for step in steps:
        cells = [(t["seconds"], t["found"]) for t in (told(asked, s, step) for s in asked.seeds)]
        lines.append(f"| {step} | " + " | ".join(f"{s} | {plainly(f)}" for s, f in cells) + " |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--drawings", type=Path, required=True, help="the vendor of real and held-out images")
    parser.add_argument("--test-drawings", type=Path, help="scenes: a vendor that is drawn for testing only")
    parser.add_argument("--report", type=Path, help="write table and plot here when all is done")
    parser.add_argument("--scenes", type=int, default=4000, help="real images (clipart: at most)")
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--things", type=int, default=80)
    parser.add_argument("--probe", type=int, default=200, help="images that the tagger is measured on")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--curves", type=int, nargs="*", default=[0], help="seeds whose earlier checkpoints are evaluated too"
    )
    parser.add_argument("--arms", nargs="+", help="some of the arms; all unless given")
    asked = parser.parse_args(arguments)
    known = list(EXPERIMENTS[asked.experiment].arms)
    asked.arms = asked.arms or known
    if set(asked.arms) - set(known):
        parser.error(f"--arms: choose from {', '.join(known)}")
    if asked.experiment == "scenes" and asked.test_drawings is None:
        parser.error("scenes needs --test-drawings")
    for seed in asked.seeds:
        Work(asked, seed).all()
    if asked.report is not None:
        report(asked, asked.report)


if __name__ == "__main__":
    main()
