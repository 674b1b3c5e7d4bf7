"""From all evidence about a run to a ranked list of faults: the one function that `diagnose` calls.

Evidence is gathered by the caller and may be partial. What each part can show, and where it is read:

    connector   tensors of the checkpoint against their start and the model in use    weights
    probes      what reaches the model: images, visual tokens, labels                 probes
    internals   scale and variance of the visual tokens by stage                      pattern_of_tokens
    slots       what each visual token is worth                                       pattern_of_tokens
    pairing     whether captions match their images, without any model       pairing
    ablation    the pattern of check 1                                                pattern

The first four are about mechanisms and need no loss to be good; the pattern is about consequences, so a mechanism
found explains it (`faults.table.EXPLAINS`).
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
"""States of the visual tokens that can be present from the beginning of a working run; then they are only a warning."""


@dataclass(frozen=True)
class RunEvidence:
    """What is known about a run; every part may be missing."""

    findings: Sequence[Finding] = ()
    """Findings of others, such as the preflight or the loading; they are ranked with the rest."""
    connector: ConnectorEvidence | None = None
    probes: Probes | None = None
    internals: Internals | None = None
    """By default those of `ablation`."""
    slots: SlotUse | None = None
    pairing: Pairing | None = None
    ablation: Ablation | None = None
    training: Training | None = None
    step: int | None = None
    """Of the checkpoint."""
    vocabulary: int | None = None
    """Tokens that the language model chooses from."""
    exact: bool = False
    """Trained and scored in float32."""


def diagnose_run(evidence: RunEvidence) -> list[Finding]:
    """Every fault that the evidence shows, the most likely cause first (`faults.table.rank`)."""
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
            # Losses that never move leave both open; what was seen on the way decides.
            pattern = [f for f in pattern if f.code != "not-injected"]
        if _has(found, "held-out-differs"):
            # Captions of another kind are badly predicted with any image; that they belong to other images is a guess.
            pattern = [f for f in pattern if f.code != "pairs-mismatched"]
        found += pattern
    if evidence.pairing is not None:
        found += diagnose_pairing(evidence.pairing, ignored=_has(found, "constant-prompt"))
    if _has(found, "collapsed"):
        # The tower's output still differs between images, so the pixels arrived and were lost after it.
        found = [f for f in found if f.code != "pixels-unused"]
    if _has(found, "image-masked"):
        # Every visual token has a position: those that change no loss are where attention cannot see them.
        found = [f for f in found if not (f.code == "placeholder-count" and "unplaced_slots" in f.evidence)]
    if any(f.code == "captions-unread" and f.severity == "error" for f in found):
        # Read badly before training and after it: what was only suspected of the ids is now shown of the scores.
        found = [f.model_copy(update={"severity": "error"}) if f.code == "token-id-mismatch" else f for f in found]
    if _has(found, "loss-not-reproduced"):
        # A connector that lived with this in training would score as it did there, so it came in afterwards.
        found = [f.model_copy(update={"severity": "error"}) if f.code in _DAMAGE else f for f in found]
    return rank(found)


def _has(findings: Sequence[Finding], code: str) -> bool:
    return any(f.code == code for f in findings)
