"""Faults of the frozen backbones, in their folders (tokenizer, config, weights) or in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from eyechart.seam import TokenNLL
from fault_edits import built, in_turn
from fault_site import Case, Site, edit_json, edit_tensors, swap, take_base
from qwen3_vlm.build import prepare_inputs

Tensors = dict[str, Tensor]


def weights_edited(part: Literal["vision", "llm"], edit: Callable[[Site, Tensors], object]) -> Callable[[Site], None]:
    """Return a set-up that edits a backbone's safetensors file."""

    def set_up(site: Site) -> None:
        edit_tensors(site.own_backbone(part) / "model.safetensors", lambda tensors: edit(site, tensors))

    return set_up


def _drop_layer(site: Site, tensors: Tensors) -> None:
    for name in [name for name in tensors if "layers.1." in name]:
        del tensors[name]


def _random(kind: type[torch.nn.Module], only: str) -> Callable[[Site, Tensors], None]:
    """Reset the tensors whose name contains `only` to the initial values of the model class."""

    def edit(site: Site, tensors: Tensors) -> None:
        vision = kind is SiglipVisionModel
        folder = site.config().model.vision if vision else site.config().model.llm
        config = (SiglipVisionConfig if vision else Qwen3Config).from_pretrained(folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            fresh = kind(config).state_dict()
        shared = [name for name in tensors if only in name]
        assert shared and set(shared) <= set(fresh), (shared[:3], list(fresh)[:3])
        for name in shared:
            tensors[name] = fresh[name].to(tensors[name].dtype).clone()

    return edit


def _delimiters_as_eos(*tokens: str) -> Callable[[Site, Tensors], None]:
    def edit(site: Site, tensors: Tensors) -> None:
        tokenizer, table = prepare_inputs(site.config()).tokenizer, tensors["model.embed_tokens.weight"]
        for token in tokens:
            table[tokenizer.convert_tokens_to_ids(token)] = table[tokenizer.eos_token_id]

    return edit


def _delimiters_alike(site: Site, tensors: Tensors) -> None:
    tokenizer, table = prepare_inputs(site.config()).tokenizer, tensors["model.embed_tokens.weight"]
    start, end = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
    table[end] = table[start]


def _delimiters_at_the_mean(site: Site, tensors: Tensors) -> None:
    """As after `resize_token_embeddings`: new rows are the mean of the others plus next to no noise."""
    tokenizer, table = prepare_inputs(site.config()).tokenizer, tensors["model.embed_tokens.weight"]
    mean = table.float().mean(0).to(table.dtype)
    for token in ("<|vision_start|>", "<|vision_end|>"):
        table[tokenizer.convert_tokens_to_ids(token)] = mean


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
            token["id"] = 151_655  # the id in Qwen3's own tokenizer
    if "<|image_pad|>" in tree["model"]["vocab"]:
        tree["model"]["vocab"]["<|image_pad|>"] = 151_655


def _other_vocabulary(tree: dict[str, Any]) -> None:
    """Exchange the ids of ordinary tokens, as in a tokenizer of the same size that was trained separately."""
    special = {token["content"] for token in tree["added_tokens"]}
    vocabulary = tree["model"]["vocab"]
    words = [word for word in vocabulary if word not in special]
    ids = [vocabulary[word] for word in words]
    vocabulary.update(zip(words, ids[97:] + ids[:97], strict=True))


def _another_rope_theta(site: Site) -> None:
    def edit(tree: dict[str, Any]) -> None:
        tree["rope_parameters"]["rope_theta"] = 50.0

    edit_json(site.own_backbone("llm") / "config.json", edit)


def _tower_from_config(original: Any) -> Any:
    """Call `SiglipVisionModel(config)` instead of `from_pretrained`."""

    def load(kind: Any, name: str, setting: str, dtype: torch.dtype, attention: str) -> Any:
        model = original(kind, name, setting, dtype, attention)
        return kind(model.config).to(dtype) if kind is SiglipVisionModel else model

    return load


@torch.no_grad()
def _head_at_random(vlm: Any) -> None:
    """Replace the head, which is tied to the embeddings, by a newly initialised head."""
    head = vlm.llm.model.lm_head
    generator = torch.Generator().manual_seed(0)
    head.weight = torch.nn.Parameter(torch.randn(head.weight.shape, generator=generator) * head.weight.std(), False)


@torch.no_grad()
def _embeddings_sorted(vlm: Any) -> None:
    """Reorder the rows of the embedding table, as after a resize that changed their indices."""
    table = vlm.llm.model.get_input_embeddings().weight
    table.copy_(table.roll(7, 0))


def _attention_dropout(site: Site) -> None:
    edit_json(site.own_backbone("llm") / "config.json", lambda tree: tree.update(attention_dropout=0.4))


def _in_training_mode(original: Any) -> Any:
    """Put the frozen language model into training mode, as `model.train()` on the whole model would."""

    def nll(self: Any, embeds_BTE: Tensor, labels_BT: Tensor, past: Any = None) -> TokenNLL:
        self.model.train()
        result: TokenNLL = original(self, embeds_BTE, labels_BT, past)
        return result

    return nll


BACKBONES = (
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
        "model-has-another-patch-id",
        "token-id-mismatch",
        "the model looks for the id after the tokenizer's patch id",
        change=built(lambda vlm: setattr(vlm, "patch_id", vlm.patch_id + 1)),
        also=("placeholder-count",),
    ),
    Case(
        "embeddings-moved",
        "token-id-mismatch",
        "rows of the embedding table are moved by 7",
        "evaluation",
        take_base,
        built(_embeddings_sorted),
        also=("tower-uninitialised",),
    ),
    Case(
        "delimiters-alike",
        "delimiters-alike",
        "the embedding of <|vision_end|> is that of <|vision_start|>",
        set_up=weights_edited("llm", _delimiters_alike),
    ),
    Case(
        "delimiters-at-the-mean",
        "delimiters-alike",
        "both delimiters have the mean of all embeddings, as tokens that were added and never trained",
        set_up=weights_edited("llm", _delimiters_at_the_mean),
        world="digits",
    ),
    Case(
        "delimiters-copy-eos",
        "special-token-is-eos",
        "embedding rows of both image delimiters are copies of EOS",
        set_up=weights_edited("llm", _delimiters_as_eos("<|vision_start|>", "<|vision_end|>")),
    ),
    Case(
        "end-delimiter-copies-eos",
        "special-token-is-eos",
        "embedding row of `<|vision_end|>` is a copy of EOS",
        set_up=weights_edited("llm", _delimiters_as_eos("<|vision_end|>")),
        world="digits",
    ),
    Case(
        "tower-layer-missing",
        "tower-uninitialised",
        "one layer's tensors deleted from the tower's safetensors file",
        set_up=weights_edited("vision", _drop_layer),
    ),
    Case(
        "tower-saved-at-random",
        "tower-uninitialised",
        "a newly initialised tower was saved as the checkpoint",
        set_up=weights_edited("vision", _random(SiglipVisionModel, "")),
    ),
    Case(
        "tower-from-config",
        "tower-uninitialised",
        "the tower is made from its config, without its weights",
        change=swap("eyechart.models.weights.load_complete", _tower_from_config),
    ),
    Case(
        "language-layer-random",
        "tower-uninitialised",
        "one layer of the language model's file is newly initialised, as after loading with strict off and saving",
        set_up=weights_edited("llm", _random(Qwen3ForCausalLM, "layers.1.")),
    ),
    Case(
        "head-at-random",
        "tower-uninitialised",
        "the language model's head is newly initialised",
        "evaluation",
        take_base,
        built(_head_at_random),
    ),
    Case(
        "language-model-nan",
        "non-finite",
        "one NaN in a weight of the language model's file",
        set_up=weights_edited("llm", _nan_in_language_model),
    ),
    Case(
        "rope-theta-changed",
        "loss-not-reproduced",
        "config.json of the language model has another rope_theta, healthy connector",
        "evaluation",
        in_turn(take_base, _another_rope_theta),
    ),
    Case(
        "attention-dropout-on",
        "loss-not-reproduced",
        "the frozen language model is in training mode, and its config.json has attention_dropout 0.4",
        set_up=_attention_dropout,
        change=swap("qwen3_vlm.models.llm.LanguageModel.nll", _in_training_mode),
    ),
)
