"""A list of frozen names that misses parameters is a warning; usual ways of freezing are not."""

from __future__ import annotations

import pytest
from torch import nn

from collators import collate, load, picture
from eyechart.api.check_model import check_model
from eyechart.models.freezing import freezing_findings
from saved_models import Saved, saved

__all__ = ["saved"]


def model(*frozen: str) -> nn.Module:
    """A model with the names of Qwen3-VL's parts, of which some are frozen."""
    visual = nn.ModuleDict(
        {
            "patch_embed": nn.Linear(2, 2),
            "pos_embed": nn.Embedding(2, 2),
            "blocks": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]),
            "merger": nn.Linear(2, 2),
            "deepstack_merger_list": nn.ModuleList([nn.Linear(2, 2)]),
        }
    )
    whole = nn.ModuleDict({"visual": visual, "language_model": nn.Linear(2, 2)})
    for name, weight in whole.named_parameters():
        weight.requires_grad_(not any(part in name for part in frozen))
    return whole


def test_position_embeddings_and_a_merger_that_the_list_misses_are_named() -> None:
    found = freezing_findings(model("patch_embed", "blocks", "visual.merger"))
    assert [(one.code, one.severity, one.evidence["part"]) for one in found] == [
        ("frozen-moved", "warning", "vision tower"),
        ("frozen-moved", "warning", "connector"),
    ]
    assert found[0].evidence["trainable"] == ["visual.pos_embed.weight"]


@pytest.mark.parametrize(
    "frozen",
    [
        (),
        ("visual",),
        ("language_model",),
        ("patch_embed", "pos_embed", "blocks"),
        ("patch_embed", "pos_embed", "blocks.0"),
        ("visual", "language_model"),
    ],
    ids=["nothing", "tower and connector", "language model", "tower", "all but the last block", "everything"],
)
def test_what_is_frozen_as_a_whole_is_left_alone(frozen: tuple[str, ...]) -> None:
    assert not freezing_findings(model(*frozen))


def test_the_frozen_copy_that_peft_keeps_of_a_trained_connector_is_left_alone() -> None:
    projector = nn.ModuleDict({"original_module": nn.Linear(2, 2), "modules_to_save": nn.Linear(2, 2)})
    projector["original_module"].requires_grad_(False)
    assert not freezing_findings(nn.ModuleDict({"multi_modal_projector": projector}))


@pytest.mark.parametrize("trainable", [False, True])
def test_a_new_connector_is_named_where_it_is_frozen(trainable: bool, saved: Saved) -> None:
    llava, processor = load(saved, "llava")
    for name, weight in llava.named_parameters():
        if "multi_modal_projector" in name:
            nn.init.normal_(weight, std=0.02)
            weight.requires_grad_(trainable)
    batch = collate(processor, [[picture(0)], [picture(1)]])
    errors = [one for one in check_model(llava, batch, processor) if one.severity == "error"]
    assert [one.code for one in errors] == ([] if trainable else ["no-gradient"])
    assert trainable or "will stay random" in errors[0].message
