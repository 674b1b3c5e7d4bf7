"""Faults of code: weights, gradients, the connector's arithmetic, checkpoints and resumed runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SiglipVisionModel

from fault_site import INSIDE_EPOCH, Case, Change, Site, swap, take_base

_VLM = "qwen3_vlm.models.vlm.VLM"
_BUILD = "qwen3_vlm.build.build_model"
_RESTORE = "qwen3_vlm.train.resuming.restore"
_PROJECT = "qwen3_vlm.models.connector.Connector.project"


def _tower_from_config(original: Any) -> Any:
    """`SiglipVisionModel(config)` where `from_pretrained` was meant."""

    def load(kind: Any, name: str, setting: str, dtype: torch.dtype, attention: str) -> Any:
        model = original(kind, name, setting, dtype, attention)
        return kind(model.config).to(dtype) if kind is SiglipVisionModel else model

    return load


def _built(change: Callable[[Any], object]) -> Change:
    """The model, changed as soon as it is built."""

    def make(original: Any) -> Any:
        def build(config: Any, inputs: Any) -> Any:
            vlm = original(config, inputs)
            change(vlm)
            return vlm

        return build

    return swap(_BUILD, make)


def _trains(part: Callable[[Any], nn.Module]) -> Callable[[Any], None]:
    """A frozen module registered in the connector as well: the optimizer takes it for one of its own."""

    def change(vlm: Any) -> None:
        vlm.connector.borrowed = part(vlm).requires_grad_(True)

    return change


def _of_copies(original: Any) -> Any:
    """The optimizer was made before the model was moved: it holds parameters nobody uses."""

    def make(parameters: Any, **options: Any) -> Any:
        return original([nn.Parameter(p.detach().clone()) for p in parameters], **options)

    return make


def _restored(keep: Sequence[str]) -> Change:
    """`load_state_dict(strict=False)` with a wrong prefix for every part but `keep`."""

    def restore(connector: Any, payload: dict[str, Any], path: object) -> None:
        for part in keep:
            getattr(connector, part).load_state_dict(payload[part])

    return swap("qwen3_vlm.train.checkpoint.restore_connector", lambda original: restore)


def _average_of_batch(original: Any) -> Any:
    def forward(self: Any, features_BPV: Tensor) -> Tensor:
        latents_BQD: Tensor = original(self, features_BPV)
        return latents_BQD.mean(0, keepdim=True).expand_as(latents_BQD)

    return forward


def _over_batch(original: Any) -> Any:
    def forward(self: Any, features_BPV: Tensor) -> Tensor:
        latents_BQD: Tensor = original(self, features_BPV)
        spread_1QD = latents_BQD.std(0, keepdim=True, correction=0)
        return (latents_BQD - latents_BQD.mean(0, keepdim=True)) / (spread_1QD + 0.1)

    return forward


def _scaled(by: float) -> Callable[[Any], Any]:
    return lambda original: lambda self, *inputs: original(self, *inputs) * by


def _first_slot_alone(original: Any) -> Any:
    def project(self: Any, latents_BQD: Tensor) -> Tensor:
        visual_BQE: Tensor = original(self, latents_BQD)
        return torch.cat([visual_BQE[:, :1], torch.zeros_like(visual_BQE[:, 1:])], dim=1)

    return project


def _half_a_run(site: Site) -> None:
    """The healthy run as it lay on disk in the middle of its second epoch."""
    site.take_base(step=INSIDE_EPOCH)


def _order_drawn_anew(original: Any) -> Any:
    """The order comes from a generator that was not put back to where it stood."""
    return lambda samples, epoch, seed, batch_size, accumulation: original(
        samples, epoch, seed + 1, batch_size, accumulation
    )


def _optimizer_forgotten(original: Any) -> Any:
    def restore(run: Any, resumption: Any) -> None:
        fresh = run.optimizer.state_dict()
        original(run, resumption)
        run.optimizer.load_state_dict(fresh)
        run.optimizer.state.clear()

    return restore


def _updates_from_zero(original: Any) -> Any:
    def restore(run: Any, resumption: Any) -> None:
        original(run, resumption)
        run.updates = 0

    return restore


WEIGHTS = (
    Case(
        "model-has-another-patch-id",
        "token-id-mismatch",
        "the model looks for the id behind the tokenizer's patch id",
        change=_built(lambda vlm: setattr(vlm, "patch_id", vlm.patch_id + 1)),
        also=("placeholder-count",),
    ),
    Case(
        "tower-from-config",
        "tower-uninitialised",
        "the tower is made from its config, without its weights",
        change=swap("qwen3_vlm.models.loading.load_complete", _tower_from_config),
    ),
    Case(
        "language-norm-trained",
        "frozen-moved",
        "the optimizer also has the language model's last norm",
        "training",
        change=_built(_trains(lambda vlm: vlm.llm.model.model.norm)),
    ),
    Case(
        "tower-decays",
        "frozen-moved",
        "the optimizer also has the tower's last norm: no gradient, but weight decay",
        "training",
        change=_built(_trains(lambda vlm: vlm.tower.model.post_layernorm)),
        world="digits",
    ),
    Case(
        "nothing-restored",
        "connector-not-loaded",
        "loading the checkpoint matches no key, and is not strict",
        "evaluation",
        take_base,
        _restored(()),
    ),
    Case(
        "projector-alone-restored",
        "connector-not-loaded",
        "loading the checkpoint restores the projector only",
        "evaluation",
        take_base,
        _restored(("projector",)),
        world="digits",
    ),
    Case(
        "detached",
        "no-gradient",
        "visual tokens are detached from the graph",
        change=swap(f"{_VLM}.visual", lambda original: lambda self, features: original(self, features).detach()),
    ),
    Case(
        "optimizer-of-copies",
        "no-gradient",
        "the optimizer holds copies of the connector's parameters",
        "training",
        change=swap("torch.optim.AdamW", _of_copies),
    ),
    Case(
        "resampler-frozen",
        "no-gradient",
        "the resampler does not require gradients",
        "training",
        change=_built(lambda vlm: vlm.connector.resampler.requires_grad_(False)),
    ),
    Case(
        "learning-rate-zero",
        "no-gradient",
        "the schedule returns 0",
        "training",
        world="digits",
        change=swap("qwen3_vlm.train.schedule.learning_rate", lambda original: lambda update, total, config: 0.0),
    ),
    Case(
        "visual-tokens-too-large",
        "scale-mismatch",
        "visual tokens are 50 times too large, in training and evaluation",
        change=swap(_PROJECT, _scaled(50.0)),
    ),
    Case(
        "visual-tokens-too-small",
        "scale-mismatch",
        "visual tokens are 200 times too small for a healthy connector",
        "evaluation",
        take_base,
        swap(_PROJECT, _scaled(0.005)),
    ),
    Case(
        "text-scale-misread",
        "scale-mismatch",
        "the scale of text embeddings is read 30 times too large",
        world="digits",
        change=swap("qwen3_vlm.models.llm.LanguageModel.text_rms", _scaled(30.0)),
    ),
    Case(
        "latents-averaged-over-batch",
        "collapsed",
        "the resampler returns the batch's average for every image",
        change=swap("qwen3_vlm.models.connector.Resampler.forward", _average_of_batch),
        also=("image-order",),
    ),
    Case(
        "first-slot-alone",
        "slots-dead",
        "all visual tokens but the first are zero",
        change=swap(_PROJECT, _first_slot_alone),
    ),
    Case(
        "order-drawn-anew",
        "resume-drift",
        "after resuming, the order of the data is drawn anew",
        "resume",
        _half_a_run,
        swap("qwen3_vlm.train.schedule.plan_epoch", _order_drawn_anew),
    ),
    Case(
        "optimizer-forgotten",
        "resume-drift",
        "the optimizer's state is not restored",
        "resume",
        _half_a_run,
        swap(_RESTORE, _optimizer_forgotten),
        world="digits",
    ),
    Case(
        "schedule-from-the-start",
        "resume-drift",
        "the count of updates starts at 0, so the learning rate does",
        "resume",
        _half_a_run,
        swap(_RESTORE, _updates_from_zero),
    ),
    Case(
        "visual-tokens-negated",
        "picture-harmful",
        "the sign of a healthy connector's output is turned",
        "evaluation",
        take_base,
        swap(_PROJECT, _scaled(-1.0)),
        also=("loss-not-reproduced",),
    ),
    Case(
        "statistics-of-the-batch",
        "batch-dependent",
        "the resampler's output is normalised over the batch, as by a BatchNorm left in training mode",
        change=swap("qwen3_vlm.models.connector.Resampler.forward", _over_batch),
    ),
)
