"""Diagnosis: one function, called by the command `diagnose`, derives a ranked list of faults from all evidence.

The caller gathers the evidence, which may be incomplete. Each part, what it can show, and the module that evaluates it:

    connector   whether the connector's tensors are trained, complete and in use      weights
    probes      which images, visual tokens and labels reach the model                probes
    internals   scale and variance of the visual tokens by stage                      pattern_of_tokens
    slots       how much each visual token lowers the loss                            pattern_of_tokens
    pairing     whether captions match their images (no language model is used)       pairing
    ablation    the pattern of gaps of check 1                                        pattern

The parts before `pairing` test mechanisms and do not require low losses. The pattern of check 1 shows consequences, so
a fault of a mechanism can explain it (`faults.table.EXPLAINS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eyechart.faults.pairing import Pairing, diagnose_pairing
from eyechart.faults.pattern import diagnose_ablation
from eyechart.faults.pattern_of_tokens import diagnose_visual
from eyechart.faults.pattern_of_training import RunContext
from eyechart.faults.probes import Probes, diagnose_probes
from eyechart.faults.slots import SlotUse
from eyechart.faults.table import rank
from eyechart.faults.weights import ConnectorEvidence, diagnose_connector
from eyechart.results import Ablation, Finding, Internals, Training

_DAMAGE = ("slots-dead", "scale-mismatch")
"""Faults of the visual tokens that a working run can have from its beginning; in such a run they are only warnings."""


@dataclass(frozen=True)
class RunEvidence:
    """The evidence about a run; any part may be missing."""

    findings: Sequence[Finding] = ()
    """Findings made elsewhere, such as in the preflight or while loading; they are ranked with the others."""
    connector: ConnectorEvidence | None = None
    probes: Probes | None = None
    internals: Internals | None = None
    """Figures of the connector's stages; by default those of `ablation`."""
    slots: SlotUse | None = None
    pairing: Pairing | None = None
    ablation: Ablation | None = None
    training: Training | None = None
    step: int | None = None
    """Training step of the checkpoint."""
    vocabulary: int | None = None
    """Number of tokens in the language model's vocabulary."""
    exact: bool = False
    """Whether the model was trained and scored in float32."""


def diagnose_run(evidence: RunEvidence) -> list[Finding]:
    """Return every fault that the evidence shows, the most likely cause first (`faults.table.rank`)."""
    found = list(evidence.findings)
    ablation, probes = evidence.ablation, evidence.probes
    if evidence.connector is not None:
        found += diagnose_connector(evidence.connector)
    if probes is not None:
        found += diagnose_probes(probes)
    internals = evidence.internals or (ablation.connector if ablation else None)
    found += diagnose_visual(internals, evidence.slots, ablation.verdict if ablation else None)
    if ablation is not None:
        horizon = probes.text.horizon if probes else None
        known = RunContext(evidence.training, evidence.step, evidence.vocabulary, evidence.exact, horizon)
        pattern = diagnose_ablation(ablation, known)
        if _has(found, "image-masked") and not _has(found, "not-injected"):
            # Losses that never change have two possible causes; the findings of the probes decide between them.
            pattern = [f for f in pattern if f.code != "not-injected"]
        if _has(found, "held-out-differs"):
            # Captions of another kind are predicted badly with any image, which does not show that they are mismatched.
            pattern = [f for f in pattern if f.code != "pairs-mismatched"]
        found += pattern
    if evidence.pairing is not None:
        found += diagnose_pairing(evidence.pairing, ignored=_has(found, "constant-prompt"))
    if _has(found, "collapsed"):
        # The tower's output still differs between images, so the pixels reached the tower and were lost after it.
        found = [f for f in found if f.code != "pixels-unused"]
    if _has(found, "image-masked"):
        # Every visual token has a position: those that change no loss are at positions hidden from attention.
        found = [f for f in found if not (f.code == "placeholder-count" and "unplaced_slots" in f.evidence)]
    if any(f.code == "captions-unread" and f.severity == "error" for f in found):
        # The captions are predicted badly before and after training, which confirms the fault that the ids suggested.
        found = [f.model_copy(update={"severity": "error"}) if f.code == "token-id-mismatch" else f for f in found]
    if _has(found, "loss-not-reproduced"):
        # A connector trained in this state would reproduce its training loss, so the state arose after training.
        found = [f.model_copy(update={"severity": "error"}) if f.code in _DAMAGE else f for f in found]
    return rank(found)


def _has(findings: Sequence[Finding], code: str) -> bool:
    return any(f.code == code for f in findings)
