"""Which parameters of tower and connector are frozen: a list of names that misses some of them leaves a mixture.

A part of a model is usually frozen or trained as a whole, or its last blocks are trained. Parameters outside the blocks
of a tower (position embeddings, norms) that stay trainable while all blocks are frozen, or one of several connectors
that stays trainable, are what lists of names miss (hiyouga/LLaMA-Factory#10139). Adapters are left out, and so are the
copies that PEFT keeps of modules it trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from eyechart.faults.table import agree, finding
from eyechart.models.training_checks import PartName, part_of
from eyechart.results import Finding

_OF_ADAPTERS = ("lora_", "vera_", "adapter", "prompt_encoder", "modules_to_save", "original_module", "base_layer")
"""Parts of names of parameters that PEFT adds, freezes or copies."""


def freezing_findings(model: nn.Module) -> list[Finding]:
    """Return a warning for each part that is frozen but for some parameters that a list of names can have missed.

    Args:
        model: the model of transformers, without a wrapper around it.
    """
    named = [(n, w.requires_grad) for n, w in model.named_parameters() if not any(a in n for a in _OF_ADAPTERS)]
    if not any(trained for _, trained in named):
        return []
    by_part: dict[PartName, list[tuple[str, bool]]] = {}
    for name, trained in named:
        by_part.setdefault(part_of(name), []).append((name, trained))
    return [*_tower(by_part.get(PartName.TOWER, [])), *_connector(by_part.get(PartName.CONNECTOR, []))]


def _tower(tower: Sequence[tuple[str, bool]]) -> Iterator[Finding]:
    """Yield a finding for a tower whose blocks are all frozen while parameters outside them are trainable."""
    blocks = [trained for name, trained in tower if _in_block(name)]
    left = [name for name, trained in tower if trained and not _in_block(name)]
    if left and blocks and not any(blocks):
        yield _missed(PartName.TOWER, left, len(tower), "all its blocks are")


def _connector(connector: Sequence[tuple[str, bool]]) -> Iterator[Finding]:
    """Yield a finding for connectors of which some are frozen and others are trainable."""
    left = [name for name, trained in connector if trained]
    if left and len(left) < len(connector):
        yield _missed(PartName.CONNECTOR, left, len(connector), "the others are")


def _missed(part: PartName, left: list[str], total: int, frozen: str) -> Finding:
    return finding(
        "frozen-moved",
        f"{len(left)} of {total} tensors of the {part} {agree(len(left), 'is', 'are')} trainable, such as {left[0]}, "
        f"although {frozen} frozen: a list of names may have missed {agree(len(left), 'it', 'them')}",
        "nothing, if they are trained on purpose; otherwise freeze the module as a whole "
        "(module.requires_grad_(False)) instead of by a list of names",
        "warning",
        part=part.value,
        trainable=left[:8],
        tensors=total,
    )


def _in_block(name: str) -> bool:
    return any(step.isdigit() for step in name.split("."))
