"""The `train` block of a recipe, typed: data, model, length, optimiser, augmentation. A preset fills in what
the block leaves out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from .block import Block, Positive
from .presets import FINETUNING

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Three = tuple[float, float, float]


class TrainSource(Block):
    """One source of pairs: a folder that `export` wrote, or its files."""

    path: str | list[str] = Field(
        description="a folder, or tars, parquet, csv, jsonl as paths, globs or brace ranges"
    )
    ratio: float | None = Field(
        None,
        gt=0,
        description="share of the pairs, in proportion to the other sources' ratios; all sources or none "
        "have one",
    )
    captions: list[str] | None = Field(
        None,
        description="fields that one caption a step is drawn from: text is a tar's .txt, others are keys of "
        "its .json, or columns",
    )


def sources(value: Any) -> list[Any]:
    """`folder`, `[folder, {path: ..., ratio: 2}]` -> a list of mappings."""
    items = value if isinstance(value, list) else [value]
    return [{"path": item} if isinstance(item, str) else item for item in items]


Sources = Annotated[list[TrainSource], BeforeValidator(sources)]


class EqualSamples(Block):
    """Trains as many steps as a baseline on other data: E*N/(N+N') epochs (paper, section 4.1). Takes exactly
    one of rows and data."""

    one_of = ("rows", "data")
    epochs: float = Field(gt=0, description="E, the baseline's epochs")
    rows: Positive | None = Field(None, description="N, the baseline's pairs")
    data: Sources | None = Field(None, description="the baseline's data, to be counted")


class Decontaminate(Block):
    """Drops or flags pairs that are also in an evaluation set."""

    against: list[str] = Field(
        min_length=1,
        description="evaluation sets: folders as `ctrlsynth eval` reads them, shards, or folders of images",
    )
    images: Literal["sha256", "phash", "both", "none"] = Field(
        "both",
        description="same pixels, a perceptual hash within `distance` bits, both, or images not compared",
    )
    distance: int = Field(2, ge=0, le=3, description="phash: bits of 64 that may differ")
    captions: bool = Field(
        True, description="also compare captions, without regard to case, punctuation and spacing"
    )
    action: Literal["drop", "flag"] = Field(
        "drop", description="drop: do not train on them; flag: only list and count them"
    )


class TrainBlock(Block):
    """Everything that `ctrlsynth train` needs to know. Defaults are open_clip's where the papers say
    nothing."""

    preset: str | None = Field(None, description="a paper's settings by name; keys given beside it win")
    data: Sources = Field(
        min_length=1, description="where the pairs come from: folders, or sources with ratio and captions"
    )
    model: str | None = Field(
        None,
        description="a name of open_clip (ViT-B-16, ViT-S-16), tiny, or a JSON file; ViT-B-16 without init",
    )
    init: str | None = Field(
        None, description="start from this folder: one of ours, open_clip's or Hugging Face's CLIP"
    )
    image_size: Positive | None = Field(None, description="pixels, when it is not the model's own")
    epochs: float | None = Field(
        None, gt=0, description="passes over the data, also a part of one; 32 unless a length is given"
    )
    steps: Positive | None = Field(None, description="optimiser steps instead of epochs")
    equal_samples: EqualSamples | None = Field(None, description="the steps of a baseline instead of epochs")
    batch: Positive = Field(2048, description="pairs a step, over all processes")
    accumulate: Positive = Field(1, description="micro-batches a step; the loss is that of the whole batch")
    loss: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="symmetric cross-entropy, or SigLIP's pairwise sigmoid"
    )
    negatives: Literal["all", "micro"] = Field(
        "all", description="negatives from the whole batch, or from the micro-batch alone"
    )
    lr: float = Field(5e-4, gt=0, description="highest learning rate")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the end of the cosine")
    warmup: float | int = Field(
        0.05, ge=0, description="steps of linear warm-up; below 1 a share of all steps"
    )
    warmup_epochs: float | None = Field(None, ge=0, description="warm-up in epochs instead")
    warmup_lr: float | None = Field(
        None, ge=0, description="learning rate of the first step; lr / warm-up steps unless given"
    )
    weight_decay: float = Field(
        0.2, ge=0, description="none on biases, norms and whatever has fewer than two dimensions"
    )
    betas: tuple[float, float] = Field((0.9, 0.98), description="of AdamW")
    eps: float = Field(1e-6, gt=0, description="of AdamW")
    grad_clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    max_logit_scale: float = Field(100.0, gt=1, description="the logit scale is clamped to 1 .. this")
    crop_scale: tuple[float, float] | None = Field(
        (0.9, 1.0), description="random resized crop: least and most share of the area; null: centre crop"
    )
    flip: bool = Field(False, description="mirror half of the images")
    shorter_edge: Positive | None = Field(None, description="first resize every image to this shorter edge")
    mean: Three = Field(OPENAI_MEAN, description="of the channels, 0..1")
    std: Three = Field(OPENAI_STD, description="of the channels, 0..1")
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        "auto",
        description="autocast; auto: bf16 where the device computes in it, else float32. Weights and "
        "optimiser stay float32",
    )
    grad_checkpointing: bool = Field(False, description="less memory, a third more time")
    device: str = Field("auto", description="cuda, cpu, or auto")
    workers: int = Field(
        2, ge=0, description="processes that read and decode, for each training process; changes no batch"
    )
    window: Positive = Field(8192, description="rows that are shuffled among each other")
    save_every: Positive = Field(1000, description="steps between checkpoints")
    keep: Positive = Field(2, description="how many checkpoints stay")
    log_every: Positive = Field(10, description="steps between lines of log.jsonl")
    seed: int = Field(0, description="weights, order, captions and crops derive from it")
    decontaminate: Decontaminate | None = Field(None, description="keep evaluation sets out of the data")

    @model_validator(mode="after")
    def _sound(self) -> TrainBlock:
        if len({s.ratio is None for s in self.data}) > 1:
            raise ValueError("data: either every source has a ratio or none has")
        given = [k for k in ("epochs", "steps", "equal_samples") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(
                f"one of epochs, steps and equal_samples says how long; given: {', '.join(given)}"
            )
        if self.init is not None and self.model is not None:
            raise ValueError("init brings its own model; leave model out")
        if self.preset in FINETUNING and self.init is None:
            raise ValueError(
                f"preset {self.preset} finetunes: it needs init, the folder of the model to start from"
            )
        return self
