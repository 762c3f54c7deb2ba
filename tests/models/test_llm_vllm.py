"""2b through vLLM: what is asked of it, checked against the names of its documented interface. vLLM itself
does not run here: it needs a GPU and a torch of its own. Where it is installed, the recorded names are
compared with the real ones."""

import hashlib
import importlib.util
import inspect
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from conformance import Tiny, check_llm, other_weights, request
from ctrlsynth.models.base import Reply, Request
from ctrlsynth.models.hub.find import HFOptions, locate
from ctrlsynth.models.llms import vllm as backend
from ctrlsynth.models.llms.sampling import Sampling
from ctrlsynth.models.llms.server import OpenAIServer
from ctrlsynth.models.llms.vllm import VLLM, engine_arguments, reply_of, sampling_arguments
from ctrlsynth.models.registry import load
from helpers import assert_refused

# Recorded from vLLM's documentation and source, versions 0.19 to 0.23.
LLM_NAMES = set(
    "model runner convert tokenizer tokenizer_mode skip_tokenizer_init trust_remote_code "
    "allowed_local_media_path allowed_media_domains "
    "tensor_parallel_size dtype quantization revision tokenizer_revision chat_template seed "
    "gpu_memory_utilization cpu_offload_gb "
    "enforce_eager disable_custom_all_reduce hf_token hf_overrides mm_processor_kwargs pooler_config "
    "structured_outputs_config "
    "kv_cache_memory_bytes compilation_config logits_processors".split()
)
ENGINE_NAMES = set(
    "max_model_len enable_prefix_caching generation_config enable_lora max_lora_rank max_num_seqs "
    "pipeline_parallel_size".split()
)
"""What `LLM(**kwargs)` hands on to `EngineArgs`."""
GENERATE_NAMES = set("prompts sampling_params use_tqdm lora_request priority tokenization_kwargs".split())
SAMPLING_NAMES = set(
    "n presence_penalty frequency_penalty repetition_penalty temperature top_p top_k min_p seed stop "
    "stop_token_ids ignore_eos max_tokens "
    "min_tokens logprobs prompt_logprobs detokenize skip_special_tokens structured_outputs logit_bias "
    "bad_words".split()
)
SCHEMA = {"type": "object", "properties": {"caption": {"type": "string"}}, "required": ["caption"]}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether vLLM is there is asked in one place."""
    monkeypatch.setattr(backend, "need", lambda *_: None)


def test_sampling_has_one_set_of_options() -> None:
    """CtrlSynth: greedy. SynthCLIP: temperature 0.7, top_p 0.95, presence and frequency penalty 1.0."""
    synthclip: Any = {"temperature": 0.7, "top_p": 0.95, "presence_penalty": 1.0, "frequency_penalty": 1.0}
    sampling, rest = Sampling.split(synthclip | {"dtype": "auto"}, "models.llm")
    assert sampling == OpenAIServer("m", **synthclip).sampling == Sampling(**synthclip)
    assert rest == {"dtype": "auto"}
    assert Sampling().greedy


def test_engine_arguments_are_the_documented_ones(tiny: Tiny) -> None:
    found = locate(str(tiny("mistral")), HFOptions())
    plain = engine_arguments(found)
    assert plain == {
        "model": str(tiny("mistral")), "dtype": "auto", "tensor_parallel_size": 1,
        "gpu_memory_utilization": 0.9,
        "enable_prefix_caching": True, "generation_config": "vllm", "trust_remote_code": False, "seed": 0,
    }  # fmt: skip
    adapted = locate(str(tiny("mistral")), HFOptions(adapters=(str(tiny("qwen2")),)))
    full = engine_arguments(
        adapted, dtype="bfloat16", quantization="fp8", tensor_parallel_size=4, gpu_memory_utilization=0.8,
        max_model_len=4096,
        max_lora_rank=16, engine={"enforce_eager": True, "max_num_seqs": 64},
    )  # fmt: skip
    assert full.keys() <= LLM_NAMES | ENGINE_NAMES
    names = ("tensor_parallel_size", "quantization", "enable_lora", "max_num_seqs")
    assert [full[name] for name in names] == [4, "fp8", True, 64]
    assert_refused(
        engine_arguments,
        "trust_remote_code is set by an option of its own, or not at all",
        found,
        engine={"trust_remote_code": True},
    )


def test_sampling_arguments_are_the_documented_ones() -> None:
    greedy = {
        "temperature": 0.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "repetition_penalty": 1.0, "max_tokens": 128, "seed": None,
    }  # fmt: skip
    assert greedy.keys() | {"structured_outputs"} <= SAMPLING_NAMES
    assert sampling_arguments(Sampling(), Request("x", max_tokens=128, seed=5), room=1000) == greedy
    drawn: dict[str, Any] = {
        "temperature": 0.7,
        "top_p": 0.95,
        "presence_penalty": 1.0,
        "frequency_penalty": 1.0,
    }
    for seed in (1, 2):
        request = Request("x", max_tokens=128, seed=seed)
        assert sampling_arguments(Sampling(**drawn), request, 1000) == greedy | drawn | {"seed": seed}
    for sampling, left, most in ((Sampling(max_tokens=40), 1000, 40), (Sampling(), 7, 7)):
        assert sampling_arguments(sampling, Request("x"), room=left)["max_tokens"] == most


@dataclass
class Made:
    """What a `CompletionOutput` of vLLM holds that is read here."""

    text: str
    token_ids: list[int]
    finish_reason: str = "stop"


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (Made("  A dog. \n", [4, 5, 6]), Reply("A dog.", "  A dog. \n", 9, 3)),
        (Made("A d", [4, 5], "length"), Reply("A d", None, 9, 2, "length")),
        (Made(" ", [4]), Reply("", " ", 9, 1, error="empty_reply")),
    ],
)
def test_answers_are_read_as_documented(made: Made, wanted: Reply) -> None:
    assert reply_of(types.SimpleNamespace(outputs=[made]), 9) == wanted


def said(ids: list[int]) -> str:
    return f"{len(ids)} tokens, {hashlib.sha256(str(ids).encode()).hexdigest()}"


@dataclass
class Recorder:
    """Stands where the engine would: takes only what the interface documents, notes it, and says each
    prompt's length and hash."""

    arguments: dict[str, Any]
    calls: list[dict[str, Any]] = field(default_factory=list)

    @property
    def model_config(self) -> Any:
        return types.SimpleNamespace(max_model_len=self.arguments.get("max_model_len", 512))

    def generate(self, prompts: Any, sampling_params: Any = None, **more: Any) -> list[Any]:
        assert {"prompts", "sampling_params", *more} <= GENERATE_NAMES
        assert len(prompts) == len(sampling_params)
        self.calls.append({"prompts": prompts, "params": sampling_params, **more})
        return [types.SimpleNamespace(outputs=[Made(said(p["prompt_token_ids"]), [1, 2])]) for p in prompts]


def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """A module by vLLM's name whose classes refuse names that the recorded interface lacks."""
    made: list[Recorder] = []

    def llm(**arguments: Any) -> Recorder:
        assert arguments.keys() <= LLM_NAMES | ENGINE_NAMES
        made.append(Recorder(arguments))
        return made[-1]

    def sampling_params(**arguments: Any) -> dict[str, Any]:
        assert arguments.keys() <= SAMPLING_NAMES
        return arguments

    parts: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": llm, "SamplingParams": sampling_params},
        "vllm.sampling_params": {"StructuredOutputsParams": lambda json: {"json": json}},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": lambda name, number, path: (name, number, path)},
    }
    for name, members in parts.items():
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**members))
    return made


@pytest.mark.usefixtures("installed")
def test_a_call_keeps_order_and_sets_long_prompts_aside(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stand_in(monkeypatch)
    model = load({"vllm": str(tiny("qwen2")), "adapters": str(tiny("mistral"))}, "llm")
    assert made == []  # nothing is loaded before it is asked
    asked = [
        request("dog"),
        Request("word " * 600),
        Request("a longer question than the first", schema=SCHEMA),
        request("dog"),
    ]
    replies = model.generate(asked)
    wanted = [Reply(said(ids), None, len(ids), 2) for ids in map(model.tokens, asked)]
    wanted[1] = Reply("", f"{len(model.tokens(asked[1]))} tokens of 512", error="prompt_too_long")
    assert replies == wanted
    (call,) = made[0].calls
    assert [p["structured_outputs"] for p in call["params"]] == [None, {"json": SCHEMA}, None]
    assert (call["use_tqdm"], call["lora_request"]) == (False, ("adapter", 1, str(tiny("mistral"))))
    assert model.generate([]) == []
    model.close()
    model.generate(asked[:1])
    assert len(made) == 2  # started again


@pytest.mark.usefixtures("installed")
def test_digest_is_of_what_shapes_a_reply(tiny: Tiny, tmp_path: Path) -> None:
    def digest(folder: Path | None = None, **options: Any) -> str:
        return str(VLLM(str(folder or tiny("qwen2")), **options).digest)

    plain = digest()
    assert digest(gpu_memory_utilization=0.5) == plain
    shaping: list[dict[str, Any]] = [
        {"temperature": 0.7}, {"dtype": "float16"}, {"quantization": "awq"}, {"max_model_len": 256},
        {"tensor_parallel_size": 2},
        {"max_tokens": 9}, {"engine": {"enforce_eager": True}}, {"adapters": [str(tiny("mistral"))]},
    ]  # fmt: skip
    other = digest(other_weights(tiny("qwen2"), tmp_path / "other"))
    assert len({digest(**o) for o in shaping} | {plain, other}) == len(shaping) + 2


@pytest.mark.usefixtures("installed")
def test_options_and_files_are_checked_before_it_runs(tiny: Tiny, tmp_path: Path) -> None:
    model = VLLM(str(tiny("mistral")))
    model.check()
    assert (
        VLLM(str(tiny("mistral")), device="cuda").digest != model.digest
    )  # the kind of device belongs to it, as everywhere
    assert model.prompt(Request("Say hello.")) == "<s>[INST] Say hello. [/INST]"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"adapters": ["a", "b"]}, "one adapter"), ({"tensor_parallel_size": 0}, "tensor_parallel_size"),
        ({"gpu_memory_utilization": 2}, "gpu_memory_utilization"), ({"temprature": 1},
        "did you mean " "'temperature'"),
        ({"device": "cpu"}, "device: auto or cuda, not 'cpu'; CUDA_VISIBLE_DEVICES"),
    ]  # fmt: skip
    for options, message in wrong:
        assert_refused(load, message, {"vllm": str(tiny("mistral")), **options}, "llm")


@pytest.mark.usefixtures("installed")
def test_an_older_interface_is_refused_before_the_first_call(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 0.11 guided JSON was `GuidedDecodingParams`; what is not installed or comes from a branch
    passes."""
    model = VLLM(str(tiny("mistral")))
    for told in ("0.19.0", "0.23.0rc1", "1.0", "dev"):
        monkeypatch.setattr(backend, "version_of", Mock(return_value=told))
        model.check()
    for told in ("0.10.2", "0.18.9"):
        monkeypatch.setattr(backend, "version_of", Mock(return_value=told))
        message = rf"^models.llm: vllm {told} has another interface than 0.19 and later; pip install"
        assert_refused(model.check, message)


@pytest.mark.usefixtures("installed")
def test_conformance_of_what_surrounds_the_engine(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, number, long rows, a poisoned one: the suite of all backends, with an engine in vLLM's place
    that says its prompt's hash."""
    stand_in(monkeypatch)
    other = other_weights(tiny("mistral"), tmp_path / "other")
    check_llm(lambda: VLLM(str(tiny("mistral"))), lambda: VLLM(str(other)))


def test_absent_vllm_is_one_sentence_or_its_interface_is_the_recorded_one() -> None:
    if importlib.util.find_spec("vllm") is None:
        assert_refused(
            load,
            r"^models.llm: vllm is not installed; pip install 'ctrlsynth\[vllm\]'$",
            "vllm:mistralai/Mistral-Nemo-Instruct-2407",
            "llm",
        )
        return
    from vllm import LLM, EngineArgs, SamplingParams  # type: ignore[attr-defined, unused-ignore]

    sampling = {*sampling_arguments(Sampling(), Request("x"), 9), "structured_outputs"}
    used = {"prompts", "sampling_params", "use_tqdm", "lora_request"}
    for interface, names in ((LLM.generate, used), (SamplingParams, sampling), (EngineArgs, ENGINE_NAMES)):
        assert set(inspect.signature(interface).parameters) >= names
