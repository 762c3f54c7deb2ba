"""Evaluation beside clip_benchmark: the same checkpoint, images, texts, threads and batch; zero-shot
classification and retrieval.

    python benchmarks/evaluate.py --peer PYTHON [--images 10000] [--threads 2] [--workers 2]

PYTHON is an interpreter with clip_benchmark 1.6.2, requests, its torch and open_clip (numpy below 2.4). It
runs without automatic mixed precision, which changes its scores. Neither side's imports and loading of the
model are timed. `rest` is everything but the two towers: reading, decoding, metrics, intervals. Goals: our
rest below 10% of our time, our total at most the peer's, the same scores."""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import harness

NAMES = ["dog", "cat", "car", "tree", "bird", "boat", "chair", "house", "apple", "horse"]
COLOURS = ["red", "blue", "green", "yellow", "purple"]
SCORES = {
    "classes": {"acc1": "acc1", "acc5": "acc5", "mean_per_class_recall": "mean_per_class_recall"},
    "walls": {
        f"{ours}_recall@{k}": f"{theirs}_retrieval_recall@{k}"
        for k in (1, 5, 10)
        for ours, theirs in (("t2i", "image"), ("i2t", "text"))
    },
}  # fmt: skip
"""Our score -> the peer's name for it."""
PEER = """
import json, sys, time
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
try:
    import torchvision
except RuntimeError:
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
asked = json.loads(sys.argv[1])
torch.set_num_threads(asked["threads"])
import open_clip
from clip_benchmark.datasets.builder import build_dataset, image_captions_collate_fn
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
name = "local-dir:" + asked["model"]
model, _, transform = open_clip.create_model_and_transforms(name)
model.eval()
tokenizer = open_clip.get_tokenizer(name)
spent = [0.0]
def timed(function):
    def call(*a, **k):
        started = time.perf_counter()
        try:
            return function(*a, **k)
        finally:
            spent[0] += time.perf_counter() - started
    return call
model.encode_image, model.encode_text = timed(model.encode_image), timed(model.encode_text)
out = {}
for task in ("classes", "walls"):
    spent[0], started = 0.0, time.perf_counter()
    kind = {"classes": "zeroshot_classification", "walls": "zeroshot_retrieval"}[task]
    root = asked["data"] + "/" + task
    data = build_dataset(
        "wds/" + task, root=root, transform=transform, split="test", download=False, task=kind
    )
    if task == "walls":
        data = data.batched(64, collation_fn=image_captions_collate_fn)
        loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=asked["workers"])
        options = {"amp": False, "recall_k_list": [1, 5, 10]}
        scores = zeroshot_retrieval.evaluate(model, loader, tokenizer, "cpu", **options)
    else:
        loader = torch.utils.data.DataLoader(data.batched(64), batch_size=None, num_workers=asked["workers"])
        names = (data.classes, data.templates)
        scores = zeroshot_classification.evaluate(model, loader, tokenizer, *names, "cpu", amp=False)
    whole = time.perf_counter() - started
    out[task] = {"encode": spent[0], "rest": whole - spent[0], "scores": scores}
print("RESULT " + json.dumps(out))
"""


def write_data(folder: Path, images: int) -> None:
    """`classes` and `walls`, the same images: scenes with noise of their own, so that no two are alike, in
    four tars each."""
    from ctrlsynth.models.base import Prompt
    from ctrlsynth.models.embedded.scenes.painter import Scenes

    rng, noise = random.Random(0), np.random.default_rng(0)
    texts = [
        f"a {c} {n} and a {d} {m}"
        for n in NAMES
        for c in COLOURS
        for m in NAMES
        for d in COLOURS
        if n != m and c != d
    ]
    texts = rng.sample(texts, min(300, images))
    drawn = [
        np.asarray(p.image.resize((64, 64)))
        for p in Scenes().generate([Prompt(t, seed=n) for n, t in enumerate(texts)])
        if p.image
    ]
    shards = 4
    for name in ("classes", "walls"):
        (folder / name / "test").mkdir(parents=True)
        (folder / name / "test" / "nshards.txt").write_text(f"{shards}\n")
    (folder / "walls" / "dataset_type.txt").write_text("retrieval\n")
    (folder / "classes" / "classnames.txt").write_text("".join(f"{n}\n" for n in NAMES))
    (folder / "classes" / "zeroshot_classification_templates.txt").write_text(
        "a photo of a {c}.\na drawing of a {c}.\n"
    )
    for shard in range(shards):
        with (
            tarfile.open(folder / "classes/test" / f"{shard}.tar", "w") as a,
            tarfile.open(folder / "walls/test" / f"{shard}.tar", "w") as b,
        ):
            for n in range(shard * images // shards, (shard + 1) * images // shards):
                picture = drawn[n % len(drawn)].astype(np.int16) + noise.integers(
                    -24, 25, (64, 64, 3), dtype=np.int16
                )
                out = io.BytesIO()
                Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
                text = texts[n % len(texts)]
                for tar, ending, extra in (
                    (a, "cls", str(NAMES.index(text.split()[2]))),
                    (b, "txt", f"{text}, number {n}\n{n} shows {text}"),
                ):
                    for end, data in (("jpg", out.getvalue()), (ending, extra.encode())):
                        info = tarfile.TarInfo(f"{n:06d}.{end}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))


def write_model(folder: Path) -> None:
    """A `tiny` model with random weights."""
    from ctrlsynth.models.open_clip.load import build, save_folder

    built = build("tiny")
    folder.mkdir()
    save_folder(folder, built.module, built.config)


def ours(model: Path, data: Path, out: Path) -> dict[str, Any]:
    """{task: encode, rest, scores}."""
    from ctrlsynth.evaluate.run import evaluate_all
    from ctrlsynth.models.open_clip.load import load_model

    results = evaluate_all(load_model(model), data, out)
    return {r.task: {**r.seconds, "scores": {name: s.value for name, s in r.scores.items()}} for r in results}


def main() -> None:
    """See the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument(
        "--peer", help="an interpreter with clip_benchmark; without it only our own shares are shown"
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--workers", type=int, default=2, help="the peer's loader processes (we decode in two threads)"
    )
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    import torch

    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_data(folder / "data", asked.images)
        write_model(folder / "model")
        found = {"ours": ours(folder / "model", folder / "data", folder / "out")}
        if asked.peer:
            how = {
                "model": str(folder / "model"),
                "data": str(folder / "data"),
                "threads": asked.threads,
                "workers": asked.workers,
            }
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            done = subprocess.run(
                [asked.peer, "-c", PEER, json.dumps(how)],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            if done.returncode:
                sys.exit(f"{asked.peer}: the peer failed, see above")
            found["clip_benchmark"] = json.loads(done.stdout.rpartition("RESULT ")[2])
    show(found, asked)


def show(found: dict[str, Any], asked: argparse.Namespace) -> None:
    """Seconds, shares, ratio, and the largest difference of a score."""
    print(f"{asked.images:,} images of 64 pixels, {asked.threads} threads")
    for task, names in SCORES.items():
        totals = {}
        for who, results in found.items():
            seconds = results[task]
            totals[who] = seconds["encode"] + seconds["rest"]
            share = 100 * seconds["rest"] / totals[who]
            print(
                f"{task:8} {who:15} {totals[who]:8.2f} s, encoding {seconds['encode']:8.2f} s, the rest "
                f"{share:5.1f}%"
            )
        if len(found) > 1:
            mine, theirs = found["ours"][task]["scores"], found["clip_benchmark"][task]["scores"]
            apart = {name: abs(mine[name] - theirs[other]) for name, other in names.items()}
            worst = max(apart, key=lambda n: apart[n])
            ratio = totals["clip_benchmark"] / totals["ours"]
            print(
                f"{task:8} the peer's time / ours {ratio:.2f}; scores differ by {apart[worst]:.1e} at most "
                f"({worst})"
            )


if __name__ == "__main__":
    main()
