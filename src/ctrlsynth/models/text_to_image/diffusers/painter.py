"""Diffusion models of diffusers (2c): SD1.5, SDXL, SD3, FLUX and whatever else `AutoPipelineForText2Image`
loads, from hub name or folder.

    models:
      text_to_image: {diffusers: stabilityai/stable-diffusion-xl-base-1.0, dtype: float16, steps: 28,
      guidance: 7.0}

An image depends on its prompt and seed alone: each has a generator of its own, on the CPU. What a batch still
changes is the order of float additions: less than 1e-5 in float32, so that at most a last bit of a pixel
moves (float16: a few). Weights of tags and prompts over 77 tokens: prompt.py. What could not be run
here, without a GPU: load.py."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ....errors import UserError, unknown
from ...base import Painting, Prompt, TextToImageModel
from ...device import AdaptiveBatch, memory_faults
from ...hub.files import hash_of
from ...hub.find import HFOptions, check_quantization, locate
from ...hub.load import HubModel
from ...installed import need, version_of
from ...options import check_number, check_whole, image_size
from .load import (
    OFFLOADS,
    check_files,
    device_for,
    load_pipeline,
    model_index,
    pipeline_class,
    scheduler_class,
)
from .prompt import CHUNKS, FAMILIES, TextReader, pieces

WHERE = "models.text_to_image"
_LONG = ("cut", "chunk")
_OWN = (
    "steps",
    "guidance",
    "scheduler",
    "size",
    "long_prompt",
    "batch",
    "safety",
    "compile",
    "offload",
    "vae_slicing",
)
_STEP = 8
"""Sides of an image are multiples of this many pixels: what the VAEs make of one latent."""


class Diffusers(HubModel, TextToImageModel):
    """A diffusers pipeline. `model`: a hub name or a local folder with a model_index.json.

    steps        denoising steps; the pipeline's own number when not given
    guidance     classifier-free guidance (FLUX: the distilled one); the pipeline's own when not given
    scheduler    ddim, dpm++, euler, ... or a class of diffusers; the checkpoint's own when not given. Noise
                 is added only by those that must (`euler a`): DDIM runs with eta 0
    size         pixels of an image whose prompt asks for no size: one edge or [width, height], multiples of
                 8; default: the pipeline's own
    long_prompt  cut: the part that CLIP cannot read is lost, and `truncated` says so; chunk: read in chunks
                 of 75 tokens (SD1.5, SDXL)
    batch        the most images at once; fewer while memory is short
    safety       false: no safety checker. With the checkpoint's own, a flagged image is dropped as `unsafe`
    compile      true: torch compiles the denoiser; the first image of every size then takes minutes
    offload      model or sequential: keep weights in main memory (slower, less GPU memory)
    vae_slicing  true: decode one image at a time
    **hf         revision, dtype, device, adapters, quantization, download: models/hub/find.py

    `batch`, `compile`, `offload` and `vae_slicing` change no image, so they are not in the digest.
    """

    where = WHERE
    size: tuple[int, int] | None

    def __init__(
        self,
        model: str | Path,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        scheduler: str | None = None,
        size: int | Sequence[int] | None = None,
        long_prompt: str = "cut",
        batch: int = 4,
        safety: bool = True,
        compile: bool = False,
        offload: str | None = None,
        vae_slicing: bool = False,
        **more: Any,
    ) -> None:
        where = self.where
        for package in ("torch", "diffusers", "transformers"):
            need(package, "diffusers", where)
        options = HFOptions.read(more, where, _OWN)
        check_quantization(options, where)
        check_whole(where, steps=steps, batch=batch)
        check_number(where, 0, 100, guidance=guidance)
        if long_prompt not in _LONG:
            raise unknown("long_prompt", str(long_prompt), _LONG, where)
        if offload is not None and offload not in OFFLOADS:
            raise unknown("offload", str(offload), OFFLOADS, where)
        self.found = locate(model, options, where)
        self.index = model_index(self.found, where)
        self.family = FAMILIES.get(self.index["_class_name"])
        if long_prompt == "chunk" and self.family not in CHUNKS:
            raise UserError(
                f"{where}.long_prompt: {self.index['_class_name']} takes no chunks, only SD1.5 and SDXL do; "
                f"leave it out"
            )
        self.steps, self.guidance, self.scheduler = steps, guidance, scheduler
        self.size = image_size(size, where, _STEP)
        self.chunk, self.safety, self.batch = long_prompt == "chunk", safety, batch
        self._how: dict[str, Any] = {"compile": compile, "offload": offload, "vae_slicing": vae_slicing}
        self.id = f"diffusers:{self.found.name if self.found.commit is not None else self.found.folder.name}"
        made_by = [version_of(package) or "" for package in ("diffusers", "compel")]
        self.digest = hash_of(
            self.found.digest(), made_by, steps, guidance, self.scheduler, self.size, long_prompt, safety
        )  # fmt: skip
        self._room = AdaptiveBatch(batch)

    def check(self) -> None:
        """Preflight: files, class, scheduler, device, compel for chunks. Loads no weights."""
        check_files(self.found, self.index, self.safety, self.where)
        pipeline_class(self.index, self.where)
        if self.scheduler is not None:
            scheduler_class(self.index, self.scheduler, self.where)
        if self.chunk:
            need("compel", "diffusers", self.where)
        if self.found.options.adapters:
            need("peft", "diffusers", self.where)
        device_for(self.found, self._how["offload"], self.where)

    def accepts(self, weights: bool, negative: bool) -> None:
        """UserError if the image policy asks for weights or a negative prompt that this pipeline cannot
        use."""
        name = self.index["_class_name"]
        if weights and self.family is None:
            raise UserError(f"{self.where}: {name} cannot weigh tags; leave image_policy.weights out")
        if weights:
            need("compel", "diffusers", self.where)
        if negative and not self._takes_negative():
            low = self.guidance is not None and self.guidance <= 1 and self.family != "flux"
            why = f"with guidance {self.guidance}" if low else "as it is"
            raise UserError(
                f"{self.where}: {name} takes no negative prompt {why}; leave image_policy.negative out"
            )

    def generate(self, prompts: Sequence[Prompt]) -> list[Painting]:
        """One painting per prompt. Errors of a row: `bad_size`, `negative_unsupported`, `out_of_memory` (for
        an image that does not fit alone)."""
        if not prompts:
            return []
        _, reader = self.loaded()
        rows = [_Row(prompt, reader) for prompt in prompts]
        reasons = [self._refusal(prompt) for prompt in prompts]
        out = [Painting(None, error=reason) for reason in reasons]
        groups: dict[Any, list[int]] = {}
        for n, row in enumerate(rows):
            if reasons[n] is None:
                groups.setdefault(self._alike(row), []).append(n)
        for numbers in groups.values():
            answers = self._room.run([rows[n] for n in numbers], self._paint)
            for n, answer in zip(numbers, answers, strict=True):
                out[n] = answer or Painting(None, error="out_of_memory")
        return out

    def _load(self) -> tuple[Any, TextReader | None]:
        """The pipeline and its text side, if that is known."""
        pipe = load_pipeline(
            self.found, self.index, self.where, scheduler=self.scheduler, safety=self.safety, **self._how
        )
        own = {"steps": "num_inference_steps", "guidance": "guidance_scale", "size": "width"}
        for name, argument in own.items():
            if getattr(self, name) is not None and argument not in self._arguments:
                raise UserError(f"{self.where}.{name}: {type(pipe).__name__} takes none; leave it out")
        if self.family is None:
            return pipe, None
        return pipe, TextReader(pipe, self.family, self.chunk, self.where)

    @cached_property
    def _arguments(self) -> Mapping[str, Any]:
        """The arguments of the pipeline's call."""
        return inspect.signature(pipeline_class(self.index, self.where).__call__).parameters

    def _takes_negative(self) -> bool:
        if self.family == "flux" or (self.guidance is not None and self.guidance <= 1):
            return False
        return self.family is not None or "negative_prompt" in self._arguments

    def _refusal(self, prompt: Prompt) -> str | None:
        """The row's error that is known before painting, or None."""
        size = prompt.size or self.size
        sized = {"width", "height"} <= self._arguments.keys()
        if size is not None and not (sized and all(side >= _STEP and side % _STEP == 0 for side in size)):
            return "bad_size"
        return "negative_unsupported" if prompt.negative and not self._takes_negative() else None

    def _alike(self, row: _Row) -> tuple[Any, ...]:
        """What images of one batch must share, so that none changes another: size, way of encoding, whether
        there is a negative prompt (a pipeline may treat its absence otherwise than an empty one), and the
        number of chunks."""
        return row.prompt.size or self.size, bool(row.weights) or self.chunk, bool(row.negative), row.length

    def _paint(self, rows: Sequence[_Row]) -> list[Painting]:
        """The images of rows that are `_alike`."""
        import torch

        pipe, _ = self.loaded()
        with memory_faults(self.id):
            generators = [torch.Generator("cpu").manual_seed(row.prompt.seed) for row in rows]
            arguments: dict[str, Any] = {"prompt": [row.text for row in rows]}
            if rows[0].negative:
                arguments["negative_prompt"] = [row.negative for row in rows]
            if rows[0].weights or self.chunk:
                arguments = self._embedded(rows)
            width, height = rows[0].prompt.size or self.size or (None, None)
            given = {
                "num_inference_steps": self.steps,
                "guidance_scale": self.guidance,
                "width": width,
                "height": height,
            }
            arguments |= {name: value for name, value in given.items() if value is not None}
            made = pipe(generator=generators, **arguments)
        flags = getattr(made, "nsfw_content_detected", None) or [None] * len(rows)
        return [
            replace(
                row.reading,
                image=None if flag else image,
                weights_unused=row.unused,
                flagged=None if flag is None else bool(flag),
            )
            for row, image, flag in zip(rows, made.images, flags, strict=True)
        ]

    def _embedded(self, rows: Sequence[_Row]) -> dict[str, Any]:
        """Stacks the embeddings of the prompts, each encoded alone."""
        import torch

        pipe, reader = self.loaded()
        zeros = self.family == "sdxl" and pipe.config.force_zeros_for_empty_prompt
        made = []
        for row in rows:
            absent = not row.negative and (zeros or not self._takes_negative())
            made.append(reader.encode(row.pieces, None if absent else row.negative, row.length))
        return {name: torch.cat([one[name] for one in made]) for name in made[0]}


class _Row:
    """A prompt, its reading, and its effective weights: not 1, with a phrase that occurs in the text."""

    def __init__(self, prompt: Prompt, reader: TextReader | None) -> None:
        self.prompt, self.text, self.negative = prompt, prompt.text, prompt.negative
        self.weights: dict[str, float] = {}
        self.unused, self.reading, self.length = tuple(prompt.weights), Painting(None), 1
        if reader is not None:
            self.text, self.negative = reader.literal(prompt.text), reader.literal(prompt.negative)
            self.weights = {k: v for k, v in prompt.weights.items() if v != 1}
            self.pieces, self.unused = pieces(self.text, self.weights)
            self.reading = reader.read(self.pieces)
            negative = reader.read([(self.negative, 1.0)])
            self.length = max(self.reading.chunks or 1, negative.chunks or 1)
