"""Faults of files: edited backbone folders and edited checkpoints. Nothing here patches code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from fault_site import Case, Site, edit_checkpoint, edit_json, edit_tensors
from qwen3_vlm.build import build_model, prepare_inputs
from qwen3_vlm.train.checkpoint import connector_state

Tensors = dict[str, Tensor]
_EMBEDDING = "model.embed_tokens.weight"


def preprocessor(**values: object) -> Callable[[Site], None]:
    """The tower's preprocessor_config.json with these settings."""

    def set_up(site: Site) -> None:
        edit_json(site.own_backbone("vision") / "preprocessor_config.json", lambda tree: tree.update(values))

    return set_up


def weights(part: Literal["vision", "llm"], edit: Callable[[Site, Tensors], object]) -> Callable[[Site], None]:
    """A backbone whose safetensors file was edited."""

    def set_up(site: Site) -> None:
        edit_tensors(site.own_backbone(part) / "model.safetensors", lambda tensors: edit(site, tensors))

    return set_up


def saved(edit: Callable[[Site, dict[str, Any]], object]) -> Callable[[Site], None]:
    """The healthy run's checkpoint, edited."""

    def set_up(site: Site) -> None:
        edit_checkpoint(site.take_base(), lambda payload: edit(site, payload))

    return set_up


def _drop_layer(site: Site, tensors: Tensors) -> None:
    for name in [name for name in tensors if "layers.1." in name]:
        del tensors[name]


def _random(kind: type[torch.nn.Module], only: str) -> Callable[[Site, Tensors], None]:
    """Tensors whose name holds `only` as the model class initialises them."""

    def edit(site: Site, tensors: Tensors) -> None:
        vision = kind is SiglipVisionModel
        folder = site.config().model.vision if vision else site.config().model.llm
        config = (SiglipVisionConfig if vision else Qwen3Config).from_pretrained(folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            fresh = kind(config).state_dict()  # type: ignore[call-arg]
        shared = [name for name in tensors if only in name]
        assert shared and set(shared) <= set(fresh), (shared[:3], list(fresh)[:3])
        for name in shared:
            tensors[name] = fresh[name].to(tensors[name].dtype).clone()

    return edit


def _delimiters_as_eos(*tokens: str) -> Callable[[Site, Tensors], None]:
    def edit(site: Site, tensors: Tensors) -> None:
        tokenizer = prepare_inputs(site.config()).tokenizer
        for token in tokens:
            tensors[_EMBEDDING][tokenizer.convert_tokens_to_ids(token)] = tensors[_EMBEDDING][tokenizer.eos_token_id]

    return edit


def _nan_in_language_model(site: Site, tensors: Tensors) -> None:
    tensors["model.layers.2.mlp.down_proj.weight"][0, 0] = torch.nan


def _tokenizer(edit: Callable[[dict[str, Any]], object]) -> Callable[[Site], None]:
    def set_up(site: Site) -> None:
        edit_json(site.own_backbone("llm") / "tokenizer.json", edit)

    return set_up


def _forget_patch_token(tree: dict[str, Any]) -> None:
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] != "<|image_pad|>"]
    tree["model"]["vocab"].pop("<|image_pad|>", None)


def _without_patch_token(site: Site) -> None:
    folder = site.own_backbone("llm")
    edit_json(folder / "tokenizer.json", _forget_patch_token)
    edit_json(folder / "tokenizer_config.json", lambda tree: tree["extra_special_tokens"].remove("<|image_pad|>"))


def _patch_token_beyond_the_table(tree: dict[str, Any]) -> None:
    for token in tree["added_tokens"]:
        if token["content"] == "<|image_pad|>":
            token["id"] = 151_655  # where Qwen3's own tokenizer has it
    if "<|image_pad|>" in tree["model"]["vocab"]:
        tree["model"]["vocab"]["<|image_pad|>"] = 151_655


def _other_vocabulary(tree: dict[str, Any]) -> None:
    """As a tokenizer of the same size from another training: ordinary tokens have each other's ids."""
    special = {token["content"] for token in tree["added_tokens"]}
    vocabulary = tree["model"]["vocab"]
    words = [word for word in vocabulary if word not in special]
    ids = [vocabulary[word] for word in words]
    vocabulary.update(zip(words, ids[97:] + ids[:97], strict=True))


def fresh_connector(site: Site, seed: int) -> dict[str, Any]:
    """State of a connector that was never trained."""
    config = site.config().model_copy(update={"seed": seed})
    return connector_state(build_model(config, prepare_inputs(config)).connector)


def _older_form(site: Site, payload: dict[str, Any]) -> None:
    for key in [key for key in payload if key not in ("resampler", "projector")]:
        del payload[key]


def _constant(site: Site, payload: dict[str, Any]) -> None:
    payload["projector"]["net.2.weight"].zero_()


def _blind_attention(site: Site, payload: dict[str, Any]) -> None:
    for name, value in payload["resampler"].items():
        if "attn.out_proj" in name:
            value.zero_()


def _nearly_constant(site: Site, payload: dict[str, Any]) -> None:
    payload["projector"]["net.2.weight"].mul_(0.003)


def _quantise(site: Site, payload: dict[str, Any]) -> None:
    for part in ("resampler", "projector"):
        for value in payload[part].values():
            value.copy_((value * 10).round() / 10)


def _set_nan(site: Site, payload: dict[str, Any]) -> None:
    payload["resampler"]["latents"][3, 5] = torch.nan


FILES = (
    Case(
        "tokenizer-without-patch-token",
        "placeholder-split",
        "tokenizer.json without the added token `<|image_pad|>`: its string falls apart into several ids",
        set_up=_without_patch_token,
    ),
    Case(
        "patch-id-beyond-the-table",
        "token-id-mismatch",
        "tokenizer.json gives `<|image_pad|>` the id 151655, the embedding table has some 700 rows",
        set_up=_tokenizer(_patch_token_beyond_the_table),
    ),
    Case(
        "tokenizer-of-another-training",
        "token-id-mismatch",
        "ordinary tokens in tokenizer.json have each other's ids",
        set_up=_tokenizer(_other_vocabulary),
    ),
    Case(
        "delimiters-copy-eos",
        "special-token-is-eos",
        "embedding rows of both image delimiters are copies of EOS",
        set_up=weights("llm", _delimiters_as_eos("<|vision_start|>", "<|vision_end|>")),
    ),
    Case(
        "end-delimiter-copies-eos",
        "special-token-is-eos",
        "embedding row of `<|vision_end|>` is a copy of EOS",
        set_up=weights("llm", _delimiters_as_eos("<|vision_end|>")),
        world="digits",
    ),
    Case(
        "pixels-not-normalised",
        "wrong-preprocessing",
        "preprocessor_config.json with do_normalize false",
        set_up=preprocessor(do_normalize=False),
    ),
    Case(
        "pixels-not-rescaled",
        "wrong-preprocessing",
        "preprocessor_config.json with do_rescale false: 0 to 255",
        set_up=preprocessor(do_rescale=False),
        world="digits",
    ),
    Case(
        "imagenet-statistics-in-file",
        "wrong-preprocessing",
        "ImageNet's mean and std in preprocessor_config.json",
        set_up=preprocessor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]),
    ),
    Case(
        "tower-layer-missing",
        "tower-uninitialised",
        "one layer's tensors deleted from the tower's safetensors file",
        set_up=weights("vision", _drop_layer),
    ),
    Case(
        "tower-saved-at-random",
        "tower-uninitialised",
        "a newly initialised tower was saved as the checkpoint",
        set_up=weights("vision", _random(SiglipVisionModel, "")),
    ),
    Case(
        "language-layer-random",
        "tower-uninitialised",
        "one layer of the language model's file is newly initialised, as after loading with strict off and saving",
        set_up=weights("llm", _random(Qwen3ForCausalLM, "layers.1.")),
    ),
    Case(
        "language-model-nan",
        "non-finite",
        "one NaN in a weight of the language model's file",
        set_up=weights("llm", _nan_in_language_model),
    ),
    Case(
        "checkpoint-nan",
        "non-finite",
        "one NaN in the checkpoint's latents",
        "evaluation",
        saved(_set_nan),
    ),
    Case(
        "checkpoint-is-init",
        "connector-not-loaded",
        "the checkpoint holds the connector as it was before training",
        "evaluation",
        saved(lambda site, payload: payload.update(fresh_connector(site, site.config().seed))),
    ),
    Case(
        "checkpoint-of-another-start",
        "connector-not-loaded",
        "the checkpoint holds an untrained connector drawn with another seed",
        "evaluation",
        saved(lambda site, payload: payload.update(fresh_connector(site, 7))),
        world="digits",
    ),
    Case(
        "checkpoint-key-lost",
        "connector-not-loaded",
        "one tensor was deleted from the checkpoint",
        "evaluation",
        saved(lambda site, payload: payload["projector"].pop("net.0.bias")),
    ),
    Case(
        "checkpoint-of-another-shape",
        "connector-not-loaded",
        "evaluated with connector.depth 2, trained with 1",
        "evaluation",
        lambda site: (site.take_base(), site.set(connector__depth=2)),
    ),
    Case(
        "projector-at-init",
        "connector-not-loaded",
        "the checkpoint's resampler is trained, its projector is the initial one",
        "evaluation",
        saved(lambda site, payload: payload.update(projector=fresh_connector(site, site.config().seed)["projector"])),
    ),
    Case(
        "constant-output",
        "constant-prompt",
        "the projector's last weight is zero: only its bias is left",
        "evaluation",
        saved(_constant),
    ),
    Case(
        "attention-gives-nothing",
        "collapsed",
        "the resampler's attention output is zero: no patch reaches a latent",
        "evaluation",
        saved(_blind_attention),
        world="digits",
    ),
    Case(
        "nearly-constant-output",
        "collapsed",
        "the projector's last weight is 0.003 of what it was; its bias decides",
        "evaluation",
        saved(_nearly_constant),
    ),
    Case(
        "latents-equal",
        "slots-dead",
        "all latents of the checkpoint are the first one",
        "evaluation",
        saved(
            lambda site, payload: payload["resampler"]["latents"].copy_(
                payload["resampler"]["latents"][:1].clone().expand_as(payload["resampler"]["latents"])
            )
        ),
    ),
    Case(
        "older-checkpoint-spliced",
        "older-image-block",
        "a checkpoint of the older form behind the spliced block",
        "evaluation",
        saved(_older_form),
    ),
    Case(
        "checkpoint-quantised",
        "loss-not-reproduced",
        "the checkpoint's weights were rounded to steps of 0.1, as by an export with few bits",
        "evaluation",
        saved(_quantise),
    ),
)
