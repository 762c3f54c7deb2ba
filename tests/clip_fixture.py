"""Small real training data for the tests of `ctrlsynth.clip`: scenes drawn by our painter, exported by our
export."""

import json
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from ctrlsynth.api.run import run
from ctrlsynth.export.export import export
from ctrlsynth.recipe.file import parse_recipe
from helpers import write_captions

ROWS = 90


@lru_cache(maxsize=1)
def scenes() -> Path:
    """A folder with `real/` (90 painted captions as webdataset, parquet, imagefolder, csv) and `mix/` (cap
    and capimg pairs made of them)."""
    base = Path(mkdtemp(prefix="clip-scenes-"))
    write_captions(base / "captions.jsonl", ROWS)
    painted = make(
        base,
        "paint",
        source={"text": "captions.jsonl", "key_column": "key", "part_rows": 30},
        paths={"draw": ["text", "image*"]},
        mix="img",
    )
    for form in ("webdataset", "parquet", "imagefolder", "csv"):
        export(painted, base / "real" / form, format=form, max_per_shard=25)
    both = make(base, "both", source={"webdataset": "real/webdataset"}, paths=["SP1", "SP3"], mix="mix")
    export(both, base / "mix", max_per_shard=40)
    return base


def make(base: Path, name: str, *, source: dict[str, Any], paths: Any, mix: str) -> Any:
    """A finished run with the embedded models, images of 80 pixels, nothing judged."""
    recipe = {
        "name": name,
        "source": source,
        "models": {"tagger": "wordnet", "llm": "realizer", "text_to_image": "scenes"},
        "paths": paths,
        "image_policy": {"size": 80},
        "judge": None,
        "mix": mix,
    }
    return run(parse_recipe(recipe), base / "runs" / name, base=base)


def folder(form: str = "webdataset") -> Path:
    """The 90 painted captions in one form."""
    return scenes() / "real" / form


MICRO: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
"""A CLIP that trains in milliseconds a step."""


@lru_cache(maxsize=1)
def micro() -> Path:
    """The JSON file of `MICRO`."""
    path = scenes() / "micro.json"
    path.write_text(json.dumps(MICRO))
    return path
