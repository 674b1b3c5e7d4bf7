"""Checks that the frozen parts of the model do not drop values at random.

Dropout can come from a dropout layer, or from a dropout rate in the config of the vision tower or language model.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from qwen3_vlm.models.vlm import VLM

_RATES = ("dropout", "attention_dropout", "activation_dropout", "dropout_rate", "drop_prob", "drop_path")
"""Attributes in which modules of transformers and timm store the rate of a dropout that is not a layer of its own."""


def dropout_findings(vlm: VLM) -> list[Finding]:
    """Report each frozen part in which dropout is active because the part is in train mode.

    Train mode alone is not a fault. If no module has a dropout rate above 0, the output is the same in both modes.

    Args:
        vlm: the model, in the mode (train or eval) in which the run uses it.
    """
    found = []
    for part, setting, model in (
        ("vision tower", "model.vision", vlm.tower),
        ("language model", "model.llm", vlm.llm),
    ):
        active = dict(_active(model))
        if active:
            name, rate = max(active.items(), key=lambda item: item[1])
            found.append(
                finding(
                    "dropout-active",
                    f"{len(active)} {agree(len(active), 'module', 'modules')} of the frozen {part} "
                    f"{agree(len(active), 'drops', 'drop')} values at random in train mode, up to {rate:.0%} of them "
                    f"({name}): the same input gives another output in every call, and cached features keep one of "
                    "them",
                    f"call `eval()` on the model of {setting} after everything that calls `train()`, or set the "
                    "dropout rates in its config to 0",
                    part=setting,
                    modules=len(active),
                    largest_rate=rate,
                    first=name,
                )
            )
    return found


def _active(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield the name and the dropout rate of each module whose dropout is active."""
    for name, module in model.named_modules():
        if module.training:
            rates = [module.p] if isinstance(module, _DropoutNd) else [getattr(module, key, 0.0) for key in _RATES]
            largest = max((float(rate) for rate in rates if isinstance(rate, int | float)), default=0.0)
            if largest > 0:
                yield name, largest
