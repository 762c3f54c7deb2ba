"""Tiny real checkpoints that look at pictures, saved to a folder the way a hub stores them; beside those of
tiny_models.py.

Most are random. `florence2` has learned in a few steps to say which of two colours fills a picture, so that
what is extracted from its captions can be told right from wrong."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from ctrlsynth.models.base import ImageAndText
from ctrlsynth.models.device import make_torchvision_importable

make_torchvision_importable()

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a an the red blue green dog cat ball bird tree boat on in of with and big "
    "small".split()
)
BERT = transformers.BertTokenizerFast(vocab={word: n for n, word in enumerate(WORDS)})
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 160, 30)}
THINGS = {"red": "a red boat on the water", "blue": "a blue bird in a tree"}
"""What `florence2` says of a picture of one colour."""


def picture(colour: str, size: tuple[int, int] = (50, 30), mode: str = "RGB") -> Image.Image:
    """A picture of one of `COLOURS`."""
    return Image.new("RGB", size, COLOURS[colour]).convert(mode)


def pictures(*colours: str) -> list[ImageAndText]:
    """A tagger's items, a picture of one colour each."""
    return [ImageAndText(picture(colour)) for colour in colours]


@dataclass
class Cramped:
    """Does `work` for at most `most` rows at once, as if more did not fit into memory; `seen` are the rows of
    each call."""

    work: Callable[..., Any]
    most: int
    seen: list[int] = field(default_factory=list)

    def __call__(self, **rows: Any) -> Any:
        self.seen.append(len(next(iter(rows.values()))))
        if self.seen[-1] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.work(**rows)


def words_tokenizer(texts: list[str], **more: Any) -> Any:
    """A byte-level BPE tokenizer trained on the texts, with BART's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        **more,
    )


def florence2(folder: Path) -> Path:
    """Florence2ForConditionalGeneration with its processor; 32 px, some 30,000 parameters; says one of
    `THINGS`."""
    torch.manual_seed(0)
    texts = [*THINGS.values(), "Describe with a paragraph what is shown in the image."]
    tokenizer = words_tokenizer(texts, extra_special_tokens={"image_token": "<image>"})
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2}
    vision = Florence2VisionConfig(
        depths=[1, 1, 1, 1], embed_dim=[8, 8, 16, 16], num_heads=[1, 1, 2, 2], num_groups=[1, 1, 2, 2],
        window_size=2,
        projection_dim=32, max_position_embeddings=8, drop_path_rate=0.0,
    )  # fmt: skip
    text = transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=1100, dropout=0.0, **ends,
    )  # fmt: skip
    model = transformers.Florence2ForConditionalGeneration(
        transformers.Florence2Config(
            vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id, **ends
        )
    )
    size = {"height": 32, "width": 32}
    images = transformers.CLIPImageProcessor(size=size, do_center_crop=False)
    images.image_seq_length = 2
    processor = transformers.Florence2Processor(images, tokenizer, post_processor_config={"pure_text": {}})
    _teach(model, processor)
    return _saved(folder, model, processor)


def blip(folder: Path) -> Path:
    """BlipForConditionalGeneration with its processor; random, but with weights large enough that pictures
    get different texts."""
    text = {
        **SIZES,
        "vocab_size": len(WORDS),
        "encoder_hidden_size": 16,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    config = transformers.BlipConfig(
        text_config=text, vision_config={**SIZES, "image_size": 32, "patch_size": 16}
    )
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    return _saved(
        folder,
        _loud(transformers.BlipForConditionalGeneration(config)),
        transformers.BlipProcessor(images, BERT),
    )


def git(folder: Path) -> Path:
    """GitForCausalLM with its processor; random."""
    config = transformers.GitConfig(
        vision_config={**SIZES, "image_size": 32, "patch_size": 16}, **SIZES, vocab_size=len(WORDS),
        max_position_embeddings=128,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    images = transformers.CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    return _saved(
        folder,
        _loud(transformers.GitForCausalLM(config)),
        transformers.GitProcessor(images, BERT),
    )


def llava(folder: Path) -> Path:
    """LlavaForConditionalGeneration with a processor that has a chat template; random."""
    tokenizer = words_tokenizer(
        ["a red boat on the water", "Describe with a paragraph what is shown in the image."]
    )
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**SIZES, image_size=32, patch_size=16),
        text_config=transformers.LlamaConfig(**SIZES, vocab_size=len(tokenizer), **ends),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layer=-1, **ends,
    )  # fmt: skip
    part = "{{ '<image>' if c.type == 'image' else c.text }}"
    template = (
        f"{{% for m in messages %}}USER: {{% for c in m.content %}}{part}{{% endfor %}}{{% endfor %}} ANSWER:"
    )
    images = transformers.CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return _saved(folder, _loud(transformers.LlavaForConditionalGeneration(config)), processor)


def wide_vit(folder: Path) -> Path:
    """As `vit`, with layers of 64 and 32 classes: what bitsandbytes' int4 kernels for AVX-512 accept."""
    return vit(folder, 64, {n: f"thing {n}" for n in range(32)})


def vit(folder: Path, width: int = 16, labels: dict[int, str] | None = None) -> Path:
    """ViTForImageClassification of four classes with its image processor; random."""
    sizes = SIZES | {"hidden_size": width, "intermediate_size": 2 * width}
    labels = labels or {0: "tabby, tabby cat", 1: "n02084071", 2: "Traffic_Light", 3: "tabby"}
    model = _loud(
        transformers.ViTForImageClassification(
            transformers.ViTConfig(**sizes, image_size=32, patch_size=16, id2label=labels)
        )
    )
    return _saved(folder, model, transformers.ViTImageProcessor(size={"height": 32, "width": 32}))


def timm_hub(folder: Path) -> Path:
    """A timm ViT as timm pushes it to the hub: weights and a config.json with its labels; random."""
    import timm

    model = _loud(
        timm.create_model(
            "vit_tiny_patch16_224", img_size=32, num_classes=3, embed_dim=16, depth=1, num_heads=2
        )
    )
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "label_names": ["dog", "cat", "boat"],
        "model_args": {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2},
        "pretrained_cfg": {
            "input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 3, "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def catlip(folder: Path) -> Path:
    """A ViT of corenet's in its own naming, as `vit.pt`, with `vocab.pkl`, a pickled Counter of five synsets;
    random, 128 wide."""
    width = 128
    block = {
        "pre_norm_mha.0": (width,),
        "pre_norm_mha.1.qkv_proj": (3 * width, width),
        "pre_norm_mha.1.out_proj_attn": (width, width),
        "pre_norm_ffn.0": (width,),
        "pre_norm_ffn.1": (4 * width, width),
        "pre_norm_ffn.4": (width, 4 * width),
    }
    weights = {f"transformer.{n}.{name}": shape for n in (0, 1) for name, shape in block.items()}
    weights |= {
        "patch_emb.2.block.conv": (width, 32, 2, 2),
        "post_transformer_norm": (width,),
        "classifier": (5, width),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed.pos_embed.pos_embed": (1, 1, 196, width),
        "patch_emb.0.block.conv.weight": (32, 3, 4, 4),
        "patch_emb.1.block.conv.weight": (32, 32, 2, 2),
        **{
            f"patch_emb.{n}.block.norm.{p}": (32,) for n in (0, 1) for p in ("weight", "bias", "running_mean")
        },
        **{f"{name}.weight": shape for name, shape in weights.items()},
        **{f"{name}.bias": shape[:1] for name, shape in weights.items()},
    }
    torch.manual_seed(0)
    state = {name: torch.randn(shape) * (0.5 if len(shape) < 3 else 0.2) for name, shape in shapes.items()}
    for n in (0, 1):
        state[f"patch_emb.{n}.block.norm.running_var"] = torch.rand(32) + 0.5
        state[f"patch_emb.{n}.block.norm.num_batches_tracked"] = torch.tensor(7)
    folder.mkdir(parents=True)
    torch.save(state, folder / "vit.pt")
    counts = {"n2084071": 900, "n2121620": 800, "n4379243": 700, "n2858304": 600, "n7929519": 500, "n1": 1}
    (folder / "vocab.pkl").write_bytes(pickle.dumps(Counter(counts)))
    return folder


def open_clip(folder: Path, bias: bool = False) -> Path:
    """A CLIP as open_clip saves it to a folder; 32 px, CLIP's own tokenizer; random. `bias`: with the bias of
    a SigLIP."""
    import open_clip as library

    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    model = _loud(library.CLIP(**config, init_logit_bias=-1.0 if bias else None))
    folder.mkdir(parents=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    more = {"init_logit_bias": -1.0} if bias else {}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config | more, "preprocess_cfg": {}})
    )
    return folder


def _loud(model: Any, seed: int = 0) -> Any:
    """Random weights far larger than at the start of a training, so that different pictures get different
    answers."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.6)
    return model


def _teach(model: Any, processor: Any) -> None:
    images = [picture(colour, (32, 32)) for colour in THINGS]
    inputs = processor(images=images, text=["<MORE_DETAILED_CAPTION>"] * 2, return_tensors="pt")
    labels = processor.tokenizer(
        [f"<s>{thing}</s>" for thing in THINGS.values()], padding=True, return_tensors="pt"
    ).input_ids
    labels[labels == processor.tokenizer.pad_token_id] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0.0)
    for _ in range(300):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break


def _saved(folder: Path, *parts: Any) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder


VISION_BUILDERS: dict[str, Callable[[Path], Path]] = {
    "florence2": florence2, "blip": blip, "git": git, "llava": llava, "vit": vit, "wide_vit": wide_vit, "timm": timm_hub,
    "catlip": catlip,
    "open_clip": open_clip,
}  # fmt: skip
