"""Finds models by name in a plain table of `name -> "module:Class"`, imported on use; any
`package.module:Class` works as well."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UserError, unknown
from ..recipe.code import is_code, load_code
from .base import LanguageModel, Model, SafetyJudge, TextToImageModel, VisionTagger

Role = Literal["tagger", "llm", "text_to_image", "safety"]

_HERE = "ctrlsynth.models"
NAMES: dict[Role, dict[str, str]] = {
    "tagger": {
        "imagenet": f"{_HERE}.embedded.imagenet.tagger:ImageNetTagger",
        "wordnet": f"{_HERE}.embedded.wordnet.tagger:WordNetTagger",
        "reference": f"{_HERE}.embedded.reference.tagger:ReferenceTagger",
        "hybrid": f"{_HERE}.taggers.hybrid:HybridTagger",
        "extract": f"{_HERE}.taggers.extract:ExtractTagger",
        "captioner": f"{_HERE}.taggers.captioner:CaptionerTagger",
        "florence2": f"{_HERE}.taggers.captioner:Florence2Tagger",
        "classifier": f"{_HERE}.taggers.classifier:ClassifierTagger",
        "catlip": f"{_HERE}.taggers.catlip:CatLIPTagger",
        "open_clip": f"{_HERE}.taggers.open_clip:OpenCLIPTagger",
        "openai": f"{_HERE}.taggers.server:VisionServerTagger",
    },
    "llm": {
        "smollm2": f"{_HERE}.llms.llama_cpp.engine:SmolLM2",
        "llama.cpp": f"{_HERE}.llms.llama_cpp.engine:LlamaCpp",
        "realizer": f"{_HERE}.embedded.realizer.writer:Realizer",
        "openai": f"{_HERE}.llms.server:OpenAIServer",
        "transformers": f"{_HERE}.llms.transformers:TransformersLLM",
        "vllm": f"{_HERE}.llms.vllm:VLLM",
        "naive": f"{_HERE}.llms.naive:Naive",
    },
    "text_to_image": {
        "scenes": f"{_HERE}.embedded.scenes.painter:Scenes",
        "diffusers": f"{_HERE}.text_to_image.diffusers.painter:Diffusers",
        "openai": f"{_HERE}.text_to_image.server:ImageServer",
    },
    "safety": {"opennsfw": f"{_HERE}.embedded.opennsfw.judge:OpenNSFW"},
}
# Base class of each role, and the method that its models must define.
_BASES: dict[Role, tuple[type[Model], str]] = {
    "tagger": (VisionTagger, "tag"),
    "llm": (LanguageModel, "generate"),
    "text_to_image": (TextToImageModel, "generate"),
    "safety": (SafetyJudge, "score"),
}
_OPTIONS_TOO = {"extract"}  # models that are also options of other models


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as a recipe names it: a known backend or a `package.module:Class`, the model it loads, and
    options of its class."""

    backend: str
    model: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.backend if self.model is None else f"{self.backend}:{self.model}"


def parse_spec(value: Any, role: Role, where: str = "models") -> ModelSpec:
    """`smollm2`, `llama.cpp:path.gguf`, `my.module:Class`, `{vllm: name, temperature: 0}`, `{hybrid: [a, b]}`
    -> ModelSpec."""
    names = NAMES[role]
    if isinstance(value, str):
        head, _, rest = value.partition(":")
        if head in names:
            return ModelSpec(head, rest or None)
        if is_code(value):
            return ModelSpec(value)
        raise unknown(f"{role} model", value, names, where)
    if isinstance(value, Mapping):
        heads = [k for k in value if k in names or is_code(k)]
        if len(heads) > 1:  # {captioner: X, extract: Y}: the captioner's option
            heads = [k for k in heads if k not in _OPTIONS_TOO]
        if len(heads) == 1:
            return ModelSpec(heads[0], value[heads[0]], {k: v for k, v in value.items() if k != heads[0]})
        if not heads and value:
            raise unknown(f"{role} model", str(next(iter(value))), names, where)
    raise UserError(
        f"{where}: a {role} model is a name such as {next(iter(names))!r} or a mapping "
        f"{{name: what, option: value}}, not {value!r}"
    )


def model_class(spec: ModelSpec, role: Role, where: str) -> Any:
    """The class behind a model's name."""
    return load_code(NAMES[role].get(spec.backend, spec.backend), where, [_BASES[role][1]])


def load(value: Any, role: Role, where: str = "models") -> Any:
    """Builds the model that a recipe names. Options that its class does not take are an error that lists
    the ones it takes."""
    spec = value if isinstance(value, ModelSpec) else parse_spec(value, role, where)
    cls, base = model_class(spec, role, where), _BASES[role][0]
    if not issubclass(cls, base):  # the base provides the hooks that the class lacks
        cls = type(cls.__name__, (cls, base), {"__module__": cls.__module__})
    parameters = inspect.signature(cls).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in spec.options:
            if name not in known:
                raise unknown(f"option of {spec.backend}", name, [k for k in known if k != "model"], where)
    return cls(spec.model, **spec.options) if spec.model is not None else cls(**spec.options)
