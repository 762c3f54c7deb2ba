"""What tests of many files share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# The suite runs in one process a core: two threads in each would wait for one another, and sums would depend
# on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


SLOW = set(
    """
    benchmarks/test_control_benchmark benchmarks/test_scripts cli/test_bad_input cli/test_concepts_cli
    cli/test_unwritable clip/test_clip_data clip/test_clip_train clip/test_known_sets concepts/test_balance
    concepts/test_bank evaluate/test_evaluate evaluate/test_evaluate_metrics evaluate/test_evaluate_real evaluate/test_fashion_lt
    evaluate/test_long_tail house/test_evidence house/test_readme
    models/test_classifiers models/test_composite models/test_conformance models/test_device models/test_diffusers
    models/test_diffusers_run models/test_hf models/test_image_server models/test_image_to_text
    models/test_llama_cpp models/test_llm_plan models/test_llm_transformers models/test_llm_vllm
    models/test_nsfw models/test_open_clip models/test_quantized models/test_server models/test_server_llama
    models/embedded/test_scenes
    models/embedded/test_weights recipe/test_evaluation_recipes
    recipe/test_production_recipes recipe/test_synthclip_recipes report/test_report runs/test_disk
    runs/test_faults runs/test_finished_run runs/test_kill runs/test_ray stages/test_balance_path
    storage/test_location
    """.split()
)
"""Files that load torch, a server, a cluster or a browser, or that run for long: `make quick` leaves them
out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--quick` leaves out the files of SLOW without importing them."""
    parser.addoption("--quick", action="store_true", help="leave out the slow files (tests/conftest.py)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """None lets pytest decide."""
    name = collection_path.with_suffix("").as_posix().partition("/tests/")[2]
    return True if config.getoption("--quick") and name in SLOW else None


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file in which a model of `helpers.counting` notes its requests."""
    return tmp_path / "log"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny("sdxl")`: the folder of a tiny real checkpoint (tiny_models.py, tiny_vision.py), made when first
    asked for. Tests only read it."""
    from ctrlsynth.models.device import make_torchvision_importable

    make_torchvision_importable()
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            from tiny_models import BUILDERS
            from tiny_vision import VISION_BUILDERS

            made[name] = (BUILDERS | VISION_BUILDERS)[name](tmp_path_factory.mktemp("tiny") / name)
        return made[name]

    return folder
