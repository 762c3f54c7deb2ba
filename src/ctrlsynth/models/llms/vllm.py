"""Language models by vLLM's offline engine (2b).

    llm: {vllm: mistralai/Mistral-Nemo-Instruct-2407}                                      # CtrlSynth: greedy
    llm: {vllm: mistralai/Mistral-7B-Instruct-v0.2, temperature: 0.7, top_p: 0.95,
          presence_penalty: 1.0, frequency_penalty: 1.0}                                   # SynthCLIP

Written against the interface that vLLM documents (0.19 to 0.23): `LLM(...)`, `LLM.generate` with token ids
and one `SamplingParams` per prompt, `StructuredOutputsParams`, `LoRARequest`. The preflight rejects older
versions, whose guided JSON was `GuidedDecodingParams`. vLLM needs a GPU and its own torch, so the engine
itself does NOT run in the project's tests. They cover the functions that turn options and requests into its
arguments (`engine_arguments`, `sampling_arguments`, against recorded names of that interface), the prompts
(chat.py, on real tokenizers), and the reading of its answers.

Prefix caching is on, so the fixed head of the templates is computed once. Greedy replies may differ in rare
words with the rest of the batch, because vLLM's kernels sum in another order."""

import gc
import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import UserError
from ..base import Reply, Request, stripped_reply
from ..hub.find import HFOptions, Located, locate
from ..installed import need, version_of
from ..options import check_number, check_whole
from .chat import WHERE, ChatModel, check_template, too_long
from .sampling import Sampling

OLDEST = (0, 19)
_SHAPING = ("dtype", "quantization", "max_model_len", "tensor_parallel_size")


class VLLM(ChatModel):
    """A language model on the GPUs of this process.

    revision, adapters, download as in models/hub/find.py; one LoRA adapter at most
    device                       auto or cuda: the GPUs that CUDA_VISIBLE_DEVICES, or Ray, leaves to this
                                 process
    dtype                        auto, bfloat16, float16, float32
    quantization                 vLLM's name: awq, gptq, fp8, bitsandbytes, ...; None: the checkpoint's own
    tensor_parallel_size         GPUs that share the model
    gpu_memory_utilization       share of each GPU's memory that vLLM takes; belongs to no digest
    max_model_len                tokens of prompt and reply together (default: the checkpoint's); a longer
                                 prompt is `prompt_too_long`
    max_lora_rank                the largest rank of the adapter
    chat_template                Jinja text, for a checkpoint without one
    engine                       further arguments of `vllm.LLM`, such as {enforce_eager: true}; they belong
                                 to the digest
    sampling                     as in sampling.py
    """

    packages = ()  # the constructor checks for vllm
    batch = 2048  # vLLM has its own queue, and a call ends with few rows in flight

    def __init__(
        self,
        model: str | None = None,
        *,
        dtype: str = "auto",
        quantization: str | None = None,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        max_lora_rank: int = 64,
        chat_template: str | None = None,
        engine: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.sampling, shared = Sampling.split(options, WHERE)
        read = HFOptions.read(shared, WHERE, (*inspect.signature(VLLM).parameters, *Sampling.model_fields))
        if len(read.adapters) > 1:
            raise UserError(
                f"{WHERE}.adapters: vllm takes one adapter, not {len(read.adapters)}; merge them first"
            )
        check_whole(
            WHERE,
            tensor_parallel_size=tensor_parallel_size,
            max_model_len=max_model_len,
            max_lora_rank=max_lora_rank,
        )
        check_number(WHERE, 0.01, 1, null=False, gpu_memory_utilization=gpu_memory_utilization)
        if read.device not in ("auto", "cuda"):
            raise UserError(
                f"{WHERE}.device: auto or cuda, not {read.device!r}; CUDA_VISIBLE_DEVICES says which GPUs "
                f"vllm may use"
            )
        check_template(chat_template)
        need("vllm", "vllm", WHERE)
        self.found = locate(model, read, WHERE)
        self.arguments = engine_arguments(
            self.found,
            dtype=dtype,
            quantization=quantization,
            tensor_parallel_size=tensor_parallel_size,
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_model_len,
            max_lora_rank=max_lora_rank,
            engine=engine,
        )
        self.id = f"vllm:{model}"
        shaping = {name: self.arguments.get(name) for name in _SHAPING}
        shaping |= {"engine": engine, "chat_template": chat_template}
        text = json.dumps(
            [self.found.digest(), shaping, self.sampling.model_dump()], sort_keys=True, default=str
        )
        self.digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        self.chat_template = chat_template

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request."""
        if not requests:
            return []
        engine = self.loaded()
        context = int(engine.model_config.max_model_len)
        prompts = [self.tokens(request) for request in requests]
        fitting = [n for n, ids in enumerate(prompts) if len(ids) < context]
        outputs = engine.generate(
            [{"prompt_token_ids": prompts[n]} for n in fitting],
            [self._params(requests[n], context - len(prompts[n])) for n in fitting],
            use_tqdm=False,
            lora_request=self._adapter(),
        )
        replies = [too_long(len(ids), context) for ids in prompts]
        for n, output in zip(fitting, outputs, strict=True):
            replies[n] = reply_of(output, len(prompts[n]))
        return replies

    def _params(self, request: Request, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        held = StructuredOutputsParams(json=dict(request.schema)) if request.schema is not None else None
        return SamplingParams(**sampling_arguments(self.sampling, request, room), structured_outputs=held)

    def _adapter(self) -> Any:
        if not self.found.adapters:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, str(self.found.adapters[0].folder))

    def check(self) -> None:
        """Preflight: vLLM's version, files and chat template. Loads no weights."""
        check_version()
        super().check()

    def _load(self) -> Any:
        from vllm import LLM

        return LLM(**self.arguments)

    def close(self) -> None:
        """Ends the engine and its processes; a later call starts them again."""
        self._loaded = None
        gc.collect()


def engine_arguments(
    found: Located,
    *,
    dtype: str = "auto",
    quantization: str | None = None,
    tensor_parallel_size: int = 1,
    gpu_memory_utilization: float = 0.9,
    max_model_len: int | None = None,
    max_lora_rank: int = 64,
    engine: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The arguments of `vllm.LLM`: the files at hand, nothing of the repository's code, nothing of its
    generation defaults."""
    arguments: dict[str, Any] = {
        "model": str(found.folder),
        "dtype": dtype,
        "tensor_parallel_size": tensor_parallel_size,
        "gpu_memory_utilization": gpu_memory_utilization,
        "enable_prefix_caching": True,
        "generation_config": "vllm",
        "trust_remote_code": False,
        "seed": 0,
    }
    if quantization is not None:
        arguments["quantization"] = quantization
    if max_model_len is not None:
        arguments["max_model_len"] = max_model_len
    if found.adapters:
        arguments |= {"enable_lora": True, "max_lora_rank": max_lora_rank}
    further = dict(engine or {})
    taken = sorted(further.keys() & {*arguments, "trust_remote_code"})
    if taken:
        raise UserError(f"{WHERE}.engine: {', '.join(taken)} is set by an option of its own, or not at all")
    return arguments | further


def sampling_arguments(sampling: Sampling, request: Request, room: int) -> dict[str, Any]:
    """The arguments of `vllm.SamplingParams` for one request, its JSON schema aside; `room` is what the
    context leaves for the reply. Greedy decoding needs no seed; a seed a request keeps a row's text apart
    from its batch's chance."""
    return {
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "presence_penalty": float(sampling.presence_penalty),
        "frequency_penalty": float(sampling.frequency_penalty),
        "repetition_penalty": float(sampling.repetition_penalty),
        "max_tokens": min(sampling.limit(request), room),
        "seed": None if sampling.greedy else request.seed,
    }


def check_version() -> None:
    """UserError for a vLLM from before `OLDEST`: it would fail in the middle of the run, at its first
    JSON."""
    found = re.match(r"(\d+)\.(\d+)", version_of("vllm") or "")  # no match: built from a branch
    if found and (int(found[1]), int(found[2])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise UserError(
            f"{WHERE}: vllm {found.string} has another interface than {wanted} and later; pip install "
            f"'vllm>={wanted}'"
        )


def reply_of(output: Any, prompt_tokens: int) -> Reply:
    """vLLM's `RequestOutput` as a Reply."""
    made = output.outputs[0]
    return stripped_reply(made.text, prompt_tokens, len(made.token_ids), cut=made.finish_reason == "length")
