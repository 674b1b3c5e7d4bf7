"""Runs a real batch through the real model, and checks each stage from the pixels to the gradients.

The stages check what reaches the language model, what affects the loss, which parameters are trained, and whether the
samples of a batch affect each other. They run in the order of the data flow. If a stage reports findings (detected
faults), the later stages do not run, because they would only report consequences of the same fault.
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
    """Run the stages in order, and return the findings of the first stage that has any."""
    for stage in _STAGES:
        if found := stage(walk):
            return found
    return []
