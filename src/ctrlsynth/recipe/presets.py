"""The papers' training settings, each a small difference from the defaults of `TrainBlock`.

What neither paper publishes stays at the default and is said here: CtrlSynth's augmentation and normalisation
(open_clip's crop of 0.9 to 1, OpenAI's mean and deviation), its epsilon (1e-6) and the start of its warm-up
(0); the learning rates of SynthCLIP's finetuning (its own) and of its Appendix E (1e-5)."""

from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_CTRLSYNTH: dict[str, Any] = {"lr": 2e-3, "min_lr": 2e-5}
_SYNTHCLIP: dict[str, Any] = {
    "epochs": 40.0, "batch": 4096, "lr": 5e-4, "min_lr": 1e-5, "warmup_epochs": 1.0, "warmup_lr": 1e-6,
    "weight_decay": 0.5, "eps": 1e-8,
    "crop_scale": (0.5, 1.0), "shorter_edge": 256, "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    # papers/001, section 4.1 and Table 10
    "ctrlsynth-cc3m": {**_CTRLSYNTH, "batch": 2048, "steps": 56_429, "warmup": 2_822},
    "ctrlsynth-cc12m": {**_CTRLSYNTH, "batch": 8192, "steps": 55_429, "warmup": 2_771},
    # papers/002, section 4.1; ViT-S/16 of B.2 by `model: ViT-S-16`
    "synthclip": _SYNTHCLIP,
    # papers/002, Table "SynthCLIP as pre-training": 5 epochs on real pairs, or 10 by `epochs: 10`; needs
    # `init`
    "synthclip-finetune": {**_SYNTHCLIP, "epochs": 5.0},
    # papers/002, Appendix D: 8.8M real and 11.2M synthetic pairs, each source once an epoch
    "synthclip-mixed": _SYNTHCLIP,
    # papers/002, Appendix E: OpenAI's ViT-B/16, a million pairs, one optimiser step. The loss is taken within
    # micro-batches of 4,000
    "synthclip-appendix-e": {
        **_SYNTHCLIP, "steps": 1, "epochs": None, "batch": 1_000_000, "accumulate": 250,
        "negatives": "micro", "lr": 1e-5, "min_lr": 0.0,
        "warmup_epochs": None, "warmup_lr": None,
    },
}  # fmt: skip
FINETUNING = ("synthclip-finetune", "synthclip-appendix-e")
"""Presets that start from a trained model: they need `init`."""
