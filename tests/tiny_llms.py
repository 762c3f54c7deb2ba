"""Tiny real chat models for the tests (tiny_models.py says how they are used): two layers, random weights,
real tokenizers."""

from pathlib import Path
from typing import Any

import torch
import transformers

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + "
    "message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def chat_tokenizer(template: str | None = CHATML, bos: str = "<|endoftext|>", eos: str = "<|im_end|>") -> Any:
    """A byte-level BPE made from a few sentences, so that every text goes in and comes out whole; no pad
    token, as many checkpoints."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(dict.fromkeys([bos, eos, "<|im_start|>"])),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [
            "a an the red blue green dog cat ball bird tree house boat car chair on in of with and near "
            "under big small photo painting is",
            "Write one sentence about a red dog and a blue car.",
        ],
        trainer,
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, chat_template=template
    )


def qwen2(folder: Path, seed: int = 0, template: str | None = CHATML) -> Path:
    """Qwen2's class with two layers, 512 positions, a generation_config.json that asks for sampling, as
    Qwen2's does."""
    torch.manual_seed(seed)
    tokenizer = chat_tokenizer(template)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.4, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config).eval()
    model.generation_config.update(
        do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05
    )
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def mistral(folder: Path) -> Path:
    """Mistral's class with two layers, [INST] template, float32 weights."""

    torch.manual_seed(1)
    tokenizer = chat_tokenizer(INST, "<s>", "</s>")
    config = transformers.MistralConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.4, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.MistralForCausalLM(config).eval().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def llm_lora(base: Path, folder: Path, seed: int = 0) -> Path:
    """A LoRA adapter of peft for a checkpoint of `qwen2` or `mistral`, with weights that do something."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    )
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder
