"""Tags from captions of images (2a): Florence-2 or any image-to-text model of transformers, and a language
model that extracts tags from its caption.

    {captioner: florence-community/Florence-2-large, extract: {vllm: Qwen/Qwen2-7B-Instruct}}
    {captioner: Salesforce/blip-image-captioning-base, extract: smollm2}
    {florence2: florence-community/Florence-2-large}

The first is the paper's (CtrlSynth, appendix A.4), the last gives the caption alone (`[image, text*]`).

The caption goes to `Tags.caption`; with `extract` its objects, attributes and relations are the tags
(extract.py). Florence-2 runs as in the paper: the task <MORE_DETAILED_CAPTION>, 3 beams, at most 1,024
tokens, the processor's own post-processing. The class is transformers' own, never code of a repository:
`microsoft/Florence-2-*` have that code's weights, `florence-community/Florence-2-*` the same weights for this
class. Decoding is greedy or by beams, so nothing is random.

Each kind of model was tested on a tiny random checkpoint of its class, not on published weights."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

from PIL import Image

from ...errors import UserError
from ...sample import Tags
from ..base import ImageAndText
from ..composite import Composite, contents_of, make_all
from ..device import AdaptiveBatch, make_torchvision_importable, memory_faults
from ..hub.files import hash_of
from ..hub.find import HFOptions, Located, locate, read_config
from ..hub.load import HubModel, load_pretrained, load_processor
from ..options import check_whole
from .extract import ExtractTagger, with_extracted

_VERSION = 1  # part of the digest: raise it when the same weights would be asked differently
_WHERE = "models.tagger"
TASK = "<MORE_DETAILED_CAPTION>"
_EXTRACTED = 64
"""Captions per call of the language model: engines and servers work on many at once, while decoded pictures
wait in memory."""
CHAT_PROMPT = "Describe with a paragraph what is shown in the image."
"""The question for a chat model: the words behind Florence-2's task."""

DEFAULTS = {"florence2": (TASK, 3, 1024), "chat": (CHAT_PROMPT, 1, 512), "plain": ("", 1, 64)}
"""Kind of model -> its prompt, num_beams and max_new_tokens unless the recipe gives them."""


class CaptionerTagger(HubModel, Composite):
    """An image-to-text model, alone or with a language model that extracts tags from its captions.

    model           hub name or folder
    prompt          Florence-2: the task; chat models: the question; BLIP and the like: the caption's
                    beginning. None: `TASK`, `CHAT_PROMPT`, nothing
    num_beams       None: 3 for Florence-2, 1 for the others
    max_new_tokens  None: 1,024 for Florence-2, 512 for chat models, 64 for the others
    batch           pictures per call
    extract         a language model as a recipe names it, or None for the caption alone; `mode` as for the
                    tagger `extract`
    hf              revision, dtype, device, adapters, quantization, download (models/hub/find.py)
    """

    reads: Literal["pixels"] = "pixels"
    packages = ("torch", "transformers")

    def __init__(
        self,
        model: Any = None,
        *,
        prompt: str | None = None,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        batch: int = 8,
        extract: Any = None,
        mode: str = "lines",
        **options: Any,
    ) -> None:
        if model is None:
            raise UserError(
                f"{_WHERE}: captioner takes a model, such as "
                f"{{captioner: florence-community/Florence-2-large}}"
            )
        read = HFOptions.read(
            options, _WHERE, ("prompt", "num_beams", "max_new_tokens", "batch", "extract", "mode")
        )
        self.found, self._extract = make_all(
            [
                lambda: locate(model, read, _WHERE),
                lambda: ExtractTagger(extract, mode=mode, max_tokens=512) if extract is not None else None,
            ]
        )
        self.parts = [] if self._extract is None else [self._extract]
        self._kind = kind_of(self.found)
        default, beams, tokens = DEFAULTS[self._kind]
        self._generation = {
            "num_beams": num_beams or beams,
            "max_new_tokens": max_new_tokens or tokens,
            "do_sample": False,
        }
        check_whole(_WHERE, num_beams=num_beams, max_new_tokens=max_new_tokens)
        check_whole(_WHERE, null=False, batch=batch)
        self._prompt = default if prompt is None else prompt
        self._room = AdaptiveBatch(batch)
        self.batch = (
            batch if self._extract is None else max(batch, min(self._extract.batch or _EXTRACTED, _EXTRACTED))
        )
        self.id = "captioner:" + "+".join([self.found.name, *(part.id for part in self.parts)])
        extracted = self._extract.digest if self._extract is not None else None
        asked = [_VERSION, self._kind, self._prompt, self._generation, extracted]
        self.digest = hash_of("captioner", asked, self.found.digest())

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Tags of each item with its caption; empty without an image or an answer. A picture that does not
        fit into memory alone fails with `out_of_memory`."""
        seen = [n for n, item in enumerate(items) if item.image is not None]
        rows = [Tags()] * len(items)
        for n, caption in zip(seen, self.captions([items[n].image for n in seen]), strict=True):
            rows[n] = Tags(error="out_of_memory") if caption is None else Tags(caption=caption or None)
        return with_extracted(rows, self._extract)

    def captions(self, images: Sequence[Any]) -> list[str | None]:
        """The model's text for each picture; None for one that does not fit into memory alone."""
        return self._room.run([image.convert("RGB") for image in images], self._generate)

    def _generate(self, images: Sequence[Image.Image]) -> list[str]:
        import torch

        model, processor = self.loaded()
        with memory_faults(self.id), torch.inference_mode():
            inputs = {
                name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
                for name, tensor in self._inputs(processor, images).items()
            }
            out = model.generate(**inputs, **self._generation)
        if self._kind == "chat":
            out = out[:, inputs["input_ids"].shape[1] :]  # without the question
        if self._kind != "florence2":
            texts = processor.batch_decode(out, skip_special_tokens=True)
            answers = [
                text.strip().removeprefix(self._prompt.lower()).removeprefix(self._prompt) for text in texts
            ]
        else:
            # beams are padded to the longest of the batch; the post-processing keeps the padding
            pad = processor.tokenizer.pad_token
            texts = [text.replace(pad, "") for text in processor.batch_decode(out, skip_special_tokens=False)]
            task = self._prompt.partition(">")[0] + ">"
            answers = [
                processor.post_process_generation(t, task=task, image_size=i.size)[task]
                for t, i in zip(texts, images, strict=True)
            ]
        return [" ".join(answer.split()) if isinstance(answer, str) else "" for answer in answers]

    def _inputs(self, processor: Any, images: Sequence[Image.Image]) -> dict[str, Any]:
        if self._kind == "florence2":
            return dict(
                processor(images=list(images), text=[self._prompt] * len(images), return_tensors="pt")
            )
        if self._kind == "chat":
            content = [{"type": "image"}, {"type": "text", "text": self._prompt}]
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return dict(
                processor(
                    images=[[i] for i in images], text=[text] * len(images), padding=True, return_tensors="pt"
                )
            )
        pixels = dict(processor.image_processor(images=list(images), return_tensors="pt"))
        if self._prompt:
            words = processor.tokenizer(
                [self._prompt] * len(images), return_tensors="pt", add_special_tokens=True
            )
            pixels |= {name: words[name] for name in ("input_ids", "attention_mask")}
        return pixels

    def _load(self) -> tuple[Any, Any]:
        """The model and its processor; without a joint one, its image processor and tokenizer."""
        make_torchvision_importable()
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        model = load_pretrained(AutoModelForImageTextToText, self.found, _WHERE)
        processor = load_processor(AutoProcessor, self.found, _WHERE)
        if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
            pixels = load_processor(AutoImageProcessor, self.found, _WHERE)
            text = load_processor(AutoTokenizer, self.found, _WHERE)
            return model, SimpleNamespace(
                image_processor=pixels, tokenizer=text, batch_decode=text.batch_decode
            )
        processor.tokenizer.padding_side = "left"  # a decoder goes on from the last token of each row
        return model, processor

    def content_digest(self) -> str:
        """Hash over the complete files of captioner and language model."""
        return contents_of([self.found, *self.parts])


class Florence2Tagger(CaptionerTagger):
    """`captioner` for Florence-2 only; rejects other models. `model` defaults to the paper's, `large`."""

    def __init__(self, model: Any = "florence-community/Florence-2-large", **options: Any) -> None:
        super().__init__(model, **options)
        if self._kind != "florence2":
            raise UserError(
                f"{_WHERE}: {self.found.name} is no Florence-2; use {{captioner: {self.found.name}}}"
            )


def kind_of(found: Located) -> Literal["florence2", "chat", "plain"]:
    """The kind of a model's input, by its config.json and chat template. UserError for a folder without a
    model, and for the form of Florence-2 that needs code of its repository."""
    config = read_config(found, _WHERE)
    if config.get("model_type") == "florence2":
        if "dim_embed" in config.get("vision_config", {}):
            raise UserError(
                f"{_WHERE}: {found.name} holds the weights of code of its own, which is never run; use the "
                f"model of that name by florence-community, the same weights for transformers' own class"
            )
        return "florence2"
    tokenizer = found.folder / "tokenizer_config.json"
    chats = found.has("chat_template*") or (
        tokenizer.is_file() and "chat_template" in json.loads(tokenizer.read_text(encoding="utf-8"))
    )
    return "chat" if chats else "plain"
