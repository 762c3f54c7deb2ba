"""Encodes prompts for a diffusers pipeline (2c): counts tokens, cuts or chunks long prompts, weighs phrases.

CLIP reads 77 tokens. A longer prompt is cut there, or encoded in chunks of at most 75 tokens (split at a
sentence's end if possible) whose embeddings are concatenated, as web interfaces do. A weight multiplies what
the phrase's tokens add to an empty prompt's embedding; below 1 the prompt is mixed with one that masks them.
Chunks and weights are those of the library compel. Its prompt language is never used: a text is passed as
pieces with a factor each, so nothing in a caption, such as `(((dog)))++`, is read as syntax."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ....lang.phrases import places
from ...base import Painting
from ...installed import need

FAMILIES = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}
"""Pipelines with known text encoders: they can weigh phrases, and their token limits are known."""
CHUNKS = ("sd", "sdxl")
"""Families that read CLIP only, so that chunks recover what would be cut. T5 reads 256 (SD3) or 512 (FLUX)
tokens."""
Piece = tuple[str, float]
"""A piece of a prompt and its factor."""


def pieces(text: str, weights: Mapping[str, float]) -> tuple[list[Piece], tuple[str, ...]]:
    """Splits the text at weighted phrases; returns the pieces and the phrases that it lacks.

    The pieces joined are the text. Longer phrases go first, and no word is weighed twice (`big dog` before
    `dog`). A factor of 1 splits nothing."""
    taken: list[tuple[int, int, float]] = []
    unused = []
    for phrase, factor in sorted(weights.items(), key=lambda w: (-len(w[0]), w[0])):
        found = [
            (a, b)
            for a, b in places(text, phrase)
            if not any(a < end and b > start for start, end, _ in taken)
        ]
        if not found:
            unused.append(phrase)
        taken += [(a, b, float(factor)) for a, b in found if factor != 1]
    out: list[Piece] = []
    at = 0
    for start, end, factor in sorted(taken):
        out += [(text[at:start], 1.0)] if text[at:start].strip() else []
        out.append((text[start:end], factor))
        at = end
    out += [(text[at:], 1.0)] if text[at:].strip() or not out else []
    return out, tuple(unused)


class TextReader:
    """The text side of one loaded pipeline of `family` (one of `FAMILIES`' values)."""

    def __init__(self, pipe: Any, family: str, chunk: bool, where: str) -> None:
        self._pipe, self.family, self._chunk, self._where = pipe, family, chunk and family in CHUNKS, where
        self._t5: str | None
        self._t5, self.t5_limit = {"sd3": ("_3", 256), "flux": ("_2", 512)}.get(family, (None, 0))
        if self._t5 is not None and getattr(pipe, f"text_encoder{self._t5}", None) is None:
            self._t5 = None  # SD3 runs without its T5, to save memory

    def literal(self, text: str) -> str:
        """The text with the names of special tokens (`<|endoftext|>`, `</s>`) taken apart by a space, so that
        a caption that holds one can't end the prompt. SDXL's `!`, which is both padding and a letter,
        stays."""
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Matches the special tokens' names, longer ones first; nothing without any."""
        tokenizers = [getattr(self._pipe, f"tokenizer{suffix}", None) for suffix in ("", "_2", "_3")]
        names = {name for t in tokenizers if t is not None for name in t.all_special_tokens if len(name) > 3}
        ordered = sorted(names, key=lambda name: (-len(name), name))
        return re.compile("|".join(map(re.escape, ordered)) or "(?!)")

    def read(self, parts: list[Piece]) -> Painting:
        """How a prompt is read, by the pipeline's own tokenizers: `tokens`, `truncated` and `chunks` of its
        painting."""
        tokenizer, text = self._pipe.tokenizer, "".join(part for part, _ in parts)
        tokens = len(tokenizer(text, verbose=False).input_ids)
        if self._chunk:
            return Painting(None, tokens=tokens, truncated=False, chunks=self._chunks(parts))
        if self._t5 is not None:
            words = getattr(self._pipe, f"tokenizer{self._t5}")(text, verbose=False).input_ids
            return Painting(None, tokens=tokens, truncated=len(words) > self.t5_limit)
        return Painting(None, tokens=tokens, truncated=tokens > tokenizer.model_max_length)

    def _chunks(self, parts: list[Piece]) -> int:
        """As it is encoded: pieces are tokenized each by itself, which can make a token more of an odd
        character between them."""
        provider = self._providers[0]
        ids, _, _ = provider.get_token_ids_and_expand_weights(
            [part for part, _ in parts], [f for _, f in parts], device="cpu"
        )
        return int(ids.shape[0]) // int(provider.max_token_count)

    def encode(self, parts: list[Piece], negative: str | None, length: int = 1) -> dict[str, Any]:
        """Embeddings of one prompt as the pipeline's own arguments, each with a batch of 1; None for
        `negative` leaves its own out, and the pipeline does with no negative prompt what it always does.
        `length`: chunks that both are filled up to."""
        import torch

        with torch.no_grad():
            prompt, pooled = self._embed(parts, length)
            out = {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled}
            if negative is not None:
                embeds, pooled = self._embed([(negative, 1.0)], length)
                out |= {"negative_prompt_embeds": embeds, "negative_pooled_prompt_embeds": pooled}
        return {name: tensor for name, tensor in out.items() if tensor is not None}

    def _embed(self, parts: list[Piece], length: int) -> tuple[Any, Any]:
        """What `encode_prompt` of the family's pipeline makes of a prompt: its embeddings and the pooled one
        (None where there is none)."""
        import torch

        text = "".join(part for part, _ in parts)
        towers = [self._filled(provider, parts, length) for provider in self._providers]
        if self.family == "sd":
            return towers[0], None
        if self.family == "sdxl":
            return torch.cat(towers, dim=-1), self._pooled(1, text)
        if self.family == "flux":
            return towers[0], self._pooled(0, text)
        clip = torch.cat(towers[:2], dim=-1)
        width = self._pipe.transformer.config.joint_attention_dim
        words = towers[2] if self._t5 is not None else clip.new_zeros(1, self.t5_limit, width)
        clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
        return torch.cat([clip, words.to(clip.dtype)], dim=-2), torch.cat(
            [self._pooled(0, text), self._pooled(1, text)], dim=-1
        )

    def _filled(self, provider: Any, parts: list[Piece], length: int) -> Any:
        """One encoder's embeddings, filled with an empty prompt's up to `length` chunks."""
        import torch

        found = provider.get_embeddings_for_weighted_prompt_fragments(
            [[part for part, _ in parts]], [[factor for _, factor in parts]], device=provider.device
        )
        missing = length - found.shape[1] // provider.max_token_count
        return torch.cat([found, *[provider.empty_z.to(found)] * missing], dim=1) if missing > 0 else found

    def _pooled(self, number: int, text: str) -> Any:
        """The pooled embedding of CLIP's tower `number`: of the first 77 tokens, unweighted, as the pipelines
        make it."""
        suffix = f"_{number + 1}" if number else ""
        tokenizer, encoder = (getattr(self._pipe, name + suffix) for name in ("tokenizer", "text_encoder"))
        ids = tokenizer(
            text,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        out = encoder(ids.to(encoder.device))
        return (out.pooler_output if self.family == "flux" else out.text_embeds).to(encoder.dtype)

    @cached_property
    def _providers(self) -> list[Any]:
        """compel's provider of each encoder that gives embeddings a token."""
        need("compel", "diffusers", self._where)
        from compel.embeddings_provider import ReturnedEmbeddingsType as Kind

        last, inner = Kind.LAST_HIDDEN_STATES_NORMALIZED, Kind.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
        wanted = {
            "sd": [("", last)],
            "sdxl": [("", inner), ("_2", inner)],
            "sd3": [("", inner), ("_2", inner)],
            "flux": [],
        }[self.family]
        towers = [self._provider(suffix, kind, None) for suffix, kind in wanted]
        if self._t5 is not None:
            towers.append(self._provider(self._t5, last, self.t5_limit))
        return towers

    def _provider(self, suffix: str, kind: Any, limit: int | None) -> Any:
        from compel.embeddings_provider import EmbeddingsProvider

        encoder, tokenizer = (getattr(self._pipe, name + suffix) for name in ("text_encoder", "tokenizer"))
        # has been said: `truncated`, `chunks`
        tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
        return EmbeddingsProvider(
            tokenizer=tokenizer,
            text_encoder=encoder,
            dtype_for_device_getter=lambda device: encoder.dtype,
            truncate=not self._chunk,
            returned_embeddings_type=kind,
            model_max_length=limit,
        )
