"""Threads whose cause is in the model: its weights, its own loss, a function of it, or what of it is frozen."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from thread_case import Case
from thread_stack import Job


def unshifted(job: Job) -> None:
    """The model's own loss compares each logit with the token at its own position."""

    def loss(logits: Tensor, labels: Tensor, vocab_size: int, **_: Any) -> Tensor:
        return F.cross_entropy(logits.float().view(-1, vocab_size), labels.view(-1), ignore_index=-100)

    job.model.loss_function = loss


def tower_nested(job: Job) -> None:
    """The keys of the tower have one level more than the model's, and loading is not strict."""
    weights = load_file(job.folder / "model.safetensors")
    nested = {key.replace("visual.", "visual.tower."): value for key, value in weights.items()}
    model = transformers.AutoModelForImageTextToText.from_config(job.model.config)
    model.load_state_dict(nested, strict=False)
    model.tie_weights()
    job.model = model


def tower_renamed(job: Job) -> None:
    """The checkpoint has other names for the tower than this version of the model."""
    folder = job.output.parent / f"renamed-{job.seed}"
    job.model.save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = {key.replace("vision_tower", "image_encoder"): value for key, value in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    torch.manual_seed(job.seed)
    job.model = transformers.AutoModelForImageTextToText.from_pretrained(folder)


def deepstack_dropped(job: Job) -> None:
    """Features of the deeper levels are computed, and not added to the hidden states."""
    kind = type(job.model.model.language_model)
    dropped = type(kind.__name__, (kind,), {"_deepstack_process": lambda _, hidden, *__: hidden})
    job.model.model.language_model.__class__ = dropped


def freeze(job: Job, *names: str) -> None:
    """Freeze all parameters with one of these names in theirs."""
    for name, weight in job.model.named_parameters():
        weight.requires_grad_(not any(part in name for part in names))


def frozen_by_names(job: Job) -> None:
    """The list of what to freeze names blocks and patches, and lacks position embeddings and deepstack mergers."""
    freeze(job, "visual.patch_embed", "visual.blocks", "visual.merger.")


def projector_frozen_by_peft(job: Job) -> None:
    """A new projector is made trainable, and then `get_peft_model` freezes all that is not an adapter."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(job.seed)
    for name, weight in job.model.named_parameters():
        if "multi_modal_projector" in name:
            torch.nn.init.normal_(weight, std=0.02)
            weight.requires_grad_(True)
    targets = r".*language_model.*\.(q_proj|v_proj)"
    job.model = get_peft_model(job.model, LoraConfig(target_modules=targets, r=4))


OF_MODELS = (
    Case(
        "loss-unshifted",
        "labels unshifted in the model's own loss",
        "Trainer",
        unshifted,
        "qwen2_5_vl",
        "11 KempnerForge#154",
        "labels-unshifted",
        twin="trainer-answers",
    ),
    Case(
        "tower-nested",
        "tower keys nested, strict=False: the tower is random",
        "Trainer",
        tower_nested,
        "qwen2_5_vl",
        "20 NVIDIA-NeMo/Automodel#2431",
        "tower-uninitialised",
        twin="trainer-answers",
    ),
    Case(
        "tower-renamed",
        "tower keys of the file have other names",
        "Trainer",
        tower_renamed,
        "llava",
        "21 huggingface/transformers#45358",
        "tower-uninitialised",
        twin="llava",
    ),
    Case(
        "deepstack-dropped",
        "deepstack features computed, never injected",
        "Trainer",
        deepstack_dropped,
        "qwen3_vl",
        "23 Blaizzy/mlx-vlm#1635",
        "not-injected",
        twin="qwen3-vl",
    ),
    Case(
        "frozen-by-names",
        "list of frozen names lacks pos_embed and deepstack mergers",
        "Trainer",
        frozen_by_names,
        "qwen3_vl",
        "24 hiyouga/LLaMA-Factory#10139",
        "frozen-moved",
        twin="tower-frozen",
    ),
    Case(
        "projector-frozen",
        "get_peft_model freezes the new projector",
        "Trainer",
        projector_frozen_by_peft,
        "llava",
        "25 cvlab-kaist/VIRAL#8",
        "no-gradient",
        ("tower-uninitialised",),
        "peft-lora",
    ),
)
