"""Finds parts of a model that are only partly frozen, because a list of parameter names missed some of them.

A part of a model is usually frozen or trained as a whole, or only its last blocks are trained. Lists of names typically
miss two kinds of parameters (hiyouga/LLaMA-Factory#10139): the parameters of a vision tower that are outside its blocks
(position embeddings, norms), and the parameters of one of several connectors. Adapters are ignored, and so are the
copies that PEFT keeps of trained modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from eyechart.faults.table import agree, finding
from eyechart.models.training_checks import PartName, part_of
from eyechart.results import Finding

_OF_ADAPTERS = ("lora_", "vera_", "adapter", "prompt_encoder", "modules_to_save", "original_module", "base_layer")
"""Substrings by which the parameters that PEFT adds, freezes or copies are recognised."""


def freezing_findings(model: nn.Module) -> list[Finding]:
    """Return a warning for each part that is frozen except for parameters that a list of names typically misses.

    Args:
        model: the transformers model, without wrappers such as DDP.
    """
    named = [(n, w.requires_grad) for n, w in model.named_parameters() if not any(a in n for a in _OF_ADAPTERS)]
    if not any(trained for _, trained in named):
        return []
    by_part: dict[PartName, list[tuple[str, bool]]] = {}
    for name, trained in named:
        by_part.setdefault(part_of(name), []).append((name, trained))
    return [*_tower(by_part.get(PartName.TOWER, [])), *_connector(by_part.get(PartName.CONNECTOR, []))]


def _tower(tower: Sequence[tuple[str, bool]]) -> Iterator[Finding]:
    """Yield a finding if all blocks of the vision tower are frozen while parameters outside them are trainable."""
    blocks = [trained for name, trained in tower if _in_block(name)]
    left = [name for name, trained in tower if trained and not _in_block(name)]
    if left and blocks and not any(blocks):
        yield _missed(PartName.TOWER, left, len(tower), "all its blocks are")


def _connector(connector: Sequence[tuple[str, bool]]) -> Iterator[Finding]:
    """Yield a finding if some of the connectors' parameters are frozen while others are trainable."""
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
