"""One real batch through the real model: what reaches the language model, what the loss depends on, what is trained.

Stages in the order of the data. A broken stage ends the walk, because later findings would be consequences of it.
"""

from __future__ import annotations

from eyechart.results import Finding
from qwen3_vlm.preflight.flow_fusion import attention_stage, fusion_stage
from qwen3_vlm.preflight.flow_loss import company_stage, gradient_stage, loss_stage, text_stage
from qwen3_vlm.preflight.flow_visual import connector_stage, pixels_stage
from qwen3_vlm.preflight.walk import Walk

_STAGES = (
    *(pixels_stage, connector_stage),
    *(fusion_stage, attention_stage),
    *(loss_stage, text_stage, gradient_stage, company_stage),
)


def flow_findings(walk: Walk) -> list[Finding]:
    """All stages; the findings of the first that is broken."""
    for stage in _STAGES:
        if found := stage(walk):
            return found
    return []
