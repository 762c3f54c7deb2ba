"""CLIP training: losses and gradients against open_clip's, a hundred steps against a plain loop, resume,
kill, two processes, bad input."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from open_clip_train.scheduler import cosine_lr
from safetensors.numpy import load_file
from test_clip_data import jpeg, tar
from torch.nn import functional as F

from clip_fixture import ROWS, folder, micro
from ctrlsynth.clip import checkpoint
from ctrlsynth.clip.data.loader import Batches, loader, open_sources, schedule_of
from ctrlsynth.clip.loss import LOSSES, Forward, step_gradients
from ctrlsynth.clip.optim import learning_rate, make_optimizer, total_steps, warmup_steps
from ctrlsynth.clip.train import _differing, train
from ctrlsynth.errors import WorkFailed
from ctrlsynth.models.open_clip.encode import Normalise
from ctrlsynth.models.open_clip.load import WEIGHTS, build, import_open_clip, load_folder, load_model
from ctrlsynth.recipe.file import resolve
from ctrlsynth.recipe.train import TrainBlock
from eval_sets import write_files
from helpers import TESTS, assert_refused, ctrlsynth

open_clip = import_open_clip()
PYTHONPATH = f"{TESTS.parent / 'src'}:{TESTS}:{TESTS / 'clip'}"


def block(**changes: Any) -> TrainBlock:
    """A run of a few steps on the painted scenes with the micro model."""
    given: dict[str, Any] = {
        "data": [str(folder())],
        "batch": 15,
        "epochs": 2,
        "workers": 0,
        "precision": "float32",
        "lr": 3e-3,
        "log_every": 1,
    }
    model = {} if "init" in changes else {"model": str(micro())}
    return resolve({**given, **model, **changes})


def recipe_file(path: Path, **changes: Any) -> Path:
    """A recipe file with the block of `changes`."""
    given = block(**changes).model_dump(mode="json", exclude_none=True)
    return write_files(path.parent, {path.name: {"name": "t", "train": given}}) / path.name


def run(out: Path, **changes: Any) -> Any:
    return train(block(**changes), out, base=Path())


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log(out)]


def weights(out: Path) -> dict[str, Any]:
    return dict(load_file(out / "model" / WEIGHTS))


def same(one: dict[str, Any], two: dict[str, Any], tolerance: float = 0.0) -> bool:
    return one.keys() == two.keys() and all(np.allclose(one[k], two[k], atol=tolerance, rtol=0) for k in one)


def batches_of(given: TrainBlock, *, steps: int, rank: int = 0, world: int = 1) -> Batches:
    shards = open_sources(given.data, Path())
    schedule = schedule_of(shards, given, world)
    return Batches(shards, schedule, build(str(micro())), given, steps=steps, rank=rank)


# The loader


def rows(stream: Any) -> list[tuple[bytes, bytes]]:
    return [(b.images.numpy().tobytes(), b.ids.numpy().tobytes()) for b in stream]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_the_same_with_any_number_of_workers_and_from_any_step() -> None:
    """Three workers read one shard as well: rows are shared out, not shards."""
    given = block(data=[str(sorted(folder().glob("*.tar"))[0])], batch=5)
    batches = batches_of(given, steps=10)
    wanted = rows(loader(batches, 0, workers=0))
    assert len(wanted) == len(set(wanted)) == 10
    assert rows(loader(batches, 0, workers=3)) == wanted
    assert rows(loader(batches, 7, workers=2)) == wanted[7:]
    given = given.model_copy(update={"batch": 6})
    first, second = (
        rows(loader(batches_of(given, steps=4, rank=r, world=2), 0, workers=r)) for r in range(2)
    )
    whole = rows(loader(batches_of(given, steps=4), 0, workers=0))
    assert [one[0] + other[0] for one, other in zip(first, second, strict=True)] == [w[0] for w in whole]


def test_one_caption_is_drawn_a_step(tmp_path: Path) -> None:
    facts = json.dumps({"more": ["second one", "the third"]}).encode()
    tar(tmp_path / "a.tar", [{"jpg": jpeg(n), "txt": f"first {n}".encode(), "json": facts} for n in range(8)])
    given = block(data=[{"path": str(tmp_path / "a.tar"), "captions": ["text", "more"]}], batch=8)
    batches = batches_of(given, steps=20)
    drawn, again = (
        [batches.view(*row)[1] for step in range(20) for row in batches.schedule.rows(step, 0, 0)]
        for _ in range(2)
    )
    assert drawn == again
    counts = Counter("first" if text.startswith("first") else text for text in drawn)
    assert counts.keys() == {"first", "second one", "the third"}
    assert min(counts.values()) > 30


def test_captions_of_ordinary_length_are_not_padded_to_77() -> None:
    batch = batches_of(block(), steps=1)[0]
    shapes = (batch.ids.shape, batch.images.shape, batch.images.dtype)
    assert shapes == ((15, 16), (15, 32, 32, 3), torch.uint8)


# Losses


def with_gradients(loss: Callable[..., Any]) -> list[Any]:
    """The loss of twelve rows of features, and its gradients with respect to them and to the scale."""
    generator = torch.Generator().manual_seed(0)
    features = [F.normalize(torch.randn(12, 8, generator=generator), dim=-1) for _ in range(2)]
    images, texts, scale = (t.requires_grad_() for t in (*features, torch.tensor(9.0)))
    value = loss(images, texts, scale, torch.tensor(-3.0))
    value.backward()
    return [value.detach(), images.grad, texts.grad, scale.grad]


@pytest.mark.parametrize(
    ("name", "theirs"), [("softmax", open_clip.ClipLoss()), ("sigmoid", open_clip.loss.SigLipLoss())]
)
def test_losses_are_open_clips(name: str, theirs: Any) -> None:
    ours, close = LOSSES[name], partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    close(with_gradients(ours), with_gradients(theirs))
    valid = torch.arange(12) % 4 != 1  # the others count as if they were not there
    masked = with_gradients(lambda *given: ours(*given, valid))
    close(masked, with_gradients(lambda i, t, *rest: ours(i[valid], t[valid], *rest)))
    nothing = with_gradients(lambda *given: ours(*given, torch.zeros(12, dtype=torch.bool)))
    assert not any(tensor.any() for tensor in nothing), "a batch of corrupt images"


def gradients(
    pieces: int, loss: str = "softmax", micro_: bool = False, corrupt: bool = False
) -> tuple[float, dict[str, Any]]:
    given = block(batch=30, accumulate=pieces)
    module = build(str(micro()), sigmoid=loss == "sigmoid", seed=4).module
    batches = batches_of(given, steps=1)
    parts = [(b.images, b.ids, b.valid) for b in (batches[n] for n in range(pieces))]
    if corrupt:
        parts[0][2][:4] = False
    value, valid = step_gradients(
        Forward(module, Normalise(given.mean, given.std, torch.device("cpu")), "float32"),
        parts,
        loss,
        micro=micro_,
    )
    assert int(valid) == (26 if corrupt else 30)
    return float(value), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("loss", "corrupt"), [("softmax", False), ("sigmoid", False), ("softmax", True)])
def test_micro_batches_have_the_gradients_of_the_whole_batch(loss: str, corrupt: bool) -> None:
    value, whole = gradients(1, loss, corrupt=corrupt)
    for pieces in (3, 5):
        other, accumulated = gradients(pieces, loss, corrupt=corrupt)
        assert other == pytest.approx(value, rel=1e-6)
        torch.testing.assert_close(accumulated, whole, rtol=1e-5, atol=2e-6)
    alone, _ = gradients(3, loss, micro_=True, corrupt=corrupt)
    assert alone < value  # fewer negatives


def test_the_schedule_is_open_clips_and_slips() -> None:
    theirs = cosine_lr(SimpleNamespace(param_groups=[{}]), 2e-3, 10, 100)
    slip = np.concatenate(
        [np.linspace(1e-6, 5e-4, 10), 1e-5 + 0.5 * (5e-4 - 1e-5) * (1 + np.cos(np.pi * np.arange(90) / 90))]
    )
    for given, wanted in (
        (block(lr=2e-3), list(map(theirs, range(100)))),
        (block(lr=5e-4, min_lr=1e-5, warmup_lr=1e-6), slip),
    ):
        assert [learning_rate(given, s, 100, 10) for s in range(100)] == pytest.approx(wanted)
    schedule = schedule_of(open_sources(given.data, Path()), given)
    assert schedule.steps_an_epoch == 6
    lengths: list[dict[str, Any]] = [
        {},
        {"epochs": None, "equal_samples": {"epochs": 4, "rows": 45}},
        {"epochs": None, "equal_samples": {"epochs": 1, "data": str(folder("csv"))}},
    ]
    assert [total_steps(block(**length), schedule, Path()) for length in lengths] == [12, 12, 6]
    warmups: list[dict[str, Any]] = [{"warmup": 0.25}, {"warmup": 5}, {"warmup_epochs": 1}]
    assert [warmup_steps(block(**w), 12, 6) for w in warmups] == [3, 5, 6]


def decay(name: str, parameter: Any, full: float) -> float:
    """The weight decay of a parameter by open_clip's rule: `full` or none."""
    bare = any(word in name for word in ("bn", "ln", "bias", "logit_scale"))
    return 0.0 if parameter.ndim < 2 or bare else full


def plain_loss(module: Any, batch: Any, given: TrainBlock) -> Any:
    """open_clip's loss of one batch, with tokens padded to 77."""
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (given.mean, given.std))
    images = (batch.images.permute(0, 3, 1, 2).float() / 255 - mean) / deviation
    ids = torch.nn.functional.pad(batch.ids, (0, 77 - batch.ids.shape[1]))
    seen, read = (
        encode(x, normalize=True) for encode, x in ((module.encode_image, images), (module.encode_text, ids))
    )
    return open_clip.ClipLoss()(seen, read, module.logit_scale.exp())


def test_a_hundred_steps_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """open_clip's model, loss, schedule and grouping, torch's plain AdamW, tokens padded to 77: the same
    losses to four digits."""
    changes: dict[str, Any] = {"steps": 100, "epochs": None, "lr": 1e-3, "batch": 15}
    run(tmp_path, **changes)
    ours, given = losses(tmp_path), block(**changes)
    module, batches = build(str(micro()), seed=given.seed).module, batches_of(given, steps=100)
    module.train()
    groups = [{"params": [p], "weight_decay": decay(n, p, 0.2)} for n, p in module.named_parameters()]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    rate = cosine_lr(optimizer, 1e-3, 5, 100)
    theirs = []
    for step in range(100):
        rate(step)
        optimizer.zero_grad()
        value = plain_loss(module, batches[step], given)
        value.backward()
        optimizer.step()
        with torch.no_grad():
            module.logit_scale.clamp_(0, math.log(100))
        theirs.append(float(value.detach()))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert np.mean(ours[-5:]) < np.mean(ours[:5]) - 0.3  # and it learns


# Whole runs


@lru_cache(maxsize=1)
def whole() -> Path:
    """An uninterrupted run of twelve steps."""
    out = folder().parent / "whole"
    made = run(out, save_every=5)
    assert (made.steps, made.samples, made.skipped) == (12, 180, 0)
    return out


def test_a_run_leaves_what_it_says() -> None:
    out = whole()
    lines = log(out)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["epoch"] == 2.0
    assert {"loss", "lr", "logit_scale", "pairs_per_s", "data_wait", "skipped", "samples"} <= lines[0].keys()
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-00000010", "step-00000012"]
    assert list((out / "tensorboard").iterdir())
    facts = json.loads((out / "model/train.json").read_text())
    assert (facts["step"], facts["rows"], facts["block"]["lr"]) == (12, [ROWS], 3e-3)
    text = ["a red dog on a blue ball"]
    other = open_clip.create_model(f"local-dir:{out / 'model'}").eval()
    theirs = other.encode_text(open_clip.get_tokenizer("ViT-B-32")(text)).detach().numpy()
    assert np.allclose(load_model(out).encode_text(text).numpy(), theirs, atol=1e-5)


def test_killed_in_the_middle_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """kill -9 between two checkpoints of another process; the same command continues from the last one.

    Both processes get the same number of threads, because torch splits its sums by it and weights would
    differ in the last bit (by 1e-8). The tolerance is for libraries that choose a kernel at run time; a step
    that is left out or taken twice moves weights by 1e-3."""
    wanted, out = whole(), tmp_path / "out"
    recipe = recipe_file(tmp_path / "r.yaml", save_every=5)
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    code = (
        "import time, ctrlsynth.clip.train as t; step = t._Run._step\n"
        "def slow(self, *a):\n    r = step(self, *a); time.sleep(3600 if a[0] == 8 else 0); return r\n"
        "t._Run._step = slow; import sys; sys.argv = ['x', 'train', *sys.argv[1:]]; from "
        "ctrlsynth.cli.main import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(recipe), "--out", str(out), "--json"], env=env
    )
    while process.poll() is None and not ((out / "log.jsonl").exists() and len(log(out)) >= 7):
        time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "model").exists()
    assert checkpoint.newest(out) == out / "checkpoints/step-00000005"
    assert run(out, save_every=5, workers=1).steps == 12
    assert same(weights(out), weights(wanted), 1e-6)
    one, other = (
        np.array([[line[key] for key in ("step", "samples", "lr", "loss")] for line in log(folder)])
        for folder in (out, wanted)
    )
    assert one == pytest.approx(other, rel=1e-6)


def test_two_processes_are_one(tmp_path: Path) -> None:
    """torchrun with two CPU processes and gathered features, whole batches and micro-batches: losses and
    weights of one process."""
    common = {"batch": 18, "steps": 6, "epochs": None}
    recipes = [recipe_file(tmp_path / f"two{n}.yaml", **common, accumulate=n) for n in (1, 3)]
    calls = [["ctrlsynth", "train", str(r), "--out", str(r.with_suffix("")), "--json"] for r in recipes]
    (tmp_path / "go.py").write_text(
        "import sys, torch.distributed as dist\nfrom ctrlsynth.cli.main import app\n"
        f"dist.init_process_group('gloo')\nfor call in {calls}:\n    sys.argv = call\n"
        "    app(standalone_mode=False)\ndist.destroy_process_group()\n"
    )
    torchrun = f"-m torch.distributed.run --nproc-per-node 2 --master-port {29600 + os.getpid() % 1000}"
    done = subprocess.run(
        [sys.executable, *torchrun.split(), str(tmp_path / "go.py")],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[:4000]
    assert done.stdout.count('"steps": 6') == 2  # only the first process reports
    run(tmp_path / "one", **common)
    for name in ("two1", "two3"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), rel=2e-5)
        assert same(weights(tmp_path / name), weights(tmp_path / "one"), 2e-4)


def test_corrupt_images_are_counted_skips(tmp_path: Path) -> None:
    samples = [{"jpg": jpeg(n) if n % 5 else b"no image", "txt": f"text {n}".encode()} for n in range(20)]
    tar(tmp_path / "a.tar", samples)
    made = run(tmp_path / "out", data=[str(tmp_path / "a.tar")], batch=10, epochs=3)
    assert made.skipped == 3 * 4
    faults = [tuple(f) for line in log(tmp_path / "out") for f in line.get("faults", [])]
    assert sorted(set(faults)) == [(f"a:{n}", "not_an_image") for n in (0, 10, 15, 5)]
    tar(tmp_path / "b.tar", [{"jpg": b"nothing", "txt": b"x"}] * 4)
    with pytest.raises(WorkFailed, match=r"no row of the last steps could be used; first: b:\d not_an_image"):
        run(tmp_path / "none", data=[str(tmp_path / "b.tar")], batch=2)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        WorkFailed, match=r"the loss is nan at step \d+; lower train.lr.*no checkpoint"
    ) as caught:
        run(tmp_path, lr=1e30, warmup=0)
    assert "\n" not in str(caught.value)
    assert checkpoint.newest(tmp_path) is None


def test_appendix_e_is_one_step_with_the_negatives_of_each_micro_batch(tmp_path: Path) -> None:
    """The preset with 90 pairs in six micro-batches, against a plain loop of open_clip's loss and torch's
    AdamW."""
    changes: dict[str, Any] = {
        "preset": "synthclip-appendix-e",
        "init": str(whole()),
        "epochs": None,
        "batch": 90,
        "accumulate": 6,
        "lr": 1e-3,
    }
    made, given = run(tmp_path, **changes), block(**changes)
    assert (made.steps, made.samples, made.skipped) == (1, 90, 0)
    batches, module = batches_of(given, steps=1), load_folder(whole()).module.train()
    micro_batches = [batches[n] for n in range(6)]
    assert [len(micro_batch.ids) for micro_batch in micro_batches] == [15] * 6
    value = sum(plain_loss(module, micro_batch, given) for micro_batch in micro_batches) / 6
    value.backward()
    assert made.loss == pytest.approx(float(value.detach()), rel=1e-5)
    before, after = weights(whole()), weights(tmp_path)
    settled = 0
    for name, parameter in module.named_parameters():
        gradient = np.zeros_like(before[name]) if parameter.grad is None else parameter.grad.numpy()
        step = gradient / (np.abs(gradient) + given.eps)  # Adam's first step
        wanted = before[name] * (1 - 1e-3 * decay(name, parameter, 0.5)) - 1e-3 * step
        sure = np.abs(gradient) > 1e-5  # smaller ones are rounding errors, which Adam divides by themselves
        settled += int(sure.sum())
        assert np.allclose(after[name][sure], wanted[sure], atol=2e-5), name
    assert settled > 10_000


@pytest.mark.parametrize(
    "change",
    [{"precision": "bf16"}, {"precision": "fp16"}, {"loss": "sigmoid"}, {"grad_clip": 0.5, "accumulate": 3}],
)
def test_other_ways_to_train_learn_too(tmp_path: Path, change: dict[str, Any]) -> None:
    run(tmp_path, steps=24, epochs=None, flip=True, **change)
    found = losses(tmp_path)
    assert np.mean(found[-6:]) < np.mean(found[:3])


def test_finetuning_starts_from_the_given_weights(tmp_path: Path) -> None:
    run(tmp_path / "still", init=str(whole()), steps=1, epochs=None, lr=1e-12)
    assert same(weights(tmp_path / "still"), weights(whole()), 1e-6)
    changes: dict[str, Any] = {"preset": "synthclip-finetune", "epochs": 1, "mean": (0.4, 0.5, 0.6)}
    run(tmp_path / "on", init=str(whole()), **changes)
    assert not same(weights(tmp_path / "on"), weights(whole()), 1e-6)
    assert load_folder(tmp_path / "on").config["preprocess_cfg"]["mean"] == [0.4, 0.5, 0.6]
    assert_refused(lambda: run(tmp_path / "bias", init=str(whole()), loss="sigmoid"), "without a logit bias")


def test_decontaminated_pairs_are_not_trained_on(tmp_path: Path) -> None:
    first = sorted(folder().glob("*.tar"))[0]
    made = run(
        tmp_path,
        decontaminate={"against": [str(first)], "images": "sha256", "captions": False},
        batch=5,
        epochs=1,
    )
    assert made.data == {
        "decontaminated": {"pairs": 25, "sha256": 25},
        "rows": [ROWS - 25],
        "left_out": {"decontaminated": 25},
    }


def test_another_recipe_does_not_resume(tmp_path: Path) -> None:
    out = whole()
    before = weights(out)
    for change, words in (
        ({"lr": 1e-4}, "was started with train.lr 0.003, the recipe says 0.0001; name another --out"),
        ({"data": [str(folder("csv"))]}, "was started with train.data"),
    ):
        assert_refused(partial(run, out, save_every=5, **change), re.escape(words))
    assert run(out, save_every=3, workers=1).steps == 12
    assert same(before, weights(out))
    write_files(tmp_path / "mine", {"thesis.txt": "x"})
    assert_refused(lambda: run(tmp_path / "mine"), "is not a training run")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "nosuch"}, "train.model: unknown model 'nosuch'"),
        ({"batch": 91}, "91 pairs a step, but the data has 90"),
        ({"batch": 16, "accumulate": 3}, "do not divide by 1 processes x 3 micro-batches"),
        ({"data": ["nowhere/*.tar"]}, "train.data: nothing at"),
        ({"init": "nowhere"}, "train.init: nowhere is not a folder"),
    ],
)
def test_a_run_with_wrong_input_can_be_corrected(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    assert_refused(lambda: run(tmp_path / "out", **change), re.escape(words))
    # of a run that was killed while it wrote
    write_files(tmp_path / "out", {".tmp-train.json~host~7~0": "{"})
    assert run(tmp_path / "out", steps=1, epochs=None).steps == 1


def test_settings_that_differ_are_shown_at_a_readable_length() -> None:
    was, now = _differing(
        repr([f"exports/{n}" for n in range(50)]), repr([f"exports/{n}" for n in range(49)])
    )
    assert was != now
    assert len(was) < 90
    assert _differing("0.1", "0.2") == ["0.1", "0.2"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    other = build("tiny").module
    state = checkpoint.State(other, {}, make_optimizer(other, block()), None)
    newest = whole() / "checkpoints/step-00000012"
    assert_refused(lambda: checkpoint.load(newest, state, "cpu"), "not a checkpoint of this model")


def test_the_command_line(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path / "r.yaml", steps=2, epochs=None)
    call = partial(ctrlsynth, "train", recipe, "--out", tmp_path / "out")
    code, printed, _ = call("--json")
    assert (code, json.loads(printed)["steps"]) == (0, 2)
    assert "2 steps, 30 samples of 90 pairs" in call()[1]
    assert "holds a run already" in call("--no-resume")[2]
    assert "did you mean 'train.lr'" in call("--set=train.lrr=1")[2]
