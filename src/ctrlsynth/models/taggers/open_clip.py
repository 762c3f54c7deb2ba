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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import UserError, unknown
from ..cache import cached
from ..device import choose_device, memory_faults
from ..hub.files import hash_of
from ..hub.find import HFOptions, Located, locate
from ..hub.load import check_plain, finish
from ..installed import need
from ..open_clip.encode import ClipModel
from ..open_clip.load import CONFIG, build, import_open_clip, load_folder, model_cfg
from .classifier import PixelTagger
from .labels import Chooser, Scores, read_labels

_VERSION = 1  # part of the digest: raise it when the same weights would give other tags
_WHERE = "models.tagger"
_TEXTS = 256  # texts per batch
TEMPLATES = ("a photo of a {}.",)
SCORES = ("cosine", "softmax", "sigmoid")
PRECISION = {"auto": "fp32", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class OpenCLIPTagger(PixelTagger):
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
        asked = HFOptions.read(
            options, _WHERE, ("vocabulary", "pretrained", "templates", "top_k", "cut", "score", "batch")
        )
        super().__init__(f"open_clip:{model}", top_k, cut, batch)
        if (
            isinstance(templates, str)
            or not templates
            or not all(isinstance(t, str) and "{}" in t for t in templates)
        ):
            raise UserError(
                f"{_WHERE}.templates: a list of sentences with {{}} where the label goes, not {templates!r}"
            )
        if score is not None and score not in SCORES:
            raise unknown("score", str(score), SCORES, _WHERE)
        check_plain(asked, _WHERE)
        self._architecture, self.found = _locate(model, pretrained, asked)
        self._kinds = read_vocabulary(Path(vocabulary))
        self._choosers = {
            kind: Chooser(labels, top_k, float(cut), add=False) for kind, labels in self._kinds.items()
        }
        self._templates, self._score = tuple(templates), score
        self._weights = hash_of(_VERSION, self._architecture, self.found.digest())
        self.digest = hash_of(
            "open_clip", self._weights, self._kinds, self._templates, top_k, float(cut), score
        )

    def _scores(self, images: Sequence[Image.Image]) -> list[dict[str, Scores]]:
        import torch

        model, texts = self.loaded()
        with memory_faults(self.id), torch.inference_mode():
            seen = model.encode_image(images, normalize=True)
            scale, bias = model.module.logit_scale.exp().float(), getattr(model.module, "logit_bias", None)
            how = self._score or ("cosine" if bias is None else "sigmoid")
            out = {}
            for kind, embedded in texts.items():
                cosine = seen @ embedded.T
                logits = cosine * scale + (bias.float() if bias is not None else 0.0)
                scores = {"cosine": cosine, "softmax": logits.softmax(-1), "sigmoid": logits.sigmoid()}[how]
                out[kind] = scores.cpu().numpy()
        return [{kind: scores[n] for kind, scores in out.items()} for n in range(len(images))]

    def _load(self) -> tuple[ClipModel, dict[str, Any]]:
        """The model and the embeddings of its labels."""
        folder, options = self.found.folder, self.found.options
        device = choose_device(options.device, _WHERE)
        precision = PRECISION[options.dtype]
        with memory_faults(self.id):
            if self._architecture:
                loaded = build(self._architecture, folder, precision=precision, where=_WHERE)
            else:
                loaded = load_folder(folder, precision=precision, where=_WHERE)
            loaded.module = finish(loaded.module, self.found, _WHERE)
            model = ClipModel(loaded, device)
            return model, self._embedded(model)

    def _embedded(self, model: ClipModel) -> dict[str, Any]:
        """Kind -> the labels' embeddings, float32 [labels, width], on the model's device."""
        import torch

        out = {}
        for kind, labels in self._kinds.items():
            name = f"open_clip/{hash_of(self._weights, labels, self._templates)}.npy"
            data = cached(name, None, partial(self._embed, model, labels))
            array = np.load(io.BytesIO(data), allow_pickle=False)
            out[kind] = torch.from_numpy(array).to(model.device)
        return out

    def _embed(self, model: ClipModel, labels: Sequence[str]) -> bytes:
        import torch

        parts = []
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

    def check(self) -> None:
        """Preflight: checks that weights and packages are present."""
        need("torchvision", "clip", _WHERE)
        super().check()


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


def _locate(model: Any, pretrained: str | None, options: HFOptions) -> tuple[str | None, Located]:
    """(open_clip's name or None, where the weights are)."""
    name = str(model)
    known = "/" not in name and not Path(name).exists() and name in import_open_clip(_WHERE).list_models()
    if not known and pretrained is None:
        found = locate(model, options, _WHERE)
        if not (found.folder / CONFIG).is_file():
            raise UserError(f"{_WHERE}: {model} holds no {CONFIG}, so it is no model of open_clip")
        model_cfg(found.folder, _WHERE)
        return None, found
    if not known:
        raise unknown("model of open_clip", name, import_open_clip(_WHERE).list_models(), _WHERE)
    if pretrained is None or not Path(pretrained).is_file():
        what = f"{pretrained!r} is no file" if pretrained is not None else "it has no weights"
        raise UserError(
            f"{_WHERE}: {name}: {what}; give a local checkpoint as `pretrained`, or a hub repository as the "
            f"model"
        )
    return name, locate(pretrained, options, _WHERE)
