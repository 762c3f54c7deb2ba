"""Zero-shot tagger (box 2a): a CLIP of open_clip scores every label of a vocabulary file, thousands at once.

    {open_clip: laion/CLIP-ViT-B-32-laion2B-s34B-b79K, vocabulary: labels.txt, top_k: 10, cut: 0.2}
    {open_clip: runs/mine/model, vocabulary: labels.csv}                    a folder in open_clip's format
    {open_clip: ViT-B-32, pretrained: epoch_32.pt, vocabulary: labels.txt}  open_clip's name, a local file

Hub names are those of repositories in open_clip's format. Nothing is fetched unless `download: true` is
given; a name with one of open_clip's own tags (`laion2b_s34b_b79k`) is refused, because it would be. `.pt`
files are read by torch with `weights_only`.

Each label's embedding is the mean over all templates. Embeddings are computed once and kept in the user's
cache by the digests of model, vocabulary and templates: 20,000 labels of 512 numbers take 40 MB."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import UserError, unknown
from ...sample import Tags
from ..base import ImageAndText, VisionTagger
from ..cache import cached
from ..device import (
    AdaptiveBatch,
    choose_device,
    give_back,
    memory_faults,
    set_threads,
)
from ..hub.files import hash_of
from ..hub.find import HFOptions, Located, check_weights, locate
from ..hub.load import check_plain, finish
from ..installed import need
from ..open_clip.encode import ClipModel
from ..open_clip.load import CONFIG, build, import_open_clip, load_folder, model_cfg
from ..options import check_number, check_whole
from .labels import Chooser, read_labels

_VERSION = 1  # part of the digest: raise it when the same weights would give other tags
_WHERE = "models.tagger"
_TEXTS = 256  # texts per batch
TEMPLATES = ("a photo of a {}.",)
SCORES = ("cosine", "softmax", "sigmoid")
PRECISION = {"auto": "fp32", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class OpenCLIPTagger(VisionTagger):
    """Tags objects (and attributes) by the similarity of image and label.

    vocabulary  a label file (labels.py): all objects; or a .csv with the columns `label` and `kind` (objects
                or attributes)
    pretrained  the weight file, if `model` is one of open_clip's names
    templates   sentences around {}, the label; a label's embedding is their mean
    top_k, cut  at most so many labels of each kind per image, with at least that score
    score       cosine: the similarity itself, 0.2 to 0.35 for what a CLIP sees; softmax: over the labels of
                a kind; sigmoid: SigLIP's probability. None: sigmoid for a model with a logit bias, else
                cosine
    hf          revision, dtype, device, adapters, quantization (by torchao: the blocks' MLPs), download
                (models/hub/find.py)
    """

    reads: Literal["pixels"] = "pixels"

    def __init__(
        self,
        model: Any = None,
        *,
        vocabulary: str | None = None,
        pretrained: str | None = None,
        templates: Sequence[str] = TEMPLATES,
        top_k: int = 10,
        cut: float = 0.0,
        score: str | None = None,
        batch: int = 64,
        **options: Any,
    ) -> None:
        if model is None or vocabulary is None:
            raise UserError(
                f"{_WHERE}: open_clip takes a model and a vocabulary, such as "
                f"{{open_clip: FOLDER, vocabulary: labels.txt}}"
            )
        need("open_clip", "clip", _WHERE)
        own = ("vocabulary", "pretrained", "templates", "top_k", "cut", "score", "batch")
        asked = HFOptions.read(options, _WHERE, own)
        _check(templates, top_k, cut, score, batch)
        check_plain(asked, _WHERE)
        self._architecture, self._found = _locate(model, pretrained, asked)
        self._kinds = read_vocabulary(Path(vocabulary))
        self._choosers = {
            kind: Chooser(labels, top_k, float(cut), add=False) for kind, labels in self._kinds.items()
        }
        self._templates, self._score = tuple(templates), score
        self._room = AdaptiveBatch(batch)
        self.batch = batch
        self.id = f"open_clip:{model}"
        self._weights = hash_of(_VERSION, self._architecture, self._found.digest())
        self.digest = hash_of(
            "open_clip", self._weights, self._kinds, self._templates, top_k, float(cut), score
        )
        self._loaded: ClipModel | None = None
        self._texts: dict[str, Any] = {}

    def tag(self, items: Sequence[ImageAndText]) -> list[Tags]:
        """Returns one Tags per item: objects with scores, attributes without; empty without an image."""
        seen = [n for n, item in enumerate(items) if item.image is not None]
        pictures = [items[n].image.convert("RGB") for n in seen]  # type: ignore[union-attr]
        rows = self._room.run(pictures, self._scores) if pictures else []
        out = [Tags()] * len(items)
        for n, row in zip(seen, rows, strict=True):
            out[n] = self._tags(row) if row is not None else Tags(error="out_of_memory")
        return out

    def _tags(self, scores: dict[str, NDArray[np.float32]]) -> Tags:
        if not all(np.isfinite(s).all() for s in scores.values()):
            return Tags(error="not_a_number")
        chosen = {kind: self._choosers[kind].choose(s) for kind, s in scores.items()}
        objects, values = chosen.get("objects", ((), ()))
        return Tags(objects, chosen.get("attributes", ((), ()))[0], scores=values)

    def _scores(self, images: Sequence[Image.Image]) -> list[dict[str, NDArray[np.float32]]]:
        import torch

        model = self._load()
        with memory_faults(self.id), torch.inference_mode():
            seen = model.encode_image(images, normalize=True)
            scale, bias = model.module.logit_scale.exp().float(), getattr(model.module, "logit_bias", None)
            how = self._score or ("cosine" if bias is None else "sigmoid")
            out: dict[str, NDArray[np.float32]] = {}
            for kind, texts in self._embedded().items():
                cosine = seen @ texts.T
                logits = cosine * scale + (bias.float() if bias is not None else 0.0)
                scores = {"cosine": cosine, "softmax": logits.softmax(-1), "sigmoid": logits.sigmoid()}[how]
                out[kind] = scores.cpu().numpy()
        return [{kind: scores[n] for kind, scores in out.items()} for n in range(len(images))]

    def _embedded(self) -> dict[str, Any]:
        """Kind -> the labels' embeddings, float32 [labels, width], on the model's device."""
        import torch

        if not self._texts:
            for kind, labels in self._kinds.items():
                name = f"open_clip/{hash_of(self._weights, labels, self._templates)}.npy"
                data = cached(name, None, lambda labels=labels: self._embed(labels))  # type: ignore[misc]
                array = np.load(io.BytesIO(data), allow_pickle=False)
                self._texts[kind] = torch.from_numpy(array).to(self._load().device)
        return self._texts

    def _embed(self, labels: Sequence[str]) -> bytes:
        import torch

        model, parts = self._load(), []
        for start in range(0, len(labels), _TEXTS):
            some = labels[start : start + _TEXTS]
            total = sum(
                model.encode_text([t.replace("{}", label) for label in some], normalize=True)
                for t in self._templates
            )
            parts.append(torch.nn.functional.normalize(total, dim=-1).cpu().numpy())
        out = io.BytesIO()
        np.save(out, np.concatenate(parts).astype(np.float32), allow_pickle=False)
        return out.getvalue()

    def _load(self) -> ClipModel:
        if self._loaded is None:
            set_threads()
            folder, options = self._found.folder, self._found.options
            device = choose_device(options.device, _WHERE)
            precision = PRECISION[options.dtype]
            with memory_faults(self.id):
                if self._architecture:
                    loaded = build(self._architecture, folder, precision=precision, where=_WHERE)
                else:
                    loaded = load_folder(folder, precision=precision, where=_WHERE)
                loaded.module = finish(loaded.module, self._found, _WHERE)
                self._loaded = ClipModel(loaded, device)
        return self._loaded

    def check(self) -> None:
        """Preflight: checks that weights and packages are present."""
        need("torchvision", "clip", _WHERE)
        check_weights(self._found, _WHERE)

    def content_digest(self) -> str:
        """The digest of the complete files, for `--verify`."""
        return self._found.content_digest()

    def close(self) -> None:
        """Frees the weights; the next call loads them again."""
        self._loaded, self._texts = None, {}
        give_back()


def read_vocabulary(path: Path) -> dict[str, list[str]]:
    """Kind (`objects`, `attributes`) -> labels, without repeats. UserError in one line for a file that is not
    a vocabulary."""
    where = f"{_WHERE}.vocabulary"
    if path.suffix != ".csv":
        return {"objects": list(dict.fromkeys(read_labels(path, where)))}
    kinds: dict[str, list[str]] = {"objects": [], "attributes": []}
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            rows = csv.DictReader(handle)
            if not {"label", "kind"} <= set(rows.fieldnames or ()):
                raise UserError(f"{where}: {path}: expected the columns label and kind")
            for row in rows:
                if row["kind"] not in kinds:
                    raise unknown("kind", str(row["kind"]), kinds, f"{where}: {path}, line {rows.line_num}")
                if not (row["label"] or "").strip():
                    raise UserError(f"{where}: {path}, line {rows.line_num}: an empty label")
                kinds[row["kind"]].append(" ".join(row["label"].split()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: {path}: cannot be read ({error})") from error
    found = {kind: list(dict.fromkeys(labels)) for kind, labels in kinds.items() if labels}
    if not found:
        raise UserError(f"{where}: {path}: no labels")
    return found


def _check(templates: Any, top_k: Any, cut: Any, score: Any, batch: Any) -> None:
    if (
        isinstance(templates, str)
        or not templates
        or not all(isinstance(t, str) and "{}" in t for t in templates)
    ):
        raise UserError(
            f"{_WHERE}.templates: a list of sentences with {{}} where the label goes, not {templates!r}"
        )
    check_whole(_WHERE, top_k=top_k, batch=batch)
    check_number(_WHERE, 0, 1, cut=cut)
    if score is not None and score not in SCORES:
        raise unknown("score", str(score), SCORES, _WHERE)


def _locate(model: Any, pretrained: str | None, options: HFOptions) -> tuple[str | None, Located]:
    """(open_clip's name or None, where the weights are)."""
    if pretrained is None and not _is_name(model):
        found = locate(model, options, _WHERE)
        if not (found.folder / CONFIG).is_file():
            raise UserError(f"{_WHERE}: {model} holds no {CONFIG}, so it is no model of open_clip")
        model_cfg(found.folder, _WHERE)
        return None, found
    name = str(model)
    if not _is_name(model):
        names = import_open_clip(_WHERE).list_models()
        raise unknown("model of open_clip", name, names, _WHERE)
    if pretrained is None or not Path(pretrained).is_file():
        what = f"{pretrained!r} is no file" if pretrained is not None else "it has no weights"
        raise UserError(
            f"{_WHERE}: {name}: {what}; give a local checkpoint as `pretrained`, or a hub repository as the "
            f"model"
        )
    return name, locate(pretrained, options, _WHERE)


def _is_name(model: Any) -> bool:
    """Whether open_clip has an architecture of that name (and no folder has that name)."""
    if not isinstance(model, str) or "/" in model or Path(model).exists():
        return False
    return model in import_open_clip(_WHERE).list_models()
