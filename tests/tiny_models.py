"""Tiny real checkpoints with random weights, saved to a folder the way a hub stores them: the production
backends load these with their own code, nothing of them is replaced. What they draw and say is noise; what is
tested is everything around it.

Each builder writes into a new folder and returns it. `BUILDERS` names them for the fixture `tiny`
(conftest.py), which builds each once a session. Tokenizers are real where that is free: CLIP's has its whole
byte-pair table, so token counts are the real ones."""

import gzip
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from ctrlsynth.models.device import make_torchvision_importable
from tiny_llms import mistral, qwen2

make_torchvision_importable()

_BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLIP_START, CLIP_END = 49406, 49407
WORDS = (
    "a an the red blue green dog cat ball bird tree house boat car chair on in of with and near under big "
    "small photo painting is"
).split()


def sd15(folder: Path, safety: float | None = None) -> Path:
    """Stable Diffusion 1.5's classes, 64 px. `safety`: the cosine above which the safety checker flags an
    image (-2: all, 2: none); None saves none."""
    torch.manual_seed(0)
    return _saved(
        diffusers.StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=_clip_text(),
            tokenizer=clip_tokenizer(),
            unet=_unet(cross_attention_dim=32),
            scheduler=diffusers.DDIMScheduler(
                **_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1
            ),
            safety_checker=None if safety is None else _safety_checker(safety),
            feature_extractor=None if safety is None else _feature_extractor(),
            requires_safety_checker=safety is not None,
        ),
        folder,
    )


def sdxl(folder: Path) -> Path:
    """SDXL's classes: two text encoders, pooled embeddings and sizes as conditions; 64 px."""
    torch.manual_seed(0)
    unet = _unet(
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + 32,
        cross_attention_dim=64,
    )
    return _saved(
        diffusers.StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=_clip_text(),
            text_encoder_2=_clip_text(projection=True),
            tokenizer=clip_tokenizer(),
            tokenizer_2=clip_tokenizer(pad="!"),
            unet=unet,
            scheduler=diffusers.EulerDiscreteScheduler(**_BETAS, steps_offset=1),
            force_zeros_for_empty_prompt=True,
        ),
        folder,
    )


def sd3(folder: Path) -> Path:
    """Stable Diffusion 3's classes: two CLIP towers and T5, a transformer, flow matching; 64 px."""
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=64, pooled_projection_dim=64,
    )  # fmt: skip
    return _saved(
        diffusers.StableDiffusion3Pipeline(
            transformer=_heedful(transformer, {"add_v_proj": 60, "add_k_proj": 10}),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_vae(
                shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False
            ),
            text_encoder=_clip_text(projection=True),
            tokenizer=clip_tokenizer(),
            text_encoder_2=_clip_text(projection=True),
            tokenizer_2=clip_tokenizer(pad="!"),
            text_encoder_3=_t5(64),
            tokenizer_3=t5_tokenizer(),
        ),
        folder,
    )


def flux(folder: Path) -> Path:
    """FLUX's classes: CLIP for the pooled embedding, T5 for the words, distilled guidance; 64 px where that
    size is asked for."""
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    return _saved(
        diffusers.FluxPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=_vae(
                latent_channels=1,
                shift_factor=0.1159,
                scaling_factor=0.3611,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=_clip_text(),
            tokenizer=clip_tokenizer(),
            text_encoder_2=_t5(32),
            tokenizer_2=t5_tokenizer(),
            transformer=_heedful(transformer, {"add_v_proj": 60, "norm_added_k": 10}),
        ),
        folder,
    )


def lora(folder: Path, pipeline: Path, scale: float = 8.0) -> Path:
    """A LoRA for the attention of that pipeline's UNet, saved by the pipeline's own class; random and strong
    enough to be seen."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(1)
    pipe = diffusers.AutoPipelineForText2Image.from_pretrained(pipeline, local_files_only=True)
    pipe.unet.add_adapter(
        LoraConfig(
            r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]
        )
    )
    layers = {k: v * scale for k, v in get_peft_model_state_dict(pipe.unet).items()}
    pipe.save_lora_weights(
        folder, unet_lora_layers=convert_state_dict_to_diffusers(layers), safe_serialization=True
    )
    return folder


def clip_tokenizer(pad: str = "<|endoftext|>") -> Any:
    """CLIP's tokenizer from the byte-pair table in this package. SDXL's second one pads with `!`."""

    vocabulary, merges = _clip_table()
    return transformers.CLIPTokenizer(
        vocab=dict(vocabulary), merges=list(merges), pad_token=pad, model_max_length=77
    )


@cache
def _clip_table() -> tuple[dict[str, int], list[tuple[str, str]]]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    table = resources.files("ctrlsynth.lang") / "data" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(table.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [(a, b) for a, b in (line.split() for line in lines)]
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *(a + b for a, b in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return {token: n for n, token in enumerate(tokens)}, merges


def t5_tokenizer() -> Any:
    """T5's tokenizer over letters and a few words."""

    letters = [chr(c) for c in range(0x21, 0x7F)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), *((w, -8.0) for w in letters)]
    vocabulary += [("▁" + word, -3.0) for word in WORDS]
    return transformers.T5Tokenizer(
        vocab=vocabulary, extra_ids=0, additional_special_tokens=[], model_max_length=512
    )


def _clip_text(projection: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=3, projection_dim=32,
        vocab_size=49408,
        bos_token_id=CLIP_START, eos_token_id=CLIP_END, pad_token_id=CLIP_END,
    )  # fmt: skip
    model = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return model(config).eval()


def _t5(width: int) -> Any:

    return transformers.T5EncoderModel(
        transformers.T5Config(d_model=width, d_ff=64, d_kv=8, num_heads=4, num_layers=2, vocab_size=256)
    ).eval()


def _unet(**options: Any) -> Any:
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=32, in_channels=4, out_channels=4,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D",
        "UpBlock2D"),
        **{"attention_head_dim": 4, **options},
    )  # fmt: skip
    return _heedful(unet, {"attn2": 4})


def _heedful(network: Any, louder: dict[str, float]) -> Any:
    """The network with what reads the text made louder: random weights hardly heed it, and a test wants to
    see that it does."""
    for name, weight in network.named_parameters():
        for part, times in louder.items():
            if part in name and name.endswith("weight"):
                weight.data.mul_(times)
    return network


def _vae(**options: Any) -> Any:
    """Makes 2 x 2 pixels of a latent."""

    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16), in_channels=3, out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=2, sample_size=64, **{"latent_channels": 4,
        **options},
    )  # fmt: skip


def _safety_checker(threshold: float) -> Any:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    vision = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=1,
        image_size=30,
        patch_size=15,
    )
    text = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=1, vocab_size=1000
    )
    checker = StableDiffusionSafetyChecker(
        transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    ).eval()
    checker.concept_embeds.data.normal_()
    checker.special_care_embeds.data.normal_()
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(2.0)
    return checker


def _feature_extractor() -> Any:

    return transformers.CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30})


def _saved(pipe: Any, folder: Path) -> Path:
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sd15": sd15,
    "sd15-safe": lambda folder: sd15(folder, safety=2.0),
    "sd15-flags": lambda folder: sd15(folder, safety=-2.0),
    "sdxl": sdxl,
    "sd3": sd3,
    "flux": flux,
    "qwen2": qwen2,
    "mistral": mistral,
}
"""Name -> builder; whoever adds a kind of model adds it here."""
