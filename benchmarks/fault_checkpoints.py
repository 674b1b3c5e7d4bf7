"""Faults of checkpoints: connectors that are saved incorrectly, edited, loaded only partly, or scored differently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fault_edits import in_turn, settings
from fault_site import SAVE_EVERY, Case, Change, Site, edit_checkpoint, swap, take_base
from qwen3_vlm.build import build_model, prepare_inputs
from qwen3_vlm.train.checkpoint import Payload, connector_state
from qwen3_vlm.train.evidence.record import KEY, sealed


def _saved(edit: Callable[[Site, Payload], object]) -> Callable[[Site], None]:
    """The healthy run's checkpoint with other content, as a faulty run would have saved it: its digests fit."""

    def save(site: Site, payload: Payload) -> None:
        edit(site, payload)
        if KEY in payload:
            payload.update(sealed(payload))

    def set_up(site: Site) -> None:
        edit_checkpoint(site.take_base(), lambda payload: save(site, payload))

    return set_up


def _fresh_connector(site: Site, seed: int) -> Payload:
    """Return the state of a connector that was never trained."""
    config = site.config().model_copy(update={"seed": seed})
    return connector_state(build_model(config, prepare_inputs(config)).connector)


def _older_form(site: Site, payload: Payload) -> None:
    for key in [key for key in payload if key not in ("resampler", "projector")]:
        del payload[key]


def _set_nan(site: Site, payload: Payload) -> None:
    payload["resampler"]["latents"][3, 5] = torch.nan


def _constant(site: Site, payload: Payload) -> None:
    payload["projector"]["net.2.weight"].zero_()


def _nearly_constant(site: Site, payload: Payload) -> None:
    payload["projector"]["net.2.weight"].mul_(0.003)


def _blind_attention(site: Site, payload: Payload) -> None:
    for name, value in payload["resampler"].items():
        if "attn.out_proj" in name:
            value.zero_()


def _attention_transposed(site: Site, payload: Payload) -> None:
    for name, value in payload["resampler"].items():
        if "attn.out_proj.weight" in name:
            value.copy_(value.T.clone())


def _latents_equal(site: Site, payload: Payload) -> None:
    payload["resampler"]["latents"][:] = payload["resampler"]["latents"][0].clone()


def _older_resampler(site: Site, payload: Payload) -> None:
    earlier = torch.load(site.base / f"checkpoint_{SAVE_EVERY}.pt", map_location="cpu", weights_only=True)
    payload["resampler"] = earlier["resampler"]


def _quantise(site: Site, payload: Payload) -> None:
    for part in ("resampler", "projector"):
        for value in payload[part].values():
            value.copy_((value * 10).round() / 10)


def _restored(keep: Sequence[str], lost: str = " ") -> Change:
    """Load with `strict=False` and a wrong prefix for all parts except `keep`, and for names that contain `lost`."""

    def restore(connector: Any, payload: Payload, path: object) -> None:
        for part in keep:
            found = {name: value for name, value in payload[part].items() if lost not in name}
            getattr(connector, part).load_state_dict(found, strict=False)

    return swap("qwen3_vlm.train.checkpoint.restore_connector", lambda original: restore)


def _average_saved(original: Any) -> Any:
    """Save a running average with a decay of 0.999, which is still close to the initial weights after 150 updates."""

    def save(run: Any) -> None:
        connector, live = run.vlm.connector, connector_state(run.vlm.connector)
        with torch.random.fork_rng(devices=[]):
            start = connector_state(build_model(run.config, prepare_inputs(run.config)).connector)
        for part, state in live.items():
            mean = {name: start[part][name].lerp(value, 1 - 0.999**run.updates) for name, value in state.items()}
            getattr(connector, part).load_state_dict(mean)
        original(run)
        for part, state in live.items():
            getattr(connector, part).load_state_dict(state)

    return save


CHECKPOINTS = (
    Case(
        "older-checkpoint-spliced",
        "older-image-block",
        "a checkpoint of the older format with the spliced block",
        "evaluation",
        _saved(_older_form),
    ),
    Case(
        "checkpoint-is-init",
        "connector-not-loaded",
        "the checkpoint holds the connector as it was before training",
        "evaluation",
        _saved(lambda site, payload: payload.update(_fresh_connector(site, site.config().seed))),
    ),
    Case(
        "checkpoint-of-another-start",
        "connector-not-loaded",
        "the checkpoint holds an untrained connector drawn with another seed",
        "evaluation",
        _saved(lambda site, payload: payload.update(_fresh_connector(site, 7))),
        world="digits",
    ),
    Case(
        "checkpoint-key-lost",
        "connector-not-loaded",
        "one tensor was deleted from the checkpoint",
        "evaluation",
        _saved(lambda site, payload: payload["projector"].pop("net.0.bias")),
    ),
    Case(
        "checkpoint-of-another-shape",
        "connector-not-loaded",
        "evaluated with connector.depth 2, trained with 1",
        "evaluation",
        in_turn(take_base, settings(connector__depth=2)),
    ),
    Case(
        "projector-at-init",
        "connector-not-loaded",
        "the checkpoint's resampler is trained, its projector is the initial one",
        "evaluation",
        _saved(lambda site, payload: payload.update(projector=_fresh_connector(site, site.config().seed)["projector"])),
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
        "key-positions-not-restored",
        "connector-not-loaded",
        "a filter of keys drops the resampler's key positions when the checkpoint is loaded",
        "evaluation",
        take_base,
        _restored(("resampler", "projector"), lost="position"),
    ),
    Case(
        "checkpoint-nan",
        "non-finite",
        "one NaN in the checkpoint's latents",
        "evaluation",
        _saved(_set_nan),
    ),
    Case(
        "constant-output",
        "constant-prompt",
        "the projector's last weight is zero: only its bias is left",
        "evaluation",
        _saved(_constant),
    ),
    Case(
        "nearly-constant-output",
        "collapsed",
        "the projector's last weight is 0.003 of what it was; its bias decides",
        "evaluation",
        _saved(_nearly_constant),
    ),
    Case(
        "attention-gives-nothing",
        "collapsed",
        "the resampler's attention output is zero: no patch reaches a latent",
        "evaluation",
        _saved(_blind_attention),
        world="digits",
    ),
    Case(
        "latents-equal",
        "slots-dead",
        "all latents of the checkpoint are the first one",
        "evaluation",
        _saved(_latents_equal),
    ),
    Case(
        "checkpoint-quantised",
        "loss-not-reproduced",
        "the checkpoint's weights were rounded to steps of 0.1, as by an export with few bits",
        "evaluation",
        _saved(_quantise),
        also=("visual-tokens-changed",),
    ),
    Case(
        "attention-transposed",
        "loss-not-reproduced",
        "the attention's output matrix is transposed in the checkpoint",
        "evaluation",
        _saved(_attention_transposed),
        also=("visual-tokens-changed",),
    ),
    Case(
        "resampler-of-an-older-step",
        "loss-not-reproduced",
        "the resampler of step 152 with the projector of step 600",
        "evaluation",
        _saved(_older_resampler),
        also=("visual-tokens-changed",),
    ),
    Case(
        "average-saved",
        "loss-not-reproduced",
        "saved is a running average of the weights with decay 0.999, which 150 updates hardly moved from the start",
        "training",
        change=swap("qwen3_vlm.train.loop.save", _average_saved),
    ),
    Case(
        "scored-behind-another-prompt",
        "loss-not-reproduced",
        "a healthy connector is scored with another prompt.template than it was trained with",
        "evaluation",
        in_turn(take_base, settings(prompt__template="Text: <image> Blue: ")),
        also=("prompt-changed",),
    ),
)
