"""Checks of one real batch in the real model: what reaches the language model, what affects the loss, what is trained.

The stages have the order of the data flow. If one has findings, later stages are not run, because their findings would
be consequences of the same fault.
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
    """Run the stages in order and return the findings of the first stage that has any."""
    for stage in _STAGES:
        if found := stage(walk):
            return found
    return []
