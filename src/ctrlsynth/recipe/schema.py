"""A recipe (one YAML file that says what is made from what) as frozen pydantic models. Unknown keys are
errors, and every field is described.

Nothing here loads a model or opens a data file; names are checked by the modules that use them (`paths`,
`models`, `control`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from ..errors import unknown
from ..sample import Kind
from .block import Block, Positive
from .code import is_code
from .paths import Kind as StageKind

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Spec = str | dict[str, Any]
Patterns = list[str]
"""Selectors of tags: an exact phrase (`red`), a glob (`*mark`), a regular expression (`re:^blu`), a WordNet
class (`animal.n.01`)."""


SOURCES = ("folder", "webdataset", "parquet", "hf", "text", "concepts", "long_tail", "custom")


class LongTail(Block):
    """The classes of a long-tailed split that lack images (section 4.3, A.2): head over 100 images, medium
    20..100, tail under 20."""

    split: Path = Field(description="lines `path label`, as ImageNet-LT and Places-LT publish them")
    images: Path = Field(description="the folder that the paths start from")
    classnames: Path = Field(description="the classes' names, one per line; they are the captions")
    groups: list[Literal["head", "medium", "tail"]] = Field(["tail"], description="which classes")
    per: Literal["class", "image"] = Field("image", description="what the multiplier counts")
    multiplier: int = Field(7, ge=1, description="rows for each image, or for each class")


class Source(Block):
    """Where the pairs come from (1a, 1b): exactly one of the first eight.

    A source of your own is named like a model of your own, `{my_module:MySource: options}`, which is short
    for `custom: {my_module:MySource: options}`; see `data.sources`."""

    one_of = SOURCES
    folder: Path | None = Field(None, description="a folder of images, searched in depth")
    webdataset: str | list[str] | None = Field(
        None, description="tar files: a path, a glob, a brace range, or a list of them"
    )
    parquet: str | list[str] | None = Field(
        None, description="parquet files with image bytes, structs or paths"
    )
    hf: Path | None = Field(None, description="a Hugging Face data set saved with save_to_disk")
    text: str | list[str] | None = Field(None, description="captions only: txt, csv, tsv, jsonl (also .gz)")
    concepts: Path | None = Field(
        None,
        description="a concept bank as `ctrlsynth concepts build` writes it, or a list, one per line "
        "(SynthCLIP's route)",
    )
    long_tail: LongTail | None = Field(
        None, description="the classes of a long-tailed split that lack images"
    )
    custom: dict[str, Any] | None = Field(
        None, description="a source of your own, {package.module:Class: options}"
    )
    captions: Path | None = Field(
        None,
        description="folder only: csv, tsv or jsonl with file names and captions; without it .txt beside "
        "the image",
    )
    image_column: str | None = Field(
        None, description="column of the image or its file name; found by its usual names unless given"
    )
    caption_column: str | None = Field(
        None, description="column of the caption; found by its usual names unless given"
    )
    key_column: str | None = Field(None, description="column whose value becomes the key of the row")
    part_rows: int = Field(1000, gt=0, description="rows per part if the source has no shards of its own")
    licence: str | None = Field(None, description="the licence of this data, for the data card")

    @model_validator(mode="before")
    @classmethod
    def _own(cls, data: Any) -> Any:
        named = {k: v for k, v in data.items() if is_code(k)} if isinstance(data, Mapping) else {}
        return {**{k: v for k, v in data.items() if k not in named}, "custom": named} if named else data

    @model_validator(mode="after")
    def _one(self) -> Source:
        if self.custom is not None and (len(self.custom) != 1 or not is_code(next(iter(self.custom)))):
            raise ValueError("source.custom names one class, as {package.module:Class: options}")
        if self.captions is not None and self.folder is None:
            raise ValueError("source.captions goes with source.folder only")
        return self


class Models(Block):
    """Which models do the work. Each is a name, `backend:model`, a mapping with options, or
    `package.module:Class`."""

    tagger: Spec = Field(default_factory=lambda: {"hybrid": ["imagenet", "wordnet"]}, description="2a")
    llm: Spec = Field("realizer", description="2b")
    text_to_image: Spec = Field("scenes", description="2c")


class Edit(Block):
    """One edit of the tags: exactly one of the keys. Selectors: see `Patterns`."""

    one_of = ("remove", "add", "replace", "keep", "sample", "swap", "call")
    remove: dict[Kind, Patterns] | None = Field(
        None, description="drop the phrases that match, and what depends on a removed object"
    )
    add: dict[Kind, list[str]] | None = Field(None, description="add these phrases")
    replace: dict[Kind, dict[str, str]] | None = Field(
        None, description="selector -> phrase, or class -> class (a member is drawn)"
    )
    keep: list[Kind] | dict[Kind, Patterns] | None = Field(
        None, description="keep only these kinds (the paper's Obj, Obj+Attr, ...), or these phrases"
    )
    sample: dict[Kind, Share] | None = Field(
        None, description="keep this share of the phrases, drawn by the row's id"
    )
    swap: Literal["attributes", "relations"] | None = Field(
        None, description="exchange the attributes of two objects, or the ends of a relation"
    )
    call: str | None = Field(
        None, description="package.module:function, called as function(tags, rng) -> Tags"
    )


class TextPolicy(Block):
    """3a: what the text controller does with tags and captions before the LLM sees them."""

    edits: list[Edit] = Field(default_factory=list, description="applied in order")
    templates: Literal["all"] | list[str] = Field(
        "all", description="all of the path's family, or these by name"
    )
    templates_file: Path | None = Field(None, description="own templates: YAML name -> {family, text}")
    examples: Path | None = Field(
        None,
        description="captions, one per line: three of them, drawn by the row's id, fill templates with "
        "{examples} (in-context)",
    )
    constraint: str | None = Field(
        None, description="in place of the constraint of the paper's figure 3; '' for none"
    )
    style: Literal["plain", "json"] = Field("plain", description="output style; json needs `schema`")
    json_schema: dict[str, Any] | Path | None = Field(
        None, description="JSON schema of the output, inline or a file"
    )
    caption_field: str | None = Field(
        None, description="json: the property that becomes the text; the first string property unless given"
    )
    words: tuple[int, int] | None = Field(None, description="least and most words of the output")
    order: Patterns = Field(default_factory=list, description="phrases that match come first, in this order")
    max_tokens: int = Field(160, gt=0, description="the most tokens the LLM may write")

    @model_validator(mode="after")
    def _json(self) -> TextPolicy:
        if (self.style == "json") != (self.json_schema is not None):
            raise ValueError("text_policy: style json and json_schema go together")
        return self


class ImageFile(Block):
    """How an image is stored. Format and quality belong to the row's key."""

    format: Literal["jpeg", "png", "webp"] = Field("jpeg", description="encoding of what is stored")
    quality: int = Field(92, ge=1, le=100, description="of jpeg and webp")
    size: int | None = Field(
        None, gt=0, description="longer edge in pixels of what is stored; as painted unless given"
    )


class ImagePolicy(Block):
    """3b: how a text becomes a prompt."""

    styles: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: {"real": 1.0}, description="style -> weight of being drawn; {} for none"
    )
    styles_file: Path | None = Field(None, description="own styles: YAML name -> text with {prompt}")
    weights: dict[str, Annotated[float, Field(ge=0, le=4)]] = Field(
        default_factory=dict, description="tag -> factor, 1 leaves it as it is"
    )
    negative: str = Field("", description="what should not be drawn")
    order: Patterns = Field(
        default_factory=list, description="sentences that name these come first, before 77 tokens cut"
    )
    call: str | None = Field(
        None, description="package.module:function, called as function(prompt, rng) -> Prompt"
    )
    size: int | tuple[int, int] | None = Field(
        None, description="pixels to paint: one edge or [width, height]; the model's own unless given"
    )
    image: ImageFile = Field(default_factory=lambda: ImageFile(), description="how it is stored")

    @field_validator("styles", mode="before")
    @classmethod
    def _styles(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {value: 1.0}
        return dict.fromkeys(value, 1.0) if isinstance(value, list) else value


class Safety(Block):
    """An optional classifier of unwanted images."""

    model: Spec = Field("opennsfw", description="which classifier")
    threshold: Share = Field(0.8, description="an image that scores this or more is rejected")


Matcher = Literal["substring", "lemma", "wordnet"]


class Matchers(Block):
    """How two phrases are compared: see `lang/matching/rules.py`."""

    text: Matcher = Field("lemma", description="for texts")
    image: Matcher = Field("lemma", description="for images; wordnet forgives synonyms and near classes")


class Judge(Block):
    """The closed loop: texts and images are tagged again and compared (section 3.2, A.5)."""

    tagger: Spec | None = Field(None, description="tags the synthetic image; must read pixels")
    threshold: Share = Field(0.2, description="p_f: the least share of the reference's phrases to be found")
    matcher: Matchers = Field(
        default_factory=lambda: Matchers(), description="lemma, or {text: lemma, image: wordnet}"
    )
    image_against: Literal["text", "original", "original_unedited"] = Field(
        "text", description="which reference decides for images; all that exist are stored"
    )
    weights: dict[Kind, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="weight of a kind in the recall, 1 when not named"
    )
    forbid_violations: bool = Field(False, description="reject a sample in which a removed tag came back")
    candidates: int = Field(1, ge=1, description="texts per row; the best one continues")
    gate: bool = Field(False, description="true: later stages skip what the judge rejects")
    target: int | None = Field(
        None,
        gt=0,
        description="this many accepted pairs: candidates are added in whole waves until they are there",
    )
    max_candidates: int = Field(
        8,
        ge=1,
        description="with target: the most candidates per row; a run keeps the number that it reached",
    )
    safety: Safety | None = Field(None, description="also score the image for unwanted content")

    @field_validator("matcher", mode="before")
    @classmethod
    def _matcher(cls, value: Any) -> Any:
        return {"text": value, "image": value} if isinstance(value, str) else value


class Mix(Block):
    """Which pairs leave the run (section 4.1)."""

    use: Literal["cap", "img", "capimg", "mix"] = Field(
        "mix", description="cap = (1a, 1d), img = (1c, 1b), capimg = (1c, 1d), mix = cap + capimg"
    )
    share_text: bool = Field(
        False, description="mix: cap and capimg of one source share write.0 instead of write.0 and write.1"
    )
    latest: bool = Field(
        False,
        description="of an image that was captioned again (image*, text*), only the pair with the new text "
        "leaves",
    )
    originals: float = Field(0.0, ge=0.0, description="original pairs for each synthetic pair; 1 doubles")


class Balance(Block):
    """Which captions continue past the node `balance` (SynthCLIP, section 3.2): exactly one of the first
    three.

    c[e] captions hold the entry e of the bank; e lets a caption through with the chance t / max(c[e], t); a
    caption is kept if any of its entries lets it through. The draw depends on the caption's id, so a smaller
    size keeps a subset of a larger one."""

    one_of = ("size", "t", "random")
    size: int | None = Field(
        None, gt=0, description="this many captions are kept (as the expected number); t is solved for it"
    )
    t: float | None = Field(
        None,
        gt=0,
        description="the threshold itself: entries that more captions hold are thinned (the paper: 10)",
    )
    random: int | None = Field(None, gt=0, description="this many, drawn at random: the paper's ablation")
    bank: Path | None = Field(
        None, description="the entries that captions are matched with; source.concepts unless given"
    )
    match: Literal["exact", "lower", "lemma"] = Field(
        "exact",
        description="exact: MetaCLIP's rule, case and all; the others deviate from it: in lower case, words "
        "in their base form",
    )


class Variants(Block):
    """How many of each are made per row."""

    write: int = Field(1, ge=1, description="texts per row")
    paint: int = Field(1, ge=1, description="images per text")
    painted: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        description="of several texts per row the numbers of those that are painted, such as [1] for mix; "
        "all "
        "unless given",
    )

    @model_validator(mode="after")
    def _there(self) -> Variants:
        if self.painted is not None and (not self.painted or max(self.painted) >= self.write):
            raise ValueError(
                f"variants.painted names texts from 0 to {self.write - 1}, of variants.write {self.write}"
            )
        return self


class Faults(Block):
    """When a failing run stops. Finished work is kept, and no row depends on these settings."""

    max_error_rate: Share = Field(
        0.1, description="share of a stage's rows that may fail; more stops the run, 1 never does"
    )
    after: int = Field(
        100,
        ge=1,
        description="rows before the first verdict; the share is taken over the last ten times as many",
    )
    restarts: int = Field(
        20,
        ge=0,
        description="how often a dead engine is restarted within that many rows before the run stops",
    )


KINDS: tuple[str, ...] = get_args(StageKind)
"""The kinds of stages: the boxes of the figure, and the two halves of a balance."""


class RayPool(Block):
    """The actors that work on one stage of `--engine ray`, each with its own model."""

    concurrency: Positive | tuple[Positive, Positive] | None = Field(
        None, description="actors: a number, [least, most], or from 1 to as many as are free"
    )
    cpus: float = Field(1.0, ge=0, description="CPUs per actor")
    gpus: float = Field(0.0, ge=0, description="GPUs per actor; a share such as 0.5 puts two on one")

    @property
    def least(self) -> int:
        return (
            self.concurrency
            if isinstance(self.concurrency, int)
            else self.concurrency[0]
            if self.concurrency
            else 1
        )

    @property
    def most(self) -> int | None:
        return (
            self.concurrency
            if isinstance(self.concurrency, int)
            else self.concurrency[1]
            if self.concurrency
            else None
        )


class Engines(Block):
    """How engines spread the work. No row depends on it."""

    ray: dict[str, RayPool] = Field(
        default_factory=dict,
        description="--engine ray: kind of stage (tag, write, paint, ...) or folder (tag.2) -> its actors",
    )

    @field_validator("ray")
    @classmethod
    def _known_stages(cls, ray: dict[str, RayPool]) -> dict[str, RayPool]:
        for name in ray:
            kind, dot, number = name.partition(".")
            if kind not in KINDS or (dot and not number.isdigit()):
                raise ValueError(str(unknown("stage", name, KINDS)))
        return ray


class Recipe(Block):
    """The whole file. `train` belongs to `ctrlsynth train`, `evaluate` to `ctrlsynth eval`; `plan` and `run`
    only look whether the keys of `train` are known."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="names the run's folder")
    source: Source = Field(description="where the pairs come from")
    models: Models = Field(default_factory=lambda: Models(), description="which models do the work")
    paths: dict[str, list[str]] = Field(
        default_factory=lambda: {"SP1": ["SP1"]}, description="SP1..SP4, or own: name -> list of nodes"
    )
    variants: Variants = Field(
        default_factory=lambda: Variants(), description="how many of each are made per row"
    )
    text_policy: TextPolicy = Field(default_factory=lambda: TextPolicy(), description="3a")
    image_policy: ImagePolicy = Field(default_factory=lambda: ImagePolicy(), description="3b")
    balance: Balance | None = Field(
        None, description="which captions continue past the node `balance` of a path"
    )
    judge: Judge | None = Field(default_factory=lambda: Judge(), description="null: nothing is judged")
    mix: Mix = Field(default_factory=lambda: Mix(), description="which pairs leave the run")
    faults: Faults = Field(default_factory=lambda: Faults(), description="when a failing run stops")
    engines: Engines = Field(
        default_factory=lambda: Engines(), description="how `--engine ray` spreads the work"
    )
    seed: int = Field(0, description="all randomness derives from it and the row's id")
    train: dict[str, Any] | None = Field(
        None, description="what `ctrlsynth train` does with the data: see `train.md`"
    )
    evaluate: list[str] | None = Field(
        None, description="tasks by name, for `ctrlsynth eval --recipe`: see `evaluation.md`"
    )

    @field_validator("mix", mode="before")
    @classmethod
    def _mix(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    @field_validator("paths", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        """`SP1`, `[SP1, SP3]`, `{mine: [text, image*]}`, `[SP1, {mine: [...]}]` -> name: nodes; a built-in
        name stands for itself."""
        items = value if isinstance(value, list) else [value]
        named: dict[str, Any] = {}
        for item in items:
            for name, nodes in (item if isinstance(item, Mapping) else {str(item): [str(item)]}).items():
                if name in named:
                    raise ValueError(f"path {name!r} is given twice")
                named[name] = [nodes] if isinstance(nodes, str) else nodes
        return named


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data with every default filled in, without empty keys, for plan.json and the data
    card."""
    return recipe.model_dump(mode="json", exclude_none=True)
