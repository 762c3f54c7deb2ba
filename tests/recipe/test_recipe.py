"""Recipes: what is wrong in one is told in one line, with the place and the nearest right name."""

import subprocess
import sys
from pathlib import Path

import pytest

from ctrlsynth.errors import UserError
from ctrlsynth.models import registry as models
from ctrlsynth.recipe.file import load_recipe, parse_recipe
from ctrlsynth.recipe.schema import dump_recipe
from helpers import ROOT

GOOD = """name: good
source: {text: a.txt}
paths: [SP1, {mine: [text, text*, image*]}]
text_policy:
  edits: [{remove: {objects: [watermark]}}, {replace: {attributes: {red: blue}}}, {keep: [objects, attributes]}]
image_policy: {styles: {real: 3, cinematic: 1}, weights: {dog: 1.4}}
judge: {tagger: reference, matcher: lemma}
mix: capimg
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_says_what_the_design_shows(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.paths == {"SP1": ["SP1"], "mine": ["text", "text*", "image*"]}
    assert recipe.text_policy.edits[1].replace == {"attributes": {"red": "blue"}}
    assert (recipe.judge is not None and recipe.judge.matcher.image, recipe.mix.use) == ("lemma", "capimg")
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_overrides_are_yaml(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, GOOD),
        ["judge.threshold=0.5", "text_policy.edits=[{add: {objects: [hat]}}]", "models.llm=smollm2"],
    )
    assert recipe.judge is not None
    assert recipe.judge.threshold == 0.5
    assert [e.add for e in recipe.text_policy.edits] == [{"objects": ["hat"]}]
    assert recipe.models.llm == "smollm2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", r"r\.yaml:2:1: key 'name' is given twice"),
        ("name: [a\n", r"r\.yaml:\d+:\d+: "),
        ("- a\n", "a recipe is a mapping"),
        (
            "name: a\nsource: {text: x}\njudge: {treshold: 1}\n",
            r"unknown key 'judge.treshold'; did you mean 'judge.threshold'",
        ),
        ("name: a\nsuorce: {text: x}\n", "did you mean 'source'"),
        ("name: a\nsource: {text: x, folder: y}\n", "exactly one of .*given: folder, text"),
        ("name: a\nsource: {}\n", "given: none"),
        ("name: a/b\nsource: {text: x}\n", "name: String should match pattern"),
        (
            "name: a\nsource: {text: x}\njudge: {threshold: 2}\n",
            r"judge.threshold: .*less than or equal to 1 \(given: 2\)",
        ),
        (
            "name: a\nsource: {text: x}\ntext_policy: {edits: [{remove: {objects: [a]}, sample: {objects: "
            "0.5}}]}\n",
            "text_policy.edits.0: takes exactly one of",
        ),
        (
            "name: a\nsource: {text: x}\ntext_policy: {style: json}\n",
            "style json and json_schema go together",
        ),
        ("name: a\nsource: {text: x}\npaths: [SP1, SP1]\n", "path 'SP1' is given twice"),
        ("name: a\nsource: {text: x}\npaths: {p: 3}\n", r"paths\.p"),
        (
            "name: a\nsource: {text: x}\nengines: {ray: {writ: {cpus: 2}}}\n",
            "engines.ray: .*unknown stage 'writ'; did you mean 'write'",
        ),
        (
            "name: a\nsource: {text: x}\nengines: {ray: {tag.b: {cpus: 2}}}\n",
            "engines.ray: .*unknown stage 'tag.b'",
        ),
        (
            "name: a\nsource: {text: x}\ntrain: {bacth: 2}\n",
            "unknown key 'train.bacth'; did you mean 'train.batch'",
        ),
        ("name: a\nsource: {text: x}\ntrain: {data: [{pth: x}]}\n", "unknown key 'train.data.0.pth'"),
        (
            "name: a\nsource: {text: x}\ntrain: {preset: ctrlsynth-cc3}\n",
            "train.preset: unknown preset .*did you mean 'ctrlsynth-cc3m'",
        ),
        ("name: a\nsource: {text: x}\nevaluate: coco\n", "evaluate: .*list"),
        ("? [a, b]\n: c\n", "a key must be a plain word"),
        ("a: &x [*x]\n", r"r\.yaml"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_train_block_is_looked_at_without_torch_and_may_lack_what_set_gives_later(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nsource: {text: x}\ntrain: {preset: ctrlsynth-cc3m, batch: 64}\n")
    code = (
        "import sys; from pathlib import Path; from ctrlsynth.recipe.file import load_recipe; "
        "load_recipe(Path(sys.argv[1]))"
    )
    code += "; print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the recipe"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 at byte 0"):
        load_recipe(tmp_path / "r.yaml")


def test_every_field_is_described_and_the_reference_page_is_up_to_date() -> None:
    root = ROOT
    page = subprocess.run(
        [sys.executable, str(root / "scripts" / "recipe_reference.py")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (root / "docs" / "recipe.md").read_text(encoding="utf-8") == page
    assert not [line for line in page.splitlines() if line.startswith("| `") and line.endswith("|  |")]


@pytest.mark.parametrize(
    ("value", "role", "message"),
    [
        ("imagnet", "tagger", "unknown tagger model 'imagnet'; did you mean 'imagenet'"),
        ({"smollm": None}, "llm", "did you mean 'smollm2'"),
        (7, "llm", "a llm model is a name"),
        ("nowhere.to:Be", "llm", "No module named 'nowhere'"),
        ("helpers:Nobody", "llm", "module 'helpers' has no 'Nobody'"),
        (
            {"helpers:CountingLLM": "x", "bach": 3},
            "llm",
            "unknown option of helpers:CountingLLM 'bach'; did you mean 'batch'",
        ),
    ],
)
def test_unknown_models_and_options_name_the_nearest(value: object, role: models.Role, message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.load(value, role)


def test_extends_merges_blocks_and_replaces_the_rest(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "name: base\nsource: {folder: photos}\nmodels: {llm: {llama.cpp: a.gguf, seed: 1}, tagger: wordnet}\n"
        "judge: {gate: true, threshold: 0.3}\nimage_policy: {styles: {real: 2}}\n"
    )
    (tmp_path / "swap.yaml").write_text(
        "extends: base.yaml\nname: swap\nmodels: {llm: realizer}\njudge: {threshold: 0.1}\nimage_policy: "
        "{styles: {enhance: 1}}\n"
    )
    made = load_recipe(tmp_path / "swap.yaml", ["seed=3"])
    assert (made.name, made.models.llm, made.models.tagger, made.seed) == ("swap", "realizer", "wordnet", 3)
    assert made.judge is not None
    assert (made.judge.gate, made.judge.threshold) == (True, 0.1)
    assert made.image_policy.styles == {"enhance": 1.0}
    (tmp_path / "text.yaml").write_text(
        "extends: swap.yaml\nname: text\nsource: {folder: null, text: captions.txt}\njudge: null\n"
    )
    deeper = load_recipe(tmp_path / "text.yaml")
    assert (deeper.source.text, deeper.source.folder, deeper.judge) == ("captions.txt", None, None)


def test_extends_in_a_circle_or_from_nowhere_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\nname: a\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nname: b\n")
    with pytest.raises(UserError, match="extends itself"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("extends: gone.yaml\nname: c\n")
    with pytest.raises(UserError, match=r"gone\.yaml: cannot read the recipe"):
        load_recipe(tmp_path / "c.yaml")


def test_actors_of_every_kind_of_stage_can_be_named() -> None:
    from ctrlsynth.recipe.schema import Engines
    from ctrlsynth.stages.boxes import BOXES

    named: dict[str, dict[str, int]] = {name: {} for kind in BOXES for name in (kind, f"{kind}.2")}
    assert Engines.model_validate({"ray": named}).ray.keys() == named.keys()
