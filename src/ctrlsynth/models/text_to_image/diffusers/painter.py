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

import gc
import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ....errors import UserError, unknown
from ...base import Painting, Prompt, TextToImageModel
from ...device import AdaptiveBatch, give_back, memory_faults
from ...hub.files import hash_of
from ...hub.find import HFOptions, check_quantization, locate
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
from .prompt import CHUNKS, FAMILIES, Reading, TextReader, pieces

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


class Diffusers(TextToImageModel):
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
        where = self.where = WHERE
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
        self._pipe: Any = None
        self._reader: TextReader | None = None
        self._sized = False
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
        self._load()
        out: list[Painting | None] = [self._refused(prompt) for prompt in prompts]
        groups: dict[Any, list[int]] = {}
        rows = [_Row(prompt, self._reader) for prompt in prompts]
        for n, painting in enumerate(out):
            if painting is None:
                groups.setdefault(self._alike(rows[n]), []).append(n)
        for (size, embedded, _, _), numbers in groups.items():
            answers = self._room.run([rows[n] for n in numbers], partial(self._paint, size, embedded))
            for n, answer in zip(numbers, answers, strict=True):
                out[n] = answer or Painting(None, error="out_of_memory")
        return [painting for painting in out if painting is not None]

    def close(self) -> None:
        """Frees the weights; they load again on use."""
        self._pipe = self._reader = None
        gc.collect()
        give_back()

    def content_digest(self) -> str:
        """Hash over the complete files of the pipeline and its adapters."""
        return self.found.content_digest()

    def _load(self) -> None:
        if self._pipe is not None:
            return
        pipe = load_pipeline(
            self.found, self.index, self.where, scheduler=self.scheduler, safety=self.safety, **self._how
        )
        takes = set(inspect.signature(pipe.__call__).parameters)
        own = {"steps": "num_inference_steps", "guidance": "guidance_scale", "size": "width"}
        for name, argument in own.items():
            if getattr(self, name) is not None and argument not in takes:
                raise UserError(f"{self.where}.{name}: {type(pipe).__name__} takes none; leave it out")
        self._sized = {"width", "height"} <= takes
        self._reader = (
            TextReader(pipe, self.family, self.chunk, self.where) if self.family is not None else None
        )
        self._pipe = pipe

    def _takes_negative(self) -> bool:
        if self.family == "flux" or (self.guidance is not None and self.guidance <= 1):
            return False
        if self.family is not None:
            return True
        return (
            "negative_prompt" in inspect.signature(pipeline_class(self.index, self.where).__call__).parameters
        )

    def _refused(self, prompt: Prompt) -> Painting | None:
        """The row's error that is known before painting, or None."""
        size = prompt.size or self.size
        if size is not None and (not self._sized or any(side < _STEP or side % _STEP for side in size)):
            return Painting(None, error="bad_size")
        if prompt.negative and not self._takes_negative():
            return Painting(None, error="negative_unsupported")
        return None

    def _alike(self, row: _Row) -> tuple[Any, ...]:
        """What images of one batch must share, so that none changes another: size, way of encoding, whether
        there is a negative prompt (a pipeline may treat its absence otherwise than an empty one), and the
        number of chunks."""
        return row.prompt.size or self.size, bool(row.weights) or self.chunk, bool(row.negative), row.length

    def _paint(self, size: tuple[int, int] | None, embedded: bool, rows: Sequence[_Row]) -> list[Painting]:
        import torch

        with memory_faults(self.id):
            generators = [torch.Generator("cpu").manual_seed(row.prompt.seed) for row in rows]
            arguments: dict[str, Any] = {"prompt": [row.text for row in rows]}
            if rows[0].negative:
                arguments["negative_prompt"] = [row.negative for row in rows]
            if embedded:
                arguments = self._embedded(rows)
            width, height = size or (None, None)
            given = {"num_inference_steps": self.steps, "guidance_scale": self.guidance}
            given |= {"width": width, "height": height}
            arguments |= {name: value for name, value in given.items() if value is not None}
            made = self._pipe(generator=generators, **arguments)
        flags = getattr(made, "nsfw_content_detected", None) or [None] * len(rows)
        return [row.painting(image, flag) for row, image, flag in zip(rows, made.images, flags, strict=True)]

    def _embedded(self, rows: Sequence[_Row]) -> dict[str, Any]:
        """Stacks the embeddings of the prompts, each encoded alone."""
        import torch

        assert self._reader is not None
        zeros = self.family == "sdxl" and self._pipe.config.force_zeros_for_empty_prompt
        made = []
        for row in rows:
            absent = not row.negative and (zeros or not self._takes_negative())
            made.append(self._reader.encode(row.pieces, None if absent else row.negative, row.length))
        return {name: torch.cat([one[name] for one in made]) for name in made[0]}


class _Row:
    """A prompt, its reading, and its effective weights: not 1, with a phrase that occurs in the text."""

    def __init__(self, prompt: Prompt, reader: TextReader | None) -> None:
        self.prompt = prompt
        self.text, self.negative = (
            reader.literal(text) if reader is not None else text for text in (prompt.text, prompt.negative)
        )
        self.weights = {k: v for k, v in prompt.weights.items() if v != 1} if reader is not None else {}
        self.pieces, unused = pieces(self.text, self.weights)
        self.unused = unused if reader is not None else tuple(prompt.weights)
        self.reading = reader.read(self.pieces) if reader is not None else Reading()
        negative = reader.read([(self.negative, 1.0)]) if reader is not None and self.negative else Reading()
        self.length = max(self.reading.chunks or 1, negative.chunks or 1)

    def painting(self, image: Any, flagged: bool | None) -> Painting:
        read = self.reading
        return Painting(
            None if flagged else image,
            weights_unused=self.unused,
            flagged=None if flagged is None else bool(flagged),
            tokens=read.tokens,
            truncated=read.truncated,
            chunks=read.chunks,
        )
