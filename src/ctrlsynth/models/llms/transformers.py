"""Language models by transformers (2b): any causal chat model of the hub or a local folder, on one device.

    llm: {transformers: Qwen/Qwen2-7B-Instruct, dtype: bfloat16}

For machines without vLLM. Prompts are sorted by length and padded on the left, `batch_size` at a time.
Decoding is greedy by default; a sampled row has its own generator (choice.py), so its text depends on its
seed alone. In float32 on a CPU a reply does not depend on its batch, as far as tested; in half precision or
on a GPU padding changes the last bits of logits, and rare near ties flip. JSON schemas are not enforced: the
instruction asks for them, and the write stage retries replies that do not fit."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ..base import Reply, Request, stripped_reply
from ..device import choose_device, memory_faults
from ..hub.find import HFOptions, check_quantization, locate
from ..hub.load import load_pretrained
from ..installed import need
from ..options import check_whole
from .chat import WHERE, ChatModel, check_template, too_long
from .sampling import Sampling


class TransformersLLM(ChatModel):
    """A language model in this process.

    context      tokens of prompt and reply together (default: `max_position_embeddings`); a longer prompt is
                 `prompt_too_long`
    batch_size   rows in one forward pass; belongs to no digest
    chat_template  Jinja text, for a checkpoint without one
    options      sampling (sampling.py), and revision, dtype, device, adapters, quantization, download
                 (models/hub/find.py)
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        context: int | None = None,
        batch_size: int = 16,
        chat_template: str | None = None,
        **options: Any,
    ) -> None:
        need("transformers", "transformers", WHERE)
        need("torch", "transformers", WHERE)
        check_whole(WHERE, context=context, batch_size=batch_size)
        self.sampling, rest = Sampling.split(options, WHERE)
        check_template(chat_template)
        read = HFOptions.read(rest, WHERE, (*Sampling.model_fields, "context", "batch_size", "chat_template"))
        check_quantization(read, WHERE)
        self.found = locate(model, read, WHERE)
        self.id = f"transformers:{model}"
        shaping = [
            self.found.digest(),
            json.dumps(self.sampling.model_dump(), sort_keys=True),
            context,
            chat_template,
        ]
        self.digest = f"sha256:{hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:32]}"
        self.chat_template = chat_template
        self.context, self.batch_size, self.batch = context, batch_size, 8 * batch_size

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request. Raises `ModelError("out_of_memory")` if a batch is too large for the
        device."""
        if not requests:
            return []
        model, tokenizer = self.loaded()
        context = self.context or int(getattr(model.config, "max_position_embeddings", 0) or 2**31)
        prompts = [self.tokens(request) for request in requests]
        replies = [too_long(len(ids), context) for ids in prompts]
        # rows of similar length together, the longest first, so that a lack of memory shows at once
        fitting = sorted(
            (n for n, ids in enumerate(prompts) if len(ids) < context), key=lambda n: -len(prompts[n])
        )
        for at in range(0, len(fitting), self.batch_size):
            numbers = fitting[at : at + self.batch_size]
            limits = [min(self.sampling.limit(requests[n]), context - len(prompts[n])) for n in numbers]
            with memory_faults(self.id):
                made = self._forward(
                    model,
                    tokenizer,
                    [prompts[n] for n in numbers],
                    limits,
                    [requests[n].seed for n in numbers],
                )
            for n, ids, limit in zip(numbers, made, limits, strict=True):
                replies[n] = self._reply(tokenizer, prompts[n], ids, limit)
        return replies

    def _forward(
        self, model: Any, tokenizer: Any, prompts: list[list[int]], limits: list[int], seeds: list[int]
    ) -> list[list[int]]:
        """The new token ids of each prompt, up to the largest limit. Prompts are padded on the left, so all
        replies begin at one position."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        from .choice import Choice

        ends = self._ends(model, tokenizer)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0] if ends else 0
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        # the checkpoint's generation_config.json (sampling, penalties) is ignored: the recipe decides
        config = GenerationConfig(
            max_new_tokens=max(limits), do_sample=False, num_beams=1, temperature=1.0, top_p=1.0, top_k=50,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0, pad_token_id=pad, eos_token_id=ends or None,
        )  # fmt: skip
        chosen = LogitsProcessorList([Choice(self.sampling, seeds, mask)])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=chosen
            )
        return [_cut(row, set(ends)) for row in out[:, width:].tolist()]

    def _ends(self, model: Any, tokenizer: Any) -> list[int]:
        told = getattr(model.generation_config, "eos_token_id", None)
        ends = [told] if isinstance(told, int) else list(told or ())
        return ends if tokenizer.eos_token_id in (None, *ends) else [*ends, tokenizer.eos_token_id]

    def _reply(self, tokenizer: Any, prompt: Sequence[int], ids: list[int], limit: int) -> Reply:
        """Decodes one row, cut at its own limit, since the batch ran to the largest one."""
        ended = len(ids) <= limit and bool(ids) and ids[-1] in self._ends(self.loaded()[0], tokenizer)
        raw: str = tokenizer.decode(ids[:limit], skip_special_tokens=True)
        return stripped_reply(raw, len(prompt), len(ids[:limit]), cut=not ended)

    def check(self) -> None:
        """Preflight: files, chat template and device. Loads no weights."""
        super().check()
        choose_device(self.found.options.device, WHERE)

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM

        return load_pretrained(AutoModelForCausalLM, self.found, WHERE), self.tokenizer


def _cut(ids: list[int], ends: set[int]) -> list[int]:
    """Ids up to and including the first end token; padding follows it."""
    return next((ids[: n + 1] for n, token in enumerate(ids) if token in ends), ids)
